"""The CNN engine's counters against a tally of the same cycles, each counter at work on a pass of its own."""

from collections import Counter

import cocotb
from conv_core_benches import run_bench
from streams import Ports, bench_test, generators

from amacrine.hw.conv_counters import RECORDS, SETTLE_CYCLES
from amacrine.sw.conv_layout import CONV_COUNTER_FIELDS, PASSES

MACS = 16       # of the counters in the bench
SHORTEST = 4    # cycles between two ends


def test_conv_counters(tmp_path):
    run_bench(__name__, tmp_path)


async def clear(counters):
    for record in range(RECORDS):
        counters.set(clear=1, clear_record=record)
        await counters.cycles()
    counters.set(clear=0)
    await counters.cycles(SETTLE_CYCLES)


async def read_all(counters):
    values = Counter()
    for record in range(RECORDS):
        counters.set(read=1, read_record=record)
        await counters.cycles(3)
        number, field = divmod(record, len(CONV_COUNTER_FIELDS))
        values[number, CONV_COUNTER_FIELDS[field]] = int(counters.read_data.value)
    counters.set(read=0, read_record=0)
    await counters.cycles(3)
    assert counters.read_data.value == 0
    return +values


@bench_test
@cocotb.parametrize(dwell=[(4,), (4, 5, 6, 7), (4, 30), (100, 600)], passes=[1, 2, 3, PASSES])
async def every_step_is_counted_once(dut, dwell, passes):
    """Ends as close to each other as they may be, or far; reads in between, and a clear in the middle of a step."""
    counters = Ports(dut, "counters")
    rng, _ = generators("pass counters", dwell, passes)
    inputs = [f"{name}_{what}" for name in CONV_COUNTER_FIELDS for what in ("steps", "ends")]
    await counters.begin("read", "clear", *inputs)
    counters.set(count=passes)
    for _ in range(2):
        await clear(counters)
        assert await read_all(counters) == Counter()
        tally = Counter()
        at = dict.fromkeys(CONV_COUNTER_FIELDS, 0)
        left = {name: rng.choice(dwell) for name in CONV_COUNTER_FIELDS}
        for _ in range(2):
            busy = rng.choice((0.3, 1.0))
            for _ in range(3000):
                for name in CONV_COUNTER_FIELDS:
                    most = MACS if name == "zero_macs" else 1
                    step = most if busy == 1 else rng.randrange(most + 1) * (rng.random() < busy)
                    tally[at[name], name] += step
                    left[name] -= 1
                    counters.set(**{f"{name}_steps": step, f"{name}_ends": left[name] == 0})
                    if left[name] == 0:
                        at[name], left[name] = (at[name] + 1) % passes, max(SHORTEST, rng.choice(dwell))
                await counters.cycles()
            counters.set(**dict.fromkeys(inputs, 0))
            await counters.cycles(SETTLE_CYCLES)
            assert await read_all(counters) == +tally
