"""`amacrine run`: a network over input vectors, or NSNet2 or Silero VAD over a sound file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from amacrine.sim.build import check_tools

from . import nsnet2, options, silero
from .cascade import HANGOVER_S
from .cli_cascade import cascade
from .device import Device
from .errors import AmacrineError, DiffersError
from .execute import Execution, check_board, execute_board, execute_float, execute_golden, execute_simulated
from .extras import need
from .files import check_writable, write_atomically
from .layout import Parameters
from .picture import event_raster, picture, probabilities
from .progress import clock
from .quantise import quantise
from .report import table, to_json
from .thresholds import parse_thresholds
from .workload import (
    Detection,
    Enhancement,
    Workload,
    check_threshold_names,
    load_detection,
    load_enhancement,
    load_vectors,
)

NSNET2, SILERO, CASCADE = "nsnet2", "silero-vad", "cascade"
THRESHOLDS = {NSNET2: nsnet2.THRESHOLDS, SILERO: silero.THRESHOLDS}    # of models that bring their own
GATEWARE: dict[str, dict[str, int]] = {SILERO: silero.GATEWARE, CASCADE: silero.GATEWARE}     # that a model needs


@click.command()
@click.argument("model", metavar="nsnet2|silero-vad|cascade|MODEL.onnx")
@click.argument("input_path", metavar="INPUT", type=options.FILE)
@click.option("--out", "out_path", type=options.FILE, metavar="FILE", help="Where the output goes.")
@click.option("--engine", type=click.Choice(["float", "golden", "sim", "board"]), default="golden", show_default=True,
              help="Floating point, the golden model, the simulated hardware, or a board (--port).")
@options.theta
@options.calibration
@click.option("--reference", "reference_path", type=options.FILE, metavar="CLEAN.wav",
              help="The clean recording; gives the SI-SDR (nsnet2 only).")
@click.option("--picture", "picture_path", type=options.FILE, metavar="FILE.png",
              help="Draw spectrograms and weight fetches (nsnet2), or the probability of speech (silero-vad).")
@click.option("--frames", type=click.IntRange(min=1), metavar="N", help="Only the first N frames.")
@click.option("--hangover", "hangover_s", type=options.Seconds(), default=HANGOVER_S, show_default=True,
              metavar="S", help="Seconds for which the gate stays open after the last speech (cascade only).")
@options.pes
@options.parameter
@options.latency
@options.port
@options.baud
@options.timeout
@options.json_file
@click.pass_context
def run(ctx: click.Context, model: str, input_path: Path, out_path: Path | None, engine: str, theta: str | None,
        calibration: Path | None, reference_path: Path | None, picture_path: Path | None, frames: int | None,
        hangover_s: float, pes: int, settings: tuple[str, ...], latency: int, port: str | None, baud: int,
        timeout: float, json_path: Path | None) -> None:
    """Run a network over a sequence and say what it cost.

    \b
    amacrine run nsnet2 NOISY.wav --out CLEAN.wav
    amacrine run silero-vad SPEECH.wav --picture SPEECH.png
    amacrine run cascade RECORDING.wav --out CLEAN.wav
    amacrine run MODEL.onnx INPUTS.npy --out OUTPUTS.npy
    amacrine run MODEL.onnx IMAGES.npy --engine sim --parameter conv_macs=16
    amacrine run MODEL.onnx INPUTS.npy --out OUTPUTS.npy --engine board --port /dev/ttyUSB0

    INPUTS.npy holds input vectors (T, n) in real units, or maps such as (T, channels, rows, columns); OUTPUTS.npy will
    hold vectors. Without --calibration, the
    inputs themselves serve to choose number formats. With --engine sim or board, the golden model runs, too, and
    every output and every count of the hardware is compared with it; if any differs, the exit code is 1. A board
    brings its own parameters (--pes and so on). Convolutions need a CNN engine, which silero-vad and cascade ask for
    themselves.
    """
    for path in filter(None, (out_path, picture_path, json_path)):
        check_writable(path)
    check_engine(ctx, engine, port)
    chosen = options.parameters(pes, settings, GATEWARE.get(model))
    thresholds = parse_thresholds(theta) if theta is not None else THRESHOLDS.get(model, {})
    if engine == "sim":
        check_tools()
    if model == CASCADE:
        refuse(ctx, "the cascade", "theta", "calibration", "reference_path", "picture_path", "frames")
        device = ctx.with_resource(Device.open(port, baud, timeout)) if port is not None else None
        parameters = device.info.parameters if device else chosen
        return cascade(input_path, engine, hangover_s, device, parameters, latency, out_path, json_path)
    refuse(ctx, model, "hangover_s")
    if picture_path is not None:
        need("matplotlib", extra="plot")
    workload, notes = load(model, input_path, calibration, reference_path, frames, picture_path, engine)
    check_threshold_names(workload.network, thresholds)
    device = ctx.with_resource(Device.open(port, baud, timeout)) if port is not None else None
    if device:
        check_board(device, workload.network)
    parameters = device.info.parameters if device else chosen
    trace = picture_path is not None and model == NSNET2
    if engine == "float":
        execution = execute_float(workload)
        notes += ["--theta changes nothing in floating point"] if theta is not None else []
    else:
        if model not in THRESHOLDS and calibration is None:
            notes.append(f"number formats are chosen from {input_path} itself; --calibration takes other data")
        with clock("quantising"):
            network = quantise(workload.network, workload.calibration, thresholds)
        if engine == "golden":
            execution = execute_golden(workload, network, parameters, trace)
        elif device is None:
            execution = execute_simulated(workload, network, parameters, latency, trace)
        else:
            execution = execute_board(workload, network, device, trace)
    notes += write(execution, workload, parameters, out_path, picture_path, json_path)
    for text in notes:
        options.note(text)
    for line in workload.summary(execution.outputs):
        click.echo(line)
    click.echo(table(execution.stats), nl=False)
    if execution.fault:
        raise DiffersError(execution.fault)


def check_engine(ctx: click.Context, engine: str, port: str | None) -> None:
    """Refuse options that belong to another engine, and a board without a port."""
    if engine == "board":
        if port is None:
            raise AmacrineError("--engine board needs --port, the board's serial port; 'amacrine devices' lists them")
        if names := options.given(ctx, "pes", "settings", "latency"):
            raise AmacrineError(f"{names[0]} is fixed in the board's gateware; leave it out")
    elif names := options.given(ctx, "port", "baud", "timeout"):
        raise AmacrineError(f"{names[0]} is for --engine board only; leave it out for --engine {engine}")


def refuse(ctx: click.Context, model: str, *names: str) -> None:
    """Refuse options that do not belong to a model."""
    if found := options.given(ctx, *names):
        raise AmacrineError(f"{found[0]} is not for {model}; leave it out")


def load(model: str, input_path: Path, calibration: Path | None, reference_path: Path | None,
         frames: int | None, picture_path: Path | None, engine: str) -> tuple[Workload, list[str]]:
    """The workload that the command line names, and notes; options that do not belong to it are refused."""
    if model in THRESHOLDS and calibration is not None:
        raise AmacrineError(f"{model} brings its own calibration data; leave out --calibration")
    if model == NSNET2:
        if picture_path is not None and engine == "float":
            raise AmacrineError("a picture shows weight fetches, which --engine float has none of; "
                                "use --engine golden or sim")
        return load_enhancement(input_path, reference_path, frames)
    if reference_path is not None:
        raise AmacrineError(f"--reference is for nsnet2 only; leave it out for {model}")
    if model == SILERO:
        return load_detection(input_path, frames)
    if picture_path is not None:
        raise AmacrineError(f"--picture is for nsnet2 and silero-vad only; leave it out for {model}")
    return load_vectors(Path(model), input_path, calibration, frames)


def write(execution: Execution, workload: Workload, parameters: Parameters, out_path: Path | None,
          picture_path: Path | None, json_path: Path | None) -> list[str]:
    """Write the files that were asked for; returns notes."""
    if picture_path is not None and isinstance(workload, Enhancement):
        draw(picture_path, execution, workload, parameters.pes)
    if picture_path is not None and isinstance(workload, Detection):
        probabilities(picture_path, workload.samples, silero.RATE_HZ, execution.outputs[:, 0], workload.frame_hz,
                      silero.DECISION)
    if json_path is not None:
        write_atomically(json_path, to_json(execution.stats).encode())
    return workload.save(out_path, execution.outputs) if out_path is not None else []


def draw(path: Path, execution: Execution, workload: Enhancement, pes: int) -> None:
    """The picture of an enhancement whose golden run has a trace."""
    golden = execution.golden
    assert golden is not None and golden.trace is not None
    picture(
        path, rate=nsnet2.RATE_HZ, frame_hz=workload.frame_hz,
        sounds={"noisy": workload.noisy, "enhanced": workload.enhanced(execution.outputs)},
        events={job: event_raster(steps, golden.network.jobs[job].source.n)
                for job, steps in golden.trace.items()},
        weight_bytes=np.sum([golden.words(job, pes) * pes for job in golden.events], axis=0),
        dense_bytes=execution.stats.total.dense_bytes / execution.stats.frames,
    )
