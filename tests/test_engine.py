"""The whole engine against golden, with random networks: the simulation behind `amacrine run --engine sim`."""

from dataclasses import replace

import numpy as np
import pytest
from networks import (
    expected_counts,
    golden_runs,
    random_inputs,
    random_network,
    with_thresholds,
)
from test_golden import dense, gru, identity, lstm, relu, relu_threshold, stack

from amacrine.sim import engine as engine_module
from amacrine.sim.engine import SimulatedEngine
from amacrine.sw.compile import compile_network
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden
from amacrine.sw.layout import CELL_JOBS, Parameters
from amacrine.sw.network import LSTM, Dense, Network
from amacrine.sw.quantise import quantise
from amacrine.sw.quantised import QuantisedNetwork

P8 = Parameters()
PATTERNS = ((0.0, 0.0, 0), (0.4, 0.0, 0), (0.0, 0.5, 0), (0.3, 0.3, 0), (0.0, 0.0, 700), (0.5, 0.5, 40))
"""Shares of idle input and stalled output, and cycles from an output to the next input."""


@pytest.fixture(autouse=True)
def no_output_is_noticed_soon(monkeypatch):
    monkeypatch.setattr(engine_module, "DEAD_CYCLES", 500_000)


def check(engine, network, sequences, anticipate=True, pattern=(0.0, 0.0, 0), seed=1):
    """Each sequence starts anew and is given in parts, after each of which the counters are looked at.

    Returns the number of events, that of biases aside.
    """
    program = compile_network(network, engine.parameters, anticipate=anticipate)
    engine.load(program)
    idle, stall, pause = pattern
    total = 0
    for number, sequence in enumerate(sequences):
        if number:
            engine.reset()
        events = {}
        for x, golden in zip(sequence, golden_runs(network, sequence), strict=True):
            run = engine.run(x, idle=idle, stall=stall, pause=pause, seed=seed)
            np.testing.assert_array_equal(run.outputs, golden.outputs)
            assert (run.latency > 0).all() and (run.finished[1:] > run.finished[:-1]).all()
            counters = engine.counters()
            measured = {name: (counts["events"], counts["words"]) for name, counts in counters.items()}
            assert measured == expected_counts(program, golden, anticipate, events)
        total += sum(events.values())
    return total


def check_random(engine, rng, networks):
    """Random networks, three sequences each, with one of PATTERNS."""
    events = 0
    for _ in range(networks):
        network = random_network(rng)
        parts = [random_inputs(rng, steps, network.n_inputs) for steps in (20, 1, 10, 6)]
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        events += check(engine, network, [parts[:2], parts[2:3], parts[3:]], bool(rng.integers(2)), pattern,
                        int(rng.integers(1, 1 << 30)))
    assert events > 20 * networks


@pytest.mark.parametrize("latency", [1, 3, 40, 128])
@pytest.mark.parametrize("memory_stall", [0.0, 0.4])
def test_random_networks_and_memories(latency, memory_stall):
    rng = np.random.default_rng([latency, int(10 * memory_stall)])
    with SimulatedEngine(P8, latency=latency, memory_stall=memory_stall) as engine:
        check_random(engine, rng, 60)


@pytest.mark.parametrize("anticipate", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_and_streams(pattern, anticipate, seed):
    rng = np.random.default_rng([seed, anticipate, PATTERNS.index(pattern)])
    with SimulatedEngine(P8, latency=int(rng.choice((1, 3, 40)))) as engine:
        for _ in range(15):
            network = random_network(rng)
            sequences = [[random_inputs(rng, 15, network.n_inputs)] for _ in range(2)]
            check(engine, network, sequences, anticipate, pattern)


@pytest.mark.parametrize(("pes", "lanes"), [(1, 1), (3, 16), (64, 8)])
def test_other_numbers_of_pes_and_lanes(pes, lanes):
    rng = np.random.default_rng(pes)
    parameters = Parameters(pes=pes, lanes=lanes)
    with SimulatedEngine(parameters) as engine:
        check_random(engine, rng, 20)
        for size in (1, max(1, pes - 1), pes, pes + 1):
            network = stack(rng, (gru, lstm, relu_threshold), (size, size, size, size), theta=200)
            check(engine, network, [[random_inputs(rng, 12, size)]] * 2)


@pytest.mark.parametrize("theta", [0, 1500])
def test_larger_networks(theta):
    rng = np.random.default_rng(theta)
    with SimulatedEngine(P8, latency=3) as engine:
        for makers, sizes in (((relu, gru, gru, relu, relu_threshold, identity), (61, 100, 120, 90, 150, 60, 41)),
                              ((lstm, lstm), (40, 97, 64)), ((gru, lstm, gru), (20, 33, 65, 130))):
            network = stack(rng, makers, sizes, theta)
            check(engine, network, [[random_inputs(rng, 12, sizes[0])] for _ in range(2)])


@pytest.mark.parametrize("encoder", ["delta", "threshold"])
def test_relu_between_recurrent_and_dense_layer(encoder):
    """The ReLU is the dense layer's encoder's: the layer fetches no column for a negative element."""
    rng = np.random.default_rng(10)
    recurrent = LSTM("lstm", *(rng.normal(size=shape) for shape in ((68, 9), (68, 17), (68,), (17,), (17,))))
    fc = Dense("fc", rng.normal(size=(7, 17)), rng.normal(size=7), "sigmoid", "relu")
    x = np.cumsum(rng.normal(size=(60, 9)), axis=0) / 4
    network = quantise(Network("rectified", (recurrent, fc)), x)
    layers = network.layers[0], replace(network.layers[1], input=replace(network.layers[1].input, encoder=encoder))
    network = replace(network, layers=layers)
    with SimulatedEngine(P8) as engine:
        events = check(engine, network, [[network.quantise_inputs(x)]], pattern=(0.3, 0.3, 0))
    assert events and (Golden(network).run(network.quantise_inputs(x)).vectors["lstm"] < 0).any()


@pytest.mark.parametrize("anticipate", [True, False])
@pytest.mark.parametrize(("makers", "sizes"), [
    ((identity,), (1, 400)), ((identity,), (3, 20)), ((relu_threshold,), (2, 300)), ((gru,), (1, 200)),
    ((lstm,), (2, 100)), ((identity, relu), (1, 300, 5)), ((gru, gru), (1, 9, 120)), ((gru, gru), (1, 120, 9)),
    ((relu, gru), (1, 90, 90)), ((gru, relu), (1, 9, 300)),
])
def test_steps_without_events(makers, sizes, anticipate):
    """An input that does not change leaves a step nothing to fetch; it still takes as long as its cells do."""
    rng = np.random.default_rng(sizes)
    network = with_thresholds(stack(rng, makers, sizes), lambda: 3)
    still = np.repeat(random_inputs(rng, 3, sizes[0]), 10, axis=0)
    silent = np.zeros((12, sizes[0]), np.int16)
    with SimulatedEngine(P8) as engine:
        check(engine, network, [[silent], [still], [silent, still]], anticipate)


def test_ends_of_the_range():
    """All inputs at either end; weights and biases as large as the proof against overflow allows."""
    rng = np.random.default_rng(5)
    with SimulatedEngine(P8) as engine:
        for _ in range(6):
            network = random_network(rng)
            x = rng.choice([-32768, 32767], (20, network.n_inputs)).astype(np.int16)
            x[::3] = [-32768]
            x[1::3] = [32767]
            check(engine, network, [[x], [-x.clip(-32767)]])
        largest = dense(rng, 500, 8, 9, "identity", output_frac=8)
        largest.input.weight[:] = rng.choice([-128, 127], largest.input.weight.shape)
        largest.bias[:] = rng.integers(-(1 << 20), 1 << 20, 9)
        sign = np.where(largest.input.weight[0] > 0, 32767, -32768)
        x = np.array([sign, -1 - sign, sign, 0 * sign, sign], np.int16)
        check(engine, QuantisedNetwork("largest", (largest,), 8), [[x]])


def test_programs_that_fill_the_gateware():
    rng = np.random.default_rng(6)
    with SimulatedEngine(P8) as engine:
        check(engine, stack(rng, (relu,) * CELL_JOBS, (3,) * (CELL_JOBS + 1)), [[random_inputs(rng, 30, 3)]] * 2)
        check(engine, stack(rng, (gru, lstm) * 5, (9,) * 11, theta=100), [[random_inputs(rng, 30, 9)]] * 2)
        check(engine, stack(rng, (identity,), (1, 3900)), [[random_inputs(rng, 4, 1)]])
        check(engine, stack(rng, (gru,), (1, 500)), [[random_inputs(rng, 3, 1)]])


@pytest.mark.parametrize(("makers", "sizes", "parameters", "message"), [
    ((relu,) * 16, (3,) * 17, {}, "16 cell jobs, and the gateware has 15, 1 too few"),
    ((gru,) * 11, (3,) * 12, {}, "33 column jobs, and the gateware has 32, 1 too few"),
    ((identity,), (1, 5000), {}, "5000 units, and the gateware allows 4095"),
    ((gru,), (1, 17), {"vector_depth": 16}, "elements of vector memory, and the gateware has 16"),
    ((gru,), (16, 17), {"reference_depth": 32}, "elements of reference memory, and the gateware has 32"),
    ((lstm, gru), (1, 10, 9), {"state_depth": 16}, "19 units of cell state memory, and the gateware has 16, 3 too few"),
    ((lstm, gru), (1, 9, 9), {"psum_depth": 15}, "16 words of 8 partial sums, and the gateware has 15, 1 too few"),
    ((lstm,), (1, 80), {"weight_address_bits": 8}, "words of 8 weights, and the gateware has 256"),
])
def test_programs_that_do_not_fit_are_refused(makers, sizes, parameters, message):
    network = stack(np.random.default_rng(7), makers, sizes)
    with pytest.raises(AmacrineError, match=message):
        compile_network(network, Parameters(**parameters))


def test_a_program_for_other_gateware_is_refused():
    rng = np.random.default_rng(8)
    program = compile_network(random_network(rng), Parameters(pes=4))
    with SimulatedEngine(P8) as engine, pytest.raises(AmacrineError, match=r"other gateware"):
        engine.load(program)


def give_up(engine, x, cycles, stall):
    """Begin a sequence and stop looking after some cycles."""
    outputs, counts = np.empty((len(x), engine.program.n_outputs), np.int16), np.empty((3, len(x)), np.uint64)
    engine._library.simulation_begin(
        engine._simulation, x.ctypes.data, outputs.ctypes.data, *(row.ctypes.data for row in counts), len(x),
        x.shape[1], engine.program.n_outputs, 0, 0, stall, 1)
    engine._library.simulation_run(engine._simulation, cycles)


@pytest.mark.parametrize("stall", [0, 255])
def test_a_sequence_that_is_given_up_leaves_nothing_behind(stall):
    """Reset with input half sent, columns and cells at work, and output that nobody takes."""
    rng = np.random.default_rng(9)
    network = stack(rng, (gru, lstm, relu), (9, 13, 16, 7), theta=500)
    x = random_inputs(rng, 12, 9)
    [golden] = golden_runs(network, [x])
    with SimulatedEngine(P8, latency=3) as engine:
        engine.load(compile_network(network, P8))
        for cycles in (0, 1, 2, 5, 30, 50, 100, 200, 333, 500, 1000, 2000, 5000):
            give_up(engine, x, cycles, stall)
            engine.reset()
            np.testing.assert_array_equal(engine.run(x).outputs, golden.outputs)
            engine.reset()
