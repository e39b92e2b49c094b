"""Runs the program: a list of column jobs and a list of cell jobs, tied together by step parities.

"Job j has done step t" is one bit: the parity of the last step it has done. That is enough, because no job can
be more than one step ahead of another that waits for it. Only the input can be further ahead of the rest
of the list, and is counted modulo 4. The start of a sequence sets all bits to one, "step -1 is done".
"""

from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import (
    CELL_FIELDS,
    CELL_JOBS,
    COLUMN_FIELDS,
    COLUMN_JOBS,
    INPUT_SOURCE,
    LIST_ENTRIES,
    Parameters,
)

from .cell import cell_job_layout
from .encoder import job_layout
from .fetch import fetch_job_layout
from .numerics import CELL, JOB
from .ram import block_ram, read_port

ENTRY = data.StructLayout({"job": JOB, "next_step": 1, "optional": 1, "_pad": 1, "source": CELL, "source_back": 1})
COLUMN_CONTROL = data.StructLayout({"mode": unsigned(2), "rectify": 1, "_pad": 1, "cell": CELL})
CELL_CONTROL = data.StructLayout({
    "kind": unsigned(2), "function": unsigned(2), "shift": unsigned(4), "out_shift": unsigned(3),
    "cell_shift": unsigned(3), "output": 1,
})
WAIT = data.StructLayout({"job": JOB, "_pad": unsigned(10), "used": 1})


def reached(done, step):
    """Whether a count of steps modulo 4 has reached `step`, which it is at most one ahead of or two behind."""
    return (done - step)[:2] < 2


def write_port():
    """A 32-bit write port of a descriptor table: row, pair of fields, data."""
    return wiring.Signature({"enable": Out(1), "row": Out(6), "pair": Out(3), "data": Out(32)})


class DescriptorTable(wiring.Component):
    """Rows of 16-bit fields in block RAM, read a whole row at once, written by the host in pairs of fields.

    Members
    -------
    host : the write port
    row : In, enable : In(1)
        Read address; the fields come a cycle later and stay until the next read.
    field_* : Out(16)
        The fields of the row.
    """

    def __init__(self, fields, depth):
        self.fields, self.depth = fields, depth
        super().__init__({"host": In(write_port()), "row": In(range(depth)), "enable": In(1),
                          **{f"field_{name}": Out(16) for name in fields}})

    def elaborate(self, platform):
        m = Module()
        pairs = (len(self.fields) + 1) // 2
        m.submodules.table = table = block_ram(unsigned(32 * pairs), self.depth)
        write, read = table.write_port(granularity=32), read_port(m, table)
        m.d.comb += [
            write.addr.eq(self.host.row), write.data.eq(self.host.data.replicate(pairs)),
            write.en.eq(self.host.enable << self.host.pair), read.addr.eq(self.row), read.en.eq(self.enable),
        ]
        for number, name in enumerate(self.fields):
            m.d.comb += getattr(self, f"field_{name}").eq(read.data.word_select(number, 16))
        return m


class ColumnSequencer(wiring.Component):
    """Takes entries of the column list in order and hands their jobs to the encoder, again each step.

    An entry is passed over if its job has already run for the step, or if it is optional and the step's input
    is not there (for the first layer: not complete; for others: not scanned). A later entry with the same job
    then takes care of it. That is how one fixed list serves a stream of inputs that never pauses as
    well as one that does, where recurrent columns run in
    anticipation. Two cycles from one job's end to the next one's start, two more for each entry passed over.

    Members
    -------
    list_write, descriptor_write : the host's write ports
    starts, loop_start, loop_end : In
        Entries that run once a sequence, the first ones; the first entry of a step, and the one behind its last.
        Without entries nothing runs.
    run : In(1), works : Out(1), reset : In(1)
        `works` while it runs and there are entries. `reset` starts a sequence, only while the encoder is idle or
        blocked.
    resume : In(1), resume_step : In(2)
        Goes on with `loop_start` in this step, modulo 4, whose input comes next; jobs that ran for it already, in
        anticipation, stay so. Only while halted, with the encoder idle or blocked.
    write_done, progress_cell, progress_count : In
        From the cell unit.
    input_done, input_count : In
        Last step, modulo 4, whose input is complete; elements of the next one.
    input_read : Out(2)
        Last step, modulo 4, whose input has been scanned.
    encoder_job, start, encoder_finishes, available, all_available
        To and from the encoder.
    fetch_job : Out
    ran : Out(COLUMN_JOBS)
        Per column job, the parity of the last step for which its source was scanned.
    """

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "list_write": In(write_port()), "descriptor_write": In(write_port()),
            **{name: In(range(LIST_ENTRIES + 1)) for name in ("starts", "loop_start", "loop_end")},
            "run": In(1), "works": Out(1), "reset": In(1), "resume": In(1), "resume_step": In(2),
            "write_done": In(CELL_JOBS),
            "progress_cell": In(CELL), "progress_count": In(12),
            "input_done": In(2), "input_count": In(12), "input_read": Out(2, init=3),
            "encoder_job": Out(job_layout(params)), "start": Out(1), "encoder_finishes": In(1),
            "available": Out(12), "all_available": Out(1),
            "ran": Out(COLUMN_JOBS, init=(1 << COLUMN_JOBS) - 1),
            "fetch_job": Out(fetch_job_layout(params)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.list = entries = memory.Memory(shape=ENTRY, depth=LIST_ENTRIES, init=[])
        m.submodules.table = table = DescriptorTable(COLUMN_FIELDS, COLUMN_JOBS)
        wiring.connect(m, table.host, wiring.flipped(self.descriptor_write))
        write, read = entries.write_port(), entries.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self.list_write.row), write.data.eq(self.list_write.data),
                     write.en.eq(self.list_write.enable)]

        # Steps modulo 4: the first layer, which reads the input, can be a step ahead of the rest of the list.
        position, iteration = Signal(range(LIST_ENTRIES + 1)), Signal(2)
        ran = self.ran
        entry, step, passes = Signal(ENTRY), Signal(2), Signal()
        m.d.sync += entry.eq(read.data)
        here, here_step, here_wanted = Signal(ENTRY), Signal(2), Signal()   # of the job that runs
        reads_input, input_was_read, input_is_next = entry.source == INPUT_SOURCE, Signal(), Signal()
        m.d.comb += [
            read.addr.eq(position), step.eq(iteration + entry.next_step), table.row.eq(entry.job),
            input_was_read.eq(reached(self.input_read, step)),
            input_is_next.eq(reached(self.input_done, step) & ((self.input_read + 1)[:2] == step)),
            passes.eq(Mux(reads_input, input_was_read | (entry.optional & ~input_is_next),
                          (ran.bit_select(entry.job, 1) == step[0]) | (entry.optional & ~input_was_read))),
        ]

        def advance():
            with m.If(position + 1 == self.loop_end):
                m.d.sync += [position.eq(self.loop_start), iteration.eq(iteration + 1)]
            with m.Elif(position + 1 == self.starts):
                m.d.sync += position.eq(self.loop_start)
            with m.Else():
                m.d.sync += position.eq(position + 1)

        starts, is_there = Signal(), Signal()
        m.d.sync += is_there.eq(position != self.loop_end)
        m.d.comb += [self.start.eq(starts), self.works.eq(self.run & is_there)]
        with m.FSM():
            with m.State("LIST"):
                with m.If(self.works):
                    m.d.comb += table.enable.eq(1)
                    m.d.sync += [here.eq(entry), here_step.eq(step), here_wanted.eq(step[0] ^ entry.source_back)]
                    advance()
                    with m.If(passes):
                        m.next = "NEXT"
                    with m.Else():
                        m.next = "START"
                with m.If(self.resume):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.next = "LIST"
            with m.State("START"):
                m.d.comb += starts.eq(1)
                m.next = "RUNS"
            with m.State("RUNS"):
                with m.If(self.reset | self.resume):
                    m.next = "NEXT"
                with m.Elif(self.encoder_finishes):
                    m.d.sync += ran.bit_select(here.job, 1).eq(here_step[0])
                    with m.If(here.source == INPUT_SOURCE):
                        m.d.sync += self.input_read.eq(here_step)
                    m.next = "LIST"
        with m.If(self.resume):
            m.d.sync += [position.eq(self.loop_start), iteration.eq(self.resume_step),
                         self.input_read.eq(self.resume_step - 1)]
        with m.If(self.reset):
            m.d.sync += [position.eq(0), iteration.eq(0), ran.eq(~0), self.input_read.eq(~0)]

        self._hand_out(m, table, here, here_step, starts)
        write_done = Array([*self.write_done, 0])
        with m.If(here.source == INPUT_SOURCE):
            m.d.sync += [self.all_available.eq(reached(self.input_done, here_step)),
                         self.available.eq(Mux((self.input_done + 1)[:2] == here_step, self.input_count, 0))]
        with m.Else():
            m.d.sync += [self.all_available.eq(write_done[here.source] == here_wanted),
                         self.available.eq(Mux(here.source == self.progress_cell, self.progress_count, 0))]
        return m

    def _hand_out(self, m, table, here, here_step, starts):
        """The descriptor's fields to the encoder, which keeps them, and to the fetch, for which they are kept here."""
        control = data.View(COLUMN_CONTROL, table.field_control[:8])
        m.d.comb += [
            self.encoder_job.mode.eq(control.mode), self.encoder_job.rectify.eq(control.rectify),
            self.encoder_job.source_word.eq(Mux(here_step[0], table.field_odd_source_word, table.field_source_word)),
            self.encoder_job.length.eq(table.field_length),
            self.encoder_job.reference_word.eq(table.field_reference_word),
            self.encoder_job.threshold.eq(table.field_threshold),
        ]
        with m.If(starts):
            m.d.sync += [
                self.fetch_job.weights.eq(table.field_weight_low | (table.field_weight_high << 16)),
                self.fetch_job.words.eq(table.field_column_words), self.fetch_job.psum.eq(table.field_psum),
                self.fetch_job.bias.eq(table.field_bias), self.fetch_job.job.eq(here.job),
                self.fetch_job.cell.eq(control.cell), self.fetch_job.step.eq(here_step[0]),
            ]


class CellSequencer(wiring.Component):
    """Hands cell jobs to the cell unit, each once a step, when its column jobs are done.

    Looks at one cell job a cycle, round and round, so a job that must wait holds up no other.

    Members
    -------
    descriptor_write : the host's write port
    count : In
        Cell jobs a step; 0 runs none.
    run, reset : In(1)
    done, ran : In(COLUMN_JOBS)
        From the column engine and the column sequencer.
    job : Out(stream of cell_job_layout)
    """

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "descriptor_write": In(write_port()), "count": In(range(CELL_JOBS + 1)),
            "run": In(1), "reset": In(1), "done": In(COLUMN_JOBS), "ran": In(COLUMN_JOBS),
            "job": Out(stream.Signature(cell_job_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = DescriptorTable(CELL_FIELDS, CELL_JOBS + 1)
        wiring.connect(m, table.host, wiring.flipped(self.descriptor_write))
        # Stages: read the descriptor of cell job `coming`; keep it; check whether job `cell` can start; offer it.
        coming, read, cell, offered = Signal(CELL), Signal(CELL), Signal(CELL), Signal(CELL)
        valid, moves, taken, step = Signal(2), Signal(), Signal(), Signal()
        job = Signal(cell_job_layout(self.params))
        waits = {name: Signal(WAIT, name=name) for name in ("wait_a", "wait_b", "wait_c")}
        started = Signal(CELL_JOBS, init=-1)
        works = Signal()
        m.d.sync += works.eq(self.run & (self.count != 0))
        ready = valid[1] & works
        # Partial sums must be complete, and the vector that will be written must have been read.
        for name, bits, wanted in (("wait_a", self.done, step), ("wait_b", self.done, step),
                                   ("wait_c", self.ran, ~step)):
            wait = waits[name]
            ready &= ~wait.used | (bits.bit_select(wait.job, 1) == wanted)

        def after(number):
            return Mux(number + 1 == self.count, 0, number + 1)

        control = data.View(CELL_CONTROL, table.field_control[:15])
        m.d.comb += [
            step.eq(~started.bit_select(cell, 1)), taken.eq(self.job.valid & self.job.ready),
            moves.eq(~self.job.valid), table.row.eq(coming), table.enable.eq(moves),
        ]
        with m.If(moves):
            m.d.sync += [read.eq(coming), cell.eq(read), coming.eq(after(coming)), valid.eq((valid << 1) | 1),
                         self.job.valid.eq(ready), offered.eq(cell), self.job.p.eq(job),
                         self.job.p.cell.eq(cell), self.job.p.step.eq(step)]
            m.d.sync += [wait.eq(getattr(table, f"field_{name}")) for name, wait in waits.items()]
            m.d.sync += [job[name].eq(getattr(table, f"field_{name}"))
                         for name in ("psum", "blocks", "units", "state", "vector")]
            m.d.sync += [job[name].eq(control[name])
                         for name in ("kind", "function", "shift", "out_shift", "cell_shift", "output")]
        with m.If(taken):
            # What is in the stages before may be the same job: look at it again.
            m.d.sync += [started.bit_select(offered, 1).eq(self.job.p.step), self.job.valid.eq(0),
                         valid.eq(0), coming.eq(after(offered))]
        with m.If(self.reset):
            m.d.sync += [coming.eq(0), valid.eq(0), started.eq(~0), self.job.valid.eq(0)]
        return m
