"""The finisher against plain NumPy."""

from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from conv_back_benches import PARAMETERS, run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put, word

from amacrine.hw.conv_macs import ANSWER_CYCLES, ROWS, finish_layout
from amacrine.hw.conv_numerics import chunk_layout, finished_layout
from amacrine.hw.finisher import finisher_job_layout
from amacrine.sw.activation import sigmoid, tanh
from amacrine.sw.fixed import requantise
from amacrine.sw.layout import Function

ROW = Codec(ROWS)
JOBS = {macs: Codec(finisher_job_layout(params)) for macs, params in PARAMETERS.items()}
REQUESTS = {macs: Codec(finish_layout(params)) for macs, params in PARAMETERS.items()}
CHUNKS = {macs: Codec(chunk_layout(params)) for macs, params in PARAMETERS.items()}
RESULTS = {macs: Codec(finished_layout(params)) for macs, params in PARAMETERS.items()}


def test_finisher(tmp_path):
    run_bench(__name__, tmp_path)


def wrapped(v):
    """Modulo 2**32, signed."""
    return (v + (1 << 31)) % (1 << 32) - (1 << 31)


class Pass:
    """A random pass: its job, partial sums by row, biases and expected results.

    Parameters
    ----------
    macs, rng, np_rng : P, generators
    slots, row_words : of its layer
    first : begins its layer
    large : as much as fits in a row, for measurements
    """

    def __init__(self, macs, rng, np_rng, slots, row_words, first, large=False):
        self.macs, self.lanes, self.slots, self.row_words = macs, macs // 4, slots, row_words
        self.depthwise = rng.random() < 0.4 and not large
        self.q_shift = rng.randint(0, 2) if not large else 0
        self.q = 1 << self.q_shift
        self.cp, per_block = macs // self.q, 4 // self.q
        self.blocks = rng.randint(1, 3) if self.depthwise or not self.q_shift else 1
        self.width = rng.randint(1, row_words // self.blocks * self.q)
        if large:
            self.blocks, self.width = 2, row_words // 2
        self.height = rng.randint(1, 5)
        self.out_words = -(-self.width // self.q)
        self.channels = (self.blocks - 1) * self.cp + (self.cp if large else rng.randint(1, self.cp))
        self.chunks = -(-self.channels // self.lanes)
        self.function, self.shift = rng.choice(list(Function)), rng.choice((0, 1, 15, rng.randint(0, 15)))
        linear = self.function in (Function.IDENTITY, Function.RELU)
        self.out_shift = 0 if linear else rng.randint(0, 7)
        self.ceiling = rng.choice((32767, rng.randint(0, 32767)))
        limit = 1 << rng.choice((31, 16 + self.shift))
        limit = min(limit, 1 << 31)
        self.psums = np_rng.integers(-limit, limit, (self.height, self.width, self.channels))
        self.bias = np_rng.integers(-limit, limit, self.channels)
        self.job = JOBS[macs].pack(
            out_height=self.height, out_width=self.width, out_words=self.out_words, blocks=self.blocks,
            depthwise=self.depthwise, q_shift=self.q_shift, row_words=row_words, slots=slots, first=first,
            channels=self.channels, chunks=self.chunks, function=self.function, shift=self.shift,
            out_shift=self.out_shift, ceiling=self.ceiling)
        self.first, self.per_block = first, per_block

    def results(self):
        y = wrapped(self.psums + self.bias)
        if self.function in (Function.IDENTITY, Function.RELU):
            y = requantise(y, self.shift, 16)
            y = np.maximum(y, 0) if self.function == Function.RELU else y
        else:
            function = sigmoid if self.function == Function.SIGMOID else tanh
            y = requantise(function(requantise(y, self.shift, 18)), self.out_shift, 16)
        return np.minimum(y, self.ceiling)

    def outputs(self):
        y = self.results()
        for row in range(self.height):
            for x in range(self.width):
                for k in range(self.chunks):
                    part = y[row, x, k * self.lanes:(k + 1) * self.lanes]
                    chunk = CHUNKS[self.macs].pack(values=word(part, 16), used=(1 << len(part)) - 1,
                                                   last=k == self.chunks - 1)
                    end = x == self.width - 1
                    yield RESULTS[self.macs].pack(chunk=chunk, x_odd=x % 2, y_odd=row % 2, row_last=end,
                                                  first=x == row == 0, final=end and row == self.height - 1)

    def words(self, row, number, rng):
        """(bank, address) and words of P partial sums of a row in slot `number`; unused lanes are junk."""
        slot = number % self.slots
        base = slot // 2 * self.row_words
        for w in range(self.out_words):
            for b in range(self.blocks):
                lanes = [rng.getrandbits(32) for _ in range(self.macs)]
                for q in range(self.q):
                    for i in range(self.cp):
                        if w * self.q + q < self.width and b * self.cp + i < self.channels:
                            lanes[q * self.cp + i] = self.psums[row, w * self.q + q, b * self.cp + i]
                offset = b * self.out_words + w if self.depthwise else w * self.blocks + b
                yield (slot % 2, base + offset), word(lanes, 32)

    def bias_word(self, address, rng):
        block, i = divmod(address, 4)
        channels = [block * self.cp + i * self.lanes + lane for lane in range(self.lanes)]
        return word([self.bias[c] if c < self.channels else rng.getrandbits(32) for c in channels], 32)


class Bench:
    """Partial-sum memory, bias memory and the rows of several passes for one finisher."""

    def __init__(self, dut, macs, rng, np_rng):
        self.macs, self.rng, self.np_rng = macs, rng, np_rng
        self.ports = Ports(dut, f"finisher{macs}")
        self.memory, self.items, self.passes = {}, [], []
        self.flushed = self.bias_release = self.requests = 0

    async def serve(self, p_wait):
        """Grants requests and answers; counts rows and passes."""
        ports, rng, codec = self.ports, self.rng, REQUESTS[self.macs]
        answers = deque([None] * (ANSWER_CYCLES - 1))
        granted = False
        while True:
            ready = rng.random() >= p_wait
            ports.finish__ready.value = int(ready)
            await RisingEdge(ports.clk)
            granted = ready and ports.finish__valid.value == 1
            answer = None
            if granted:
                request = codec.unpack(int(ports.finish__payload.value))
                place = (request["bank"], request["address"])
                answer = self.memory[place]     # only words of rows that are final
                self.requests += 1
                if request["clear"]:
                    del self.memory[place]
            answers.append(answer)
            answer = answers.popleft()
            ports.answer.value = rng.getrandbits(32 * self.macs) if answer is None else answer
            if self.bias_release < len(self.passes):
                bias = self.passes[self.bias_release].bias_word(int(ports.bias_address.value), rng)
                ports.bias_data.value = bias
            self.flushed += int(ports.flushed.value)
            self.bias_release += int(ports.bias_release.value)

    async def feed(self, p_idle):
        """Announces rows, several at a time, as far as there are slots."""
        ports, rng, number, total = self.ports, self.rng, 0, 0
        for one in self.passes:
            if one.first:
                await ports.until(lambda total=total: self.flushed == total)
                assert not self.memory
                number = 0
            row = 0
            while row < one.height:
                room = min(one.slots - (total - self.flushed), one.height - row)
                count = rng.randint(0, room) if room else 0
                for _ in range(count):
                    for place, bits in one.words(row, number, rng):
                        assert place not in self.memory
                        self.memory[place] = bits
                    row, number, total = row + 1, number + 1, total + 1
                report = ROW.pack(final=count or rng.getrandbits(9), last=rng.getrandbits(1))
                ports.set(rows_valid=count != 0, rows=report)
                await ports.cycles()
                ports.set(rows_valid=0)
                while rng.random() < p_idle:
                    await ports.cycles()

    async def run(self, passes, p_idle, p_stall, p_wait):
        ports, self.passes = self.ports, passes
        ports.set(job__valid=0, rows_valid=0, finish__ready=0, finished__ready=0)
        cocotb.start_soon(self.serve(p_wait))
        cocotb.start_soon(get(ports, "finished", self.items, self.rng, p_stall))
        cocotb.start_soon(put(ports, "job", [one.job for one in passes], self.rng, p_idle))
        expected = [bits for one in passes for bits in one.outputs()]
        await self.feed(p_idle)
        await ports.until(lambda: len(self.items) >= len(expected), 200_000)
        await ports.cycles(SURPLUS_CYCLES)
        self.check(expected)

    def check(self, expected):
        codec = RESULTS[self.macs]
        for i, (item, right) in enumerate(zip(self.items, expected, strict=True)):
            assert item == right, (i, codec.unpack(item), codec.unpack(right))
        assert not self.memory
        assert self.flushed == sum(one.height for one in self.passes)
        assert self.bias_release == len(self.passes)


def layer(macs, rng, np_rng):
    """One to three passes of one layer."""
    slots = rng.choice((2, 4, 6))
    row_words = rng.randint(3, PARAMETERS[macs].psum_depth // slots)
    row_words = min(row_words, rng.choice((3, 5, 12)))
    return [Pass(macs, rng, np_rng, slots, row_words, first=i == 0) for i in range(rng.randint(1, 3))]


@patterns
async def against_numpy(dut, p_idle, p_stall):
    for macs in PARAMETERS:
        rng, np_rng = generators("finisher", macs, p_idle, p_stall)
        bench = Bench(dut, macs, rng, np_rng)
        if macs == min(PARAMETERS):
            await bench.ports.begin("job__valid", "rows_valid", "finish__ready", "finished__ready")
        passes = [one for _ in range(12) for one in layer(macs, rng, np_rng)]
        await bench.run(passes, p_idle, p_stall, rng.choice((0.0, 0.5)))


@bench_test
async def one_chunk_a_cycle(dut):
    """A chunk a cycle but for one between rows, and a request for each word only."""
    rng, np_rng = generators("rate")
    bench = Bench(dut, 16, rng, np_rng)
    await bench.ports.begin("job__valid", "rows_valid", "finish__ready", "finished__ready")
    one = Pass(16, rng, np_rng, 8, 32, True, large=True)
    chunks = one.height * one.width * one.chunks
    cocotb.start_soon(bench.run([one], 0.0, 0.0, 0.0))
    await bench.ports.until(lambda: bench.items)
    await bench.ports.cycles(chunks - 1 + 2 * one.height)
    assert len(bench.items) == chunks
    assert bench.requests == one.height * one.out_words * one.blocks
