"""`amacrine run --engine board`, with the golden model in the board's place."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from mock_device import GoldenEngine, MockDevice, Noise
from test_cli_run import amacrine, make_model, succeed

from amacrine.sw.compile import compile_network
from amacrine.sw.layout import Parameters
from amacrine.sw.quantise import quantise
from amacrine.sw.workload import load_vectors

PARAMETERS = Parameters(pes=6, queue_depth=32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and inputs for it."""
    folder = tmp_path_factory.mktemp("board")
    walk = np.cumsum(np.random.default_rng(5).normal(0, 0.2, (60, 5)), axis=0)
    np.save(folder / "inputs.npy", walk)
    return make_model(folder), folder / "inputs.npy"


def engine_of(model, inputs):
    workload, _ = load_vectors(model, inputs, None, None)
    network = quantise(workload.network, workload.calibration, {})
    return GoldenEngine(network, compile_network(network, PARAMETERS))


@pytest.fixture
def engine(files):
    return engine_of(*files)


def test_outputs_and_stats(files, engine, tmp_path):
    with MockDevice(engine, PARAMETERS, to_device=Noise(1e-4), to_host=Noise(1e-4)) as board:
        result = succeed("run", *files, "--engine", "board", "--port", board.port, "--out", tmp_path / "board.npy",
                         "--json", tmp_path / "board.json")
    succeed("run", *files, "--engine", "golden", "--pes", 6, "--out", tmp_path / "golden.npy",
            "--json", tmp_path / "golden.json")
    np.testing.assert_array_equal(np.load(tmp_path / "board.npy"), np.load(tmp_path / "golden.npy"))
    stats, golden = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("board", "golden"))
    assert (stats["bit_exact"], stats["board"], stats["frames"]) == (True, "mock", 60)
    assert stats["cycles_per_frame"] is None and stats["frames_per_second"] > 0
    assert stats["link"]["host"]["requests"] > 0 and stats["link"]["device"]["received"] > 0
    assert stats["weight_bytes_per_frame"] == golden["weight_bytes_per_frame"]
    assert "yes, every frame" in result.stdout and "frames a second" in result.stdout


@pytest.mark.parametrize(("fault", "message"), [
    ("output", "the board mock differs from the golden model, first in step 7, element 1: "),
    ("count", "the board mock's outputs equal the golden model's, but it counted "),
])
def test_a_difference_is_told_and_is_exit_code_1(files, engine, fault, message):
    if fault == "output":
        step = engine.step
        engine.step = lambda x: step(x) + (len(engine.runs) == 8) * np.array([0, 3, 0], np.int16)
    else:
        counters = engine.counters
        engine.counters = lambda: {job: (counts[0] + 1, *counts[1:]) for job, counts in counters().items()}
    with MockDevice(engine, PARAMETERS) as board:
        result = amacrine("run", *files, "--calibration", files[1], "--engine", "board", "--port", board.port)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"amacrine: error: {message}") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(("options", "message"), [
    (("--engine", "board"), "--engine board needs --port, the board's serial port; 'amacrine devices' lists them"),
    (("--engine", "board", "--port", "x", "--pes", 8), "--pes is fixed in the board's gateware; leave it out"),
    (("--engine", "board", "--port", "x", "--parameter", "lanes=2"), "--parameter is fixed in the board's gateware"),
    (("--engine", "sim", "--port", "x"), "--port is for --engine board only; leave it out for --engine sim"),
    (("--timeout", 3), "--timeout is for --engine board only"),
    (("--engine", "board", "--port", "/dev/no_such"), "there is no port /dev/no_such; 'amacrine devices' lists those"),
    (("--engine", "board", "--port", "/dev/null"), "/dev/null cannot be opened as a serial port"),
])
def test_options_that_do_not_go_together(files, options, message):
    result = amacrine("run", *files, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"amacrine: error: {message}") and result.stderr.count("\n") == 1


def test_a_program_larger_than_the_memory(files, engine):
    with MockDevice(engine, PARAMETERS, memory_words=500) as board:
        result = amacrine("run", *files, "--calibration", files[1], "--engine", "board", "--port", board.port)
    words = engine.program.weights.nbytes // 2
    assert result.exit_code == 2
    assert result.stderr == (f"amacrine: error: the program has {2 * words:,} bytes of weights, and the board's memory "
                             f"1,000, {2 * words - 1000:,} too few; use a smaller network\n")


def test_a_layer_larger_than_the_board(files, engine):
    with MockDevice(engine, replace(PARAMETERS, state_depth=8)) as board:
        result = amacrine("run", *files, "--calibration", files[1], "--engine", "board", "--port", board.port)
    assert result.exit_code == 2
    assert "needs 20 units of cell state memory, and the gateware has 8, 12 too few" in result.stderr
