"""What the ONNX importer makes of convolutions and pooling, against ONNX Runtime; and what of them it refuses."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from onnx_graphs import Graph, T, sequence_through_ort
from test_onnx_refusals import refusal

from amacrine.sw.conv import Conv
from amacrine.sw.network import GRU, LSTM, Dense
from amacrine.sw.onnx_import import load_onnx

N = "images"  # open axis


def assert_maps_like_ort(graph, directory, count=5, opset=17):
    """Save, import and run on random maps; the result must equal that of ONNX Runtime. Returns the layers."""
    path = graph.save(directory, opset)
    network = load_onnx(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    dims = [size if isinstance(size, int) else count for size in session.get_inputs()[0].shape]
    x = np.random.default_rng(1).normal(size=dims).astype(np.float32)
    expected = session.run(None, {session.get_inputs()[0].name: x})[0].reshape(dims[0], -1)
    np.testing.assert_allclose(network.run(x.reshape(dims[0], -1)), expected, rtol=0, atol=2e-5)
    assert np.ptp(expected) > 1e-3, "a constant output would show nothing"
    return network.layers


def conv(graph, source, name, ins, outs, kernel, **attributes):
    groups = attributes.get("group", 1)
    weight = graph.random(f"{name}_w", outs, ins // groups, *kernel)
    return graph.node("Conv", [source, weight, graph.random(f"{name}_b", outs)], name, **attributes)


def norm(graph, source, name, n, **attributes):
    inputs = [graph.random(f"{name}_{part}", n) for part in ("scale", "offset", "mean")]
    variance = graph.constant(f"{name}_variance", graph.rng.uniform(0.3, 2, n))
    return graph.node("BatchNormalization", [source, *inputs, variance], name, **attributes)


@pytest.mark.parametrize(("kernel", "attributes"), [
    ((3, 3), {}),
    ((3, 3), {"pads": [1, 1, 1, 1]}),
    ((3, 2), {"pads": [0, 1, 2, 3], "strides": [2, 1]}),
    ((7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    ((1, 1), {"dilations": [2, 3]}),
    ((2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((4, 3), {"auto_pad": "SAME_LOWER"}),
    ((3, 3), {"auto_pad": "VALID", "strides": [1, 2], "kernel_shape": [3, 3]}),
    ((3, 3), {"group": 2}),
    ((3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
])
@pytest.mark.parametrize("activation", ["", "Relu", "Sigmoid", "Tanh"])
def test_conv_2d(kernel, attributes, activation, tmp_path):
    graph = Graph()
    end = conv(graph, graph.input("x", N, 4, 9, 8), "conv", 4, 8, kernel, **attributes)
    graph.output(graph.node(activation, [end], "y") if activation else end)
    (layer,) = assert_maps_like_ort(graph, tmp_path)
    assert isinstance(layer, Conv) and layer.name == "conv_node" and layer.shape.kernel == kernel
    assert layer.activation == (activation.lower() or "identity")


@pytest.mark.parametrize("attributes", [{}, {"pads": [2, 1]}, {"strides": [2]}, {"group": 3},
                                        {"auto_pad": "SAME_UPPER", "strides": [2]}])
def test_conv_1d(attributes, tmp_path):
    graph = Graph()
    end = conv(graph, graph.input("x", N, 3, 20), "conv", 3, 6, (5,), **attributes)
    end = graph.node("MaxPool", [graph.node("Relu", [end], "relu")], "pooled", kernel_shape=[2], strides=[2])
    end = conv(graph, end, "second", 6, 4, (3,))
    graph.output(graph.node("GlobalAveragePool", [end], "y"))
    first, second = assert_maps_like_ort(graph, tmp_path)
    assert first.shape.pool_window == (1, 2) and first.shape.pooling == "max" and first.activation == "relu"
    assert second.shape.pooling == "average" and second.shape.out_width == 1


def lenet(graph, source, flatten):
    end = conv(graph, source, "c1", 1, 6, (5, 5), pads=[2, 2, 2, 2])
    end = graph.node("MaxPool", [graph.node("Relu", [end], "r1")], "p1", kernel_shape=[2, 2], strides=[2, 2])
    end = graph.node("Relu", [conv(graph, end, "c2", 6, 8, (3, 3))], "r2")
    end = graph.node("AveragePool", [end], "p2", kernel_shape=[2, 2], strides=[2, 2])
    return graph.dense(flatten(end), "fc", 8 * 2 * 2, 10)


def flattened(graph, how):
    def flatten(end):
        if how == "Flatten":
            return graph.node("Flatten", [end], "flat")
        if how == "Reshape":
            return graph.node("Reshape", [end, graph.integers("shape", -1, 32)], "flat")
        axis = graph.node("Gather", [graph.node("Shape", [end], "sizes"), graph.integers("zero", 0)], "count")
        shape = graph.node("Concat", [axis, graph.integers("rest", -1)], "shape", axis=0)
        return graph.node("Reshape", [end, shape], "flat")
    return flatten


@pytest.mark.parametrize("how", ["Flatten", "Reshape", "Shape"])
@pytest.mark.parametrize("count", [N, 1, 7])
def test_classifier(how, count, tmp_path):
    graph = Graph()
    graph.output(lenet(graph, graph.input("x", count, 1, 12, 12), flattened(graph, how)))
    layers = assert_maps_like_ort(graph, tmp_path)
    assert [type(layer) for layer in layers] == [Conv, Conv, Dense]
    assert [layer.shape.pooling for layer in layers[:2]] == ["max", "average"]


def test_maps_from_rows_and_from_channels_last(tmp_path):
    graph = Graph()
    x = graph.node("Reshape", [graph.input("x", N, 144), graph.integers("image", -1, 12, 12, 1)], "image_of_x")
    x = graph.node("Transpose", [x], "channels_first", perm=[0, 3, 1, 2])
    graph.output(lenet(graph, x, flattened(graph, "Flatten")))
    assert len(assert_maps_like_ort(graph, tmp_path)) == 3


def test_mobile_block_with_relu6_norms_and_pads(tmp_path):
    graph = Graph()
    zero, six = graph.constant("zero", 0.0), graph.constant("six", 6.0)
    x = graph.node("Pad", [graph.input("x", N, 3, 10, 10), graph.integers("pads", 0, 0, 0, 0, 0, 0, 1, 1)], "padded")
    x = norm(graph, conv(graph, x, "c1", 3, 8, (3, 3), strides=[2, 2]), "n1", 8)
    x = graph.node("Clip", [x, zero, six], "r1")
    x = norm(graph, conv(graph, x, "c2", 8, 8, (3, 3), group=8, pads=[1, 1, 1, 1]), "n2", 8, epsilon=1e-3)
    x = graph.node("Clip", [x, zero, six], "r2")
    x = norm(graph, conv(graph, x, "c3", 8, 5, (1, 1)), "n3", 5)
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "mean")], "flat")
    graph.output(graph.dense(x, "fc", 5, 4))
    layers = assert_maps_like_ort(graph, tmp_path)
    assert [layer.activation for layer in layers] == ["relu6", "relu6", "identity", "identity"]
    assert layers[0].shape.pads == (0, 0, 1, 1) and layers[2].shape.pool_window == (5, 5)


def test_activations_pass_maximum_pooling(tmp_path):
    graph = Graph()
    x = conv(graph, graph.input("x", N, 2, 8, 8), "c1", 2, 4, (3, 3))
    x = graph.node("MaxPool", [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    graph.output(graph.node("Tanh", [x], "y"))
    (layer,) = assert_maps_like_ort(graph, tmp_path)
    assert (layer.activation, layer.shape.pooling) == ("tanh", "max")


@pytest.mark.parametrize("case", ["relu", "pool", "norm", "relu after mean", "norm after maximum", "two pools",
                                  "mean of sigmoid", "relu after flatten", "two activations"])
def test_what_cannot_be_merged_becomes_a_layer(case, tmp_path):
    graph = Graph()
    x = graph.input("x", N, 4, 6, 6)
    pooling = {"kernel_shape": [2, 2], "strides": [2, 2]}
    if case in ("relu", "pool", "norm"):
        x = {"relu": lambda: graph.node("Relu", [x], "first"),
             "pool": lambda: graph.node("AveragePool", [x], "first", **pooling),
             "norm": lambda: norm(graph, x, "first", 4)}[case]()
        x = conv(graph, x, "c1", 4, 3, (3, 3))
    else:
        x = conv(graph, x, "c1", 4, 3, (3, 3), pads=[1, 1, 1, 1])
        if case == "relu after mean":
            x = graph.node("Relu", [graph.node("AveragePool", [x], "pooled", **pooling)], "y")
        elif case == "norm after maximum":
            x = norm(graph, graph.node("MaxPool", [x], "pooled", **pooling), "y", 3)
        elif case == "two pools":
            x = graph.node("MaxPool", [x], "pooled", **pooling)
            x = graph.node("GlobalMaxPool", [x], "y")
        elif case == "mean of sigmoid":
            x = graph.node("GlobalAveragePool", [graph.node("Sigmoid", [x], "s")], "y")
        elif case == "relu after flatten":
            x = graph.node("GlobalAveragePool", [x], "pooled")
            x = graph.node("Relu", [graph.node("Flatten", [x], "flat")], "y")
        else:
            x = graph.node("Relu", [graph.node("Tanh", [x], "tanh")], "y")
    graph.output(x)
    layers = assert_maps_like_ort(graph, tmp_path)
    unit = layers[0 if case in ("relu", "pool", "norm") else 1]
    assert len(layers) == 2 and unit.shape.kernel == (1, 1) and unit.shape.groups == unit.shape.in_channels


def test_pools_that_do_nothing_or_take_all(tmp_path):
    graph = Graph()
    x = conv(graph, graph.input("x", N, 2, 7, 7), "c1", 2, 3, (2, 2))
    x = graph.node("MaxPool", [x], "same", kernel_shape=[1, 1])
    x = graph.node("MaxPool", [x], "half", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    graph.output(graph.node("AveragePool", [x], "y", kernel_shape=[3, 3], strides=[1, 2]))
    first, second = assert_maps_like_ort(graph, tmp_path)
    assert first.shape.pool_window == (2, 2) and second.shape.pool_window == (3, 3)


@pytest.mark.parametrize("opset", [7, 10])
def test_attributes_of_old_operator_sets(opset, tmp_path):
    graph = Graph()
    x = graph.node("Pad", [graph.input("x", N, 2, 6, 6)], "padded", pads=[0, 0, 1, 2, 0, 0, 0, 1])
    x = graph.node("Clip", [conv(graph, x, "c1", 2, 3, (3, 3), pads=[1, 0, 0, 0])], "y", min=0.0, max=6.0)
    graph.output(x)
    (layer,) = assert_maps_like_ort(graph, tmp_path, opset=opset)
    assert layer.activation == "relu6" and layer.shape.pads == (2, 2, 0, 1)


def test_pad_with_axes(tmp_path):
    graph = Graph()
    inputs = [graph.input("x", N, 2, 9), graph.integers("pads", 2, 1), graph.constant("fill", 0.0),
              graph.integers("axes", -1)]
    graph.output(conv(graph, graph.node("Pad", inputs, "padded"), "c1", 2, 3, (3,), auto_pad="SAME_UPPER"))
    (layer,) = assert_maps_like_ort(graph, tmp_path, opset=18)
    assert layer.shape.pads == (0, 3, 0, 2)


def test_recurrent_layer_behind_convolutions(tmp_path):
    """A map a step, as in voice detectors: the batch of the convolutions is the time of the LSTM."""
    graph = Graph()
    x = graph.node("Relu", [conv(graph, graph.input("x", N, 1, 16), "c1", 1, 4, (5,), strides=[2])], "r1")
    x = graph.node("Unsqueeze", [graph.node("Flatten", [x], "flat"), graph.integers("axis", 1)], "sequence")
    graph.recurrent("LSTM", x, ["h"], 24, 5)
    graph.output(graph.node("Squeeze", ["h", graph.integers("axes", 1, 2)], "y"))
    assert [type(layer) for layer in assert_maps_like_ort(graph, tmp_path, 9)] == [Conv, LSTM]


def test_norm_of_a_dense_layer(tmp_path):
    graph = Graph()
    x = norm(graph, graph.dense(graph.input("x", N, 5), "fc", 5, 4), "norm", 4)
    graph.output(norm(graph, graph.node("Relu", [x], "relu"), "y", 4))
    first, second = assert_maps_like_ort(graph, tmp_path)
    assert isinstance(first, Dense) and first.activation == "relu" and isinstance(second, Dense)


def test_norm_of_time_steps(tmp_path):
    graph = Graph()
    graph.output(norm(graph, graph.input("x", 1, 5, 5), "y", 5))
    assert refusal(graph.save(tmp_path)).startswith("BatchNormalization node 'y_node': it normalises time steps")


def test_relu_behind_a_recurrent_layer_goes_into_the_dense_one(tmp_path):
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", T, 1, 5), ["h"], 5, 4)
    x = graph.node("Relu", [graph.node("Squeeze", ["h", graph.integers("axis", 1)], "squeezed")], "relu")
    graph.output(graph.dense(x, "fc", 4, 3, "Sigmoid"))
    path = graph.save(tmp_path)
    network, x = load_onnx(path), np.random.default_rng(0).normal(size=(9, 5))
    np.testing.assert_allclose(network.run(x), sequence_through_ort(path, x, "tb")[0][:, 0], atol=1e-5)
    gru, fc = network.layers
    assert isinstance(gru, GRU) and isinstance(fc, Dense) and fc.input_activation == "relu"


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6, 1, 1), (), (1,)])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_biases_of_their_own_and_means(shape, keepdims, opset, tmp_path):
    """As TensorFlow's converter and PyTorch's mean over the last axes give them."""
    graph = Graph()
    weight = graph.random("w", 6, 2, 3, 3)
    x = graph.node("Conv", [graph.input("x", N, 2, 7, 6), weight], "product")
    x = graph.node("Relu", [graph.node("Add", [x, graph.random("b", *shape)], "sum")], "relu")
    inputs = [x, graph.integers("axes", 2, -1)] if opset == 18 else [x]
    x = graph.node("ReduceMean", inputs, "mean", keepdims=keepdims, **({"axes": [2, -1]} if opset < 18 else {}))
    graph.output(graph.dense(graph.node("Flatten", [x], "flat"), "fc", 6, 3))
    conv_layer, fc = assert_maps_like_ort(graph, tmp_path, opset=opset)
    assert conv_layer.shape.pooling == "average" and conv_layer.activation == "relu" and isinstance(fc, Dense)


@pytest.mark.parametrize("seed", range(30))
def test_random_networks(seed, tmp_path):
    """Stacks of what is supported, in any order."""
    graph = Graph(seed)
    rng, is_row = np.random.default_rng(seed), seed % 3 == 0
    channels, sides = int(rng.integers(1, 5)), [int(side) for side in rng.integers(9, 14, 1 if is_row else 2)]
    x = graph.input("x", N, channels, *sides)
    zero, six = graph.constant("zero", 0.0), graph.constant("six", 6.0)
    for i in range(int(rng.integers(1, 4))):
        groups = int(rng.choice([g for g in (1, 2, 3, 4) if channels % g == 0]))
        outs = groups * int(rng.integers(1, 4))
        kernel = [int(rng.integers(1, 1 + min(4, side))) for side in sides]
        pads = [int(pad) for pad in rng.integers(0, 3, 2 * len(sides))]
        strides = [int(step) for step in rng.integers(1, 3, len(sides))]
        x = conv(graph, x, f"c{i}", channels, outs, kernel, group=groups, pads=pads, strides=strides)
        channels = outs
        sides = [(side + pads[axis] + pads[axis + len(sides)] - kernel[axis]) // strides[axis] + 1
                 for axis, side in enumerate(sides)]
        for step in rng.permutation(["norm", "activation", "pool"])[:int(rng.integers(4))]:
            name = f"{step}{i}"
            if step == "norm":
                x = norm(graph, x, name, channels)
            elif step == "activation":
                function = str(rng.choice(["Relu", "Clip", "Sigmoid", "Tanh"]))
                x = graph.node(function, [x, zero, six] if function == "Clip" else [x], name)
            elif min(sides) > 1:
                window = [2] * len(sides)
                x = graph.node(str(rng.choice(["MaxPool", "AveragePool"])), [x], name, kernel_shape=window,
                               strides=window)
                sides = [side // 2 for side in sides]
    if rng.random() < 0.5:
        x = graph.node(str(rng.choice(["GlobalMaxPool", "GlobalAveragePool"])), [x], "global")
        sides = [1]
    n = channels * int(np.prod(sides))
    graph.output(graph.dense(graph.node("Flatten", [x], "flat"), "fc", n, 3))
    assert_maps_like_ort(graph, tmp_path)


# ---- refusals ---------------------------------------------------------------------------------------------


def build_dilated(graph):
    return conv(graph, "x", "y", 4, 3, (3, 3), dilations=[1, 2])


def build_large_kernel(graph):
    return conv(graph, "x", "y", 4, 3, (8, 3))


def build_long_stride(graph):
    return conv(graph, "x", "y", 4, 3, (3, 3), strides=[1, 3])


def build_wrong_channels(graph):
    return conv(graph, "x", "y", 3, 3, (3, 3))


def build_one_axis(graph):
    return conv(graph, "x", "y", 4, 3, (3,))


def build_computed_kernels(graph):
    return graph.node("Conv", ["x", "x"], "y")


def build_overlapping_pool(graph):
    return graph.node("MaxPool", ["x"], "y", kernel_shape=[3, 3], strides=[2, 2])


def build_padded_pool(graph):
    return graph.node("AveragePool", ["x"], "y", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])


def build_ceiling_pool(graph):
    return graph.node("MaxPool", [conv(graph, "x", "c", 4, 3, (2, 2))], "y", kernel_shape=[2, 2], strides=[2, 2],
                      ceil_mode=1)


def build_dilated_pool(graph):
    return graph.node("MaxPool", ["x"], "y", kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 2])


def build_row_pool(graph):
    return graph.node("MaxPool", ["x"], "y", kernel_shape=[1, 2], strides=[1, 2])


def build_reflection(graph):
    padded = graph.node("Pad", ["x", graph.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1)], "y", mode="reflect")
    return conv(graph, padded, "c", 4, 3, (3, 3))


def build_pad_of_ones(graph):
    pads, one = graph.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1), graph.constant("one", 1.0)
    return conv(graph, graph.node("Pad", ["x", pads, one], "y"), "c", 4, 3, (3, 3))


def build_pad_of_channels(graph):
    return conv(graph, graph.node("Pad", ["x", graph.integers("pads", 0, 1, 0, 0, 0, 0, 0, 0)], "y"), "c", 5, 3, (3, 3))


def build_cropping(graph):
    padded = graph.node("Pad", ["x", graph.integers("pads", 0, 0, -1, 0, 0, 0, 0, 0)], "y")
    return conv(graph, padded, "c", 4, 3, (3, 3))


def build_pool_behind_pad(graph):
    padded = graph.node("Pad", ["x", graph.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1)], "padded")
    return graph.node("MaxPool", [padded], "y", kernel_shape=[2, 2], strides=[2, 2])


def build_other_clip(graph):
    bounds = [graph.constant("low", -1.0), graph.constant("high", 6.0)]
    return graph.node("Clip", [conv(graph, "x", "c", 4, 3, (3, 3)), *bounds], "y")


def build_clip_of_a_dense_layer(graph):
    flat = graph.node("Flatten", [conv(graph, "x", "c", 4, 3, (3, 3))], "flat")
    bounds = [graph.constant("low", 0.0), graph.constant("high", 6.0)]
    return graph.node("Clip", [graph.dense(flat, "fc", 48, 4), *bounds], "y")


def build_conv_behind_a_dense_layer(graph):
    flat = graph.node("Flatten", [conv(graph, "x", "c", 4, 3, (3, 3))], "flat")
    image = graph.node("Reshape", [graph.dense(flat, "fc", 48, 48), graph.integers("shape", -1, 3, 4, 4)], "image")
    return conv(graph, image, "y", 3, 3, (3, 3))


def build_other_maps(graph):
    x = conv(graph, "x", "c", 4, 4, (3, 3))
    return conv(graph, graph.node("Reshape", [x, graph.integers("shape", -1, 8, 4, 2)], "r"), "y", 8, 3, (1, 1))


def build_dense_on_columns(graph):
    return graph.dense(conv(graph, "x", "c", 4, 3, (3, 3)), "y", 4, 3)


def build_channels_last_at_the_end(graph):
    x = graph.node("Transpose", [conv(graph, "x", "c", 4, 3, (3, 3))], "y", perm=[0, 2, 3, 1])
    return graph.dense(graph.node("Flatten", [x], "flat"), "fc", 48, 4)


def build_mean_of_rows(graph):
    return graph.node("ReduceMean", [conv(graph, "x", "c", 4, 3, (3, 3))], "y", axes=[2])


def build_bias_for_each_column(graph):
    return graph.node("Add", [conv(graph, "x", "c", 4, 3, (3, 3)), graph.random("b", 4)], "y")


def build_training_norm(graph):
    end = norm(graph, conv(graph, "x", "c", 4, 3, (3, 3)), "y", 3, training_mode=1)
    graph.nodes[-1].output.extend(["mean", "variance"])
    return end


@pytest.mark.parametrize(("build", "start"), [
    (build_dilated, "Conv node 'y_node': dilations 1x2 are not supported"),
    (build_large_kernel, "Conv node 'y_node': its kernel is 8x3"),
    (build_long_stride, "Conv node 'y_node': its stride is 1x3"),
    (build_wrong_channels, "Conv node 'y_node': its kernels read 3 channels, but it gets 4"),
    (build_one_axis, "Conv node 'y_node': its kernels have not as many axes as its input"),
    (build_computed_kernels, "Conv node 'y_node': its weights or biases are not constants"),
    (build_overlapping_pool, "MaxPool node 'y_node': it pools 3x3 with stride 2x2 and pads (0, 0, 0, 0) on maps"),
    (build_padded_pool, "AveragePool node 'y_node': it pools 2x2 with stride 2x2 and pads (1, 1, 1, 1) on maps of 6x6"),
    (build_ceiling_pool, "MaxPool node 'y_node': it pools 2x2 with stride 2x2 and pads (0, 0, 0, 0) on maps of 5x5"),
    (build_dilated_pool, "MaxPool node 'y_node': dilations 2x2 are not supported"),
    (build_row_pool, "MaxPool node 'y_node': it pools 1x2 with stride 1x2"),
    (build_reflection, "Pad node 'y_node': it pads in mode 'reflect'"),
    (build_pad_of_ones, "Pad node 'y_node': it pads in mode 'constant' with 1"),
    (build_pad_of_channels, "Pad node 'y_node': it pads steps or channels"),
    (build_cropping, "Pad node 'y_node': it pads steps or channels, or cuts something off"),
    (build_pool_behind_pad, "MaxPool node 'y_node': it follows a Pad node"),
    (build_other_clip, "Clip node 'y_node': it is supported only from 0 to 6"),
    (build_clip_of_a_dense_layer, "Clip node 'y_node': it is supported only from 0 to 6, as ReLU6, and behind"),
    (build_conv_behind_a_dense_layer, "Conv node 'y_node': convolutions and pooling must come first, before dense"),
    (build_other_maps, "layer 'y_node' reads maps of (8, 4, 2), but layer 'c_node' before it makes (4, 4, 4)"),
    (build_dense_on_columns, "MatMul node 'y_product_node': the last axis of its input is not the 48 features"),
    (build_channels_last_at_the_end, "Transpose node 'y_node': it moves, adds or leaves out features"),
    (build_mean_of_rows, "ReduceMean node 'y_node': it takes the mean over axes [2]; only that over all rows"),
    (build_bias_for_each_column, "Add node 'y_node': the constant that it adds has shape (4,), but must be one number"),
    (build_training_norm, "BatchNormalization node 'y_node': its training mode is not off"),
])
def test_maps_that_are_refused(build, start, tmp_path):
    graph = Graph()
    graph.input("x", N, 4, 6, 6)
    graph.output(build(graph))
    assert refusal(graph.save(tmp_path)).startswith(start)


def test_padding_at_the_end(tmp_path):
    graph = Graph()
    x = conv(graph, graph.input("x", N, 2, 6, 6), "c", 2, 3, (3, 3))
    graph.output(graph.node("Pad", [x, graph.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1)], "y"))
    assert refusal(graph.save(tmp_path)).startswith("graph output 'y' is padded")


@pytest.mark.parametrize("dims", [(N, 2, "rows", 6), (N, 2, 6, "columns"), ("n", "c", 6, 6)])
def test_maps_of_open_size(dims, tmp_path):
    graph = Graph()
    graph.output(conv(graph, graph.input("x", *dims), "c", 2, 3, (3, 3)))
    assert refusal(graph.save(tmp_path)).startswith("graph input 'x' has an open axis beside the first; a convolution")


def test_integer_maps(tmp_path):
    graph = Graph()
    graph.output(conv(graph, graph.input("x", N, 2, 6, 6, kind=TensorProto.INT8), "c", 2, 3, (3, 3)))
    assert "graph input 'x' is not a floating-point tensor" in refusal(graph.save(tmp_path))


def test_convolution_behind_a_recurrent_layer(tmp_path):
    """One of width 1, as PyTorch users write a dense layer."""
    graph = Graph()
    graph.recurrent("LSTM", graph.input("x", T, 1, 5), ["h"], 5, 4)
    x = graph.node("Squeeze", ["h", graph.integers("axis", 1)], "squeezed")
    graph.output(conv(graph, x, "y", 4, 3, (1,)))
    assert refusal(graph.save(tmp_path)).startswith("Conv node 'y_node': convolutions and pooling must come first")
