"""Quantisation: formats, the proof against overflow, encoders, thresholds, closeness to float."""

from dataclasses import replace

import numpy as np
import pytest

from amacrine.sw.errors import AmacrineError
from amacrine.sw.fixed import from_fixed, to_fixed
from amacrine.sw.formats import HEADROOM, most_frac
from amacrine.sw.golden import Golden
from amacrine.sw.network import GRU, LSTM, Dense, Network
from amacrine.sw.qlayers import QGRU, QLSTM, QDense, Range, Source
from amacrine.sw.quantise import quantise, sqnr_db, sqnr_report
from amacrine.sw.quantised import QuantisedNetwork
from amacrine.sw.rounding import round_weights
from amacrine.sw.thresholds import Threshold, parse_thresholds

# ---- float networks and inputs ----------------------------------------------------------------------------


def dense(rng, name, n, size, activation="identity", gain=1.0):
    return Dense(name, gain * rng.normal(size=(size, n)) / np.sqrt(n), rng.normal(size=size), activation)


def gru(rng, name, n, size, gain=1.0):
    return GRU(name, gain * rng.normal(size=(3 * size, n)) / np.sqrt(n),
               rng.normal(size=(3 * size, size)) / np.sqrt(size), rng.normal(size=3 * size),
               rng.normal(size=3 * size), rng.uniform(-1, 1, size))


def lstm(rng, name, n, size, initial=1.0):
    return LSTM(name, rng.normal(size=(4 * size, n)) / np.sqrt(n),
                rng.normal(size=(4 * size, size)) / np.sqrt(size), rng.normal(size=4 * size),
                initial * rng.uniform(-1, 1, size), rng.normal(size=size))


def inputs(rng, steps, n, peak=4.0):
    """Smooth inputs within ±peak, each element with its own pace, and correlated as real ones are."""
    phase = rng.uniform(0, 7, n) + np.arange(steps)[:, None] * rng.uniform(0.02, 0.3, n)
    mixed = (np.sin(phase) + 0.1 * rng.normal(size=(steps, n))) @ rng.normal(size=(n, n))
    return peak * mixed / np.abs(mixed).max()


def mixed_network(rng):
    layers = (dense(rng, "in", 10, 24, "relu"), gru(rng, "gru", 24, 20), lstm(rng, "lstm", 20, 16),
              dense(rng, "mid", 16, 12, "relu"), dense(rng, "out", 12, 5, "sigmoid"))
    return Network("mixed", layers)


# ---- formats ----------------------------------------------------------------------------------------------


def assert_contract(network):
    """The contract's conditions on formats, stated anew."""
    frac = network.input_frac
    for layer in network.layers:
        scale = layer.input.weight_frac + layer.input.input_frac
        assert 8 <= frac <= 15 and 8 <= layer.output_frac <= 15
        assert layer.input.input_frac == frac
        if isinstance(layer, QDense) and layer.activation in ("identity", "relu"):
            assert 0 <= scale - layer.output_frac <= 15
        else:
            assert 0 <= scale - 12 <= 15
        if not isinstance(layer, QDense):
            assert layer.recurrent.weight_frac + layer.output_frac == scale
            assert layer.recurrent.input_frac == layer.output_frac
        if isinstance(layer, QLSTM):
            assert 8 <= layer.cell_frac <= 12
        frac = layer.output_frac


@pytest.mark.parametrize("peak", [0.01, 1.0, 12.0, 60.0, 120.0])
@pytest.mark.parametrize("gain", [1e-4, 1.0, 30.0])
def test_formats_obey_the_contract_whatever_the_sizes_of_numbers(gain, peak):
    rng = np.random.default_rng(1)
    layers = (gru(rng, "a", 6, 8, gain), dense(rng, "b", 8, 9, "tanh", gain),
              dense(rng, "c", 9, 7, "relu", gain), lstm(rng, "d", 7, 5),
              dense(rng, "e", 5, 3, "identity", gain))
    network = Network("any", layers)
    x = inputs(rng, 80, 6, peak)
    quantised = quantise(network, x)
    assert_contract(quantised)
    if gain <= 1:  # with large weights, any small error grows from layer to layer
        assert sqnr_report(network, quantised, x)[-1].outputs_db > 25


@pytest.mark.parametrize(("peak", "frac"), [
    (0.0, 15), (0.5, 15), (0.51, 14), (4.0, 12), (4.01, 11), (12.0, 10), (64.0, 8),
    (100.0, 8), (128.0, 8),  # headroom given up
])
def test_a_vector_gets_the_most_bits_that_leave_headroom(peak, frac):
    assert most_frac(peak, HEADROOM, range(8, 16), "it") == frac


def test_numbers_beyond_the_coarsest_format_are_refused():
    rng = np.random.default_rng(2)
    network = Network("n", (dense(rng, "fc", 3, 4), lstm(rng, "cell", 4, 5)))
    with pytest.raises(AmacrineError, match=r"network's input reaches 130 on.*at most 128"):
        quantise(network, np.full((2, 3), 130.0))
    loud = replace(network.layers[0], bias=np.array([0, -300.0, 0, 0]))
    with pytest.raises(AmacrineError, match="output of layer 'fc' reaches 30"):
        quantise(Network("n", (loud,)), np.zeros((2, 3)))
    cell = replace(network.layers[1], initial_c=np.full(5, 200.0))
    with pytest.raises(AmacrineError, match="state c of layer 'cell' reaches 200"):
        quantise(Network("n", (network.layers[0], cell)), np.zeros((2, 3)))


def test_the_layer_without_formats_is_named():
    """Weights of 1 and of 2**20 in the two sources of one layer cannot share a scale and 8 bits each."""
    rng = np.random.default_rng(3)
    layer = gru(rng, "far", 4, 5)
    apart = replace(layer, weight_ih=layer.weight_ih * 2.0**20)
    with pytest.raises(AmacrineError, match=r"no fixed-point formats fit layer 'far'"):
        quantise(Network("n", (dense(rng, "fc", 4, 4), apart)), inputs(rng, 20, 4))


def test_scarce_bits_go_to_where_they_lower_the_noise():
    """Weights near 0.001 and inputs up to 1 could use 30 fractional bits of the partial sums' 27."""
    rng = np.random.default_rng(11)
    network = Network("n", (Dense("fc", 1e-3 * rng.uniform(-1, 1, (8, 9)), np.zeros(8), "tanh"),))
    lively = rng.uniform(-1, 1, (20_000, 9))
    quiet = 1e-4 * lively
    quiet[0] = lively[0] = 1.0  # the same range, but hardly any power for errors of weights to act on
    first, second = (quantise(network, x).layers[0].input for x in (lively, quiet))
    assert first.scale == second.scale == 27
    assert first.weight_frac > second.weight_frac


@pytest.mark.parametrize("shape", [(0, 4), (5, 3), (4,)])
def test_calibration_data_of_wrong_shape_is_refused(shape):
    with pytest.raises(AmacrineError, match=r"\(steps, 4\)"):
        quantise(Network("n", (dense(np.random.default_rng(0), "fc", 4, 4),)), np.zeros(shape))


def test_states_in_their_formats():
    rng = np.random.default_rng(4)
    first, second = gru(rng, "g", 3, 4), lstm(rng, "l", 4, 6, initial=3.0)
    first = replace(first, initial_h=np.array([1.5, -1.5, 0.25, -2.0**-16]))  # saturates; half rounds up
    quantised = quantise(Network("n", (first, second)), inputs(rng, 50, 3))
    g, c = quantised.layers
    assert g.initial_s.tolist() == [32767, -32768, 8192, 0]
    assert c.output_frac <= 13  # 3.0 must fit
    np.testing.assert_allclose(from_fixed(c.initial_h, c.output_frac), second.initial_h, atol=2**-9)
    np.testing.assert_allclose(from_fixed(c.initial_c, c.cell_frac), second.initial_c, atol=2**-9)
    assert c.output_range.low == c.initial_h.min() < -(1 << c.output_frac)  # beyond -1.0
    assert g.output_range == Range(-(1 << g.output_frac), min(1 << g.output_frac, 32767))


# ---- overflow ---------------------------------------------------------------------------------------------


def one_dense(weight, bias=0, **formats):
    source = Source(np.array(weight, np.int8), 15, 8, "delta", 0)
    layer = QDense("fc", source, np.full(len(weight), bias, np.int32), "identity", 8)
    return QuantisedNetwork("n", (replace(layer, **formats),), 8)


@pytest.mark.parametrize(("weight", "n", "bias", "fits"), [
    (-128, 511, 4194303, True), (-128, 511, 4194304, False), (-128, 512, 0, False),
    (-128, 511, -4259712, True), (-128, 511, -4259713, False),
    (127, 516, 16384 + 8 - 1, True), (127, 516, 1 << 30, False), (127, 516, -(1 << 30), False),
])
def test_the_proof_is_exact_at_the_limit(weight, n, bias, fits):
    """-128·-32768·n + bias up to 2**31 - 1 is accepted, -128·32767·n + bias from -2**31; likewise 127."""
    weights = np.zeros((3, n))
    weights[1] = weight
    if fits:
        one_dense(weights, bias)
    else:
        with pytest.raises(AmacrineError, match=r"layer 'fc': the partial sum of row 1 can reach"):
            one_dense(weights, bias)


def test_the_proof_uses_the_range_of_a_sigmoid():
    """Behind a sigmoid of 8 fractional bits, 0 to 256, even 10 000 weights of 127 cannot overflow."""
    rng = np.random.default_rng(5)
    wide = QDense("wide", Source(rng.integers(-9, 9, (10_000, 1)).astype(np.int8), 8, 8, "delta", 0),
                  np.zeros(10_000, np.int32), "sigmoid", 8)
    last = QDense("last", Source(np.full((1, 10_000), 127, np.int8), 8, 8, "delta", 0),
                  np.zeros(1, np.int32), "identity", 8)
    QuantisedNetwork("n", (wide, last), 8)
    with pytest.raises(AmacrineError, match="layer 'last': the partial sum of row 0"):
        QuantisedNetwork("n", (replace(wide, activation="relu"), last), 8)


def test_quantise_lowers_bits_until_nothing_can_overflow():
    rng = np.random.default_rng(6)
    layer = Dense("sum", np.ones((2, 600)) + 0.01 * rng.normal(size=(2, 600)), np.zeros(2), "tanh")
    x = rng.normal(size=(30, 600)) * 0.1
    (quantised,) = quantise(Network("n", (layer,)), x).layers
    row = np.abs(quantised.input.weight.astype(int)).sum(axis=1).max()
    assert row * 32768 < 2**31  # although weights near 1.0 could have 6 fractional bits: 600·64·32768 > 2**30
    assert row * 32768 * 2 >= 2**29


def test_a_layer_that_could_overflow_in_any_format_is_refused():
    layer = Dense("huge", np.full((3, 1000), 20.0), np.zeros(3), "sigmoid")
    with pytest.raises(AmacrineError, match="formats fit layer 'huge'.*partial sum of row"):
        quantise(Network("n", (layer,)), np.tile([[100.0], [-100.0]], (3, 1000)))
    biased = Dense("biased", np.full((2, 2), 0.1), np.array([1.0, 3e6]), "sigmoid")
    with pytest.raises(AmacrineError, match="formats fit layer 'biased'.*bias of row 1"):
        quantise(Network("n", (biased,)), np.full((4, 2), 0.01))


# ---- what QuantisedNetwork checks beside that -------------------------------------------------------------


def small():
    rng = np.random.default_rng(7)
    return quantise(Network("n", (dense(rng, "fc", 3, 4, "relu"), gru(rng, "gru", 4, 5))), inputs(rng, 30, 3))


@pytest.mark.parametrize(("change", "message"), [
    (lambda fc, gru: (), "no layers"),
    (lambda fc, gru: (fc, replace(gru, name="fc")), "not unique: fc, fc"),
    (lambda fc, gru: (gru,), "gru.input"),
    (lambda fc, gru: (fc, replace(gru, output_frac=16)), "16"),
    (lambda fc, gru: (fc, replace(gru, input=replace(gru.input, encoder="threshold"))), "sums persist"),
    (lambda fc, gru: (fc, replace(gru, input=replace(gru.input, theta=65536))), "not 65536"),
    (lambda fc, gru: (fc, replace(gru, input=replace(gru.input, weight_frac=1))), "must be equal"),
    (lambda fc, gru: (fc, replace(gru, input=replace(gru.input, input_frac=15))), "gru.input expects"),
    (lambda fc, gru: (fc, replace(gru, bias=gru.bias[:3])), r"bias must be int32 \(4, 5\)"),
    (lambda fc, gru: (fc, replace(gru, initial_s=gru.initial_s.astype(int))), "initial_s must be int16"),
    (lambda fc, gru: (replace(fc, output_frac=8, input=replace(fc.input, weight_frac=-9)), gru), "shift"),
    (lambda fc, gru: (replace(fc, input=replace(fc.input, weight=fc.input.weight[:0])), gru), "not empty"),
])
def test_a_network_that_breaks_the_contract_is_refused(change, message):
    network = small()
    with pytest.raises(AmacrineError, match=message):
        QuantisedNetwork("n", change(*network.layers), network.input_frac)


def test_inputs_are_rounded_saturated_and_checked():
    network = one_dense(np.ones((1, 2)))
    x = np.array([[0.5, -0.5], [1.49, -1.51], [40000, -40000], [1e300, -1e300]]) / 256
    expected = [[1, 0], [1, -2], [32767, -32768], [32767, -32768]]
    assert network.quantise_inputs(x).tolist() == expected
    assert network.quantise_inputs(x).dtype == np.int16
    for bad in (np.nan, np.inf, -np.inf):
        x[2, 1] = bad
        with pytest.raises(AmacrineError, match=f"input element 1 of step 2 is {bad}"):
            network.quantise_inputs(x)
    for shape in ((2,), (4, 3), (1, 4, 2)):
        with pytest.raises(AmacrineError, match=r"\(steps, 2\)"):
            network.quantise_inputs(np.zeros(shape))
    assert network.dequantise_outputs(np.array([[-256, 128]], np.int16)).tolist() == [[-1.0, 0.5]]


# ---- encoders and thresholds ------------------------------------------------------------------------------


def encoded(text=""):
    rng = np.random.default_rng(8)
    thresholds = parse_thresholds(text) if text else None
    return quantise(mixed_network(rng), inputs(rng, 60, 10), thresholds).jobs


def test_dense_layers_behind_a_relu_use_the_threshold_encoder():
    assert {name: job.source.encoder for name, job in encoded().items()} == {
        "in.input": "delta", "gru.input": "delta", "gru.recurrent": "delta", "lstm.input": "delta",
        "lstm.recurrent": "delta", "mid.input": "delta", "out.input": "threshold"}
    assert {job.source.theta for job in encoded().values()} == {0}


def test_the_most_specific_threshold_counts():
    jobs = encoded("0.5, gru=0.25 ,gru.input=7lsb,recurrent=0.125,mid.input=0")
    real = {name: job.source.theta / 2**job.source.input_frac for name, job in jobs.items()}
    assert jobs["gru.input"].source.theta == 7
    assert real.pop("gru.input") < 0.1
    assert real == {"in.input": 0.5, "gru.recurrent": 0.25, "lstm.input": 0.5, "lstm.recurrent": 0.125,
                    "mid.input": 0.0, "out.input": 0.5}


def test_thresholds_are_rounded_to_lsbs():
    assert [Threshold(v).to_lsb("j", 8) for v in (0.1, 0.001, 0.002, 255.998)] == [26, 0, 1, 65535]
    assert Threshold(65535, lsb=True).to_lsb("j", 15) == 65535
    assert [str(t) for t in (Threshold(0.1), Threshold(26, lsb=True))] == ["0.1", "26lsb"]


@pytest.mark.parametrize(("text", "message"), [
    ("", "''"), ("abc", "'abc' is neither"), ("0.1,gru=", "neither"), ("-0.1", "'-0.1' must be.*at least 0"),
    ("gru=-3lsb", "at least 0"), ("nan", "finite"), ("inf", "finite"), ("1.5lsb", "whole number"),
    ("lsb", "neither"), ("0.1,0.2", "a default twice"), ("gru=1,gru=2", "gru twice"), ("=0.1", "no name"),
])
def test_unreadable_thresholds_are_refused(text, message):
    with pytest.raises(AmacrineError, match=message):
        parse_thresholds(text)


@pytest.mark.parametrize(("text", "message"), [
    ("gur.input=0.1", r"unknown 'gur.input'; there are in.input, gru.input, gru.recurrent, lstm.input"),
    ("mid.recurrent=0.1", "unknown 'mid.recurrent'"),
    ("gru=65536lsb", "65536lsb of gru.input is 65536 LSBs.*at most 65535"),
    ("lstm.recurrent=70000", "of lstm.recurrent is [0-9]* LSBs .[0-9]+ fractional bits.; at most 65535"),
])
def test_thresholds_that_do_not_fit_the_network_are_refused(text, message):
    with pytest.raises(AmacrineError, match=message):
        encoded(text)


@pytest.mark.parametrize("threshold", [Threshold(-1), Threshold(float("nan")), Threshold(0.5, lsb=True)])
def test_thresholds_made_by_hand_are_checked_too(threshold):
    with pytest.raises(AmacrineError, match="of j must be"):
        threshold.to_lsb("j", 8)


# ---- accuracy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_golden_stays_close_to_float_on_other_data_than_the_calibration(seed):
    rng = np.random.default_rng(seed)
    network = mixed_network(rng)
    both = inputs(rng, 600, 10)
    quantised = quantise(network, both[:400])
    run = Golden(quantised).run(quantised.quantise_inputs(both[400:]))
    error = quantised.dequantise_outputs(run.outputs) - network.run(both[400:])
    assert np.abs(error).max() < 0.01
    for layer in sqnr_report(network, quantised, both[400:]):
        assert layer.outputs_db > 36
        assert all(db > 25 for db in layer.weights_db.values())


def test_small_thresholds_cost_little_and_save_much():
    rng = np.random.default_rng(9)
    network = mixed_network(rng)
    x = inputs(rng, 400, 10)
    quantised = quantise(network, x, parse_thresholds("0.05"))
    run = Golden(quantised).run(quantised.quantise_inputs(x))
    error = quantised.dequantise_outputs(run.outputs) - network.run(x)
    assert np.abs(error).max() < 0.1
    assert run.columns_skipped() > 0.4


def test_report_of_a_network_that_loses_nothing():
    weight = np.array([[0.5, -0.25], [0.125, 1.0]])
    network = Network("exact", (Dense("fc", weight, np.array([0.5, 0.0])),))
    x = np.array([[1.0, 0.5], [0.25, -1.0]])
    (layer,) = sqnr_report(network, quantise(network, x), x)
    assert (layer.name, layer.weights_db, layer.outputs_db) == ("fc", {"input": np.inf}, np.inf)
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20)
    assert sqnr_db(np.zeros(2), np.ones(2)) == -np.inf


def test_rounding_keeps_partial_sums_better_than_rounding_to_nearest():
    rng = np.random.default_rng(10)
    weight, x = rng.normal(size=(50, 100)), inputs(rng, 2000, 100) + rng.normal(size=100)
    rounded, bias_change = round_weights(weight, 4, x[:1500])
    nearest = from_fixed(to_fixed(weight, 4, 8), 4)
    held_out = x[1500:]

    def noise(approximate, bias=0.0):
        return np.mean((held_out @ (weight - approximate).T - bias) ** 2)

    assert rounded.dtype == np.int8
    assert noise(from_fixed(rounded, 4), bias_change) < noise(nearest) / 3
    assert noise(from_fixed(rounded, 4), bias_change) < noise(from_fixed(rounded, 4))


def test_the_bias_takes_up_the_mean_error_of_each_source_in_its_own_gates():
    """Inputs far from zero would turn the weights' errors, all of one sign here, into an offset."""
    rng = np.random.default_rng(12)
    x = 20 + 0.1 * rng.normal(size=(100, 8))
    network = Network("n", (GRU("gru", np.full((9, 8), 0.1255), np.full((9, 3), 0.1255), np.full(9, -20.0),
                                np.full(9, 0.3), np.zeros(3)),))
    (q,) = quantise(network, x).layers
    input_lost, recurrent_lost = (
        (0.1255 - from_fixed(source.weight, source.weight_frac)) @ mean
        for source, mean in ((q.input, x.mean(axis=0)), (q.recurrent, network.run(x).mean(axis=0)))
    )
    assert np.abs(input_lost).min() > 0.01
    both = input_lost[:6] + recurrent_lost[:6] - 20.0 + 0.3
    expected = [*both, *(input_lost[6:] - 20.0), *(recurrent_lost[6:] + 0.3)]
    np.testing.assert_allclose(from_fixed(q.bias, q.input.scale).ravel(), expected, atol=2.0**-q.input.scale)


def test_rounding_of_inputs_that_never_change_is_to_nearest():
    weight = np.array([[0.3, -0.3, 1000.0]])
    rounded, bias_change = round_weights(weight, 2, np.tile([1.0, 2.0, 0.0], (5, 1)))
    assert rounded.tolist() == [[1, -1, 127]]
    assert bias_change.tolist() == pytest.approx([0.05 - 0.1])


def test_quantisation_is_reproducible_to_the_bit():
    first, second = small(), small()
    assert first.input_frac == second.input_frac
    for a, b in zip(first.jobs.values(), second.jobs.values(), strict=True):
        np.testing.assert_array_equal(a.source.weight, b.source.weight)
        assert (a.source.weight_frac, a.source.input_frac) == (b.source.weight_frac, b.source.input_frac)
    assert isinstance(first.layers[1], QGRU)
    np.testing.assert_array_equal(first.layers[1].bias, second.layers[1].bias)
