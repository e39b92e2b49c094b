"""Networks in one device, side by side: the simulation against the golden run of each, however they take turns."""

import numpy as np
import pytest
from mixed_networks import SMALL, random_mixed
from networks import SIZES, THETAS, expected_counts, random_inputs, random_network, with_rectifiers, with_thresholds
from test_conv_engine import random_maps
from test_engine import PATTERNS
from test_golden import gru, identity, lstm, relu, relu_threshold, stack

from amacrine.sim import engine as engine_module
from amacrine.sim.engine import SimulatedEngine
from amacrine.sw.compile import compile_network, compile_together
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Parameters
from amacrine.sw.program import Program, register_writes
from amacrine.sw.qlayers import QConv

P8 = Parameters()
FIRST = (relu_threshold, relu, gru, lstm)


@pytest.fixture(autouse=True)
def no_output_is_noticed_soon(monkeypatch):
    monkeypatch.setattr(engine_module, "DEAD_CYCLES", 500_000)


class Turns:
    """Networks on one engine, each with its golden model, in a sequence of turns."""

    def __init__(self, engine, networks, anticipate, first=0):
        self.engine, self.networks, self.anticipate = engine, networks, anticipate
        self.programs = compile_together(networks, engine.parameters, anticipate=anticipate)
        self.goldens = [Golden(network) for network in networks]
        self.present = first
        engine.load(self.programs[first])
        self.begin()

    def begin(self):
        """What a new sequence starts from."""
        for golden in self.goldens:
            golden.reset()
        self.events = [{} for _ in self.networks]

    def reset(self):
        self.engine.reset()
        self.begin()

    def switch(self, number):
        self.engine.switch(self.programs[number])
        self.present = number

    def inputs(self, rng, steps):
        """Random inputs of the present network."""
        network = self.networks[self.present]
        some = max(steps, 1)
        if isinstance(network.layers[0], QConv):
            return random_maps(rng, network, some)[:steps]
        return random_inputs(rng, some, network.n_inputs)[:steps]

    def run(self, x, **pattern):
        """Some steps of the present network."""
        golden = self.goldens[self.present].run(x)
        run = self.engine.run(x, **pattern)
        np.testing.assert_array_equal(run.outputs, golden.outputs)
        for job, events in golden.events.items():
            self.events[self.present][job] = self.events[self.present].get(job, 0) + int(events.sum())

    def check_counters(self):
        """Events and words of the present network since the sequence began."""
        program, events = self.programs[self.present], dict(self.events[self.present])
        nothing = np.zeros((0, program.n_inputs), np.int16)
        golden = self.goldens[self.present].run(nothing)    # what is anticipated, before the first step too
        counters = self.engine.counters()
        measured = {job.name: (counters[job.name]["events"], counters[job.name]["words"]) for job in program.jobs}
        assert measured == expected_counts(program, golden, self.anticipate, events)


def random_pair(rng):
    """Two networks, the first layers of all kinds."""
    pair = []
    for _ in range(2):
        count = int(rng.integers(1, 4))
        makers = [FIRST[rng.integers(4)], *[(relu, relu_threshold, identity, gru, lstm)[i]
                                            for i in rng.integers(0, 5, count - 1)]]
        network = with_rectifiers(rng, stack(rng, makers, [int(n) for n in rng.choice(SIZES, count + 1)]))
        pair.append(with_thresholds(network, lambda: int(rng.choice(THETAS))))
    return pair


def check_turns(rng, turns):
    """Two sequences of turns of random length, none too, with pauses or without."""
    for sequence in range(2):
        if sequence:
            turns.reset()
        for _ in range(int(rng.integers(3, 9))):
            idle, stall, pause = PATTERNS[rng.integers(len(PATTERNS))]
            turns.run(turns.inputs(rng, int(rng.integers(0, 7))), idle=idle, stall=stall, pause=pause,
                      seed=int(rng.integers(1, 1 << 30)))
            if rng.random() < 0.5:
                turns.check_counters()
            turns.switch(int(rng.random() < 0.7) ^ turns.present)
        turns.check_counters()


@pytest.mark.parametrize("seed", range(24))
def test_random_turns(seed):
    rng = np.random.default_rng([seed, 1])
    with SimulatedEngine(P8, latency=int(rng.choice((1, 3, 40))), memory_stall=float(rng.choice((0, 0.3)))) as engine:
        for _ in range(4):
            check_turns(rng, Turns(engine, random_pair(rng), bool(rng.integers(2)), int(rng.integers(2))))


@pytest.mark.parametrize("behind", [(), (relu_threshold,), (relu, gru, lstm)])
@pytest.mark.parametrize("seed", range(4))
def test_convolutions_and_vectors_take_turns(behind, seed):
    """A network that reads maps and one that reads vectors, either first in the program and at the start."""
    rng = np.random.default_rng([seed, len(behind), 2])
    with SimulatedEngine(SMALL, latency=int(rng.choice((1, 3, 40)))) as engine:
        for _ in range(4):
            maps = random_mixed(rng, int(rng.integers(1, 3)), int(rng.integers(1, 3)) if behind else 0, behind)
            pair = [maps, random_network(rng, 3)][:: int(rng.choice((1, -1)))]
            check_turns(rng, Turns(engine, pair, True, int(rng.integers(2))))


def test_three_networks():
    rng = np.random.default_rng(3)
    with SimulatedEngine(P8) as engine:
        turns = Turns(engine, [random_network(rng, 3, (3, 8, 17)) for _ in range(3)], True, 2)
        for _ in range(30):
            turns.switch(int(rng.integers(3)))
            turns.run(turns.inputs(rng, int(rng.integers(1, 4))))
            turns.check_counters()


def test_programs_load_the_same():
    rng = np.random.default_rng(4)
    one, other = compile_together(random_pair(rng), P8)
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])
    differ = {address for (address, value), (_, second) in zip(register_writes(one), register_writes(other),
                                                               strict=True) if value != second}
    assert len(differ) in (1, 2)        # LIST_LOOP, and INPUT
    numbers = [job.number for job in one.jobs + other.jobs]
    assert numbers == list(range(len(one.columns)))
    assert other.loop_start == one.loop_end and other.loop_end == len(one.entries)


def test_a_file_keeps_the_range(tmp_path):
    _, program = compile_together(random_pair(np.random.default_rng(5)), P8)
    program.save(tmp_path / "program")
    assert register_writes(Program.load(tmp_path / "program")) == register_writes(program)


def test_what_does_not_fit_together_is_refused():
    rng = np.random.default_rng(6)
    pair = [stack(rng, (gru,) * 6, (3,) * 7) for _ in range(2)]
    with pytest.raises(AmacrineError, match="'random and random' needs 36 column jobs, and the gateware has 32"):
        compile_together(pair, P8)


def test_the_cnn_engine_serves_one_network():
    rng = np.random.default_rng(8)
    with pytest.raises(AmacrineError, match="'mixed and mixed', more than one has convolutions"):
        compile_together([random_mixed(rng, 1, 0), random_mixed(rng, 1, 1)], SMALL)


def test_only_networks_compiled_together_take_turns():
    rng = np.random.default_rng(7)
    pair = random_pair(rng)
    with SimulatedEngine(P8) as engine:
        engine.load(compile_together(pair, P8)[0])
        with pytest.raises(AmacrineError, match=r"'random' was not compiled together"):
            engine.switch(compile_network(pair[1], P8))
