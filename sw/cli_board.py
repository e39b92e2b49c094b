"""`amacrine bitstream` and `amacrine simulate`: a board's gateware, for its FPGA or in simulation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options
from .cli_bench import finish
from .extras import need
from .progress import clock


@click.command()
@click.argument("board_name", metavar="BOARD")
@click.option("--seed", type=click.IntRange(min=0), multiple=True, default=(1, 2, 3), show_default=True,
              help="Of the placement; may be repeated, the best one is taken.")
@click.option("--out", "out_path", type=options.FILE, metavar="FOLDER", help="[default: out/BOARD]")
def bitstream(board_name: str, seed: tuple[int, ...], out_path: Path | None) -> None:
    """Make the bitstream of a board, and report clock and area.

    Writes amacrine.bit and report.json. If the clock is not met there is no bitstream, and the exit code is 2.
    """
    need("amaranth", extra="synth")
    from amacrine.boards.bitstream import Placement, build
    from amacrine.boards.table import find

    board = find(board_name)
    folder, rows = out_path or Path("out") / board.name, []
    placements = build(board, seed, folder)

    def following(what: str) -> Placement | None:
        with clock(what):
            return next(placements, None)

    for number, one_seed in enumerate(seed):
        row = following(f"seed {one_seed}, {number + 1} of {len(seed)}" + (", after synthesis" if not number else ""))
        assert row is not None
        rows.append(row.as_dict())
    finish(rows, None)
    following("packing")
    click.echo(f"{folder / 'amacrine.bit'}: program it with 'amacrine program {board.name}'")


@click.command()
@click.argument("board_name", metavar="BOARD")
@click.option("--baud", type=click.IntRange(min=9600), metavar="N",
              help="Speed of the simulated line. [default: a quarter of the board's clock, to save time]")
@click.option("--json", "as_json", is_flag=True, help="Print name and port as one line of JSON.")
def simulate(board_name: str, baud: int | None, as_json: bool) -> None:
    """Simulate a board, its SDRAM and serial line included, for any program that can open a serial port.

    Prints the port to open, and runs until it is interrupted (Ctrl-C). It is slower than a real board, by a factor
    of about a hundred.
    """
    from amacrine.boards.table import find
    from amacrine.sim.board import SimulatedBoard
    from amacrine.sim.build import check_tools
    from amacrine.sim.terminal import Terminal, serve

    board = find(board_name)
    check_tools()
    with clock("building the simulation, once"):
        simulated = SimulatedBoard(board, baud)
    with simulated, Terminal() as terminal:
        if as_json:
            click.echo(json.dumps({"board": board.name, "port": terminal.name, "baud": simulated.baud}))
        else:
            click.echo(f"{board.title} answers at {terminal.name} until Ctrl-C, for example to: "
                       f"amacrine selftest --port {terminal.name}")
        try:
            serve(simulated, terminal, stop=lambda: False)
        except KeyboardInterrupt:
            pass
