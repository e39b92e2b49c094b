"""The golden model against the contract in plain Python integers, and against a dense run at threshold 0."""

import numpy as np
import pytest
from test_activation import scalar_sigmoid, scalar_tanh

from amacrine.sw import golden
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden, dense_run
from amacrine.sw.qlayers import QGRU, QLSTM, QDense, Source
from amacrine.sw.quantised import QuantisedNetwork

# ---- networks of random integers --------------------------------------------------------------------------


def source(rng, rows, n, scale, frac, theta, encoder="delta"):
    weight = rng.integers(-128, 128, (rows, n)).astype(np.int8)
    return Source(weight, scale - frac, frac, encoder, theta)


def bias(rng, *shape):
    return rng.integers(-(1 << 18), 1 << 18, shape).astype(np.int32)


def dense(rng, n, frac, size, activation, theta=0, encoder="delta", output_frac=None):
    output_frac = int(rng.integers(8, 16)) if output_frac is None else output_frac
    scale = int(rng.integers(14, 19)) if activation in ("sigmoid", "tanh") else output_frac + 6
    weights = source(rng, size, n, scale, frac, theta, encoder)
    return QDense(f"{activation}{rng.integers(1e9)}", weights, bias(rng, size), activation, output_frac)


def gru(rng, n, frac, size, theta=0):
    scale, output_frac = int(rng.integers(16, 20)), int(rng.integers(8, 16))
    return QGRU(f"gru{rng.integers(1e9)}", source(rng, 3 * size, n, scale, frac, theta),
                source(rng, 3 * size, size, scale, output_frac, theta), bias(rng, 4, size), output_frac,
                rng.integers(-32768, 32768, size).astype(np.int16))


def lstm(rng, n, frac, size, theta=0):
    scale, output_frac = int(rng.integers(16, 20)), int(rng.integers(8, 16))
    initial_h, initial_c = rng.integers(-32768, 32768, (2, size)).astype(np.int16)
    return QLSTM(f"lstm{rng.integers(1e9)}", source(rng, 4 * size, n, scale, frac, theta),
                 source(rng, 4 * size, size, scale, output_frac, theta), bias(rng, 4, size), output_frac,
                 int(rng.integers(8, 13)), initial_h, initial_c)


def stack(rng, makers, sizes, theta=0):
    """Layers ``makers[k]`` from ``sizes[k]`` to ``sizes[k + 1]`` elements."""
    frac, layers = int(rng.integers(8, 16)), []
    for make, n, size in zip(makers, sizes, sizes[1:], strict=False):
        layers.append(make(rng, n, layers[-1].output_frac if layers else frac, size, theta=theta))
    return QuantisedNetwork("random", tuple(layers), frac)


def relu(*args, **kwargs):
    return dense(*args, "relu", **kwargs)


def relu_threshold(*args, **kwargs):
    return dense(*args, "relu", encoder="threshold", **kwargs)


def sigmoid_threshold(*args, **kwargs):
    return dense(*args, "sigmoid", encoder="threshold", **kwargs)


def tanh(*args, **kwargs):
    return dense(*args, "tanh", **kwargs)


def identity(*args, **kwargs):
    return dense(*args, "identity", **kwargs)


def walk(rng, steps, n, stride=6000):
    """Inputs that wander over the whole 16-bit range, with jumps from one end to the other."""
    x = np.clip(np.cumsum(rng.integers(-stride, stride + 1, (steps, n)), axis=0), -32768, 32767)
    x[rng.random((steps, n)) < 0.05] = -32768
    x[rng.random((steps, n)) < 0.05] = 32767
    return x.astype(np.int16)


STACKS = {
    "dense": ((relu, relu_threshold, sigmoid_threshold), (5, 7, 4, 3)),
    "dense delta": ((tanh, identity), (4, 6, 3)),
    "gru": ((gru,), (3, 4)),
    "lstm": ((lstm,), (3, 4)),
    "mixed": ((relu, gru, lstm, sigmoid_threshold), (4, 5, 3, 4, 2)),
    "size 1": ((gru, lstm, relu), (1, 1, 1, 1)),
}

# ---- the contract, one integer at a time ------------------------------------------------------------------


def rq(v, shift, bits):
    if shift:
        v = (v + (1 << (shift - 1))) >> shift
    return max(-(1 << (bits - 1)), min(v, (1 << (bits - 1)) - 1))


def wrap(v):
    return (v + 2**31) % 2**32 - 2**31


class ScalarLayer:
    """One layer as docs/arithmetic.md tells it, with one loop per row and column."""

    def __init__(self, q):
        self.q = q
        self.sources = [(q.input, q.input_gates)]
        f = q.output_frac
        if isinstance(q, QGRU):
            self.inner = [int(v) for v in q.initial_s]
            self.h = [rq(v, 15 - f, 16) for v in self.inner]
        elif isinstance(q, QLSTM):
            self.inner = [int(v) for v in q.initial_c]
            self.h = [int(v) for v in q.initial_h]
        if not isinstance(q, QDense):
            self.sources.append((q.recurrent, q.recurrent_gates))
        self.views = [[0] * s.n for s, _ in self.sources]
        self.bias = [[int(v) for v in row] for row in np.atleast_2d(q.bias)]
        self.psum = [row[:] for row in self.bias]

    def step(self, x):
        """One time step: the output vector and, for each source, the events (index, value)."""
        events = []
        inputs = [x, None if isinstance(self.q, QDense) else self.h]
        for (s, gates), view, vector in zip(self.sources, self.views, inputs, strict=False):
            if s.encoder == "threshold":
                self.psum = [row[:] for row in self.bias]
            events.append([])
            for i, value in enumerate(vector):
                d = value if s.encoder == "threshold" else value - view[i]
                if d == 0 or abs(d) < s.theta:
                    continue
                view[i] = value
                events[-1].append((i, d))
                size = s.rows // len(gates)
                for row in range(s.rows):
                    gate = gates[row // size]
                    total = self.psum[gate][row % size] + int(s.weight[row, i]) * d
                    self.psum[gate][row % size] = wrap(total)
        return self._cell(), events

    def _cell(self):
        q, f, scale = self.q, self.q.output_frac, self.q.input.scale
        if isinstance(q, QDense):
            return [self._dense(m) for m in self.psum[0]]
        for k in range(q.size):
            a, b, c, d = (rq(self.psum[gate][k], scale - 12, 18) for gate in range(4))
            if isinstance(q, QGRU):
                r, z = scalar_sigmoid(a), scalar_sigmoid(b)
                n = scalar_tanh(rq((c << 15) + r * d, 15, 18))
                v = (n << 15) + z * (self.inner[k] - n)
                self.inner[k] = rq(v, 15, 16)
            else:
                g = rq(scalar_tanh(c), 15 - q.cell_frac, 16)
                self.inner[k] = rq(scalar_sigmoid(b) * self.inner[k] + scalar_sigmoid(a) * g, 15, 16)
                v = scalar_sigmoid(d) * scalar_tanh(rq(self.inner[k] << (12 - q.cell_frac), 0, 18))
            self.h[k] = rq(v, 30 - f, 16)
        return self.h[:]

    def _dense(self, m):
        q = self.q
        if q.activation in ("identity", "relu"):
            y = rq(m, q.input.scale - q.output_frac, 16)
            return max(y, 0) if q.activation == "relu" else y
        function = scalar_sigmoid if q.activation == "sigmoid" else scalar_tanh
        return rq(function(rq(m, q.input.scale - 12, 18)), 15 - q.output_frac, 16)


def assert_equals_scalars(network, x):
    """Run both, compare everything that happened in every step, and return the golden run."""
    run = Golden(network).run(x, trace=True)
    layers = [ScalarLayer(q) for q in network.layers]
    for t, row in enumerate(x):
        vector = [int(v) for v in row]
        for layer in layers:
            vector, events = layer.step(vector)
            assert run.vectors[layer.q.name][t].tolist() == vector
            for name, expected in zip(("input", "recurrent"), events, strict=False):
                job = f"{layer.q.name}.{name}"
                index, value = run.trace[job][t]
                assert list(zip(index.tolist(), value.tolist(), strict=True)) == expected
                assert run.events[job][t] == len(expected)
    return run


@pytest.mark.parametrize("theta", [0, 1, 900, 9000])
@pytest.mark.parametrize("shape", STACKS)
@pytest.mark.parametrize("seed", range(3))
def test_every_event_and_vector_equals_the_contract(seed, shape, theta):
    rng = np.random.default_rng([seed, theta, *map(ord, shape)])
    makers, sizes = STACKS[shape]
    network = stack(rng, makers, sizes, theta)
    run = assert_equals_scalars(network, walk(rng, 25, sizes[0]))
    first = f"{network.layers[0].name}.input"
    assert run.events[first].sum() > 0
    if theta == 9000:  # so that the thresholds do leave something out
        assert run.columns_skipped(first) > 0.2


@pytest.mark.parametrize("shape", STACKS)
def test_threshold_zero_equals_the_dense_run(shape):
    rng = np.random.default_rng([2, *map(ord, shape)])
    makers, sizes = STACKS[shape]
    for _ in range(5):
        network = stack(rng, makers, [size * 9 - 8 for size in sizes])
        x = walk(rng, 60, network.n_inputs, stride=2000)
        expected = dense_run(network, x)
        run = Golden(network).run(x)
        for name, vectors in expected.items():
            np.testing.assert_array_equal(run.vectors[name], vectors)
        assert run.outputs is run.vectors[network.layers[-1].name]


def test_threshold_zero_equals_the_dense_run_at_the_size_of_nsnet2():
    rng = np.random.default_rng(3)
    sizes = (161, 400, 400, 400, 600, 600, 161)
    network = stack(rng, (relu, gru, gru, relu, relu_threshold, sigmoid_threshold), sizes)
    x = walk(rng, 40, 161, stride=300)
    run, expected = Golden(network).run(x), dense_run(network, x)
    for name, vectors in expected.items():
        np.testing.assert_array_equal(run.vectors[name], vectors)
        assert len(np.unique(vectors)) > 2  # not all of it saturated


def one_input(theta=0, encoder="delta"):
    """y = x / 2, from 8 to 8 fractional bits, no bias."""
    weights = Source(np.array([[1]], np.int8), 1, 8, encoder, theta)
    return QuantisedNetwork("one", (QDense("fc", weights, np.zeros(1, np.int32), "identity", 8),), 8)


def column(*values):
    return np.array(values, np.int16)[:, None]


@pytest.mark.parametrize(("theta", "events"), [
    (0, [-32768, 65535, -65535]),
    (32768, [-32768, 65535, -65535]),
    (32769, [None, None, None]),  # the view stays 0, from which no element is so far away
    (65535, [None, None, None]),
])
def test_differences_have_17_bits_and_are_not_clipped(theta, events):
    run = Golden(one_input(theta=theta)).run(column(-32768, 32767, -32768), trace=True)
    values = [value.tolist() for _, value in run.trace["fc.input"]]
    assert values == [[] if event is None else [event] for event in events]
    expected = [0, 0, 0] if theta > 32768 else [-16384, 16384, -16384]  # 32767 / 2 rounds up
    assert run.outputs[:, 0].tolist() == expected


def test_threshold_is_reached_by_equality_and_the_view_waits_for_it():
    run = Golden(one_input(theta=10)).run(column(9, 10, 19, 20, 29, 11, 10), trace=True)
    assert run.events["fc.input"].tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert [value.tolist() for _, value in run.trace["fc.input"]] == [[], [10], [], [10], [], [], [-10]]


def test_threshold_encoder_forgets():
    run = Golden(one_input(theta=10, encoder="threshold")).run(column(9, 10, -10, 0, -9, 512), trace=True)
    assert [value.tolist() for _, value in run.trace["fc.input"]] == [[], [10], [-10], [], [], [512]]
    zero = Golden(one_input(encoder="threshold")).run(column(0, 1, 0))
    assert zero.events["fc.input"].tolist() == [0, 1, 0]  # zero is no event, even at threshold 0


def test_exact_at_the_largest_partial_sums():
    """511 · 128 · 2**15 is the largest such sum below 2**31; float64 products must lose nothing."""
    weights = Source(np.full((2, 511), -128, np.int8), 15, 8, "delta", 0)
    weights.weight[1, 0] = -127
    layer = QDense("fc", weights, np.array([4194303, -5], np.int32), "identity", 8)
    network = QuantisedNetwork("large", (layer,), 8)
    x = np.full((3, 511), -32768, np.int16)
    x[1], x[2, 7] = 32767, -32767
    np.testing.assert_array_equal(Golden(network).run(x).vectors["fc"], dense_run(network, x)["fc"])
    assert_equals_scalars(network, x)


def test_state_goes_on_from_call_to_call_and_reset_starts_again(monkeypatch):
    rng = np.random.default_rng(5)
    makers, sizes = STACKS["mixed"]
    network = stack(rng, makers, sizes, theta=700)
    x = walk(rng, 30, sizes[0])
    whole = Golden(network).run(x, trace=True)
    monkeypatch.setattr(golden, "BLOCK", 4)  # blocks within a call, too
    model = Golden(network)
    for _ in range(2):
        parts = [model.run(x[a:b], trace=True) for a, b in ((0, 1), (1, 1), (1, 11), (11, 30))]
        for name, vectors in whole.vectors.items():
            np.testing.assert_array_equal(np.concatenate([part.vectors[name] for part in parts]), vectors)
        for job, counts in whole.events.items():
            np.testing.assert_array_equal(np.concatenate([part.events[job] for part in parts]), counts)
            assert sum(len(part.trace[job]) for part in parts) == len(whole.trace[job]) == 30
        assert parts[-1].anticipated == whole.anticipated
        model.reset()
    assert Golden(network).run(x).trace is None


def test_anticipated_events_are_those_of_the_next_step():
    rng = np.random.default_rng(6)
    network = stack(rng, (gru, lstm), (4, 20, 20), theta=2500)
    model = Golden(network)
    jobs = [f"{layer.name}.recurrent" for layer in network.layers]
    counts = []
    for row in walk(rng, 20, 4):
        before = model.run(np.empty((0, 4), np.int16)).anticipated
        run = model.run(row[None])
        assert list(before) == jobs
        assert {job: int(run.events[job][0]) for job in jobs} == before
        counts += before.values()
    assert 0 < sum(counts) < 20 * len(counts)


def test_initial_state_is_the_state_before_the_first_step():
    rng = np.random.default_rng(7)
    network = stack(rng, (gru, lstm), (3, 5, 6))
    state = Golden(network).state()
    first, second = network.layers
    np.testing.assert_array_equal(state[first.name]["s"], first.initial_s)
    np.testing.assert_array_equal(state[first.name]["h"],
                                  [rq(int(s), 15 - first.output_frac, 16) for s in first.initial_s])
    np.testing.assert_array_equal(state[second.name]["c"], second.initial_c)
    np.testing.assert_array_equal(state[second.name]["h"], second.initial_h)
    model = Golden(network)
    run = model.run(walk(rng, 9, 3))
    for layer in network.layers:
        np.testing.assert_array_equal(model.state()[layer.name]["h"], run.vectors[layer.name][-1])
    assert not np.array_equal(model.state()[first.name]["s"], first.initial_s)


def test_counts_of_words_macs_and_columns():
    rng = np.random.default_rng(8)
    network = stack(rng, (gru, lstm, relu), (3, 5, 6, 7), theta=3000)
    run = Golden(network).run(walk(rng, 12, 3))
    a, b, c = (layer.name for layer in network.layers)
    jobs = ((f"{a}.input", 3, 5, 3), (f"{a}.recurrent", 3, 5, 5), (f"{b}.input", 4, 6, 5),
            (f"{b}.recurrent", 4, 6, 6), (f"{c}.input", 1, 7, 6))
    for job, gates, height, n in jobs:
        events = run.events[job]
        assert run.macs(job).tolist() == [int(e) * gates * height for e in events]
        for pes, words in ((1, height), (4, 2), (8, 1)):
            assert run.words(job, pes).tolist() == [int(e) * gates * words for e in events]
        assert run.columns(job) == 12 * n
        assert run.columns_skipped(job) == pytest.approx(1 - events.sum() / (12 * n))
    both = run.events[f"{a}.input"].sum() + run.events[f"{a}.recurrent"].sum()
    assert run.columns_skipped(a) == pytest.approx(1 - both / (12 * 8))
    assert run.columns_skipped() == pytest.approx(1 - sum(e.sum() for e in run.events.values()) / (12 * 25))
    with pytest.raises(AmacrineError, match=r"'fc'.*gru.*\.input"):
        run.columns_skipped("fc")


@pytest.mark.parametrize("x", [np.zeros((4, 1)), np.zeros((4, 2), np.int16), np.zeros(1, np.int16),
                               np.zeros((4, 1), np.int32)])
def test_wrong_inputs_are_refused(x):
    for function in (Golden(one_input()).run, lambda x: dense_run(one_input(), x)):
        with pytest.raises(AmacrineError, match=r"int16 input vectors of shape \(steps, 1\), not"):
            function(x)
