"""Descriptor table and both sequencers, with mock encoder, column engine and cells that check what they are told."""

from dataclasses import replace

import cocotb
import numpy as np
from benches import PARAMETERS, TABLE_FIELDS, TABLE_ROWS, run_bench
from networks import random_network
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators
from test_golden import gru, lstm, relu, relu_threshold, stack

from amacrine.hw.cell import cell_job_layout
from amacrine.hw.encoder import job_layout
from amacrine.hw.fetch import fetch_job_layout
from amacrine.sw.compile import compile_network
from amacrine.sw.layout import CELL_FIELDS, CELL_JOBS, COLUMN_FIELDS, INPUT_SOURCE, ColumnMode, Register
from amacrine.sw.program import register_writes

P8 = PARAMETERS[8]
ENCODER_JOB, FETCH_JOB, CELL_JOB = Codec(job_layout(P8)), Codec(fetch_job_layout(P8)), Codec(cell_job_layout(P8))
CONTROL = COLUMN_FIELDS.index("control")
STEPS = 12


def test_sequencer(tmp_path):
    run_bench(__name__, tmp_path)


@bench_test
async def table_rows_are_written_in_pairs(dut):
    table = Ports(dut, "table")
    rng, _ = generators("table")
    await table.begin("host__enable", "enable")
    rows = [[rng.getrandbits(16) for _ in TABLE_FIELDS] for _ in range(TABLE_ROWS)]
    writes = [(row, pair) for row in range(TABLE_ROWS) for pair in range(3)]
    for row, pair in rng.sample(writes, len(writes)):
        low, high = (rows[row] + [0])[2 * pair:2 * pair + 2]
        table.set(host__enable=1, host__row=row, host__pair=pair, host__data=low | high << 16)
        await table.cycles()
        table.set(host__enable=0, host__data=rng.getrandbits(32))
        await table.cycles(rng.randrange(2))
    shown = None
    for _ in range(200):
        row, enable = rng.randrange(TABLE_ROWS), rng.random() < 0.6
        table.set(row=row, enable=enable)
        await table.cycles()
        if shown is not None:
            assert [int(getattr(table, f"field_{name}").value) for name in TABLE_FIELDS] == rows[shown]
        shown = row if enable else shown


async def load(ports, program):
    """Write a program's descriptors to a sequencer through the ports that it has."""
    names = {"list_write": (Register.LIST, 1, len(program.entries)),
             "descriptor_write": ((Register.COLUMN, 8, 256) if ports.is_columns else (Register.CELL, 8, 256))}
    for address, value in register_writes(program):
        for port, (base, stride, length) in names.items():
            if base <= address < base + length and (ports.is_columns or port == "descriptor_write"):
                row, pair = divmod(address - base, stride)
                ports.set(**{f"{port}__enable": 1, f"{port}__row": row, f"{port}__pair": pair,
                             f"{port}__data": value})
                await ports.cycles()
                ports.set(**{f"{port}__enable": 0})
    ports.set(reset=1)
    await ports.cycles()
    ports.set(reset=0)
    await ports.cycles()


def column_jobs(program, layer):
    """Numbers of a layer's column jobs: of its input, and of its recurrence or None."""
    jobs = [job for job in program.jobs if program.columns[job.number][CONTROL] >> 4 == layer and job.encoder != "bias"]
    return jobs[0].number, jobs[1].number if len(jobs) > 1 else None


class World:
    """What the column sequencer sees of the others: counts of the steps that each has done, and their flags.

    inputs, cells and jobs count steps (0: none yet); a cell's vector holds the step before its count.
    """

    def __init__(self, dut, program, rng):
        self.ports, self.program, self.rng = Ports(dut, "column_sequencer"), program, rng
        self.ports.is_columns = True
        self.layers = len(program.cells)
        self.map_jobs = [job for job, row in enumerate(program.columns) if row[CONTROL] & 3 == ColumnMode.MAP]
        self.sources = {}                   # column job to (source, back)
        for entry in program.entries[program.loop_start:]:
            self.sources[int(entry) & 31] = (int(entry) >> 8 & 15, int(entry) >> 12 & 1)
        self.jobs = dict.fromkeys(range(len(program.jobs)), 0)
        self.cells, self.inputs = [0] * self.layers, 0
        self.allowed = 0                    # inputs that may come

    def flags(self):
        """The inputs that follow from the counts."""
        bits = (1 << CELL_JOBS) - 1
        for cell, steps in enumerate(self.cells):
            bits = bits & ~(1 << cell) | ((steps - 1) % 2) << cell
        self.ports.set(write_done=bits, input_done=3 if self.map_jobs else (self.inputs - 1) % 4)

    async def feed(self, p_late):
        """Inputs, at most two ahead of what was scanned, an element at a time."""
        ports, (first, _), length = self.ports, column_jobs(self.program, 0), self.program.n_inputs
        while True:
            await ports.cycles()
            if self.inputs < self.allowed and self.inputs - self.jobs[first] < 2 and self.rng.random() >= p_late:
                for count in range(1, 1 if self.map_jobs else length):
                    ports.input_count.value = count
                    await ports.cycles(self.rng.randrange(1, 3))
                self.inputs += 1
                ports.input_count.value = 0
                self.flags()

    async def compute(self, p_late):
        """Cells, one at a time, whose column jobs are done and whose old vector has been scanned."""
        ports = self.ports
        while True:
            await ports.cycles()
            cell = self.rng.randrange(self.layers)
            if self.rng.random() < p_late or not self.cell_may_run(cell):
                continue
            for count in range(1, int(self.program.cells[cell][2])):
                await ports.cycles(self.rng.randrange(1, 3))
                ports.set(progress_cell=cell, progress_count=count)
            await ports.cycles(self.rng.randrange(1, 10))
            self.cells[cell] += 1
            ports.progress_count.value = 0
            self.flags()

    def cell_may_run(self, cell):
        t = self.cells[cell]
        jobs = [job for job in column_jobs(self.program, cell) if job is not None]
        reader = column_jobs(self.program, cell + 1)[0] if cell + 1 < self.layers else None
        return all(self.jobs[job] > t for job in jobs) and (reader is None or self.jobs[reader] >= t)

    def complete(self, job, step):
        """Whether all of the vector that a job reads in a step is there; how much of it if not."""
        source, back = self.sources[job]
        if source == INPUT_SOURCE:
            count = int(self.ports.input_count.value) if self.inputs == step else 0
            return self.inputs > step, count
        assert self.cells[source] <= step + 1 - back, "the vector is overwritten already"
        here = int(self.ports.progress_cell.value) == source and self.cells[source] == step - back
        return self.cells[source] > step - back, int(self.ports.progress_count.value) if here else 0

    async def encode(self, p_late):
        """The encoder: takes each job, which must be right and new, and ends it when its vector is there."""
        ports, rng = self.ports, self.rng
        while True:
            await ports.until(lambda: ports.start.value == 1, 200_000)
            encoder_job = ENCODER_JOB.unpack(int(ports.encoder_job.value))
            await ports.cycles()
            fetch_job = FETCH_JOB.unpack(int(ports.fetch_job.value))
            job = fetch_job["job"]
            step = self.jobs[job]
            self.check_descriptor(job, step, encoder_job, fetch_job)
            bias = self.program.jobs[job].encoder == "bias"
            assert not bias or step == 0
            while job in self.map_jobs and self.inputs == step:      # its map's events have not come
                await ports.cycles()
                assert ports.start.value == 0
            while not bias and job not in self.map_jobs:
                complete, count = self.complete(job, step)
                if ports.all_available.value == 1:
                    assert complete, f"job {job} is told of a vector that is not there"
                    break
                assert int(ports.available.value) <= count or complete
                assert ports.start.value == 0
                await ports.cycles()
            await ports.cycles(rng.randrange(1, 8) if rng.random() < p_late else 0)
            assert FETCH_JOB.unpack(int(ports.fetch_job.value)) == fetch_job
            ports.encoder_finishes.value = 1
            await ports.cycles()
            ports.encoder_finishes.value = 0
            self.jobs[job] += 1

    def check_descriptor(self, job, step, encoder_job, fetch_job):
        row = dict(zip(COLUMN_FIELDS, (int(v) for v in self.program.columns[job]), strict=True))
        source_word = row["odd_source_word" if step % 2 else "source_word"]
        if row["control"] & 3 != 2:
            assert encoder_job == {"mode": row["control"] & 3, "source_word": source_word, "length": row["length"],
                                   "reference_word": row["reference_word"], "threshold": row["threshold"],
                                   "rectify": row["control"] >> 2 & 1}
        assert encoder_job["length"] == row["length"] and encoder_job["mode"] == row["control"] & 3
        assert fetch_job == {
            "weights": row["weight_low"] | row["weight_high"] << 16, "words": row["column_words"], "psum": row["psum"],
            "bias": row["bias"], "job": job, "cell": row["control"] >> 4, "step": step % 2}


@bench_test
@cocotb.parametrize(anticipate=[True, False], p_late=[0.0, 0.5, 0.95], seed=range(4))
async def each_column_job_runs_once_a_step(dut, anticipate, p_late, seed):
    """Random networks: every job once a step, when its vector is there; recurrent ones before the input if wanted."""
    rng, np_rng = generators("columns", anticipate, p_late, seed)
    await run_columns(dut, compile_network(random_network(np_rng, 4, (1, 3, 9, 14)), P8, anticipate=anticipate), rng,
                      anticipate, p_late)


@bench_test
@cocotb.parametrize(anticipate=[True, False], p_late=[0.0, 0.5, 0.95], seed=range(2))
async def map_jobs_run_once_a_step(dut, anticipate, p_late, seed):
    """A first layer that takes the events of maps: its job waits in the encoder, and no input is ever loaded."""
    rng, np_rng = generators("maps", anticipate, p_late, seed)
    network = stack(np_rng, (relu_threshold, *[(gru, lstm, relu)[i] for i in np_rng.integers(0, 3, 2)]), (9, 3, 14, 5))
    program = compile_network(network, P8, anticipate=anticipate)
    columns = program.columns.copy()
    columns[0, CONTROL] |= ColumnMode.MAP
    entries = [entry for entry in program.entries
               if entry & 31 or not entry & 1 << 6 or entry >> 8 & 15 != INPUT_SOURCE]      # never optional
    program = replace(program, columns=columns, entries=np.array(entries, np.uint16), loop_end=len(entries))
    await run_columns(dut, program, rng, anticipate, p_late)


async def run_columns(dut, program, rng, anticipate, p_late):
    """Run a program's column list, and count."""
    world = World(dut, program, rng)
    ports = world.ports
    await ports.begin("run", "encoder_finishes", "progress_cell", "progress_count", "input_count",
                      "resume")
    ports.set(starts=program.loop_start, loop_start=program.loop_start, loop_end=program.loop_end)
    world.flags()
    await load(ports, program)
    for task in (world.feed(p_late), world.compute(p_late), world.encode(p_late)):
        cocotb.start_soon(task)
    ports.set(run=1)
    for world.allowed in (0, 1, STEPS // 2, STEPS):      # then the input pauses until all else waits for it
        await ports.until(lambda: world.cells[-1] == world.allowed, 200_000)
        await ports.cycles(SURPLUS_CYCLES * 4)
        assert world.cells == [world.allowed] * world.layers
        for job in program.jobs:
            ahead = anticipate and job.name.endswith(".recurrent")
            assert world.jobs[job.number] == (1 if job.encoder == "bias" else world.allowed + ahead), job.name


@bench_test
@cocotb.parametrize(p_stall=[0.0, 0.5, 0.9], seed=range(4))
async def each_cell_job_runs_once_a_step(dut, p_stall, seed):
    """Cell jobs are offered when their columns are done and their old vector was scanned, not before."""
    rng, np_rng = generators("cells", p_stall, seed)
    program = compile_network(random_network(np_rng, 5, (1, 3, 9)), P8)
    layers = len(program.cells)
    ports = Ports(dut, "cell_sequencer")
    ports.is_columns = False
    await ports.begin("run", "job__ready", "descriptor_write__enable")
    ports.set(count=layers, done=(1 << 32) - 1, ran=(1 << 32) - 1)
    await load(ports, program)
    ports.set(run=1)
    jobs = [column_jobs(program, layer) for layer in range(layers)]
    reads = [(job, layer, source if source >= 0 else None) for layer, pair in enumerate(jobs)
             for job, source in zip(pair, (layer - 1, layer), strict=True) if job is not None]
    done = {job: 0 for pair in jobs for job in pair if job is not None}       # steps, as all counts
    started = [0] * layers
    for _ in range(20_000):
        ready = rng.random() >= p_stall
        ports.set(job__ready=ready)
        await ports.cycles()
        if ready and ports.job__valid.value == 1:
            job = CELL_JOB.unpack(int(ports.job__payload.value))
            cell, step = job["cell"], started[job["cell"]]
            assert all(done[j] == step + 1 for j in jobs[cell] if j is not None), "columns are not done"
            assert cell + 1 == layers or done[jobs[cell + 1][0]] >= step, "the old vector was not scanned"
            row = dict(zip(CELL_FIELDS, (int(v) for v in program.cells[cell]), strict=True))
            control = row["control"]
            assert job == {name: row[name] for name in ("psum", "blocks", "units", "state", "vector")} | {
                "cell": cell, "step": step % 2, "kind": control & 3, "function": control >> 2 & 3,
                "shift": control >> 4 & 15, "out_shift": control >> 8 & 7, "cell_shift": control >> 11 & 7,
                "output": control >> 14 & 1}
            started[cell] += 1
        elif rng.random() < 0.2:
            job, own, source = rng.choice(reads)
            steps = done[job]
            # What it reads is there, and its cell has read the partial sums of the step before.
            there = source is None or started[source] > (steps - 1 if source == own else steps)
            if there and steps <= started[own] and steps < STEPS:
                done[job] += 1
            bits = (1 << 32) - 1 - sum((steps % 2) << job for job, steps in done.items())
            ports.set(done=bits, ran=bits)
        if started == [STEPS] * layers:
            break
    np.testing.assert_array_equal(started, [STEPS] * layers)
    ports.set(job__ready=1)
    for _ in range(SURPLUS_CYCLES):
        await ports.cycles()
        assert ports.job__valid.value == 0
