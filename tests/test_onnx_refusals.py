"""What the ONNX importer refuses: each refusal names the node and says why."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import BATCH, Graph, T

from amacrine.sw.errors import AmacrineError
from amacrine.sw.onnx_import import load_onnx


def refusal(path: Path) -> str:
    """The message of the refusal, which must be one line that starts with the path."""
    with pytest.raises(AmacrineError) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def recurrent_graph(operator="GRU", shape=(T, 1, 5), extra=(), outputs=("y",), **attributes) -> Graph:
    graph = Graph()
    graph.recurrent(operator, graph.input("x", *shape), list(outputs), 5, 4, extra, **attributes)
    graph.output("y")
    return graph


@pytest.mark.parametrize(("operator", "attributes", "reason"), [
    ("GRU", {"linear_before_reset": 0}, "linear_before_reset=0 is not supported"),
    ("GRU", {"direction": "reverse"}, "direction 'reverse' reads the sequence from its end"),
    ("LSTM", {"direction": "reverse"}, "direction 'reverse' reads the sequence from its end"),
    ("LSTM", {"direction": "bidirectional"}, "direction 'bidirectional' reads the sequence from its end"),
    ("GRU", {"clip": 3.0}, "clip=3 is not supported"),
    ("LSTM", {"clip": 0.5}, "clip=0.5 is not supported"),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "activations HardSigmoid, Tanh are not supported"),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations Sigmoid, Tanh, Relu are not"),
    ("GRU", {"layout": 1}, "layout=1 is not supported"),
    ("LSTM", {"layout": 1}, "layout=1 is not supported"),
    ("LSTM", {"input_forget": 1}, "input_forget=1 is not supported"),
])
def test_variants_of_recurrent_layers(operator, attributes, reason, tmp_path):
    message = refusal(recurrent_graph(operator, **attributes).save(tmp_path))
    assert message.startswith(f"{operator} node 'y_node': {reason}")


def test_linear_before_reset_is_off_by_default(tmp_path):
    graph = recurrent_graph()
    (attribute,) = (item for item in graph.nodes[0].attribute if item.name == "linear_before_reset")
    graph.nodes[0].attribute.remove(attribute)
    assert refusal(graph.save(tmp_path)).startswith("GRU node 'y_node': linear_before_reset=0")


def test_peepholes(tmp_path):
    graph = Graph()
    graph.recurrent("LSTM", graph.input("x", T, 1, 5), ["y"], 5, 4, ("", "", "", graph.random("p", 1, 12)))
    graph.output("y")
    assert refusal(graph.save(tmp_path)).startswith("LSTM node 'y_node': peepholes are not supported")


@pytest.mark.parametrize(("shape", "lengths"), [((12, 1, 5), [11]), ((T, 1, 5), [12]), ((T, 1, 5), None)])
def test_sequence_lengths_that_may_shorten(shape, lengths, tmp_path):
    graph = Graph()
    x = graph.input("x", *shape)
    source = (graph.input("lengths", 1, kind=TensorProto.INT32) if lengths is None else
              graph.constant("lengths", lengths, np.int32))
    graph.recurrent("GRU", x, ["y"], 5, 4, (source,))
    graph.output("y")
    assert refusal(graph.save(tmp_path)).startswith("GRU node 'y_node': sequence_lens may shorten")


@pytest.mark.parametrize(("shape", "batch"), [((T, 2, 5), 2), ((7, 3, 5), 3), ((1, 9, 5), 9),
                                              ((1, T, 5), "any number of")])
def test_batches(shape, batch, tmp_path):
    """The last two are batch first, given to a layer that reads time first."""
    message = refusal(recurrent_graph(shape=shape).save(tmp_path))
    assert message.startswith(f"GRU node 'y_node': it gets {batch} sequences as a batch, but a chain runs")


def test_initial_state_for_a_batch(tmp_path):
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", T, BATCH, 5), ["y"], 5, 4, ("", graph.random("h0", 1, 2, 4)))
    graph.output("y")
    assert refusal(graph.save(tmp_path)).startswith("GRU node 'y_node': its initial state has shape (1, 2, 4")


def test_initial_state_from_another_layer(tmp_path):
    """An encoder and a decoder: the second starts from where the first ended."""
    graph = Graph()
    graph.recurrent("GRU", graph.input("x", T, 1, 5), ["y1", "h1"], 5, 4)
    y = graph.node("Squeeze", ["y1", graph.integers("axis", 1)], "squeezed")
    graph.recurrent("GRU", y, ["y"], 4, 4, ("", "h1"))
    graph.output("y")
    assert refusal(graph.save(tmp_path)).startswith("GRU node 'y_node': its initial state is computed by")


def test_weights_that_are_inputs(tmp_path):
    graph = Graph()
    names = [graph.input("x", T, 1, 5), graph.input("w", 1, 12, 5), graph.random("r", 1, 12, 4)]
    graph.output(graph.node("GRU", names, "y", hidden_size=4, linear_before_reset=1))
    assert refusal(graph.save(tmp_path)).startswith("GRU node 'y_node': its weights or biases are not const")


# Not a chain

def build_unknown_operator(graph):
    return graph.node("Softmax", [graph.dense("x", "fc", 5, 4)], "y")


def build_unnamed_unknown_operator(graph):
    graph.nodes.append(helper.make_node("Softmax", ["x"], ["y"]))
    return "y"


def build_product_with_data(graph):
    return graph.node("Mul", ["x", graph.random("gain", 5)], "y")


def build_residual(graph):
    fc = graph.dense("x", "fc", 5, 5)
    return graph.node("Add", [fc, "x"], "y")


def build_two_readers(graph):
    graph.dense("x", "left", 5, 4)
    return graph.dense("x", "right", 5, 4)


def build_joined_branches(graph):
    return graph.node("Concat", [graph.node("Identity", ["x"], "same"), "x"], "y", axis=-1)


def build_padding(graph):
    return graph.node("Concat", ["x", graph.constant("silence", np.zeros((1, 5)))], "y", axis=0)


def build_transposed_features(graph):
    return graph.dense(graph.node("Transpose", ["x"], "y", perm=[1, 0]), "fc", 5, 4)


def build_merged_steps(graph):
    return graph.dense(graph.node("Reshape", ["x", graph.integers("flat", 1, -1)], "y"), "fc", 5, 4)


def build_first_step(graph):
    return graph.dense(graph.node("Gather", ["x", graph.integers("first", 0)], "y", axis=0), "fc", 5, 4)


def build_permuted_features(graph):
    return graph.node("Gather", ["x", graph.integers("order", 1, 0, 2, 3, 4)], "y", axis=-1)


def build_layer_on_flattened_features(graph):
    column = graph.node("Unsqueeze", [graph.dense("x", "fc", 5, 1), graph.integers("axis", -2)], "column")
    return graph.dense(graph.node("Squeeze", [column, graph.integers("axes", 1, 2)], "steps"), "y", 211, 4)


def build_layer_after_last_step(graph):
    last = graph.node("Slice", ["x", graph.integers("last", -1), graph.integers("end", 2**31)], "last_step")
    batched = graph.node("Unsqueeze", [last, graph.integers("axis", 1)], "batched")
    graph.recurrent("GRU", batched, ["y"], 5, 4)
    return "y"


def build_matrix_on_the_left(graph):
    return graph.node("MatMul", [graph.random("w", 4, 5), "x"], "y")


def build_stacked_matrices(graph):
    return graph.node("MatMul", ["x", graph.random("w", 2, 5, 4)], "y")


def build_wrong_width(graph):
    return graph.dense("x", "fc", 6, 4)


def build_bias_for_each_step(graph):
    return graph.node("Add", ["x", graph.random("b", 211, 5)], "y")


def build_gemm_of_transposed_data(graph):
    return graph.node("Gemm", ["x", graph.random("w", 5, 4)], "y", transA=1)


def build_gemm_with_computed_bias(graph):
    return graph.node("Gemm", ["x", graph.random("w", 5, 5), "x"], "y")


def build_integer_data(graph):
    return graph.node("Cast", ["x"], "y", to=TensorProto.INT64)


def build_training_dropout(graph):
    settings = [graph.constant("ratio", 0.5), graph.constant("training", True, bool)]
    return graph.node("Dropout", ["x", *settings], "y")


def build_dropout_mask(graph):
    graph.node("Dropout", [graph.dense("x", "fc", 5, 4)], ["kept", "mask"])
    return graph.node("Cast", ["mask"], "y", to=TensorProto.FLOAT)


def build_layer_on_a_cell_state(graph):
    x = graph.node("Unsqueeze", ["x", graph.integers("axis", 1)], "batched")
    graph.recurrent("LSTM", x, ["states", "h", "c"], 5, 4)
    return graph.dense("c", "fc", 4, 3)


def build_impossible_constant(graph):
    weight = graph.node("Reshape", [graph.random("w", 5, 4), graph.integers("shape", 4)], "y")
    return graph.node("MatMul", ["x", weight], "product")


def build_wide_activation(graph):
    wide = graph.dense("x", "fc", 5, 2049, "Relu")
    return graph.node("Tanh", [wide], "y")


@pytest.mark.parametrize(("build", "start"), [
    (build_unknown_operator, "Softmax node 'y_node': operator Softmax is not supported"),
    (build_unnamed_unknown_operator, "Softmax node 'y': operator Softmax is not supported"),
    (build_product_with_data, "Mul node 'y_node': operator Mul is supported only on constants"),
    (build_residual, "Add node 'y_node': it adds two computed tensors"),
    (build_two_readers, "MatMul node 'right_product_node': it branches off"),
    (build_joined_branches, "Concat node 'y_node': it joins several computed tensors"),
    (build_padding, "Concat node 'y_node': it moves, adds or leaves out features or time steps"),
    (build_transposed_features, "Transpose node 'y_node': it moves, adds or leaves out"),
    (build_merged_steps, "Reshape node 'y_node': it moves, adds or leaves out"),
    (build_first_step, "Gather node 'y_node': it moves, adds or leaves out"),
    (build_permuted_features, "Gather node 'y_node': it moves, adds or leaves out"),
    (build_layer_on_flattened_features, "MatMul node 'y_product_node': the last axis of its input is not"),
    (build_layer_after_last_step, "GRU node 'y_node': it reads only the last time step"),
    (build_matrix_on_the_left, "MatMul node 'y_node': the constant matrix stands left of the data"),
    (build_stacked_matrices, "MatMul node 'y_node': its second input is not a constant matrix"),
    (build_wrong_width, "MatMul node 'fc_product_node': it reads vectors of 6, but gets 5 features"),
    (build_bias_for_each_step, "Add node 'y_node': the constant that it adds has shape (211, 5)"),
    (build_gemm_of_transposed_data, "Gemm node 'y_node': transA=1 moves the features"),
    (build_gemm_with_computed_bias, "Gemm node 'y_node': its bias is not a constant"),
    (build_integer_data, "Cast node 'y_node': it turns the data into integers"),
    (build_training_dropout, "Dropout node 'y_node': its training mode is not off"),
    (build_dropout_mask, "Cast node 'y_node': its input 'mask' is of a kind that is not supported"),
    (build_layer_on_a_cell_state, "MatMul node 'fc_product_node': it computes with a recurrent state"),
    (build_impossible_constant, "Reshape node 'y_node': it cannot be evaluated"),
    (build_wide_activation, "Tanh node 'y_node': it follows no dense layer"),
])
def test_graphs_that_are_no_chain(build, start, tmp_path):
    graph = Graph()
    graph.input("x", T, 5)
    graph.output(build(graph))
    assert refusal(graph.save(tmp_path)).startswith(start)


def test_operator_of_another_domain(tmp_path):
    graph = Graph()
    graph.output(graph.node("Gemm", [graph.input("x", T, 5)], "y", domain="com.example"))
    onnx.save(graph.model(opsets=[helper.make_opsetid("com.example", 1)]), tmp_path / "made.onnx")
    assert refusal(tmp_path / "made.onnx").startswith("Gemm node 'y_node': operator Gemm is not supported")


def test_second_data_input(tmp_path):
    graph = Graph()
    total = graph.node("Add", [graph.input("x", T, 5), graph.input("more", T, 5)], "y")
    graph.output(total)
    assert refusal(graph.save(tmp_path)).startswith("Add node 'y_node': it adds two computed tensors")


@pytest.mark.parametrize(("outputs", "reason"), [
    (["h"], "graph output 'h' branches off before the last layer 'y_product_node'"),
    (["y", "h"], "graph output 'h' is neither the end of the chain nor a final state"),
    (["h", "y"], "graph output 'h' is neither the end of the chain nor a final state"),
    (["x"], "its graph holds no layer that leads to an output"),
])
def test_outputs_that_are_not_the_end(outputs, reason, tmp_path):
    graph = Graph()
    h = graph.dense(graph.input("x", T, 5), "h", 5, 4)
    if outputs != ["x"]:
        graph.dense(h, "y", 4, 3)
    else:
        graph.nodes = [helper.make_node("Identity", ["x"], ["z"])]
        graph.initializers, outputs = [], ["z"]
    for name in outputs:
        graph.output(name)
    assert refusal(graph.save(tmp_path)).startswith(reason)


@pytest.mark.parametrize(("shape", "kind", "reason"), [
    ((T, 5), TensorProto.INT64, "graph input 'x' is not a floating-point tensor"),
    ((), TensorProto.FLOAT, "graph input 'x' is not a floating-point tensor with a last axis"),
    ((T, "features"), TensorProto.FLOAT, "graph input 'x' has an open last axis"),
])
def test_inputs_that_are_no_vectors(shape, kind, reason, tmp_path):
    graph = Graph()
    graph.output(graph.node("Identity", [graph.input("x", *shape, kind=kind)], "y"))
    assert refusal(graph.save(tmp_path)).startswith(reason)


def test_input_without_a_shape(tmp_path):
    graph = Graph()
    graph.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    graph.output(graph.dense("x", "fc", 5, 4))
    assert refusal(graph.save(tmp_path)).startswith("graph input 'x' is not a floating-point tensor")


@pytest.mark.parametrize("is_listed", [False, True])
def test_graph_without_input(is_listed, tmp_path):
    """An initializer that is listed as an input, as old exporters do, is none."""
    graph = Graph()
    weight = graph.random("w", 3, 3)
    graph.output(graph.node("Relu", [graph.input(weight, 3, 3) if is_listed else weight], "y"))
    assert refusal(graph.save(tmp_path)).startswith("its graph has no input")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, tmp_path):
    graph = Graph()
    weight = np.ones((5, 4))
    weight[2, 1] = value
    graph.output(graph.node("MatMul", [graph.input("x", T, 5), graph.constant("w", weight)], "y"))
    assert refusal(graph.save(tmp_path)).startswith("layer 'y_node': weight holds NaN or infinity")


# Files

def saved_dense(directory: Path, opset: int = 17) -> Path:
    graph = Graph()
    graph.output(graph.dense(graph.input("x", T, 40), "fc", 40, 30))
    return graph.save(directory, opset)


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "none.onnx").startswith("does not exist")


def test_directory(tmp_path):
    assert refusal(tmp_path).startswith("is a directory")


@pytest.mark.parametrize("content", [b"", b"not a model\n", b"\x00" * 100, b'{"irVersion": "8"}'])
def test_other_files(content, tmp_path):
    (tmp_path / "made.onnx").write_bytes(content)
    assert refusal(tmp_path / "made.onnx").startswith("is not an ONNX file")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_file(part, tmp_path):
    path = saved_dense(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * part)])
    assert refusal(path).startswith("is not an ONNX file, or a truncated one")


@pytest.mark.parametrize("kept", [None, 100])
def test_missing_and_truncated_external_weights(kept, tmp_path):
    graph = Graph()
    graph.output(graph.dense(graph.input("x", T, 40), "fc", 40, 30))
    path, weights = tmp_path / "made.onnx", tmp_path / "weights.bin"
    onnx.save(graph.model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = weights.read_bytes()
    weights.unlink()
    if kept is not None:
        weights.write_bytes(content[:kept])
    message = refusal(path)
    assert message.startswith("its weights lie in a separate file that is missing") or (
        kept is not None and message.startswith("initializer 'fc_w' is damaged"))


def test_damaged_initializer(tmp_path):
    path = saved_dense(tmp_path)
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-2]
    onnx.save(model, path)
    assert "fc_w" in refusal(path)


def test_damaged_name(tmp_path):
    """A name that is no UTF-8 any more fails within the onnx package's own error message."""
    path = recurrent_graph().save(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"hidden_size", b"hidden\xabsize"))
    assert refusal(path).startswith("is not a valid ONNX model (")


def test_old_operator_set(tmp_path):
    assert refusal(saved_dense(tmp_path, opset=6)).startswith("uses ONNX operator set 6, but at least 7")


def test_invalid_model(tmp_path):
    graph = Graph()
    graph.output(graph.node("MatMul", [graph.input("x", T, 5)], "y"))
    message = refusal(graph.save(tmp_path))
    assert message.startswith("is not a valid ONNX model (") and "MatMul" in message
