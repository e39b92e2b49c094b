"""The scatter unit: its runs, done in NumPy with kernels packed as documented, are the convolution."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from conv_core_benches import SCATTER, run_bench
from conv_layers import Pass, check_reports, random_image, random_layer
from conv_packing import random_convolution
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.conv_numerics import FEATURE, conv_op_layout
from amacrine.hw.scatter import scatter_job_layout

PES = list(SCATTER)
ELEMENT = Codec(FEATURE)
SLOWEST = 60        # cycles until a final row is flushed, at most


def test_scatter(tmp_path):
    run_bench(__name__, tmp_path)


class Bench:
    """A scatter unit, partial sums in NumPy, and a finisher that flushes rows after a while."""

    def __init__(self, dut, macs, slowest, *key):
        self.ports, self.params, self.slowest = Ports(dut, f"scatter{macs}"), SCATTER[macs], slowest
        self.rng, self.np_rng = generators("scatter", macs, slowest, *key)
        self.op, self.job = Codec(conv_op_layout(self.params)), Codec(scatter_job_layout(self.params))
        self.psums = np.zeros((2, self.params.psum_depth // 2, macs), np.int64)
        self.final, self.row, self.ops, self.taken, self.waits = [], 0, [], 0, 0

    async def run(self, passes, p_idle, p_stall):
        """All passes, one after the other; checks all their sums."""
        ports, rng = self.ports, self.rng
        await ports.begin("job__valid", "feature__valid", "op__ready", "flushed")
        elements = [element for each in passes for element in each.elements(ELEMENT, rng)]
        cocotb.start_soon(put(ports, "job", [each.job(self.job) for each in passes], rng, p_idle))
        cocotb.start_soon(put(ports, "feature", elements, rng, p_idle))
        cocotb.start_soon(get(ports, "op", self.ops, rng, p_stall))
        cocotb.start_soon(self.finish())
        for each in passes:
            await self.follow(each)
        while self.final:
            await ports.cycles()
        await ports.cycles(SURPLUS_CYCLES)
        assert self.taken == len(self.ops)
        assert not self.psums.any()

    async def follow(self, each):
        """Does the runs of a pass as they come."""
        convolution, cycles, finals, ended = each.convolution, 0, [], False
        if each.first:
            self.row = 0
        rows = iter(range(convolution.out_height))
        while not ended:
            op = await self.next_op()
            if op["row_end"]:
                finals.append(op["final"])
                for _ in range(op["final"]):
                    self.final.append((each, next(rows)))
                ended = op["last"]
            else:
                words = op["words"]
                cycles += words
                kernels = each.kernels[op["kernel"]:op["kernel"] + words]
                assert len(kernels) == words
                self.psums[op["bank"], op["psum"]:op["psum"] + words] += kernels * op["value"]
        assert next(rows, None) is None
        check_reports(convolution, each.image.shape[1], finals)
        assert cycles == convolution.cycles(each.image)

    async def next_op(self):
        for _ in range(20_000):
            if self.taken < len(self.ops):
                self.taken += 1
                return self.op.unpack(self.ops[self.taken - 1])
            await RisingEdge(self.ports.clk)
        raise AssertionError("no further op")

    async def finish(self):
        """Compares final rows with the convolution, and zeroes their slots."""
        ports, row = self.ports, 0
        while True:
            await RisingEdge(ports.clk)
            ports.set(flushed=0)
            self.waits += int(ports.waits.value)
            if not self.final:
                continue
            for _ in range(self.rng.randrange(self.slowest)):
                await RisingEdge(ports.clk)
                self.waits += int(ports.waits.value)
            each, out_row = self.final.pop(0)
            row = 0 if each.first and out_row == 0 else row
            slot = row % each.slots
            start, held = slot // 2 * each.row_words, each.held
            words = self.psums[slot % 2, start:start + len(held)]
            np.testing.assert_array_equal(words[held], each.words[out_row][held], f"row {out_row}")
            words[:] = 0
            row += 1
            ports.set(flushed=1)


@bench_test
@cocotb.parametrize(("macs", PES), (("p_idle", "p_stall"), PATTERNS), ("slowest", [1, SLOWEST]))
async def runs_are_the_convolution(dut, macs, p_idle, p_stall, slowest):
    """Layers of random convolutions."""
    bench = Bench(dut, macs, slowest, "random", p_idle, p_stall)
    passes = [each for _ in range(8) for each in random_layer(bench.np_rng, bench.params, bench.rng.randrange(1, 4))]
    await bench.run(passes, p_idle, p_stall)


@bench_test
@cocotb.parametrize(macs=PES)
async def rows_wait_for_their_slots(dut, macs):
    """A finisher that is slower than the input rows, and as few slots as there may be; two passes."""
    bench = Bench(dut, macs, SLOWEST, "slots")
    geometry = {"kernel": (3, 3), "stride": (1, 1), "pads": (1, 1), "out_height": 10, "out_width": 8}
    image, layer = random_image(bench.np_rng, (2, 10, 8)), []
    for _ in range(2):
        convolution = random_convolution(bench.np_rng, macs, image.shape, 0, 2, geometry)
        layer.append(Pass(convolution, image, not layer))
    for each in layer:
        each.row_words, each.slots = max(other.words.shape[1] for other in layer), 4
    await bench.run(layer, 0.0, 0.0)
    assert bench.waits > 0


@bench_test
@cocotb.parametrize(macs=PES, kernel=[1, 3])
async def a_run_each_cycle(dut, macs, kernel):
    """Runs of one word: a row of elements gives as many ops as cycles, and little is lost between rows."""
    bench = Bench(dut, macs, 1, "cycles", kernel)
    ports, width, rows = bench.ports, 200, 6
    await ports.begin("job__valid", "feature__valid", "op__ready", "flushed")
    taps = {"y_taps": kernel, "x_taps": 1}
    job = bench.job.pack(**taps, kernel_last=kernel - 1, channel_high=1, out_height=rows, out_width=width,
                         out_words=width, run_blocks=1, row_words=8, slots=kernel + 1, channel_words=kernel,
                         kernel_row=1, column_0=1, column_parity=1, first=1, top=kernel // 2)
    elements = []
    for y in range(rows):
        elements += [ELEMENT.pack(x=x, value=1) for x in range(width)] + [ELEMENT.pack(row_end=1, last=y == rows - 1)]
    cocotb.start_soon(put(ports, "job", [job], bench.rng))
    cocotb.start_soon(put(ports, "feature", elements, bench.rng))
    ports.set(op__ready=1)
    runs = [width * sum(0 <= y + kernel // 2 - k < rows for k in range(kernel)) for y in range(rows)]
    for y, expected in enumerate(runs):
        taken, before, within = await row_of_ops(bench)
        # Templates are let in again only when their queue has drained a little.
        assert taken == expected and (y == 0 or before <= 4) and within <= 2, (taken, before, within)
        if y >= kernel // 2:
            cocotb.start_soon(flush(ports))


async def row_of_ops(bench):
    """Runs up to a row end, and the cycles without one, before the first and within the row."""
    ports, taken, before, within = bench.ports, 0, 0, 0
    while True:
        await RisingEdge(ports.clk)
        if ports.op__valid.value == 1:
            if bench.op.unpack(int(ports.op__payload.value))["row_end"]:
                return taken, before, within
            taken += 1
        elif taken:
            within += 1
        else:
            before += 1


async def flush(ports):
    ports.set(flushed=1)
    await RisingEdge(ports.clk)
    ports.set(flushed=0)
