"""Progress is for terminals, and only for what takes long."""

import io
import sys
import time

import pytest

from amacrine.sw import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with progress.bar("counting", 4) as bar:
        for _ in range(4):
            time.sleep(0.15)
            bar.update()
    with progress.clock("thinking"):
        time.sleep(0.7)


@pytest.mark.parametrize(("stderr", "patience_s", "shown"), [
    (Terminal, 0.0, True), (Terminal, 5.0, False), (io.StringIO, 0.0, False),
])
def test_progress(monkeypatch, stderr, patience_s, shown):
    monkeypatch.setattr(progress, "PATIENCE_S", patience_s)
    monkeypatch.setattr(sys, "stderr", stderr())
    work()
    text = sys.stderr.getvalue()
    assert ("counting: " in text and "/4" in text) == shown
    assert ("thinking: 1 s" in text) == shown
    assert (text == "") == (not shown)


def test_a_fault_passes_through_the_clock():
    with pytest.raises(ZeroDivisionError), progress.clock("thinking"):
        raise ZeroDivisionError
