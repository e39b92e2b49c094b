"""Column fetch and column engine against integer matrix products: hazards, and what is reported when."""

from collections import Counter

import cocotb
import numpy as np
from benches import PARAMETERS, run_bench
from cocotb.triggers import RisingEdge, ValueChange
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, lanes, word

from amacrine.hw.fetch import fetch_job_layout
from amacrine.hw.numerics import Event, OpKind, request_layout

PES = list(PARAMETERS)
JOBS = {pes: Codec(fetch_job_layout(parameters)) for pes, parameters in PARAMETERS.items()}
REQUESTS = {pes: Codec(request_layout(parameters)) for pes, parameters in PARAMETERS.items()}
EVENT = Codec(Event)
EXTREMES = (-65535, 65535, -65536, 1, -1, 256)
REGION = 1 << 15        # weight words for each column job


def test_columns(tmp_path):
    run_bench(__name__, tmp_path)


def wrap(sums):
    return (sums + (1 << 31)) % (1 << 32) - (1 << 31)


class Cell:
    """A cell job's partial sums, to which its column jobs add, and which is read after each step.

    Parameters
    ----------
    kind : ``dense`` (one column job, b words, and a copy of the bias), ``gru`` (3·b words of 4·b, the second job
        b words further on) or ``lstm`` (4·b words)
    blocks : b
    """

    def __init__(self, bench, number, kind, blocks, psum):
        self.bench, self.number, self.psum = bench, number, psum
        gates = {"dense": 1, "gru": 4, "lstm": 4}[kind]
        self.words, width = gates * blocks, blocks * {"dense": 1, "gru": 3, "lstm": 4}[kind]
        self.restarts = kind == "dense" and bench.rng.random() < 0.5
        self.bias = self.words if self.restarts else 0      # where the bias is, in words from `psum` on
        jobs = [(2 * number, 0, width)] + ([(2 * number + 1, blocks if kind == "gru" else 0, width)]
                                           if kind != "dense" else [])
        self.jobs = jobs                                    # number, first word, words
        self.sums = np.zeros((2 * self.words, bench.pes), np.int64)
        self.history = []                                   # partial sums at the end of each step

    def job(self, number, first, words, step):
        return {"weights": REGION * number, "words": words, "psum": self.psum + first, "bias": self.psum + self.bias,
                "job": number, "cell": self.number, "step": step % 2}

    def column(self, number, first, words, step, kind=OpKind.COLUMN):
        """A column of random weights, added to the expected sums."""
        np_rng, pes = self.bench.np_rng, self.bench.pes
        value = int(np_rng.choice(EXTREMES) if np_rng.random() < 0.3 else np_rng.integers(-65536, 65536))
        weights = np_rng.choice([-128, 127], (words, pes)) if np_rng.random() < 0.2 \
            else np_rng.integers(-128, 128, (words, pes))
        old = 0 if kind == OpKind.LOAD else self.sums[first:first + words]
        self.sums[first:first + words] = wrap(old + weights * value)
        self.bench.add(self.job(number, first, words, step), kind, value, weights)

    def load(self):
        """The bias job: a load, then further digits; to the partial sums themselves or to the copy."""
        for kind in (OpKind.LOAD, OpKind.COLUMN, OpKind.COLUMN):
            self.column(16 + self.number, self.bias, self.words, 0, kind)
        self.bench.add(self.job(16 + self.number, self.bias, self.words, 0), OpKind.END)

    def step(self, t, columns):
        """Both column jobs of a step, in any order, with up to `columns` columns each."""
        rng = self.bench.rng
        for number, first, words in rng.sample(self.jobs, len(self.jobs)):
            if self.restarts:
                self.sums[:self.words] = self.sums[self.words:]
                self.bench.add(self.job(number, first, words, t), OpKind.RESTART)
            for _ in range(rng.randrange(columns + 1)):
                self.column(number, first, words, t)
            self.bench.add(self.job(number, first, words, t), OpKind.END)
        self.history.append(self.sums[:self.words].copy())


class Bench:
    """Fetch and column engine, the weights they ask for, and the cells that read the partial sums."""

    def __init__(self, dut, pes, *key):
        self.ports, self.pes = Ports(dut, f"columns{pes}"), pes
        self.rng, self.np_rng = generators(pes, *key)
        self.events, self.memory, self.requests = [], {}, []
        self.used, self.expected, self.counts = Counter(), Counter(), Counter()

    def add(self, job, kind, value=0, weights=None):
        """An event of a job; the weights of its column go to the next free place of the job's."""
        index = self.used[job["job"]] if weights is not None else 0
        if weights is not None:
            self.used[job["job"]] += 1
            self.expected["starts", job["job"]] += 1
            self.expected["takes", job["job"]] += len(weights)
            for w, row in enumerate(weights):
                self.memory[job["weights"] + index * job["words"] + w] = word(row, 8)
        event = EVENT.pack(kind=kind.value, index=index, value=value)
        self.events.append((JOBS[self.pes].pack(**job), event))

    async def start(self, p_idle, p_weights):
        ports = self.ports
        ports.set(read_done=(1 << 15) - 1)
        await ports.begin("event__valid", "weights__valid", "reset", "peek_address")
        ports.set(reset=1)
        await ports.cycles()
        ports.set(reset=0)
        await ports.cycles()
        self.offering = cocotb.start_soon(self.offer(p_idle))
        cocotb.start_soon(get(ports, "request", self.requests, self.rng, p_weights))
        cocotb.start_soon(self.serve_weights(p_weights))
        cocotb.start_soon(self.count())

    async def offer(self, p_idle):
        ports, rng = self.ports, self.rng
        for job, event in self.events:
            while rng.random() < p_idle:
                ports.set(event__valid=0, event__payload=rng.getrandbits(len(ports.event__payload)))
                await RisingEdge(ports.clk)
            ports.set(event__valid=1, event__payload=event, job=job)
            await ports.until(lambda: ports.event__ready.value == 1)
        ports.set(event__valid=0)

    async def serve_weights(self, p_idle):
        """Answers the requests in order."""
        ports, rng, at = self.ports, self.rng, 0
        while True:
            while at == len(self.requests):
                ports.set(weights__valid=0, weights__payload=rng.getrandbits(8 * self.pes))
                await RisingEdge(ports.clk)
            burst = REQUESTS[self.pes].unpack(self.requests[at])
            at += 1
            for address in range(burst["address"], burst["address"] + burst["length"]):
                while rng.random() < p_idle:
                    ports.set(weights__valid=0, weights__payload=rng.getrandbits(8 * self.pes))
                    await RisingEdge(ports.clk)
                ports.set(weights__valid=1, weights__payload=self.memory.pop(address))
                await ports.until(lambda: ports.weights__ready.value == 1)

    async def count(self):
        """Adds up the signals for the counters; a cycle takes a word or waits for one thing at most."""
        ports = self.ports
        names = ("starts", "takes", "waits_weights", "waits_psums")
        while True:
            await RisingEdge(ports.clk)
            values = {name: int(getattr(ports, name).value) for name in names}
            assert values["takes"] + values["waits_weights"] + values["waits_psums"] <= 1
            assert values["takes"] == (ports.weights__valid.value == 1 and ports.weights__ready.value == 1)
            for name, value in values.items():
                self.counts[name, int(ports.counted.value)] += value

    def total(self, name):
        return sum(count for (counted, _), count in self.counts.items() if counted == name)

    def done(self, cell, t):
        bits = int(self.ports.done.value)
        return all(bits >> number & 1 == t % 2 for number, _, _ in cell.jobs)

    async def peek(self, address):
        """A word of K partial sums: an edge for the address, an edge for the data."""
        self.ports.peek_address.value = address
        await self.ports.cycles(2)
        return lanes(int(self.ports.peek_data.value), self.pes, 32)

    async def read(self, cell, t):
        """Read a step's partial sums as soon as they are said to be complete, from either end."""
        while not self.done(cell, t):
            await ValueChange(self.ports.done)
        for w in list(range(cell.words))[::self.rng.choice((1, -1))]:
            np.testing.assert_array_equal(await self.peek(cell.psum + w), cell.history[t][w], f"word {w}, step {t}")
            if self.rng.random() < 0.3:
                await self.ports.cycles(self.rng.randrange(8))
        read = int(self.ports.read_done.value) & ~(1 << cell.number)
        self.ports.read_done.value = read | (t % 2) << cell.number

    async def finish(self):
        """Wait for the end; every weight must be used and counted, for the right job."""
        await self.offering
        await self.ports.until(lambda: self.ports.idle.value == 1)
        await self.ports.cycles(SURPLUS_CYCLES)
        assert not self.memory
        counted = {key: count for key, count in self.counts.items() if count and key[0] in ("starts", "takes")}
        assert counted == self.expected


def cells(bench):
    """Cells of all kinds, whose columns have 1 to 12 words."""
    psum = 0
    sizes = [("dense", 1), ("dense", 2), ("dense", 5), ("gru", 1), ("gru", 2), ("lstm", 1), ("lstm", 3), ("dense", 3)]
    for number, (kind, blocks) in enumerate(sizes):
        cell = Cell(bench, number, kind, blocks, psum)
        psum += 2 * cell.words
        yield cell


@bench_test
@cocotb.parametrize(("pes", PES), (("p_idle", "p_weights"), PATTERNS[:4]), ("columns", [1, 6]))
async def sums_equal_products(dut, pes, p_idle, p_weights, columns):
    """Steps of several cells in turn; each is read while the columns of others, and its own next ones, come in."""
    bench = Bench(dut, pes, "sums", p_idle, p_weights, columns)
    group = list(cells(bench))
    for cell in group:
        cell.load()
    turns = []
    for t in range(8):
        for cell in bench.rng.sample(group, len(group)):
            cell.step(t, columns)
            turns.append((cell, t))
    await bench.start(p_idle, p_weights)
    for cell, t in turns:                       # there is one port to read through, so one after the other
        await bench.read(cell, t)
    await bench.finish()
    assert bench.total("waits_psums") > 0


@bench_test
@cocotb.parametrize(pes=PES, kind=["dense", "gru", "lstm"], blocks=[1, 2, 3, 7])
async def long_runs_wrap_around(dut, pes, kind, blocks):
    """Hundreds of columns on the same few words, as fast as they come, to beyond 32 bits."""
    bench = Bench(dut, pes, "wrap", kind, blocks)
    cell = Cell(bench, 0, kind, blocks, 5)
    cell.restarts, cell.bias = False, 0
    cell.load()
    for number, first, words in cell.jobs:
        for _ in range(300):
            cell.sums[first:first + words] = wrap(cell.sums[first:first + words] + 65535 * 127)
            bench.add(cell.job(number, first, words, 0), OpKind.COLUMN, 65535, np.full((words, pes), 127))
    assert 300 * 65535 * 127 > 1 << 31
    cell.step(0, 0)
    await bench.start(0.0, 0.0)
    await bench.read(cell, 0)
    await bench.finish()


@bench_test
@cocotb.parametrize(pes=PES, columns=[0, 3])
async def waits_until_a_cell_was_read(dut, pes, columns):
    """While a cell has not read step t, step t + 1 is not added, and not said to be done even without columns."""
    bench = Bench(dut, pes, "guard", columns)
    cell = Cell(bench, 7, "lstm", 1, 40)
    cell.load()
    cell.step(0, 3)
    if columns:
        cell.column(*cell.jobs[0], 1)
    cell.step(1, columns)
    cell.step(2, 0)
    await bench.start(0.0, 0.0)
    await bench.ports.until(lambda: bench.done(cell, 0))
    before = bench.total("takes")
    await bench.ports.cycles(100)
    assert bench.total("takes") == before and bench.done(cell, 0) and bench.ports.idle.value == 0
    for t in range(3):
        await bench.read(cell, t)
    await bench.finish()


@bench_test
@cocotb.parametrize(pes=PES)
async def one_word_a_cycle(dut, pes):
    """Columns of four words and more follow each other, and the next job's, without a gap."""
    bench = Bench(dut, pes, "rate")
    group = [Cell(bench, number, "lstm", 1 + number, 40 * number) for number in range(3)]
    for cell in group:
        cell.load()
    for cell in group:
        cell.step(0, 30)
    await bench.start(0.0, 0.0)
    await bench.finish()
    assert bench.total("waits_psums") == 0
    for cell in group:
        await bench.read(cell, 0)
