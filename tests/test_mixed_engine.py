"""Both engines together against golden: random networks of convolutions and other layers, every output, every count."""

from dataclasses import replace

import numpy as np
import pytest
from mixed_networks import SMALL, random_mixed
from networks import random_inputs, random_network
from test_conv_engine import random_maps
from test_golden import gru, lstm, relu, relu_threshold

from amacrine.sim import engine as engine_module
from amacrine.sim.engine import SimulatedEngine
from amacrine.sw.compile import compile_network
from amacrine.sw.execute import expected_counters
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Route

PATTERNS = ((0.0, 0.0, 0), (0.4, 0.0, 0), (0.0, 0.5, 0), (0.3, 0.3, 0), (0.0, 0.0, 700), (0.5, 0.5, 40))
"""Shares of idle input and stalled output, and cycles from an output to the next input."""
MEMORIES = ((1, 0.0), (3, 0.4), (40, 0.0), (128, 0.2))
"""Latency of the weight memory, and the share of cycles in which it stalls."""


@pytest.fixture(autouse=True)
def no_output_is_noticed_soon(monkeypatch):
    monkeypatch.setattr(engine_module, "DEAD_CYCLES", 2_000_000)


def check(engine, network, sequences, anticipate=True, pattern=PATTERNS[0], seed=1):
    """Each sequence starts anew and is given in parts, after each of which the counters are looked at; the route."""
    program = compile_network(network, engine.parameters, anticipate=anticipate)
    engine.load(program)
    idle, stall, pause = pattern
    for number, sequence in enumerate(sequences):
        if number:
            engine.reset()
        for parts in range(1, len(sequence) + 1):
            golden = Golden(network).run(np.concatenate(sequence[:parts]))
            x = sequence[parts - 1]
            run = engine.run(x, idle=idle, stall=stall, pause=pause, seed=seed)
            np.testing.assert_array_equal(run.outputs, golden.outputs[-len(x) :])
            assert (run.latency > 0).all() and (run.finished[1:] > run.finished[:-1]).all()
            counters = engine.counters()
            expected = expected_counters(golden if anticipate else replace(golden, anticipated={}), engine.parameters)
            assert {name: {count: counters[name][count] for count in counts}
                    for name, counts in expected.items()} == expected
            for each in program.conv_jobs:
                assert counters[each.name]["cycles"] >= counters[each.name]["mac_cycles"]
    return program.route


def sequences_of(rng, network):
    """A sequence in two parts, then one of a single map, then another one."""
    return [[random_maps(rng, network, steps) for steps in part] for part in ((4, 3), (1,), (5,))]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("convs", [1, 2, 3])
def test_random_networks(convs, memory):
    rng = np.random.default_rng([convs, MEMORIES.index(memory)])
    routes = set()
    with SimulatedEngine(SMALL, latency=memory[0], memory_stall=memory[1]) as engine:
        for number in range(8):
            network = random_mixed(rng, convs, number % 4)
            routes.add(check(engine, network, sequences_of(rng, network), bool(rng.integers(2)),
                             PATTERNS[rng.integers(len(PATTERNS))], int(rng.integers(1, 1 << 30))))
    assert Route.MAP_TO_HOST in routes and len(routes) > 1


@pytest.mark.parametrize("anticipate", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_layers_behind_maps_in_every_pattern(pattern, anticipate):
    """Each kind of first layer, with recurrent layers behind it that fetch in anticipation."""
    rng = np.random.default_rng([PATTERNS.index(pattern), anticipate])
    with SimulatedEngine(SMALL, latency=3) as engine:
        for makers in ((relu_threshold,), (relu,), (gru,), (lstm,)):
            network = random_mixed(rng, 1, 1, makers)
            layers = list(network.layers)
            for make in (gru, relu_threshold, lstm)[: rng.integers(4)]:
                layers.append(make(rng, layers[-1].size, layers[-1].output_frac, int(rng.integers(1, 30)), theta=100))
            network = replace(network, layers=tuple(layers))
            check(engine, network, sequences_of(rng, network), anticipate, pattern)


def test_programs_with_and_without_convolutions_in_turn():
    """What one program leaves behind is of no account to the next."""
    rng = np.random.default_rng(3)
    with SimulatedEngine(SMALL, latency=3) as engine:
        for _ in range(3):
            network = random_mixed(rng, 2, 2)
            check(engine, network, sequences_of(rng, network))
            network = random_network(rng)
            check(engine, network, [[random_inputs(rng, steps, network.n_inputs)] for steps in (6, 3)])
            network = random_mixed(rng, 2, 0)
            check(engine, network, sequences_of(rng, network))


@pytest.mark.parametrize("stall", [0, 255])
@pytest.mark.parametrize("behind", [0, 1, 3])
def test_a_sequence_that_is_given_up_leaves_nothing_behind(behind, stall):
    """Reset with maps half sent, passes and columns at work, kernels under way, and output that nobody takes."""
    rng = np.random.default_rng([behind, stall])
    network = random_mixed(rng, 2, behind)
    x = random_maps(rng, network, 6)
    golden = Golden(network).run(x)
    with SimulatedEngine(SMALL, latency=40) as engine:
        program = compile_network(network, SMALL)
        engine.load(program)
        for cycles in (0, 1, 2, 5, 30, 50, 100, 200, 333, 500, 1000, 2000, 5000, 20_000):
            give_up(engine, program, x, cycles, stall)
            engine.reset()
            np.testing.assert_array_equal(engine.run(x).outputs, golden.outputs)
            counters = engine.counters()
            for name, counts in expected_counters(golden, SMALL).items():
                assert {count: counters[name][count] for count in counts} == counts
            engine.reset()


def give_up(engine, program, x, cycles, stall):
    """Begin a sequence and stop looking after some cycles."""
    streamed = np.ascontiguousarray(program.streamed(x))
    outputs, counts = np.empty((len(x), program.n_outputs), np.int16), np.empty((3, len(x)), np.uint64)
    engine._library.simulation_begin(
        engine._simulation, streamed.ctypes.data, outputs.ctypes.data, *(row.ctypes.data for row in counts), len(x),
        streamed.shape[1], program.n_outputs, 0, 0, stall, 1)
    engine._library.simulation_run(engine._simulation, cycles)
