"""Layers in the integers of the arithmetic contract (docs/arithmetic.md): weights, formats, thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from .conv import ConvActivation, pool_shift, pool_size
from .convolution import ConvShape
from .fixed import ACTIVATION_BITS, PRE_FRAC, STATE_FRAC, requantise, signed_range
from .network import Activation

Encoder = Literal["delta", "threshold"]
BOUNDED = ("sigmoid", "tanh")  # activations of Dense and Conv that need pre-activations and stay within -1 to 1


class Range(NamedTuple):
    """Least and greatest value of a vector's elements, in LSBs; always contains 0."""

    low: int
    high: int


FULL_RANGE = Range(*signed_range(ACTIVATION_BITS))


@dataclass(frozen=True, eq=False)
class Source:
    """Weights of a layer for one of the vectors it reads, and how that vector becomes events.

    Parameters
    ----------
    weight : int8 (rows, n), rows gate by gate in PyTorch's order (GRU r, z, n; LSTM i, f, g, o)
    weight_frac, input_frac : fractional bits of the weights and of the vector
    encoder : ``delta`` (stateful) or ``threshold`` (stateless)
    theta : threshold in LSBs of the vector, 0 to 65535
    rectify : the encoder reads max(x, 0) instead of x; of Dense layers only
    """

    weight: np.ndarray
    weight_frac: int
    input_frac: int
    encoder: Encoder
    theta: int
    rectify: bool = False

    @property
    def scale(self) -> int:
        """Fractional bits S of the partial sums."""
        return self.weight_frac + self.input_frac

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def n(self) -> int:
        """Length of the vector, the number of columns."""
        return self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class ConvSource(Source):
    """A convolution's kernels, int8 (out_channels, in_channels / groups, height, width).

    Its events are the inputs that are not zero.
    """

    n_inputs: int = 0
    n_sums: int = 0

    @property
    def rows(self) -> int:
        """Partial sums, all positions counted."""
        return self.n_sums

    @property
    def n(self) -> int:
        """Length of the flattened input map."""
        return self.n_inputs


@dataclass(frozen=True, eq=False)
class QDense:
    """Fully connected layer; ``bias`` int32 (rows,)."""

    name: str
    input: Source
    bias: np.ndarray
    activation: Activation
    output_frac: int

    input_gates: ClassVar[tuple[int, ...]] = (0,)
    gates: ClassVar[int] = 1

    @property
    def size(self) -> int:
        """Length of the output vector."""
        return self.input.rows

    @property
    def output_range(self) -> Range:
        return _function_range(self.activation, self.output_frac)


@dataclass(frozen=True, eq=False)
class QConv:
    """Convolution with its pooling.

    Parameters
    ----------
    shape : the geometry
    weight : int8 (out_channels, in_channels / groups, kernel height, kernel width)
    weight_frac, input_frac : fractional bits of the weights and of the input map
    bias : int32 (out_channels,)
    activation : identity, relu, relu6, sigmoid or tanh
    output_frac : fractional bits of the result. Behind average pooling, weights and bias have been multiplied by
        2^k / size, so that shifting the sum of a window right by k gives its mean.
    """

    name: str
    shape: ConvShape
    weight: np.ndarray
    weight_frac: int
    input_frac: int
    bias: np.ndarray
    activation: ConvActivation
    output_frac: int

    input_gates: ClassVar[tuple[int, ...]] = (0,)
    gates: ClassVar[int] = 1

    @cached_property
    def input(self) -> ConvSource:
        """The kernels and the map they meet, as other layers have them."""
        s = self.shape
        sums = s.out_channels * s.conv_height * s.conv_width
        return ConvSource(self.weight, self.weight_frac, self.input_frac, "threshold", 0, False, s.n_inputs, sums)

    @property
    def scale(self) -> int:
        """Fractional bits S of the partial sums."""
        return self.weight_frac + self.input_frac

    @property
    def size(self) -> int:
        """Length of the flattened result map."""
        return self.shape.n_outputs

    @property
    def ceiling(self) -> int:
        """Greatest result before pooling, in LSBs: 6 for ReLU6, with average pooling's factor; else 32767."""
        if self.activation != "relu6":
            return FULL_RANGE.high
        size = pool_size(self.shape) if self.shape.pooling == "average" else 1
        six = 6 << self.output_frac << (pool_shift(self.shape) if size > 1 else 0)
        return min((2 * six + size) // (2 * size), FULL_RANGE.high)

    @property
    def output_range(self) -> Range:
        if self.activation == "relu6":
            return Range(0, self.ceiling)
        return _function_range(self.activation, self.output_frac)


def _function_range(activation: str, output_frac: int) -> Range:
    """Results of an activation other than ReLU6; pooling cannot leave it."""
    if activation in BOUNDED:
        one = min(1 << output_frac, FULL_RANGE.high)
        return Range(0 if activation == "sigmoid" else -one, one)
    return Range(0, FULL_RANGE.high) if activation == "relu" else FULL_RANGE


@dataclass(frozen=True, eq=False)
class QGRU:
    """Gated recurrent unit.

    Parameters
    ----------
    bias : int32 (4, H), rows r, z, n_x, n_h
    output_frac : fractional bits of the output vector h, which is also the recurrent source's input
    initial_s : int16 (H,), the state at the start of a sequence, 15 fractional bits
    """

    name: str
    input: Source
    recurrent: Source
    bias: np.ndarray
    output_frac: int
    initial_s: np.ndarray

    #: rows of ``bias`` (and of the partial sums) that the gates of each source are added to
    input_gates: ClassVar[tuple[int, ...]] = (0, 1, 2)
    recurrent_gates: ClassVar[tuple[int, ...]] = (0, 1, 3)
    gates: ClassVar[int] = 3

    @property
    def size(self) -> int:
        """Length of the output vector, H."""
        return self.recurrent.n

    @property
    def initial_h(self) -> np.ndarray:
        """The output vector at the start of a sequence, int64 (H,)."""
        return requantise(self.initial_s, STATE_FRAC - self.output_frac, ACTIVATION_BITS)

    @property
    def output_range(self) -> Range:
        # h lies between n and the last h, both within -1 to 1; s = -32768 is exactly -1
        return Range(-(1 << self.output_frac), min(1 << self.output_frac, FULL_RANGE.high))


@dataclass(frozen=True, eq=False)
class QLSTM:
    """Long short-term memory.

    Parameters
    ----------
    bias : int32 (4, H), rows i, f, g, o
    output_frac, cell_frac : fractional bits of the output vector h and of the state c
    initial_h, initial_c : int16 (H,), at the start of a sequence, in these two formats
    """

    name: str
    input: Source
    recurrent: Source
    bias: np.ndarray
    output_frac: int
    cell_frac: int
    initial_h: np.ndarray
    initial_c: np.ndarray

    input_gates: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    recurrent_gates: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    gates: ClassVar[int] = 4

    @property
    def size(self) -> int:
        """Length of the output vector, H."""
        return self.recurrent.n

    @property
    def output_range(self) -> Range:
        one = 1 << self.output_frac  # |o * tanh(c)| <= 1; only a sequence's initial h may be larger
        low, high = int(self.initial_h.min()), int(self.initial_h.max())
        return Range(min(-one, low), max(min(one, FULL_RANGE.high), high))


QLayer = QDense | QGRU | QLSTM | QConv


class Job(NamedTuple):
    """The columns of one source: what the column engine works through in one step."""

    layer: QLayer
    source: Source
    gates: tuple[int, ...]  # rows of the layer's partial sums that the columns are added to

    @property
    def height(self) -> int:
        """Rows of one gate."""
        return self.source.rows // len(self.gates)


def layer_jobs(layer: QLayer) -> dict[str, Job]:
    """The jobs of a layer, ``<layer>.input`` and, for a recurrent one, ``<layer>.recurrent``."""
    jobs = {f"{layer.name}.input": Job(layer, layer.input, layer.input_gates)}
    if isinstance(layer, QGRU | QLSTM):
        jobs[f"{layer.name}.recurrent"] = Job(layer, layer.recurrent, layer.recurrent_gates)
    return jobs


def result_frac(layer: QLayer) -> int:
    """Fractional bits that the layer's partial sums are requantised to."""
    linear = isinstance(layer, QDense | QConv) and layer.activation not in BOUNDED
    return layer.output_frac if linear else PRE_FRAC


def gate_rows(gates: tuple[int, ...], height: int) -> np.ndarray:
    """Rows of the flattened partial sums (gates, height) that belong to ``gates``, in their order."""
    return (np.array(gates)[:, None] * height + np.arange(height)).reshape(-1)
