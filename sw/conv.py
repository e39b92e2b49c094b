"""Convolution in floating point: the layer, its checks, and the sums and pooling that the golden model shares.

The sums are float64 matrix products of the map's windows. For the integers of the arithmetic contract they are
exact: every sum under way is an integer below 2**7 · 2**16 · 4095 · 49, far below 2**53.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .conv_layout import MAX_CHANNELS, MAX_KERNEL, MAX_SIDE
from .convolution import ConvShape
from .errors import AmacrineError

ConvActivation = Literal["identity", "relu", "relu6", "sigmoid", "tanh"]
MAX_PAD = 15  # fits into the 4 bits of a descriptor
CHUNK = 1 << 21  # elements of windows and sums made at once; bounds the memory, changes no result


@dataclass(frozen=True, eq=False)
class Conv:
    """y = pooling(activation(weight * x + bias)): one map a step, each step by itself.

    Reads and makes flattened (channels, height, width) vectors.

    Parameters
    ----------
    name : layer name, unique in its network
    shape : the geometry, pooling included
    weight : (out_channels, in_channels / groups, kernel height, kernel width)
    bias : (out_channels,)
    activation : ``identity``, ``relu``, ``relu6``, ``sigmoid`` or ``tanh``
    """

    name: str
    shape: ConvShape
    weight: np.ndarray
    bias: np.ndarray
    activation: ConvActivation = "identity"


def is_global(shape: ConvShape) -> bool:
    """Whether the pooling's window is the whole map."""
    return shape.pooling != "none" and shape.pool_window == (shape.conv_height, shape.conv_width)


def pool_size(shape: ConvShape) -> int:
    """Results in a pooling window."""
    return shape.pool_window[0] * shape.pool_window[1]


def pool_shift(shape: ConvShape) -> int:
    """k of the contract: 2^k is the pooling window's size, rounded up to a power of two."""
    return (pool_size(shape) - 1).bit_length()


def check_shape(name: str, shape: ConvShape) -> None:
    """Refuse a geometry that no convolution here has, by AmacrineError that names the layer and the way out."""
    problem = shape_problem(shape)
    if problem:
        raise AmacrineError(f"layer {name!r}: {problem}")


def shape_problem(shape: ConvShape) -> str | None:
    """What is wrong with a geometry, and the way out; None if nothing is."""
    return _size_problem(shape) or _pooling_problem(shape)


def _size_problem(s: ConvShape) -> str | None:
    sizes = (("input channels", s.in_channels, MAX_CHANNELS), ("output channels", s.out_channels, MAX_CHANNELS),
             ("input rows", s.in_height, MAX_SIDE), ("input columns", s.in_width, MAX_SIDE))
    for what, size, most in sizes:
        if not 1 <= size <= most:
            return f"it has {size} {what}, but must have 1 to {most}"
    if not all(1 <= side <= MAX_KERNEL for side in s.kernel):
        return f"its kernel is {_by(s.kernel)}; sides must be 1 to {MAX_KERNEL}, so split it or use a smaller one"
    if not all(step in (1, 2) for step in s.stride):
        return f"its stride is {_by(s.stride)}; it must be 1 or 2 along each axis, so use pooling for more"
    if not all(0 <= pad <= MAX_PAD for pad in s.pads):
        return f"its pads are {s.pads}; each must be 0 to {MAX_PAD}"
    if s.groups < 1 or s.in_channels % s.groups or s.out_channels % s.groups:
        return (f"{s.groups} groups do not divide its {s.in_channels} input and {s.out_channels} output channels; "
                "choose a number that divides both")
    if not all(1 <= side <= MAX_SIDE for side in (s.conv_height, s.conv_width)):
        return (f"its result has {s.conv_height} rows and {s.conv_width} columns before pooling, but must have 1 to "
                f"{MAX_SIDE} of each; change kernel or pads")
    return None


def _pooling_problem(s: ConvShape) -> str | None:
    if s.pooling not in ("none", "max", "average"):
        return f"pooling {s.pooling!r} is not supported; choose none, max or average"
    if s.pooling == "none":
        return None if s.pool_window == (1, 1) else f"it has a pooling window of {_by(s.pool_window)}, but no pooling"
    row = s.conv_height == 1 and s.pool_window == (1, 2)
    if not (is_global(s) or s.pool_window == (2, 2) or row):
        return (f"its pooling window is {_by(s.pool_window)} on maps of {s.conv_height}x{s.conv_width}; it must be "
                "2x2, 1x2 for maps of one row, or the whole map")
    if s.out_height < 1 or s.out_width < 1:
        return f"its pooling window of {_by(s.pool_window)} does not fit into maps of {s.conv_height}x{s.conv_width}"
    return None


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def windows(shape: ConvShape, x: np.ndarray) -> np.ndarray:
    """What the kernels meet: maps (T, n_inputs) to (T, groups, k, positions).

    k is a kernel's elements, in the order of ``weight.reshape(out_channels, k)``; positions are row by row.
    """
    top, left, bottom, right = shape.pads
    maps = x.reshape(len(x), shape.in_channels, shape.in_height, shape.in_width)
    padded = np.pad(maps, ((0, 0), (0, 0), (top, bottom), (left, right)))
    view = sliding_window_view(padded, shape.kernel, axis=(2, 3))[:, :, :: shape.stride[0], :: shape.stride[1]]
    elements = shape.in_channels // shape.groups * shape.kernel[0] * shape.kernel[1]
    positions = shape.conv_height * shape.conv_width
    return view.transpose(0, 1, 4, 5, 2, 3).reshape(len(x), shape.groups, elements, positions)


def conv_sums(shape: ConvShape, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sums over the kernel windows, no bias: (T, n_inputs) to float64 (T, out_channels, conv_height, conv_width)."""
    grouped = weight.astype(np.float64).reshape(shape.groups, shape.out_channels // shape.groups, -1)
    products = grouped @ windows(shape, x.astype(np.float64))
    return products.reshape(len(x), shape.out_channels, shape.conv_height, shape.conv_width)


def chunks(shape: ConvShape, steps: int) -> Iterator[slice]:
    """Steps to compute at once, in order."""
    kernel = shape.in_channels * shape.kernel[0] * shape.kernel[1]
    chunk = max(1, CHUNK // ((kernel + shape.out_channels) * shape.conv_height * shape.conv_width))
    yield from (slice(start, min(start + chunk, steps)) for start in range(0, steps, chunk))


def pool_windows(shape: ConvShape, y: np.ndarray) -> np.ndarray:
    """Pooling windows side by side: (T, channels, conv_height, conv_width) to (T, channels, rows, columns, size).

    Rows and columns that do not fill a window are left out.
    """
    high, wide = shape.pool_window
    y = y[:, :, : shape.out_height * high, : shape.out_width * wide]
    split = y.reshape(*y.shape[:2], shape.out_height, high, shape.out_width, wide)
    return split.transpose(0, 1, 2, 4, 3, 5).reshape(*y.shape[:2], shape.out_height, shape.out_width, high * wide)


def pool_float(shape: ConvShape, y: np.ndarray) -> np.ndarray:
    """Activation results (T, channels, conv_height, conv_width) to flattened result maps (T, n_outputs)."""
    if shape.pooling != "none":
        parts = pool_windows(shape, y)
        y = parts.max(axis=-1) if shape.pooling == "max" else parts.mean(axis=-1)
    return y.reshape(len(y), shape.n_outputs)


def reach(shape: ConvShape) -> np.ndarray:
    """Multiplications that each input takes part in, int64 (n_inputs,): kernel positions within the result, times the
    output channels of its group."""
    sides = (
        _axis_reach(shape.in_height, shape.kernel[0], shape.stride[0], shape.pads[0], shape.conv_height),
        _axis_reach(shape.in_width, shape.kernel[1], shape.stride[1], shape.pads[1], shape.conv_width),
    )
    positions = np.outer(*sides).reshape(-1) * (shape.out_channels // shape.groups)
    return np.tile(positions, shape.in_channels)


def _axis_reach(size: int, kernel: int, stride: int, pad: int, out: int) -> np.ndarray:
    """Outputs along one axis that each input coordinate belongs to, int64 (size,)."""
    first = np.arange(out) * stride - pad  # the input coordinate that each output's window starts at
    inside = np.arange(size)[:, None] - first
    return np.count_nonzero((inside >= 0) & (inside < kernel), axis=1)
