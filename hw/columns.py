"""The column engine: K processing elements with partial sums that persist."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import CELL_JOBS, COLUMN_JOBS, Parameters

from .numerics import DELTA, HAZARD_CYCLES, JOB, PSUM, WEIGHT, OpKind, op_layout
from .ram import block_ram, read_port


class ProcessingElement(wiring.Component):
    """One lane: multiply, add, and the partial sums of every K-th row, twice for two readers.

    Timing, in cycles after `read_address`: weight and value at 1, product at 2, sum at 3, written at the end
    of 3. So a partial sum may be read again HAZARD_CYCLES = 4 after it was read.
    One multiplier, 2 · depth · 32 bits of block RAM.

    Members
    -------
    read_address, write_address, write_enable, clear
        Of the pipeline; `clear` comes with the partial sum (cycle 1) and makes it zero.
    weight, value : In
        Factors, at cycle 1.
    peek_address : In, peek_data : Out(PSUM)
        The second reader's port: data a cycle after the address.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({
            "read_address": In(range(depth)), "clear": In(1), "weight": In(WEIGHT), "value": In(DELTA),
            "write_address": In(range(depth)), "write_enable": In(1),
            "peek_address": In(range(depth)), "peek_data": Out(PSUM),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.psums = psums = block_ram(PSUM, self.depth)
        m.submodules.copy = copy = block_ram(PSUM, self.depth)
        read, peek = read_port(m, psums), read_port(m, copy)
        # A register without a reset becomes part of the block RAM; so a sum is cleared a cycle later.
        product_s2, psum_s2, sum_s3 = Signal(signed(25)), Signal(PSUM, reset_less=True), Signal(PSUM)
        clear_s2 = Signal()
        m.d.comb += [read.addr.eq(self.read_address), peek.addr.eq(self.peek_address),
                     self.peek_data.eq(peek.data)]
        m.d.sync += [
            product_s2.eq(self.weight * self.value),
            psum_s2.eq(read.data), clear_s2.eq(self.clear),
            sum_s3.eq(Mux(clear_s2, 0, psum_s2) + product_s2),
        ]
        for write in (psums.write_port(), copy.write_port()):
            m.d.comb += [write.addr.eq(self.write_address), write.data.eq(sum_s3),
                         write.en.eq(self.write_enable)]
        return m


class ColumnEngine(wiring.Component):
    """Multiplies columns of weights by event values and adds them to the partial sums, K a cycle.

    A column of `words` weight words goes to partial-sum words psum, psum + 1, ... One weight word a cycle,
    columns and jobs back to back. It waits for an event, for a weight word, or for a partial sum: one that is
    still in the pipeline (columns shorter than 4 words) or one that a cell job has not read yet.

    Members
    -------
    op : In(stream of op_layout)
    weights : In(stream of K weights)
    read_done : In(CELL_JOBS)
        Per cell job, the parity of the last step whose partial sums it has read.
    done : Out(COLUMN_JOBS)
        Per column job, the parity of the last step whose partial sums are complete.
    reset : In(1)
        Start of a sequence: forgets `done`. Only while idle.
    peek_address, peek_data : the cell's port on the partial sums, a cycle of latency, K a word
    idle : Out(1)
        Nothing is in the pipeline.
    job : Out(JOB), starts, takes, waits_weights, waits_psums : Out(1)
        For the counters: the job at work, its column starts, a weight word is taken, and the two causes
        of waiting.
    """

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "op": In(stream.Signature(op_layout(params))),
            "weights": In(stream.Signature(unsigned(8 * params.pes))),
            "read_done": In(CELL_JOBS), "done": Out(COLUMN_JOBS), "reset": In(1), "idle": Out(1),
            "peek_address": In(range(params.psum_depth)), "peek_data": Out(32 * params.pes),
            "job": Out(JOB), "starts": Out(1), "takes": Out(1), "waits_weights": Out(1), "waits_psums": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        column = Signal(op_layout(self.params))       # the column at work
        active, free = Signal(), Signal()             # there is one; the partial sums are free to be added to
        first = Signal()
        read_address, write_address = (Signal(range(self.params.psum_depth)) for _ in range(2))
        left, last, waits = Signal(12), Signal(), Signal(3)     # `waits`: a bit a cycle
        end, end_job, end_step = Signal(), Signal(JOB), Signal()   # an END that waits for the column at work
        end_cell, end_free = Signal.like(column.cell), Signal()    # and for its partial sums to be read

        in_flight = [Signal.like(write_address, name=f"write_s{s}") for s in range(1, HAZARD_CYCLES)]
        valid = Signal(HAZARD_CYCLES - 1)
        fetches, issue = Signal(), Signal()
        may_issue = Signal()
        m.d.comb += [
            may_issue.eq(active & free & ~waits[0]),
            issue.eq(may_issue & (self.weights.valid | ~fetches)),
            self.weights.ready.eq(may_issue & fetches),
            self.job.eq(column.job), self.starts.eq(issue & fetches & first), self.takes.eq(issue & fetches),
            self.waits_weights.eq(may_issue & ~issue),
            self.waits_psums.eq(active & (~may_issue | ~fetches)),
        ]
        m.d.sync += waits.eq(waits >> 1)
        with m.If(issue):
            m.d.sync += [read_address.eq(read_address + 1), write_address.eq(write_address + 1),
                         left.eq(left - 1), last.eq(left == 2), first.eq(0)]

        # Take the next op when there is no column, or with the last word of the present one; an END may
        # be taken early, and is then reported with that last word.
        head = self.op.p
        takes_end, finishes = Signal(), Signal()
        takes_column = Signal()
        m.d.comb += [
            finishes.eq(issue & last),
            takes_end.eq(self.op.valid & (head.kind == OpKind.END) & ~end),
            takes_column.eq(self.op.valid & (head.kind != OpKind.END) & (~active | finishes)
                            & (~end | end_free)),
            self.op.ready.eq(takes_end | takes_column),
        ]
        parity = Array(self.read_done)
        m.d.sync += free.eq(parity[column.cell] != column.step)
        with m.If(finishes):
            m.d.sync += active.eq(0)
        with m.If(takes_column):
            m.d.sync += [
                column.eq(head), active.eq(1), first.eq(1), left.eq(head.words), last.eq(head.words == 1),
                fetches.eq(head.kind != OpKind.RESTART), waits.eq(Cat(head.wait > cycle for cycle in range(3))),
                free.eq(parity[head.cell] != head.step), write_address.eq(head.psum),
                read_address.eq(Mux(head.kind == OpKind.RESTART, head.bias, head.psum)),
            ]
        # Even a job without columns ends only when the step before was read, or it would be two steps ahead.
        m.d.sync += end_free.eq(parity[end_cell] != end_step)
        with m.If(takes_end):
            m.d.sync += [end.eq(1), end_job.eq(head.job), end_step.eq(head.step), end_cell.eq(head.cell),
                         end_free.eq(parity[head.cell] != head.step)]
        ends = Signal()
        m.d.comb += ends.eq(end & end_free & (~active | finishes))
        with m.If(ends):
            m.d.sync += end.eq(0)

        self._report(m, ends, end_job, end_step)
        m.d.sync += [valid.eq(Cat(issue, valid)), in_flight[0].eq(write_address)]
        m.d.sync += [late.eq(early) for early, late in zip(in_flight, in_flight[1:], strict=False)]
        m.d.comb += self.idle.eq(~active & ~end & ~valid.any() & ~self.op.valid)

        weights_s1, value_s1, clear_s1 = Signal(8 * self.params.pes), Signal(DELTA), Signal()
        m.d.sync += [weights_s1.eq(self.weights.payload), value_s1.eq(column.value),
                     clear_s1.eq(column.kind == OpKind.LOAD)]
        for k in range(self.params.pes):
            m.submodules[f"pe{k}"] = pe = ProcessingElement(self.params.psum_depth)
            m.d.comb += [
                pe.read_address.eq(read_address), pe.clear.eq(clear_s1), pe.value.eq(value_s1),
                pe.weight.eq(weights_s1.word_select(k, 8)),
                pe.write_address.eq(in_flight[-1]), pe.write_enable.eq(valid[-1]),
                pe.peek_address.eq(self.peek_address), self.peek_data.word_select(k, 32).eq(pe.peek_data),
            ]
        return m

    def _report(self, m, ends, job, step):
        """Sets a job's `done` once its last sum is written."""
        pipeline = [(ends, job, step)]
        for s in range(1, HAZARD_CYCLES):
            late = Signal(name=f"ends_s{s}"), Signal(JOB, name=f"end_job_s{s}"), Signal(name=f"end_step_s{s}")
            m.d.sync += [signal.eq(early) for signal, early in zip(late, pipeline[-1], strict=True)]
            pipeline.append(late)
        ends, job, step = pipeline[-1]
        with m.If(ends):
            m.d.sync += self.done.bit_select(job, 1).eq(step)
        with m.If(self.reset):
            m.d.sync += self.done.eq(~0)
