"""The order in which column jobs run.

A step of a network is a chain: input columns of a layer, its cell, input columns of the next layer. While a cell is
at work, its layer's successor has to wait, but other columns need not: recurrent columns depend only on the
step before, and the first layer's columns of the next step only on an input that may already be there. The list
made here puts them where the chain would wait, and names them again later in case they could not run yet; the
gateware passes over what has run (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .layout import INPUT_SOURCE
from .program import ProgramJob

CELL_LATENCY = 60
"""Cycles, about, from a layer's last column to the last event from its vector, beside one a unit."""
ACTIVITY = 0.1
"""Share of recurrent columns that is assumed to be fetched."""


@dataclass(frozen=True)
class Entry:
    """One entry of the column list.

    Parameters
    ----------
    job : column job
    source : cell job whose vector it reads, or ``INPUT_SOURCE``
    source_back : it reads the vector of the step before
    optional : pass over while the step's input is not there
    next_step : belongs to the step after the present one
    """

    job: int
    source: int
    source_back: bool = False
    optional: bool = False
    next_step: bool = False

    def encode(self) -> int:
        return (self.job | self.next_step << 5 | self.optional << 6 | self.source << 8 | self.source_back << 12)


def schedule(jobs: Sequence[ProgramJob], input_jobs: Sequence[int], recurrent_jobs: Sequence[int | None], *,
             anticipate: bool = True) -> list[Entry]:
    """The entries of one step.

    Parameters
    ----------
    jobs : column jobs by number
    input_jobs, recurrent_jobs : job numbers by layer; None for a layer without recurrence
    anticipate : run recurrent columns before the step's input is there
    """
    if not input_jobs:
        return []
    inputs = [Entry(job, layer - 1 if layer else INPUT_SOURCE) for layer, job in enumerate(input_jobs)]
    recurrent = [None if job is None else Entry(job, layer, source_back=True)
                 for layer, job in enumerate(recurrent_jobs)]
    if not anticipate:
        pairs = [(inputs[0], recurrent[0]), *zip(recurrent[1:], inputs[1:], strict=True)]
        return [entry for pair in pairs for entry in pair if entry]
    if jobs[input_jobs[0]].encoder == "map":
        # Its events come once, when they come, so it is listed once: recurrent columns have to go first.
        return [entry for entry in recurrent if entry] + inputs
    early = Entry(input_jobs[0], INPUT_SOURCE, optional=True, next_step=True)
    optional = [replace(entry, optional=True) for entry in inputs]
    first = [entry for entry in recurrent[:1] if entry]
    if _waits_for_cells(jobs, recurrent_jobs):
        # The first layer's loop from cell to recurrent columns to cell bounds the rate: it goes first.
        ahead = replace(first[0], optional=True, next_step=True)
        rest = [entry for pair in zip(optional[1:], recurrent[1:], strict=True) for entry in pair if entry]
        return first + [optional[0], early, ahead] + rest + inputs
    place = next((layer for layer, job in enumerate(recurrent_jobs) if layer and job is None), len(inputs) - 1)
    entries: list[Entry] = []
    for layer, before in enumerate(recurrent):
        entries += [before] if before else []
        entries += [early] if layer == place and layer else []
        entries.append(optional[layer])
    return entries + ([early] if len(inputs) == 1 else []) + inputs


def _waits_for_cells(jobs: Sequence[ProgramJob], recurrent_jobs: Sequence[int | None]) -> bool:
    """Whether all layers are recurrent, and so small that columns take less time than the cells they wait for."""
    if len(recurrent_jobs) == 1 or None in recurrent_jobs:
        return False
    job = jobs[recurrent_jobs[-1] or 0]
    return ACTIVITY * job.columns * job.words < job.columns + CELL_LATENCY
