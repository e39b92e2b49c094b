"""Thresholds of the encoders as a user states them: in real units (``0.1``) or in LSBs (``26lsb``)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import AmacrineError
from .fixed import THETA_BITS

THETA_MAX = (1 << THETA_BITS) - 1
SOURCES = ("input", "recurrent")
DEFAULT = ""  # key of the threshold for whatever has none of its own


@dataclass(frozen=True)
class Threshold:
    """A threshold in the units of its vector, or in LSBs of it if ``lsb``."""

    value: float
    lsb: bool = False

    def to_lsb(self, job: str, frac: int) -> int:
        """The threshold of ``job``, whose vector has ``frac`` fractional bits, rounded to an LSB."""
        if not math.isfinite(self.value) or self.value < 0:
            raise AmacrineError(f"threshold {self} of {job} must be a finite number, at least 0")
        if self.lsb and self.value != int(self.value):
            raise AmacrineError(f"threshold {self} of {job} must be a whole number of LSBs")
        theta = math.floor(self.value if self.lsb else self.value * 2.0**frac + 0.5)
        if theta > THETA_MAX:
            raise AmacrineError(
                f"threshold {self} of {job} is {theta} LSBs ({frac} fractional bits); at most {THETA_MAX} fit"
            )
        return theta

    def __str__(self) -> str:
        return f"{self.value:g}lsb" if self.lsb else f"{self.value:g}"


#: By ``<layer>.<source>``, ``<layer>``, ``input`` or ``recurrent`` (that source of every layer), or DEFAULT;
#: the first of these that is there counts.
Thresholds = Mapping[str, Threshold]


def parse_thresholds(text: str) -> dict[str, Threshold]:
    """Read ``0.1`` or ``gru1.input=0.1,gru2=26lsb,recurrent=0.05``; a part without a name is the default.

    Raises
    ------
    AmacrineError
        for a part that is no number, is negative, or names the same thing twice
    """
    thresholds: dict[str, Threshold] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        name = name.strip()
        if name in thresholds:
            raise AmacrineError(f"thresholds {text!r} give {name or 'a default'} twice")
        if "=" in part and not name:
            raise AmacrineError(f"threshold {part.strip()!r} has no name before the '='")
        thresholds[name] = _parse_threshold(number.strip())
    return thresholds


def _parse_threshold(text: str) -> Threshold:
    lsb = text.endswith("lsb")
    try:
        value = float(text.removesuffix("lsb"))
    except ValueError:
        raise AmacrineError(
            f"threshold {text!r} is neither a number such as '0.1' nor one of LSBs such as '26lsb'"
        ) from None
    if not math.isfinite(value) or value < 0:
        raise AmacrineError(f"threshold {text!r} must be a finite number, at least 0")
    if lsb and value != int(value):
        raise AmacrineError(f"threshold {text!r} must be a whole number of LSBs")
    return Threshold(value, lsb)


def check_names(thresholds: Thresholds, jobs: Iterable[str]) -> None:
    """Refuse thresholds for layers or sources that the network (with these jobs) does not have."""
    jobs = list(jobs)
    layers = {job.rpartition(".")[0] for job in jobs}
    for name in thresholds:
        if name not in {DEFAULT, *SOURCES, *layers, *jobs}:
            raise AmacrineError(f"threshold for unknown {name!r}; there are {', '.join(jobs)}")


def theta(thresholds: Thresholds, job: str, frac: int) -> int:
    """The threshold of one job in LSBs of its vector, 0 if none is given."""
    layer, _, source = job.rpartition(".")
    for name in (job, layer, source, DEFAULT):
        if name in thresholds:
            return thresholds[name].to_lsb(job, frac)
    return 0
