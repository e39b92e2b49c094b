"""SDR SDRAM chips: geometry and timings from their data sheets, and what follows from them at a clock.

Plain Python, so that boards, simulation and host can use it without Amaranth. All times are in picoseconds, for
whole numbers: 64 ms are 64 * 10**9.
"""

from __future__ import annotations

from dataclasses import dataclass

PICOSECONDS = 10**12
POSTPONED = 8
"""Refreshes that may be outstanding."""
SPARE = 2 * POSTPONED
"""Refreshes by which the controller is early in a retention time, so that those outstanding never matter."""


@dataclass(frozen=True)
class Cas:
    """One CAS latency: from which clock period on it may be used, and the time from clock edge to data."""

    cycles: int
    period_ps: int
    access_ps: int


@dataclass(frozen=True)
class SdramChip:
    """A chip with 16 data pins.

    Parameters
    ----------
    name, grade : part number and speed grade, as in the data sheet
    bank_bits, row_bits, column_bits : geometry; banks * rows * columns words of 16 bits
    cas : CAS latencies that the chip has
    rcd, rp, ras, rc, rfc, rrd, wr, mrd : shortest times, in ps: from ACTIVATE to READ or WRITE, from PRECHARGE to
        ACTIVATE, from ACTIVATE to PRECHARGE, from ACTIVATE to ACTIVATE of the same bank, from REFRESH to the next
        command, from ACTIVATE to ACTIVATE of another bank, from last data in to PRECHARGE, from MODE REGISTER
        SET to the next command. The last two are two clock cycles at least.
    ras_max : longest time that a row may be open
    hold : time after the next clock edge for which read data stay valid (tOH)
    input_setup, input_hold : of commands, addresses and write data about the clock edge
    retention, refresh_rows : each of `refresh_rows` REFRESH commands once within `retention`
    power_up : from stable clock to the first command
    """

    name: str
    grade: str
    cas: tuple[Cas, ...]
    rcd: int
    rp: int
    ras: int
    rc: int
    rfc: int
    rrd: int
    wr: int
    mrd: int
    hold: int
    bank_bits: int = 2
    row_bits: int = 13
    column_bits: int = 9
    ras_max: int = 100_000_000
    input_setup: int = 1_500
    input_hold: int = 1_000
    retention: int = 64_000_000_000
    refresh_rows: int = 8192
    power_up: int = 200_000_000

    @property
    def address_bits(self) -> int:
        """Address pins; the mode register and the precharge bit, A10, need eleven at least."""
        return max(self.row_bits, 11)

    @property
    def word_bits(self) -> int:
        """Bits of a word's address."""
        return self.bank_bits + self.row_bits + self.column_bits


@dataclass(frozen=True)
class Timings:
    """What a chip needs at one clock, in cycles; names as in `SdramChip`. `interval` is that between refreshes."""

    cas: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rfc: int
    rrd: int
    wr: int
    mrd: int
    interval: int
    power_up: int


def period(clock_hz: float) -> int:
    """Clock period in ps, rounded down, so that times are never too short."""
    return int(PICOSECONDS // clock_hz)


def timings(chip: SdramChip, clock_hz: float) -> Timings:
    """Cycle counts at a clock, with the smallest CAS latency that may be used.

    Raises
    ------
    ValueError : the clock is too fast for the chip, or too slow to refresh it
    """
    clock_ps = period(clock_hz)
    cas = best_cas(chip, clock_hz)
    interval = chip.retention // ((chip.refresh_rows + SPARE) * clock_ps)
    if interval < 64:
        raise ValueError(f"{chip.name} needs a refresh every {interval} cycles at {clock_hz / 1e6:g} MHz; the "
                         "controller needs 64 at least")

    def cycles(time_ps: int, least: int = 1) -> int:
        return max(least, -(-time_ps // clock_ps))

    return Timings(cas=cas.cycles, rcd=cycles(chip.rcd), rp=cycles(chip.rp), ras=cycles(chip.ras), rc=cycles(chip.rc),
                   rfc=cycles(chip.rfc), rrd=cycles(chip.rrd), wr=cycles(chip.wr, 2), mrd=cycles(chip.mrd, 2),
                   interval=interval, power_up=cycles(chip.power_up))


def best_cas(chip: SdramChip, clock_hz: float) -> Cas:
    """The smallest CAS latency that the chip allows at a clock."""
    allowed = [cas for cas in chip.cas if cas.period_ps <= period(clock_hz)]
    if not allowed:
        fastest = PICOSECONDS / min(cas.period_ps for cas in chip.cas) / 1e6
        raise ValueError(f"{chip.name}{chip.grade} runs up to {fastest:.1f} MHz, not at {clock_hz / 1e6:g} MHz")
    return min(allowed, key=lambda cas: cas.cycles)


@dataclass(frozen=True)
class Sampling:
    """When read data are taken (docs/sdram.md).

    Parameters
    ----------
    phase_ps : delay of the chip's clock after the clock of the FPGA's output registers
    capture : cycles from a READ on the controller's pins to its word on `dq_i`
    margin_ps : by how much each of the times may be off: data at the FPGA's input register, commands at the chip
    """

    phase_ps: int
    capture: int
    margin_ps: int


TYPICAL_LOOP = 9_500
"""From the clock at its pad to the data in the FPGA's input register, access time included, in ps."""


def sampling(chip: SdramChip, clock_hz: float, loop_ps: int = TYPICAL_LOOP, phase_ps: int | None = None) -> Sampling:
    """Capture cycle for a loop delay, and the clock phase that leaves most margin, in steps of 1/16 period.

    Parameters
    ----------
    chip, clock_hz
    loop_ps : from the chip's clock at the FPGA's pad to data at the FPGA's input register: clock flight, access
        time, data flight, input delay and set-up
    phase_ps : the phase, if it is given

    Raises
    ------
    ValueError : no such phase, or the phase given would sample data while they change
    """
    clock_ps, cas = period(clock_hz), best_cas(chip, clock_hz)
    changing = cas.access_ps - chip.hold
    choices = [clock_ps * step // 16 for step in range(1, 16)] if phase_ps is None else [phase_ps]
    found = []
    for phase in choices:
        late = -(-(phase + loop_ps) // clock_ps)        # edges of the FPGA's clock until data are there
        after, before = late * clock_ps - (phase + loop_ps), phase + loop_ps - (late - 1) * clock_ps - changing
        margin = min(after, before, phase - chip.input_setup, clock_ps - phase - chip.input_hold)
        found.append(Sampling(phase, cas.cycles + late, margin))
    best = max(found, key=lambda one: one.margin_ps)
    if best.margin_ps < 0:
        raise ValueError(f"{chip.name} at {clock_hz / 1e6:g} MHz with a loop delay of {loop_ps / 1000:g} ns: "
                         + ("no clock phase fits" if phase_ps is None else
                            f"the clock phase of {phase_ps / 1000:g} ns samples data or commands while they change"))
    return best


MT48LC16M16 = SdramChip(
    "MT48LC16M16A2", "-75", cas=(Cas(2, 10_000, 6_000), Cas(3, 7_500, 5_400)), rcd=20_000, rp=20_000, ras=44_000,
    rc=66_000, rfc=66_000, rrd=15_000, wr=15_000, mrd=0, hold=2_700, input_hold=800)
AS4C32M16 = SdramChip(
    "AS4C32M16SB", "-7", cas=(Cas(2, 10_000, 6_000), Cas(3, 7_000, 5_400)), rcd=21_000, rp=21_000, ras=42_000,
    rc=63_000, rfc=63_000, rrd=14_000, wr=14_000, mrd=14_000, hold=2_500, input_hold=800, column_bits=10)
W9825G6KH = SdramChip(
    "W9825G6KH", "-6", cas=(Cas(2, 7_500, 6_000), Cas(3, 6_000, 5_000)), rcd=15_000, rp=15_000, ras=42_000,
    rc=60_000, rfc=60_000, rrd=15_000, wr=15_000, mrd=0, hold=3_000, input_hold=800)
# The slowest of the revisions B to G.
IS42S16160 = SdramChip(
    "IS42S16160", "-7", cas=(Cas(2, 10_000, 6_000), Cas(3, 7_000, 5_400)), rcd=20_000, rp=20_000, ras=45_000,
    rc=67_500, rfc=67_500, rrd=14_000, wr=14_000, mrd=14_000, hold=2_500)

CHIPS = {chip.name: chip for chip in (MT48LC16M16, AS4C32M16, W9825G6KH, IS42S16160)}
"""The table of chips, by part number."""
