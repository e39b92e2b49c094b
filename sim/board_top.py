"""The top of a simulated board: its accelerator, a flip-flop at each SDRAM pin as on the board, the SDRAM chip."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from amacrine.boards.board import Board
from amacrine.boards.table import build_id
from amacrine.boards.top import accelerator
from amacrine.hw.sdram_chips import TYPICAL_LOOP, sampling

from .sdram import SimulatedSdram

OUTPUTS = ("tx", "active", "busy", "fault", "initialised", "input_taken", "output_given", "word_taken")


class SimulatedBoardTop(wiring.Component):
    """A board without clocks and pads: what `BoardTop` is on an FPGA, and the chip beside it.

    Members
    -------
    rx, tx : the serial line
    active, busy, fault, initialised : LEDs
    input_taken, output_given, word_taken : strobes for measurements
    violation : Out(8)
        Which rule of the SDRAM was broken first, of `sdram.VIOLATIONS`; 0 for none.
    """

    def __init__(self, board: Board, baud: int):
        self.board, self.baud = board, baud
        super().__init__({"rx": In(1, init=1), "violation": Out(8), **{name: Out(1) for name in OUTPUTS}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        board = self.board
        m.submodules.accelerator = device = accelerator(board, build_id(), self.baud)
        m.submodules.sdram = sdram = SimulatedSdram(board.sdram, board.clock_hz)
        connect(m, device.pins, sdram.pins)
        m.d.comb += [
            device.rx.eq(self.rx), self.violation.eq(sdram.violation), sdram.loop_ps.eq(TYPICAL_LOOP),
            sdram.phase_ps.eq(sampling(board.sdram, board.clock_hz).phase_ps),
            *(getattr(self, name).eq(getattr(device, name)) for name in OUTPUTS),
        ]
        return m
