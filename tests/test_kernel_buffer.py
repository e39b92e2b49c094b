# amaranth: UnusedElaboratable=no
"""The kernel buffer: each pass's kernels and biases, loaded ahead as far as there is room and no further."""

import cocotb
import pytest
from cocotb.triggers import RisingEdge
from conv_core_benches import BUFFERS, run_bench
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.kernel_buffer import BIAS_SLOTS, KernelBuffer, kernel_job_layout
from amacrine.hw.numerics import request_layout
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import KERNEL_BURST, Parameters


def test_kernel_buffer(tmp_path):
    run_bench(__name__, tmp_path)


@pytest.mark.parametrize(("macs", "pes"), [(16, 12), (4, 8)])
def test_port_must_divide_a_kernel_word(macs, pes):
    with pytest.raises(ValueError, match="divided by a power of two"):
        KernelBuffer(ConvParameters(macs=macs), Parameters(pes=pes))


class Bench:
    """A kernel buffer, a weight memory in Python, and who uses kernels and biases."""

    def __init__(self, dut, ratio, *key):
        self.ports, self.ratio = Ports(dut, f"kernels{ratio}"), ratio
        self.params, weight_params, self.max_blocks = BUFFERS[ratio]
        self.rng, _ = generators("kernels", ratio, *key)
        self.port_bits = 8 * weight_params.pes
        self.job = Codec(kernel_job_layout(self.params, weight_params, self.max_blocks))
        self.request = Codec(request_layout(weight_params))
        self.memory = [self.rng.getrandbits(self.port_bits) for _ in range(1 << weight_params.weight_address_bits)]
        self.requests, self.jobs, self.served = [], [], 0
        self.used = self.finished = self.ready_cycles = 0       # passes

    def add(self, blocks, kernel_words):
        """A pass somewhere in weight memory."""
        words = 4 * blocks + kernel_words
        weights = self.rng.randrange(len(self.memory) - words * self.ratio)
        self.jobs.append({"weights": weights, "bias_words": 4 * blocks, "kernel_words": kernel_words})

    def word(self, job, index):
        start = job["weights"] + index * self.ratio
        return sum(self.memory[start + i] << (self.port_bits * i) for i in range(self.ratio))

    async def start(self, p_idle=0.0, p_stall=0.0):
        ports, rng = self.ports, self.rng
        await ports.begin("job__valid", "port__request__ready", "port__data__valid", "release", "bias_release", "stop",
                          "kernel_address", "bias_address")
        cocotb.start_soon(put(ports, "job", [self.job.pack(**job) for job in self.jobs], rng, p_idle))
        cocotb.start_soon(get(ports, "port__request", self.requests, rng, p_stall))
        cocotb.start_soon(self.serve(p_idle))
        cocotb.start_soon(self.watch())

    async def serve(self, p_idle):
        """Answers the requests in order."""
        ports, rng, at = self.ports, self.rng, 0
        while True:
            while at == len(self.requests):
                ports.set(port__data__valid=0, port__data__payload=rng.getrandbits(self.port_bits))
                await RisingEdge(ports.clk)
            burst = self.request.unpack(self.requests[at])
            at += 1
            assert 1 <= burst["length"] <= KERNEL_BURST
            for address in range(burst["address"], burst["address"] + burst["length"]):
                await put(ports, "port__data", [self.memory[address]], rng, p_idle)
                self.served += 1

    async def watch(self):
        """What is asked for is in the passes, in order, and there is room for it."""
        ports, wanted, seen, asked = self.ports, self.words_wanted(), 0, 0
        while True:
            await RisingEdge(ports.clk)
            for request in self.requests[seen:]:
                burst = self.request.unpack(request)
                for address in range(burst["address"], burst["address"] + burst["length"]):
                    number, expected, is_kernel = next(wanted)
                    assert address == expected and number < self.finished + BIAS_SLOTS
                    asked += is_kernel
            seen = len(self.requests)
            used = sum(job["kernel_words"] for job in self.jobs[:self.used])
            assert asked <= (used + self.params.kernel_depth) * self.ratio

    def words_wanted(self):
        for number, job in enumerate(self.jobs):
            words = job["bias_words"] + job["kernel_words"]
            for i in range(words * self.ratio):
                yield number, job["weights"] + i, i >= job["bias_words"] * self.ratio

    async def use_kernels(self, p_wait):
        """Reads the kernels of each pass as soon as it is ready, then releases it."""
        ports, rng, base = self.ports, self.rng, 0
        for job in self.jobs:
            await ports.until(lambda: ports.ready.value == 1)
            assert int(ports.base.value) == base
            for index in rng.sample(range(job["kernel_words"]), job["kernel_words"]):
                ports.kernel_address.value = (base + index) % self.params.kernel_depth
                await ports.cycles(2)
                assert int(ports.kernel_data.value) == self.word(job, job["bias_words"] + index)
            if rng.random() < p_wait:
                await ports.cycles(rng.randrange(500))
            base = (base + job["kernel_words"]) % self.params.kernel_depth
            self.used += 1
            ports.set(release=1)
            await ports.cycles()
            ports.set(release=0)
            await ports.cycles()

    async def use_biases(self, p_wait):
        """Reads the biases of each pass when its kernels have been used, or later, then releases them."""
        ports, rng = self.ports, self.rng
        for number, job in enumerate(self.jobs):
            while self.used <= number:
                await RisingEdge(ports.clk)
            for index in rng.sample(range(job["bias_words"]), job["bias_words"]):
                ports.bias_address.value = index
                await ports.cycles(2)
                assert int(ports.bias_data.value) == self.word(job, index)
            if rng.random() < p_wait:
                await ports.cycles(rng.randrange(2000))
            self.finished += 1
            ports.set(bias_release=1)
            await ports.cycles()
            ports.set(bias_release=0)
            await ports.cycles()


@bench_test
@cocotb.parametrize(("ratio", list(BUFFERS)), (("p_idle", "p_stall"), PATTERNS[:4]), ("p_wait", [0.0, 0.3]))
async def kernels_and_biases(dut, ratio, p_idle, p_stall, p_wait):
    """Small passes and such as fill the ring; all their words, and none that there is no room for."""
    bench = Bench(dut, ratio, "random", p_idle, p_stall, p_wait)
    rng, depth = bench.rng, bench.params.kernel_depth
    for _ in range(24):
        longest = rng.choice((1, 5, depth // 4, depth))
        bench.add(rng.randrange(1, bench.max_blocks + 1), rng.randrange(1, longest + 1))
    bench.add(bench.max_blocks, depth)
    await bench.start(p_idle, p_stall)
    using = [cocotb.start_soon(bench.use_kernels(p_wait)), cocotb.start_soon(bench.use_biases(p_wait))]
    for task in using:
        await task
    await bench.ports.cycles(SURPLUS_CYCLES)
    assert bench.ports.ready.value == 0
    assert bench.served == sum(job["bias_words"] + job["kernel_words"] for job in bench.jobs) * ratio


@bench_test
@cocotb.parametrize(ratio=list(BUFFERS))
async def loads_ahead(dut, ratio):
    """Passes behind the one at work are loaded while it is; four of them, as there are four bias slots."""
    bench = Bench(dut, ratio, "ahead")
    for _ in range(6):
        bench.add(1, 7)
    words = 11 * BIAS_SLOTS * ratio
    await bench.start()
    await bench.ports.cycles(words + 100)
    assert bench.served == words and bench.ports.ready.value == 1


@bench_test
@cocotb.parametrize(ratio=list(BUFFERS))
async def a_port_word_a_cycle(dut, ratio):
    """A large pass takes few cycles more than it has port words."""
    bench = Bench(dut, ratio, "speed")
    bench.add(1, bench.params.kernel_depth)
    await bench.start()
    cycles = 0
    while bench.ports.ready.value != 1:
        await RisingEdge(bench.ports.clk)
        cycles += 1
    words = (4 + bench.params.kernel_depth) * ratio
    assert cycles <= words + 8
