"""`amacrine bench`: what the hardware reaches, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click

from amacrine.hw.sdram_chips import CHIPS
from amacrine.sim.build import check_tools

from . import options, progress
from .cli import LazyGroup
from .errors import AmacrineError
from .extras import need
from .files import check_writable, write_atomically
from .report import aligned

COMMANDS = {
    "utilisation": ("amacrine.sw.cli_bench:utilisation", "Share of cycles in which a weight word is consumed."),
    "realtime": ("amacrine.sw.cli_bench:realtime", "Milliseconds a frame of NSNet2 on a simulated board."),
    "sdram": ("amacrine.sw.cli_bench:sdram", "Share of cycles in which the SDRAM controller reads a word."),
    "cnn": ("amacrine.sw.cli_bench:cnn", "Share of the MACs' cycles that zero-skipping convolutions use."),
    "area": ("amacrine.sw.cli_bench:area", "Clock and area on an ECP5, placed and routed."),
}


@click.command(cls=LazyGroup, table=COMMANDS)
def bench() -> None:
    """Measure the hardware."""


@click.command()
@click.option("--hidden", type=click.IntRange(1, 4095), multiple=True, help="Units of a layer.")
@click.option("--sparsity", type=click.FloatRange(0, 1, max_open=True), multiple=True,
              help="Share of columns to skip.")
@click.option("--pes", type=click.IntRange(1, 64), multiple=True, help="Processing elements.")
@click.option("--latency", type=click.IntRange(1, 128), multiple=True,
              help="Cycles from a weight request to its first word.")
@click.option("--seed", type=click.IntRange(min=0), multiple=True, default=(1,), show_default=True)
@options.json_file
def utilisation(hidden: tuple[int, ...], sparsity: tuple[float, ...], pes: tuple[int, ...],
                latency: tuple[int, ...], seed: tuple[int, ...], json_path: Path | None) -> None:
    """Weight words consumed per clock cycle, over whole steps with everything counted.

    The workload is that of EdgeDRNN's test bench: two GRU layers, 40 inputs. Options may be repeated, and
    all combinations are measured; what is not given is 256 units, sparsity 0.9, 8 PEs, latency 1. Without
    options, the standard table. Every run is compared with the golden model.
    """
    from amacrine.sim.bench import STANDARD, measure

    check_tools()
    if json_path is not None:
        check_writable(json_path)
    chosen = hidden or sparsity or pes or latency
    rows = list(product(hidden or (256,), sparsity or (0.9,), pes or (8,), latency or (1,))) if chosen else STANDARD
    results = []
    for number, (one_seed, row) in enumerate(product(seed, rows), 1):
        with progress.clock(f"row {number} of {len(rows) * len(seed)}"):
            results.append(measure(*row, seed=one_seed).as_dict())
    finish(results, json_path)


@click.command()
@click.option("--zeros", type=click.FloatRange(0, 1, max_open=True), multiple=True, default=(0.0, 0.5, 0.8, 0.9),
              show_default=True, help="Share of input elements that are zero; may be repeated.")
@click.option("--layer", "names", multiple=True, metavar="NAME", help="Only this layer; may be repeated.")
@click.option("--vgg19", is_flag=True, help="The layer shapes of VGG19 instead: 14 rows of each, 73 % zeros, none in "
                                            "the image.")
@click.option("--macs", type=click.IntRange(4, 64), default=16, show_default=True, help="MACs of the CNN engine.")
@click.option("--external", is_flag=True, help="All maps in external memory.")
@click.option("--pes", type=click.IntRange(1, 64), help="Weights in a word of weight memory; otherwise one a MAC.")
@click.option("--latency", type=click.IntRange(1, 128), default=1, show_default=True,
              help="Cycles from a request to the weight memory to its first word.")
@options.json_file
def cnn(zeros: tuple[float, ...], names: tuple[str, ...], vgg19: bool, macs: int, external: bool, pes: int | None,
        latency: int, json_path: Path | None) -> None:
    """Useful multiplications per MAC and cycle of single convolutions, over whole layers with everything counted.

    A multiplication is useful if its input is not zero and input, kernel element and output channel exist; of the
    dense peak are all that an engine without zero-skipping would make. Every result is compared with the
    golden model. Takes some minutes.
    """
    from amacrine.sim.conv_bench import LARGE, LAYERS, VGG19, VGG19_ZEROS, measure, vgg19_times

    check_tools()
    if json_path is not None:
        check_writable(json_path)
    table = VGG19 if vgg19 else LAYERS | (LARGE if external else {})
    if unknown := set(names) - set(table):
        raise AmacrineError(f"there is no layer {min(unknown)!r} to measure; choose from {'; '.join(table)}")
    cases = [(name, 0.0 if name == "conv1_1" else VGG19_ZEROS) for name in names or VGG19] if vgg19 else \
        list(product(names or LAYERS, zeros))
    rows: list[dict[str, Any]] = []
    for number, (name, share) in enumerate(cases, 1):
        with progress.clock(f"layer {number} of {len(cases)}"):
            row = measure(name, table[name], share, macs, pes=pes or 0, external=external, latency=latency)
            rows.append(row.as_dict())
    finish(rows, json_path)
    if vgg19:
        cycles, dense, useful = (sum(row[key] * vgg19_times(row["layer"]) for row in rows)
                                 for key in ("cycles", "dense_macs", "useful_macs"))
        click.echo(f"all rows of all layers like these: {dense / (macs * cycles):.0%} of the dense peak, "
                   f"{useful / (macs * cycles):.1%} utilisation")


@click.command()
@click.option("--chip", multiple=True, default=tuple(CHIPS), type=click.Choice(list(CHIPS)),
              help="May be repeated; otherwise all.")
@click.option("--clock", type=click.FloatRange(20, 200), multiple=True, default=(100.0,), show_default=True,
              help="MHz; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@options.json_file
def sdram(chip: tuple[str, ...], clock: tuple[float, ...], seed: int, json_path: Path | None) -> None:
    """Words read per clock cycle from SDRAM, refresh included: sequential, in columns, at random.

    The controller runs on a model of the chip, which checks all timings; a million words a row are compared
    with its content.
    """
    from amacrine.sim.sdram_bench import measure

    check_tools()
    if json_path is not None:
        check_writable(json_path)
    rows: list[dict[str, Any]] = []
    for number, (one_chip, one_clock) in enumerate(product(chip, clock), 1):
        with progress.clock(f"chip and clock {number} of {len(chip) * len(clock)}"):
            rows += [row.as_dict() for row in measure(one_chip, one_clock, seed=seed)]
    finish(rows, json_path)


@click.command()
@click.option("--component", type=click.Choice(["engine", "cnn", "sdram"]), default="engine", show_default=True,
              help="The whole column engine, the whole CNN engine, or the SDRAM controller alone.")
@click.option("--pes", type=click.IntRange(1, 64), multiple=True, default=(8,), show_default=True,
              help="Processing elements, or MACs of the CNN engine; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), multiple=True, default=(1, 2, 3), show_default=True,
              help="Of the placement; may be repeated.")
@options.json_file
def area(component: str, pes: tuple[int, ...], seed: tuple[int, ...], json_path: Path | None) -> None:
    """Clock frequency and area, synthesised, placed and routed for an LFE5U-85F, speed grade 6."""
    if json_path is not None:
        check_writable(json_path)
    from amacrine.sim.area import AreaRow, measure, measure_cnn, measure_sdram, median

    if component == "sdram":
        pes = (0,)
    rows: list[AreaRow] = []
    for number, (count, one_seed) in enumerate(product(pes, seed), 1):
        with progress.clock(f"synthesis, placement and routing {number} of {len(pes) * len(seed)}"):
            if component == "cnn":
                rows += measure_cnn(count, [one_seed])
            else:
                rows += measure(count, [one_seed]) if count else measure_sdram([one_seed])
    finish([row.as_dict() for row in rows], json_path)
    for count in pes:
        what = "SDRAM controller" if not count else f"{count} {'MACs' if component == 'cnn' else 'PEs'}"
        click.echo(f"{what}: {median(row for row in rows if row.pes == count):.1f} MHz, median of {len(seed)}")


@click.command()
@click.option("--board", "board_name", default="ulx3s", show_default=True, metavar="BOARD")
@click.option("--frames", type=click.IntRange(2, 997), default=300, show_default=True,
              help="Of 10 ms, from the start of the demo's noisy speech.")
@click.option("--picture", "picture_path", type=options.FILE, metavar="FILE.png", help="Draw the frames' times.")
@options.json_file
def realtime(board_name: str, frames: int, picture_path: Path | None, json_path: Path | None) -> None:
    """Milliseconds a frame of NSNet2 on a board, transfers included, against the 10 ms there are.

    The board is simulated at its own clock and baud rate, with its SDRAM chip, and driven by the driver of a real one;
    every output is compared with the golden model. Takes some minutes.
    """
    from amacrine.boards.table import find
    from amacrine.sim.realtime import FRAME_MS, RealTime, measure

    from .picture import frame_times

    board = find(board_name)
    check_tools()
    for path in filter(None, (json_path, picture_path)):
        check_writable(path)
    if picture_path is not None:
        need("matplotlib", extra="plot")
    results: list[RealTime] = []
    with progress.bar("simulated board", 4 * frames) as bar:
        results += measure(board, frames, lambda done: bar.update(done - bar.n))
    finish([row.as_dict() for row in results], json_path)
    if picture_path is not None:
        times = {f"Θ {row.thresholds}": row.frame_ms for row in results if row.arrival == "one by one"}
        frame_times(picture_path, times, FRAME_MS)


def finish(rows: Sequence[dict[str, Any]], json_path: Path | None) -> None:
    if json_path is not None:
        write_atomically(json_path, (json.dumps(rows, indent=2) + "\n").encode())
    cells = [[value if isinstance(value, str) else f"{value:,}" for value in row.values()] for row in rows]
    click.echo("\n".join(aligned([list(rows[0]), *cells])))
