"""`amacrine compile` and `amacrine info`: program files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import nsnet2, options, silero
from .cli_run import GATEWARE, NSNET2, SILERO, THRESHOLDS
from .compile import compile_network
from .errors import AmacrineError
from .files import check_writable, write_atomically
from .network import Network
from .onnx_import import load_onnx
from .program import FORMAT_VERSION, Program
from .progress import clock
from .quantise import quantise
from .report import aligned
from .thresholds import parse_thresholds
from .workload import check_threshold_names, network_inputs


@click.command("compile")
@click.argument("model", metavar="nsnet2|silero-vad|MODEL.onnx")
@click.option("-o", "--out", "out_path", type=options.FILE, required=True, metavar="PROGRAM",
              help="The program file to write.")
@options.calibration
@options.theta
@options.pes
@options.parameter
@click.option("--no-anticipation", is_flag=True,
              help="Fetch recurrent columns only when a step's input is there; results are the same.")
def compile_(model: str, out_path: Path, calibration: Path | None, theta: str | None, pes: int,
             settings: tuple[str, ...], no_anticipation: bool) -> None:
    """Compile a network to a program file: weight image and descriptors (docs/program.md).

    The same input gives the same bytes. Number formats are chosen from --calibration, which only nsnet2 and silero-vad
    bring themselves. Convolutions need a CNN engine (--parameter conv_macs=16), which silero-vad asks for itself.
    """
    check_writable(out_path)
    parameters = options.parameters(pes, settings, GATEWARE.get(model))
    thresholds = parse_thresholds(theta) if theta is not None else THRESHOLDS.get(model, {})
    network = _network(model)
    check_threshold_names(network, thresholds)
    inputs = _calibration(model, network, calibration)
    with clock("quantising"):
        quantised = quantise(network, inputs, thresholds)
    program = compile_network(quantised, parameters, anticipate=not no_anticipation)
    program.save(out_path)
    passes = f", {len(program.passes)} passes of the CNN engine" if len(program.passes) else ""
    click.echo(f"{out_path}: {len(program.weights):,} words of {pes} weights, {len(program.jobs)} column jobs{passes}, "
               f"checksum {program.checksum()[:16]}")


def _network(model: str) -> Network:
    if model == SILERO:
        return silero.load_network()
    return load_onnx(nsnet2.model_path() if model == NSNET2 else model)


def _calibration(model: str, network: Network, path: Path | None) -> np.ndarray:
    if model in THRESHOLDS and path is not None:
        raise AmacrineError(f"{model} brings its own calibration data; leave out --calibration")
    if model in THRESHOLDS:
        return (silero.calibration_features if model == SILERO else nsnet2.calibration_features)()
    if path is None:
        raise AmacrineError("number formats are chosen from typical inputs: give some with --calibration CAL.npy")
    return network_inputs(network, path)


@click.command()
@click.argument("path", metavar="PROGRAM", type=options.FILE)
@options.json_file
def info(path: Path, json_path: Path | None) -> None:
    """Show what is in a program file."""
    program = Program.load(path)
    if json_path is not None:
        write_atomically(json_path, (json.dumps(describe(program), indent=2) + "\n").encode())
    parameters = ", ".join(f"{name} {value}" for name, value in program.parameters.as_dict().items())
    rows = [("job", "encoder", "columns", "rows", "words/column", "threshold")]
    rows += [(job.name, job.encoder, f"{job.columns:,}", f"{job.rows:,}", f"{job.words:,}", f"{job.theta} LSB")
             for job in program.jobs]
    figures = {
        "network": program.network,
        "format version": str(FORMAT_VERSION),
        "checksum": program.checksum(),
        "input": f"{program.n_inputs} elements, {program.input_frac} fractional bits",
        "output": f"{program.n_outputs} elements, {program.output_frac} fractional bits",
        "weights": f"{program.weights.size:,} bytes, {len(program.weights):,} words",
        "cell jobs": f"{len(program.cells)}",
        "column list": f"{len(program.entries)} entries, {program.loop_start} of them once a sequence",
        "gateware": parameters,
    }
    if program.conv_jobs:
        figures["convolutions"] = (f"{len(program.conv_jobs)} passes, "
                                   f"{sum(each.kernel_bytes for each in program.conv_jobs):,} bytes of kernels")
    width = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{width}}  {value}")
    click.echo("\n" + "\n".join(aligned(rows)))


def describe(program: Program) -> dict[str, Any]:
    """The header of a program and the sizes of its arrays."""
    return {
        **program.header(), "format_version": FORMAT_VERSION, "checksum": program.checksum(),
        "weight_words": len(program.weights), "weight_bytes": program.weights.size,
        "cell_jobs": len(program.cells), "list_entries": len(program.entries),
    }
