"""The geometry of a convolution with its pooling, shared by float network, golden model and compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pooling = Literal["none", "max", "average"]


@dataclass(frozen=True)
class ConvShape:
    """Sizes of a 2-D convolution and the pooling behind it; a 1-D one has height 1 and kernel height 1.

    Maps are (channels, height, width); between layers they travel flattened in that order (C order).

    Parameters
    ----------
    in_channels, in_height, in_width : of the input map
    out_channels : output channels
    kernel : (height, width), 1 to 7 each
    stride : (vertical, horizontal), 1 or 2 each
    pads : (top, left, bottom, right), zeros around the input
    groups : divides both channel counts; each group of outputs reads its group of inputs
    pooling : of the activation's results: none, maximum or average
    pool_window : (height, width): (1, 1) none, (2, 2), (1, 2) for maps of one row, or the whole map;
        its stride is the window, and rows or columns that do not fill one are left out
    """

    in_channels: int
    in_height: int
    in_width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    pooling: Pooling = "none"
    pool_window: tuple[int, int] = (1, 1)

    @property
    def conv_height(self) -> int:
        """Rows of the result before pooling."""
        return (self.in_height + self.pads[0] + self.pads[2] - self.kernel[0]) // self.stride[0] + 1

    @property
    def conv_width(self) -> int:
        """Columns of the result before pooling."""
        return (self.in_width + self.pads[1] + self.pads[3] - self.kernel[1]) // self.stride[1] + 1

    @property
    def out_height(self) -> int:
        """Rows of the result."""
        return self.conv_height // self.pool_window[0]

    @property
    def out_width(self) -> int:
        """Columns of the result."""
        return self.conv_width // self.pool_window[1]

    @property
    def n_inputs(self) -> int:
        """Elements of the flattened input map."""
        return self.in_channels * self.in_height * self.in_width

    @property
    def n_outputs(self) -> int:
        """Elements of the flattened result."""
        return self.out_channels * self.out_height * self.out_width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out_channels, in_channels / groups, kernel height, kernel width)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)
