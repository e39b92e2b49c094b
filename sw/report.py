"""What a run did: the result table as text and JSON, and a picture of it.

A row of the table is a column job: the columns that one layer reads from one vector, so that a recurrent
layer has two (``gru1.input``, ``gru1.recurrent``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

CLOCK_HZ = 100e6  # for figures in real time; the gateware's goal on an ECP5


@dataclass(frozen=True)
class JobStats:
    """Counts of one column job, over the whole run.

    Parameters
    ----------
    name : ``<layer>.input`` or ``<layer>.recurrent``
    columns : columns there were, left out or not
    columns_skipped : columns that were left out
    weight_bytes : bytes of weights fetched
    dense_bytes : bytes of weights that all columns together have
    cycles : clock cycles in which the hardware was at this job, or None if not measured
    macs : of a convolution, multiplications of an input that is not zero for a result that there is; None otherwise
    macs_done : all that the CNN engine's units did in the cycles in which they had work, or None if there is no engine
    macs_by_zero : those of them by a weight of zero, lanes without an output channel included; likewise
    """

    name: str
    columns: int
    columns_skipped: int
    weight_bytes: int
    dense_bytes: int
    cycles: int | None = None
    macs: int | None = None
    macs_done: int | None = None
    macs_by_zero: int | None = None


@dataclass(frozen=True)
class RunStats:
    """Results of a run over ``frames`` time steps.

    Parameters
    ----------
    frames : time steps, at least 1
    jobs : counts of each column job; none if the run did not work column by column
    bit_exact : whether the hardware's output equals the golden model's; None if it was not compared
    cycles_mean, cycles_max : clock cycles a frame; None if the run had no clock
    sisdr_db : SI-SDR of the output, against the clean recording; None if there is none
    sisdr_references_db : SI-SDR of what to compare it with, for example ``noisy`` and ``float``
    thresholds : Θ in units of the vector that it applies to, by name
    frame_hz : frames a second in real time; None if the network has no time of its own
    wall_seconds : that the engine took on this machine, or None if not measured
    board : name of the board that it ran on, or None
    link : what host and device saw on the line to the board
    """

    frames: int
    jobs: Sequence[JobStats]
    bit_exact: bool | None = None
    cycles_mean: float | None = None
    cycles_max: int | None = None
    sisdr_db: float | None = None
    sisdr_references_db: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    frame_hz: float | None = None
    wall_seconds: float | None = None
    board: str | None = None
    link: Mapping[str, Mapping[str, int]] | None = None

    def __post_init__(self) -> None:
        names = [job.name for job in self.jobs]
        if self.frames < 1 or len({*names, "all"}) <= len(names):
            raise ValueError(f"a run needs a frame and jobs with names of their own, not 'all': {names}")

    @property
    def total(self) -> JobStats:
        """All jobs together; without cycles, as jobs run at the same time."""
        counts = ("columns", "columns_skipped", "weight_bytes", "dense_bytes")
        return JobStats("all", *(sum(getattr(job, count) for job in self.jobs) for count in counts))

    @property
    def columns_skipped(self) -> dict[str, float]:
        """Fraction of columns left out, by layer, and of ``all`` columns."""
        layers = {_layer(job): self.skipped_of([other for other in self.jobs if _layer(other) == _layer(job)])
                  for job in self.jobs}
        return {**layers, "all": self.skipped_of(self.jobs)}

    @property
    def recurrent_columns_skipped(self) -> float | None:
        """Fraction of columns left out in all recurrent layers together; None if there are none."""
        layers = {_layer(job) for job in self.jobs if job.name.endswith(".recurrent")}
        return self.skipped_of([job for job in self.jobs if _layer(job) in layers]) if layers else None

    @staticmethod
    def skipped_of(jobs: Sequence[JobStats]) -> float:
        """Fraction of columns left out in these jobs together."""
        return _fraction(sum(job.columns_skipped for job in jobs), sum(job.columns for job in jobs))

    @property
    def weight_bytes_per_frame(self) -> float:
        """Bytes of weights fetched in a frame, on average."""
        return self.total.weight_bytes / self.frames

    @property
    def real_time_factor(self) -> float | None:
        """How many times faster than real time the hardware is at `CLOCK_HZ`."""
        if not self.cycles_mean or not self.frame_hz:
            return None
        return CLOCK_HZ / self.frame_hz / self.cycles_mean

    @property
    def frames_per_second(self) -> float | None:
        """Frames that went through in a second, the way to the engine and back included."""
        return self.frames / self.wall_seconds if self.wall_seconds else None

    @property
    def cycles_per_second(self) -> float | None:
        """Clock cycles that the simulation did in a second."""
        return self.cycles_mean * self.frames / self.wall_seconds if self.cycles_mean and self.wall_seconds else None


def _layer(job: JobStats) -> str:
    return job.name.rpartition(".")[0] or job.name


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def to_json(stats: RunStats) -> str:
    """The results as a JSON object; what was not measured, or is infinite, is null."""
    cycles = {"mean": stats.cycles_mean, "max": stats.cycles_max}
    counted = bool(stats.jobs)
    result = {
        "frames": stats.frames,
        "bit_exact": stats.bit_exact,
        "columns_skipped": stats.columns_skipped if counted else None,
        "recurrent_columns_skipped": stats.recurrent_columns_skipped,
        "weight_bytes_per_frame": stats.weight_bytes_per_frame if counted else None,
        "dense_weight_bytes_per_frame": stats.total.dense_bytes / stats.frames if counted else None,
        "cycles_per_frame": None if stats.cycles_mean is None else cycles,
        "real_time_factor_at_100_mhz": stats.real_time_factor,
        "wall_seconds": stats.wall_seconds,
        "frames_per_second": stats.frames_per_second,
        "simulated_cycles_per_second": stats.cycles_per_second,
        "board": stats.board,
        "link": stats.link,
        "sisdr_db": _finite(stats.sisdr_db),
        "sisdr_references_db": {name: _finite(db) for name, db in stats.sisdr_references_db.items()},
        "thresholds": dict(stats.thresholds),
        "jobs": [asdict(job) for job in stats.jobs],
    }
    # json knows no NumPy scalars, which counts often are
    return json.dumps(result, indent=2, allow_nan=False, default=lambda scalar: scalar.item()) + "\n"


def _finite(value: float | None) -> float | None:
    """JSON has no infinity, which is the SI-SDR of a perfect or a silent estimate."""
    return value if value is not None and math.isfinite(value) else None


def table(stats: RunStats) -> str:
    """The results as plain text: a line for each job, more of convolutions, then one for each figure of the run."""
    return "\n".join([*(_job_table(stats) if stats.jobs else []), *_conv_table(stats), *_figures(stats)]) + "\n"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: first column to the left, all others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def _job_table(stats: RunStats) -> list[str]:
    header = ("job", "columns/frame", "skipped", "weight bytes/frame", "dense", "cycles/frame")
    rows = [header, *(_row(job, stats.frames) for job in (*stats.jobs, stats.total))]
    if not any(job.cycles is not None for job in stats.jobs):
        rows = [row[:-1] for row in rows]
    return [*aligned(rows), ""]


def _row(job: JobStats, frames: int) -> tuple[str, ...]:
    return (
        job.name,
        f"{job.columns / frames:,.0f}",
        f"{_fraction(job.columns_skipped, job.columns):.1%}",
        f"{job.weight_bytes / frames:,.0f}",
        f"{job.dense_bytes / frames:,.0f}",
        "" if job.cycles is None else f"{job.cycles / frames:,.0f}",
    )


def _conv_table(stats: RunStats) -> list[str]:
    """Lines for what the CNN engine's multipliers do; none without an engine."""
    rows: list[tuple[str, ...]] = [("convolution", "MACs/frame", "useful", "by zero", "MACs/cycle")]
    for job in stats.jobs:
        if job.macs is None or job.macs_done is None or job.macs_by_zero is None:
            continue
        rows.append((
            _layer(job), f"{job.macs_done / stats.frames:,.0f}", f"{_fraction(job.macs, job.macs_done):.1%}",
            f"{_fraction(job.macs_by_zero, job.macs_done):.1%}",
            f"{job.macs_done / job.cycles:.1f}" if job.cycles else "",
        ))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return [*aligned(rows), ""] if len(rows) > 1 else []


def _figures(stats: RunStats) -> list[str]:
    """Lines ``name  value`` for what was measured of the run as a whole."""
    answers = {None: "not compared", True: "yes, every frame", False: "NO: output differs"}
    figures = {"frames": f"{stats.frames:,}", "equal to golden model": answers[stats.bit_exact]}
    if stats.recurrent_columns_skipped is not None:
        figures["recurrent layers"] = f"{stats.recurrent_columns_skipped:.1%} of columns skipped"
    if stats.cycles_mean is not None:
        figures["cycles a frame"] = f"{stats.cycles_mean:,.0f} on average"
        if stats.cycles_max is not None:
            figures["cycles a frame"] += f", {stats.cycles_max:,} at most"
    if stats.real_time_factor is not None:
        figures["at 100 MHz"] = f"{stats.real_time_factor:.1f} times real time"
    if stats.wall_seconds is not None:
        figures[stats.board or "this machine"] = _speed(stats, stats.wall_seconds)
    if stats.link is not None:
        figures["link"] = "{requests:,} requests, {repeated:,} of them repetitions".format(**stats.link["host"])
    if stats.sisdr_db is not None:
        figures["SI-SDR"] = f"{stats.sisdr_db:.2f} dB"
        if stats.sisdr_references_db:
            others = (f"{name} {db:.2f} dB" for name, db in stats.sisdr_references_db.items())
            figures["SI-SDR"] += f" ({', '.join(others)})"
    if stats.thresholds:
        figures["thresholds"] = ", ".join(f"{name} {theta:g}" for name, theta in stats.thresholds.items())
    width = max(map(len, figures))
    return [f"{name:<{width}}  {value}" for name, value in figures.items()]


def _speed(stats: RunStats, seconds: float) -> str:
    text = f"{seconds:.1f} s"
    if stats.board is not None and stats.frames_per_second is not None:
        text += f", {stats.frames_per_second:,.1f} frames a second, {1000 / stats.frames_per_second:.2f} ms each"
    if stats.cycles_per_second is not None:
        text += f", {stats.cycles_per_second:,.0f} cycles a second"
    elif stats.frame_hz is not None:
        text += f", {stats.frames / stats.frame_hz / seconds:.1f} times real time"
    return text
