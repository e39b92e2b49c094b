"""The CNN engine halted, broken off and started again at random moments, behind the arbiter that it shares."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from test_conv_engine import SIZES, parameters, random_maps, random_network

from amacrine.hw.arbiter import WeightArbiter
from amacrine.hw.conv import ConvEngine
from amacrine.sim.conv_engine import SimulatedConv
from amacrine.sw.conv_compile import compile_convs
from amacrine.sw.convolution import ConvShape
from amacrine.sw.golden import Golden
from amacrine.sw.qlayers import QConv
from amacrine.sw.quantised import QuantisedNetwork

STEER = 0x4000          # write: run, stop, reset; read: quiet, cleared, kernels_idle
RUN, STOP, RESET = 1, 2, 4
QUIET, CLEARED, KERNELS_IDLE = 1, 2, 4
PATIENCE = 400          # looks at the status


class SteeredConv(wiring.Component):
    """A CNN engine with a register for the ports that are not the host's, and an arbiter to whose other port columns
    are sent at random."""

    def __init__(self, params, weight_params):
        self.engine, self.weight_params = ConvEngine(params, weight_params), weight_params
        members = self.engine.signature.members
        super().__init__({name: members[name] for name in ("weights", "input", "output", "bus_address", "bus_w_data",
                                                           "bus_write", "bus_r_data")})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine, m.submodules.arbiter = engine, arbiter = self.engine, WeightArbiter(self.weight_params)
        connect(m, flipped(self.input), engine.input)
        connect(m, engine.output, flipped(self.output))
        connect(m, engine.weights, arbiter.kernels)
        connect(m, arbiter.port, flipped(self.weights))
        steer, status, selected = Signal(3, init=RUN), Signal(3), Signal(2)
        m.d.comb += [
            Cat(engine.run, engine.stop, engine.reset).eq(steer), engine.bus_address.eq(self.bus_address),
            engine.bus_w_data.eq(self.bus_w_data), engine.bus_write.eq(self.bus_write & ~self.bus_address[14]),
            self.bus_r_data.eq(Mux(selected[1], status, engine.bus_r_data)),
        ]
        m.d.sync += [status.eq(Cat(engine.quiet, engine.cleared, arbiter.kernels_idle)),
                     selected.eq(Cat(self.bus_address[14], selected[0]))]
        with m.If(self.bus_write & self.bus_address[14]):
            m.d.sync += steer.eq(self.bus_w_data)
        self._columns(m, arbiter.columns)
        return m

    @staticmethod
    def _columns(m, port):
        """Bursts of up to four words, one in about eight cycles."""
        noise = Signal(unsigned(16), init=1)
        m.d.sync += noise.eq(Mux(noise[0], (noise >> 1) ^ 0xB400, noise >> 1))
        m.d.comb += [port.data.ready.eq(noise[4:6].any()), port.request.p.length.eq(4)]
        with m.If(noise[:3] == 0):
            m.d.sync += port.request.valid.eq(1)
        with m.Elif(port.request.ready):
            m.d.sync += port.request.valid.eq(0)


class Steered(SimulatedConv):
    """The simulated engine, and what its owner does with it."""

    def __init__(self, network, macs, **memory):
        params, pes = parameters(macs), SIZES[macs][0]
        super().__init__(compile_convs(network.layers, params, pes), params, pes, make=SteeredConv, **memory)

    def wait_for(self, flag):
        for _ in range(PATIENCE):
            if self.read(STEER) & flag:
                return
            self.advance(50)
        raise AssertionError(f"status {flag} does not come")

    def break_off(self):
        """Whatever is under way, the next sequence begins."""
        self.write(STEER, RUN | STOP)
        self.rest(0)
        self.wait_for(KERNELS_IDLE)
        self.write(STEER, RESET | STOP)
        self.wait_for(CLEARED)
        self.write(STEER, RUN)
        assert not self.read(STEER) & CLEARED
        assert not any(counts.any() for counts in self.counters().values())


def setup(seed, macs, steps=4):
    rng = np.random.default_rng([seed, macs, 1])
    network = random_network(rng, 1 + int(rng.integers(3)))
    memory = {"latency": [1, 5, 40][seed % 3], "memory_stall": 0.3 * (seed % 2)}
    inputs = random_maps(rng, network, steps)
    return rng, Steered(network, macs, **memory), inputs, Golden(network).run(inputs).outputs


@pytest.mark.parametrize("macs", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_broken_off_leaves_nothing_behind(seed, macs):
    """At random moments, some of them in the middle of a map, others during loading; some before anything happened."""
    rng, engine, inputs, expected = setup(seed, macs)
    with engine:
        counts = engine.run(inputs, seed=seed).counters
        start = engine.cycles
        np.testing.assert_array_equal(engine.run(inputs, seed=seed).outputs, expected)
        whole = engine.cycles - start
        for attempt in range(12):
            engine.begin(inputs, idle=0.3 * (attempt % 2), stall=0.5 * (attempt % 3 == 2), seed=attempt)
            engine.advance(int(rng.integers(0, [whole, 200][attempt % 4 == 0])))
            engine.break_off()
            if attempt % 3 == 0:
                engine.break_off()
            if attempt % 2 == 0:
                run = engine.run(inputs, seed=seed)
                np.testing.assert_array_equal(run.outputs, expected)
                for name in ("events", "mac_cycles", "zero_macs"):
                    np.testing.assert_array_equal(run.counters[name], counts[name], name)


@pytest.mark.parametrize("macs", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_halted_it_finishes_what_is_under_way_and_goes_on_later(seed, macs):
    rng, engine, inputs, expected = setup(seed, macs)
    with engine:
        engine.wait_for(QUIET)
        engine.begin(inputs, idle=0.2, stall=0.2, seed=seed)
        done = 0
        while done < len(inputs):
            done = engine.advance(int(rng.integers(1, 2000)))
            engine.write(STEER, 0)
            for _ in range(PATIENCE):
                engine.advance(50)
                if engine.read(STEER) & QUIET:
                    break
            assert engine.read(STEER) & QUIET
            before = engine.outputs.copy()
            engine.advance(500)
            np.testing.assert_array_equal(engine.outputs, before)
            engine.write(STEER, RUN)
        np.testing.assert_array_equal(engine.outputs, expected)


def test_quiet_means_that_only_an_input_helps():
    """Quiet after a part of the first map; no longer when it is complete; again when all results have been taken."""
    rng = np.random.default_rng(7)
    shape = ConvShape(6, 8, 8, 12, (3, 3), pads=(1, 1, 1, 1))
    layer = QConv("conv", shape, rng.integers(-100, 100, shape.weight_shape).astype(np.int8), 10, 8,
                  rng.integers(-1000, 1000, 12).astype(np.int32), "relu", 8)
    network = QuantisedNetwork("net", (layer,), 8)
    inputs = rng.integers(-2000, 2000, (2, shape.n_inputs)).astype(np.int16)
    with Steered(network, 16) as engine:
        engine.begin(inputs)
        engine.advance(shape.n_inputs // 2)
        engine.wait_for(QUIET)
        engine.advance(shape.n_inputs)      # now the first map is complete, and the second one is not
        assert not engine.read(STEER) & QUIET
        while engine.advance(50) < 2:
            pass
        engine.wait_for(QUIET)
        np.testing.assert_array_equal(engine.outputs, Golden(network).run(inputs).outputs)
