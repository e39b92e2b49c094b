"""The SDRAM chip model (sdram.v) as an Amaranth component, and what its violation codes mean."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.hw.sdram import SdramController, burst_layout, pins_signature
from amacrine.hw.sdram_chips import SdramChip, period

VIOLATIONS = {
    1: "READ or WRITE too early after ACTIVATE (tRCD)",
    2: "ACTIVATE, REFRESH or MODE REGISTER SET too early after the bank's precharge (tRP)",
    3: "precharge too early after ACTIVATE (tRAS)",
    4: "ACTIVATE or REFRESH too early after the bank's last ACTIVATE (tRC)",
    5: "command too early after REFRESH (tRFC)",
    6: "ACTIVATE too early after that of another bank (tRRD)",
    7: "PRECHARGE too early after a WRITE (tWR), or ACTIVATE after a WRITE with auto-precharge (tWR + tRP)",
    8: "command too early after MODE REGISTER SET (tMRD)",
    9: "more than eight refreshes are outstanding",
    10: "READ or WRITE in a bank that is not open",
    11: "ACTIVATE in a bank that is open",
    12: "REFRESH or MODE REGISTER SET while a bank is open",
    13: "command before the chip was initialised, or initialised in the wrong order",
    14: "mode register: not burst length 1, or a CAS latency too short for the clock",
    15: "chip and FPGA drive the data pins in the same cycle, or without a cycle between read and written data",
    16: "row open for longer than allowed (longest tRAS)",
    17: "WRITE without data",
    18: "READ with DQM, which the model does not have",
    19: "clock phase that leaves no set-up or hold time for the command",
    20: "command or CKE that the model does not have",
}
POISON = 0xDEAD
"""What is read instead of data that a chip would not give (sdram.v)."""


class SimulatedSdram(wiring.Component):
    """A chip with the FPGA's pad registers in front of it: connects to `SdramController.pins`.

    Parameters
    ----------
    chip : SdramChip
    clock_hz : float
    registers : bool
        False leaves the pad registers to whoever connects `pins`.

    Members
    -------
    pins : In(pins_signature)
    phase_ps : In(32)
        Delay of the chip's clock after the FPGA's, up to one period.
    loop_ps : In(32)
        From the chip's clock at the FPGA's pad to data in the FPGA's input register, access time included.
    violation, violations : Out
        Code of the first violation, a key of `VIOLATIONS`, or 0; how many there were.
    refreshes, activations, poisoned : Out(32)
        Counts of REFRESH and ACTIVATE, and of words read as poison.
    """

    def __init__(self, chip: SdramChip, clock_hz: float, registers: bool = True) -> None:
        self.chip, self.clock_hz, self.registers = chip, clock_hz, registers
        super().__init__({
            "pins": In(pins_signature(chip)), "phase_ps": In(32), "loop_ps": In(32), "violation": Out(8),
            "violations": Out(32), "refreshes": Out(32), "activations": Out(32), "poisoned": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        at_chip: dict[str, Any] = {}
        for name, member in pins_signature(self.chip).members.items():
            pin = getattr(self.pins, name)
            if member.flow == Out and self.registers:
                pad = Signal.like(pin, name=f"pad_{name}")
                m.d.sync += pad.eq(pin)
                pin = pad
            at_chip[name] = pin
        dq_i = Signal(16)
        if self.registers:
            m.d.sync += self.pins.dq_i.eq(dq_i)
        else:
            m.d.comb += self.pins.dq_i.eq(dq_i)
        at_chip.pop("dq_i")
        outputs = ("violation", "violations", "refreshes", "activations", "poisoned")
        m.submodules.chip = Instance(
            "sdram_chip", **parameters(self.chip, self.clock_hz), i_clk=ClockSignal(), i_phase_ps=self.phase_ps,
            i_loop_ps=self.loop_ps, **{f"i_{name}": pin for name, pin in at_chip.items()}, o_dq_i=dq_i,
            **{f"o_{name}": getattr(self, name) for name in outputs})
        return m


CHIP_PORTS = {"phase_ps": In(32), "loop_ps": In(32), "violation": Out(8), "violations": Out(32), "refreshes": Out(32),
              "activations": Out(32), "poisoned": Out(32)}
"""Those of `SimulatedSdram` beside the pins."""


def attach_chip(m: Any, top: Any, pins: Any) -> None:
    """Put the chip on a controller's pins; `top` has a `chip` and a `clock_hz`, and `CHIP_PORTS` among its ports."""
    m.submodules.sdram = sdram = SimulatedSdram(top.chip, top.clock_hz)
    wiring.connect(m, pins, sdram.pins)
    for name, member in CHIP_PORTS.items():
        inner, outer = getattr(sdram, name), getattr(top, name)
        m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)


class ControllerOnChip(wiring.Component):
    """A controller and its chip: the controller's streams and `CHIP_PORTS` are its ports."""

    def __init__(self, chip: SdramChip, clock_hz: float = 100e6, **options: Any) -> None:
        self.chip, self.clock_hz, self.options = chip, clock_hz, options
        super().__init__({
            "request": In(stream.Signature(burst_layout(chip))), "write_data": In(stream.Signature(16)),
            "read_data": Out(stream.Signature(16)), "initialised": Out(1), **CHIP_PORTS})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.controller = controller = SdramController(self.chip, self.clock_hz, **self.options)
        attach_chip(m, self, controller.pins)
        wiring.connect(m, wiring.flipped(self.request), controller.request)
        wiring.connect(m, wiring.flipped(self.write_data), controller.write_data)
        wiring.connect(m, controller.read_data, wiring.flipped(self.read_data))
        m.d.comb += self.initialised.eq(controller.initialised)
        return m


def parameters(chip: SdramChip, clock_hz: float) -> dict[str, int]:
    """Parameters of the Verilog module for a chip, with the prefix that Amaranth wants."""
    times = {"rcd": chip.rcd, "rp": chip.rp, "ras": chip.ras, "rc": chip.rc, "rfc": chip.rfc, "rrd": chip.rrd,
             "wr": chip.wr, "mrd": chip.mrd, "ras_max": chip.ras_max,
             "setup": chip.input_setup, "hold": chip.input_hold, "power_up": chip.power_up,
             "retention": chip.retention, "clock": period(clock_hz)}
    never = 1 << 30     # a CAS latency that the chip does not have
    cas = {one.cycles: one for one in chip.cas}
    for cycles in (2, 3):
        times[f"cl{cycles}"] = cas[cycles].period_ps if cycles in cas else never
        times[f"changing{cycles}"] = cas[cycles].access_ps - chip.hold if cycles in cas else 0
    sizes = {"BANK_BITS": chip.bank_bits, "ROW_BITS": chip.row_bits, "COLUMN_BITS": chip.column_bits,
             "ADDRESS_BITS": chip.address_bits, "REFRESH_ROWS": chip.refresh_rows}
    wide = ("POWER_UP_PS", "RETENTION_PS")
    named = {**sizes, **{f"{name.upper()}_PS": value for name, value in times.items()}}
    return {f"p_{name}": _wide(value) if name in wide else value for name, value in named.items()}


def _wide(value: int) -> Any:
    """A parameter of 64 bits: plain integers have 32."""
    from amaranth.hdl import Const

    return Const(value, 64)
