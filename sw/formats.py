"""Choice of fixed-point formats: fractional bits of every vector and weight, chosen together.

They depend on each other, because the two sources of a recurrent layer need partial sums of one scale, and
the output of a layer is the input of the next. The rule:

1. A vector gets at most the fractional bits (8 to 15) with which HEADROOM times its calibration maximum
   fits; a vector bounded by its activation (sigmoid, tanh, GRU, LSTM) need only hold 1.0. If not even the
   fewest leave that headroom, they are taken as long as the calibration maximum itself fits. An LSTM's state
   c follows the same rule with 8 to 12.
2. The noise of a source, given the fractional bits of its weights and of its vector, is predicted as
   Σ (W − Ŵ)²·E[x²] + Σ W²·LSB²/12, with Ŵ rounded to the nearest of 8 bits; its signal is Σ W²·E[x²].
3. Of all formats with which the layers can be built (the shifts of the contract, one scale in a recurrent
   layer, no partial sum that can overflow), those with the least noise / signal, summed over the layers, are
   taken. The layers form a chain, so dynamic programming over the formats of its vectors finds them.
4. The weights are then rounded as ``rounding.py`` describes.

For a convolution, x in all this are the windows of its input that the kernels meet. Behind average pooling over a
window whose size is no power of two, its weights and bias are first multiplied by what the shift lacks for a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .conv import Conv, pool_shift, pool_size
from .errors import AmacrineError
from .fixed import (
    ACTIVATION_BITS,
    ACTIVATION_FRACS,
    CELL_FRACS,
    PRE_FRAC,
    PSUM_BITS,
    SHIFTS,
    STATE_BITS,
    STATE_FRAC,
    WEIGHT_BITS,
    from_fixed,
    signed_range,
    to_fixed,
)
from .network import CONV_ACTIVATIONS, GRU, LSTM, Dense, Layer, LayerTrace, Network
from .qcheck import check_layer
from .qlayers import BOUNDED, FULL_RANGE, QGRU, QLSTM, QConv, QDense, QLayer, Source
from .rounding import round_kernels, round_weights, sample_windows

HEADROOM = 2.0  # other recordings than the calibration's may be louder
CLIPPED = 3  # candidates for weights go so many bits beyond the most that clip none,
SPARED = 6  # and so many below, but down to MIN_WEIGHT_FRAC in any case, so that tiny weights are no obstacle
MIN_WEIGHT_FRAC = PRE_FRAC - ACTIVATION_FRACS[0]
MAX_WEIGHT_FRAC = PRE_FRAC + SHIFTS[-1] - ACTIVATION_FRACS[0]


class Chain(NamedTuple):
    """The first layers of the network in some formats, and their predicted noise."""

    noise: float
    layers: tuple[QLayer, ...]


class Plan(NamedTuple):
    """Formats of one layer, all in fractional bits, and their predicted noise."""

    input_frac: int
    output_frac: int
    scale: int  # of the partial sums
    noise: float


def choose_formats(network: Network, calibration: np.ndarray) -> tuple[QLayer, ...]:
    """The layers in the formats that the rule above selects, with all encoders ``delta`` and thresholds 0.

    Parameters
    ----------
    network : in floating point
    calibration : (T, n_inputs), one sequence of typical input vectors

    Raises
    ------
    AmacrineError
        naming the first layer for which no formats exist, and why not
    """
    trace = network.trace(calibration)
    vectors = network.check_input(calibration)
    input_frac = most_frac(np.abs(vectors).max(), HEADROOM, ACTIVATION_FRACS, "the network's input")
    best = {frac: Chain(0.0, ()) for frac in _up_to(input_frac)}  # by the last vector's fractional bits
    for layer in network.layers:
        best = _Planner(layer, vectors, trace[layer.name]).extend(best)
        vectors = trace[layer.name].output
    last_power = np.mean(vectors**2) or 1.0  # so that the last vector's own rounding counts, too
    return min(best.items(), key=lambda item: item[1].noise + _rounding(item[0]) / last_power)[1].layers


def most_frac(peak: float, headroom: float, allowed: range, what: str) -> int:
    """The most fractional bits with which 16 bits hold ``headroom * peak``, or at least ``peak``."""
    def fits(value: float, frac: int) -> bool:
        return value <= 2.0 ** (ACTIVATION_BITS - 1 - frac)

    if not fits(peak, allowed[0]):
        limit = 2.0 ** (ACTIVATION_BITS - 1 - allowed[0])
        raise AmacrineError(f"{what} reaches {peak:g} on the calibration data; at most {limit:g} can be held")
    return max((frac for frac in allowed if fits(headroom * peak, frac)), default=allowed[0])


class _Planner:
    """The possible formats of one layer.

    Parameters
    ----------
    layer : the layer in floating point
    x : its input vectors on calibration data, (T, n)
    trace : what it did with them
    """

    def __init__(self, layer: Layer, x: np.ndarray, trace: LayerTrace):
        self.layer = layer
        if isinstance(layer, Conv):
            self.layer = layer = fold_pooling(layer)
            self.output_frac = self._conv_output_frac(layer, trace)
            self.sources: list[_Weights | _Kernels] = [_Kernels(layer, x)]
            self.signal = self.sources[0].signal or 1.0
            return
        self.output_frac = self._output_frac(trace.output)
        if isinstance(layer, LSTM) and trace.cell is not None:
            peak = max(np.abs(trace.cell).max(), np.abs(layer.initial_c).max())
            self.cell_frac = most_frac(peak, HEADROOM, CELL_FRACS, f"the state c of layer {layer.name!r}")
        if isinstance(layer, Dense) and layer.input_activation == "relu":
            x = np.maximum(x, 0.0)
        self.sources = [
            _Weights(weight, vectors)
            for weight, vectors in zip(layer_weights(layer), (x, trace.output), strict=False)
        ]
        self.signal = sum(source.signal for source in self.sources) or 1.0

    def _output_frac(self, y: np.ndarray) -> int:
        what = f"the output of layer {self.layer.name!r}"
        if isinstance(self.layer, Dense) and self.layer.activation not in BOUNDED:
            return most_frac(np.abs(y).max(), HEADROOM, ACTIVATION_FRACS, what)
        initial = float(np.abs(self.layer.initial_h).max()) if isinstance(self.layer, LSTM) else 0.0
        return most_frac(max(1.0, initial), 1.0, ACTIVATION_FRACS, what)

    def _conv_output_frac(self, layer: Conv, trace: LayerTrace) -> int:
        """Fractional bits that hold the results before pooling, from the ranges of the partial sums."""
        what = f"the output of layer {layer.name!r}"
        if layer.activation in BOUNDED:
            return most_frac(1.0, 1.0, ACTIVATION_FRACS, what)
        ends = CONV_ACTIVATIONS[layer.activation](np.stack([trace.psum_min, trace.psum_max]))  # all monotone
        peak = float(np.abs(ends).max()) * pool_factor(layer)
        if layer.activation == "relu6":
            return most_frac(min(HEADROOM * peak, 6.0 * pool_factor(layer)), 1.0, ACTIVATION_FRACS, what)
        return most_frac(peak, HEADROOM, ACTIVATION_FRACS, what)

    def extend(self, best: dict[int, Chain]) -> dict[int, Chain]:
        """The best chains with this layer added, for each format of its output."""
        longer = {}
        reason = "no format of its weights gives partial sums of an allowed scale"
        for output_frac in _up_to(self.output_frac):
            options = [
                (chain.noise + plan.noise, plan, chain.layers)
                for input_frac, chain in best.items()
                for plan in self.plans(input_frac, output_frac)
            ]
            for noise, plan, layers in sorted(options, key=lambda option: option[0]):
                try:
                    longer[output_frac] = Chain(noise, (*layers, self.build(plan, layers)))
                    break
                except AmacrineError as error:
                    reason = str(error)
        if not longer:
            raise AmacrineError(f"no fixed-point formats fit layer {self.layer.name!r}: {reason}")
        return longer

    def plans(self, input_frac: int, output_frac: int) -> Iterator[Plan]:
        """Formats with these two vectors, an allowed shift and one scale of partial sums."""
        fracs = (input_frac, output_frac)[: len(self.sources)]
        for scale in _scales(self.layer, output_frac):
            if all(scale - frac in source.noise for source, frac in zip(self.sources, fracs, strict=True)):
                noise = sum(
                    source.noise[scale - frac] + source.energy * _rounding(frac)
                    for source, frac in zip(self.sources, fracs, strict=True)
                )
                yield Plan(input_frac, output_frac, scale, noise / self.signal)

    def build(self, plan: Plan, layers: tuple[QLayer, ...]) -> QLayer:
        """The layer in the formats of ``plan``, checked, behind the ``layers`` before it."""
        bias = _bias(self.layer)
        sources = []
        rectify = isinstance(self.layer, Dense) and self.layer.input_activation == "relu"
        for source, frac, gates in zip(
            self.sources, (plan.input_frac, plan.output_frac), _gates(self.layer), strict=False
        ):
            rounded, bias_change = source.rounded(plan.scale - frac)
            bias[list(gates)] += bias_change.reshape(len(gates), -1)
            sources.append(Source(rounded, plan.scale - frac, frac, "delta", 0, rectify))
        layer = self._assemble(plan, sources, _fixed_bias(bias, plan.scale))
        vector_range = layers[-1].output_range if layers else FULL_RANGE
        check_layer(layer, layer.input.n, plan.input_frac, vector_range)
        return layer

    def _assemble(self, plan: Plan, sources: list[Source], bias: np.ndarray) -> QLayer:
        layer, f = self.layer, plan.output_frac
        if isinstance(layer, Conv):
            kernels = sources[0]
            return QConv(layer.name, layer.shape, kernels.weight, kernels.weight_frac, kernels.input_frac,
                         bias.reshape(-1), layer.activation, f)
        if isinstance(layer, Dense):
            return QDense(layer.name, sources[0], bias.reshape(-1), layer.activation, f)
        if isinstance(layer, GRU):  # an initial state beyond -1 to 1 saturates, as the contract says
            return QGRU(layer.name, sources[0], sources[1], bias, f, _state(layer.initial_h, STATE_FRAC))
        initial = _state(layer.initial_h, f), _state(layer.initial_c, self.cell_frac)
        return QLSTM(layer.name, sources[0], sources[1], bias, f, self.cell_frac, *initial)


class _Weights:
    """One source's weights (rows, n) and the vectors ``x`` (T, n) they meet on calibration data."""

    def __init__(self, weight: np.ndarray, x: np.ndarray):
        self.weight, self.x = weight, x
        power = np.mean(x**2, axis=0)
        self.energy = float(np.sum(weight**2))
        self.signal = float(np.sum(weight**2 @ power))
        #: predicted noise by fractional bits of the weights, for all candidates
        self.noise: dict[int, float] = {}
        for frac in _weight_fracs(float(np.abs(weight).max())):
            error = weight - from_fixed(to_fixed(weight, frac, WEIGHT_BITS), frac)
            self.noise[frac] = float(np.sum(error**2 @ power))
        self._rounded: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def rounded(self, frac: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights and change of the bias, see ``round_weights``; kept, as many plans ask for the same."""
        if frac not in self._rounded:
            self._rounded[frac] = round_weights(self.weight, frac, self.x)
        return self._rounded[frac]


class _Kernels:
    """A convolution's kernels and the windows they meet on calibration maps ``x`` (T, n); otherwise like `_Weights`."""

    def __init__(self, layer: Conv, x: np.ndarray):
        self.shape, self.weight = layer.shape, layer.weight
        self.windows = sample_windows(layer.shape, x)
        power = np.mean(self.windows**2, axis=1)
        self.energy = float(np.sum(self.weight**2))
        self.signal = self._on_windows(self.weight, power)
        self.noise: dict[int, float] = {}
        for frac in _weight_fracs(float(np.abs(self.weight).max())):
            error = self.weight - from_fixed(to_fixed(self.weight, frac, WEIGHT_BITS), frac)
            self.noise[frac] = self._on_windows(error, power)
        self._rounded: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _on_windows(self, weight: np.ndarray, power: np.ndarray) -> float:
        """Power of the sums that such weights make, from the power (groups, k) of the windows' elements."""
        return float(np.sum(weight.reshape(len(power), -1, power.shape[1]) ** 2 * power[:, None]))

    def rounded(self, frac: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights and change of the bias, see ``round_kernels``; kept, as many plans ask for the same."""
        if frac not in self._rounded:
            self._rounded[frac] = round_kernels(self.shape, self.weight, frac, self.windows)
        return self._rounded[frac]


def pool_factor(layer: Conv) -> float:
    """What a shifted sum over the layer's pooling window lacks for a mean: 2^k / size; 1 unless it averages."""
    return 2.0 ** pool_shift(layer.shape) / pool_size(layer.shape) if layer.shape.pooling == "average" else 1.0


def fold_pooling(layer: Conv) -> Conv:
    """The layer with ``pool_factor`` in its weights and bias.

    AmacrineError for an activation that would not let the factor pass.
    """
    factor = pool_factor(layer)
    if factor == 1.0:
        return layer
    if layer.activation in BOUNDED:
        raise AmacrineError(f"layer {layer.name!r} averages windows of {pool_size(layer.shape)} results of "
                            f"{layer.activation}; behind {layer.activation} a window's size must be a power of two, so "
                            "change the size of its maps, use maximum pooling, or ReLU")
    return replace(layer, weight=layer.weight * factor, bias=layer.bias * factor)


def layer_weights(layer: Layer) -> list[np.ndarray]:
    """Weights of a layer's sources: the input's and, in a recurrent layer, the recurrent ones.

    Those of a convolution have ``pool_factor`` in them.
    """
    if isinstance(layer, Conv):
        return [fold_pooling(layer).weight]
    return [layer.weight] if isinstance(layer, Dense) else [layer.weight_ih, layer.weight_hh]


def _up_to(most: int) -> range:
    """Allowed fractional bits of a vector, most first."""
    return range(most, ACTIVATION_FRACS[0] - 1, -1)


def _weight_fracs(largest: float) -> range:
    """Candidates for the fractional bits of weights up to ``largest``."""
    if not largest:
        return range(MIN_WEIGHT_FRAC, MAX_WEIGHT_FRAC + 1)
    unclipped = math.floor(math.log2(signed_range(WEIGHT_BITS)[1] / largest))
    least = min(unclipped - SPARED, MIN_WEIGHT_FRAC)
    return range(least, min(unclipped + CLIPPED, MAX_WEIGHT_FRAC) + 1)


def _rounding(frac: int) -> float:
    """Power of the error of rounding to ``frac`` fractional bits."""
    return 4.0**-frac / 12


def _scales(layer: Layer, output_frac: int) -> range:
    """Scales of partial sums from which the layer can shift right to what it needs, finest bias first."""
    linear = isinstance(layer, Dense | Conv) and layer.activation not in BOUNDED
    least = output_frac if linear else PRE_FRAC
    return range(least + SHIFTS[-1], least + SHIFTS[0] - 1, -1)


def _gates(layer: Layer) -> list[tuple[int, ...]]:
    """Rows of the bias (gates, H) that each source's gates are added to."""
    if isinstance(layer, Dense | Conv):
        return [QDense.input_gates]
    quantised = QGRU if isinstance(layer, GRU) else QLSTM
    return [quantised.input_gates, quantised.recurrent_gates]


def _bias(layer: Layer) -> np.ndarray:
    """A new array with the layer's bias in the rows of its partial sums, float64 (1 or 4, H)."""
    if isinstance(layer, GRU):
        (r, z, n), (hr, hz, hn) = layer.bias_ih.reshape(3, -1), layer.bias_hh.reshape(3, -1)
        return np.stack([r + hr, z + hz, n, hn])
    return layer.bias.reshape(4 if isinstance(layer, LSTM) else 1, -1).astype(np.float64)


def _fixed_bias(bias: np.ndarray, scale: int) -> np.ndarray:
    magnitude = np.abs(bias) * 2.0**scale
    if magnitude.max() >= signed_range(PSUM_BITS)[1]:
        row = int(magnitude.argmax())
        raise AmacrineError(f"the bias of row {row}, {bias.flat[row]:g}, is more than {PSUM_BITS} bits hold")
    return to_fixed(bias, scale, PSUM_BITS).astype(np.int32)


def _state(value: np.ndarray, frac: int) -> np.ndarray:
    return to_fixed(value, frac, STATE_BITS).astype(np.int16)
