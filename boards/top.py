"""The top of a board: clocks, pins and LEDs around the accelerator; no arithmetic."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib import io

from amacrine.hw.accelerator import Accelerator
from amacrine.hw.sdram_chips import sampling

from .board import Board
from .ecp5 import ClockAndReset

ALIVE_BITS = 26     # of the counter whose top bit blinks: 1.5 Hz at 100 MHz


def accelerator(board: Board, build: str, baud: int | None = None) -> Accelerator:
    """A board's gateware without clocks and pins; `build` goes into the answer to IDENTIFY."""
    return Accelerator(board.parameters, board.sdram, board.clock_hz, baud or board.baud, board=board.name, build=build,
                       **board.buffers)


class BoardTop(Elaboratable):
    """Clocks, pins and LEDs around a board's accelerator.

    All SDRAM pins have flip-flops in their I/O cells, for outputs, direction and inputs. The SDRAM's clock leaves
    through such a cell too, so its phase to the commands is that of the PLL (docs/sdram.md says how it is chosen).
    """

    def __init__(self, board: Board, build: str):
        self.board, self.build = board, build

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.domains.memory = ClockDomain(reset_less=True)
        button = None
        if self.board.button:
            m.submodules.button = pin = io.Buffer("i", platform.request(*self.board.button, dir="-"))
            button = pin.i
        phase_ps = sampling(self.board.sdram, self.board.clock_hz).phase_ps
        m.submodules.clock = ClockAndReset(self.board.clock_hz, phase_ps, button)
        m.submodules.accelerator = device = accelerator(self.board, self.build)
        uart = platform.request("uart", dir="-")
        m.submodules.rx, m.submodules.tx = rx, tx = io.Buffer("i", uart.rx), io.FFBuffer("o", uart.tx)
        m.d.comb += [device.rx.eq(rx.i), tx.o.eq(device.tx)]
        self._sdram(m, platform.request("sdram", dir="-"), device.pins)
        self._leds(m, platform, device)
        return m

    def _sdram(self, m: Module, ports: Any, pins: Any) -> None:
        m.submodules.sdram_clock = clock = io.DDRBuffer("o", ports.clk, o_domain="memory")
        m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
        # Active-low pins are inverted by their ports.
        for name, value in (("clk_en", pins.cke), ("cs", ~pins.cs_n), ("ras", ~pins.ras_n), ("cas", ~pins.cas_n),
                            ("we", ~pins.we_n), ("ba", pins.bank), ("a", pins.address), ("dqm", pins.dqm)):
            m.submodules[f"sdram_{name}"] = buffer = io.FFBuffer("o", getattr(ports, name))
            m.d.comb += buffer.o.eq(value)
        for bit in range(len(ports.dq)):    # one by one, so that each has its own direction flip-flop
            m.submodules[f"sdram_dq{bit}"] = buffer = io.FFBuffer("io", ports.dq[bit])
            m.d.comb += [buffer.o.eq(pins.dq_o[bit]), buffer.oe.eq(pins.dq_oe), pins.dq_i[bit].eq(buffer.i)]

    def _leds(self, m: Module, platform: Any, device: Accelerator) -> None:
        timer = Signal(ALIVE_BITS)
        m.d.sync += timer.eq(timer + 1)
        shown = [timer[-1], device.busy, device.fault, device.active, device.initialised]
        for number, (resource, value) in enumerate(zip(self.board.leds, shown, strict=False)):
            m.submodules[f"led{number}"] = led = io.FFBuffer("o", platform.request(*resource, dir="-"))
            m.d.comb += led.o.eq(value)
