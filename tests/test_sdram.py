# amaranth: UnusedElaboratable=no
"""The SDRAM controller on the chip model: content, order, refresh, loop delays; and never a violation."""

import random

import cocotb
import pytest
from sdram_benches import CLOCKS, FAULTS, FORGETFUL, LOOPS, SMALL, run_bench, typical_boards
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.sdram import SdramController, burst_layout
from amacrine.hw.sdram_chips import MT48LC16M16, sampling, timings
from amacrine.sim.sdram import VIOLATIONS

REQUESTS = {name: Codec(burst_layout(chip)) for name, chip in SMALL.items()}
CHIP = "MT48LC16M16A2"


def test_sdram(tmp_path):
    run_bench(__name__, tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"capture": 2}, "capture must be 3 to 6 cycles with CAS latency 2, not 2"),
    ({"length_bits": 0}, "length_bits must be at least 1, not 0"),
])
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        SdramController(MT48LC16M16, 100e6, **options)


async def started(dut, name, clock=100_000_000, chip=SMALL[CHIP], loop=9_500, initialised=1):
    """A part, if not told otherwise when its chip is initialised, with the clock phase for the loop delay."""
    part = Ports(dut, name)
    typical_boards(dut)
    part.set(loop_ps=loop, phase_ps=sampling(chip, clock, loop).phase_ps)
    await part.begin("request__valid", "write_data__valid", "read_data__ready")
    await part.until(lambda: part.initialised.value == initialised)
    return part


def no_violation(part):
    assert part.violations.value == 0, VIOLATIONS[int(part.violation.value)]


def traffic(rng, chip, count, longest):
    """Bursts that first write and then mostly read what is known, and the words to write and to be read.

    Many of them begin where another one ended or lies, cross rows, and go round the end of the chip.
    """
    words, memory, bursts, written, read = 1 << chip.word_bits, {}, [], [], []
    columns = 1 << chip.column_bits
    regions = [rng.randrange(words) for _ in range(3)] + [words - 9, columns - 3, 4 * columns - 5]
    for number in range(count):
        start, length = rng.choice(regions), rng.choice((1, 1, 2, 3, rng.randrange(1, longest)))
        start = (start + rng.choice((0, 0, 1, columns, rng.randrange(longest)))) % words
        if number % 7 == 3 and bursts:
            start, length = (bursts[-1][0] + bursts[-1][1]) % words, rng.randrange(1, 9)
        places = [(start + i) % words for i in range(length)]
        write = rng.random() < 0.4 or any(place not in memory for place in places)
        bursts.append((start, length, write))
        for place in places:
            if write:
                memory[place] = rng.getrandbits(16)
                written.append(memory[place])
            else:
                read.append(memory[place])
    return bursts, written, read


async def exchange(part, codec, rng, bursts, written, read, idle=0.0, stall=0.0):
    """Do the bursts, and compare what is read."""
    items = []
    receiver = cocotb.start_soon(get(part, "read_data", items, rng, stall))
    cocotb.start_soon(put(part, "write_data", written, rng, idle))
    await put(part, "request", [codec.pack(address=a, length=n, write=w) for a, n, w in bursts], rng, idle)
    for _ in range(400):
        if len(items) >= len(read):
            break
        await part.cycles(100)
    await part.cycles(SURPLUS_CYCLES)
    receiver.cancel()
    part.set(read_data__ready=0)
    assert items == read
    no_violation(part)


@bench_test
@cocotb.parametrize(("name", list(SMALL)), ("clock", CLOCKS))
async def every_chip_and_clock(dut, name, clock):
    rng, _ = generators("chips", name, clock)
    part = await started(dut, f"{name}_{clock // 1_000_000}", clock, SMALL[name])
    for idle, stall in ((0.0, 0.0), (0.3, 0.4)):
        await exchange(part, REQUESTS[name], rng, *traffic(rng, SMALL[name], 150, 60), idle, stall)
    assert part.poisoned.value == 0 and int(part.activations.value) > 20


CAPTURES = [(loop, clock) for loop in LOOPS for clock in CLOCKS]


@bench_test
@cocotb.parametrize((("loop", "clock"), CAPTURES))
async def loop_delays(dut, loop, clock):
    """From 8.75 to 17.5 ns, with the capture cycle and the clock phase that are computed from the delay."""
    rng, _ = generators("loops", loop, clock)
    capture = sampling(SMALL[CHIP], clock, loop).capture
    name = CHIP if capture == sampling(SMALL[CHIP], clock).capture else f"capture{capture}"
    part = await started(dut, f"{name}_{clock // 1_000_000}", clock, loop=loop)
    await exchange(part, REQUESTS[CHIP], rng, *traffic(rng, SMALL[CHIP], 12, 20))


@bench_test
@cocotb.parametrize(pause=[0.0, 0.9, 1.0])
async def back_pressure(dut, pause):
    """A reader that hardly reads, or only after the data are there, loses nothing."""
    rng, _ = generators("pressure", pause)
    part = await started(dut, f"{CHIP}_100")
    await exchange(part, REQUESTS[CHIP], rng, *traffic(rng, SMALL[CHIP], 60, 60), 0.0, pause)


@bench_test
async def smallest_queue(dut):
    """Two places for read data: slow, and still right."""
    rng, _ = generators("shallow")
    part = await started(dut, "shallow")
    await exchange(part, REQUESTS[CHIP], rng, *traffic(rng, SMALL[CHIP], 12, 20), 0.0, 0.2)


@bench_test
@cocotb.parametrize((("name", "clock"), [(CHIP, 100_000_000), ("AS4C32M16SB", 50_000_000)]), read=[0, 1])
async def refreshes_keep_up(dut, name, clock, read):
    """In bursts without a pause, whether or not the reader takes the words; an idle chip is refreshed, too."""
    part = await started(dut, f"{name}_{clock // 1_000_000}", clock, SMALL[name])
    interval = timings(SMALL[name], clock).interval
    for busy in (1, 0):
        before, cycles = int(part.refreshes.value), 24 * interval
        part.set(request__payload=REQUESTS[name].pack(address=5, length=4095, write=0), request__valid=busy,
                 read_data__ready=read or not busy)
        await part.wait(cycles)
        done = int(part.refreshes.value) - before
        assert 24 - 8 <= done <= 24 + 8, done
        no_violation(part)


@bench_test
async def writes_that_wait_for_data_are_interrupted(dut):
    """A write burst whose words do not come: its row is closed for refreshes, and opened again."""
    rng, _ = generators("waiting")
    part = await started(dut, f"{CHIP}_100")
    words = [rng.getrandbits(16) for _ in range(9)]
    await put(part, "request", [REQUESTS[CHIP].pack(address=3, length=9, write=1)], rng)
    for word in words:
        await put(part, "write_data", [word], rng)
        await part.wait(3 * 779 + rng.randrange(100))
    await exchange(part, REQUESTS[CHIP], rng, [(3, 9, 0)], [], words)
    assert int(part.refreshes.value) > 27


@bench_test
async def rows_are_kept(dut):
    """A chip that forgets quickly keeps what was written, while bursts and pauses go on."""
    rng, _ = generators("forgetful")
    part = await started(dut, "forgetful", chip=FORGETFUL)
    words = {rng.randrange(1 << FORGETFUL.word_bits): rng.getrandbits(16) for _ in range(8)}
    writes = [(place, 1, 1) for place in words]
    await exchange(part, REQUESTS[CHIP], rng, writes, list(words.values()), [])
    await part.wait(150_000)
    await exchange(part, REQUESTS[CHIP], rng, [(place, 1, 0) for place in words], [], list(words.values()))
    assert part.poisoned.value == 0


@bench_test
@cocotb.parametrize(name=list(FAULTS))
async def a_timing_too_short_is_caught(dut, name):
    """With the code of that timing first, and only by the controller that has it wrong."""
    code, chip = FAULTS[name]
    rng, _ = generators("faults")
    for prefix, timing in (("faulty", name), ("right", name if name in ("rc", "rrd") else "rcd")):
        part = await started(dut, f"{prefix}_{timing}", chip=chip, initialised=0)
        part.set(read_data__ready=1)
        bursts, written, _ = traffic(random.Random(1), chip, 30, 40)
        cocotb.start_soon(put(part, "write_data", written, rng))
        await put(part, "request", [REQUESTS[CHIP].pack(address=a, length=n, write=w) for a, n, w in bursts], rng)
        if name == "interval":
            await part.wait(120 * 779)
        if prefix == "faulty":
            assert part.violation.value == code, VIOLATIONS.get(int(part.violation.value))
            assert int(part.violations.value) > 0
        else:
            no_violation(part)
