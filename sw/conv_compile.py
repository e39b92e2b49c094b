"""From quantised convolutions to passes, slabs and kernel words: what the CNN engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .conv import pool_shift
from .conv_layout import EXTERNAL_ALIGN, EXTERNAL_BIT, PASS_FIELDS, PASSES, SLAB_FIELDS, ConvParameters
from .conv_maps import FeatureMap, MapPlaces, Place, check_reach, first_element, map_size, place_maps
from .conv_pack import BIAS_WORDS, ConvPass, pack_pass, plan_passes, pool_mode
from .convolution import ConvShape
from .errors import AmacrineError
from .fixed import STATE_FRAC
from .layout import Function
from .qlayers import BOUNDED, QConv, result_frac

FUNCTIONS = {"identity": Function.IDENTITY, "relu": Function.RELU, "relu6": Function.RELU,
             "sigmoid": Function.SIGMOID, "tanh": Function.TANH}
INPUT_SLABS = 2


@dataclass(frozen=True, eq=False)
class ConvProgram:
    """The convolutions at the head of a network, as the CNN engine runs them.

    Parameters
    ----------
    passes : uint16 (passes, len(PASS_FIELDS))
    slabs : uint16 (2 + passes, len(SLAB_FIELDS))
    kernels : int8 (words, P), biases and kernels of all passes; a pass's weight address counts words of K weights
    plans : the passes' layouts, with the number of the layer that each belongs to
    input_order, output_order : for each element in the order in which it is streamed, its index in the flattened
        (channels, height, width) map
    scratch_first, scratch_words : words of K weights in weight memory, not loaded, for maps that do not fit on chip
    """

    passes: np.ndarray
    slabs: np.ndarray
    kernels: np.ndarray
    plans: tuple[tuple[int, ConvPass], ...]
    input_order: np.ndarray
    output_order: np.ndarray
    scratch_first: int = 0
    scratch_words: int = 0

    def value_address(self, slab: int) -> int:
        """Where a slab's values begin."""
        low, high = (int(self.slabs[slab][SLAB_FIELDS.index(name)]) for name in ("value_low", "value_high"))
        return low | high << 16

    def with_scratch(self, first_word: int, pes: int) -> ConvProgram:
        """The same program, with its maps in weight memory from word `first_word` on, or a little behind."""
        if not self.scratch_words:
            return self
        start = first_element(first_word, pes)
        check_reach(start + self.scratch_words * pes // 2)
        shift = start - self.scratch_first * pes // 2
        slabs = _moved(self.slabs, SLAB_FIELDS, "", shift)
        passes = _moved(self.passes, PASS_FIELDS, "out_", shift)
        return replace(self, slabs=slabs, passes=passes, scratch_first=start * 2 // pes)


def _moved(rows: np.ndarray, names: Sequence[str], prefix: str, shift: int) -> np.ndarray:
    """Descriptors whose places in external memory lie `shift` elements behind; those on chip stay."""
    columns = [names.index(prefix + name) for name in ("map", "value_low", "value_high")]
    maps, low, high = rows[:, columns].astype(np.int64).T
    external = high >> (EXTERNAL_BIT - 16) & 1
    value = (low | high << 16) + external * shift
    moved = rows.copy()
    moved[:, columns] = np.stack([maps + external * shift // EXTERNAL_ALIGN, value & 0xFFFF, value >> 16], axis=1)
    return moved


@dataclass
class _Builder:
    params: ConvParameters
    pes: int
    first_word: int
    passes: list[list[int]] = field(default_factory=list)
    slabs: list[list[int]] = field(default_factory=list)
    kernels: list[np.ndarray] = field(default_factory=list)
    plans: list[tuple[int, ConvPass]] = field(default_factory=list)
    kernel_words: int = 0


def compile_convs(layers: Sequence[QConv], params: ConvParameters, pes: int, first_word: int = 0) -> ConvProgram:
    """Lay out a chain of convolutions, whose last result leaves as a dense stream.

    Parameters
    ----------
    layers : first to last, at least one
    params : of the CNN engine; what does not fit is refused, with the layer and by how much
    pes : K, weights in a word of the weight port; divides P
    first_word : address of the first kernel word on the weight port, in words of K weights; maps that do not fit on
        chip lie behind the kernels
    """
    if params.macs % pes:
        raise AmacrineError(f"The CNN engine has {params.macs} MACs, which {pes} weights in a word do not divide; "
                            "generate it with another number of one of them.")
    build = _Builder(params, pes, first_word)
    plans = [plan_passes(layer.name, layer.shape, params) for layer in layers]
    words = sum(BIAS_WORDS * plan.blocks + plan.kernel_words for passes in plans for plan in passes)
    maps = _place_maps(layers, plans, params, pes, first_word + words * (params.macs // pes))
    for place in maps.places[0]:
        build.slabs.append(_slab(place, layers[0].shape.in_channels, 0))
    sources = [(0, 0, layers[0].shape.in_channels)]     # slab, first channel, channels of the map before
    for number, layer in enumerate(layers):
        sources = _add_layer(build, number, layer, plans[number], sources, maps.places[number + 1],
                             last=number == len(layers) - 1)
    if len(build.passes) > PASSES:
        raise AmacrineError(f"The convolutions need {len(build.passes)} passes, and the CNN engine has {PASSES}, "
                            f"{len(build.passes) - PASSES} too few; use more MACs, larger memories or fewer layers.")
    return ConvProgram(
        np.array(build.passes, np.uint16), np.array(build.slabs, np.uint16), np.concatenate(build.kernels),
        tuple(build.plans), _input_order(layers[0].shape), _output_order(build.plans, len(layers) - 1),
        maps.scratch_first, maps.scratch_words)


def _place_maps(layers: Sequence[QConv], plans: Sequence[Sequence[ConvPass]], params: ConvParameters, pes: int,
                scratch_word: int) -> MapPlaces:
    """Places of the maps: those of the input, and of each layer's result; the last one leaves."""
    shape = layers[0].shape
    maps = [FeatureMap("input", (map_size(shape.in_channels, shape.in_height, shape.in_width),) * INPUT_SLABS)]
    for layer, passes in zip(layers[:-1], plans, strict=False):
        slabs = (map_size(plan.channels, layer.shape.out_height, layer.shape.out_width) for plan in passes)
        maps.append(FeatureMap(layer.name, tuple(slabs)))
    maps.append(FeatureMap(layers[-1].name, ()))
    return place_maps(maps, params, pes, scratch_word)


def _slab(place: Place, channels: int, first_channel: int) -> list[int]:
    fields = {"map": place[0], "value_low": place[1] & 0xFFFF, "value_high": place[1] >> 16, "channels": channels,
              "first_channel": first_channel}
    return [fields.get(name, 0) for name in SLAB_FIELDS]


def _add_layer(build: _Builder, number: int, layer: QConv, plans: Sequence[ConvPass],
               sources: list[tuple[int, int, int]], places: Sequence[Place],
               last: bool) -> list[tuple[int, int, int]]:
    """Adds the passes of a layer; returns the slabs it makes: number, first channel, channels."""
    made = []
    for index, plan in enumerate(plans):
        place = (0, 0) if last else places[index]
        read = [slab for slab in sources if slab[1] < plan.in_high and slab[1] + slab[2] > plan.in_low]
        slab = len(build.slabs)
        fields = plan.fields() | {
            "control": _control(layer, plan, first=index == 0, reads_input=number == 0, dense=last),
            "slab_first": read[0][0], "slab_count": len(read), "ceiling": layer.ceiling,
            "out_map": place[0], "out_value_low": place[1] & 0xFFFF, "out_value_high": place[1] >> 16,
            "shifts": _shifts(layer),
        }
        address = build.first_word + build.kernel_words * (build.params.macs // build.pes)
        fields |= {"weight_low": address & 0xFFFF, "weight_high": address >> 16}
        build.kernels.append(pack_pass(layer.weight, layer.bias, plan))
        build.kernel_words += len(build.kernels[-1])
        build.passes.append([fields[name] for name in PASS_FIELDS])
        build.slabs.append(_slab(place, plan.channels, plan.out_first))
        build.plans.append((number, plan))
        made.append((slab, plan.out_first, plan.channels))
    return made


def _control(layer: QConv, plan: ConvPass, *, first: bool, reads_input: bool, dense: bool) -> int:
    shape = layer.shape
    return (reads_input | plan.depthwise << 1 | (shape.stride[0] - 1) << 2 | (shape.stride[1] - 1) << 3
            | plan.q_shift << 4 | FUNCTIONS[layer.activation] << 6 | first << 8 | dense << 9
            | (shape.pooling == "average") << 10 | pool_mode(shape) << 11)


def _shifts(layer: QConv) -> int:
    """Shifts of partial sums, of a bounded function's result, and of a mean."""
    out = STATE_FRAC - layer.output_frac if layer.activation in BOUNDED else 0
    mean = pool_shift(layer.shape) if layer.shape.pooling == "average" else 0
    return layer.scale - result_frac(layer) | out << 4 | mean << 8


def _input_order(shape: ConvShape) -> np.ndarray:
    """Elements as they are streamed in: row by row, column by column, channel by channel."""
    index = np.arange(shape.n_inputs).reshape(shape.in_channels, shape.in_height, shape.in_width)
    return np.ascontiguousarray(index.transpose(1, 2, 0)).reshape(-1)


def _output_order(plans: Sequence[tuple[int, ConvPass]], layer: int) -> np.ndarray:
    """Elements as they are streamed out: pass by pass, and in each as they are streamed in."""
    parts = []
    for number, plan in plans:
        if number == layer:
            shape = plan.shape
            index = np.arange(shape.n_outputs).reshape(shape.out_channels, shape.out_height, shape.out_width)
            mine = index[plan.out_first : plan.out_first + plan.channels]
            parts.append(np.ascontiguousarray(mine.transpose(1, 2, 0)).reshape(-1))
    return np.concatenate(parts)
