"""The sequencer of the CNN engine: which pass is offered to whom, and when."""

import cocotb
from cocotb.triggers import RisingEdge
from conv_back_benches import run_bench
from streams import Codec, Ports, bench_test, generators

from amacrine.hw.conv_sequencer import CONTROL, PASS, PASS_PAIRS, UNITS
from amacrine.sw.conv_layout import PASS_FIELDS

BITS, JOB = Codec(CONTROL), Codec(PASS)


def test_conv_sequencer(tmp_path):
    run_bench(__name__, tmp_path)


class Bench:
    """Units that take passes at random, results that drain a while later, inputs that come now and then."""

    def __init__(self, dut, rng):
        self.ports, self.rng = Ports(dut, "sequencer"), rng
        self.taken = {unit: [] for unit in UNITS}
        self.under_way = []         # passes, and cycles until their last results
        self.inputs = self.read = -1      # last step whose input is complete, and whose input is not needed any more

    async def load(self, passes):
        for number, fields in enumerate(passes):
            for pair in range(PASS_PAIRS):
                self.ports.set(write_enable=1, write_address=number * PASS_PAIRS + pair,
                               write_data=fields[PASS_FIELDS[2 * pair]] | fields[PASS_FIELDS[2 * pair + 1]] << 16)
                await self.ports.cycles()
        self.ports.set(write_enable=0)

    async def work(self, passes, p_busy, slowest):
        """The units; checks everything that a pass has to wait for."""
        ports, rng = self.ports, self.rng
        while True:
            ready = {unit: rng.random() >= p_busy for unit in UNITS}
            ports.set(**{f"ready_{unit}": value for unit, value in ready.items()}, drained=not self.under_way,
                      input_done=self.inputs % 4)
            inputs = self.inputs
            await RisingEdge(ports.clk)
            self.under_way = [(number, left - 1) for number, left in self.under_way if left > 1]
            self.follow_input()
            for unit in UNITS:
                if getattr(ports, f"valid_{unit}").value == 1 and ready[unit]:
                    self.take(passes, unit, inputs)
                    if unit == "finisher":
                        self.under_way.append((self.taken[unit][-1], rng.randrange(1, slowest)))
            if self.inputs < self.read + 2 and rng.random() < 0.05:
                self.inputs += 1

    def follow_input(self):
        read = int(self.ports.input_read.value)
        if read != self.read % 4:
            assert read == (self.read + 1) % 4
            self.read += 1

    def take(self, passes, unit, inputs):
        number = len(self.taken[unit])
        step, fields = number // len(passes), passes[number % len(passes)]
        job = JOB.unpack(int(self.ports.job.value))
        assert job == fields, (unit, number)
        control = BITS.unpack(fields["control"] & 0x1FFF)
        self.taken[unit].append(number)
        if unit == "kernels":
            return
        assert int(self.ports.step.value) == step % 2
        assert not control["input"] or self.read < step <= inputs, "the input is not there"
        assert not control["first"] or all(other >= number for other, _ in self.under_way), "results are to come"
        for name, taken in self.taken.items():
            assert len(taken) >= number, f"pass {number} came to {unit} before the one before came to {name}"


def program(rng):
    """Descriptors of a few layers with a few passes each; junk in all fields but `control`."""
    layers = rng.randint(1, 3)
    passes = []
    for layer in range(layers):
        count = rng.randint(1, 4)
        for number in range(count):
            fields = {name: rng.getrandbits(16) for name in PASS_FIELDS}
            junk = BITS.unpack(rng.getrandbits(13)) | {"input": layer == 0, "first": number == 0}
            fields["control"] = BITS.pack(**junk)
            passes.append(fields)
    return passes


@bench_test
@cocotb.parametrize(case=range(6), p_busy=[0.0, 0.8], slowest=[2, 100])
async def each_pass_to_each_unit_in_order(dut, case, p_busy, slowest):
    rng, _ = generators("sequencer", case, p_busy, slowest)
    bench, passes, steps = Bench(dut, rng), program(rng), 7
    ports = bench.ports
    await ports.begin("write_enable", "run", "drained", *(f"ready_{unit}" for unit in UNITS))
    await bench.load(passes)
    ports.set(count=len(passes), input_done=3)
    cocotb.start_soon(bench.work(passes, p_busy, slowest))
    await ports.cycles(50)
    assert not any(bench.taken.values())
    ports.set(run=1)
    await ports.until(lambda: len(bench.taken["decoder"]) >= steps * len(passes), limit=200_000)
