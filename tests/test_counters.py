"""The performance counters against a tally of the same cycles."""

from collections import Counter

import cocotb
from benches import run_bench
from streams import Ports, bench_test, generators

from amacrine.sw.layout import COLUMN_JOBS, COUNTER_FIELDS

CAUSES = ("takes", "waits_weights", "waits_psums")
FIELD_OF = {"takes": "words", "waits_weights": "wait_weights", "waits_psums": "wait_psums", None: "wait_events"}
RECORD_CYCLES = 16      # more than it takes from the last cycle that counts to its record


def test_counters(tmp_path):
    run_bench(__name__, tmp_path)


async def read_all(counters):
    values = Counter()
    for job in range(COLUMN_JOBS):
        for number, name in enumerate(COUNTER_FIELDS):
            counters.set(read=1, read_job=job, read_field=number)
            await counters.cycles(3)
            values[job, name] = int(counters.read_data.value)
    counters.set(read=0)
    await counters.cycles(3)
    assert counters.read_data.value == 0
    return +values


async def clear(counters):
    for job in range(COLUMN_JOBS):
        counters.set(clear=1, clear_job=job)
        await counters.cycles()
    counters.set(clear=0)
    await counters.cycles(4)


@bench_test
@cocotb.parametrize(dwell=[(2, 3), (2, 4, 30), (100, 600)], jobs=[2, 3, 32])
async def every_cycle_is_counted_once(dut, dwell, jobs):
    """Jobs that stay for a few cycles (two at least, as in the engine) or for hundreds, halts, and a clear."""
    counters = Ports(dut, "counters")
    rng, _ = generators("counters", dwell, jobs)
    await counters.begin("run", "clear", "read", "starts", *CAUSES)
    numbers = rng.sample(range(COLUMN_JOBS), jobs)
    for _ in range(2):
        await clear(counters)
        assert await read_all(counters) == Counter()
        expected = Counter()
        for _ in range(2):
            for _ in range(max(20, 2000 // max(dwell))):
                job = rng.choice(numbers)
                for _ in range(rng.choice(dwell)):
                    cause, starts = rng.choice((*CAUSES, None)), rng.random() < 0.3
                    counters.set(run=1, job=job, starts=starts, **{name: name == cause for name in CAUSES})
                    await counters.cycles()
                    expected[job, FIELD_OF[cause]] += 1
                    expected[job, "events"] += starts
            counters.set(run=0)
            for _ in range(RECORD_CYCLES):       # none of these is counted
                counters.set(job=rng.randrange(COLUMN_JOBS), starts=1, takes=rng.getrandbits(1))
                await counters.cycles()
            assert await read_all(counters) == +expected
