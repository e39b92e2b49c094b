"""The MACs against sums of products: runs that meet in the pipeline, and the finisher on the same banks."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from conv_core_benches import MACS, run_bench
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, lanes, put, word

from amacrine.hw.conv_macs import ANSWER_CYCLES, KERNEL_HOLD, ROWS, finish_layout
from amacrine.hw.conv_numerics import conv_op_layout

PES = list(MACS)
ROW = Codec(ROWS)
EXTREMES = (-32768, 32767, 1, -1)


def test_conv_macs(tmp_path):
    run_bench(__name__, tmp_path)


def wrap(sums):
    return (sums + (1 << 31)) % (1 << 32) - (1 << 31)


class Bench:
    """MACs, a kernel memory in Python, and the partial sums as they must be.

    The words of each bank are in two groups: runs go to one, and the finisher reads the other.
    """

    def __init__(self, dut, macs, *key):
        self.ports, self.params = Ports(dut, f"macs{macs}"), MACS[macs]
        self.rng, self.np_rng = generators(macs, *key)
        self.op, self.finish = Codec(conv_op_layout(self.params)), Codec(finish_layout(self.params))
        self.depth, self.base = self.params.psum_depth // 2, 0
        self.kernels = self.np_rng.integers(-128, 128, (self.params.kernel_depth, macs))
        self.kernels[self.np_rng.random(self.kernels.shape) < 0.2] = 0
        self.kernels[self.np_rng.random(len(self.kernels)) < 0.1] = -128
        self.sums = np.zeros((2, self.depth, macs), np.int64)
        self.rows, self.counts = [], {"takes": 0, "zero_weights": 0, "releases": 0}
        self.expected = dict(self.counts)

    async def start(self):
        ports = self.ports
        await ports.begin("op__valid", "finish__valid", "clear", "kernel_ready", "kernel_base", "kernel_data")
        for address in range(self.depth):
            ports.set(clear=1, clear_word=address)
            await ports.cycles()
        ports.set(clear=0, clear_word=self.rng.randrange(self.depth))
        await ports.cycles(5)
        cocotb.start_soon(self.serve_kernels())
        cocotb.start_soon(self.watch())
        cocotb.start_soon(self.move_base())

    async def serve_kernels(self):
        ports = self.ports
        words = [word(row, 8) for row in self.kernels]
        while True:
            await RisingEdge(ports.clk)
            ports.kernel_data.value = words[int(ports.kernel_address.value)]

    async def watch(self):
        """Row ends and counters."""
        ports = self.ports
        while True:
            await RisingEdge(ports.clk)
            for name in ("takes", "zero_weights"):
                self.counts[name] += int(getattr(ports, name).value)
            self.counts["releases"] += int(ports.kernel_release.value)
            if ports.rows_valid.value == 1:
                self.rows.append(ROW.unpack(int(ports.rows.value)))

    async def move_base(self):
        """Moves the kernels' base at the end of a pass, as late as it may, or makes the next pass wait."""
        ports, rng = self.ports, self.rng
        ports.set(kernel_ready=1)
        for base in self.bases[1:]:
            await ports.until(lambda: ports.kernel_release.value == 1, limit=1_000_000)
            if rng.random() < 0.5:
                await ports.cycles(KERNEL_HOLD - 1)
            else:
                ports.set(kernel_base=rng.randrange(self.params.kernel_depth), kernel_ready=0)
                await ports.cycles(rng.randrange(1, 20))
            ports.set(kernel_base=base, kernel_ready=1)

    def run(self, group, words):
        """A run in one group, added to the expected sums."""
        rng, half = self.rng, self.depth // 2
        words = min(words, half)
        bank, start = rng.randrange(2), group * half + rng.randrange(half - words + 1)
        kernel, value = rng.randrange(self.params.kernel_depth), \
            rng.choice(EXTREMES) if rng.random() < 0.3 else rng.randrange(-32768, 32768)
        row = self.kernels[(self.base + kernel + np.arange(words)) % self.params.kernel_depth]
        target = self.sums[bank, start:start + words]
        target[:] = wrap(target + row * value)
        self.expected["takes"] += words
        self.expected["zero_weights"] += int(np.sum(row == 0))
        return self.op.pack(bank=bank, psum=start, kernel=kernel, words=words, value=value, final=rng.randrange(1024))

    def end(self, final, last):
        return self.op.pack(row_end=1, final=final, last=last, words=self.rng.randrange(1 << 13))

    async def rows_ended(self, count):
        await self.ports.until(lambda: len(self.rows) == count)

    async def ask(self, requests, expected, p_idle):
        """Requests of the finisher back to back, and their answers, which have no back-pressure."""
        ports, answers, taken = self.ports, [], []
        done = cocotb.start_soon(self.answers(answers, taken, len(requests)))
        for request in requests:
            while self.rng.random() < p_idle:
                ports.set(finish__valid=0, finish__payload=self.rng.getrandbits(len(ports.finish__payload)))
                await RisingEdge(ports.clk)
            ports.set(finish__valid=1, finish__payload=self.finish.pack(**request))
            await ports.until(lambda: ports.finish__ready.value == 1)
        ports.set(finish__valid=0)
        await done
        np.testing.assert_array_equal(answers, expected)

    async def answers(self, answers, taken, count):
        ports, cycle = self.ports, 0
        while len(answers) < count:
            await RisingEdge(ports.clk)
            cycle += 1
            if ports.finish__valid.value == 1 and ports.finish__ready.value == 1:
                taken.append(cycle)
            if ports.answer_valid.value == 1:
                assert cycle - taken[len(answers)] == ANSWER_CYCLES
                answers.append(lanes(int(ports.answer.value), self.params.macs, 32))

    async def read(self, group, sums, p_idle):
        """Reads all words of a group in any order, and zeroes some of them."""
        half = self.depth // 2
        words = [(bank, group * half + i) for bank in range(2) for i in range(half)]
        self.rng.shuffle(words)
        requests = [{"bank": bank, "address": address, "clear": int(self.rng.random() < 0.5)}
                    for bank, address in words]
        await self.ask(requests, [sums[request["bank"], request["address"]] for request in requests], p_idle)
        return [(request["bank"], request["address"]) for request in requests if request["clear"]]


@bench_test
@cocotb.parametrize(("macs", PES), (("p_idle", "p_stall"), PATTERNS[:4]), ("longest", [1, 3, 30]))
async def sums_equal_products(dut, macs, p_idle, p_stall, longest):
    """Phases of runs; after each one the finisher reads its words while the runs of the next go to others."""
    bench = Bench(dut, macs, "sums", p_idle, p_stall, longest)
    ports, rng = bench.ports, bench.rng
    bench.bases = [0] + [rng.randrange(bench.params.kernel_depth) for _ in range(40)]
    await bench.start()
    ends, read = [], None
    for phase in range(16):
        ops = [bench.run(phase % 2, rng.randrange(1, longest + 1)) for _ in range(rng.randrange(60))]
        last = rng.random() < 0.4
        ends.append({"final": rng.randrange(1024), "last": int(last)})
        ops.append(bench.end(**ends[-1]))
        if last:
            bench.base = bench.bases[sum(end["last"] for end in ends)]
        offering = cocotb.start_soon(put(ports, "op", ops, rng, p_idle))
        if read is not None:
            for bank, address in await read:
                bench.sums[bank, address] = 0
        await offering
        await bench.rows_ended(len(ends))
        read = cocotb.start_soon(bench.read(phase % 2, bench.sums.copy(), p_stall))
    await read
    await ports.cycles(SURPLUS_CYCLES)
    assert ports.idle.value == 1
    assert bench.rows == ends
    assert bench.counts == bench.expected | {"releases": sum(end["last"] for end in ends)}


@bench_test
@cocotb.parametrize(macs=PES, words=[1, 2, 3, 4, 5])
async def runs_follow_without_a_gap(dut, macs, words):
    """Each word of each run takes one cycle, also when all runs go to the same words."""
    bench = Bench(dut, macs, "cycles", words)
    ports = bench.ports
    bench.bases = [0, 0]
    await bench.start()
    ops = [bench.run(0, words) for _ in range(200)] + [bench.end(1, 1)]
    before = bench.counts["takes"]
    taking = cocotb.start_soon(put(ports, "op", ops, bench.rng))
    await ports.until(lambda: ports.takes.value == 1)
    while ports.takes.value == 1:
        await RisingEdge(ports.clk)
    assert bench.counts["takes"] - before == bench.expected["takes"]
    await taking
    await ports.cycles(SURPLUS_CYCLES)
    await bench.read(0, bench.sums, 0.0)
