"""Integer sigmoid and tanh of the arithmetic contract, by one table with linear interpolation.

The table is tanh on [0, 8) in 256 segments of 1/32; sigmoid(x) = (1 + tanh(x/2)) / 2 reads the same one.
Argument: a pre-activation, 18 bits with 12 fractional bits. Result: 16 bits with 15 fractional bits.
Largest error over all 2**18 arguments (tests/test_activation.py): tanh 1.13e-4, sigmoid 6.4e-5.
"""

from __future__ import annotations

import numpy as np

from .fixed import STATE_FRAC, requantise

SEGMENTS = 256
SEGMENT_BITS = 8  # of the 16-bit table argument: the upper bits choose the segment, these interpolate
TABLE_FRAC = 17
ARGUMENT_MAX = (1 << 16) - 1  # just below 8.0 with 13 fractional bits

#: tanh(k/32) with 17 fractional bits, unsigned 18 bits; int64 (257,)
TABLE: np.ndarray = np.round(2.0**TABLE_FRAC * np.tanh(np.arange(SEGMENTS + 1) / 32)).astype(np.int64)
#: rise of the table over each segment; int64 (256,)
SLOPE: np.ndarray = np.diff(TABLE)

ONE = 1 << STATE_FRAC
HALF = ONE >> 1


def _interpolate(argument: np.ndarray) -> np.ndarray:
    """tanh with 25 fractional bits for arguments >= 0 with 13 fractional bits, held below 8."""
    u = np.minimum(argument, ARGUMENT_MAX)
    k, w = u >> SEGMENT_BITS, u & ((1 << SEGMENT_BITS) - 1)
    return (TABLE[k] << SEGMENT_BITS) + SLOPE[k] * w


def tanh(x: np.ndarray) -> np.ndarray:
    """tanh of pre-activations ``x`` (integers, any shape), 15 fractional bits, int64."""
    x = np.asarray(x, np.int64)
    y = np.minimum(requantise(_interpolate(np.abs(x) << 1), 10, 17), ONE - 1)
    return np.where(x < 0, -y, y)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function of pre-activations ``x`` (integers, any shape), 15 fractional bits, int64."""
    x = np.asarray(x, np.int64)
    half_tanh = requantise(_interpolate(np.abs(x)), 11, 17)  # tanh(x/2) / 2
    return np.where(x < 0, HALF - half_tanh, np.minimum(HALF + half_tanh, ONE - 1))
