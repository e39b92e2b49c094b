"""`amacrine demo`: the whole way, from the published model and noisy speech to enhanced speech and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from amacrine.sim.build import check_tools

from . import demo as clips
from . import nsnet2
from .cli_run import draw
from .compile import compile_network
from .errors import DiffersError
from .execute import execute_float, execute_golden, execute_simulated
from .extras import need
from .files import write_atomically
from .layout import Parameters
from .progress import clock
from .quantise import quantise, with_thresholds
from .report import RunStats, table, to_json
from .workload import load_enhancement

STAGES = 6


@click.command()
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True,
              metavar="FOLDER", help="Where everything goes.")
@click.option("--clip", type=click.Choice(list(clips.CLIPS)), default="beckett", show_default=True)
@click.option("--frames", type=click.IntRange(min=1), metavar="N", help="Only the first N frames of 10 ms.")
def demo(folder: Path, clip: str, frames: int | None) -> None:
    """Enhance noisy speech with NSNet2 on the simulated hardware.

    The network runs in floating point, as golden model without and with thresholds, and on the simulated
    hardware, which must equal the golden model in every output and every count.
    """
    check_tools()
    need("matplotlib", extra="plot")
    noisy, clean = clips.build(folder, clip)
    stage(1, f"noisy speech: clip {clip} with {clips.CLIPS[clip].noise} noise, 10 dB below it")
    workload, _ = load_enhancement(noisy, clean, frames)
    stage(2, f"{len(workload.inputs)} frames through the published network in floating point")
    in_float = execute_float(workload)
    stage(3, "quantising to 8-bit weights")
    with clock("quantising"):
        dense = quantise(workload.network, workload.calibration)
    stage(4, "golden model at Θ = 0, where nothing changes but rounding")
    parameters = Parameters()
    in_dense = execute_golden(workload, dense, parameters)
    network = with_thresholds(dense, nsnet2.THRESHOLDS)
    compile_network(network, parameters).save(folder / "nsnet2.program")
    stage(5, "golden model with thresholds, and the same on the simulated hardware")
    simulated = execute_simulated(workload, network, parameters, trace=True)
    stage(6, f"writing {folder}")
    stats = with_references(simulated.stats, {"float": in_float.stats, "dense golden": in_dense.stats})
    workload.save(folder / "enhanced.wav", simulated.outputs)
    write_atomically(folder / "stats.json", to_json(stats).encode())
    draw(folder / "picture.png", simulated, workload, parameters.pes)
    click.echo(table(stats), nl=False)
    if simulated.fault:
        raise DiffersError(simulated.fault)


def with_references(stats: RunStats, others: dict[str, RunStats]) -> RunStats:
    """The stats with the SI-SDR of other runs beside their own."""
    more = {name: other.sisdr_db for name, other in others.items() if other.sisdr_db is not None}
    return replace(stats, sisdr_references_db={**stats.sisdr_references_db, **more})


def stage(number: int, what: str) -> None:
    click.echo(f"[{number}/{STAGES}] {what}", err=True)
