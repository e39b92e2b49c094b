"""From final partial sums to results: bias, requantisation, activation function, ceiling."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import Function

from .conv_macs import ANSWER_CYCLES, ROWS, finish_layout
from .conv_numerics import CHANNEL, SIDE, finished_layout
from .function import FunctionUnit, PreActivation
from .numerics import ACTIVATION, PSUM, delay, saturate
from .queue import Queue
from .scatter import Slot

SUM = ANSWER_CYCLES + 2
"""Cycles from a request to the partial sum with its bias; one to the quarter of the word, one to the addition."""
LATENCY = SUM + PreActivation.LATENCY + FunctionUnit.LATENCY + 2
"""Cycles from a request to its chunk."""
QUEUE_DEPTH = 32
CLEAR_CYCLES = 4
"""Cycles from a request to the cleared word."""


def finisher_job_layout(params: ConvParameters):
    """The part of a pass that the finisher needs; fields as in PASS_FIELDS, those with several numbers split up."""
    return data.StructLayout({
        "depthwise": 1, "q_shift": 2, "first": 1,
        "out_height": SIDE, "out_width": SIDE, "out_words": SIDE, "blocks": unsigned(11),
        "row_words": range(params.psum_depth // 2 + 1), "slots": range(params.psum_depth + 1),
        "channels": CHANNEL, "chunks": unsigned(12),
        "function": Function, "shift": unsigned(4), "out_shift": unsigned(3), "ceiling": unsigned(15),
    })


class Finisher(wiring.Component):
    """Reads rows of partial sums as they become final, and sends results chunk by chunk: L = P / 4 channels each.

    y = function(rq(psum + bias)), then at most the ceiling; formats as of a dense layer (docs/arithmetic.md), order as
    in docs/convolution.md. A word is read once for each of its chunks, in cycles in which the runs are in the other
    bank, and zeroed with the last one. One chunk a cycle while reads are granted and the queue has room;
    LATENCY cycles from a read to its chunk, and as many between two passes.

    L PreActivations, FunctionUnits (a block RAM and a multiplier each) and 32-bit adders.

    Members
    -------
    job : In(stream of finisher_job_layout)
    rows, rows_valid : In
        From ConvMacs: so many more rows are final.
    finish : Out(stream of finish_layout), answer : In(P · 32)
        ConvMacs's port; the answer comes ANSWER_CYCLES after the request was taken.
    bias_address : Out, bias_data : In(L · 32)
        Read port of the pass's biases; data a cycle after the address.
    bias_release : Out(1)
        The pass has no more use for them.
    flushed : Out(1)
        A row has been read and zeroed: its slot is free.
    finished : Out(stream of finished_layout)
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(finisher_job_layout(params))), "rows": In(ROWS), "rows_valid": In(1),
            "finish": Out(stream.Signature(finish_layout(params))), "answer": In(32 * params.macs),
            "bias_address": Out(unsigned(12)), "bias_data": In(32 * params.lanes), "bias_release": Out(1),
            "flushed": Out(1), "finished": Out(stream.Signature(finished_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(finished_layout(self.params), QUEUE_DEPTH, margin=LATENCY + 2)
        connect(m, queue.o, flipped(self.finished))
        job = Signal(finisher_job_layout(self.params))
        at = self._walk(m, job, queue.room)
        values = self._results(m, job, at)

        late = {name: delay(m, signal, LATENCY) for name, signal in at.items()
                if name not in ("quarter", "bias_address")}
        item = queue.i.p
        m.d.comb += [
            queue.i.valid.eq(late["sends"]), item.end.eq(late["end"]),
            item.chunk.used.eq(late["used"]), item.chunk.last.eq(late["last"]),
            *(item[name].eq(late[name]) for name in ("x_odd", "y_odd", "row_last", "first", "final")),
            *(item.chunk.values[lane].eq(Mux(late["used"][lane], value, 0)) for lane, value in enumerate(values)),
        ]
        return m

    def _walk(self, m, job, room):
        """Goes through rows, words, columns of a word, blocks and chunks; returns what belongs to a request."""
        lanes = self.params.lanes
        pending = Signal(range(self.params.psum_depth + 1))     # rows that are final
        row, w, q, x = Signal(SIDE), Signal(SIDE), Signal(2), Signal(range(4 * 1024))
        part, chunk, left = Signal(2), Signal(unsigned(12)), Signal(CHANNEL)
        offset, word_offset = (Signal(range(self.params.psum_depth // 2), name=name) for name in ("offset", "word"))
        block_bias = Signal(unsigned(12))
        slot = Slot(m, self.params, job, "slot")
        asks, taken, row_done, pass_done = Signal(), Signal(), Signal(), Signal()
        last_part, last_q, last_chunk, last_w, inside = (
            Signal(name=name) for name in ("last_part", "last_q", "last_chunk", "last_w", "inside"))
        parts_less_1 = Mux(job.q_shift[1], 0, Mux(job.q_shift[0], 1, 3))
        m.d.comb += [
            last_part.eq(part == parts_less_1), last_q.eq(q == Mux(job.q_shift[1], 3, job.q_shift[0])),
            last_chunk.eq(chunk == job.chunks - 1), last_w.eq(w == job.out_words - 1), inside.eq(x < job.out_width),
            taken.eq(asks & self.finish.ready), row_done.eq(taken & last_chunk & last_q & last_w),
            pass_done.eq(row_done & (row == job.out_height - 1)),
            self.finish.valid.eq(asks), self.finish.p.bank.eq(slot.bank),
            self.finish.p.address.eq(slot.address + offset),
            self.finish.p.clear.eq((last_part | last_chunk) & last_q),
        ]
        m.d.sync += [pending.eq(pending + Mux(self.rows_valid, self.rows.final, 0) - row_done),
                     self.flushed.eq(delay(m, row_done, CLEAR_CYCLES))]
        with m.If(taken):
            m.d.sync += [part.eq(part + 1), chunk.eq(chunk + 1), left.eq(left - lanes)]
            with m.If(last_part):       # to the next block
                m.d.sync += [part.eq(0), block_bias.eq(block_bias + 4),
                             offset.eq(offset + Mux(job.depthwise, job.out_words, 1))]
            with m.If(last_chunk):      # to the next column
                following = word_offset + Mux(job.depthwise, 1, job.blocks)
                m.d.sync += [part.eq(0), chunk.eq(0), left.eq(job.channels), block_bias.eq(0), q.eq(q + 1), x.eq(x + 1),
                             offset.eq(word_offset)]
                with m.If(last_q):
                    m.d.sync += [q.eq(0), w.eq(w + 1), offset.eq(following), word_offset.eq(following)]
                    with m.If(last_w):
                        m.d.sync += [w.eq(0), x.eq(0), offset.eq(0), word_offset.eq(0), row.eq(row + 1)]
                        slot.step()

        drained, ends = Signal(range(LATENCY + 1)), Signal()
        with m.FSM():
            with m.State("JOB"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [job.eq(self.job.p), row.eq(0), left.eq(self.job.p.channels), drained.eq(0)]
                with m.If(self.job.valid):
                    with m.If(self.job.p.first):
                        slot.restart()
                    m.next = "ROW"
            with m.State("ROW"):
                with m.If(pending != 0):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += asks.eq(room)
                with m.If(row_done):
                    m.next = "ROW"
                with m.If(pass_done):
                    m.next = "DRAIN"
            with m.State("DRAIN"):      # the job's fields are used until then
                m.d.sync += drained.eq(drained + 1)
                m.d.comb += [ends.eq(drained == 0), self.bias_release.eq(drained == LATENCY)]
                with m.If(drained == LATENCY):
                    m.next = "JOB"
        used = Signal(lanes)
        m.d.comb += [used[lane].eq(left > lane) for lane in range(lanes)]
        return {
            "sends": (taken & inside) | ends, "end": ends, "used": used, "last": last_chunk,
            "x_odd": x[0], "y_odd": row[0], "row_last": x == job.out_width - 1, "first": (row == 0) & (x == 0),
            "final": (row == job.out_height - 1) & (x == job.out_width - 1),
            # The quarter of the word: columns come first, then the parts of their channels.
            "quarter": Mux(job.q_shift[1], q, Mux(job.q_shift[0], (q[0] << 1) | part[0], part)),
            "bias_address": block_bias + part,
        }

    def _results(self, m, job, at):
        """The values of a chunk, LATENCY cycles after its request."""
        lanes, quarter = self.params.lanes, delay(m, at["quarter"], ANSWER_CYCLES)
        m.d.comb += self.bias_address.eq(delay(m, at["bias_address"], ANSWER_CYCLES - 1))
        chosen, bias, results = Signal(32 * lanes), Signal(32 * lanes), []
        m.d.sync += [chosen.eq(self.answer.word_select(quarter, 32 * lanes)), bias.eq(self.bias_data)]
        narrow = (job.function == Function.IDENTITY) | (job.function == Function.RELU)
        for lane in range(lanes):
            m.submodules[f"pre{lane}"] = pre = PreActivation()
            m.submodules[f"function{lane}"] = function = FunctionUnit()
            total, shifted, y = Signal(PSUM), Signal(17), Signal(ACTIVATION)
            rounded = Signal(ACTIVATION)
            m.d.sync += total.eq(chosen.word_select(lane, 32) + bias.word_select(lane, 32))
            m.d.comb += [pre.psum.eq(total), pre.shift.eq(job.shift), pre.narrow.eq(narrow),
                         function.x.eq(pre.q), function.function.eq(job.function)]
            # One bit more than the result is kept for its rounding; the largest value may round up beyond 16 bits.
            m.d.sync += shifted.eq((function.y << 1) >> job.out_shift)
            m.d.comb += rounded.eq(saturate((shifted.as_signed() + 1) >> 1, 16))
            m.d.sync += y.eq(Mux(rounded > job.ceiling, job.ceiling, rounded))
            results.append(y)
        return results
