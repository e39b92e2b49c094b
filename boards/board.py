"""What describes a board. No Amaranth here, so that the command line can list boards without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amacrine.hw.sdram_chips import CHIPS, SdramChip
from amacrine.sw.layout import Parameters
from amacrine.sw.protocol import BAUD


@dataclass(frozen=True)
class Board:
    """A board, and the generator parameters chosen for it.

    Parameters
    ----------
    name : on the command line
    title : for people
    programmer : what openFPGALoader calls it
    platform : makes its amaranth-boards platform
    clock_hz : system and SDRAM clock
    chip : its SDRAM, a key of `CHIPS`
    parameters : of the engine
    leds : resources of alive, busy, fault, link active, memory ready, in this order; as many as there are
    button : resource of the reset button, or None
    baud : of the serial line
    buffers : sizes of the link's buffers, options of `Accelerator`
    """

    name: str
    title: str
    programmer: str
    platform: Callable[[], Any]
    clock_hz: int
    chip: str
    parameters: Parameters
    leds: Sequence[tuple[str, int]]
    button: tuple[str, int] | None
    baud: int = BAUD
    buffers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sdram(self) -> SdramChip:
        """Geometry and timings of its SDRAM."""
        return CHIPS[self.chip]


#: For the 56 block RAMs of an LFE5U-25F; NSNet2 still fits.
SMALL = {"psum_depth": 3072, "state_depth": 1024}
SMALL_BUFFERS = {"stream_depth": 1024, "receive_bytes": 2048, "ram_style": "distributed"}
