# amaranth: UnusedElaboratable=no
"""SDRAM controllers with chip models, side by side in one top, so that all their benches share one Verilator build."""

from dataclasses import replace

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from amacrine.hw.sdram import pins_signature
from amacrine.hw.sdram_chips import CHIPS, TYPICAL_LOOP, sampling, timings
from amacrine.hw.weights import SdramWeights
from amacrine.sim import cocotb_runner
from amacrine.sim.sdram import CHIP_PORTS, ControllerOnChip, SimulatedSdram, attach_chip
from amacrine.sim.top import SideBySide
from amacrine.sw.layout import Parameters

CLOCKS = (50_000_000, 100_000_000, 133_000_000)
LOOPS = (8_750, 9_500, 11_000, 13_000, 15_000, 17_500)

#: the chips of the table with few rows and a short power-up; timings and refresh interval are the real ones
SMALL = {name: replace(chip, row_bits=6, power_up=5_000_000) for name, chip in CHIPS.items()}
CHIP = SMALL["MT48LC16M16A2"]

#: each time so long that it alone decides when its command may come, at 100 MHz
SLOW = replace(CHIP, rcd=60_000, rp=70_000, ras=150_000, rc=150_000, rfc=200_000, rrd=20_000,
               wr=60_000, mrd=100_000)
#: the violation that a controller causes whose timing is a cycle too short, and the chip that tells
FAULTS = {
    "rcd": (1, SLOW), "rp": (2, SLOW), "ras": (3, SLOW), "rc": (4, replace(SLOW, rc=400_000)), "rfc": (5, SLOW),
    "rrd": (6, replace(SLOW, rrd=300_000)), "wr": (7, SLOW), "mrd": (8, SLOW), "interval": (9, SLOW),
}
#: loses a row after as many refresh intervals as it has rows
FORGETFUL = replace(CHIP, refresh_rows=64, retention=64 * 7_812_500)
#: the same without a controller; rows may be open for 30 us only
BARE = replace(FORGETFUL, ras_max=30_000_000)

WRITTEN = (2, 8, 12)
WEIGHTS = {pes: Parameters(pes=pes, weight_address_bits=16) for pes in (2, 4, 8, 12)}


def faulty(name, chip):
    """The timings of a chip, with one of them a cycle too short; refreshes come a tenth too rarely."""
    right = timings(chip, 100e6)
    value = getattr(right, name)
    return replace(right, **{name: value * 11 // 10 if name == "interval" else value - 1})


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

    def __init__(self, pes, chip=CHIP, clock_hz=100_000_000, writes=False):
        self.chip, self.clock_hz, self.pes = chip, clock_hz, pes
        weights = SdramWeights(WEIGHTS[pes], chip, clock_hz, writes=writes)
        self.weights, self.names = weights, ["port", "host_request", "host_write_data", "host_read_data"]
        if writes:
            self.names.append("write")
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
    """All parts."""
    named = {f"{name}_{clock // 1_000_000}": ControllerOnChip(chip, clock)
             for name, chip in SMALL.items() for clock in CLOCKS}
    for clock in CLOCKS:
        for capture in {sampling(CHIP, clock, loop).capture for loop in LOOPS} - {sampling(CHIP, clock).capture}:
            named[f"capture{capture}_{clock // 1_000_000}"] = ControllerOnChip(CHIP, clock, capture=capture)
    named |= {f"faulty_{name}": ControllerOnChip(chip, timings_override=faulty(name, chip))
              for name, (_, chip) in FAULTS.items()}
    named |= {f"right_{name}": ControllerOnChip(FAULTS[name][1]) for name in ("rcd", "rc", "rrd")}
    named |= {f"weights{pes}": WeightsOnChip(pes) for pes in WEIGHTS}
    named |= {f"written{pes}": WeightsOnChip(pes, writes=True) for pes in WRITTEN}
    named |= {"forgetful": ControllerOnChip(FORGETFUL), "shallow": ControllerOnChip(CHIP, read_depth=2),
              "bare": BareChip(BARE)}
    return named


PARTS = parts()


class SdramParts(SideBySide):
    """All parts."""

    def __init__(self):
        super().__init__(PARTS)


def run_bench(module, work, **options):
    """Run the cocotb tests of a module of benches against `SdramParts`; options as for `cocotb_runner.run`."""
    return cocotb_runner.run(cocotb_runner.build(SdramParts), module, work, **options)
