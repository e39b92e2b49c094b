"""The table of SDRAM chips: cycle counts, capture cycle and clock phase, refusals."""

from dataclasses import replace

import pytest

from amacrine.hw.sdram_chips import CHIPS, MT48LC16M16, SPARE, Cas, best_cas, period, sampling, timings

CLOCKS = (50e6, 100e6, 133e6)


def test_the_table_has_the_chips_of_common_boards():
    assert list(CHIPS) == ["MT48LC16M16A2", "AS4C32M16SB", "W9825G6KH", "IS42S16160"]
    assert {name: 2 << chip.word_bits for name, chip in CHIPS.items()} == {
        "MT48LC16M16A2": 32 << 20, "AS4C32M16SB": 64 << 20, "W9825G6KH": 32 << 20, "IS42S16160": 32 << 20}


def test_cycle_counts():
    t = timings(MT48LC16M16, 100e6)
    assert (t.cas, t.rcd, t.rp, t.ras, t.rc, t.rfc, t.rrd, t.wr, t.mrd, t.power_up) == (
        2, 2, 2, 5, 7, 7, 2, 2, 2, 20_000)
    t = timings(MT48LC16M16, 133e6)
    assert (t.cas, t.rcd, t.rp, t.ras, t.rc, t.rfc, t.rrd, t.wr, t.mrd, t.power_up) == (
        3, 3, 3, 6, 9, 9, 2, 2, 2, 26_603)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_cycles_are_never_too_short_and_refreshes_never_too_rare(chip, clock):
    t, clock_ps = timings(chip, clock), 1e12 / clock
    for name in ("rcd", "rp", "ras", "rc", "rfc", "rrd", "wr", "mrd", "power_up"):
        assert getattr(t, name) * clock_ps >= getattr(chip, name)
        assert (getattr(t, name) - 1) * period(clock) < getattr(chip, name) or getattr(t, name) <= 2
    assert (chip.refresh_rows + SPARE) * t.interval * clock_ps <= chip.retention * 1.001


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("loop", range(8_000, 18_001, 500))
def test_sampling_keeps_clear_of_changing_data(chip, clock, loop):
    """The word is there, stable, at the edge that takes it; commands keep set-up and hold times."""
    when, cas, clock_ps = sampling(chip, clock, loop), best_cas(chip, clock), period(clock)
    assert when.margin_ps >= 400
    edge = (when.capture - cas.cycles) * clock_ps
    valid_from, valid_to = when.phase_ps + loop, when.phase_ps + loop + clock_ps - cas.access_ps + chip.hold
    assert valid_from + when.margin_ps <= edge <= valid_to - when.margin_ps
    assert chip.input_setup + when.margin_ps <= when.phase_ps <= clock_ps - chip.input_hold - when.margin_ps


def test_slower_memory_needs_a_later_capture():
    assert [sampling(MT48LC16M16, 100e6, loop, phase_ps=5_000).capture for loop in (4_000, 8_750, 14_000, 20_000)] \
        == [3, 4, 4, 5]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: timings(MT48LC16M16, 150e6), "MT48LC16M16A2-75 runs up to 133.3 MHz, not at 150 MHz"),
    (lambda: timings(MT48LC16M16, 5e6), "needs a refresh every 38 cycles at 5 MHz; the controller needs 64 at least"),
    (lambda: sampling(MT48LC16M16, 100e6, 9_500, phase_ps=1_500), "the clock phase of 1.5 ns samples data or commands"),
    (lambda: sampling(replace(MT48LC16M16, cas=(Cas(2, 7_500, 7_000),), input_setup=6_000), 133e6),
     "with a loop delay of 9.5 ns: no clock phase fits"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
