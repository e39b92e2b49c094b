"""Progress on stderr: only on a terminal, and only for what takes more than a few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

PATIENCE_S = 2.0


def bar(label: str, total: int, unit: str = "frame") -> tqdm:
    """A progress bar for work whose steps can be counted."""
    return tqdm(desc=label, total=total, unit=f" {unit}s", delay=PATIENCE_S, leave=False, disable=None)


@contextmanager
def clock(label: str) -> Iterator[None]:
    """The seconds that have passed, for work whose steps cannot be counted."""
    done = threading.Event()
    thread = threading.Thread(target=_tick, args=(label, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tick(label: str, done: threading.Event) -> None:
    start = time.monotonic()
    if done.wait(PATIENCE_S):
        return
    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        while not done.wait(0.5):
            line.set_description_str(f"{label}: {time.monotonic() - start:.0f} s")
