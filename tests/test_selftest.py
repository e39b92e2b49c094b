"""`amacrine selftest` and `amacrine devices`: boards with faults to find."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mock_device import MockDevice, Noise
from serial.tools import list_ports
from test_cli_run import amacrine, succeed

from amacrine.sw import selftest
from amacrine.sw.protocol import fill_word

WORDS = 1 << 16


def verdicts(result) -> dict[str, str]:
    return {line[:14].strip(): line[15:] for line in result.stdout.splitlines()}


def test_a_board_in_order(tmp_path):
    with MockDevice(to_device=Noise(flip=1e-5)) as board:
        result = succeed("selftest", "--port", board.port, "--json", tmp_path / "test.json")
        np.testing.assert_array_equal(board.memory, board.memory[0] ^ selftest.pattern(0, WORDS, 0))
    told = verdicts(result)
    assert list(told) == ["line", "registers", "data lines", "address lines", "cells"]
    assert all(text.startswith("ok ") for text in told.values())
    assert told["registers"] == "ok     an engine with 8 PEs at 50 MHz"
    assert told["cells"] == "ok     128 kB hold a pattern and its inverse"
    assert "a program that is loaded on it is lost" in result.stderr
    report = json.loads((tmp_path / "test.json").read_text())
    assert report["passed"] is True and report["board"] == "mock" and len(report["checks"]) == 5
    assert report["link"]["host"]["requests"] > 200


@pytest.mark.parametrize(("faults", "name", "text"), [
    ({"real_words": WORDS // 2}, "address lines",
     "the memory chip answers for 64 kB of 128 kB: address line 15 has no effect (a smaller chip, or a bad "
     "connection); programs up to 64 kB can be used"),
    ({"real_words": WORDS // 4}, "address lines",
     "the memory chip answers for 32 kB of 128 kB: address lines 14 and 15 have no effect (a smaller chip, or a bad "
     "connection); programs up to 32 kB can be used"),
    ({"dead_address": 1 << 5}, "address lines",
     "the memory chip answers for 64 kB of 128 kB: address line 5 has no effect (a smaller chip, or a bad connection); "
     "programs up to 64 bytes can be used"),
    ({"tied_addresses": (3, 9)}, "address lines",
     "address lines 3 and 9 are connected; programs up to 1 kB can be used"),
    ({"stuck_high": 1 << 4}, "data lines", "data line 4 always reads 1"),
    ({"stuck_low": 0x8001}, "data lines", "data line 0 always reads 0; data line 15 always reads 0"),
    ({"bad_cell": 40_000}, "cells", "1 of the 16384 words from address 0x8000 are wrong, the first at 0x9c40: "),
    ({"initialised": False}, "memory", "the board does not initialise its memory; "),
    ({"parameters_told": {"lanes": 4}}, "registers", "the engine has lanes 2, but the board says 4"),
])
def test_a_fault_is_told_and_is_exit_code_1(faults, name, text, tmp_path):
    told = faults.pop("parameters_told", None)
    with MockDevice(**faults) as board:
        if told:
            board.identity = {"parameters": board.parameters.as_dict() | told}
        result = amacrine("selftest", "--port", board.port, "--json", tmp_path / "test.json", "--timeout", 0.1)
    assert result.exit_code == 1
    assert verdicts(result)[name].startswith(f"FAULT  {text}")
    assert result.stderr.splitlines()[-1].startswith(f"amacrine: error: the board mock has a fault: {name}: {text}")
    assert json.loads((tmp_path / "test.json").read_text())["passed"] is False


def test_only_a_part_of_the_memory():
    with MockDevice() as board:
        result = succeed("selftest", "--port", board.port, "--pattern-kb", 40)
        assert verdicts(result)["cells"] == "ok     40 kB (of 128 kB) hold a pattern and its inverse"


def test_a_noisy_line_is_told():
    with MockDevice(to_host=Noise(flip=3e-4)) as board:
        result = succeed("selftest", "--port", board.port, "--pattern-kb", 40)
    assert "lost or damaged, and repeated; use a shorter cable or a lower baud rate" in verdicts(result)["line"]


@pytest.mark.parametrize(("options", "message"), [
    ((), "the self-test needs --port, the board's serial port; 'amacrine devices' lists them"),
    (("--port", "/dev/no_such"), "there is no port /dev/no_such"),
])
def test_selftest_that_cannot_run(options, message):
    result = amacrine("selftest", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"amacrine: error: {message}") and result.stderr.count("\n") == 1


def test_the_pattern_is_that_of_the_protocol():
    start, seed = 0x1FFF0, 0xBEEF
    assert selftest.pattern(start, 40, seed).tolist() == [fill_word(start + i, seed) for i in range(40)]


# ---- devices ----------------------------------------------------------------------------------------------
class Listed:
    def __init__(self, device, description):
        self.device, self.description = device, description

    def __lt__(self, other):
        return self.device < other.device


def test_devices(monkeypatch, tmp_path):
    with MockDevice() as board, MockDevice(silent=True) as silent, MockDevice(version=9) as other:
        monkeypatch.setattr(list_ports, "comports", lambda: [
            Listed(board.port, "ULX3S FPGA"), Listed("/dev/no_such", "n/a")])
        result = succeed("devices", "--port", silent.port, "--port", other.port, "--json", tmp_path / "devices.json")
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines[board.port].endswith(
        "ULX3S FPGA  Amacrine on mock: 8 PEs, 50 MHz, 0.125 MB, build 0123456789abcdef")
    assert lines[silent.port].endswith("no answer")
    assert "speaks version 9 of the protocol" in lines[other.port]
    assert "there is no port" in lines["/dev/no_such"]
    told = {row["port"]: row for row in json.loads((tmp_path / "devices.json").read_text())}
    assert told[board.port]["board"] == "mock" and "board" not in told[silent.port]


def test_no_devices(monkeypatch):
    monkeypatch.setattr(list_ports, "comports", lambda: [])
    result = succeed("devices")
    assert (result.stdout, result.stderr) == ("", "amacrine: note: no serial ports; is the board plugged in?\n")
