"""What openFPGALoader calls our boards. No Amaranth here, so that a board can be programmed without it."""

from __future__ import annotations

from amacrine.sw.errors import AmacrineError

OPENFPGALOADER = {
    "ulx3s": "ulx3s",
    "icepi-zero": "icepi-zero",
}


def openfpgaloader_name(board: str) -> str:
    """openFPGALoader's name of a board; sizes of one board (ulx3s-85f) share it."""
    for name, theirs in OPENFPGALOADER.items():
        if board == name or board.startswith(f"{name}-"):
            return theirs
    raise AmacrineError(f"there is no board {board!r} to be programmed; choose one of {', '.join(OPENFPGALOADER)}")
