"""All boards, by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from amacrine.sw.errors import AmacrineError

from . import icepi_zero, ulx3s
from .board import Board

BOARDS: dict[str, Board] = {board.name: board for board in (*ulx3s.BOARDS, *icepi_zero.BOARDS)}


def find(name: str) -> Board:
    """The board of a name, or a sentence with the names there are."""
    if name not in BOARDS:
        raise AmacrineError(f"there is no board {name!r}; choose one of {', '.join(BOARDS)}")
    return BOARDS[name]


def build_id() -> str:
    """Digest of all that the gateware is made from, 16 hexadecimal digits: what a board answers to IDENTIFY."""
    package = Path(__file__).parent.parent
    shared = [package / "sw" / f"{name}.py" for name in ("layout", "conv_layout", "activation", "fixed", "protocol")]
    digest = hashlib.sha256()
    for path in [*sorted((package / "hw").glob("*.py")), *shared, *sorted((package / "boards").glob("*.py"))]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
