"""The finisher: rows of partial sums to results, for the CNN engine.

Where a chunk is, in cycles after it was issued, with T = ANSWER_CYCLES:

    T    answer        T+2  lanes, bias     T+6   q            T+14 shifted    T+16 compared
    T+1  word          T+3  sum             T+13  function     T+15 rounded    T+17 ceiling: into the queue
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import Function

from .conv_macs import ANSWER_CYCLES, ROWS, finish_layout
from .conv_numerics import CHANNEL, SIDE, finished_layout
from .function import FunctionUnit, PreActivation
from .numerics import ACTIVATION, delay, saturate
from .queue import Queue
from .scatter import Slot

STAGES = 17             # from the answer with partial sums to the queue
LATENCY = ANSWER_CYCLES + STAGES
CLEAR_CYCLES = 5
"""Cycles from a request to the cleared word."""
QUEUE_DEPTH = 32
BLOCKS = 16             # most blocks of a pass


def finisher_job_layout(params: ConvParameters):
    """The part of a pass that the finisher needs; fields as in PASS_FIELDS, those with several numbers split up."""
    return data.StructLayout({
        "depthwise": 1, "q_shift": unsigned(2), "first": 1,
        "out_height": SIDE, "out_width": SIDE, "out_words": SIDE, "blocks": range(BLOCKS + 1),
        "row_words": range(params.psum_depth // 2 + 1), "slots": range(params.psum_depth + 1),
        "channels": CHANNEL, "chunks": CHANNEL,
        "function": Function, "shift": unsigned(4), "out_shift": unsigned(3), "ceiling": unsigned(15),
    })


def step_layout(params: ConvParameters):
    """What travels with a chunk through the pipeline."""
    return data.StructLayout({
        "valid": 1,
        "fresh": 1,                 # its partial sums were asked for; otherwise the last ones are used again
        "part": unsigned(2),        # which quarter of the word
        "bias": range(4 * BLOCKS),
        "used": unsigned(params.lanes), "last": 1, "x_odd": 1, "y_odd": 1, "row_last": 1, "first": 1, "final": 1,
    })


class Finisher(wiring.Component):
    """Reads rows of partial sums as they become final, and sends results chunk by chunk: L = P / 4 channels each.

    y = function(rq(psum + bias)), then at most the ceiling; formats as of a dense layer (docs/arithmetic.md), order as
    in docs/convolution.md. A chunk a cycle while requests are granted and the output queue has room, one cycle
    between two rows, and LATENCY + 1 between two passes, for which the pipeline runs empty. A chunk comes LATENCY + 1
    cycles after its issue. A word of partial sums is read once, or Q times where there are several blocks
    (depthwise), in cycles in which the runs are in the other bank, and zeroed by its last read.

    L PreActivations, FunctionUnits (a block RAM and a multiplier each) and 32-bit adders.

    Members
    -------
    job : In(stream of finisher_job_layout)
        A pass. `out_shift` is 0 for identity and ReLU; `slots` and `row_words` stay within a layer.
    rows, rows_valid : In
        From ConvMacs: so many more rows are final.
    finish : Out(stream of finish_layout), answer : In(P · 32)
        ConvMacs's port; the answer comes ANSWER_CYCLES after the request was taken.
    bias_address : Out, bias_data : In(L · 32)
        Read port of the pass's biases, word i of block b at 4 · b + i; data a cycle after the address.
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
            "bias_address": Out(range(4 * BLOCKS)), "bias_data": In(32 * params.lanes), "bias_release": Out(1),
            "flushed": Out(1), "finished": Out(stream.Signature(finished_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(finished_layout(self.params), QUEUE_DEPTH, margin=LATENCY)
        connect(m, queue.o, flipped(self.finished))
        job, step = Signal(finisher_job_layout(self.params)), Signal(step_layout(self.params))
        self._issue(m, job, step, queue.room)
        steps = [step]                      # steps[s]: the chunk at stage s
        for s in range(1, LATENCY + 1):
            steps.append(Signal(step_layout(self.params), name=f"step_s{s}"))
            m.d.sync += steps[-1].eq(steps[-2])
        late = steps[ANSWER_CYCLES:]
        values = self._compute(m, job, steps[ANSWER_CYCLES - 1], late)
        item, end, flush = queue.i.p, late[STAGES], steps[CLEAR_CYCLES]
        m.d.comb += [
            queue.i.valid.eq(end.valid), item.chunk.used.eq(end.used), item.chunk.last.eq(end.last),
            item.chunk["values"].as_value().eq(Cat(values)),
            *(item[name].eq(end[name]) for name in ("x_odd", "y_odd", "row_last", "first", "final")),
            self.flushed.eq(flush.valid & flush.row_last & flush.last),
            self.bias_release.eq(late[2].valid & late[2].final & late[2].last),
        ]
        return m

    def _issue(self, m, job, step, room):
        """Takes jobs and counts rows, and sends one chunk after the other into the pipeline as `step`."""
        busy, active, drain = Signal(), Signal(), Signal(range(LATENCY + 1))
        pending = Signal(range(self.params.psum_depth + 1))     # rows that are final
        rows_left, row_first = Signal(SIDE), Signal()
        starts, row_ends = Signal(), Signal()
        slot, following = Slot(m, self.params, job, "slot"), Slot(m, self.params, job, "following_slot")
        following.take(slot.following)      # a row takes two cycles at least, so it is there when the row ends
        m.d.comb += [self.job.ready.eq(~busy & (drain == 0)), starts.eq(busy & ~active & (pending != 0))]
        m.d.sync += pending.eq(pending + Mux(self.rows_valid, self.rows.final, 0) - delay(m, starts, 1))
        with m.If(step.valid):
            m.d.sync += drain.eq(LATENCY)
        with m.Elif(drain != 0):
            m.d.sync += drain.eq(drain - 1)
        with m.If(starts):
            m.d.sync += active.eq(1)
        with m.If(row_ends):
            m.d.sync += [active.eq(0), step.y_odd.eq(~step.y_odd), row_first.eq(0), rows_left.eq(rows_left - 1)]
            slot.take(following)
            with m.If(step.final):
                m.d.sync += busy.eq(0)
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [job.eq(self.job.p), busy.eq(1), step.y_odd.eq(0), row_first.eq(1),
                         rows_left.eq(self.job.p.out_height)]
            with m.If(self.job.p.first):
                slot.restart()
        column_first = self._walk(m, job, step, starts, slot.address)
        m.d.comb += [
            self.finish.valid.eq(active & room & step.fresh), self.finish.p.bank.eq(slot.bank),
            step.valid.eq(active & room & (~step.fresh | self.finish.ready)),
            row_ends.eq(step.valid & step.row_last & step.last),
            step.first.eq(row_first & column_first), step.final.eq(step.row_last & (rows_left == 1)),
        ]

    def _walk(self, m, job, step, starts, base):
        """Goes over words, columns of a word and chunks of a row. Returns whether the position is a row's first."""
        lanes = self.params.lanes
        columns_left, left, q = Signal(SIDE), Signal(CHANNEL), Signal(2)
        part, block = Signal(2), Signal(range(BLOCKS))      # chunk = parts * block + part
        word, address = Signal.like(base), Signal.like(base)
        part_last, q_last, word_ends, used_last = Signal(), Signal(), Signal(), Signal(lanes)
        column_first, many_blocks, one_chunk = Signal(), Signal(), Signal()
        with m.Switch(job.q_shift):
            with m.Case(0):
                m.d.comb += [part_last.eq(part == 3), q_last.eq(1), step.part.eq(part)]
            with m.Case(1):
                m.d.comb += [part_last.eq(part[0]), q_last.eq(q[0]), step.part.eq(Cat(part[0], q[0]))]
            with m.Default():
                m.d.comb += [part_last.eq(1), q_last.eq(q == 3), step.part.eq(q)]
        # The last chunk's used lanes: as many as channels - 1 has in its low bits, and one.
        last_lane = (job.channels - 1)[:(lanes - 1).bit_length()] if lanes > 1 else Const(0)
        block_step, word_step = Signal.like(base), Signal.like(base)
        m.d.sync += [
            used_last.eq(Cat(last_lane >= lane for lane in range(lanes))), one_chunk.eq(job.chunks == 1),
            many_blocks.eq(job.blocks != 1), block_step.eq(Mux(job.depthwise, job.out_words, 1)),
            word_step.eq(Mux(job.depthwise, 1, job.blocks)),
        ]
        m.d.comb += [
            step.used.eq(Mux(step.last, used_last, ~Const(0, lanes))), step.bias.eq(Cat(part, block)),
            word_ends.eq(q_last | step.row_last),
            self.finish.p.address.eq(address), self.finish.p.clear.eq(~many_blocks | word_ends),
        ]
        with m.If(step.valid):
            m.d.sync += [left.eq(left - 1), step.last.eq(left == 2), part.eq(part + 1),
                         step.fresh.eq(part_last & many_blocks)]
            with m.If(part_last):
                m.d.sync += [part.eq(0), block.eq(block + 1), address.eq(address + block_step)]
            with m.If(step.last):
                following = Mux(word_ends, word + word_step, word)
                m.d.sync += [
                    left.eq(job.chunks), step.last.eq(one_chunk), part.eq(0), block.eq(0), address.eq(following),
                    word.eq(following), q.eq(Mux(q_last, 0, q + 1)), step.fresh.eq(many_blocks | q_last),
                    columns_left.eq(columns_left - 1), step.row_last.eq(columns_left == 2), column_first.eq(0),
                    step.x_odd.eq(~step.x_odd),
                ]
        with m.If(starts):
            m.d.sync += [
                left.eq(job.chunks), step.last.eq(job.chunks == 1), part.eq(0), block.eq(0), address.eq(base),
                word.eq(base), q.eq(0), step.fresh.eq(1), columns_left.eq(job.out_width),
                step.row_last.eq(job.out_width == 1), column_first.eq(1), step.x_odd.eq(0),
            ]
        return column_first

    def _compute(self, m, job, early, steps):
        """The pipeline behind the answer; `steps[s]` is the chunk s cycles after it, `early` the one a cycle before it.

        Returns its values.
        """
        lanes = self.params.lanes
        word_s1, part_s2 = Signal(32 * self.params.macs, reset_less=True), Signal(32 * lanes, reset_less=True)
        bias_s2 = delay(m, self.bias_data, 2)
        m.d.comb += self.bias_address.eq(early.bias)
        with m.If(steps[0].fresh & steps[0].valid):
            m.d.sync += word_s1.eq(self.answer)
        m.d.sync += part_s2.eq(word_s1.word_select(steps[1].part, 32 * lanes))
        narrow = (job.function == Function.IDENTITY) | (job.function == Function.RELU)
        values = []
        for lane in range(lanes):
            m.submodules[f"pre{lane}"] = pre = PreActivation()
            m.submodules[f"function{lane}"] = function = FunctionUnit(way=1)
            sum_s3 = Signal(signed(32), name=f"sum{lane}_s3", reset_less=True)
            # One bit below the result's LSB is kept for the rounding, as in PreActivation.
            shifted_s14 = Signal(signed(17), name=f"shifted{lane}_s14", reset_less=True)
            y_s15 = Signal(ACTIVATION, name=f"y{lane}_s15", reset_less=True)
            over_s16 = Signal(name=f"over{lane}_s16", reset_less=True)
            y_s16 = Signal(ACTIVATION, name=f"y{lane}_s16", reset_less=True)
            y_s17 = Signal(ACTIVATION, name=f"y{lane}_s17", reset_less=True)
            m.d.sync += [
                sum_s3.eq(part_s2.word_select(lane, 32) + bias_s2.word_select(lane, 32)),
                shifted_s14.eq((function.y << 1) >> job.out_shift),
                y_s15.eq(saturate((shifted_s14 + 1) >> 1, 16)),
                over_s16.eq(y_s15 > job.ceiling), y_s16.eq(y_s15),
                y_s17.eq(Mux(steps[16].used[lane], Mux(over_s16, job.ceiling, y_s16), 0)),
            ]
            m.d.comb += [
                pre.psum.eq(sum_s3), pre.shift.eq(job.shift), pre.narrow.eq(narrow),
                function.x.eq(pre.q), function.function.eq(job.function),
            ]
            values.append(y_s17)
        return values
