"""`amacrine run cascade`: Silero VAD gates NSNet2 over a sound file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from amacrine.sim.engine import SimulatedEngine

from . import nsnet2, options, silero
from .audio import write_wav
from .cascade import (
    Cascade,
    CascadeRow,
    CascadeRun,
    cascade_table,
    costs,
    golden_always,
    golden_cascade,
    load_cascade,
    run_always,
    run_cascade,
)
from .compile import compile_together
from .device import Device
from .errors import AmacrineError, DiffersError
from .execute import SIMULATED, check_board, load
from .files import write_atomically
from .layout import Parameters
from .progress import clock
from .quantise import quantise
from .quantised import QuantisedNetwork


def cascade(input_path: Path, engine: str, hangover_s: float, device: Device | None, parameters: Parameters,
            latency: int, out_path: Path | None, json_path: Path | None) -> None:
    """Run the cascade and, to compare, NSNet2 alone in every frame; print what both cost."""
    if engine == "float":
        raise AmacrineError("a cascade's costs are weight fetches, which --engine float has none of; use --engine "
                            "golden, sim or board")
    loaded, notes = load_cascade(input_path, hangover_s)
    if device:
        check_board(device, loaded.detection.network)
    with clock("quantising"):
        vad = quantise(loaded.detection.network, loaded.detection.calibration, silero.THRESHOLDS)
        enhancer = quantise(loaded.enhancement.network, loaded.enhancement.calibration, nsnet2.THRESHOLDS)
    gated, always = run_both(loaded, vad, enhancer, engine, device, parameters, latency)
    fault = gated.fault or always.fault
    bit_exact = None if engine == "golden" else fault is None
    rows = [costs(run, loaded.seconds, parameters) for run in (gated, always)]
    if out_path is not None:
        notes += write_wav(out_path, loaded.enhancement.enhanced(gated.gains), nsnet2.RATE_HZ)
    if json_path is not None:
        write_atomically(json_path, to_json(loaded, gated, bit_exact, *rows).encode())
    for text in notes:
        options.note(text)
    click.echo("\n".join(report(loaded, gated, bit_exact, *rows)))
    if fault:
        raise DiffersError(fault)


def run_both(loaded: Cascade, vad: QuantisedNetwork, enhancer: QuantisedNetwork, engine: str, device: Device | None,
             parameters: Parameters, latency: int) -> tuple[CascadeRun, CascadeRun]:
    """The cascade, and NSNet2 always on, on one of the engines."""
    if engine == "golden":
        return golden_cascade(loaded, vad, enhancer), golden_always(loaded, enhancer)
    programs = compile_together([vad, enhancer], parameters)
    if device:
        board = f"the board {device.info.board}"
        load(device, programs[0])       # with its progress; the cascade finds the weights there
        return (run_cascade(loaded, vad, enhancer, device, programs, board),
                run_always(loaded, enhancer, device, programs, board))
    with clock("building the simulation, once"):
        simulation = SimulatedEngine(parameters, programs[0].memory_words, latency=latency)
    with simulation:
        return (run_cascade(loaded, vad, enhancer, simulation, programs, SIMULATED, lambda: simulation.cycles),
                run_always(loaded, enhancer, simulation, programs, SIMULATED, lambda: simulation.cycles))


def report(loaded: Cascade, gated: CascadeRun, bit_exact: bool | None, *rows: list[CascadeRow]) -> list[str]:
    """Lines: what was heard, what it cost, and whether the hardware was right, if there was any."""
    segments = silero.segments(gated.speech)
    heard = [f"speech from {start:.2f} s to {end:.2f} s" for start, end in segments] or ["no speech"]
    opened = (f"gate open {gated.opened.mean():.1%} of {loaded.seconds:.1f} s, hang-over {loaded.hangover} frames of "
              "32 ms")
    equal = [] if bit_exact is None else [
        "equal to golden model: " + ("yes, every output and count of both networks" if bit_exact else "NO")]
    return [*heard, "", opened, *cascade_table(*rows), *equal]


def to_json(loaded: Cascade, gated: CascadeRun, bit_exact: bool | None, gated_rows: list[CascadeRow],
            always_rows: list[CascadeRow]) -> str:
    """The figures as a JSON object."""
    return json.dumps({
        "seconds": loaded.seconds, "hangover_frames": loaded.hangover, "gate_open": float(gated.opened.mean()),
        "bit_exact": bit_exact,
        "gated": [asdict(row) for row in gated_rows], "always": [asdict(row) for row in always_rows]}, indent=2) + "\n"
