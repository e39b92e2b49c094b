"""Performance counters, per column job."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import COLUMN_JOBS, COUNTER_FIELDS

from .numerics import JOB, delay
from .ram import block_ram, read_port

LIVE_BITS = 8


class Counters(wiring.Component):
    """Counts, for the job at work in the column engine: columns, weight words, and cycles of waiting.

    Each cycle takes a word or waits, for an event, for the weight memory or for partial sums, so the sum of all
    but `events` is the number of cycles. A job's live counts are added to its record when another
    job takes over; a record can be read five cycles after that. About 260 LUTs and 5 block RAMs.

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
    read : In(1), read_job : In(JOB), read_field : In(3), read_data : Out(32)
        A counter, two cycles after its address; zero without `read`. Only while not running.
    """

    def __init__(self):
        super().__init__({
            "run": In(1), "job": In(JOB),
            "starts": In(1), "takes": In(1), "waits_weights": In(1), "waits_psums": In(1),
            "clear": In(1), "clear_job": In(JOB),
            "read": In(1, init=1), "read_job": In(JOB), "read_field": In(3), "read_data": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        happens = {"events": self.starts, "words": self.takes, "wait_weights": self.waits_weights,
                   "wait_psums": self.waits_psums,
                   "wait_events": ~self.takes & ~self.waits_weights & ~self.waits_psums}
        # All inputs come three cycles late, so that a change of job is known two cycles before.
        run_d, job_d = [self.run], [self.job]
        for _ in range(3):
            run_d.append(delay(m, run_d[-1], 1))
            job_d.append(delay(m, job_d[-1], 1))
        run, job, flush, long, ran = run_d[3], Signal(JOB), Signal(), Signal(), Signal()
        m.d.sync += ran.eq(run)
        with m.If(run):
            m.d.sync += job.eq(job_d[3])
        # A job's next flush is at least 3 cycles off: others come before it is at work again, and counts that
        # grow long wait if the job is about to change.
        stays = Cat(run_d[1:]).all() & Cat(later == job for later in job_d[1:]).all()
        m.d.comb += flush.eq((run & (job_d[3] != job)) | (long & stays) | (ran & ~run))

        # Stage 1 reads the record, stage 2 adds and writes.
        valid_s1, valid_s2 = Signal(), Signal()
        job_s1, job_s2 = Signal(JOB), Signal(JOB)
        m.d.sync += [valid_s1.eq(flush), job_s1.eq(job), valid_s2.eq(valid_s1 | self.clear),
                     job_s2.eq(Mux(self.clear, self.clear_job, job_s1))]
        longs, data = [], []
        for number, name in enumerate(COUNTER_FIELDS):
            m.submodules[name] = records = block_ram(unsigned(32), COLUMN_JOBS)
            read, write = read_port(m, records), records.write_port()
            count, count_s1 = Signal(LIVE_BITS, name=name), Signal(LIVE_BITS, name=f"{name}_s1")
            count_s2, record_s2 = Signal(LIVE_BITS, name=f"{name}_s2"), Signal(32, name=f"{name}_record")
            m.d.comb += [
                read.addr.eq(Mux(run | ran, job, self.read_job)),
                read.zero.eq(~run & ~ran & ~(self.read & (self.read_field == number))),
                write.addr.eq(job_s2), write.en.eq(valid_s2), write.data.eq(record_s2 + count_s2),
            ]
            step = delay(m, happens[name], 3) & run
            m.d.sync += [count.eq(Mux(flush, step, count + step)), count_s1.eq(count), record_s2.eq(read.data),
                         count_s2.eq(count_s1)]
            with m.If(self.clear):
                m.d.sync += [record_s2.eq(0), count_s2.eq(0)]
            longs.append(count[-1])
            data.append(record_s2)
        m.d.comb += [long.eq(Cat(longs).any()), self.read_data.eq(reduce(or_, data))]
        return m
