"""Rounding of weights to 8 bits such that the partial sums, not the weights, change least.

Rounding each weight to the nearest value ignores that the elements of a vector go together. Here the columns
are rounded one after the other, and what one column's rounding changes in the partial sums is made up for by
the columns not yet rounded, as far as the calibration vectors let them: the method of E. Frantar et al.,
"GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023. What remains
on average is taken up by the bias (M. Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019).
"""

from __future__ import annotations

import numpy as np

from .conv import windows
from .convolution import ConvShape
from .fixed import WEIGHT_BITS, from_fixed, to_fixed

#: Share of the vectors' mean variance that is added to each element's own: the more, the less is trusted to
#: correlations that the calibration data may show only by chance. Chosen on data that was held out.
DAMPING = 0.1
SAMPLES = 8192  # windows of a convolution's input that its rounding goes by
STEPS = 256  # maps that they are taken from, if there are so many and each has enough of them
BLOCK = 64  # columns after which the others are brought up to date, by one matrix product; changes no result


def round_weights(weight: np.ndarray, frac: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round ``weight`` (rows, n) to ``frac`` fractional bits for vectors such as ``x`` (T, n).

    Returns
    -------
    rounded : int8 (rows, n)
    bias_change : float64 (rows,), to be added to the bias
    """
    n = weight.shape[1]
    mean = x.mean(axis=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    variance = np.trace(covariance) / n or 1.0  # vectors that never change say nothing about directions
    inverse = np.linalg.inv(covariance / variance + DAMPING * np.eye(n))
    carry = np.linalg.cholesky(inverse).T  # upper triangle: how an error in one column spreads to later ones
    remaining = weight.astype(np.float64)
    rounded = np.empty(weight.shape, np.int8)
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        errors = np.empty((len(weight), block.stop - start))
        for column in range(start, block.stop):
            rounded[:, column] = to_fixed(remaining[:, column], frac, WEIGHT_BITS)
            error = remaining[:, column] - from_fixed(rounded[:, column], frac)
            errors[:, column - start] = error = error / carry[column, column]
            later = slice(column + 1, block.stop)
            remaining[:, later] -= error[:, None] * carry[column, later]
        remaining[:, block.stop :] -= errors @ carry[block, block.stop :]
    return rounded, (weight - from_fixed(rounded, frac)) @ mean


def sample_windows(shape: ConvShape, x: np.ndarray) -> np.ndarray:
    """About SAMPLES windows of maps ``x`` (T, n_inputs), float64 (groups, samples, k); the same on every call."""
    positions = shape.conv_height * shape.conv_width
    steps = min(len(x), max(STEPS, -(-SAMPLES // positions)))
    each = min(positions, -(-SAMPLES // steps))
    rng = np.random.default_rng(0)
    parts = []
    for step in np.linspace(0, len(x) - 1, steps).astype(int):
        picked = np.sort(rng.choice(positions, each, replace=False))
        parts.append(windows(shape, x[step : step + 1])[0][:, :, picked])
    return np.concatenate(parts, axis=2).transpose(0, 2, 1)


def round_kernels(
    shape: ConvShape, weight: np.ndarray, frac: int, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``round_weights`` for a convolution, each group by itself.

    Parameters
    ----------
    weight : as ``ConvShape.weight_shape``
    samples : (groups, samples, k), from ``sample_windows``

    Returns
    -------
    rounded : int8, the shape of ``weight``
    bias_change : float64 (out_channels,)
    """
    grouped = weight.reshape(shape.groups, shape.out_channels // shape.groups, -1)
    pairs = [round_weights(*pair) for pair in zip(grouped, [frac] * shape.groups, samples, strict=True)]
    rounded = np.concatenate([pair[0] for pair in pairs]).reshape(weight.shape)
    return rounded, np.concatenate([pair[1] for pair in pairs])
