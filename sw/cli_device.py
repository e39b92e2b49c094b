"""`amacrine devices` and `amacrine selftest`: boards on serial ports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from serial.tools import list_ports

from . import options
from .device import Device
from .errors import AmacrineError, DeviceError, FaultFoundError, PortError, SilentError, WrongDeviceError
from .files import check_writable, write_atomically
from .progress import bar
from .selftest import Check, selftest

PROBE_TIMEOUT_S, PROBE_TRIES = 0.3, 2


@click.command()
@click.option("--port", "more", multiple=True, metavar="PORT",
              help="A port to ask that is not in the list of the system, such as a pseudo-terminal; may be repeated.")
@options.baud
@options.json_file
def devices(more: tuple[str, ...], baud: int, json_path: Path | None) -> None:
    """List serial ports and what answers on them."""
    if json_path is not None:
        check_writable(json_path)
    ports = {port.device: port.description for port in sorted(list_ports.comports())}
    ports |= {name: "" for name in more if name not in ports}
    found = [{"port": name, "description": "" if text == "n/a" else text, **probe(name, baud)}
             for name, text in ports.items()]
    if json_path is not None:
        write_atomically(json_path, (json.dumps(found, indent=2) + "\n").encode())
    if not found:
        options.note("no serial ports; is the board plugged in?")
        return
    rows = [(row["port"], row["description"], row["answer"]) for row in found]
    click.echo("\n".join("  ".join(cells).rstrip() for cells in _left(rows)))


def _left(rows: list[tuple[str, str, str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def probe(port: str, baud: int) -> dict[str, str]:
    """What answers on a port: ``answer`` in words, and of an Amacrine device its name and build."""
    try:
        with Device.open(port, baud, PROBE_TIMEOUT_S, PROBE_TRIES) as device:
            info = device.info
    except SilentError:
        return {"answer": "no answer"}
    except WrongDeviceError as error:
        return {"answer": f"other gateware: {error}"}
    except (PortError, DeviceError) as error:
        return {"answer": str(error)}
    return {"answer": f"Amacrine on {info.board}: {info.parameters.pes} PEs, {info.clock_hz / 1e6:g} MHz, "
                      f"{2 * info.memory_words / (1 << 20):g} MB, build {info.build}",
            "board": info.board, "build": info.build}


@click.command("selftest")
@options.port
@options.baud
@options.timeout
@click.option("--pattern-kb", type=click.IntRange(min=1), metavar="N",
              help="Test the pattern in the first N kB of memory only; a simulated board is slow.")
@options.json_file
def selftest_(port: str | None, baud: int, timeout: float, pattern_kb: int | None, json_path: Path | None) -> None:
    """Test a board from here: line, registers, and memory. A program that is loaded on it is lost.

    The exit code is 0 if all is in order, 1 if a fault was found, and 2 if the test cannot run.
    """
    if port is None:
        raise AmacrineError("the self-test needs --port, the board's serial port; 'amacrine devices' lists them")
    if json_path is not None:
        check_writable(json_path)
    checks: list[Check] = []
    with Device.open(port, baud, timeout) as device:
        options.note("the self-test overwrites the board's memory: a program that is loaded on it is lost")
        for check in selftest(device, pattern_kb and 512 * pattern_kb, _bar):
            click.echo(f"{check.name:<14} {'ok' if check.passed else 'FAULT':<6} {check.text}")
            checks.append(check)
        statistics, info = device.link_statistics(), device.info
    faults = [check for check in checks if not check.passed]
    if json_path is not None:
        result = {"board": info.board, "build": info.build, "passed": not faults,
                  "checks": [asdict(check) for check in checks], "link": statistics}
        write_atomically(json_path, (json.dumps(result, indent=2) + "\n").encode())
    if faults:
        raise FaultFoundError(f"the board {info.board} has a fault: {faults[0].name}: {faults[0].text}")


def _bar(label: str, total: int) -> Callable[[int], None]:
    progress = bar(label, total, unit="word")

    def tell(done: int) -> None:
        progress.update(done - progress.n)
        if done == total:
            progress.close()
    return tell
