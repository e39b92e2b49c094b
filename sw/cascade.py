"""A cascade: one network gates another. Silero VAD hears every frame; NSNet2 runs only while there is speech.

    samples ─┬─► Silero VAD, 32 ms a step ─► speech? ─► gate, with hang-over
             └─► NSNet2, 10 ms a step ◄── runs, or rests ──┘

Both networks are one program on one device, with the weights of both in its memory. NSNet2 keeps its state while it
rests; what it would have let through then is silence. This is dynamic sparsity at the level of whole modules (Zhou,
Gao, Delbruck, Verhelst, Liu, Nature Communications 16, 9928, 2025, outlook).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import nsnet2, silero
from .audio import read_wav
from .execute import difference, job_stats, run_golden
from .golden import GoldenRun
from .layout import Parameters
from .program import Program
from .progress import bar
from .quantised import QuantisedNetwork
from .report import CLOCK_HZ, aligned
from .workload import Detection, Enhancement, detection, enhancement

HANGOVER_S = 0.2
"""Seconds for which the gate stays open after the last frame with speech."""
SWITCHING = "switching"


@dataclass(frozen=True, eq=False)
class Cascade:
    """A recording for both networks, and how long the gate stays open.

    Parameters
    ----------
    detection, enhancement : the same recording for Silero VAD, V frames, and for NSNet2, T frames
    hangover : frames of Silero VAD for which the gate stays open after the last one with speech
    """

    detection: Detection
    enhancement: Enhancement
    hangover: int

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.enhancement.noisy) / nsnet2.RATE_HZ

    @property
    def due(self) -> np.ndarray:
        """For each frame of NSNet2, the frame of Silero VAD in which its last sample comes; int64 (T,)."""
        ends = np.arange(len(self.enhancement.inputs)) * nsnet2.HOP_LENGTH + nsnet2.WINDOW_LENGTH
        return np.minimum((ends - 1) // silero.HOP_LENGTH, len(self.detection.inputs) - 1)

    def gains(self, opened: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """Gains of all frames, (T, 161): those of the frames that ran, in order, and nothing for the others."""
        everything = np.zeros((len(opened), gains.shape[1]))
        everything[opened] = gains
        return everything


def load_cascade(path: Path, hangover_s: float = HANGOVER_S) -> tuple[Cascade, list[str]]:
    """Both networks with a recording; and notes on conversions."""
    samples, notes = read_wav(path, nsnet2.RATE_HZ)     # Silero VAD's rate, too
    hangover = round(hangover_s * silero.RATE_HZ / silero.HOP_LENGTH)
    return Cascade(detection(samples), enhancement(samples), hangover), notes


def gate(probabilities: np.ndarray, hangover: int) -> np.ndarray:
    """Whether the gate is open in each frame; bool (V,).

    Parameters
    ----------
    probabilities : (V,), of speech; the gate is open from `silero.DECISION` on
    hangover : frames for which it stays open after that
    """
    speech = np.asarray(probabilities) >= silero.DECISION
    frames = np.arange(len(speech))
    last = np.maximum.accumulate(np.where(speech, frames, -hangover - 1))
    return frames - last <= hangover


class CascadeDevice(Protocol):
    """A device, or a simulated engine, that holds two programs in one."""

    def load(self, program: Program) -> Any: ...

    def switch(self, program: Program) -> Any: ...

    def run(self, inputs: np.ndarray, *, progress: Callable[[int], None] | None = None) -> Any: ...

    def counters(self) -> dict[str, dict[str, int]]: ...


@dataclass(frozen=True, eq=False)
class CascadeRun:
    """What a cascade did, gated or not.

    Parameters
    ----------
    speech : float64 (V,), probabilities; none if nothing was asked for speech
    opened : bool (T,), the frames in which NSNet2 ran
    gains : float64 (T, 161), zero where it did not
    goldens : the golden runs by network
    cycles : clock cycles by network, and of `switching` between them; empty without a clock
    fault : how the hardware differs from the golden model, or None
    """

    speech: np.ndarray
    opened: np.ndarray
    gains: np.ndarray
    goldens: dict[str, GoldenRun]
    cycles: dict[str, int]
    fault: str | None = None


def golden_cascade(cascade: Cascade, vad: QuantisedNetwork, enhancer: QuantisedNetwork) -> CascadeRun:
    """The golden models, gated."""
    heard = run_golden(vad, vad.quantise_inputs(cascade.detection.inputs))
    speech = vad.dequantise_outputs(heard.outputs)[:, 0]
    opened = gate(speech, cascade.hangover)[cascade.due]
    golden = run_golden(enhancer, enhancer.quantise_inputs(cascade.enhancement.inputs[opened]))
    gains = cascade.gains(opened, enhancer.dequantise_outputs(golden.outputs))
    return CascadeRun(speech, opened, gains, {vad.name: heard, enhancer.name: golden}, {})


def golden_always(cascade: Cascade, enhancer: QuantisedNetwork) -> CascadeRun:
    """The enhancer's golden model, in every frame."""
    golden = run_golden(enhancer, enhancer.quantise_inputs(cascade.enhancement.inputs))
    gains = enhancer.dequantise_outputs(golden.outputs)
    return CascadeRun(np.empty(0), np.ones(len(gains), bool), gains, {enhancer.name: golden}, {})


def run_cascade(cascade: Cascade, vad: QuantisedNetwork, enhancer: QuantisedNetwork, device: CascadeDevice,
                programs: Sequence[Program], hardware: str, clock: Callable[[], int] | None = None) -> CascadeRun:
    """The cascade on hardware, compared with the golden models in every output and count.

    Parameters
    ----------
    programs : of `vad` and of `enhancer`, compiled together
    hardware : what to call it in `fault`
    clock : clock cycles up to now, if there is such a count
    """
    golden = golden_cascade(cascade, vad, enhancer)
    heard = vad.quantise_inputs(cascade.detection.inputs)
    noisy = enhancer.quantise_inputs(cascade.enhancement.inputs)
    ends = np.searchsorted(cascade.due, np.arange(len(heard)), side="right")    # frames due up to each step
    watch = _Watch(clock)
    speech, gains, opened = [], [np.empty((0, enhancer.n_outputs), np.int16)], np.zeros(len(noisy), bool)
    device.load(programs[0])
    with bar("cascade", len(heard)) as progress:
        for step in range(len(heard)):
            speech.append(watch(vad.name, lambda: device.run(heard[step : step + 1]).outputs))     # noqa: B023
            recent = vad.dequantise_outputs(np.concatenate(speech[-1 - cascade.hangover :]))[:, 0]
            frames = slice(ends[step - 1] if step else 0, ends[step])
            if frames.start < frames.stop and gate(recent, cascade.hangover)[-1]:
                watch(SWITCHING, lambda: device.switch(programs[1]))
                gains.append(watch(enhancer.name, lambda: device.run(noisy[frames]).outputs))     # noqa: B023
                opened[frames] = True
                watch(SWITCHING, lambda: device.switch(programs[0]))
            progress.update(1)
    fault = None
    for network, program, parts in ((vad, programs[0], speech), (enhancer, programs[1], gains)):
        device.switch(program)
        fault = fault or difference(golden.goldens[network.name], np.concatenate(parts), device.counters(),
                                    program.parameters, hardware)
    return replace(golden, cycles=watch.cycles, fault=fault,
                   gains=cascade.gains(opened, enhancer.dequantise_outputs(np.concatenate(gains))))


def run_always(cascade: Cascade, enhancer: QuantisedNetwork, device: CascadeDevice, programs: Sequence[Program],
               hardware: str, clock: Callable[[], int] | None = None) -> CascadeRun:
    """The enhancer in every frame, on hardware; otherwise as `run_cascade`."""
    golden = golden_always(cascade, enhancer)
    watch = _Watch(clock)
    device.load(programs[1])
    noisy = enhancer.quantise_inputs(cascade.enhancement.inputs)
    with bar("always on", len(noisy)) as progress:
        outputs = watch(enhancer.name, lambda: device.run(
            noisy, progress=lambda done: progress.update(done - progress.n)).outputs)
    fault = difference(golden.goldens[enhancer.name], outputs, device.counters(), programs[1].parameters,
                       hardware)
    return replace(golden, cycles=watch.cycles, fault=fault, gains=enhancer.dequantise_outputs(outputs))


class _Watch:
    """Adds up the clock cycles of calls, by what they were for."""

    def __init__(self, clock: Callable[[], int] | None):
        self.clock = clock
        self.cycles: dict[str, int] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        start = self.clock() if self.clock else 0
        result = call()
        if self.clock:
            self.cycles[name] = self.cycles.get(name, 0) + self.clock() - start
        return result


@dataclass(frozen=True)
class CascadeRow:
    """Cost of one network in a second of sound.

    Parameters
    ----------
    what : name of the row
    frames : of it that ran
    weight_bytes : a second
    milliseconds : of the hardware's time a second, at `CLOCK_HZ`; None without a clock
    """

    what: str
    frames: int
    weight_bytes: float
    milliseconds: float | None

    def __add__(self, other: CascadeRow) -> CascadeRow:
        both = None if self.milliseconds is None or other.milliseconds is None else (
            self.milliseconds + other.milliseconds)
        return CascadeRow(self.what, self.frames, self.weight_bytes + other.weight_bytes, both)


def costs(run: CascadeRun, seconds: float, parameters: Parameters) -> list[CascadeRow]:
    """A row for each network that ran, one for switching if it took time, and last their sum."""
    rows = []
    for name, golden in run.goldens.items():
        weight_bytes = sum(job.weight_bytes for job in job_stats(golden, parameters))
        rows.append(CascadeRow(name, len(golden.outputs), weight_bytes / seconds, _milliseconds(run, name, seconds)))
    if SWITCHING in run.cycles:
        rows.append(CascadeRow(SWITCHING, 0, 0.0, _milliseconds(run, SWITCHING, seconds)))
    return [*rows, replace(sum(rows[1:], rows[0]), what="in all")]


def _milliseconds(run: CascadeRun, name: str, seconds: float) -> float | None:
    return 1000 * run.cycles.get(name, 0) / CLOCK_HZ / seconds if run.cycles else None


def cascade_table(gated: Sequence[CascadeRow], always: Sequence[CascadeRow]) -> list[str]:
    """Lines of both ways side by side, and what gating saves."""
    rows = [("", "frames", "weight bytes/s", "ms/s at 100 MHz")]
    for title, part in (("gated", gated), ("always on", always)):
        rows.append((title, "", "", ""))
        rows += [(f"  {row.what}", f"{row.frames:,}" if row.frames and row.what != "in all" else "",
                  f"{row.weight_bytes:,.0f}", "" if row.milliseconds is None else f"{row.milliseconds:.2f}")
                 for row in part]
    with_gate, without = gated[-1], always[-1]
    saved = f"gating saves {1 - with_gate.weight_bytes / without.weight_bytes:.1%} of the weight bytes"
    if with_gate.milliseconds is not None and without.milliseconds:
        saved += f" and {1 - with_gate.milliseconds / without.milliseconds:.1%} of the time"
    return [*aligned(rows), saved]
