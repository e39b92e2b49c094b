"""Benchmark of the SDRAM controller: words read per clock cycle, refresh included.

The Verilated controller on the chip model (sdram.v), bursts always offered, words taken at once; each word is compared
with what the chip was filled with. Three patterns, of a million words each:

- sequential: one burst after the other through the chip
- columns of 600 words: weight columns (GRU of 400 units with 8 bit weights: 1200 bytes), their indices
  increasing by 1 and a geometric number, so that one of four is fetched; from the first column again at the end
- 96-word bursts at random places
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from amacrine.hw.sdram_chips import CHIPS, TYPICAL_LOOP, SdramChip, sampling
from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import need

from .build import Function, build_library, load_library

WORDS = 1_000_000
LIMIT = 100_000         # cycles without a word: something is wrong


@dataclass(frozen=True)
class SdramRow:
    """One row of the table; `efficiency` is words over cycles."""

    chip: str
    clock_mhz: float
    pattern: str
    words: int
    cycles: int
    efficiency: float
    refreshes: int
    activations: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def patterns(chip: SdramChip, words: int = WORDS, seed: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Addresses and lengths of the bursts of each pattern."""
    rng = np.random.default_rng(seed)
    size = 1 << chip.word_bits
    long = np.arange(-(-words // 4000)) * 4000
    gaps = rng.geometric(0.25, -(-words // 600))
    columns = np.cumsum(gaps) % 1200 * 600
    places = rng.integers(0, size - 96, -(-words // 96))
    return {name: (at % size, np.full(len(at), length)) for name, at, length in (
        ("sequential", long, 4000), ("columns of 600", columns, 600), ("96 at random", places, 96))}


def measure(name: str, clock_mhz: float, words: int = WORDS, seed: int = 1) -> Iterator[SdramRow]:
    """A row for each pattern, for a chip of the table.

    Raises
    ------
    AmacrineError : the chip does not run at this clock, a word was wrong, or the controller broke a rule of the chip
    """
    from .sdram import VIOLATIONS

    chip = CHIPS[name]
    try:
        when = sampling(chip, clock_mhz * 1e6)
    except ValueError as error:
        raise AmacrineError(f"{error}.") from error
    library = load_library(build(chip, clock_mhz * 1e6), "bench", _FUNCTIONS)
    for pattern, (addresses, lengths) in patterns(chip, words, seed).items():
        bench = library.bench_new(when.phase_ps, TYPICAL_LOOP)
        cycles = ctypes.c_uint64()
        at, length = (np.ascontiguousarray(array, np.uint32) for array in (addresses, lengths))
        wrong = library.bench_run(bench, at.ctypes.data, length.ctypes.data, len(at), chip.word_bits, LIMIT,
                                  ctypes.byref(cycles))
        code, refreshes, activations = (int(getattr(library, f"bench_{what}")(bench))
                                        for what in ("violation", "refreshes", "activations"))
        library.bench_delete(bench)
        if wrong or code:
            raise AmacrineError(f"The SDRAM controller with {name} at {clock_mhz:g} MHz, {pattern}: {wrong} wrong "
                                f"words, {VIOLATIONS.get(code, 'no violation')}; this is a fault in Amacrine, please "
                                "report it.")
        total = int(length.sum())
        yield SdramRow(name, clock_mhz, pattern, total, cycles.value, round(total / cycles.value, 4), refreshes,
                       activations)


def build(chip: SdramChip, clock_hz: float) -> Path:
    """The shared library of a controller with its chip, and the C++ harness around them."""
    need("amaranth", extra="sim")
    from .sdram import ControllerOnChip

    return build_library(f"sdram {chip} {clock_hz}", lambda: ControllerOnChip(chip, clock_hz), "sdram.v",
                         "sdram_harness.cpp")


_POINTER, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
_FUNCTIONS: tuple[Function, ...] = (
    ("new", _POINTER, [_U32, _U32]), ("delete", None, [_POINTER]), ("violation", _U32, [_POINTER]),
    ("refreshes", _U32, [_POINTER]), ("activations", _U32, [_POINTER]),
    ("run", _U64, [_POINTER, _POINTER, _POINTER, _U32, _U32, _U64, _POINTER]),
)
