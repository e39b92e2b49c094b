"""A simulated board behind a pseudo-terminal, for any program that can open a serial port."""

from __future__ import annotations

import os
import select
import tty
from collections.abc import Callable
from types import TracebackType

from .board import SimulatedBoard

CHUNK_CYCLES = 20_000       # between two looks at the terminal
IDLE_SECONDS = 0.5          # to wait for the client when nothing is going on; it wakes us at once
QUIET_CHUNKS = 200          # without a byte either way, after which nothing is going on


class Terminal:
    """A pseudo-terminal; clients open ``name``, we read and write.

    We keep the clients' side open ourselves, so that one may come after the other.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)
        self.name = os.ttyname(self._theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._ours)
        os.close(self._theirs)

    def wait(self, seconds: float) -> None:
        """Sleep until something can be read, or the time is over."""
        select.select([self._ours], [], [], seconds)

    def read(self) -> bytes:
        """What the client has sent; nothing if it has not."""
        try:
            return os.read(self._ours, 65536)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        """To the client. What nobody reads is lost in the end, as on a serial line."""
        try:
            os.write(self._ours, data)
        except BlockingIOError:
            pass


def serve(board: SimulatedBoard, terminal: Terminal, stop: Callable[[], bool]) -> None:
    """Run the board for whoever opens the terminal, until ``stop()``.

    While nobody sends and nothing is answered, the board's time passes slowly, so that waiting costs no power.
    """
    quiet = 0
    while not stop():
        data = terminal.read()
        if data:
            board.send(data)
        answer = board.run(CHUNK_CYCLES)
        if answer:
            terminal.write(answer)
        quiet = 0 if data or answer or board.unsent else quiet + 1
        if quiet > QUIET_CHUNKS:
            terminal.wait(IDLE_SECONDS)
