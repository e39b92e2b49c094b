"""Where the CNN engine's feature maps lie: on chip, or in external memory if they do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .conv_layout import EXTERNAL_ALIGN, EXTERNAL_BIT, MAP_BITS, ConvParameters
from .errors import AmacrineError

Place = tuple[int, int]
"""Of a slab, as descriptors have it: map words, values (docs/convolution.md)."""


def map_size(channels: int, height: int, width: int) -> Place:
    """Map words and values of a map of one slab, all of it non-zero."""
    return height * width * -(-channels // MAP_BITS), height * width * channels


@dataclass(frozen=True)
class FeatureMap:
    """A map, with the sizes of its slabs (map words, values): the input's two copies, or one of each pass."""

    name: str
    slabs: tuple[Place, ...]

    @property
    def size(self) -> Place:
        return sum(maps for maps, _ in self.slabs), sum(values for _, values in self.slabs)


@dataclass(frozen=True)
class MapPlaces:
    """The places of all slabs of all maps; and words of external memory, first and count."""

    places: list[list[Place]]
    scratch_first: int
    scratch_words: int


def place_maps(maps: Sequence[FeatureMap], params: ConvParameters, pes: int, scratch_word: int) -> MapPlaces:
    """Places of the input's map and the results of the layers, the last of which has no slabs.

    On chip the input lies below, and of the layers' results, whose lives overlap with their neighbours' only, one
    begins behind it and the next one ends at the top. If that is too much, the largest maps go to external memory.

    Parameters
    ----------
    pes : K, weights in a word of external memory
    scratch_word : the first word that maps may have there
    """
    external: set[int] = set()
    while (number := _too_large(maps, external, params)) is not None:
        involved = [n for n in {0, number - 1, number} - external if maps[n].slabs]
        if not params.external:
            raise _refusal(maps, number, params)
        external.add(max(involved, key=lambda n: sum(maps[n].size)))
    base = first_element(scratch_word, pes)
    places, end = _external_places(maps, external, base)
    size = maps[0].size if 0 not in external else (0, 0)
    for number, feature_map in enumerate(maps):
        if number not in external:
            own = feature_map.size
            upper = (params.map_depth - own[0], params.value_depth - own[1])
            places[number] = _in_a_row(feature_map.slabs, (0, 0) if number == 0 else size if number % 2 else upper)
    words = (end - base) * 2 // pes if external else 0
    return MapPlaces([places[number] for number in range(len(maps))], base * 2 // pes if external else 0, words)


def first_element(word: int, pes: int) -> int:
    """Where a plane may begin in external memory, from a word of K weights on."""
    return -(-word * pes // 2 // EXTERNAL_ALIGN) * EXTERNAL_ALIGN


def check_reach(end: int) -> None:
    """Refuse maps that end behind all elements of external memory that have an address."""
    if end > 1 << EXTERNAL_BIT:
        raise AmacrineError(f"The feature maps that do not fit on chip lie in external memory up to element {end}, "
                            f"and the CNN engine reaches {1 << EXTERNAL_BIT}; use smaller maps.")


def _needs(maps: Sequence[FeatureMap], external: set[int], number: int) -> Place:
    """What layer `number`, counted from 1, needs on chip: input, its own input, and result."""
    there = {0, number - 1, number} - external
    return sum(maps[n].size[0] for n in there), sum(maps[n].size[1] for n in there)


def _too_large(maps: Sequence[FeatureMap], external: set[int], params: ConvParameters) -> int | None:
    """The first layer, counted from 1, whose maps do not fit on chip."""
    for number in range(1, len(maps)):
        need = _needs(maps, external, number)
        if need[0] > params.map_depth or need[1] > params.value_depth:
            return number
    return None


def _refusal(maps: Sequence[FeatureMap], number: int, params: ConvParameters) -> AmacrineError:
    before = f"layer {maps[number - 1].name!r} before" if number > 1 else "input"
    need = _needs(maps, set(), number)
    there, depth, what = (need[0], params.map_depth, "map words") if need[0] > params.map_depth else \
        (need[1], params.value_depth, "values")
    return AmacrineError(
        f"Layer {maps[number].name!r}: the maps of the {before}, itself and two inputs need {there} {what} of feature "
        f"memory, and the CNN engine has {depth}, {there - depth} too few; generate it with more, or with external "
        "maps (external=1), or use smaller maps.")


def _in_a_row(slabs: Sequence[Place], start: Place) -> list[Place]:
    places = []
    for size in slabs:
        places.append(start)
        start = (start[0] + size[0], start[1] + size[1])
    return places


def _external_places(maps: Sequence[FeatureMap], external: set[int], base: int) -> tuple[dict[int, list[Place]], int]:
    """Places in external memory, and its end, in elements; results lie in two areas in turn, as on chip."""
    places, ends = {}, {}
    start = base
    for area in ((0,), range(1, len(maps), 2), range(2, len(maps), 2)):
        for number in external.intersection(area):
            places[number], ends[number] = _aligned(maps[number].slabs, start)
        start = max([start, *(ends[number] for number in external.intersection(area))])
    check_reach(start)
    return places, start


def _aligned(slabs: Sequence[Place], start: int) -> tuple[list[Place], int]:
    """Slabs in external memory one behind the other, map words before values; and where they end."""
    places = []
    for size in slabs:
        maps, values = (-(-part // EXTERNAL_ALIGN) * EXTERNAL_ALIGN for part in size)
        places.append((start // EXTERNAL_ALIGN, start + maps | 1 << EXTERNAL_BIT))
        start += maps + values
    return places, start
