"""The cell unit against the golden cells."""

import cocotb
import numpy as np
from benches import PARAMETERS, run_bench
from cocotb.triggers import RisingEdge
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, signed, word

from amacrine.hw.cell import Cell, cell_job_layout
from amacrine.sw.compile import GRU_GROUPS
from amacrine.sw.fixed import ACTIVATION_FRACS, CELL_FRACS, PRE_FRAC, SHIFTS, STATE_FRAC
from amacrine.sw.golden import dense_cell, recurrent_cell
from amacrine.sw.layout import CellKind, Function
from amacrine.sw.qlayers import BOUNDED, QGRU, QLSTM, QDense, Source

CODECS = {pes: Codec(cell_job_layout(parameters)) for pes, parameters in PARAMETERS.items()}
FUNCTIONS = {"identity": Function.IDENTITY, "relu": Function.RELU, "sigmoid": Function.SIGMOID, "tanh": Function.TANH}
KINDS = (*FUNCTIONS, "gru", "lstm")
STATE_CYCLES = 5        # from an address of the state memory to its data, or more
CORNERS = (-(1 << 31), (1 << 31) - 1, 0, -1)


def test_cell(tmp_path):
    run_bench(__name__, tmp_path)


class Layer:
    """A layer with its descriptor, its state, and the partial sums of its present step.

    Parameters
    ----------
    pes, number, kind, units : PEs, cell job, one of KINDS, size
    shift, output_frac, cell_frac : formats; partial sums have ``shift`` more fractional bits than they are cut to
    psum, state, vector : where in the memories
    output : the vector goes to the host, too
    """

    def __init__(self, pes, number, kind, units, shift, output_frac, cell_frac, psum, state, vector, output):
        self.pes, self.number, self.units, self.state, self.vector = pes, number, units, state, vector
        self.psum, self.shift, self.output, self.steps = psum, shift, output, 0
        self.blocks = -(-units // pes)
        linear = kind in FUNCTIONS and kind not in BOUNDED
        scale = shift + (output_frac if linear else PRE_FRAC)
        self.gates = 1 if kind in FUNCTIONS else 4
        source = Source(np.zeros((units, 1), np.int8), scale, 0, "delta", 0)
        zero = np.zeros(units, np.int16)
        if kind in FUNCTIONS:
            self.q = QDense("layer", source, zero, kind, output_frac)
        elif kind == "gru":
            self.q = QGRU("layer", source, source, zero, output_frac, zero)
        else:
            self.q = QLSTM("layer", source, source, zero, output_frac, cell_frac, zero, zero)
        self.job = {
            "cell": number, "psum": psum, "blocks": self.blocks, "units": units, "state": state, "vector": vector,
            "kind": {"gru": CellKind.GRU, "lstm": CellKind.LSTM}.get(kind, CellKind.DENSE),
            "function": FUNCTIONS.get(kind, 0), "shift": shift, "out_shift": 0 if linear else STATE_FRAC - output_frac,
            "cell_shift": PRE_FRAC - cell_frac if kind == "lstm" else 0, "output": output}

    def begin(self, np_rng):
        """Choose the state at the start of a sequence."""
        if isinstance(self.q, QDense):
            self.inner = np.zeros(0, np.int64)
            return
        self.inner = np_rng.integers(-32768, 32768, self.units) >> np_rng.integers(0, 16, self.units)
        self.inner[np_rng.random(self.units) < 0.2] = -32768
        self.inner[np_rng.random(self.units) < 0.2] = 32767

    def step(self, np_rng, memory):
        """Put new partial sums into `memory`, words of K of them, and return the expected vector."""
        shape = (self.gates, self.units)
        limit = 1 << min(31, 19 + self.shift)         # twice what the pre-activations hold
        psums = np_rng.integers(-limit, limit, shape) >> np_rng.integers(0, 8, shape)
        corner = np_rng.random(shape) < 0.08
        psums[corner] = np_rng.choice(CORNERS, corner.sum())
        order = GRU_GROUPS if isinstance(self.q, QGRU) else range(self.gates)
        for group, gate in enumerate(order):
            for block in range(self.blocks):
                row = psums[gate, block * self.pes:(block + 1) * self.pes].tolist()
                row += np_rng.integers(-(1 << 31), 1 << 31, self.pes - len(row)).tolist()     # beyond the last unit
                memory[self.psum + group * self.blocks + block] = word(row, 32)
        self.steps += 1
        if isinstance(self.q, QDense):
            return dense_cell(self.q, psums[0])
        self.inner, h = recurrent_cell(self.q, psums, self.inner)
        return h


class Bench:
    """A cell unit, the partial sums it reads, and what it writes."""

    def __init__(self, dut, pes, rng, np_rng):
        self.ports, self.pes, self.rng, self.np_rng = Ports(dut, f"cell{pes}"), pes, rng, np_rng
        self.memory, self.layers = {}, {}
        self.jobs = []              # (layer, expected vector, step), in the order of the jobs
        self.writes, self.items, self.expected = [], [], []

    async def start(self, layers, p_stall):
        ports = self.ports
        self.layers = {layer.number: layer for layer in layers}
        await ports.begin("job__valid", "state_write", "reset", "output__ready", "peek_data", "discard")
        ports.set(state_selects=1)
        ports.set(reset=1)
        await ports.cycles()
        ports.set(reset=0)
        await ports.cycles(2)
        assert ports.idle.value == 1
        for layer in layers:
            layer.begin(self.np_rng)
            for i, value in enumerate(layer.inner):
                ports.set(state_write=1, state_address=layer.state + i, state_w_data=int(value) & 0xFFFF)
                await ports.cycles()
        ports.set(state_write=0)
        cocotb.start_soon(self.serve())
        if p_stall is not None:
            cocotb.start_soon(get(ports, "output", self.items, self.rng, p_stall))

    def junk(self):
        return self.rng.getrandbits(32 * self.pes)

    async def serve(self):
        """Serves partial sums, which are junk once they are said to be read; checks progress and flags."""
        ports = self.ports
        read = written = 0          # jobs all of whose partial sums were read, whose elements were written
        elements = 0                # of the job that is being written
        while True:
            await RisingEdge(ports.clk)
            while read < len(self.jobs) and self.flag(ports.read_done, read):
                layer = self.jobs[read][0]
                for address in range(layer.psum, layer.psum + layer.gates * layer.blocks):
                    self.memory[address] = self.junk()
                read += 1
            ports.peek_data.value = self.memory.get(int(ports.peek_address.value), 0)
            for number in range(written, len(self.jobs)):
                assert not self.flag(ports.write_done, number), "done before the last element"
            assert int(ports.progress_count.value) == elements
            if elements:
                assert int(ports.progress_cell.value) == self.jobs[written][0].number
            if ports.write_enable.value == 1:
                self.writes.append((int(ports.write_address.value), ports.write_data.value.to_signed()))
                assert ports.idle.value == 0
                elements += 1
                if elements == self.jobs[written][0].units:
                    elements, written = 0, written + 1

    def flag(self, port, number):
        """Whether a flag says that job `number` is done. Of a layer only one job is under way."""
        layer, step = self.jobs[number]
        return int(port.value) >> layer.number & 1 == step % 2

    def free(self, layer):
        """Whether the layer's last job is done, read and written."""
        last, ports = (layer.steps - 1) % 2, (self.ports.read_done, self.ports.write_done)
        return all(int(port.value) >> layer.number & 1 == last for port in ports)

    async def run(self, layer, p_idle):
        """Offer the layer's next job."""
        ports, rng = self.ports, self.rng
        await ports.until(lambda: self.free(layer))
        vector = layer.step(self.np_rng, self.memory)
        step = (layer.steps - 1) % 2
        while rng.random() < p_idle:
            ports.set(job__valid=0, job__payload=rng.getrandbits(len(ports.job__payload)))
            await ports.cycles()
        ports.set(job__valid=1, job__payload=CODECS[self.pes].pack(step=step, **layer.job))
        self.jobs.append((layer, step))
        self.expected.append((layer, vector))
        await ports.until(lambda: ports.job__ready.value == 1)
        ports.set(job__valid=0, job__payload=rng.getrandbits(len(ports.job__payload)))

    async def finish(self):
        ports = self.ports
        await ports.until(lambda: ports.idle.value == 1 and len(self.writes) == sum(len(v) for _, v in self.expected))
        await ports.until(lambda: ports.output__valid.value == 0)
        await ports.cycles(SURPLUS_CYCLES)
        expected = [(layer.vector + i, int(h)) for layer, vector in self.expected for i, h in enumerate(vector)]
        np.testing.assert_array_equal(self.writes, expected)
        expected = [int(h) for layer, vector in self.expected if layer.output for h in vector]
        np.testing.assert_array_equal([signed(item, 16) for item in self.items], expected)
        for layer in self.layers.values():
            assert self.free(layer)
            for i, value in enumerate(layer.inner):
                ports.set(state_address=layer.state + i)
                await ports.cycles(STATE_CYCLES)
                assert ports.state_r_data.value.to_signed() == value


def layers(pes, kinds, rng):
    """Layers of all sizes around the number of PEs, with disjoint places in all memories."""
    psum = state = vector = 0
    for number, kind in enumerate(kinds):
        units = rng.choice((1, 2, max(1, pes - 1), pes, pes + 1, 2 * pes + 3))
        shift, cell_frac = rng.choice((0, 1, SHIFTS[-1], rng.choice(SHIFTS))), rng.choice(CELL_FRACS)
        layer = Layer(pes, 2 * number, kind, units, shift, rng.choice(ACTIVATION_FRACS), cell_frac, psum, state,
                      vector, rng.random() < 0.5)
        yield layer
        psum += layer.gates * layer.blocks
        state += units if kind not in FUNCTIONS else 0
        vector += units + 3


@bench_test
@cocotb.parametrize(("pes", list(PARAMETERS)), (("p_idle", "p_stall"), PATTERNS), ("seed", range(3)))
async def vectors_equal_golden(dut, pes, p_idle, p_stall, seed):
    """Jobs of all kinds and many sizes right after each other, whose states persist."""
    rng, np_rng = generators("cell", pes, p_idle, p_stall, seed)
    bench = Bench(dut, pes, rng, np_rng)
    group = list(layers(pes, rng.sample(KINDS, len(KINDS)), rng))
    await bench.start(group, p_stall)
    for _ in range(8):
        for layer in rng.sample(group, len(group)):
            await bench.run(layer, p_idle)
    await bench.finish()


@bench_test
@cocotb.parametrize(kind=KINDS, shift=SHIFTS)
async def all_formats(dut, kind, shift):
    """Every shift of the partial sums with every output format and, for an LSTM, state format."""
    rng, np_rng = generators("formats", kind, shift)
    bench = Bench(dut, 8, rng, np_rng)
    group = [Layer(8, number, kind, 13, shift, output_frac, CELL_FRACS[(number + shift) % len(CELL_FRACS)],
                   8 * number, 13 * number, 16 * number, True) for number, output_frac in enumerate(ACTIVATION_FRACS)]
    await bench.start(group, 0.0)
    for _ in range(3):
        for layer in group:
            await bench.run(layer, 0.0)
    await bench.finish()


@bench_test
@cocotb.parametrize(kind=("relu", "gru", "lstm"))
async def output_waits_as_long_as_the_host_does(dut, kind):
    """More units than the output queue holds, and nobody who reads: it fills, then nothing gets lost."""
    rng, np_rng = generators("output", kind)
    bench = Bench(dut, 8, rng, np_rng)
    loud = Layer(8, 0, kind, 100, 6, 10, 8, 0, 0, 0, True)
    quiet = Layer(8, 2, "lstm", 9, 6, 10, 8, loud.gates * loud.blocks, loud.units, 700, False)
    await bench.start([loud, quiet], None)
    await bench.run(quiet, 0.0)
    for _ in range(Cell.OUTPUT_DEPTH // loud.units + 1):
        await bench.run(loud, 0.0)
    await bench.ports.cycles(3 * loud.units)
    assert len(bench.writes) == 9 + Cell.OUTPUT_DEPTH
    cocotb.start_soon(get(bench.ports, "output", bench.items, rng, 0.4))
    await bench.run(quiet, 0.0)
    await bench.run(loud, 0.0)
    await bench.finish()


@bench_test
async def discarded_results_hold_up_nobody(dut):
    """With `discard`, a job ends though nobody takes its results; the next sequence sees none of them."""
    rng, np_rng = generators("discard")
    bench = Bench(dut, 8, rng, np_rng)
    long = Layer(8, 0, "relu", Cell.OUTPUT_DEPTH + 100, 6, 10, 8, 0, 0, 0, True)
    await bench.start([long], None)
    bench.ports.output__ready.value = 0
    await bench.run(long, 0.0)
    await bench.ports.cycles(2 * Cell.OUTPUT_DEPTH)
    assert bench.ports.idle.value == 0
    bench.ports.set(discard=1)
    await bench.ports.until(lambda: bench.ports.idle.value == 1)
    assert bench.ports.output__valid.value == 0
    bench.ports.set(discard=0)
    await bench.ports.cycles(SURPLUS_CYCLES)
    assert bench.ports.output__valid.value == 0
    assert len(bench.writes) == long.units
