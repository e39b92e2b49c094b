"""The whole engine in cocotb: random networks, and NSNet2 with its weights, through the ports that a host has."""

import json

import cocotb
import numpy as np
import pytest
from cocotb.triggers import RisingEdge
from networks import expected_counts, golden_runs, random_inputs, random_network
from streams import PATTERNS, SURPLUS_CYCLES, Ports, bench_test, generators, get, put, signed, word

from amacrine.hw.engine import Engine
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SimulationTop
from amacrine.sw import nsnet2
from amacrine.sw.compile import compile_network
from amacrine.sw.golden import Golden
from amacrine.sw.layout import CLEAR, CLEARING, COUNTER_FIELDS, HALT, IDENTITY, QUIET, RUN, Parameters, Register
from amacrine.sw.onnx_import import load_onnx
from amacrine.sw.program import Program, register_writes
from amacrine.sw.quantise import quantise
from amacrine.sw.thresholds import parse_thresholds

P8 = Parameters()
WORDS = 1 << 19         # of weight memory, enough for NSNet2
MEMORIES = ((1, 0), (3, 0), (40, 0), (5, 90))
"""Latency, and stalls in 1/256."""
READ_CYCLES = 6
"""Edges from a register's address to its data, or more."""


def top():
    """The component under test."""
    return SimulationTop(Engine(P8), P8, WORDS)


def test_random_networks(tmp_path):
    cocotb_runner.run(cocotb_runner.build(top), __name__, tmp_path, only="random_networks|registers")


@pytest.mark.parametrize("theta", ["0", None])
def test_nsnet2(tmp_path, theta):
    """Four frames of speech-like sound, from the network as published."""
    network, features = load_onnx(nsnet2.model_path()), nsnet2.calibration_features()
    thresholds = parse_thresholds(theta) if theta is not None else nsnet2.THRESHOLDS
    quantised = quantise(network, features, thresholds)
    x = quantised.quantise_inputs(features[40:44])
    program = compile_network(quantised, P8)
    golden = Golden(quantised).run(x)
    program.save(tmp_path / "program")
    np.save(tmp_path / "inputs.npy", x)
    np.save(tmp_path / "outputs.npy", golden.outputs)
    (tmp_path / "counts.json").write_text(json.dumps(expected_counts(program, golden, anticipate=True)))
    (tmp_path / "weights.hex").write_text("\n".join(row[::-1].tobytes().hex() for row in program.weights))
    cocotb_runner.run(cocotb_runner.build(top), __name__, tmp_path, only="files_of_nsnet2",
                      plusargs=["+weights=weights.hex"])


class Host:
    """Registers, weights and streams of the engine."""

    def __init__(self, dut, rng):
        self.ports, self.rng = Ports(dut), rng

    async def start(self, latency, stall):
        await self.ports.begin("bus_write", "weight_write", "input__valid", "output__ready")
        self.ports.set(latency=latency, stall=stall)

    async def write(self, address, value):
        self.ports.set(bus_address=int(address), bus_w_data=int(value) & 0xFFFFFFFF, bus_write=1)
        await self.ports.cycles()
        self.ports.set(bus_write=0)

    async def read(self, address):
        self.ports.set(bus_address=int(address))
        await self.ports.cycles(READ_CYCLES)
        return int(self.ports.bus_r_data.value)

    async def load(self, program, weights=True):
        await self.stop()
        for address, row in enumerate(program.weights if weights else ()):
            self.ports.set(weight_write=1, weight_address=address, weight_data=word(row, 8))
            await self.ports.cycles()
        self.ports.set(weight_write=0)
        for address, value in register_writes(program):
            await self.write(address, value)

    async def stop(self):
        await self.write(Register.CONTROL, CLEAR)
        while await self.read(Register.CONTROL) & CLEARING:
            await self.ports.cycles(20)

    async def begin(self, program):
        """Start a sequence."""
        await self.stop()
        for address, value in program.initial:
            await self.write(address, value)
        await self.write(Register.CONTROL, RUN)

    async def counts(self, program):
        """Events and words by job."""
        while not await self.read(Register.CONTROL) & QUIET:
            await self.ports.cycles(20)
        await self.write(Register.CONTROL, HALT)
        await self.ports.cycles(SURPLUS_CYCLES)
        fields = [COUNTER_FIELDS.index("events"), COUNTER_FIELDS.index("words")]
        counts = {job.name: tuple([await self.read(Register.COUNTERS + 8 * job.number + field) for field in fields])
                  for job in program.jobs}
        await self.write(Register.CONTROL, RUN)
        return counts


@bench_test
async def registers_tell_what_it_is(dut):
    host = Host(dut, generators("registers")[0])
    await host.start(1, 0)
    assert await host.read(Register.IDENTITY) == IDENTITY
    for number, value in enumerate(P8.as_dict().values()):
        assert await host.read(Register.PARAMETERS + number) == value


@bench_test
@cocotb.parametrize((("p_idle", "p_stall"), PATTERNS), ("memory", range(len(MEMORIES))), ("anticipate", [True, False]))
async def random_networks(dut, p_idle, p_stall, memory, anticipate):
    """Two sequences on a random network, the first in two parts, with counters after each part."""
    rng, np_rng = generators("top", p_idle, p_stall, memory, anticipate)
    network = random_network(np_rng, 4, (1, 2, 5, 8, 9, 17))
    program = compile_network(network, P8, anticipate=anticipate)
    host = Host(dut, rng)
    await host.start(*MEMORIES[memory])
    await host.load(program)
    items = []
    cocotb.start_soon(get(host.ports, "output", items, rng, p_stall))
    for parts in ((5, 2), (4,)):
        sequence = [random_inputs(np_rng, steps, network.n_inputs) for steps in parts]
        runs, events = golden_runs(network, sequence), {}
        await host.begin(program)
        for x, golden in zip(sequence, runs, strict=True):
            items.clear()
            await put(host.ports, "input", [int(v) & 0xFFFF for v in x.ravel()], rng, p_idle)
            assert await host.counts(program) == expected_counts(program, golden, anticipate, events)
            while len(items) < golden.outputs.size:
                await host.ports.cycles(SURPLUS_CYCLES)
            await host.ports.cycles(SURPLUS_CYCLES)
            np.testing.assert_array_equal([signed(item, 16) for item in items], golden.outputs.ravel())


@bench_test
async def files_of_nsnet2(dut):
    """The program, inputs and outputs that test_nsnet2 left in this folder; Python sleeps while the engine works."""
    program, x, outputs = Program.load("program"), np.load("inputs.npy"), np.load("outputs.npy")
    with open("counts.json") as file:
        counts = {name: tuple(pair) for name, pair in json.load(file).items()}
    host = Host(dut, generators("nsnet2")[0])
    ports = host.ports
    await host.start(3, 0)
    await host.load(program, weights=False)
    await host.begin(program)
    cocotb.start_soon(put_asleep(ports, x.ravel()))
    items = []
    ports.set(output__ready=1)
    while len(items) < outputs.size:
        if ports.output__valid.value == 0:
            await RisingEdge(ports.output__valid)
        await RisingEdge(ports.clk)
        if ports.output__valid.value == 1:
            items.append(ports.output__payload.value.to_signed())
    np.testing.assert_array_equal(np.reshape(items, outputs.shape), outputs)
    assert await host.counts(program) == counts


async def put_asleep(ports, elements):
    """Offer all elements, asleep while the engine takes none."""
    for element in elements:
        ports.set(input__valid=1, input__payload=int(element) & 0xFFFF)
        await RisingEdge(ports.clk)
        while ports.input__ready.value == 0:
            await RisingEdge(ports.input__ready)
            await RisingEdge(ports.clk)
    ports.set(input__valid=0)
