"""Performance counters, per column job."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import COLUMN_JOBS, COUNTER_FIELDS

from .numerics import JOB

RECORD = data.StructLayout({name: unsigned(32) for name in COUNTER_FIELDS})
LIVE_BITS = 24


class Counters(wiring.Component):
    """Counts, for the job at work in the column engine: columns, weight words, and cycles of waiting.

    Each cycle takes a word or waits, for an event, for the weight memory or for partial sums, so the sum of all
    but `events` is the number of cycles. A job's live counts are added to its record when another
    job takes over; a record can be read two cycles after that. About 400 LUTs and 5 block RAMs.

    Members
    -------
    run : In(1)
        Counts while high; while low, the live counts are added to their record.
    job : In(JOB)
        The job that the cycle belongs to.
    starts, takes, waits_weights, waits_psums : In(1)
        From the column engine; a cycle with none of the last three waited for an event.
    clear : In(1), clear_job : In(JOB)
        Zeroes a record. Only while not running.
    read_job : In(JOB), read_field : In(3), read_data : Out(32)
        A counter, a cycle after its address. Only while not running.
    """

    def __init__(self):
        super().__init__({
            "run": In(1), "job": In(JOB),
            "starts": In(1), "takes": In(1), "waits_weights": In(1), "waits_psums": In(1),
            "clear": In(1), "clear_job": In(JOB),
            "read_job": In(JOB), "read_field": In(3), "read_data": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.records = records = memory.Memory(shape=RECORD, depth=COLUMN_JOBS, init=[])
        read, write = records.read_port(), records.write_port()
        live = data.StructLayout({name: unsigned(LIVE_BITS) for name in COUNTER_FIELDS})
        count, flushed = Signal(live), Signal(live)
        job, flushed_job, flush = Signal(JOB), Signal(JOB), Signal()
        long = Cat(count[name][-1] for name in COUNTER_FIELDS).any()
        counting = {"events": self.starts, "words": self.takes, "wait_weights": self.waits_weights,
                    "wait_psums": self.waits_psums,
                    "wait_events": ~self.takes & ~self.waits_weights & ~self.waits_psums}
        m.d.comb += flush.eq((self.run & (self.job != job)) | long | (~self.run & (count.as_value() != 0)))
        for name, happens in counting.items():
            with m.If(flush):
                m.d.sync += count[name].eq(happens & self.run)
            with m.Else():
                m.d.sync += count[name].eq(count[name] + (happens & self.run))
        with m.If(self.run):
            m.d.sync += job.eq(self.job)

        # Stage 1 reads the record, stage 2 adds and writes. A job's next flush is at least 3 cycles off: others
        # come before it is at work again, and a `long` one resets the counts that make it so.
        valid_s1, valid_s2 = Signal(), Signal()
        flushed_s2, record_s2, job_s2 = Signal(live), Signal(RECORD), Signal(JOB)
        m.d.sync += [
            valid_s1.eq(flush), flushed.eq(count), flushed_job.eq(job),
            valid_s2.eq(valid_s1), flushed_s2.eq(flushed), job_s2.eq(flushed_job),
            record_s2.eq(read.data),
        ]
        m.d.comb += [write.addr.eq(job_s2), write.en.eq(valid_s2)]
        for name in COUNTER_FIELDS:
            m.d.comb += write.data[name].eq(record_s2[name] + flushed_s2[name])
        with m.If(self.clear):
            m.d.comb += [write.addr.eq(self.clear_job), write.en.eq(1), write.data.eq(0)]

        m.d.comb += read.addr.eq(job)
        field = Signal(3)
        m.d.sync += field.eq(self.read_field)
        with m.If(~self.run & ~flush):
            m.d.comb += read.addr.eq(self.read_job)
        with m.Switch(field):
            for number, name in enumerate(COUNTER_FIELDS):
                with m.Case(number):
                    m.d.comb += self.read_data.eq(read.data[name])
        return m
