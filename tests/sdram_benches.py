# amaranth: UnusedElaboratable=no
"""SDRAM controllers with chip models, side by side in one top, so that all their benches share one Verilator build."""

from dataclasses import replace

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.hw.sdram import SdramController, burst_layout, pins_signature
from amacrine.hw.sdram_chips import CHIPS, TYPICAL_LOOP, SdramChip, sampling, timings
from amacrine.hw.weights import SdramWeights
from amacrine.sim import cocotb_runner
from amacrine.sim.sdram import SimulatedSdram
from amacrine.sw.layout import Parameters

CLOCKS = (50_000_000, 100_000_000, 133_000_000)
LOOPS = (8_750, 9_500, 11_000, 13_000, 15_000, 17_500)

#: the chips of the table with few rows and a short power-up; timings and refresh interval are the real ones
SMALL = {name: replace(chip, row_bits=6, power_up=5_000_000) for name, chip in CHIPS.items()}

#: each time so long that it alone decides when its command may come, at 100 MHz
SLOW = replace(SMALL["MT48LC16M16A2"], rcd=60_000, rp=70_000, ras=150_000, rc=150_000, rfc=200_000, rrd=20_000,
               wr=60_000, mrd=100_000)
#: the violation that a controller causes whose timing is a cycle too short, and the chip that tells
FAULTS = {
    "rcd": (1, SLOW), "rp": (2, SLOW), "ras": (3, SLOW), "rc": (4, replace(SLOW, rc=400_000)), "rfc": (5, SLOW),
    "rrd": (6, replace(SLOW, rrd=300_000)), "wr": (7, SLOW), "mrd": (8, SLOW), "interval": (9, SLOW),
}
#: loses a row after as many refresh intervals as it has rows
FORGETFUL = replace(SMALL["MT48LC16M16A2"], refresh_rows=64, retention=64 * 7_812_500)

WEIGHTS = {pes: Parameters(pes=pes, weight_address_bits=16) for pes in (2, 4, 8, 12)}


def faulty(name, chip):
    """The timings of a chip, with one of them a cycle too short; refreshes come a tenth too rarely."""
    right = timings(chip, 100e6)
    value = getattr(right, name)
    return replace(right, **{name: value * 11 // 10 if name == "interval" else value - 1})


class OnChip(wiring.Component):
    """A controller and its chip; all that a bench needs are ports."""

    def __init__(self, chip: SdramChip, clock_hz=100_000_000, **options):
        self.chip, self.clock_hz, self.controller = chip, clock_hz, SdramController(chip, clock_hz, **options)
        super().__init__({
            "request": In(stream.Signature(burst_layout(chip))), "write_data": In(stream.Signature(16)),
            "read_data": Out(stream.Signature(16)), "initialised": Out(1), **CHIP_PORTS})

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = self.controller
        attach_chip(m, self, controller.pins)
        connect(m, flipped(self.request), controller.request)
        connect(m, flipped(self.write_data), controller.write_data)
        connect(m, controller.read_data, flipped(self.read_data))
        m.d.comb += self.initialised.eq(controller.initialised)
        return m


CHIP_PORTS = {"phase_ps": In(32), "loop_ps": In(32), "violation": Out(8), "violations": Out(32), "refreshes": Out(32),
              "activations": Out(32), "poisoned": Out(32)}


def attach_chip(m, part, pins):
    """The chip on a controller's pins; its other ports become those of the part."""
    m.submodules.sdram = sdram = SimulatedSdram(part.chip, part.clock_hz)
    connect(m, pins, sdram.pins)
    for name, member in CHIP_PORTS.items():
        m.d.comb += getattr(sdram, name).eq(getattr(part, name)) if member.flow == In else \
            getattr(part, name).eq(getattr(sdram, name))


class BareChip(wiring.Component):
    """A chip without controller or pad registers."""

    def __init__(self, chip, clock_hz=100_000_000):
        self.chip, self.clock_hz = chip, clock_hz
        super().__init__({"pins": In(pins_signature(chip)), **CHIP_PORTS})

    def elaborate(self, platform):
        m = Module()
        m.submodules.sdram = sdram = SimulatedSdram(self.chip, self.clock_hz, registers=False)
        connect(m, flipped(self.pins), sdram.pins)
        for name, member in CHIP_PORTS.items():
            m.d.comb += getattr(sdram, name).eq(getattr(self, name)) if member.flow == In else \
                getattr(self, name).eq(getattr(sdram, name))
        return m


class WeightsOnChip(wiring.Component):
    """Weights for K PEs, and their chip."""

    def __init__(self, pes, chip=SMALL["MT48LC16M16A2"], clock_hz=100_000_000):
        self.chip, self.clock_hz, self.pes = chip, clock_hz, pes
        weights = SdramWeights(WEIGHTS[pes], chip, clock_hz)
        self.weights, self.names = weights, ("port", "host_request", "host_write_data", "host_read_data")
        super().__init__({
            **{name: weights.signature.members[name] for name in (*self.names, "initialised", "host_idle")},
            **CHIP_PORTS})

    def elaborate(self, platform):
        m = Module()
        m.submodules.weights = self.weights
        attach_chip(m, self, self.weights.pins)
        for name in self.names:
            connect(m, getattr(self.weights, name), flipped(getattr(self, name)))
        m.d.comb += [self.initialised.eq(self.weights.initialised), self.host_idle.eq(self.weights.host_idle)]
        return m


def typical_boards(dut):
    """Loop delays of a typical board for all parts; the checks of a chip never stop."""
    for name, part in PARTS.items():
        for port, value in (("phase_ps", sampling(part.chip, part.clock_hz).phase_ps), ("loop_ps", TYPICAL_LOOP)):
            getattr(dut, f"{name}__{port}").value = value


def parts():
    """All parts; port `p` of part `c` is `c__p`."""
    named = {f"{name}_{clock // 1_000_000}": OnChip(chip, clock) for name, chip in SMALL.items() for clock in CLOCKS}
    # Captures other than that of a typical board.
    chip = SMALL["MT48LC16M16A2"]
    for clock in CLOCKS:
        for capture in sorted({sampling(chip, clock, loop).capture for loop in LOOPS}):
            named[f"capture{capture}_{clock // 1_000_000}"] = OnChip(chip, clock, capture=capture)
    named |= {f"faulty_{name}": OnChip(chip, timings_override=faulty(name, chip))
              for name, (_, chip) in FAULTS.items()}
    named |= {f"right_{name}": OnChip(chip) for name, (_, chip) in FAULTS.items()}
    named |= {f"weights{pes}": WeightsOnChip(pes) for pes in WEIGHTS}
    named |= {"forgetful": OnChip(FORGETFUL), "shallow": OnChip(chip, read_depth=2),
              "bare": BareChip(chip)}
    return named


PARTS = parts()


class SdramParts(wiring.Component):
    """All parts."""

    def __init__(self):
        super().__init__({name: Out(part.signature) for name, part in PARTS.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in PARTS.items():
            m.submodules[name] = part
            connect(m, flipped(getattr(self, name)), part)
        return m


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `SdramParts`."""
    return cocotb_runner.run(cocotb_runner.build(SdramParts), module, work, seed)
