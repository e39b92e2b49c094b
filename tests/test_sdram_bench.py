"""The benchmark of the SDRAM controller: its patterns, its bars, and what it refuses."""

import numpy as np
import pytest

from amacrine.hw.sdram_chips import MT48LC16M16
from amacrine.sim.sdram_bench import measure, patterns
from amacrine.sw.errors import AmacrineError

BARS = {"sequential": 0.98, "columns of 600": 0.975, "96 at random": 0.96}


def test_bars():
    """Refresh included; each word was compared with the chip's content, and no rule of the chip was broken."""
    for row in measure("MT48LC16M16A2", 100, words=100_000):
        assert row.efficiency == round(row.words / row.cycles, 4) >= BARS[row.pattern]
        assert row.words >= 100_000 and row.refreshes - 8 >= row.cycles / 781 - 8


def test_patterns():
    for name, (addresses, lengths) in patterns(MT48LC16M16, 50_000).items():
        assert 50_000 <= lengths.sum() < 50_000 + lengths[0] and addresses.max() < 1 << MT48LC16M16.word_bits
        assert name != "columns of 600" or np.all(addresses % 600 == 0)


def test_refusal():
    with pytest.raises(AmacrineError, match=r"MT48LC16M16A2-75 runs up to 133.3 MHz, not at 166 MHz\.$"):
        next(measure("MT48LC16M16A2", 166))
