"""The golden model's convolutions: sums, activation and pooling of the arithmetic contract, and their counts."""

from __future__ import annotations

import numpy as np

from .activation import sigmoid, tanh
from .conv import chunks, conv_sums, pool_shift, pool_windows, reach
from .fixed import ACTIVATION_BITS, PRE_BITS, PRE_FRAC, STATE_FRAC, requantise
from .qlayers import BOUNDED, QConv, layer_jobs


def conv_run(q: QConv, x: np.ndarray) -> np.ndarray:
    """Maps (T, n_inputs) to result maps (T, n_outputs), int64; each step by itself."""
    y = np.empty((len(x), q.size), np.int64)
    bias = q.bias.astype(np.int64)[:, None, None]
    for part in chunks(q.shape, len(x)):
        y[part] = pool(q, conv_cell(q, conv_sums(q.shape, q.weight, x[part]).astype(np.int64) + bias))
    return y


def conv_cell(q: QConv, psum: np.ndarray) -> np.ndarray:
    """Partial sums of any shape to results before pooling, int64."""
    if q.activation in BOUNDED:
        function = sigmoid if q.activation == "sigmoid" else tanh
        y = function(requantise(psum, q.scale - PRE_FRAC, PRE_BITS))
        return requantise(y, STATE_FRAC - q.output_frac, ACTIVATION_BITS)
    y = requantise(psum, q.scale - q.output_frac, ACTIVATION_BITS)
    return y if q.activation == "identity" else np.clip(y, 0, q.ceiling)


def pool(q: QConv, y: np.ndarray) -> np.ndarray:
    """Results (T, channels, conv_height, conv_width) to the flattened result maps, int64 (T, n_outputs)."""
    if q.shape.pooling != "none":
        parts = pool_windows(q.shape, y)
        y = (parts.max(axis=-1) if q.shape.pooling == "max"
             else requantise(parts.sum(axis=-1), pool_shift(q.shape), ACTIVATION_BITS))
    return y.reshape(len(y), q.size)


class ConvLayer:
    """A convolution in a run; it has no state."""

    def __init__(self, q: QConv):
        self.q = q
        [self.job_name] = layer_jobs(q)
        self.reach = reach(q.shape)

    def reset(self) -> None:
        """Nothing to forget."""

    def run(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Maps (T, n) to result maps (T, size) and the job's events: the inputs themselves, those not zero."""
        return conv_run(self.q, x), {self.job_name: x}

    def macs(self, x: np.ndarray) -> np.ndarray:
        """Multiplications of each step's inputs that are not zero, int64 (T,)."""
        return (x != 0) @ self.reach
