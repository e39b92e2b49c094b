"""What the CNN engine counts: events, MAC cycles and multiplications by zero, from how often each input is not zero.

All of a pass's counts are sums over its events, and an event's share follows from its position alone. So the counts of
any number of steps follow from the number of steps in which each element of the input map is not zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .conv_layout import ConvParameters
from .conv_pack import Axis, ConvPass, pack_kernels, plan_passes
from .golden import GoldenRun
from .qlayers import QConv, layer_jobs


@dataclass(frozen=True)
class PassCounts:
    """Counts of one pass.

    Parameters
    ----------
    name : ``<layer>.pass1`` and so on
    layer : the layer's name
    events : elements, not zero, that it decodes
    mac_cycles : cycles in which kernel words are multiplied
    zero_macs : multiplications by a weight of zero in them, those of lanes without a channel too
    kernel_bytes : bytes of kernels and biases that it fetches in each step
    """

    name: str
    layer: str
    events: int
    mac_cycles: int
    zero_macs: int
    kernel_bytes: int


def pass_name(layer: str, index: int) -> str:
    """What counters and reports call pass ``index``, from 0 on, of a layer."""
    return f"{layer}.pass{index + 1}"


def kernel_bytes(plan: ConvPass) -> int:
    """Bytes of a pass's biases and kernels."""
    return (4 * plan.blocks + plan.kernel_words) * plan.macs


def expected_passes(golden: GoldenRun, params: ConvParameters) -> Iterator[PassCounts]:
    """What a CNN engine should count in a golden run, pass by pass."""
    slabs: list[tuple[int, int]] = []      # channels low <= c < high of each slab of the map before
    for layer in golden.network.layers:
        if not isinstance(layer, QConv):
            return
        shape, [job] = layer.shape, layer_jobs(layer)
        nonzero = golden.conv_nonzero[job].reshape(shape.in_channels, shape.in_height, shape.in_width)
        slabs = slabs or [(0, shape.in_channels)]
        plans = plan_passes(layer.name, shape, params)
        for index, plan in enumerate(plans):
            mac_cycles, zero_macs = pass_macs(plan, layer.weight, nonzero)
            yield PassCounts(pass_name(layer.name, index), layer.name, _decoded(plan, slabs, nonzero), mac_cycles,
                             zero_macs, kernel_bytes(plan))
        slabs = [(plan.out_first, plan.out_first + plan.channels) for plan in plans]


def _decoded(plan: ConvPass, slabs: Sequence[tuple[int, int]], nonzero: np.ndarray) -> int:
    """Elements that a pass decodes: all of each slab that has one of its input channels."""
    return sum(int(nonzero[low:high].sum()) for low, high in slabs if low < plan.in_high and high > plan.in_low)


def pass_macs(plan: ConvPass, weight: np.ndarray, nonzero: np.ndarray) -> tuple[int, int]:
    """MAC cycles of a pass, and multiplications by a weight of zero in them.

    Parameters
    ----------
    weight : int8 (out_channels, in_channels / groups, kernel height, kernel width), of the whole layer
    nonzero : int64 (in_channels, in_height, in_width), steps in which each input is not zero
    """
    events = nonzero[plan.in_low : plan.in_high]
    kernels = pack_kernels(weight, plan).reshape(len(events), plan.y.kernel, plan.kernel_row, plan.macs)
    zeros = np.count_nonzero(kernels == 0, axis=-1)
    rows = _rows_met(plan.y, plan.shape.in_height, plan.shape.conv_height)
    words = _words_met(plan, plan.shape.in_width)
    met = rows.T @ events @ words       # (channels, kernel rows, words): how often each kernel word is used
    return int(met.sum()), int((met * zeros).sum())


def _rows_met(axis: Axis, size: int, out: int) -> np.ndarray:
    """Which kernel rows, in their stored order, each input row is multiplied with: int64 (size, kernel)."""
    met = np.zeros((size, axis.kernel), np.int64)
    for position in range(size):
        h, parity = divmod(position + axis.pad, axis.stride)
        for j in range(axis.taps[parity]):
            met[position, parity * axis.taps[0] + j] = 0 <= h - j < out
    return met


def _words_met(plan: ConvPass, size: int) -> np.ndarray:
    """Which words of a kernel row each input column is multiplied with: int64 (size, kernel_row)."""
    axis, q_shift, q = plan.x, plan.q_shift, 1 << plan.q_shift
    met = np.zeros((size, plan.kernel_row), np.int64)
    for position in range(size):
        h, parity = divmod(position + axis.pad, axis.stride)
        taps = axis.taps[parity]
        first, alignment = divmod(h - (taps - 1), q)
        start, end = max(first, 0), min(h, plan.shape.conv_width - 1) >> q_shift
        if taps and end >= start:
            word = (parity * q * plan.columns[0] + alignment * plan.columns[parity]
                    + (start - first) * plan.run_blocks)
            met[position, word : word + (end - start + 1) * plan.run_blocks] = 1
    return met
