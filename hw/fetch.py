"""From events to weight bursts: the column fetch."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import Parameters

from .numerics import CELL, HAZARD_CYCLES, JOB, Event, OpKind, op_layout, request_layout
from .queue import Queue


def fetch_job_layout(params: Parameters):
    """The part of a column job that fetch and column engine need."""
    return data.StructLayout({
        "weights": unsigned(params.weight_address_bits), "words": unsigned(12),
        "psum": range(params.psum_depth), "bias": range(params.psum_depth),
        "job": JOB, "cell": CELL, "step": 1,
    })


class ColumnFetch(wiring.Component):
    """Asks for each event's column of weights, and queues the event for the processing elements.

    The burst of event `index` starts at word weights + index * words and is `words` long. It is requested
    as soon as the event is known, up to `queue_depth` events ahead of the multiplications, so the
    memory's latency is hidden behind the columns before. Latency 3 cycles, one event a cycle.

    Parameters
    ----------
    params : Parameters
        `queue_depth` costs about 8 LUTs an event; one multiplier computes the address.

    Members
    -------
    job : In(fetch_job_layout)
        Must belong to the events that enter.
    event : In(stream of Event)
    request : Out(stream of {address, length})
        To the weight port.
    op : Out(stream of op_layout)
        To the column engine, in the order of the bursts.
    idle : Out(1)
        Nothing is queued or on its way.
    """

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "job": In(fetch_job_layout(params)), "event": In(stream.Signature(Event)),
            "request": Out(stream.Signature(request_layout(params))),
            "op": Out(stream.Signature(op_layout(params))), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # Two stages are on their way to the queues when these have no more room.
        m.submodules.ops = ops = Queue(op_layout(self.params), self.params.queue_depth, margin=3)
        m.submodules.requests = requests = Queue(request_layout(self.params), self.params.queue_depth)
        connect(m, ops.o, flipped(self.op))
        connect(m, requests.o, flipped(self.request))
        m.d.comb += self.event.ready.eq(ops.room)

        event, job = self.event.p, self.job
        valid = Signal(2)
        op_s1, op_s2 = Signal(op_layout(self.params)), Signal(op_layout(self.params))
        base_s1, length_s1, index_s1 = Signal.like(job.weights), Signal(12), Signal(12)
        base_s2, offset_s2 = Signal.like(job.weights), Signal(24)
        m.d.sync += [
            valid.eq((valid << 1) | (self.event.valid & self.event.ready)),
            op_s1.kind.eq(event.kind), op_s1.value.eq(event.value), index_s1.eq(event.index),
            base_s1.eq(job.weights), length_s1.eq(job.words),
            op_s2.eq(op_s1), base_s2.eq(base_s1), offset_s2.eq(index_s1 * length_s1),
        ]
        # A partial sum may be read again HAZARD_CYCLES after it was read. Columns of one job that are shorter wait for
        # the difference; between two jobs, whose columns may overlap otherwise, short ones wait in full.
        last_job, short = Signal(JOB), job.words < HAZARD_CYCLES
        with m.If(self.event.valid & self.event.ready):
            m.d.sync += last_job.eq(job.job)
        m.d.sync += op_s1.wait.eq(Mux(short, Mux(job.job == last_job, -job.words[:2], HAZARD_CYCLES - 1), 0))
        for field in ("psum", "bias", "words", "job", "cell", "step"):
            m.d.sync += op_s1[field].eq(job[field])
        m.d.comb += self.idle.eq(~valid.any() & ~ops.o.valid)
        fetches = (op_s2.kind == OpKind.COLUMN) | (op_s2.kind == OpKind.LOAD)
        m.d.comb += [
            ops.i.valid.eq(valid[1]), ops.i.payload.eq(op_s2),
            requests.i.valid.eq(valid[1] & fetches),
            requests.i.p.address.eq(base_s2 + offset_s2), requests.i.p.length.eq(op_s2.words),
        ]
        return m
