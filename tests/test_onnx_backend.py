"""The onnx package's own node tests, as far as they concern operators that the importer knows.

Each case is listed by name below, under what must become of it, so that none is skipped unseen. They
are one-node models, and four views of them are tested:

layers    The node is a layer: the first input is the data, all others become weights.
recurrent Recurrent cases have three sequences in a batch, which is refused; they are run one by one.
moves     The node moves data or constants about. With data, a Relu follows, so that there is a layer;
          with constants only, its result is the weight of a MatMul.
maps      The node is a convolution, pools, or belongs to one of these: the first input is the data.
"""

import functools
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase as OnnxCase
from onnx.backend.test.loader import load_model_tests

from amacrine.sw.errors import AmacrineError
from amacrine.sw.onnx_import import load_onnx

LAYERS = ["Add", "GRU", "Gemm", "LSTM", "MatMul", "Relu", "Sigmoid", "Tanh"]
MOVES = ["Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity",
         "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"]

MAPS = ["AveragePool", "BatchNormalization", "Clip", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad"]

LAYERS_THAT_RUN = """
add_bcast gemm_alpha gemm_beta gemm_default_no_bias gemm_default_scalar_bias
gemm_default_single_elem_vector_bias gemm_default_vector_bias gemm_default_zero_bias gemm_transposeB
matmul_2d relu sigmoid sigmoid_example tanh tanh_example
""".split()

INTEGERS, MATRIX = "is not a floating-point tensor", "is not a constant matrix with two axes"
BATCH = "it gets 3 sequences as a batch"
LAYERS_REFUSED = {
    "add": "has shape (3, 4, 5), but must be one number, or one for each of the 5 features",
    "add_int8": INTEGERS, "add_int16": INTEGERS, "add_uint8": INTEGERS, "add_uint16": INTEGERS,
    "add_uint32": INTEGERS, "add_uint64": INTEGERS,
    "gemm_default_matrix_bias": "has shape (3, 4), but must be one number, or one for each of the 4 features",
    "gemm_transposeA": "transA=1", "gemm_all_attributes": "transA=1",
    "matmul_1d_1d": MATRIX, "matmul_1d_3d": MATRIX, "matmul_3d": MATRIX, "matmul_4d": MATRIX,
    "matmul_4d_1d": MATRIX, "matmul_bcast": MATRIX,
    "gru_defaults": "linear_before_reset=0", "gru_with_initial_bias": "linear_before_reset=0",
    "gru_seq_length": "linear_before_reset=0", "gru_batchwise": "linear_before_reset=0",
    "gru_reverse": "direction 'reverse'", "gru_bidirectional": "direction 'bidirectional'",
    "lstm_defaults": BATCH, "lstm_with_initial_bias": BATCH, "lstm_with_peepholes": "peepholes",
    "lstm_batchwise": "layout=1",
    "lstm_reverse": "direction 'reverse'", "lstm_bidirectional": "direction 'bidirectional'",
}

# One step from a zero state with a zero recurrent bias: there, linear_before_reset changes nothing.
RECURRENT_ONE_BY_ONE = ["gru_defaults", "gru_with_initial_bias", "lstm_defaults", "lstm_with_initial_bias"]

DATA_MOVES_THAT_RUN = """
clip_default_inbounds_expanded dropout_default dropout_default_old dropout_default_ratio dropout_random_old
flatten_axis3 flatten_negative_axis1 identity reshape_negative_extended_dims reshape_zero_and_negative_dim
squeeze squeeze_negative_axes transpose_all_permutations_0 unsqueeze_axis_0 unsqueeze_axis_1
unsqueeze_axis_2 unsqueeze_negative_axes dropout_default_mask dropout_default_mask_ratio
""".split()

MOVED, TRAINING, CONSTANT = "it moves, adds or leaves out", "its training mode is not off", "has no input"
DATA_MOVES_REFUSED = dict.fromkeys("""
concat_1d_axis_0 concat_1d_axis_negative_1 concat_2d_axis_0 concat_2d_axis_1 concat_2d_axis_negative_1
concat_2d_axis_negative_2 concat_3d_axis_0 concat_3d_axis_1 concat_3d_axis_2 concat_3d_axis_negative_1
concat_3d_axis_negative_2 concat_3d_axis_negative_3 expand_dim_changed expand_dim_unchanged flatten_axis0
flatten_axis1 flatten_axis2 flatten_default_axis flatten_negative_axis2 flatten_negative_axis3
flatten_negative_axis4 gather_0 gather_1 gather_2d_indices gather_negative_indices reshape_extended_dims
reshape_negative_dim reshape_one_dim reshape_reduced_dims reshape_reordered_all_dims
reshape_reordered_last_dims reshape_zero_dim slice slice_default_axes slice_default_steps
slice_end_out_of_bounds slice_neg slice_neg_steps slice_negative_axes slice_start_out_of_bounds
transpose_all_permutations_1 transpose_all_permutations_2 transpose_all_permutations_3
transpose_all_permutations_4 transpose_all_permutations_5 transpose_default unsqueeze_three_axes
unsqueeze_two_axes unsqueeze_unsorted_axes
""".split(), MOVED) | dict.fromkeys("""
training_dropout training_dropout_default training_dropout_default_mask training_dropout_mask
training_dropout_zero_ratio training_dropout_zero_ratio_mask
""".split(), TRAINING) | dict.fromkeys("""
clip_default_int8_inbounds_expanded constantofshape_float_ones constantofshape_int_shape_zero
constantofshape_int_zeros identity_opt identity_sequence
""".split(), INTEGERS) | dict.fromkeys("""
shape shape_clip_end shape_clip_start shape_end_1 shape_end_negative_1 shape_example shape_start_1
shape_start_1_end_2 shape_start_1_end_negative_1 shape_start_greater_than_end shape_start_negative_1
""".split(), "no layer that leads to an output") | {
    "constant": CONSTANT, "reshape_allowzero_reordered": "cannot be evaluated"}

EMPTY = "weight has shape (0, 1)"
CONSTANT_MOVES_REFUSED = {
    name: TRAINING for name, reason in DATA_MOVES_REFUSED.items() if reason == TRAINING} | {
    name: "its first input is a constant" for name in DATA_MOVES_THAT_RUN if name.startswith("dropout")} | {
    "constantofshape_int_shape_zero": EMPTY, "reshape_allowzero_reordered": EMPTY,
    "slice_start_out_of_bounds": EMPTY, "shape_start_greater_than_end": EMPTY}
NO_TENSORS = ["identity_opt", "identity_sequence"]  # of a kind that cannot be a constant


MAPS_THAT_RUN = """
averagepool_2d_precomputed_strides basic_conv_with_padding basic_conv_without_padding conv_with_autopad_same
conv_with_strides_and_asymmetric_padding conv_with_strides_no_padding conv_with_strides_padding globalaveragepool
globalaveragepool_precomputed globalmaxpool globalmaxpool_precomputed maxpool_2d_precomputed_strides
""".split()

MAPS_REFUSED = dict.fromkeys("""
averagepool_1d_default averagepool_2d_ceil averagepool_2d_ceil_last_window_starts_on_pad averagepool_2d_default
averagepool_2d_pads averagepool_2d_pads_count_include_pad averagepool_2d_precomputed_pads
averagepool_2d_precomputed_pads_count_include_pad averagepool_2d_precomputed_same_upper averagepool_2d_same_lower
averagepool_2d_same_upper averagepool_2d_strides maxpool_1d_default maxpool_2d_ceil
maxpool_2d_ceil_output_size_reduce_by_one maxpool_2d_default maxpool_2d_pads maxpool_2d_precomputed_pads
maxpool_2d_precomputed_same_upper maxpool_2d_same_lower maxpool_2d_same_upper maxpool_2d_strides
maxpool_with_argmax_2d_precomputed_pads
""".split(), "only 2x2 (of one row: 1x2)") | dict.fromkeys("""
averagepool_3d_default averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False
averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True
averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False
averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True averagepool_3d_dilations_small
maxpool_3d_default maxpool_3d_dilations maxpool_3d_dilations_use_ref_impl maxpool_3d_dilations_use_ref_impl_large
""".split(), "but must be (steps, channels, columns)") | dict.fromkeys("""
clip clip_default_inbounds clip_default_max clip_default_min clip_example clip_inbounds clip_min_greater_than_max
clip_outbounds clip_splitbounds
""".split(), "only from 0 to 6, as ReLU6") | dict.fromkeys("""
clip_default_int8_inbounds clip_default_int8_max clip_default_int8_min edge_pad maxpool_2d_uint8 reflect_pad wrap_pad
""".split(), INTEGERS) | dict.fromkeys(
    ["constant_pad", "constant_pad_axes", "constant_pad_negative_axes"], "convolutions and pooling must come first"
) | dict.fromkeys(["averagepool_2d_dilations", "maxpool_2d_dilations"], "dilations 2x2 are not supported") | {
    "batchnorm_epsilon": "it normalises time steps", "batchnorm_example": "it normalises time steps",
    "batchnorm_epsilon_training_mode": TRAINING, "batchnorm_example_training_mode": TRAINING,
    "maxpool_with_argmax_2d_precomputed_strides": "graph output 'z' is neither the end"}


@functools.cache  # takes seconds, so not while tests are only collected
def cases() -> dict[str, OnnxCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the other cases overflows here and there
        found = load_model_tests(kind="node")
    return {case.name.removeprefix("test_"): case for case in found
            if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in LAYERS + MOVES + MAPS}


def with_constants(case: OnnxCase, first: int) -> onnx.ModelProto:
    """The case's model with its inputs from ``first`` on made constants."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs = list(model.graph.input)
    for tensor, array in list(zip(inputs, case.data_sets[0][0], strict=True))[first:]:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), tensor.name))
        model.graph.input.remove(tensor)
    return model


def append(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Append a node, whose output becomes the only one of the graph."""
    model.graph.node.append(node)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))


def saved(model: onnx.ModelProto, directory: Path) -> Path:
    onnx.save(model, directory / "made.onnx")
    return directory / "made.onnx"


def assert_refused(model: onnx.ModelProto, directory: Path, reason: str) -> None:
    with pytest.raises(AmacrineError) as refusal:
        load_onnx(saved(model, directory))
    assert reason in str(refusal.value)


def test_every_case_is_listed_once():
    layers = {name for name, case in cases().items() if case.model.graph.node[0].op_type in LAYERS}
    assert sorted([*LAYERS_THAT_RUN, *LAYERS_REFUSED]) == sorted(layers)
    maps = {name for name, case in cases().items() if case.model.graph.node[0].op_type in MAPS}
    assert sorted([*MAPS_THAT_RUN, *MAPS_REFUSED]) == sorted(maps)
    moves = cases().keys() - layers - maps
    assert sorted([*DATA_MOVES_THAT_RUN, *DATA_MOVES_REFUSED]) == sorted(moves)
    assert set(RECURRENT_ONE_BY_ONE) <= layers and CONSTANT_MOVES_REFUSED.keys() <= moves


@pytest.mark.parametrize("name", LAYERS_THAT_RUN)
def test_layers_that_run(name, tmp_path):
    network = load_onnx(saved(with_constants(cases()[name], 1), tmp_path))
    (x, *_), (expected,) = cases()[name].data_sets[0]
    y = network.run(x.reshape(-1, network.n_inputs))
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "reason"), LAYERS_REFUSED.items())
def test_layers_refused(name, reason, tmp_path):
    assert_refused(with_constants(cases()[name], 1), tmp_path, reason)


@pytest.mark.parametrize("name", RECURRENT_ONE_BY_ONE)
def test_recurrent_layers_one_sequence_at_a_time(name, tmp_path):
    model = with_constants(cases()[name], 1)
    (x, *_), (expected,) = cases()[name].data_sets[0]
    assert x.shape[:2] == (1, 3) and expected.shape[:2] == (1, 3)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    if "gru" in name:
        model.graph.node[0].attribute.append(helper.make_attribute("linear_before_reset", 1))
    network = load_onnx(saved(model, tmp_path))
    for sequence in range(3):
        np.testing.assert_allclose(network.run(x[:, sequence]), expected[:, sequence], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DATA_MOVES_THAT_RUN)
def test_moves_of_data_that_run(name, tmp_path):
    model = with_constants(cases()[name], 1)
    append(model, helper.make_node("Relu", [model.graph.node[0].output[0]], ["after"]))
    network = load_onnx(saved(model, tmp_path))
    (x, *_), (expected, *_) = cases()[name].data_sets[0]
    y = network.run(np.reshape(x, (-1, network.n_inputs)))
    np.testing.assert_allclose(y.reshape(expected.shape), np.maximum(expected, 0), rtol=1e-6)


@pytest.mark.parametrize(("name", "reason"), DATA_MOVES_REFUSED.items())
def test_moves_of_data_refused(name, reason, tmp_path):
    assert_refused(with_constants(cases()[name], 1), tmp_path, reason)


def as_weight(case: OnnxCase) -> onnx.ModelProto:
    """One input times the node's result, all its inputs being constants."""
    model = with_constants(case, 0)
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1, 1]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "row_shape"))
    result = model.graph.node[0].output[0]
    append(model, helper.make_node("Cast", [result], ["numbers"], to=TensorProto.FLOAT))
    append(model, helper.make_node("Reshape", ["numbers", "row_shape"], ["weight"]))
    append(model, helper.make_node("MatMul", ["gain", "weight"], ["product"]))
    return model


@pytest.mark.parametrize("name", sorted({*DATA_MOVES_THAT_RUN, *DATA_MOVES_REFUSED}
                                        - CONSTANT_MOVES_REFUSED.keys() - {*NO_TENSORS}))
def test_moves_of_constants_that_run(name, tmp_path):
    network = load_onnx(saved(as_weight(cases()[name]), tmp_path))
    expected = cases()[name].data_sets[0][1][0]
    np.testing.assert_allclose(network.run(np.ones((1, 1)))[0], expected.ravel(), rtol=1e-6)


@pytest.mark.parametrize(("name", "reason"), CONSTANT_MOVES_REFUSED.items())
def test_moves_of_constants_refused(name, reason, tmp_path):
    assert_refused(as_weight(cases()[name]), tmp_path, reason)


@pytest.mark.parametrize("name", MAPS_THAT_RUN)
def test_maps_that_run(name, tmp_path):
    network = load_onnx(saved(with_constants(cases()[name], 1), tmp_path))
    (x, *_), (expected,) = cases()[name].data_sets[0]
    y = network.run(x.reshape(-1, network.n_inputs))
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "reason"), MAPS_REFUSED.items())
def test_maps_refused(name, reason, tmp_path):
    assert_refused(with_constants(cases()[name], 1), tmp_path, reason)
