"""MAC utilisation of the CNN engine: single layers with random kernels, whose inputs have a share of zeros."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from amacrine.sw.conv import reach
from amacrine.sw.conv_compile import compile_convs
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden
from amacrine.sw.qlayers import QConv
from amacrine.sw.quantised import QuantisedNetwork

FRAC, WEIGHT_FRAC = 8, 10


def _layer(channels: int, side: int, kernel: int, out: int = 0, stride: int = 1, groups: int = 1,
           rows: int = 0) -> ConvShape:
    pad = kernel // 2
    return ConvShape(channels, rows or side, side, out or channels, (kernel, kernel), (stride, stride), (pad,) * 4,
                     groups)


#: name to shape
LAYERS = {
    "3x3, 56": _layer(64, 56, 3), "3x3, 28": _layer(64, 28, 3), "3x3, 28, 128": _layer(128, 28, 3),
    "1x1, 28": _layer(64, 28, 1, 128), "5x5, 28": _layer(64, 28, 5), "stride 2": _layer(64, 28, 3, stride=2),
    "odd channels": _layer(61, 28, 3, 67), "first": _layer(3, 56, 3, 64),
    "depthwise": _layer(64, 28, 3, groups=64), "one channel": _layer(64, 28, 3, 1),
}
VGG19_ROWS = 14
#: VGG19's convolutions (Simonyan, Zisserman, ICLR 2015, table 1): all columns and VGG19_ROWS rows of the maps, so that
#: two inputs and the result fit into feature memory
VGG19 = {
    "conv1_1": _layer(3, 224, 3, 64, rows=VGG19_ROWS), "conv1_2": _layer(64, 224, 3, rows=VGG19_ROWS),
    "conv2_1": _layer(64, 112, 3, 128, rows=VGG19_ROWS), "conv2_2": _layer(128, 112, 3, rows=VGG19_ROWS),
    "conv3_1": _layer(128, 56, 3, 256, rows=VGG19_ROWS), "conv3_2": _layer(256, 56, 3, rows=VGG19_ROWS),
    "conv4_1": _layer(256, 28, 3, 512, rows=VGG19_ROWS), "conv4_2": _layer(512, 28, 3, rows=VGG19_ROWS),
    "conv5_1": _layer(512, 14, 3),
}
VGG19_LIKE = {"conv3_2": 3, "conv4_2": 3, "conv5_1": 4}
"""Layers of this shape, if more than one."""
VGG19_ZEROS = 0.73
"""NullHop's figure for VGG19 is for its feature maps, of which so many elements are zero; an image has none."""


def vgg19_times(name: str) -> int:
    """How often a row of the table counts for the whole network: layers of this shape, and rows left out."""
    return VGG19_LIKE.get(name, 1) * VGG19[name].in_width // VGG19_ROWS


@dataclass(frozen=True)
class ConvRow:
    """One row of the table; MACs are multiplications, `dense_macs` those with zeros left in, `zero_operand_macs` those
    that were made with a weight of zero, in lanes without a channel too (inputs of zero are not multiplied).
    `utilisation` and `of_dense_peak` are useful and dense MACs per MAC unit and cycle."""

    layer: str
    kernel: int
    stride: int
    cin: int
    cout: int
    height: int
    width: int
    macs_units: int
    zeros: float
    cycles: int
    useful_macs: int
    dense_macs: int
    zero_operand_macs: int
    utilisation: float
    of_dense_peak: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_parameters(macs: int) -> ConvParameters:
    """A generator whose memories hold every layer of the tables."""
    return ConvParameters(macs=macs, value_depth=1 << 20, map_depth=1 << 16, kernel_depth=8192, psum_depth=1024,
                          pool_depth=512)


def measure(name: str, shape: ConvShape, zeros: float, macs: int, seed: int = 1) -> ConvRow:
    """Run one map through one layer, compare it with the golden model, and count.

    The kernels of the first pass load while the input comes; the cycles are those from the first pass's start until the
    last result is in feature memory (the counters of the layer's passes).

    Raises
    ------
    AmacrineError : a result is not the golden model's
    """
    from .conv_engine import SimulatedConv

    params = bench_parameters(macs)
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 2000, (1, shape.n_inputs)).astype(np.int16)
    x[rng.random(x.shape) < zeros] = 0
    largest = min(127, 100_000 // int(np.prod(shape.weight_shape[1:])))     # no partial sum may overflow
    weight = rng.integers(-largest, largest + 1, shape.weight_shape).astype(np.int8)
    bias = rng.integers(-1000, 1000, shape.out_channels).astype(np.int32)
    layer = QConv("layer", shape, weight, WEIGHT_FRAC, FRAC, bias, "relu", FRAC)
    # Behind it a layer that reads the result as it rests in feature memory, and sends one channel of it.
    back = ConvShape(shape.out_channels, shape.out_height, shape.out_width, shape.out_channels, (1, 1),
                     groups=shape.out_channels)
    unit = QConv("back", back, np.full(back.weight_shape, 1, np.int8), 0, FRAC, np.zeros(back.out_channels, np.int32),
                 "identity", FRAC)
    program = compile_convs((layer, unit), params, min(macs, 64))
    passes = sum(number == 0 for number, _ in program.plans)
    golden = Golden(QuantisedNetwork("bench", (layer, unit), FRAC)).run(x)
    with SimulatedConv(program, params, min(macs, 64)) as engine:
        run = engine.run(x)
    if not np.array_equal(run.outputs, golden.outputs):
        raise AmacrineError(f"the CNN engine's result of layer {name!r} differs from the golden model's; this is a "
                            "fault in Amacrine, please report it.")
    cycles, zero_macs = (int(run.counters[name][:passes].sum()) for name in ("cycles", "zero_macs"))
    per_input = reach(shape)
    useful = int(per_input[x[0] != 0].sum())
    return ConvRow(name, shape.kernel[0], shape.stride[0], shape.in_channels, shape.out_channels, shape.in_height,
                   shape.in_width, macs, zeros, cycles, useful, int(per_input.sum()),
                   zero_macs, round(useful / (macs * cycles), 4), round(int(per_input.sum()) / (macs * cycles), 4))
