"""Convolutions, pooling and what belongs to them in the walk through an ONNX graph.

In a network of feature maps the batch axis is the step axis: N images are N steps, each a map of fixed size. What can
be merged into the convolution before it is merged: activations, pooling, batch normalisation; zero padding goes into
the one behind it. What cannot be merged becomes a 1×1 depthwise convolution of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto

from .conv import Conv, ConvActivation, shape_problem
from .convolution import ConvShape, Pooling
from .network import Dense
from .onnx_nodes import attributes_of, refuse

if TYPE_CHECKING:
    from .onnx_walk import Data, Value, Walk

POOLING: dict[str, Pooling] = {"MaxPool": "max", "AveragePool": "average", "GlobalMaxPool": "max",
                               "GlobalAveragePool": "average"}
MAP_OPERATORS = POOLING.keys() | {"Conv"}  # one of these makes it a network of maps

Map = tuple[int, int, int]  # channels, rows, columns; a 1-D map has one row
Pads = tuple[int, int, int, int]  # top, left, bottom, right


def map_of(walk: Walk, node: NodeProto, data: Data) -> Map:
    """The map that ``data`` has in each step; anything else is refused."""
    shape = data.probe.shape
    if not walk.is_image or not all(isinstance(layer, Conv) for layer in walk.layers):
        refuse(node, "convolutions and pooling must come first, before dense and recurrent layers, and read maps of "
                     "fixed size, one a step")
    if len(shape) not in (3, 4) or shape[0] != walk.n_steps or data.probe.size != walk.n_steps * data.width:
        refuse(node, f"its input has shape {shape}, but must be (steps, channels, columns) or (steps, channels, rows, "
                     f"columns) with all {walk.n_steps} steps")
    return (shape[1], 1, shape[2]) if len(shape) == 3 else (shape[1], shape[2], shape[3])


def _result(walk: Walk, layer: Conv, data: Data) -> Data:
    """Append a layer; what it makes has as many axes as what it reads."""
    s = layer.shape
    sides = (s.out_width,) if data.probe.ndim == 3 else (s.out_height, s.out_width)
    return walk.append(layer, np.arange(walk.n_steps * s.n_outputs).reshape(-1, s.out_channels, *sides), s.n_outputs)


def conv(walk: Walk, node: NodeProto, values: list[Value]) -> Data:
    """A Conv node."""
    data = walk.chain_data(node, values[0], padded=True)
    channels, height, width = map_of(walk, node, data)
    weight, bias = (walk.constant(node, value) for value in (*values[1:], None)[:2])
    if weight is None or weight.ndim != data.probe.ndim:
        refuse(node, "its kernels have not as many axes as its input; check the exported graph")
    attributes = attributes_of(node)
    groups = attributes.get("group", 1)
    if groups * weight.shape[1] != channels:
        refuse(node, f"its kernels read {groups * weight.shape[1]} channels, but it gets {channels}")
    _check_dilations(node, attributes, weight.shape[2:], "train without, or use a larger kernel")
    kernel, stride = _pair(weight.shape[2:], 1), _pair(attributes.get("strides", [1] * (weight.ndim - 2)), 1)
    padded = (height + data.pads[0] + data.pads[2], width + data.pads[1] + data.pads[3])
    pads = _pads(attributes, padded, kernel, stride)
    pads = (pads[0] + data.pads[0], pads[1] + data.pads[1], pads[2] + data.pads[2], pads[3] + data.pads[3])
    shape = ConvShape(channels, height, width, weight.shape[0], kernel, stride, pads, groups)
    _check(node, shape)
    kernels = weight.astype(np.float64).reshape(shape.weight_shape)
    biases = np.zeros(shape.out_channels) if bias is None else bias.astype(np.float64)
    return _result(walk, Conv(walk.unique_name(node), shape, kernels, biases), data)


def _check(node: NodeProto, shape: ConvShape) -> None:
    problem = shape_problem(shape)
    if problem:
        refuse(node, problem)


def _check_dilations(node: NodeProto, attributes: dict[str, Any], kernel: tuple[int, ...], way_out: str) -> None:
    dilations = attributes.get("dilations", [1] * len(kernel))
    if any(dilation != 1 and side != 1 for dilation, side in zip(dilations, kernel, strict=True)):
        refuse(node, f"dilations {'x'.join(map(str, dilations))} are not supported; {way_out}")


def _pair(sides: Any, filler: int) -> tuple[int, int]:
    """(rows, columns); a 1-D node has columns only."""
    return (filler, int(sides[0])) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _pads(attributes: dict[str, Any], size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """The pads that the attributes ask for, on maps of ``size``."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = [_same(*axis, upper=auto == "SAME_UPPER") for axis in zip(size, kernel, stride, strict=True)]
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
    pads = attributes.get("pads", []) if auto == "NOTSET" else []
    return _four(pads) if pads else (0, 0, 0, 0)


def _four(pads: Any) -> Pads:
    """ONNX's pads of one or two axes, first all begins, then all ends."""
    return (0, pads[0], 0, pads[1]) if len(pads) == 2 else (pads[0], pads[1], pads[2], pads[3])


def _same(size: int, kernel: int, stride: int, upper: bool) -> tuple[int, int]:
    """Zeros before and after, such that the result is size / stride, rounded up, long."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    half = total // 2
    return (half, total - half) if upper else (total - half, half)


def pool(walk: Walk, node: NodeProto, value: Value) -> Data:
    """A pooling node; goes into the convolution before it, if that has none yet."""
    data = walk.chain_data(node, value)
    _, height, width = map_of(walk, node, data)
    window = (height, width) if node.op_type.startswith("Global") else _window(node, data, (height, width))
    if window == (1, 1) and not node.op_type.startswith("Global"):
        return data
    return _pooled(walk, node, data, POOLING[node.op_type], window)


def mean(walk: Walk, node: NodeProto, values: list[Value]) -> Data:
    """A ReduceMean node over all rows and columns, which is global average pooling."""
    data = walk.chain_data(node, values[0])
    _, height, width = map_of(walk, node, data)
    attributes = attributes_of(node)
    listed = walk.constant(node, values[1]) if len(values) > 1 else None
    axes = attributes.get("axes", []) if listed is None else listed.tolist()
    rank = data.probe.ndim
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        refuse(node, f"it takes the mean over axes {axes}; only that over all rows and columns of maps is supported")
    pooled = _pooled(walk, node, data, "average", (height, width))
    kept = attributes.get("keepdims", 1)
    return pooled if kept else replace(pooled, probe=pooled.probe.reshape(pooled.probe.shape[:2]))


def _pooled(walk: Walk, node: NodeProto, data: Data, kind: Pooling, window: tuple[int, int]) -> Data:
    """Pool with the convolution before, or with one of its own."""
    channels, height, width = map_of(walk, node, data)
    end = walk.layers[-1] if walk.layers else None
    if not (isinstance(end, Conv) and _reads(end) == (channels, height, width) and _takes(end, kind, window)):
        end = unit_conv(walk, node, (channels, height, width))
    else:
        walk.layers.pop()
    end = replace(end, shape=replace(end.shape, pooling=kind, pool_window=window))
    _check(node, end.shape)
    return _result(walk, end, data)


def _reads(end: Conv) -> Map:
    """The map that a layer behind ``end`` reads."""
    return end.shape.out_channels, end.shape.out_height, end.shape.out_width


def _takes(end: Conv, kind: Pooling, window: tuple[int, int]) -> bool:
    """Whether the pooling can be merged: there is no other, and a mean's factor passes the activation."""
    size = window[0] * window[1]
    factor = kind == "average" and size & (size - 1) and end.activation in ("sigmoid", "tanh")
    return end.shape.pooling == "none" and not factor


def _window(node: NodeProto, data: Data, size: tuple[int, int]) -> tuple[int, int]:
    """The pooling window of a MaxPool or AveragePool node on maps of ``size``."""
    attributes = attributes_of(node)
    sides = attributes.get("kernel_shape", [])
    if len(sides) != data.probe.ndim - 2:
        refuse(node, "its kernel_shape has not as many axes as its maps; check the exported graph")
    _check_dilations(node, attributes, tuple(sides), "pool without")
    kernel, stride = _pair(sides, 1), _pair(attributes.get("strides", [1] * len(sides)), 1)
    if kernel[0] == 1 and size[0] == 1:
        stride = (1, stride[1])  # says nothing on maps of one row
    pads = _pads(attributes, size, kernel, stride)
    plain = not any(pads)
    if plain and (kernel == size or (kernel == stride == (1, 1))):
        return kernel
    left = any(side % step for side, step in zip(size, stride, strict=True))
    square = kernel == stride == (2, 2) or (size[0] == 1 and kernel == stride == (1, 2))
    if not plain or not square or (left and attributes.get("ceil_mode", 0)):
        what = f"{kernel[0]}x{kernel[1]} with stride {stride[0]}x{stride[1]} and pads {pads}"
        refuse(node, f"it pools {what} on maps of {size[0]}x{size[1]}; only 2x2 (of one row: 1x2) with the same "
                     "stride, no padding and ceil_mode=0, or the whole map, is supported, so use one of these or a "
                     "convolution with stride 2")
    return kernel


def unit_conv(walk: Walk, node: NodeProto, size: Map) -> Conv:
    """A depthwise 1×1 convolution that changes nothing."""
    channels, height, width = size
    shape = ConvShape(channels, height, width, channels, (1, 1), groups=channels)
    _check(node, shape)
    return Conv(walk.unique_name(node), shape, np.ones(shape.weight_shape), np.zeros(channels))


def conv_end(walk: Walk, node: NodeProto, data: Data, through: tuple[Pooling, ...]) -> Conv | None:
    """Take the convolution off the chain's end if it has no activation yet and pooling is one of ``through``.

    Otherwise a new unit convolution, on maps and behind convolutions; None on other data.
    """
    end = walk.layers[-1] if walk.layers else None
    if isinstance(end, Conv):
        if end.activation == "identity" and end.shape.pooling in through:
            walk.layers.pop()
            return end
        return unit_conv(walk, node, _reads(end))
    is_map = walk.is_image and end is None and data.probe.ndim in (3, 4)
    return unit_conv(walk, node, map_of(walk, node, data)) if is_map else None


def activation(walk: Walk, node: NodeProto, data: Data, function: ConvActivation) -> Data | None:
    """An activation behind a convolution or on a map; None if it is neither. Maximum pooling lets it pass."""
    end = conv_end(walk, node, data, ("none", "max"))
    return None if end is None else walk.append(replace(end, activation=function), data.probe, data.width)


def clip(walk: Walk, node: NodeProto, values: list[Value]) -> Data:
    """A Clip node, which must be ReLU6."""
    attributes = attributes_of(node)
    bounds = [*values[1:], None, None][:2] if len(values) > 1 else [attributes.get(name) for name in ("min", "max")]
    numbers = [bound if bound is None else np.asarray(walk.constant(node, bound)) for bound in bounds]
    data = walk.chain_data(node, values[0])
    is_relu6 = all(number is not None and number.size == 1 and number.item() == bound
                   for number, bound in zip(numbers, (0, 6), strict=True))
    result = activation(walk, node, data, "relu6") if is_relu6 else None
    if result is None:
        refuse(node, "it is supported only from 0 to 6, as ReLU6, and behind a convolution; use ReLU instead")
    return result


def batch_norm(walk: Walk, node: NodeProto, values: list[Value]) -> Data:
    """A BatchNormalization node: a factor and an offset for each channel, put into the layer before it."""
    attributes = attributes_of(node)
    if attributes.get("training_mode", 0) or any(node.output[1:]):
        refuse(node, "its training mode is not off; export the model for inference")
    scale, offset, mean, variance = (_vector(walk, node, value) for value in values[1:5])
    gain = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    shift = offset - mean * gain
    data = walk.chain_data(node, values[0])
    if not (walk.is_image and data.probe.ndim > 2):
        return _dense_norm(walk, node, data, gain, shift)
    size = map_of(walk, node, data)
    end = conv_end(walk, node, data, ("none", "average"))
    if end is None or gain.shape != (size[0],) or _reads(end) != size:
        refuse(node, f"it is for {gain.size} channels, but its input has {size[0]}, or is no feature map")
    return walk.append(scaled(end, gain, shift), data.probe, data.width)


def add(walk: Walk, node: NodeProto, data: Data, constant: np.ndarray) -> Data:
    """An Add of one number, or one for each channel, to a map."""
    size = map_of(walk, node, data)
    shape = (1,) * (data.probe.ndim - constant.ndim) + constant.shape
    if constant.size != 1 and (constant.size != size[0] or len(shape) < 2 or shape[1] != size[0]):
        refuse(node, f"the constant that it adds has shape {constant.shape}, but must be one number, or one for each "
                     f"of the {size[0]} channels")
    end = conv_end(walk, node, data, ("none", "max", "average"))
    if end is None or _reads(end) != size:
        refuse(node, "its input is not the map that the convolution before it made; add before reshaping")
    shift = np.broadcast_to(constant.astype(np.float64).ravel(), (size[0],))
    return walk.append(replace(end, bias=end.bias + shift), data.probe, data.width)


def scaled(layer: Conv, gain: np.ndarray, shift: np.ndarray) -> Conv:
    """The layer with its sums multiplied by ``gain`` (out_channels,) and increased by ``shift``."""
    return replace(layer, weight=layer.weight * gain[:, None, None, None], bias=layer.bias * gain + shift)


def _dense_norm(walk: Walk, node: NodeProto, data: Data, gain: np.ndarray, shift: np.ndarray) -> Data:
    data = walk.check_features(node, data)
    if data.probe.ndim != 2:  # ONNX takes axis 1 for the channels, which is time here
        refuse(node, "it normalises time steps, not features; export the network without it, or for rows of features")
    if gain.shape != (data.width,):
        refuse(node, f"it is for {gain.size} features, but gets {data.width}")
    end, data = walk.linear_end(node, data)
    layer: Dense = replace(end, weight=end.weight * gain[:, None], bias=end.bias * gain + shift)
    return walk.extend(layer, data, data.width)


def _vector(walk: Walk, node: NodeProto, value: Value) -> np.ndarray:
    array = walk.constant(node, value)
    if array is None or array.ndim != 1:
        refuse(node, "its scale, bias, mean and variance are not all constant vectors")
    return array.astype(np.float64)


def pad(walk: Walk, node: NodeProto, values: list[Value]) -> Data:
    """A Pad node of zeros at the edges of maps, which the convolution behind it takes over."""
    data = walk.chain_data(node, values[0], padded=True)
    map_of(walk, node, data)
    attributes, rank = attributes_of(node), data.probe.ndim
    mode = attributes.get("mode", b"constant").decode()
    rest = [walk.constant(node, value) for value in (*values[1:], None, None, None)[:3]]
    pads = attributes.get("pads") if rest[0] is None else rest[0].tolist()
    fill = attributes.get("value", 0.0) if rest[1] is None else rest[1].item()
    axes = [int(axis) % rank for axis in (range(rank) if rest[2] is None else rest[2].tolist())]
    if mode != "constant" or fill != 0 or pads is None:
        refuse(node, f"it pads in mode {mode!r} with {fill:g}; only zeros (mode constant, value 0) are supported")
    begins, ends = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes):], strict=False))
    edges = [(begins.get(axis, 0), ends.get(axis, 0)) for axis in range(rank)]
    if any(any(edge) for edge in edges[:2]) or any(side < 0 for edge in edges for side in edge):
        refuse(node, "it pads steps or channels, or cuts something off; only zeros at the edges of maps are supported")
    spatial = edges[2:] if rank == 4 else [(0, 0), *edges[2:]]
    more = (spatial[0][0], spatial[1][0], spatial[0][1], spatial[1][1])
    top, left, bottom, right = (old + new for old, new in zip(data.pads, more, strict=True))
    return replace(data, pads=(top, left, bottom, right))
