"""Import of ONNX models that are one chain of convolutions, dense and recurrent layers.

An open batch axis of the input is walked with size 1 and open time with PROBE_STEPS. Which of two
open axes is time the recurrent layers decide: each choice is tried, and if none succeeds, the one
that got furthest tells why. Recurrent state that the caller would pass in is taken as zero, as it is
at the start of a sequence; the network carries it from step to step by itself.

In a model with convolutions, the first axis is the steps, one map each, whatever it is called there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from .errors import AmacrineError
from .network import Network
from .onnx_maps import MAP_OPERATORS
from .onnx_nodes import ONNX_FAULTS, refuse
from .onnx_walk import FLOATS, FOLDABLE, LAYER_OPERATORS, PROBE_MAPS, PROBE_STEPS, BatchError, Walk

OLDEST_OPSET = 7  # before it, Add and Dropout had other meanings


def load_onnx(path: str | Path) -> Network:
    """The network in an ONNX file; AmacrineError says what in it cannot be imported, and why.

    Any number of steps may be run afterwards, whatever number the file was exported for.
    """
    path = Path(path)
    try:
        model = _read(path)
        _check(model)
        return _import(model, path.stem)
    except AmacrineError as error:
        raise AmacrineError(f"{path}: {error}") from error


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise AmacrineError(f"{'is a directory' if path.is_dir() else 'does not exist'}; give the path of an "
                            ".onnx file")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise AmacrineError(f"cannot be read ({error.strerror}); check its permissions") from error
    except DecodeError as error:
        raise AmacrineError("is not an ONNX file, or a truncated one; export or download it again") from error
    if not model.graph.node:
        raise AmacrineError("is not an ONNX file, or has an empty graph; export or download it again")
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise AmacrineError("its weights lie in a separate file that is missing or damaged; put that file, "
                            "as exported, in the same directory") from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check(model: onnx.ModelProto) -> None:
    """Refuse unknown operators by name, then whatever the onnx package finds wrong with the file."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in FOLDABLE | LAYER_OPERATORS:
            refuse(node, f"operator {node.op_type} is not supported; layers can be made of "
                         f"{', '.join(sorted(LAYER_OPERATORS))}")
    if _opset(model) < OLDEST_OPSET:
        raise AmacrineError(f"uses ONNX operator set {_opset(model)}, but at least {OLDEST_OPSET} is needed; "
                            "export it again with a newer one")
    for tensor in (*model.graph.input, *model.graph.output):
        if tensor.type.HasField("tensor_type"):
            tensor.type.tensor_type.shape.SetInParent()  # some exporters leave it out; only the checker minds
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the latter from a damaged name
        reason = str(error).splitlines()[0]
        raise AmacrineError(f"is not a valid ONNX model ({reason}); export it again") from error


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _import(model: onnx.ModelProto, name: str) -> Network:
    constants = {tensor.name: _to_array(tensor) for tensor in model.graph.initializer}
    failures: list[tuple[int, AmacrineError]] = []  # with the number of nodes walked before
    has_maps = any(node.op_type in MAP_OPERATORS for node in model.graph.node)
    for tensor in model.graph.input:
        if tensor.name in constants:  # up to IR version 3, initializers are inputs too
            continue
        for is_image in (True, False) if has_maps else (False,):
            try:
                shapes = [_map_shape(tensor)] if is_image else _probe_shapes(tensor)
            except AmacrineError as error:
                failures.append((0 if is_image else -1, error))
                continue
            for shape in shapes:
                walk = Walk(model.graph, _opset(model), constants, tensor.name, shape, is_image)
                try:
                    return walk.network(name)
                except AmacrineError as error:
                    failures.append((walk.position, error))
    if not failures:
        raise AmacrineError("its graph has no input; export the model with its input as an argument")
    raise max(failures, key=lambda failure: (failure[0], not isinstance(failure[1], BatchError)))[1]


def _to_array(tensor: onnx.TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except ONNX_FAULTS as error:
        raise AmacrineError(f"initializer {tensor.name!r} is damaged ({error}); export it again") from error


def _map_shape(tensor: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape to try for the input of a network of maps."""
    dims = tensor.type.tensor_type.shape.dim
    if tensor.type.tensor_type.elem_type not in FLOATS or len(dims) < 2:
        raise AmacrineError(f"graph input {tensor.name!r} is not a floating-point tensor with an axis of steps and "
                            "others for a map; export a model that reads one map a step")
    count, *sides = (dim.dim_value or None for dim in dims)
    fixed = [side for side in sides if side is not None]
    if len(fixed) < len(sides):
        raise AmacrineError(f"graph input {tensor.name!r} has an open axis beside the first; a convolution reads maps "
                            "of fixed size, one a step, so export it with the size of its maps fixed")
    return (count or PROBE_MAPS, *fixed)


def _probe_shapes(tensor: onnx.ValueInfoProto) -> list[tuple[int, ...]]:
    """The shapes to try for a graph input, the likeliest first."""
    tensor_type = tensor.type.tensor_type
    if tensor_type.elem_type not in FLOATS or not tensor_type.shape.dim:
        raise AmacrineError(f"graph input {tensor.name!r} is not a floating-point tensor with a last axis of "
                            "features; export a model that reads one vector per time step")
    *rows, width = (dim.dim_value or None for dim in tensor_type.shape.dim)
    if width is None:
        raise AmacrineError(f"graph input {tensor.name!r} has an open last axis; export it with the number "
                            "of features fixed")
    open_axes = [axis for axis, size in enumerate(rows) if size is None]
    shapes = [tuple((PROBE_STEPS if axis == time else size or 1) for axis, size in enumerate(rows))
              for time in reversed(open_axes)]
    if not open_axes or (len(open_axes) == 1 and any(size not in (None, 1) for size in rows)):
        shapes.append(tuple(size or 1 for size in rows))  # time is an axis of fixed size
    return [(*shape, width) for shape in shapes]
