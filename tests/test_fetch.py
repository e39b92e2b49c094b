"""The column fetch: each event's burst and op, in order, and no more of them ahead than there is room for."""

import cocotb
import numpy as np
from benches import PARAMETERS, run_bench
from cocotb.triggers import RisingEdge
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns

from amacrine.hw.fetch import fetch_job_layout
from amacrine.hw.numerics import Event, OpKind, op_layout, request_layout

P8 = PARAMETERS[8]
JOB, EVENT = Codec(fetch_job_layout(P8)), Codec(Event)
OP, REQUEST = Codec(op_layout(P8)), Codec(request_layout(P8))
FETCHES = (OpKind.COLUMN.value, OpKind.LOAD.value)


def test_fetch(tmp_path):
    run_bench(__name__, tmp_path)


def random_job(rng):
    words = rng.choice((1, 2, 3, 9, 100))
    return {"weights": rng.choice((0, rng.randrange(1 << 19), (1 << 20) - 100 * words)), "words": words,
            "psum": rng.randrange(120), "bias": rng.randrange(120), "job": rng.randrange(32),
            "cell": rng.randrange(15), "step": rng.randrange(2)}


def random_events(rng):
    """Events of one job; kinds in any order, for fetch need not care."""
    kinds = rng.choices([kind.value for kind in OpKind], (8, 1, 1, 0), k=rng.randrange(12)) + [OpKind.END.value]
    return [{"kind": kind, "index": rng.choice((0, 99, rng.randrange(100))),
             "value": rng.choice((-65535, 65535, rng.randrange(-65536, 65536)))} for kind in kinds]


async def offer(fetch, jobs, rng, p_idle):
    """As the encoder does: valid stays, and the job is junk while no event is offered."""
    for job, events in jobs:
        for event in events:
            while rng.random() < p_idle:
                fetch.set(event__valid=0, job=rng.getrandbits(len(fetch.job)),
                          event__payload=rng.getrandbits(len(fetch.event__payload)))
                await RisingEdge(fetch.clk)
            fetch.set(event__valid=1, job=JOB.pack(**job), event__payload=EVENT.pack(**event))
            await fetch.until(lambda: fetch.event__ready.value == 1)
    fetch.set(event__valid=0, job=rng.getrandbits(len(fetch.job)))


async def take_ops(fetch, ops, requests, rng, p_stall):
    """As the column engine does: a column is taken when the words of the one before have come."""
    columns = 0
    while True:
        ready = rng.random() >= min(p_stall, 0.8) and columns <= len(requests)
        fetch.op__ready.value = int(ready)
        await RisingEdge(fetch.clk)
        if ready and fetch.op__valid.value == 1:
            ops.append(OP.unpack(int(fetch.op__payload.value)))
            columns += ops[-1]["kind"] in FETCHES


@patterns
async def bursts_and_ops(dut, p_idle, p_stall):
    fetch = Ports(dut, "fetch")
    rng, _ = generators("fetch", p_idle, p_stall)
    await fetch.begin("event__valid", "request__ready", "op__ready")
    jobs = [(random_job(rng), random_events(rng)) for _ in range(60)]
    ops, requests = [], []
    cocotb.start_soon(get(fetch, "request", requests, rng, p_stall))
    cocotb.start_soon(take_ops(fetch, ops, requests, rng, p_stall))
    assert fetch.idle.value == 1
    await offer(fetch, jobs, rng, p_idle)
    assert fetch.idle.value == 0
    await fetch.until(lambda: fetch.idle.value == 1)
    await fetch.cycles(SURPLUS_CYCLES)
    events = [(job, event) for job, events in jobs for event in events]
    fields = ("kind", "value", "psum", "bias", "words", "job", "cell", "step")
    np.testing.assert_array_equal([[op[name] for name in fields] for op in ops],
                                  [[(job | event)[name] for name in fields] for job, event in events])
    expected = [[job["weights"] + event["index"] * job["words"], job["words"]] for job, event in events
                if event["kind"] in FETCHES]
    np.testing.assert_array_equal([list(REQUEST.unpack(r).values()) for r in requests], expected)


@bench_test
async def runs_ahead_of_the_ops(dut):
    """With nobody to take ops, bursts are asked for until the queue is full, and not one more is accepted."""
    fetch = Ports(dut, "fetch")
    rng, _ = generators("ahead")
    await fetch.begin("event__valid", "request__ready", "op__ready")
    requests = []
    cocotb.start_soon(get(fetch, "request", requests, rng))
    column = {"kind": OpKind.COLUMN.value, "index": 1, "value": 1}
    cocotb.start_soon(offer(fetch, [(random_job(rng), [column] * 100)], rng, 0.0))
    await fetch.cycles(100)
    assert P8.queue_depth // 2 <= len(requests) <= P8.queue_depth
    assert fetch.event__ready.value == 0 and fetch.op__valid.value == 1
