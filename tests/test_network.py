"""The float network: its checks, and its reference computation against ONNX Runtime."""

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx_graphs import BATCH, Graph, T, sequence_through_ort

from amacrine.sw.errors import AmacrineError
from amacrine.sw.network import GRU, LSTM, Dense, Network
from amacrine.sw.onnx_import import load_onnx

RNG = np.random.default_rng(0)


def dense(name="fc", n_inputs=3, n=4, activation="identity"):
    return Dense(name, RNG.normal(size=(n, n_inputs)), RNG.normal(size=n), activation)


def gru(name="gru", n_inputs=3, n=4):
    return GRU(name, RNG.normal(size=(3 * n, n_inputs)), RNG.normal(size=(3 * n, n)),
               RNG.normal(size=3 * n), RNG.normal(size=3 * n), RNG.normal(size=n))


def lstm(name="lstm", n_inputs=3, n=4):
    return LSTM(name, RNG.normal(size=(4 * n, n_inputs)), RNG.normal(size=(4 * n, n)), RNG.normal(size=4 * n),
                RNG.normal(size=n), RNG.normal(size=n))


MIXED = Network("mixed", (dense("in", 5, 3, "relu"), gru("gru", 3, 4), lstm("lstm", 4, 6),
                          dense("out", 6, 2)))


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_one_step_of_each_layer_by_hand():
    """Width 1, so that the equations can be written out in scalars, gate by gate."""
    x, h, c = 0.7, -0.3, 0.4
    wi, wh = [0.5, -1.0, 2.0, 0.3], [1.5, 0.2, -0.8, 0.9]
    bi, bh = [0.1, 0.2, -0.3, 0.4], [0.05, -0.6, 0.7, 0.0]
    column = [np.array(values)[:, None] for values in (wi, wh)]
    g = GRU("g", column[0][:3], column[1][:3], np.array(bi[:3]), np.array(bh[:3]), np.array([h]))
    r, z = (logistic(wi[k] * x + bi[k] + wh[k] * h + bh[k]) for k in (0, 1))
    n = math.tanh(wi[2] * x + bi[2] + r * (wh[2] * h + bh[2]))
    assert Network("g", (g,)).run(np.array([[x]])).item() == pytest.approx((1 - z) * n + z * h, abs=1e-14)
    m = LSTM("m", column[0], column[1], np.array(bi), np.array([h]), np.array([c]))
    psums = [wi[k] * x + wh[k] * h + bi[k] for k in range(4)]
    i, f, o = (logistic(psums[k]) for k in (0, 1, 3))
    cell = f * c + i * math.tanh(psums[2])
    trace = Network("m", (m,)).trace(np.array([[x]]))["m"]
    assert trace.cell is not None and trace.cell.item() == pytest.approx(cell, abs=1e-14)
    assert trace.output.item() == pytest.approx(o * math.tanh(cell), abs=1e-14)
    np.testing.assert_allclose(trace.psum_max, psums, atol=1e-14)
    for activation, expected in (("identity", -1.5), ("relu", 0.0), ("sigmoid", logistic(-1.5)),
                                 ("tanh", math.tanh(-1.5))):
        d = Dense("d", np.array([[-2.0]]), np.array([-0.1]), activation)
        assert Network("d", (d,)).run(np.array([[x]])).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("operator", ["GRU", "LSTM"])
def test_run_equals_onnx_runtime(operator, tmp_path):
    graph = Graph()
    graph.recurrent(operator, graph.input("x", T, BATCH, 5), ["y"], 5, 7)
    graph.output("y")
    path = graph.save(tmp_path)
    x = np.random.default_rng(2).normal(size=(40, 5))
    expected = sequence_through_ort(path, x, "tb")[0].reshape(40, 7)
    np.testing.assert_allclose(load_onnx(path).run(x), expected, rtol=0, atol=1e-6)


def test_sizes():
    assert (MIXED.n_inputs, MIXED.n_outputs) == (5, 2)
    assert MIXED.run(np.ones((7, 5), np.float32)).shape == (7, 2)


def test_a_sequence_in_pieces_equals_the_whole():
    x = np.random.default_rng(3).normal(size=(11, 5))
    pieces, states = [], None
    for piece in (x[:1], x[1:4], x[4:]):
        y, states = MIXED.run_from(piece, states)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces), MIXED.run(x), rtol=0, atol=1e-12)
    assert np.abs(MIXED.run(x[4:]) - pieces[-1]).max() > 1e-3, "the state must matter"


def test_runs_are_independent():
    """A run must not change the initial state, nor the input."""
    x = np.random.default_rng(4).normal(size=(6, 5))
    before = x.copy()
    first = MIXED.run(x)
    np.testing.assert_array_equal(MIXED.run(x), first)
    np.testing.assert_array_equal(x, before)


def test_trace_shows_every_layer():
    x = np.random.default_rng(5).normal(size=(9, 5))
    trace = MIXED.trace(x)
    assert list(trace) == ["in", "gru", "lstm", "out"]
    assert [item.output.shape for item in trace.values()] == [(9, 3), (9, 4), (9, 6), (9, 2)]
    assert [item.psum_min.shape for item in trace.values()] == [(3,), (16,), (24,), (2,)]
    np.testing.assert_array_equal(trace["out"].output, MIXED.run(x))
    cell = trace["lstm"].cell
    assert cell is not None and cell.shape == (9, 6) and trace["gru"].cell is None
    np.testing.assert_array_equal(trace["lstm"].state[0], trace["lstm"].output[-1])
    np.testing.assert_array_equal(trace["lstm"].state[1], cell[-1])
    np.testing.assert_array_equal(trace["gru"].state[0], trace["gru"].output[-1])


def test_psum_ranges_of_dense_and_gru():
    x = np.random.default_rng(6).normal(size=(9, 5))
    trace, first, layer = MIXED.trace(x), MIXED.layers[0], MIXED.layers[1]
    assert isinstance(first, Dense) and isinstance(layer, GRU)
    psum = x @ first.weight.T + first.bias
    np.testing.assert_allclose(trace["in"].psum_min, psum.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(trace["in"].psum_max, psum.max(axis=0), atol=1e-12)
    previous = np.concatenate([layer.initial_h[None], trace["gru"].output[:-1]])
    from_x = trace["in"].output @ layer.weight_ih.T + layer.bias_ih
    from_h = previous @ layer.weight_hh.T + layer.bias_hh
    rows = np.concatenate([from_x[:, :8] + from_h[:, :8], from_x[:, 8:], from_h[:, 8:]], axis=1)
    np.testing.assert_allclose(trace["gru"].psum_min, rows.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(trace["gru"].psum_max, rows.max(axis=0), atol=1e-12)


def test_large_inputs_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        y = Network("s", (Dense("fc", np.eye(2), np.zeros(2), "sigmoid"),)).run(np.array([[-1e5, 1e5]]))
    np.testing.assert_array_equal(y, [[0.0, 1.0]])


@pytest.mark.parametrize(("x", "reason"), [
    (np.zeros((4, 6)), r"\(steps, 5\).*not \(4, 6\)"),
    (np.zeros(5), r"\(steps, 5\).*not \(5,\)"),
    (np.zeros((1, 4, 5)), r"not \(1, 4, 5\)"),
    (np.zeros((0, 5)), "at least one step"),
    (np.array([[0, 1, 2, 3, np.nan]]), "nan at step 0, column 4"),
    (np.array([[0.0] * 5, [0, np.inf, 0, 0, 0]]), "inf at step 1, column 1"),
    (np.zeros((2, 5), complex), "real numbers"),
    (np.array([["a"] * 5]), "real numbers"),
])
def test_bad_inputs_are_refused(x, reason):
    with pytest.raises(AmacrineError, match=reason) as refusal:
        MIXED.run(x)
    assert "network 'mixed'" in str(refusal.value)


FC, RNN, MEMORY = dense(), gru(), lstm()


@pytest.mark.parametrize(("layers", "reason"), [
    ((), "'net' has no layers"),
    ((dense("a", 3, 3), dense("a", 3, 3)), "two layers named 'a'"),
    ((dense("a", 3, 4), gru("b", 5, 2)), "'b' reads 5 values, but layer 'a' before it makes 4"),
    ((replace(FC, weight=np.zeros(3)),), "'fc': weight has shape"),
    ((replace(FC, weight=np.zeros((4, 0))),), "'fc': weight has shape"),
    ((replace(FC, bias=np.zeros(3)),), r"'fc': bias has shape \(3,\).*ask for \(4,\)"),
    ((replace(FC, activation="gelu"),), "'fc': activation 'gelu' is not supported"),
    ((replace(FC, weight=np.full((4, 3), np.nan)),), "'fc': weight holds NaN"),
    ((replace(FC, bias=np.array([0, 0, 0, np.inf])),), "'fc': bias holds NaN or infinity"),
    ((replace(RNN, weight_ih=np.zeros((9, 3))),), r"'gru': weight_ih.*ask for \(12, 3\)"),
    ((replace(RNN, weight_hh=np.zeros((16, 4))),), r"'gru': weight_hh.*ask for \(12, 4\)"),
    ((replace(RNN, bias_hh=np.zeros(4)),), "'gru': bias_hh"),
    ((replace(RNN, initial_h=np.full(4, np.nan)),), "'gru': initial_h holds NaN"),
    ((replace(MEMORY, weight_hh=np.zeros((12, 4))),), r"'lstm': weight_hh.*ask for \(16, 4\)"),
    ((replace(MEMORY, initial_c=np.zeros(5)),), r"'lstm': initial_c.*ask for \(4,\)"),
])
def test_bad_networks_are_refused(layers, reason):
    with pytest.raises(AmacrineError, match=reason):
        Network("net", layers)
