"""Pooling of results as they come: maximum or mean of 2 × 2, of two in a row, or of the whole map."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters, Pool

from .conv_numerics import chunk_layout, finished_layout, result_layout
from .numerics import ACTIVATION, PSUM, delay, saturate
from .queue import Queue
from .ram import block_ram, read_port

POOL_JOB = data.StructLayout({"mode": unsigned(2), "average": 1, "shift": unsigned(5)})
"""Of a pass: `Pool` of sw/conv_layout.py; the mean instead of the maximum, rq(sum, shift, 16) with a shift to 20."""
QUEUE_DEPTH, RESULT_CYCLES = 8, 6


class Pooling(wiring.Component):
    """Combines the results of each window into one, or passes them through; then says that the pass has ended.

    Without pooling a chunk a cycle, 1 cycle late. Otherwise a chunk each 3 cycles (5 where it adds to the one just
    before it: one chunk a position), and a window's chunk 9 cycles after its last element's. Windows that are not
    full are left out. Results under way are in a block RAM of `pool_depth` chunks of L · 32 bits: of each window of
    a row, or of the only one.

    Members
    -------
    job : In(stream of POOL_JOB)
        One for each pass, taken when the pass before has ended.
    finished : In(stream of finished_layout)
    result : Out(stream of result_layout)
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(POOL_JOB)), "finished": In(stream.Signature(finished_layout(params))),
            "result": Out(stream.Signature(result_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.out = out = Queue(result_layout(self.params), QUEUE_DEPTH, margin=3)
        connect(m, out.o, flipped(self.result))
        job, busy, pending, passing, ends = Signal(POOL_JOB), Signal(), Signal(), Signal(), Signal()
        # 0: free, 1: old results leave the memory, 2: they are combined, 3 and 4: the next ones wait for that
        step, again = Signal(range(5)), Signal()
        finished, taken = self.finished, Signal(finished_layout(self.params))
        m.d.comb += [
            passing.eq(busy & (job.mode == Pool.NONE)),
            finished.ready.eq(busy & Mux(job.mode == Pool.NONE, out.i.ready, (step == 0) & out.room)),
            self.job.ready.eq(~(busy | ends)),
        ]
        with m.If(finished.valid & finished.ready):
            last = finished.p.final & finished.p.chunk.last
            m.d.sync += [taken.eq(finished.p), busy.eq(~last), ends.eq(last)]
            with m.If(~passing):
                m.d.sync += step.eq(1)
        with m.If(step == 1):
            m.d.sync += step.eq(2)
        with m.If(step == 2):
            m.d.sync += step.eq(Mux(again, 3, 0))
        with m.If(step == 3):
            m.d.sync += step.eq(4)
        with m.If(step == 4):
            m.d.sync += step.eq(0)
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [job.eq(self.job.p), busy.eq(1)]
        sums_s2, emit = self._combine(m, job, taken, step, again)
        rounded, valid = self._round(m, job, taken, sums_s2, emit, pending)
        with m.If(passing):
            m.d.comb += [out.i.valid.eq(finished.valid), out.i.p.chunk.eq(finished.p.chunk)]
        with m.Else():
            # The end must not overtake results that are still being rounded.
            m.d.comb += [out.i.valid.eq(valid), out.i.p.chunk.eq(rounded)]
            with m.If(ends & (step == 0) & ~pending):
                m.d.comb += [out.i.valid.eq(1), out.i.p.end.eq(1)]
                m.d.sync += ends.eq(~out.i.ready)
        return m

    def _combine(self, m, job, taken, step, again):
        """Returns the window's results so far, 2 cycles after step 2, and whether it is complete, in step 2.

        `again`: the next chunk needs what is written only then, so it must not read until it is.
        """
        lanes = self.params.lanes
        m.submodules.ram = ram = block_ram(32 * lanes, self.params.pool_depth)
        read, write = read_port(m, ram), ram.write_port()
        address, base = Signal(range(self.params.pool_depth)), Signal(range(self.params.pool_depth))
        old = Signal(32 * lanes, reset_less=True)
        sums_s2 = Signal(data.ArrayLayout(PSUM, lanes), reset_less=True)
        start, complete, has_place = Signal(), Signal(), Signal()
        is_global = job.mode == Pool.GLOBAL
        with m.Switch(job.mode):
            with m.Case(Pool.ROW):
                m.d.sync += [start.eq(~taken.x_odd), complete.eq(taken.x_odd)]
            with m.Case(Pool.SQUARE):
                m.d.sync += [start.eq(~taken.x_odd & ~taken.y_odd), complete.eq(taken.x_odd & taken.y_odd)]
            with m.Default():
                m.d.sync += [start.eq(taken.first), complete.eq(taken.final)]
        for lane in range(lanes):
            value, before = taken.chunk["values"][lane], old.word_select(lane, 32).as_signed()
            # The comparison takes a cycle of its own. `taken` stays until the cycle after it.
            greater_s1 = Signal(name=f"greater{lane}_s1", reset_less=True)
            sum_s1 = Signal(PSUM, name=f"sum{lane}_s1", reset_less=True)
            m.d.sync += [
                greater_s1.eq(~job.average & (before < value)), sum_s1.eq(before + Mux(job.average, value, 0)),
                sums_s2[lane].eq(Mux(start | greater_s1, value, sum_s1)),
            ]
        m.d.sync += [old.eq(read.data), write.addr.eq(delay(m, address, 1)),
                     write.en.eq(delay(m, (step == 2) & has_place, 1))]
        m.d.comb += [
            has_place.eq(is_global | taken.x_odd | ~taken.row_last),    # half a window at the right edge has none
            read.addr.eq(address), write.data.eq(sums_s2.as_value()),
        ]
        following, following_base = Signal.like(address), Signal.like(base)
        m.d.comb += [following.eq(address + 1), following_base.eq(base), again.eq(following == address)]
        with m.If(taken.chunk.last):
            with m.If(is_global | taken.row_last):
                m.d.comb += [following.eq(0), following_base.eq(0)]
            with m.Elif(taken.x_odd):
                m.d.comb += following_base.eq(following)
            with m.Else():
                m.d.comb += following.eq(base)
        with m.If(step == 2):
            m.d.sync += [address.eq(following), base.eq(following_base)]
        return sums_s2, complete & (step == 2)

    def _round(self, m, job, taken, sums_s2, emit, pending):
        """Results of a complete window, requantised: RESULT_CYCLES after `emit`. Returns (chunk, valid)."""
        emits = [emit]
        for s in range(1, RESULT_CYCLES + 1):
            emits.append(Signal(name=f"emit_s{s}"))
            m.d.sync += emits[-1].eq(emits[-2])
        m.d.comb += pending.eq(Cat(emits[1:]).any())
        rounded, shift = Signal(chunk_layout(self.params)), Signal(5)
        m.d.sync += shift.eq(Mux(job.average, job.shift, 0))
        for lane in range(self.params.lanes):
            # One bit below the result's LSB is kept for the rounding, as in PreActivation.
            coarse_s3 = Signal(signed(33), name=f"coarse{lane}_s3", reset_less=True)
            fine_s4 = Signal(signed(33), name=f"fine{lane}_s4", reset_less=True)
            whole_s5 = Signal(PSUM, name=f"whole{lane}_s5", reset_less=True)
            y_s6 = Signal(ACTIVATION, name=f"y{lane}_s6", reset_less=True)
            m.d.sync += [
                coarse_s3.eq((sums_s2[lane] << 1) >> (shift[2:] << 2)), fine_s4.eq(coarse_s3 >> shift[:2]),
                whole_s5.eq((fine_s4 + 1) >> 1), y_s6.eq(saturate(whole_s5, 16)),
            ]
            m.d.comb += rounded["values"][lane].eq(y_s6)
        m.d.comb += [rounded.used.eq(delay(m, taken.chunk.used, RESULT_CYCLES)),
                     rounded.last.eq(delay(m, taken.chunk.last, RESULT_CYCLES))]
        return rounded, emits[RESULT_CYCLES]
