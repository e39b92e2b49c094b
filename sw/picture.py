"""Pictures: of a run, with what was heard and which weight columns were fetched for it; of the times of frames.

Needs Matplotlib (the extra ``plot``), which is loaded only when a picture is drawn.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.signal import stft

from .extras import need
from .files import write_atomically

INK, FETCHED, DENSE = "#1f2933", "#2f7fb8", "#c2410c"
SPECTRUM_DB = (-75, -5)  # colour range, against the loudest point of both spectrograms
MAX_RASTER = 1500  # pixels a side: a raster with more frames or columns is averaged down to fewer

Events = Sequence[tuple[np.ndarray, np.ndarray]]


def event_raster(steps: Events, n_columns: int) -> np.ndarray:
    """Which columns were fetched, bool (T, n_columns), from (indices, values) of the events of T steps."""
    raster = np.zeros((len(steps), n_columns), bool)
    for row, (columns, _) in zip(raster, steps, strict=True):
        row[columns] = True
    return raster


def picture(
    path: str | os.PathLike[str],
    *,
    sounds: Mapping[str, np.ndarray],
    rate: int,
    events: Mapping[str, np.ndarray],
    weight_bytes: np.ndarray,
    dense_bytes: float,
    budget_bytes: float | None = None,
    frame_hz: float = 100.0,
) -> None:
    """Draw a run as a PNG file.

    Parameters
    ----------
    sounds : title to samples (n,), drawn as spectrograms from the top down
    rate : sample rate of the sounds in Hz
    events : job name to the columns that were fetched, bool (T, n_columns)
    weight_bytes : bytes of weights fetched in each frame, (T,)
    dense_bytes : bytes of weights that a dense network fetches in each frame
    budget_bytes : what the memory delivers in the time of a frame, if there is such a limit
    frame_hz : frames a second

    Raises
    ------
    AmacrineError : Matplotlib is not installed, or the file cannot be written.
    """
    figure_type = need("matplotlib.figure", extra="plot").Figure
    inches = [1.3] * len(sounds) + [0.3 + 0.42 * len(events), 2.1]
    figure = figure_type(figsize=(9, sum(inches)), dpi=150, layout="constrained")
    axes = figure.subplots(len(inches), 1, sharex=True, height_ratios=inches)
    _draw_spectrograms(axes[:-2], sounds, rate)
    _draw_raster(axes[-2], events, frame_hz)
    _draw_bytes(axes[-1], weight_bytes, dense_bytes, budget_bytes, frame_hz)
    axes[-1].set_xlim(0, len(weight_bytes) / frame_hz)
    axes[-1].set_xlabel("time in s", color=INK)
    _save(path, figure, axes)


def frame_times(path: str | os.PathLike[str], times: Mapping[str, np.ndarray], frame_ms: float) -> None:
    """Draw the milliseconds that frames took as a PNG file.

    Parameters
    ----------
    times : name to milliseconds (T,)
    frame_ms : time from one frame to the next
    """
    figure = need("matplotlib.figure", extra="plot").Figure(figsize=(9, 2.8), dpi=150, layout="constrained")
    axis = figure.subplots()
    colours = [DENSE, FETCHED]
    for (name, values), colour in zip(times.items(), colours, strict=False):
        seconds = np.arange(len(values)) * frame_ms / 1e3
        axis.plot(seconds, values, color=colour, linewidth=1.2, label=f"{name}: {values.mean():.1f} ms on average")
    axis.axhline(frame_ms, color=INK, linewidth=1, linestyle="--", label=f"a frame each {frame_ms:g} ms")
    axis.set(ylim=(0, 2 * frame_ms), xlabel="time in s", ylabel="from frame to output, ms")
    axis.margins(x=0)
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
    _save(path, figure, [axis])


def probabilities(path: str | os.PathLike[str], samples: np.ndarray, rate: int, probability: np.ndarray,
                  frame_hz: float, threshold: float) -> None:
    """Draw the probability of speech over a spectrogram's time as a PNG file.

    Parameters
    ----------
    samples : (n,)
    rate : sample rate in Hz
    probability : of each frame, (T,)
    frame_hz : frames a second
    threshold : probability from which on a frame counts as speech; such frames are shaded
    """
    figure = need("matplotlib.figure", extra="plot").Figure(figsize=(9, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    _draw_spectrograms(axes[:1], {"recording": samples}, rate)
    edges = np.arange(len(probability) + 1) / frame_hz
    axes[1].stairs(np.asarray(probability) >= threshold, edges, color=FETCHED, alpha=0.15, fill=True)
    axes[1].stairs(probability, edges, color=FETCHED, linewidth=1.2)
    axes[1].axhline(threshold, color=INK, linewidth=1, linestyle="--")
    axes[1].set(xlim=(0, edges[-1]), ylim=(0, 1.02), xlabel="time in s")
    _title(axes[1], "probability of speech")
    _save(path, figure, axes)


def _save(path: str | os.PathLike[str], figure: Any, axes: Sequence[Any]) -> None:
    for axis in axes:
        axis.tick_params(colors=INK, labelsize=9, length=3)
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # a version there would change the file
    write_atomically(path, buffer.getvalue())


def _draw_spectrograms(axes: Sequence[Any], sounds: Mapping[str, np.ndarray], rate: int) -> None:
    powers = [_magnitudes(samples, rate) for samples in sounds.values()]
    loudest = max((power.max() for power in powers), default=0) or 1.0
    for axis, (title, samples), power in zip(axes, sounds.items(), powers, strict=True):
        decibels = 20 * np.log10(np.maximum(power / loudest, 1e-9))
        extent = (0, len(samples) / rate, 0, rate / 2000)
        axis.imshow(decibels, origin="lower", aspect="auto", cmap="magma", extent=extent,
                    vmin=SPECTRUM_DB[0], vmax=SPECTRUM_DB[1], interpolation="bilinear")
        axis.set_yticks([0, rate / 4000, rate / 2000], ["0", f"{rate / 4000:g}", f"{rate / 2000:g} kHz"])
        axis.text(0.008, 0.93, title, transform=axis.transAxes, color="white", fontsize=10,
                  fontweight="bold", va="top")


def _magnitudes(samples: np.ndarray, rate: int) -> np.ndarray:
    n = min(512, len(samples))
    magnitudes: np.ndarray = np.abs(stft(samples, rate, nperseg=n, noverlap=n * 3 // 4)[2])
    return magnitudes


def _draw_raster(axis: Any, events: Mapping[str, np.ndarray], frame_hz: float) -> None:
    """One strip for each job, first job on top; the darker a point, the more of its columns were fetched."""
    for strip, raster in enumerate(events.values()):
        extent = (0, len(raster) / frame_hz, strip + 1, strip)
        axis.imshow(_shrink(raster.astype(np.float64)).T, aspect="auto", cmap="Blues", vmin=0, vmax=1,
                    extent=extent, interpolation="antialiased")
        axis.axhline(strip, color="white", linewidth=2.5)
    labels = [f"{name}\n{1 - raster.mean():.0%} skipped" for name, raster in events.items()]
    axis.set_yticks(np.arange(len(events)) + 0.5, labels)
    axis.set_ylim(len(events), 0)
    _title(axis, "weight columns fetched")


def _shrink(raster: np.ndarray) -> np.ndarray:
    """Average neighbours until neither side is above `MAX_RASTER`."""
    for axis in (0, 1):
        step = -(-raster.shape[axis] // MAX_RASTER)
        starts = np.arange(0, raster.shape[axis], step)
        sizes = np.diff(starts, append=raster.shape[axis])
        raster = np.add.reduceat(raster, starts, axis) / np.expand_dims(sizes, 1 - axis)
    return raster


def _draw_bytes(
    axis: Any, weight_bytes: np.ndarray, dense_bytes: float, budget_bytes: float | None, frame_hz: float
) -> None:
    time = (np.arange(len(weight_bytes)) + 0.5) / frame_hz
    kilobytes = np.asarray(weight_bytes) / 1000
    axis.fill_between(time, kilobytes, step="mid", color=FETCHED, linewidth=0)
    levels = [("dense network", dense_bytes / 1000, DENSE)]
    if budget_bytes is not None:
        levels.append(("memory budget", budget_bytes / 1000, INK))
    for text, level, colour in levels:
        axis.axhline(level, color=colour, linewidth=1.2, linestyle="--")
        axis.annotate(f"{text}: {level:,.0f} kB", (1, level), (-4, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=colour, fontsize=9, ha="right", va="bottom")
    axis.set_ylim(0, 1.2 * max([kilobytes.max(initial=0), *(level for _, level, _ in levels)]))
    axis.yaxis.set_major_formatter("{x:,.0f} kB")
    _title(axis, f"weights fetched in a frame: {kilobytes.mean():,.0f} kB on average")


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10, fontweight="bold", color=INK)
