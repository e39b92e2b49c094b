"""What the CNN engine and its compiler must agree on: generator parameters, pass descriptors, slabs.

Plain Python, so that the compiler and the host driver need no Amaranth. Described in docs/convolution.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum

from .errors import AmacrineError

MAP_BITS = 16
"""Elements that one word of a sparsity map tells about."""
EXTERNAL_BIT = 26
"""Bit of a slab's value address: both its planes lie in external memory, whose elements of 16 bits addresses count."""
EXTERNAL_ALIGN = 1024
"""Elements: unit of the map address of such a slab; its planes begin at multiples of it."""


@dataclass(frozen=True)
class ConvParameters:
    """What is fixed when the CNN engine is generated; a program must fit it.

    Parameters
    ----------
    macs : multiply-accumulate units P, so weights in a kernel word. Costs a multiplier, 32 bits of each word of
        partial sums and about 200 LUTs each.
    value_depth : values (16 bits) in feature memory, for all maps of a program, each at its largest.
    map_depth : sparsity map words (16 bits) in feature memory.
    kernel_depth : kernel words (P weights) in the kernel buffer.
    psum_depth : words of P partial sums, half of them in each of the two banks.
    pool_depth : chunks (P / 4 partial results of 32 bits) in pooling memory.
    external : 1 lets maps that do not fit into feature memory lie in external memory, behind the weight port, whose
        words must then have an even number of weights. Costs about 2000 LUTs.
    """

    macs: int = 16
    value_depth: int = 8192
    map_depth: int = 2048
    kernel_depth: int = 4096
    psum_depth: int = 1024
    pool_depth: int = 512
    external: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("macs", 4, 64), ("value_depth", 16, 1 << 20), ("map_depth", 16, 1 << 20),
                                ("kernel_depth", 16, 65536), ("psum_depth", 4, 65536), ("pool_depth", 4, 65536)):
            value = getattr(self, name)
            if not low <= value <= high or value & (value - 1):
                raise AmacrineError(f"The CNN engine's parameter {name} must be a power of two, {low} to {high}, "
                                    f"not {value!r}.")
        if self.external not in (0, 1):
            raise AmacrineError(f"The CNN engine's parameter external must be 0 or 1, not {self.external!r}.")

    @property
    def lanes(self) -> int:
        """Results L that are finished in a cycle: P / 4, so a word of partial sums in four cycles."""
        return self.macs // 4

    def as_dict(self) -> dict[str, int]:
        """Names and values, for program headers and reports."""
        return asdict(self)


class Pool(IntEnum):
    """Pooling behind a convolution."""

    NONE = 0
    ROW = 1      # 1 × 2, of maps with one row
    SQUARE = 2   # 2 × 2
    GLOBAL = 3   # the whole map


MAX_KERNEL = 7
MAX_SIDE = 1023
"""Most rows or columns of a feature map."""
MAX_CHANNELS = 4095
PASSES = 64
"""Passes a program may have; each writes one slab."""
SLABS = PASSES + 2
"""Slabs: 0 and 1 hold the input, in even and odd steps; 2 + i is the result of pass i."""

# Rows of 16-bit fields; docs/convolution.md has the formulas.
PASS_FIELDS = (
    "control",         # input[0] depthwise[1] stride_y-1[2] stride_x-1[3] q_shift[5:4] function[7:6] first[8]
                       # dense[9] average[10] pool[12:11]
    "slab_first",      # input slabs
    "slab_count",
    "height",          # of the input map
    "width",
    "channel_low",     # input channels that this pass computes with: low <= c < high
    "channel_high",
    "pads",            # top[3:0] left[7:4]
    "y_taps",          # taps of parity 0 [3:0], of parity 1 [7:4], kernel height - 1 [11:8]
    "x_taps",          # taps of parity 0 [3:0], of parity 1 [7:4]
    "out_height",      # of the convolution, before pooling
    "out_width",
    "out_words",       # words of partial sums across a row, for one block
    "blocks",          # blocks of this pass
    "run_blocks",      # blocks that one input channel adds to: `blocks`, or 1 if depthwise
    "row_words",       # distance of two row slots of one bank in partial-sum memory
    "slots",           # row slots, even
    "channel_words",   # kernel words of an input channel
    "kernel_row",      # kernel words of a kernel row
    "column_0",        # kernel words of one alignment, parity 0
    "column_1",        # the same, parity 1
    "column_parity",   # first kernel word of parity 1 in a kernel row
    "channels",        # output channels of this pass, so of its slab
    "chunks",          # chunks of L results a position
    "out_map",         # first word of the slab's sparsity maps; in external memory, in units of EXTERNAL_ALIGN
    "out_value_low",   # first value of the slab, and bit EXTERNAL_BIT
    "out_value_high",
    "shifts",          # psum shift[3:0] out_shift[6:4] pool_shift[11:8], and beyond 15 [12]
    "ceiling",         # greatest result, 32767 if there is no other
    "kernel_words",    # words of P weights, biases not counted
    "weight_low",      # first weight word of the pass in weight memory: 4 * blocks words of biases, then kernels
    "weight_high",
)
SLAB_FIELDS = ("map", "value_low", "value_high", "channels", "first_channel", "pad")


class ConvRegister(IntEnum):
    """Word addresses on the CNN engine's register bus (32-bit words)."""

    PASSES = 0x0400       # write: pass descriptors, 16 words apart, two fields a word, the first in the low half
    SLABS = 0x0800        # write: slab table, 4 words apart, likewise
    RUN = 0x0000          # write: 1 runs
    COUNT = 0x0001        # write: passes a step
    CHANNELS = 0x0002     # write: channels of the input map
    POSITIONS = 0x0003    # write: its rows · columns
    EVEN_MAP = 0x0004     # write: first map word of slab 0
    EVEN_VALUE = 0x0005   # write: its first value
    ODD_MAP = 0x0006      # write: first map word of slab 1
    ODD_VALUE = 0x0007    # write: its first value
    COUNTERS = 0x0C00     # read while halted and quiet: counters of pass i at 4·i, in the order of CONV_COUNTER_FIELDS


CONV_COUNTER_FIELDS = ("cycles", "events", "mac_cycles", "zero_macs")
"""Counters of a pass: cycles in which it is the oldest pass under way, from its start to its last result; elements, not
zero, that were decoded for it; cycles in which kernel words were multiplied; multiplications by a weight of zero in
them, those of lanes without a channel too."""
