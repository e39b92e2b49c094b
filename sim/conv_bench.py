"""MAC utilisation of the CNN engine: single layers with random kernels, whose inputs have a share of zeros."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from amacrine.sw.conv import reach
from amacrine.sw.conv_compile import compile_convs
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.conv_pack import BIAS_WORDS
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden
from amacrine.sw.qlayers import QConv
from amacrine.sw.quantised import QuantisedNetwork

if TYPE_CHECKING:
    from .conv_engine import SimulatedConv

FRAC, WEIGHT_FRAC = 8, 10
SETTLE_CYCLES = 100_000     # to load the first pass's kernels


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
LARGE = {"3x3, 224": _layer(64, 224, 3)}
"""Only with maps in external memory, and only if asked for: 20.5 MB of them."""
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
    `utilisation` and `of_dense_peak` are useful and dense MACs per MAC unit and cycle. Map words are those of external
    memory, K weights wide, that the layer read, and that it and its input wrote."""

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
    map_words_read: int
    map_words_written: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench_parameters(macs: int, external: bool = False) -> ConvParameters:
    """A generator whose memories hold every layer of the tables, or none of its maps."""
    params = ConvParameters(macs=macs, value_depth=1 << 20, map_depth=1 << 16, kernel_depth=8192, psum_depth=1024,
                            pool_depth=512)
    return replace(params, value_depth=16, map_depth=16, external=1) if external else params


def measure(name: str, shape: ConvShape, zeros: float, macs: int, seed: int = 1, *, pes: int = 0,
            external: bool = False, latency: int = 1) -> ConvRow:
    """Run one map through one layer, compare it with the golden model, and count.

    The kernels of the first pass load while the input comes; the cycles are those from the first pass's start until the
    last result is in memory (the counters of the layer's passes).

    Parameters
    ----------
    pes : weights in a word of the weight port; 0 for as many as there are MACs
    external : all maps lie in external memory
    latency : of the weight memory

    Raises
    ------
    AmacrineError : a result is not the golden model's
    """
    from .conv_engine import SimulatedConv

    params, pes = bench_parameters(macs, external), pes or macs
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
    program = compile_convs((layer, unit), params, pes)
    alone = [plan for number, plan in program.plans if number == 0]
    golden = Golden(QuantisedNetwork("bench", (layer, unit), FRAC)).run(x)
    with SimulatedConv(program, params, pes, latency=latency) as engine:
        run = engine.run(x)
    if not np.array_equal(run.outputs, golden.outputs):
        raise AmacrineError(f"the CNN engine's result of layer {name!r} differs from the golden model's; this is a "
                            "fault in Amacrine, please report it.")
    cycles, zero_macs = (int(run.counters[name][: len(alone)].sum()) for name in ("cycles", "zero_macs"))
    read = written = 0
    if external:
        program = replace(program, passes=program.passes[: len(alone)])
        with SimulatedConv(program, params, pes, latency=latency) as engine:
            read, written = _traffic(engine, x, cycles)
        read -= sum(BIAS_WORDS * plan.blocks + plan.kernel_words for plan in alone) * macs // pes
    per_input = reach(shape)
    useful = int(per_input[x[0] != 0].sum())
    return ConvRow(name, shape.kernel[0], shape.stride[0], shape.in_channels, shape.out_channels, shape.in_height,
                   shape.in_width, macs, zeros, cycles, useful, int(per_input.sum()),
                   zero_macs, round(useful / (macs * cycles), 4), round(int(per_input.sum()) / (macs * cycles), 4),
                   read, written)


def _traffic(engine: SimulatedConv, x: np.ndarray, cycles: int) -> tuple[int, int]:
    """Words that are read and written when one map (1, n_inputs) runs through passes whose results stay in memory."""
    engine.rest(SETTLE_CYCLES)      # kernels of the first pass come before, those of the next step's behind
    read, written = engine.words
    engine.begin(x)
    engine.advance(2 * (x.size + cycles) + SETTLE_CYCLES)
    return engine.words[0] - read, engine.words[1] - written
