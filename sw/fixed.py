"""Fixed-point formats of the arithmetic contract (docs/arithmetic.md), each named once, and its one rounding.

"frac" is a number of fractional bits: the integer v stands for v / 2**frac.
"""

from __future__ import annotations

import numpy as np

ACTIVATION_BITS = 16  # element of a vector, signed
WEIGHT_BITS = 8
PSUM_BITS = 32  # partial sum and bias
PRE_BITS = 18  # pre-activation, the argument of sigmoid and tanh
PRE_FRAC = 12
STATE_BITS = 16  # GRU and LSTM state
STATE_FRAC = 15  # results of sigmoid and tanh, and the GRU's state
THETA_BITS = 16  # threshold of an encoder, unsigned

ACTIVATION_FRACS = range(8, 16)  # allowed fractional bits of a vector
CELL_FRACS = range(8, 13)  # allowed fractional bits of an LSTM's state c
SHIFTS = range(0, 16)  # allowed right shifts from a partial sum


def signed_range(bits: int) -> tuple[int, int]:
    """Least and greatest signed integer of ``bits`` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def requantise(v: np.ndarray, shift: int, bits: int) -> np.ndarray:
    """``rq(v, shift, bits)`` of the contract: halves round towards +infinity, then saturation.

    Parameters
    ----------
    v : integers, any shape; ``|v| + 2**(shift-1)`` must fit into int64
    shift : bits to drop, at least 0
    bits : width of the signed result

    Returns
    -------
    int64, the shape of ``v``
    """
    low, high = signed_range(bits)
    v = np.asarray(v, np.int64)
    if shift:
        v = (v + (1 << (shift - 1))) >> shift
    # np.clip costs several times as much on the short vectors of one time step
    return np.minimum(np.maximum(v, low), high)


def to_fixed(x: np.ndarray, frac: int, bits: int) -> np.ndarray:
    """Real numbers to fixed point, by the same rounding and saturation as ``requantise``.

    Parameters
    ----------
    x : finite floats, any shape (the caller has refused NaN and infinity)
    frac : fractional bits of the result, may be negative
    bits : width of the signed result, at most 32

    Returns
    -------
    int64, the shape of ``x``
    """
    low, high = signed_range(bits)
    scaled = np.floor(np.asarray(x, np.float64) * 2.0**frac + 0.5)
    return np.clip(scaled, low, high).astype(np.int64)


def from_fixed(v: np.ndarray, frac: int) -> np.ndarray:
    """The real numbers (float64) that integers with ``frac`` fractional bits stand for."""
    return np.asarray(v, np.float64) * 2.0**-frac
