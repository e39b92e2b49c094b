"""Scatter unit, MACs and kernel buffer together: elements and packed kernels in, the sums of a convolution out."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from conv_core_benches import MIDDLE_PORTS, SCATTER, run_bench
from conv_layers import random_layer
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, lanes, put, word

from amacrine.hw.conv_macs import ROWS, finish_layout
from amacrine.hw.conv_numerics import FEATURE
from amacrine.hw.kernel_buffer import kernel_job_layout
from amacrine.hw.numerics import request_layout
from amacrine.hw.scatter import scatter_job_layout

ELEMENT, ROW = Codec(FEATURE), Codec(ROWS)


def test_conv_middle(tmp_path):
    run_bench(__name__, tmp_path)


def wrap(sums):
    return (sums + (1 << 31)) % (1 << 32) - (1 << 31)


class Bench:
    """Feeds passes, and reads and zeroes the rows that are final."""

    def __init__(self, dut, macs, *key):
        self.ports, self.params, self.weight_params = Ports(dut, f"middle{macs}"), SCATTER[macs], MIDDLE_PORTS[macs]
        self.rng, self.np_rng = generators("middle", macs, *key)
        self.finish, self.job = Codec(finish_layout(self.params)), Codec(scatter_job_layout(self.params))
        self.kernel_job = Codec(kernel_job_layout(self.params, self.weight_params, 16))
        self.request = Codec(request_layout(self.weight_params))
        self.memory, self.requests, self.reports, self.takes = [], [], [], 0

    def load(self, each):
        """Puts a pass's biases (which nobody reads here) and kernels into weight memory; its job for the buffer."""
        start, macs, pes = len(self.memory), self.params.macs, self.weight_params.pes
        rows = [*self.np_rng.integers(-128, 128, (4 * each.convolution.blocks, macs)), *each.kernels]
        self.memory += [word(row[i:i + pes], 8) for row in rows for i in range(0, macs, pes)]
        return self.kernel_job.pack(weights=start, bias_words=4 * each.convolution.blocks,
                                    kernel_words=len(each.kernels))

    async def run(self, passes, p_idle, p_stall):
        ports, rng = self.ports, self.rng
        await ports.begin("job__valid", "kernel_job__valid", "feature__valid", "port__request__ready",
                          "port__data__valid", "finish__valid", "flushed", "clear", "bias_release")
        for address in range(self.params.psum_depth // 2):
            ports.set(clear=1, clear_word=address)
            await ports.cycles()
        ports.set(clear=0)
        await ports.cycles(5)
        elements = [element for each in passes for element in each.elements(ELEMENT, rng)]
        cocotb.start_soon(put(ports, "job", [each.job(self.job) for each in passes], rng, p_idle))
        cocotb.start_soon(put(ports, "kernel_job", [self.load(each) for each in passes], rng, p_idle))
        cocotb.start_soon(put(ports, "feature", elements, rng, p_idle))
        cocotb.start_soon(self.serve_weights(p_stall))
        cocotb.start_soon(self.watch())
        row = 0
        for each in passes:
            row = await self.finish_pass(each, 0 if each.first else row, p_stall)
        await ports.cycles(SURPLUS_CYCLES)
        assert not self.reports
        assert self.takes == sum(each.convolution.cycles(each.image) for each in passes)

    async def serve_weights(self, p_stall):
        ports, rng = self.ports, self.rng
        while True:
            ports.set(port__request__ready=1)
            await ports.until(lambda: ports.port__request__valid.value == 1, limit=1_000_000)
            burst = self.request.unpack(int(ports.port__request__payload.value))
            ports.set(port__request__ready=0)
            words = self.memory[burst["address"]:burst["address"] + burst["length"]]
            await put(ports, "port__data", words, rng, p_stall)

    async def watch(self):
        """Final rows as they are reported, one entry each: whether the report said that it is the last."""
        ports = self.ports
        while True:
            await RisingEdge(ports.clk)
            self.takes += int(ports.takes.value)
            if ports.rows_valid.value == 1:
                report = ROW.unpack(int(ports.rows.value))
                self.reports.append((report["final"], report["last"]))

    async def finish_pass(self, each, row, p_stall):
        """Reads and zeroes all rows of a pass as they become final; the number of the next pass's first row."""
        done = last = 0
        while not last:
            while not self.reports:
                await RisingEdge(self.ports.clk)
            final, last = self.reports.pop(0)
            for out_row in range(done, done + final):
                words = await self.read_row((row + out_row) % each.slots, each.row_words, len(each.held), p_stall)
                np.testing.assert_array_equal(words[each.held], wrap(each.words[out_row])[each.held], f"row {out_row}")
            done += final
        assert done == each.convolution.out_height
        self.ports.set(bias_release=1)
        await self.ports.cycles()
        self.ports.set(bias_release=0)
        return row + done

    async def read_row(self, slot, row_words, words, p_stall):
        """A row's words, requests back to back at times; says that it is flushed when the last answer has come."""
        ports, start, answers = self.ports, slot // 2 * row_words, []
        reading = cocotb.start_soon(self.answers(answers, words))
        requests = [self.finish.pack(bank=slot % 2, address=start + i, clear=1) for i in range(words)]
        await put(ports, "finish", requests, self.rng, p_stall)
        await reading
        ports.set(flushed=1)
        await ports.cycles()
        ports.set(flushed=0)
        return np.array(answers)

    async def answers(self, answers, count):
        while len(answers) < count:
            await RisingEdge(self.ports.clk)
            if self.ports.answer_valid.value == 1:
                answers.append(lanes(int(self.ports.answer.value), self.params.macs, 32))


@bench_test
@cocotb.parametrize(("macs", list(SCATTER)), (("p_idle", "p_stall"), PATTERNS[:4]), ("part", [0, 1]))
async def sums_are_the_convolution(dut, macs, p_idle, p_stall, part):
    """Layers of random convolutions, with all their passes behind one another."""
    bench = Bench(dut, macs, p_idle, p_stall, part)
    passes = [each for _ in range(6) for each in random_layer(bench.np_rng, bench.params, bench.rng.randrange(1, 4))]
    await bench.run(passes, p_idle, p_stall)
