"""How a convolution is cut into passes for the CNN engine, and its kernels laid out: docs/convolution.md in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .conv import is_global
from .conv_layout import ConvParameters, Pool
from .convolution import ConvShape
from .errors import AmacrineError

MAX_BLOCKS = 16
BIAS_WORDS = 4
"""Words of P bytes that the biases of a block take."""


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: kernel side, stride, padding before."""

    kernel: int
    stride: int
    pad: int

    @property
    def taps(self) -> tuple[int, int]:
        """Kernel elements of parity 0 and 1; none of parity 1 if the stride is 1."""
        return -(-self.kernel // self.stride), self.kernel // 2 if self.stride == 2 else 0

    @property
    def order(self) -> list[int]:
        """Kernel elements in the order (parity, j)."""
        return [element for parity in range(self.stride) for element in range(parity, self.kernel, self.stride)]


@dataclass(frozen=True)
class ConvPass:
    """One pass: which output channels of which layer, and how they are laid out.

    Parameters
    ----------
    shape : of the whole layer
    macs : P
    out_first, channels : first output channel, and how many
    in_low, in_high : input channels low <= c < high
    blocks, row_blocks : blocks of this pass, and of the layer's largest, which sets the distance of rows
    q_shift : log2 of Q
    depthwise : input channel c adds to output channel c only
    slots : row slots
    """

    shape: ConvShape
    macs: int
    out_first: int
    channels: int
    in_low: int
    in_high: int
    blocks: int
    row_blocks: int
    q_shift: int
    depthwise: bool
    slots: int

    @property
    def x(self) -> Axis:
        return Axis(self.shape.kernel[1], self.shape.stride[1], self.shape.pads[1])

    @property
    def y(self) -> Axis:
        return Axis(self.shape.kernel[0], self.shape.stride[0], self.shape.pads[0])

    @property
    def block_channels(self) -> int:
        """Cp: channels of a block."""
        return self.macs >> self.q_shift

    @property
    def run_blocks(self) -> int:
        return 1 if self.depthwise else self.blocks

    @property
    def out_words(self) -> int:
        """Words of partial sums across a row, for one block."""
        return -(-self.shape.conv_width // (1 << self.q_shift))

    @property
    def row_words(self) -> int:
        return self.out_words * self.row_blocks

    @property
    def columns(self) -> tuple[int, int]:
        """Kernel words of one alignment, for parity 0 and 1."""
        words = [((1 << self.q_shift) + taps - 2 >> self.q_shift) + 1 if taps else 0 for taps in self.x.taps]
        return words[0] * self.run_blocks, words[1] * self.run_blocks

    @property
    def kernel_row(self) -> int:
        """Kernel words of a kernel row."""
        return sum(self.columns) << self.q_shift

    @property
    def channel_words(self) -> int:
        """Kernel words of an input channel."""
        return self.y.kernel * self.kernel_row

    @property
    def kernel_words(self) -> int:
        """Kernel words of the pass, biases not counted."""
        return (self.in_high - self.in_low) * self.channel_words

    @property
    def chunks(self) -> int:
        """Chunks of L results a position."""
        return -(-self.channels // (self.macs // 4))

    def fields(self) -> dict[str, int]:
        """The fields of the pass descriptor that follow from the geometry, but `control`."""
        x, y, shape = self.x, self.y, self.shape
        return {
            "height": shape.in_height, "width": shape.in_width,
            "channel_low": self.in_low, "channel_high": self.in_high, "pads": y.pad | x.pad << 4,
            "y_taps": y.taps[0] | y.taps[1] << 4 | (y.kernel - 1) << 8, "x_taps": x.taps[0] | x.taps[1] << 4,
            "out_height": shape.conv_height, "out_width": shape.conv_width, "out_words": self.out_words,
            "blocks": self.blocks, "run_blocks": self.run_blocks, "row_words": self.row_words, "slots": self.slots,
            "channel_words": self.channel_words, "kernel_row": self.kernel_row, "column_0": self.columns[0],
            "column_1": self.columns[1], "column_parity": self.columns[0] << self.q_shift,
            "channels": self.channels, "chunks": self.chunks, "kernel_words": self.kernel_words,
        }


def pool_mode(shape: ConvShape) -> Pool:
    """The pooling of a layer, as the pass descriptor names it."""
    if shape.pooling == "none":
        return Pool.NONE
    if is_global(shape):
        return Pool.GLOBAL
    return Pool.ROW if shape.pool_window == (1, 2) else Pool.SQUARE


def plan_passes(name: str, shape: ConvShape, params: ConvParameters) -> list[ConvPass]:
    """The passes of a layer: as few as the memories allow, so that an input element is read as seldom as possible.

    A pass takes at most half of the kernel buffer if it can, so that the next one's kernels load meanwhile.

    Raises
    ------
    AmacrineError
        naming the layer, and which memory is too small by how much, if not even one block fits
    """
    group_in, group_out = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    depthwise = shape.groups > 1 and group_in == group_out == 1
    q_shift = _q_shift(shape, params, group_out, depthwise)
    per_block = params.macs >> q_shift
    total = -(-(shape.out_channels if depthwise else group_out) // per_block)
    most = _most_blocks(name, shape, params, q_shift, depthwise, min(total, MAX_BLOCKS))
    blocks = -(-total // -(-total // most))      # as few passes, as equal as possible
    passes = []
    for group in range(1 if depthwise else shape.groups):
        first, end = group * group_out, shape.out_channels if depthwise else (group + 1) * group_out
        while first < end:
            channels = min(blocks * per_block, end - first)
            low, high = (first, first + channels) if depthwise else (group * group_in, (group + 1) * group_in)
            passes.append(_pass(shape, params, (first, channels), (low, high), q_shift, depthwise, blocks))
            first += channels
    return passes


def _q_shift(shape: ConvShape, params: ConvParameters, group_out: int, depthwise: bool) -> int:
    """Neighbouring columns that share a word: as many as channels leave lanes for, and kernels have use for."""
    if shape.conv_width == 1:
        return 0
    if depthwise:
        return min(shape.kernel[1].bit_length() - 1, 2)
    return 2 if group_out <= params.macs // 4 else 1 if group_out <= params.macs // 2 else 0


def _pass(shape: ConvShape, params: ConvParameters, outputs: tuple[int, int], inputs: tuple[int, int], q_shift: int,
          depthwise: bool, row_blocks: int) -> ConvPass:
    blocks = -(-outputs[1] // (params.macs >> q_shift))
    bare = ConvPass(shape, params.macs, *outputs, *inputs, blocks, row_blocks, q_shift, depthwise, 0)
    slots = 2 * (params.psum_depth // 2 // bare.row_words)
    return ConvPass(shape, params.macs, *outputs, *inputs, blocks, row_blocks, q_shift, depthwise, min(slots, 64))


def _most_blocks(name: str, shape: ConvShape, params: ConvParameters, q_shift: int, depthwise: bool, limit: int) -> int:
    """The most blocks that fit; those that leave half of the kernel buffer free come first."""
    def lacks(blocks: int, kernel_depth: int) -> str:
        channels = blocks * (params.macs >> q_shift)
        inputs = channels if depthwise else shape.in_channels // shape.groups
        attempt = _pass(shape, params, (0, channels), (0, inputs), q_shift, depthwise, blocks)
        rows = min(attempt.y.taps[0] + 1, shape.conv_height)
        rows += rows % 2
        pool = {Pool.NONE: 0, Pool.GLOBAL: attempt.chunks}.get(pool_mode(shape), attempt.chunks * shape.out_width)
        for need, there, what in (
            (rows * attempt.row_words, params.psum_depth, f"words of {params.macs} partial sums for {rows} rows"),
            (attempt.kernel_words, kernel_depth, f"kernel words of {params.macs} weights"),
            (pool, params.pool_depth, f"chunks of {params.lanes} results in pooling memory"),
        ):
            if need > there:
                return (f"Layer {name!r} needs {need} {what}, and the CNN engine has {there}, {need - there} too few; "
                        "generate it with more, or use a smaller layer.")
        return ""

    for kernel_depth in (params.kernel_depth // 2, params.kernel_depth):
        for blocks in range(limit, 0, -1):
            if not lacks(blocks, kernel_depth):
                return blocks
    raise AmacrineError(lacks(1, params.kernel_depth))


def pack_pass(weight: np.ndarray, bias: np.ndarray, plan: ConvPass) -> np.ndarray:
    """Biases, then kernels of a pass as the kernel buffer takes them: int8 (4 · blocks + kernel_words, P).

    Parameters
    ----------
    weight : int8 (out_channels, in_channels / groups, kernel height, kernel width), of the whole layer
    bias : int32 (out_channels,)
    """
    return np.concatenate([_pack_bias(bias, plan), pack_kernels(weight, plan)])


def _pack_bias(bias: np.ndarray, plan: ConvPass) -> np.ndarray:
    rows = np.zeros(plan.blocks * plan.block_channels, "<i4")
    rows[: plan.channels] = bias[plan.out_first : plan.out_first + plan.channels]
    words = np.zeros((plan.blocks, plan.macs), "<i4")       # 4 words of L biases a block, some unused if Q > 1
    words[:, : plan.block_channels] = rows.reshape(plan.blocks, -1)
    return words.reshape(-1, plan.macs // 4).view(np.int8)


def pack_kernels(weight: np.ndarray, plan: ConvPass) -> np.ndarray:
    """Kernels of a pass alone: int8 (kernel_words, P)."""
    x, q, cp = plan.x, 1 << plan.q_shift, plan.block_channels
    outputs = weight[plan.out_first : plan.out_first + plan.channels][:, :, plan.y.order]
    padded = np.zeros((plan.blocks * cp, *outputs.shape[1:3], x.kernel + 1), np.int8)   # a column of zeros at the end
    padded[: plan.channels, ..., : x.kernel] = outputs
    lanes = padded[..., _kernel_columns(plan)]      # (channels, inputs, rows, words, q)
    _, inputs, rows, words, _ = lanes.shape
    if not plan.depthwise:
        lanes = lanes.reshape(plan.blocks, cp, inputs, rows, words, q)
        return np.ascontiguousarray(lanes.transpose(2, 3, 4, 0, 5, 1)).reshape(-1, plan.macs)
    kernels = np.zeros((plan.channels, rows, words, q, cp), np.int8)
    channel = np.arange(plan.channels)
    kernels[channel, ..., channel % cp] = lanes[: plan.channels, 0]
    return kernels.reshape(-1, plan.macs)


def _kernel_columns(plan: ConvPass) -> np.ndarray:
    """Kernel column of each lane position q in each word of a kernel row, (words, Q); the kernel's width for zero."""
    x, q = plan.x, 1 << plan.q_shift
    table = []
    for parity, (taps, words) in enumerate(zip(x.taps, plan.columns, strict=True)):
        for alignment in range(q if taps else 0):
            for word in range(words // plan.run_blocks):
                j = taps - 1 - (word * q + np.arange(q) - alignment)
                table.append(np.where((j >= 0) & (j < taps), parity + x.stride * j, x.kernel))
    return np.array(table)
