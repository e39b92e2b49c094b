"""CNN engine and delta engine in one, against golden: every route, and what the host may do in the middle of it."""

from dataclasses import replace

import numpy as np
import pytest
from mixed_networks import EXTERNAL, LARGER, SMALL, random_mixed
from networks import golden_runs, random_inputs, random_network
from test_conv_engine import random_maps
from test_engine import PATTERNS, check_random, give_up
from test_golden import gru, identity, lstm, relu, relu_threshold

from amacrine.sim import engine as engine_module
from amacrine.sim.engine import SimulatedEngine
from amacrine.sw.compile import compile_network
from amacrine.sw.execute import expected_counters
from amacrine.sw.golden import Golden
from amacrine.sw.layout import CLEAR, CLEARING, HALT, IDENTITY, Parameters, Register, Route

ROUTES = {Route.MAP_TO_VECTOR: (relu, gru, lstm, identity), Route.MAP_TO_EVENTS: (relu_threshold,),
          Route.MAP_TO_HOST: ()}


@pytest.fixture(autouse=True)
def no_output_is_noticed_soon(monkeypatch):
    monkeypatch.setattr(engine_module, "DEAD_CYCLES", 2_000_000)


def network_for(rng, route):
    """A network whose program has this route."""
    while True:
        convs, behind = int(rng.integers(1, 4)), int(rng.integers(1, 4)) if ROUTES[route] else 0
        network = random_mixed(rng, convs, behind, ROUTES[route])
        if compile_network(network, SMALL).route == route:
            return network


def check_sequences(engine, network, sequences, pattern=(0.0, 0.0, 0), seed=1, anticipate=True):
    """Each sequence starts anew and is given in parts; outputs and the counts of jobs and passes must be golden's."""
    program = compile_network(network, engine.parameters, anticipate=anticipate)
    engine.load(program)
    idle, stall, pause = pattern
    for number, sequence in enumerate(sequences):
        if number:
            engine.reset()
        for parts in range(1, len(sequence) + 1):
            golden, x = Golden(network).run(np.concatenate(sequence[:parts])), sequence[parts - 1]
            run = engine.run(x, idle=idle, stall=stall, pause=pause, seed=seed)
            np.testing.assert_array_equal(run.outputs, golden.outputs[-len(x) :])
            assert (run.latency > 0).all() and (run.finished[1:] > run.finished[:-1]).all()
            counters = engine.counters()
            golden = golden if anticipate else replace(golden, anticipated={})
            for name, counts in expected_counters(golden, engine.parameters).items():
                assert {count: counters[name][count] for count in counts} == counts, name
            passes = [counters[each.name] for each in program.conv_jobs]     # that overlap
            assert sum(each["cycles"] for each in passes) >= sum(each["mac_cycles"] for each in passes)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(route, seed):
    rng = np.random.default_rng([seed, route])
    latency, memory_stall = int(rng.choice((1, 3, 40))), float(rng.choice((0, 0.4)))
    with SimulatedEngine(SMALL, latency=latency, memory_stall=memory_stall) as engine:
        for pattern in PATTERNS:
            network = network_for(rng, route)
            sequences = [[random_maps(rng, network, steps) for steps in parts] for parts in ((4, 1), (3,))]
            check_sequences(engine, network, sequences, pattern, int(rng.integers(1, 1 << 30)))


def test_maps_through_weight_memory():
    """Maps that do not fit on chip lie behind the columns of the layers behind."""
    rng, external = np.random.default_rng(8), 0
    with SimulatedEngine(Parameters(pes=8, conv=EXTERNAL), 1 << 14, latency=20, memory_stall=0.2) as engine:
        for number in range(16):
            network = network_for(rng, list(ROUTES)[number % len(ROUTES)])
            program = compile_network(network, engine.parameters)
            external += program.memory_words > len(program.weights)
            check_sequences(engine, network, [[random_maps(rng, network, steps) for steps in (2, 1)]] * 2, PATTERNS[1])
    assert external > 4


def test_many_macs_behind_a_narrow_weight_port():
    """As a board would have it: 16 MACs, and 2 weights a word."""
    rng = np.random.default_rng(5)
    with SimulatedEngine(Parameters(pes=2, conv=LARGER), latency=12, memory_stall=0.2) as engine:
        for number in range(20):
            network = random_mixed(rng, 1 + number % 3, number % 4)
            sequences = [[random_maps(rng, network, steps) for steps in parts] for parts in ((3, 2), (1,))]
            check_sequences(engine, network, sequences, PATTERNS[number % len(PATTERNS)])


@pytest.mark.parametrize("anticipate", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_recurrent_layers_behind_maps(pattern, anticipate):
    """Behind each kind of first layer, recurrent ones that fetch in anticipation, also while no map is there."""
    rng = np.random.default_rng([PATTERNS.index(pattern), anticipate])
    with SimulatedEngine(SMALL, latency=3) as engine:
        for make in (relu_threshold, relu, gru, lstm):
            network = random_mixed(rng, 1, 1, (make,))
            layers = list(network.layers)
            for behind in rng.permutation(np.array((gru, relu_threshold, lstm), object))[: rng.integers(1, 4)]:
                layers.append(behind(rng, layers[-1].size, layers[-1].output_frac, int(rng.integers(1, 30)), theta=100))
            network = replace(network, layers=tuple(layers))
            sequences = [[random_maps(rng, network, steps) for steps in parts] for parts in ((4, 3), (2,))]
            check_sequences(engine, network, sequences, pattern, 1, anticipate)


def test_vectors_as_without_the_cnn_engine():
    rng = np.random.default_rng(1)
    with SimulatedEngine(SMALL, latency=3) as engine:
        check_random(engine, rng, 15)


def test_routes_in_turn():
    """One program after the other on one engine: nothing of a route is left behind."""
    rng = np.random.default_rng(2)
    with SimulatedEngine(SMALL, latency=3) as engine:
        for _ in range(4):
            for route in rng.permutation(list(Route)):
                if route == Route.VECTOR:
                    network = random_network(rng, 3)
                    sequence = [random_inputs(rng, 6, network.n_inputs)]
                else:
                    network = network_for(rng, route)
                    sequence = [random_maps(rng, network, 3)]
                check_sequences(engine, network, [sequence])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stall", [0, 255])
def test_a_sequence_that_is_given_up_leaves_nothing_behind(route, stall):
    """Clearing at any time: with half a map sent, kernels on their way, results between the engines, or not taken."""
    rng = np.random.default_rng([3, route])
    with SimulatedEngine(SMALL, latency=20) as engine:
        for _ in range(3):
            network = network_for(rng, route)
            x = random_maps(rng, network, 4)
            [golden] = golden_runs(network, [x])
            program = compile_network(network, SMALL)
            engine.load(program)
            for cycles in (0, 1, 5, 30, 100, 333, *rng.integers(1, 6000, 8)):
                give_up(engine, program.streamed(x), int(cycles), stall)
                engine.reset()
                np.testing.assert_array_equal(engine.run(x).outputs, golden.outputs)
                engine.reset()


def test_registers_of_both_engines():
    """What the gateware is; and the CNN engine's page is not mixed up with other registers."""
    rng = np.random.default_rng(4)
    network = network_for(rng, Route.MAP_TO_EVENTS)
    with SimulatedEngine(SMALL) as engine:
        told = SMALL.as_dict()
        assert [engine.read(Register.PARAMETERS + n) for n in range(len(told))] == list(told.values())
        program = compile_network(network, SMALL)
        engine.load(program)
        engine.run(random_maps(rng, network, 3))
        counts = engine.counters()
        engine.write(Register.CONTROL, HALT)
        for _ in range(8):
            engine.read(Register.CONTROL)       # the last counts are on their way to their records
        engine.write(Register.VECTOR + 3, -5)
        assert engine.read(Register.VECTOR + 3) == 2**32 - 5
        for each in program.counters():
            for number, name in enumerate(each.names):      # those that stand still while it waits for an input
                if name in ("events", "words", "mac_cycles", "zero_macs"):
                    assert engine.read(each.address + number) == counts[each.name][name]
        assert engine.read(Register.IDENTITY) == IDENTITY


def test_clearing_says_when_it_is_done():
    """Also twice in a row, and with nothing loaded."""
    with SimulatedEngine(SMALL) as engine:
        for _ in range(3):
            engine.write(Register.CONTROL, CLEAR)
            cycles = engine.cycles
            while engine.read(Register.CONTROL) & CLEARING:
                assert engine.cycles - cycles < 20_000
