"""Performance counters of the CNN engine, per pass."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from amacrine.sw.conv_layout import CONV_COUNTER_FIELDS, PASSES

from .numerics import delay
from .ram import block_ram, read_port

FIELDS = len(CONV_COUNTER_FIELDS)
RECORDS = PASSES * FIELDS
SETTLE_CYCLES = 10
"""Cycles from the last cycle that counts until it is in its record."""


class ConvCounters(wiring.Component):
    """Adds up, for each pass, what happens in parts of the engine that may be at work on different passes.

    Each counter goes round the passes by itself: its `_ends` tells that its part is through with one, a step in that
    cycle included. Live counts are added to their records one counter a cycle, in turn, so at least four cycles
    must lie between two ends. One block RAM, about 320 LUTs.

    Parameters
    ----------
    macs : int
        Most of `zero_macs` in a cycle.

    Members
    -------
    count : In
        Passes a step.
    cycles_steps, events_steps, mac_cycles_steps : In(1); zero_macs_steps : In
        What is counted, by the names of CONV_COUNTER_FIELDS.
    cycles_ends, events_ends, mac_cycles_ends, zero_macs_ends : In(1)
        The next steps belong to the next pass.
    clear : In(1), clear_record : In
        Zeroes record `clear_record`, and begins with pass 0. Only while nothing happens.
    read : In(1), read_record : In; read_data : Out(32)
        Counter 4 · pass + field, two cycles after its address; zero without `read`. Only while nothing happens, and
        SETTLE_CYCLES after the last step.
    """

    def __init__(self, macs: int):
        self.macs = macs
        super().__init__({
            "count": In(range(PASSES + 1)),
            **{f"{name}_steps": In(range(macs + 1) if name == "zero_macs" else 1) for name in CONV_COUNTER_FIELDS},
            **{f"{name}_ends": In(1) for name in CONV_COUNTER_FIELDS},
            "clear": In(1), "clear_record": In(range(RECORDS)),
            "read": In(1), "read_record": In(range(RECORDS)), "read_data": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        turn, records, counts = Signal(range(FIELDS)), [], []
        m.d.sync += turn.eq(turn + 1)
        for number, name in enumerate(CONV_COUNTER_FIELDS):
            flush = Signal(name=f"flush_{name}")
            m.d.comb += flush.eq((turn == number) & ~self.read)
            at, live = self._live(m, name, flush)
            records.append(Mux(flush, Cat(Const(number, ceil_log2(FIELDS)), at), 0))
            counts.append(Mux(flush, live, 0))

        # The counter whose turn it is: its record's number and its count in stage 1, in which the record is read; the
        # sum of both, from registers, in stage 3. It is written before it can be its turn again.
        m.submodules.records = ram = block_ram(unsigned(32), RECORDS)
        read, write = read_port(m, ram), ram.write_port()
        record_s1, count_s1, valid_s2, content_s3 = (
            Signal(range(RECORDS)), Signal(range(2 * FIELDS * self.macs + 1)), Signal(), Signal(32))
        m.d.sync += [
            record_s1.eq(reduce(or_, records)), count_s1.eq(reduce(or_, counts)),
            valid_s2.eq(~self.read), content_s3.eq(read.data),      # a read takes the port; the count is zero then
            self.read_data.eq(Mux(delay(m, self.read, 1), read.data, 0)),
        ]
        valid_s3, record_s3, count_s3 = delay(m, valid_s2, 1), delay(m, record_s1, 2), delay(m, count_s1, 2)
        m.d.comb += [
            read.addr.eq(Mux(self.read, self.read_record, record_s1)),
            write.en.eq(valid_s3 | self.clear), write.addr.eq(Mux(self.clear, self.clear_record, record_s3)),
            write.data.eq(Mux(self.clear, 0, content_s3 + count_s3)),
        ]
        return m

    def _live(self, m, name, flush):
        """The pass that a counter's part is at work on, and its steps since the last `flush`."""
        most = 2 * FIELDS * (self.macs if name == "zero_macs" else 1)      # of those that were `ahead`, too
        step, ends = delay(m, getattr(self, f"{name}_steps"), 1), delay(m, getattr(self, f"{name}_ends"), 1)
        # A pass that has ended keeps its count until it has been flushed; `ahead` are steps of the next one.
        at, live, ahead = (Signal(shape, name=f"{name}_{what}") for what, shape in
                           (("pass", range(PASSES)), ("live", range(most + 1)), ("ahead", range(most + 1))))
        ended, following = Signal(name=f"{name}_ended"), Signal(range(PASSES), name=f"{name}_next")
        m.d.sync += following.eq(Mux(at + 1 == self.count, 0, at + 1))
        with m.If(flush):
            m.d.sync += [live.eq(Mux(ended, ahead, 0) + step), ahead.eq(0), ended.eq(ends)]
            with m.If(ended):
                m.d.sync += at.eq(following)
        with m.Elif(ended):
            m.d.sync += ahead.eq(ahead + step)
        with m.Else():
            m.d.sync += [live.eq(live + step), ended.eq(ends)]
        with m.If(self.clear):
            m.d.sync += [at.eq(0), live.eq(0), ahead.eq(0), ended.eq(0)]
        return at, live
