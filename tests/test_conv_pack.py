"""The layout of kernels and partial sums, run by the formulas of docs/convolution.md, against a plain convolution."""

from __future__ import annotations

import numpy as np
import pytest

from amacrine.sw.conv_counts import pass_macs
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.conv_pack import ConvPass, pack_pass, plan_passes
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, shape: ConvShape) -> np.ndarray:
    """Partial sums (out_channels, conv_height, conv_width), element by element."""
    top, left, bottom, right = shape.pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right)))
    group_in, group_out = weight.shape[1], shape.out_channels // shape.groups
    y = np.empty((shape.out_channels, shape.conv_height, shape.conv_width), np.int64)
    for o, r, c in np.ndindex(y.shape):
        first, row, column = o // group_out * group_in, r * shape.stride[0], c * shape.stride[1]
        window = padded[first:first + group_in, row:row + shape.kernel[0], column:column + shape.kernel[1]]
        y[o, r, c] = bias[o] + (window * weight[o]).sum()
    return y


def run_pass(x: np.ndarray, words: np.ndarray, plan: ConvPass) -> tuple[np.ndarray, int]:
    """What a pass makes of map ``x``, (channels, conv_height, conv_width), and its MAC cycles. Slots are rows here."""
    f, q_shift = plan.fields(), plan.q_shift
    q = 1 << q_shift
    bias = np.ascontiguousarray(words[: 4 * plan.blocks]).view("<i4").reshape(plan.blocks, -1)
    kernels = words[4 * plan.blocks :].astype(np.int64)
    psums, cycles = np.zeros((f["out_height"], f["row_words"], plan.macs), np.int64), 0
    for c, y, xx in np.argwhere(x):
        if not f["channel_low"] <= c < f["channel_high"]:
            continue
        c -= f["channel_low"]
        u, v = y + plan.y.pad, xx + plan.x.pad
        py, h = u % plan.y.stride, u // plan.y.stride
        px, hx = v % plan.x.stride, v // plan.x.stride
        taps = plan.x.taps[px]
        w0, a = (hx - (taps - 1)) >> q_shift, (hx - (taps - 1)) & (q - 1)
        start, end = max(w0, 0), min(hx, f["out_width"] - 1) >> q_shift
        n = end - start + 1
        if n <= 0 or not taps:
            continue
        gi = c // plan.block_channels if plan.depthwise else 0
        first = start * f["run_blocks"] + gi * f["out_words"]
        column = f["column_parity"] + a * f["column_1"] if px else a * f["column_0"]
        for j in range(plan.y.taps[py]):
            if not 0 <= h - j < f["out_height"]:
                continue
            row = (plan.y.taps[0] if py else 0) + j
            kernel = c * f["channel_words"] + row * f["kernel_row"] + column + (start - w0) * f["run_blocks"]
            length = n * f["run_blocks"]
            cycles += length
            psums[h - j, first:first + length] += kernels[kernel:kernel + length] * x[c + f["channel_low"], y, xx]
    return finish(psums, bias, plan), cycles


def finish(psums: np.ndarray, bias: np.ndarray, plan: ConvPass) -> np.ndarray:
    result = np.empty((plan.channels, psums.shape[0], plan.shape.conv_width), np.int64)
    cp = plan.block_channels
    for o, r, c in np.ndindex(result.shape):
        block, channel, word, q = o // cp, o % cp, c >> plan.q_shift, c & ((1 << plan.q_shift) - 1)
        at = block * plan.out_words + word if plan.depthwise else word * plan.blocks + block
        result[o, r, c] = psums[r, at, q * cp + channel] + bias[block, channel]
    return result


def random_shape(rng: np.random.Generator) -> ConvShape:
    kernel = tuple(int(side) for side in rng.integers(1, 8, 2))
    flat = rng.random() < 0.3
    if flat:
        kernel = (1, kernel[1])
    pads = tuple(int(pad) for pad in rng.integers(0, 4, 4)) if not flat else (0, int(rng.integers(4)), 0, 2)
    height = 1 if flat else max(kernel[0] - pads[0] - pads[2], 1) + int(rng.integers(6))
    width = max(kernel[1] - pads[1] - pads[3], 1) + int(rng.integers(12))
    kind, unit = rng.choice(["full", "groups", "depthwise"], p=[0.6, 0.2, 0.2]), int(rng.integers(1, 20))
    channels = {"full": (unit, int(rng.integers(1, 40)), 1), "groups": (2 * 3, 3 * unit, 3),
                "depthwise": (unit + 1, unit + 1, unit + 1)}[kind]
    return ConvShape(channels[0], height, width, channels[1], kernel, (1 if flat else int(rng.integers(1, 3)),
                     int(rng.integers(1, 3))), pads, channels[2])


@pytest.mark.parametrize("seed", range(60))
def test_layout_is_a_convolution(seed):
    rng = np.random.default_rng(seed)
    shape = random_shape(rng)
    params = ConvParameters(macs=int(rng.choice([4, 8, 16, 32, 64])), psum_depth=512, kernel_depth=8192)
    x = rng.integers(-300, 300, (shape.in_channels, shape.in_height, shape.in_width))
    x[rng.random(x.shape) < rng.choice([0, 0.5, 0.9])] = 0
    weight = rng.integers(-128, 128, shape.weight_shape).astype(np.int8)
    bias = rng.integers(-1 << 20, 1 << 20, shape.out_channels).astype(np.int32)
    plans = plan_passes("layer", shape, params)
    results = []
    for plan in plans:
        words = pack_pass(weight, bias, plan)
        assert words.shape == (4 * plan.blocks + plan.kernel_words, params.macs)
        assert plan.slots % 2 == 0 and plan.slots * plan.row_words <= params.psum_depth
        assert plan.slots >= min(plan.y.taps[0], shape.conv_height)
        result, cycles = run_pass(x, words, plan)
        assert cycles == pass_macs(plan, weight, (x != 0).astype(np.int64))[0]
        results.append(result)
    assert [plan.out_first for plan in plans] == list(np.cumsum([0] + [plan.channels for plan in plans[:-1]]))
    np.testing.assert_array_equal(np.concatenate(results), convolve(x, weight, bias, shape))


def test_passes_take_as_much_as_fits():
    shape = ConvShape(64, 56, 56, 64, (3, 3), pads=(1, 1, 1, 1))
    (plan,) = plan_passes("layer", shape, ConvParameters(macs=16, kernel_depth=8192))
    assert (plan.blocks, plan.kernel_words, plan.channel_words, plan.slots) == (4, 2304, 36, 4)
    # One pass would fill the buffer; one block leaves room for the next pass's kernels.
    assert len(plan_passes("layer", shape, ConvParameters(macs=16, kernel_depth=2048))) == 4


@pytest.mark.parametrize("depths, lacks", [
    ({"psum_depth": 128}, "'big' needs 224 words of 16 partial sums for 4 rows.* has 128, 96 too few"),
    ({"kernel_depth": 512}, "'big' needs 576 kernel words of 16 weights.* has 512, 64 too few"),
    ({"pool_depth": 64}, "'big' needs 112 chunks of 4 results in pooling memory.* has 64, 48 too few"),
])
def test_what_does_not_fit_is_named(depths, lacks):
    shape = ConvShape(64, 56, 56, 64, (3, 3), pads=(1, 1, 1, 1), pooling="max", pool_window=(2, 2))
    with pytest.raises(AmacrineError, match=lacks):
        plan_passes("big", shape, ConvParameters(macs=16, **depths))
