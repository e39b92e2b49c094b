"""Integer rounding, sigmoid and tanh: all inputs against float, and the contract in plain integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amacrine.sw.activation import SLOPE, TABLE, sigmoid, tanh
from amacrine.sw.fixed import from_fixed, requantise, signed_range, to_fixed

PRE = np.arange(-(1 << 17), 1 << 17)  # every pre-activation there is


@pytest.mark.parametrize(("function", "exact", "measured"), [
    (tanh, np.tanh, 1.13e-4),
    (sigmoid, lambda x: 1 / (1 + np.exp(-x)), 6.4e-5),
])
def test_error_over_all_inputs(function, exact, measured):
    error = np.abs(function(PRE) / 32768 - exact(PRE / 4096)).max()
    assert error <= measured <= 2**-11  # the stated figure, and the contract's bound


def scalar_interpolation(u: int) -> int:
    k, w = min(u, 65535) >> 8, min(u, 65535) & 255
    low, high = (math.floor(2**17 * math.tanh(i / 32) + 0.5) for i in (k, k + 1))
    return low * 256 + (high - low) * w


def scalar_tanh(x: int) -> int:
    y = min((scalar_interpolation(2 * abs(x)) + 512) >> 10, 32767)
    return -y if x < 0 else y


def scalar_sigmoid(x: int) -> int:
    m = (scalar_interpolation(abs(x)) + 1024) >> 11
    return 16384 - m if x < 0 else min(16384 + m, 32767)


def test_every_segment_equals_the_contract_in_scalars():
    edges = np.arange(0, 1 << 17, 128)  # segments of tanh begin at every other one, sigmoid's at every second
    points = np.concatenate([edges + offset for offset in (0, 1, 63, 127)])
    points = np.concatenate([points, -points, [-(1 << 17)]])
    assert tanh(points).tolist() == [scalar_tanh(int(x)) for x in points]
    assert sigmoid(points).tolist() == [scalar_sigmoid(int(x)) for x in points]


def test_shape_of_the_curves():
    for function, ends in ((tanh, (-32767, 0, 32767)), (sigmoid, (0, 16384, 32767))):
        y = function(PRE)
        assert (y[0], y[1 << 17], y[-1]) == ends
        assert (np.diff(y) >= 0).all()
    assert (tanh(-PRE[1:]) == -tanh(PRE[1:])).all()


def test_table_is_what_the_contract_says():
    assert TABLE.shape == (257,) and SLOPE.shape == (256,)
    assert (TABLE[0], TABLE[32], TABLE[256]) == (0, 99824, 131072)  # tanh(0), tanh(1), tanh(8) = 1 - 2**-22
    assert SLOPE.tolist() == [TABLE[k + 1] - TABLE[k] for k in range(256)]
    assert SLOPE.min() >= 0 and SLOPE.max() < 1 << 12


@pytest.mark.parametrize(("value", "shift", "bits", "result"), [
    (-1, 1, 16, 0), (-3, 1, 16, -1), (-2, 2, 16, 0), (-3, 2, 16, -1), (1, 1, 16, 1), (3, 1, 16, 2),  # half up
    (5, 0, 16, 5), (-5, 0, 16, -5),  # nothing added at shift 0
    (32767, 0, 16, 32767), (32768, 0, 16, 32767), (-32768, 0, 16, -32768), (-32769, 0, 16, -32768),
    (65535, 1, 16, 32767), (-65537, 1, 16, -32768), (-65538, 1, 16, -32768),  # rounds up to the limit
    (1 << 31, 14, 18, 131071), (-(1 << 31), 14, 18, -131072),
])
def test_requantise_corners(value, shift, bits, result):
    assert requantise(np.array([value]), shift, bits).tolist() == [result]


@given(st.integers(-(1 << 50), 1 << 50), st.integers(0, 30), st.sampled_from([8, 16, 17, 18, 32]))
def test_requantise_is_floor_of_value_plus_half(value, shift, bits):
    low, high = signed_range(bits)
    exact = math.floor(Fraction(value, 1 << shift) + Fraction(1, 2)) if shift else value
    assert int(requantise(np.array(value), shift, bits)) == min(max(exact, low), high)


def test_real_numbers_to_fixed_point():
    x = np.array([0.5, -0.5, 1.5, -1.5, 0.499, 1e300, -1e300]) / 256
    assert to_fixed(x, 8, 16).tolist() == [1, 0, 2, -1, 0, 32767, -32768]
    assert to_fixed(np.array([1024.0]), -3, 8).tolist() == [127]  # 128 saturates
    assert from_fixed(np.array([-32768, 1]), 15).tolist() == [-1.0, 2**-15]
