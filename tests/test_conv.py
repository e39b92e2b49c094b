"""Convolutions: geometry checks, float network, golden model against the contract in loops, quantisation."""

from dataclasses import replace

import numpy as np
import pytest
from test_activation import scalar_sigmoid, scalar_tanh
from test_golden import dense as qdense
from test_golden import rq, wrap

from amacrine.sw.compile import compile_network
from amacrine.sw.conv import Conv, pool_shift
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError
from amacrine.sw.execute import job_stats
from amacrine.sw.fixed import from_fixed
from amacrine.sw.golden import Golden, dense_run
from amacrine.sw.layout import Parameters
from amacrine.sw.network import GRU, Dense, Network
from amacrine.sw.qlayers import QConv, QDense, Source
from amacrine.sw.quantise import quantise, sqnr_report
from amacrine.sw.quantised import QuantisedNetwork
from amacrine.sw.thresholds import parse_thresholds
from amacrine.sw.workload import check_threshold_names, network_inputs

SHAPES = {
    "plain": ConvShape(2, 5, 6, 3, (3, 3)),
    "padded": ConvShape(3, 4, 5, 2, (3, 3), pads=(1, 1, 1, 1)),
    "strides": ConvShape(2, 7, 6, 4, (3, 2), (2, 1), (0, 1, 2, 0)),
    "largest kernel": ConvShape(1, 6, 7, 2, (7, 7), (2, 2), (3, 3, 3, 3)),
    "pads beyond the kernel": ConvShape(1, 3, 3, 2, (2, 2), (1, 1), (4, 5, 3, 15)),
    "stride beyond the kernel": ConvShape(2, 5, 5, 3, (1, 1), (2, 2)),
    "groups": ConvShape(4, 4, 4, 6, (2, 3), pads=(0, 1, 0, 1), groups=2),
    "depthwise": ConvShape(5, 4, 6, 5, (3, 3), (1, 2), (1, 1, 1, 1), groups=5),
    "depthwise, more outputs": ConvShape(3, 4, 4, 6, (3, 3), groups=3),
    "row": ConvShape(3, 1, 17, 4, (1, 5), (1, 2), (0, 2, 0, 2)),
    "one element": ConvShape(1, 1, 1, 1, (1, 1)),
    "max 2x2": ConvShape(2, 7, 6, 3, (3, 3), pads=(1, 1, 1, 1), pooling="max", pool_window=(2, 2)),
    "average 2x2": ConvShape(2, 7, 7, 3, (3, 3), pads=(1, 1, 1, 1), pooling="average", pool_window=(2, 2)),
    "max 1x2": ConvShape(3, 1, 11, 4, (1, 3), pooling="max", pool_window=(1, 2)),
    "average 1x2": ConvShape(3, 1, 11, 4, (1, 3), pooling="average", pool_window=(1, 2)),
    "global max": ConvShape(2, 5, 6, 3, (3, 3), pooling="max", pool_window=(3, 4)),
    "global average": ConvShape(2, 5, 6, 3, (3, 3), pooling="average", pool_window=(3, 4)),
    "global of one": ConvShape(2, 3, 3, 3, (3, 3), pooling="average", pool_window=(1, 1)),
}
ACTIVATIONS = ("identity", "relu", "relu6", "sigmoid", "tanh")


def qconv(rng, shape, activation, input_frac=None, name="conv"):
    """A convolution of random integers, its formats at random."""
    input_frac = int(rng.integers(8, 16)) if input_frac is None else input_frac
    output_frac = int(rng.integers(8, 16))
    scale = int(rng.integers(14, 19)) if activation in ("sigmoid", "tanh") else output_frac + 6
    weight = rng.integers(-128, 128, shape.weight_shape).astype(np.int8)
    bias = rng.integers(-(1 << 18), 1 << 18, shape.out_channels).astype(np.int32)
    return QConv(name, shape, weight, scale - input_frac, input_frac, bias, activation, output_frac)


def network_of(*layers):
    return QuantisedNetwork("n", layers, layers[0].input.input_frac)


def maps(rng, steps, n, density=0.5):
    """Random maps over the whole range, of which a part is zero."""
    x = rng.integers(-32768, 32768, (steps, n)).astype(np.int16)
    x[rng.random((steps, n)) >= density] = 0
    return x


def naive(q, x):
    """One map (n_inputs,) as docs/arithmetic.md tells it, in loops over Python integers: (y, useful MACs)."""
    s, macs = q.shape, 0
    grid = [[[int(v) for v in row] for row in channel] for channel in x.reshape(s.in_channels, s.in_height, s.in_width)]
    ins, outs = s.in_channels // s.groups, s.out_channels // s.groups
    result = []
    for o in range(s.out_channels):
        rows = []
        for oy in range(s.conv_height):
            row = []
            for ox in range(s.conv_width):
                psum = int(q.bias[o])
                for c in range(ins):
                    for ky in range(s.kernel[0]):
                        for kx in range(s.kernel[1]):
                            y, column = oy * s.stride[0] + ky - s.pads[0], ox * s.stride[1] + kx - s.pads[1]
                            if 0 <= y < s.in_height and 0 <= column < s.in_width:
                                value = grid[o // outs * ins + c][y][column]
                                psum = wrap(psum + int(q.weight[o, c, ky, kx]) * value)
                                macs += value != 0
                row.append(naive_cell(q, psum))
            rows.append(row)
        result += naive_pool(s, rows)
    return result, macs


def naive_cell(q, psum):
    f = q.output_frac
    if q.activation in ("sigmoid", "tanh"):
        function = scalar_sigmoid if q.activation == "sigmoid" else scalar_tanh
        return rq(function(rq(psum, q.weight_frac + q.input_frac - 12, 18)), 15 - f, 16)
    y = rq(psum, q.weight_frac + q.input_frac - f, 16)
    if q.activation == "identity":
        return y
    six = 6 * 2.0**f
    if q.shape.pooling == "average":
        size = q.shape.pool_window[0] * q.shape.pool_window[1]
        six *= 2 ** (size - 1).bit_length() / size
    return min(max(y, 0), 32767 if q.activation == "relu" else min(int(six + 0.5), 32767))


def naive_pool(s, rows):
    if s.pooling == "none":
        return [v for row in rows for v in row]
    high, wide = s.pool_window
    pooled = []
    for py in range(len(rows) // high):
        for px in range(len(rows[0]) // wide):
            window = [rows[py * high + a][px * wide + b] for a in range(high) for b in range(wide)]
            shift = (len(window) - 1).bit_length()
            pooled.append(max(window) if s.pooling == "max" else rq(sum(window), shift, 16))
    return pooled


def assert_equals_loops(network, x):
    run, expected = Golden(network).run(x, trace=True), dense_run(network, x)
    for t, row in enumerate(x):
        vector = row
        for q in network.layers:
            job, read = f"{q.name}.input", vector
            values, macs = naive(q, np.asarray(vector))
            assert run.vectors[q.name][t].tolist() == values
            assert run.events[job][t] == np.count_nonzero(read) and run.macs(job)[t] == macs
            index, events = run.trace[job][t]
            assert dict(zip(index.tolist(), events.tolist(), strict=True)) == {
                i: int(v) for i, v in enumerate(read) if v}
            vector = np.array(values)
    for name, vectors in expected.items():
        np.testing.assert_array_equal(run.vectors[name], vectors)
    return run


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_golden_equals_loops(shape, activation):
    rng = np.random.default_rng([ACTIVATIONS.index(activation), *map(ord, shape)])
    network = network_of(qconv(rng, SHAPES[shape], activation))
    x = np.concatenate([maps(rng, 1, network.n_inputs, density) for density in (0, 0.1, 0.5, 1)])
    run = assert_equals_loops(network, x)
    assert run.events["conv.input"][0] == run.macs("conv.input")[0] == 0


@pytest.mark.parametrize("seed", range(15))
def test_golden_equals_loops_in_random_chains(seed):
    rng = np.random.default_rng([1, seed])

    def random_shape(channels, height, width):
        kernel = int(rng.integers(1, 1 + min(height + 2, 7))), int(rng.integers(1, 1 + min(width + 2, 7)))
        pads = tuple(int(p) for p in rng.integers(1, 3, 4))
        groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
        shape = ConvShape(channels, height, width, groups * int(rng.integers(1, 4)), kernel,
                          (int(rng.integers(1, 3)), int(rng.integers(1, 3))), pads, groups)
        windows = [(shape.conv_height, shape.conv_width)]
        windows += [(2, 2)] if min(shape.conv_height, shape.conv_width) > 1 else []
        kinds = [("none", (1, 1)), *((kind, window) for kind in ("max", "average") for window in windows)]
        pooling, window = kinds[rng.integers(len(kinds))]
        return replace(shape, pooling=pooling, pool_window=window)

    layers, frac = [], int(rng.integers(8, 16))
    size = tuple(int(n) for n in rng.integers(1, 7, 3))
    for number in range(int(rng.integers(1, 4))):
        layers.append(qconv(rng, random_shape(*size), str(rng.choice(ACTIVATIONS)), frac, f"conv{number}"))
        shape, frac = layers[-1].shape, layers[-1].output_frac
        size = shape.out_channels, shape.out_height, shape.out_width
    network = network_of(*layers)
    assert_equals_loops(network, maps(rng, 2, network.n_inputs, rng.random()))


@pytest.mark.parametrize("pick", ["one pixel", "one channel"])
def test_golden_with_little_input(pick):
    rng = np.random.default_rng(5)
    network = network_of(qconv(rng, SHAPES["padded"], "relu"))
    x = np.zeros((4, 3, 4, 5), np.int16)
    if pick == "one pixel":
        for t, (c, y, column) in enumerate([(0, 0, 0), (2, 3, 4), (1, 0, 4), (1, 2, 2)]):
            x[t, c, y, column] = -32768
    else:
        x[:, 1] = maps(rng, 4, 20, 1).reshape(4, 4, 5)
    run = assert_equals_loops(network, x.reshape(4, -1))
    if pick == "one pixel":  # corners meet 2 x 2 kernel elements, the inside all 9, for each of 2 channels
        assert run.macs("conv.input").tolist() == [8, 8, 8, 18]


def test_golden_is_exact_at_the_largest_sums_and_goes_on_from_call_to_call():
    shape = ConvShape(56, 3, 3, 2, (3, 3))  # 504 products of -128 and -32768, close to 2**31
    weight = np.full(shape.weight_shape, -128, np.int8)
    weight[1] = 127
    q = QConv("conv", shape, weight, 15, 8, np.array([3, -5], np.int32), "identity", 8)
    x = np.full((3, 504), -32768, np.int16)
    x[1], x[2, 7] = 32767, -32767
    run = assert_equals_loops(network_of(q), x)
    golden = Golden(network_of(q))
    parts = [golden.run(x[a:b]) for a, b in ((0, 1), (1, 1), (1, 3))]
    np.testing.assert_array_equal(np.concatenate([part.outputs for part in parts]), run.outputs)
    np.testing.assert_array_equal(np.concatenate([part.macs("conv.input") for part in parts]), run.macs("conv.input"))


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    q = qconv(rng, SHAPES["average 2x2"], "identity")
    network, x = network_of(q), maps(rng, 7, 98)
    float_network = Network("n", (conv(rng, q.shape),))
    whole, trace = Golden(network).run(x).outputs, float_network.trace(x)["conv"]
    monkeypatch.setattr("amacrine.sw.conv.CHUNK", 3 * 49 * (2 * 9 + 3))
    np.testing.assert_array_equal(Golden(network).run(x).outputs, whole)
    parts = float_network.trace(x)["conv"]
    np.testing.assert_allclose(parts.output, trace.output, atol=1e-9)
    np.testing.assert_allclose(parts.psum_min, trace.psum_min)
    np.testing.assert_allclose(parts.psum_max, trace.psum_max)


def test_overflow_is_refused():
    shape = ConvShape(57, 3, 3, 1, (3, 3))
    q = QConv("conv", shape, np.full(shape.weight_shape, -128, np.int8), 15, 8, np.zeros(1, np.int32), "relu", 8)
    with pytest.raises(AmacrineError, match=r"layer 'conv': the partial sum of row 0 can reach .* 32 bits"):
        network_of(q)
    shape = ConvShape(1, 300, 300, 1, (1, 1), pooling="average", pool_window=(300, 300))
    q = QConv("conv", shape, np.ones((1, 1, 1, 1), np.int8), 8, 8, np.zeros(1, np.int32), "relu", 8)
    with pytest.raises(AmacrineError, match="layer 'conv': the sum of a pooling window of 90000"):
        network_of(q)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"kernel": (8, 3)}, "its kernel is 8x3"),
    ({"kernel": (0, 3)}, "its kernel is 0x3"),
    ({"stride": (1, 3)}, "its stride is 1x3"),
    ({"pads": (0, 16, 0, 0)}, "its pads are"),
    ({"pads": (0, -1, 0, 0)}, "its pads are"),
    ({"groups": 3}, "3 groups do not divide"),
    ({"groups": 0}, "0 groups do not divide"),
    ({"in_channels": 0}, "it has 0 input channels"),
    ({"out_channels": 5000}, "it has 5000 output channels, but must have 1 to 4095"),
    ({"in_width": 1024}, "it has 1024 input columns"),
    ({"in_height": 2}, "its result has 0 rows and 6 columns"),
    ({"pooling": "median"}, "pooling 'median' is not supported"),
    ({"pool_window": (2, 2)}, "it has a pooling window of 2x2, but no pooling"),
    ({"pooling": "max", "pool_window": (1, 2)}, "its pooling window is 1x2 on maps of 4x6"),
    ({"pooling": "max", "pool_window": (2, 1)}, "its pooling window is 2x1 on maps of 4x6"),
    ({"pooling": "average", "pool_window": (3, 3)}, "its pooling window is 3x3 on maps of 4x6"),
    ({"in_height": 3, "pooling": "max", "pool_window": (2, 2)}, "its pooling window of 2x2 does not fit"),
])
def test_geometry_that_is_refused(changes, reason):
    shape = replace(ConvShape(2, 6, 8, 4, (3, 3)), **changes)
    weight = np.zeros((max(shape.out_channels, 1), 1, 1, 1))
    with pytest.raises(AmacrineError, match=f"layer 'conv': {reason}"):
        Network("n", (Conv("conv", shape, weight, np.zeros(4)),))


def conv(rng, shape, activation="relu", name="conv"):
    fan_in = np.prod(shape.weight_shape[1:])
    weight = 2 * rng.normal(size=shape.weight_shape) / np.sqrt(fan_in)
    return Conv(name, shape, weight, 0.2 * rng.normal(size=shape.out_channels), activation)


def test_arrays_and_chains_that_are_refused():
    rng = np.random.default_rng(0)
    layer = conv(rng, SHAPES["plain"])
    for changes, reason in (
        ({"weight": np.zeros((3, 2, 9))}, r"weight has shape \(3, 2, 9\), but its geometry asks for \(3, 2, 3, 3\)"),
        ({"bias": np.zeros(4)}, r"bias has shape \(4,\)"),
        ({"bias": np.array([0, np.nan, 0])}, "bias holds NaN"),
        ({"activation": "elu"}, "activation 'elu' is not supported; choose one of .*, relu6"),
    ):
        with pytest.raises(AmacrineError, match=f"layer 'conv': {reason}"):
            Network("n", (replace(layer, **changes),))
    first = Dense("fc", np.zeros((60, 4)), np.zeros(60))
    with pytest.raises(AmacrineError, match="'conv' is a convolution behind layer 'fc'.*convolutions must come first"):
        Network("n", (first, layer))
    with pytest.raises(AmacrineError, match="activation 'relu6' is not supported"):
        Network("n", (replace(first, activation="relu6"),))
    other = conv(rng, ConvShape(1, 6, 6, 1, (1, 1)), name="other")
    with pytest.raises(AmacrineError, match=r"'other' reads maps of \(1, 6, 6\), but layer 'conv' .* \(3, 3, 4\)"):
        Network("n", (layer, other))
    q = qconv(rng, SHAPES["plain"], "relu")
    before = qdense(rng, 4, 8, 60, "relu", output_frac=q.input_frac)
    with pytest.raises(AmacrineError, match="'conv' is a convolution behind layer"):
        QuantisedNetwork("n", (before, q), 8)
    with pytest.raises(AmacrineError, match=r"weights of conv.input must be int8 \(3, 2, 3, 3\)"):
        network_of(replace(q, weight=q.weight[:2]))


@pytest.mark.parametrize("shape", SHAPES)
def test_float_network_equals_loops(shape):
    """The integers of the golden model at scales that round nothing, so that loops serve here, too."""
    s = SHAPES[shape]
    rng = np.random.default_rng(3)
    layer = replace(conv(rng, s, "identity"), weight=rng.integers(-3, 4, s.weight_shape).astype(float),
                    bias=rng.integers(-9, 9, s.out_channels).astype(float))
    x = rng.integers(-5, 6, (3, s.n_inputs)).astype(np.int16)
    q = QConv("conv", replace(s, pooling="none", pool_window=(1, 1)), layer.weight.astype(np.int8), 0, 8,
              layer.bias.astype(np.int32), "identity", 8)
    trace = Network("n", (layer,)).trace(x)["conv"]
    for t, row in enumerate(x):
        y = np.reshape(naive(q, row)[0], (s.out_channels, s.conv_height, s.conv_width)).astype(float)
        assert (trace.psum_min <= y.min(axis=(1, 2))).all() and (trace.psum_max >= y.max(axis=(1, 2))).all()
        if s.pooling != "none":
            high, wide = s.pool_window
            reduce = np.max if s.pooling == "max" else np.mean
            y = np.array([[[reduce(c[r * high:(r + 1) * high, k * wide:(k + 1) * wide]) for k in range(s.out_width)]
                           for r in range(s.out_height)] for c in y])
        np.testing.assert_allclose(trace.output[t], y.ravel(), atol=1e-12)


# ---- quantisation -----------------------------------------------------------------------------------------


def images(rng, steps, channels, height, width):
    """Blobs with much that is zero, and noise."""
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform(0, 1, (steps, channels, 2, 1, 1)) * np.array([height, width])[:, None, None]
    blobs = np.exp(-((y - centres[:, :, 0]) ** 2 + (x - centres[:, :, 1]) ** 2) / 6)
    blobs *= rng.uniform(0.5, 2, blobs.shape)
    return np.where(blobs > 0.1, blobs, 0).reshape(steps, -1)


def small_cnn(rng, last="relu6"):
    return Network("cnn", (
        conv(rng, ConvShape(2, 12, 12, 8, (3, 3), pads=(1, 1, 1, 1), pooling="max", pool_window=(2, 2)), name="c1"),
        conv(rng, ConvShape(8, 6, 6, 8, (3, 3), pads=(1, 1, 1, 1), groups=8), "relu6", name="c2"),
        conv(rng, ConvShape(8, 6, 6, 12, (1, 1), pooling="average", pool_window=(6, 6)), last, name="c3"),
        Dense("fc", rng.normal(size=(5, 12)), rng.normal(size=5)),
    ))


def test_quantised_network_is_close_to_float():
    rng = np.random.default_rng(0)
    network, x = small_cnn(rng), images(rng, 60, 2, 12, 12)
    quantised = quantise(network, x, parse_thresholds("0"))
    report = sqnr_report(network, quantised, x)
    assert [layer.name for layer in report] == ["c1", "c2", "c3", "fc"]
    assert all(layer.outputs_db > 30 and layer.weights_db["input"] > 20 for layer in report), report
    for layer in quantised.layers[:3]:
        assert isinstance(layer, QConv) and 0 <= layer.scale - layer.output_frac <= 15
    assert quantised.layers[3].input.encoder == "threshold"
    third = quantised.layers[2]
    assert pool_shift(third.shape) == 6 and third.ceiling == min(round(6 * 64 / 36 * 2**third.output_frac), 32767)
    weight = network.layers[2].weight * 64 / 36
    np.testing.assert_allclose(from_fixed(third.weight, third.weight_frac), weight, atol=0.1)
    outputs = quantised.dequantise_outputs(Golden(quantised).run(quantised.quantise_inputs(x)).outputs)
    np.testing.assert_allclose(outputs, network.run(x), atol=0.1)


def test_average_over_other_windows_behind_sigmoid_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(AmacrineError, match="layer 'c3' averages windows of 36 results of sigmoid"):
        quantise(small_cnn(rng, "sigmoid"), images(rng, 3, 2, 12, 12))
    shape = ConvShape(1, 4, 4, 2, (1, 1), pooling="average", pool_window=(4, 4))
    network, x = Network("n", (conv(rng, shape, "tanh"),)), images(rng, 30, 1, 4, 4)
    assert sqnr_report(network, quantise(network, x), x)[0].outputs_db > 30


def test_thresholds_are_for_other_layers():
    rng = np.random.default_rng(0)
    network, x = small_cnn(rng), images(rng, 9, 2, 12, 12)
    thetas = [job.source.theta for job in quantise(network, x, parse_thresholds("0.25")).jobs.values()]
    assert thetas[:3] == [0, 0, 0] and thetas[3] > 0
    check_threshold_names(network, parse_thresholds("fc=1"))
    with pytest.raises(AmacrineError, match="layer 'c2' is a convolution, which leaves out zeros only"):
        quantise(network, x, parse_thresholds("c2=0.1"))


def test_maps_from_files(tmp_path):
    rng = np.random.default_rng(0)
    network, x = small_cnn(rng), images(rng, 5, 2, 12, 12)
    for shape in ((5, 288), (5, 2, 12, 12), (5, 2, 144)):
        np.save(tmp_path / "x.npy", x.reshape(shape))
        np.testing.assert_array_equal(network_inputs(network, tmp_path / "x.npy"), x)
    np.save(tmp_path / "x.npy", x[:, :-1].reshape(5, 7, 41))
    with pytest.raises(AmacrineError, match=r"shape \(steps, 288\) with at least one step, not \(5, 7, 41\)"):
        network_inputs(network, tmp_path / "x.npy")


def test_counts_and_compiler():
    rng = np.random.default_rng(0)
    network, x = small_cnn(rng), images(rng, 9, 2, 12, 12)
    quantised = quantise(network, x)
    run = Golden(quantised).run(quantised.quantise_inputs(x))
    stats = job_stats(run, Parameters())[0]
    assert stats.name == "c1.input" and stats.columns == 9 * 288 and stats.columns_skipped > 0.3 * stats.columns
    assert stats.weight_bytes == stats.dense_bytes == 9 * 144
    with pytest.raises(AmacrineError, match="Layer 'c1' is a convolution, and this gateware has no CNN engine"):
        compile_network(quantised)


# ---- a ReLU between a recurrent and a dense layer ---------------------------------------------------------


def test_dense_layer_that_rectifies_its_input():
    rng = np.random.default_rng(2)
    gru = GRU("gru", rng.normal(size=(12, 3)), rng.normal(size=(12, 4)), rng.normal(size=12), rng.normal(size=12),
              np.zeros(4))
    fc = Dense("fc", rng.normal(size=(2, 4)), rng.normal(size=2), "sigmoid", "relu")
    network, x = Network("n", (gru, fc)), rng.normal(size=(80, 3))
    h = network.trace(x)["gru"].output
    expected = 1 / (1 + np.exp(-(np.maximum(h, 0) @ fc.weight.T + fc.bias)))
    np.testing.assert_allclose(network.run(x), expected, atol=1e-12)
    quantised = quantise(network, x)
    source = quantised.layers[1].input
    assert source.rectify and source.encoder == "threshold"
    golden = Golden(quantised).run(quantised.quantise_inputs(x))
    np.testing.assert_allclose(quantised.dequantise_outputs(golden.outputs), expected, atol=0.05)
    np.testing.assert_array_equal(golden.outputs, dense_run(quantised, quantised.quantise_inputs(x))["fc"])
    assert golden.events["fc.input"].tolist() == [int((row > 0).sum()) for row in golden.vectors["gru"]]
    delta = QuantisedNetwork("n", (quantised.layers[0], replace(quantised.layers[1],
                             input=replace(source, encoder="delta"))), quantised.input_frac)
    np.testing.assert_array_equal(Golden(delta).run(quantised.quantise_inputs(x)).outputs, golden.outputs)
    assert [job.name for job in compile_network(quantised).jobs] == [
        "gru.input", "gru.recurrent", "gru.bias", "fc.input", "fc.bias"]
    with pytest.raises(AmacrineError, match="input activation 'tanh' is not supported"):
        Network("n", (replace(fc, input_activation="tanh"),))


def test_rectified_inputs_count_half_in_the_proof():
    weight = np.full((1, 1000), 64, np.int8)
    source = Source(weight, 8, 8, "threshold", 0, rectify=True)
    layer = QDense("fc", source, np.full(1, -(1 << 30), np.int32), "identity", 8)
    assert QuantisedNetwork("n", (layer,), 8).n_inputs == 1000  # from -2**30 to 2**30
    with pytest.raises(AmacrineError, match="more than 32 bits hold"):
        QuantisedNetwork("n", (replace(layer, input=replace(source, rectify=False)),), 8)
