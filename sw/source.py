"""Where a stream's vectors come from: an array, or an iterator that may take its time."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np

from .errors import AmacrineError


def open_source(frames: np.ndarray | Iterable[np.ndarray], n_inputs: int) -> Source:
    """A source of int16 vectors of ``n_inputs`` elements; an iterator is read by a thread of its own."""
    if isinstance(frames, np.ndarray):
        if frames.ndim != 2:
            raise AmacrineError(f"inputs must be int16 vectors of {n_inputs} elements, or an array "
                                f"(steps, {n_inputs}), not an array of shape {frames.shape}")
        return Source(iter(frames), n_inputs)
    return ThreadedSource(iter(frames), n_inputs)


class Source:
    """Vectors that are all there."""

    wake: socket.socket | None = None

    def __init__(self, frames: Iterator[np.ndarray], n_inputs: int):
        self._frames, self._n_inputs = frames, n_inputs
        self.ended = False

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def poll(self) -> np.ndarray | None:
        """The next vector; None if it is not there yet, or none will come."""
        frame = None if self.ended else next(self._frames, None)
        self.ended = frame is None
        return None if frame is None else self._checked(frame)

    def _checked(self, frame: np.ndarray) -> np.ndarray:
        frame = np.asarray(frame)
        if frame.dtype != np.int16 or frame.shape != (self._n_inputs,):
            raise AmacrineError(f"inputs must be int16 vectors of {self._n_inputs} elements, not {frame.dtype} of "
                                f"shape {frame.shape}")
        return frame

    def raise_error(self) -> None:
        """Raise what the iterator raised."""

    def close(self) -> None:
        """Read no more."""


class _Kept:
    """Keeps the error of its block for another thread, which raises it."""

    error: BaseException | None = None

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> bool:
        self.error = error
        return True


class ThreadedSource(Source):
    """Vectors of an iterator that may block.

    The thread is at most two vectors ahead. ``wake`` can be read when `poll` has something new to tell.
    """

    def __init__(self, frames: Iterator[np.ndarray], n_inputs: int):
        super().__init__(frames, n_inputs)
        self._queue: queue.Queue[tuple[np.ndarray | None, BaseException | None]] = queue.Queue(1)
        self.wake, self._waker = socket.socketpair()
        self.wake.setblocking(False)
        self._waker.setblocking(False)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        ended = False
        while not ended and not self._closed.is_set():
            frame = None
            with _Kept() as kept:
                frame = next(self._frames, None)
            ended = frame is None
            self._queue.put((frame, kept.error))
            try:
                self._waker.send(b"\0")
            except OSError:
                pass    # full, so it wakes already; or closed

    def poll(self) -> np.ndarray | None:
        assert self.wake is not None
        try:
            self.wake.recv(4096)
        except BlockingIOError:
            pass
        try:
            frame, error = (None, None) if self.ended else self._queue.get_nowait()
        except queue.Empty:
            return None
        self._error = self._error or error
        self.ended = frame is None
        return None if frame is None else self._checked(frame)

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        assert self.wake is not None
        self._closed.set()
        while True:     # a thread that waits to put its vector sees then that it is over
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self.wake.close()
        self._waker.close()
