"""The whole device: driver, serial line, gateware and SDRAM chip, against the golden model, element for element."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from mixed_networks import EXTERNAL, random_mixed
from networks import expected_counts, golden_runs, random_inputs, random_network, with_thresholds
from test_cli_run import make_model, succeed
from test_conv_engine import random_maps
from test_golden import gru, stack

from amacrine.boards.table import find
from amacrine.sim.board import SimulatedBoard, SimulatedPort
from amacrine.sim.realtime import clip
from amacrine.sw import nsnet2
from amacrine.sw.compile import compile_network, compile_together
from amacrine.sw.device import Device
from amacrine.sw.errors import LinkError, SessionError
from amacrine.sw.execute import difference, expected_counters
from amacrine.sw.golden import Golden
from amacrine.sw.protocol import Message, Operation, encode
from amacrine.sw.quantise import quantise

BOARD = find("ulx3s")
PATIENT = 600.0
COMMAND = [sys.executable, "-c", "from amacrine.sw.cli import main; main()"]


@pytest.fixture(scope="module")
def board():
    with SimulatedBoard(BOARD) as simulated:
        simulated.run(30_000)
        yield simulated


def small_gru(seed=3, units=24):
    rng = np.random.default_rng(seed)
    network = with_thresholds(stack(rng, [gru, gru], [5, units, units]), lambda: 300)
    return rng, network, compile_network(network, BOARD.parameters)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(board, seed):
    """Two sequences each, in parts, outputs and counters; the programs go over the line."""
    rng = np.random.default_rng(seed)
    network = random_network(rng)
    program = compile_network(network, BOARD.parameters)
    device = Device(SimulatedPort(board), timeout=PATIENT)
    device.load(program)
    for _ in range(2):
        parts = [random_inputs(rng, steps, network.n_inputs) for steps in (1, 9, 20)]
        before: dict[str, int] = {}
        for x, golden in zip(parts, golden_runs(network, parts), strict=True):
            np.testing.assert_array_equal(device.run(x).outputs, golden.outputs)
            counters = device.counters()
            expected = expected_counts(program, golden, True, before)
            assert {name: (counts["events"], counts["words"]) for name, counts in counters.items()} == expected
        device.reset()

CNN_BOARD = replace(BOARD, parameters=replace(BOARD.parameters, conv=EXTERNAL))


@pytest.fixture(scope="module")
def cnn_board():
    with SimulatedBoard(CNN_BOARD) as simulated:
        simulated.run(30_000)
        yield simulated


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_networks_with_convolutions(cnn_board, seed):
    """Two sequences each, in parts, every output and count; kernels, columns and maps share the SDRAM."""
    rng = np.random.default_rng(seed)
    network, parameters = random_mixed(rng, 1 + seed % 3, seed // 2), CNN_BOARD.parameters
    device = Device(SimulatedPort(cnn_board), timeout=PATIENT)
    device.load(compile_network(network, parameters))
    for _ in range(2):
        parts = [random_maps(rng, network, steps) for steps in (1, 4)]
        for done in (1, 2):
            golden, x = Golden(network).run(np.concatenate(parts[:done])), parts[done - 1]
            np.testing.assert_array_equal(device.run(x).outputs, golden.outputs[-len(x) :])
            counters = device.counters()
            for name, counts in expected_counters(golden, parameters).items():
                assert {count: counters[name][count] for count in counts} == counts, name
        device.reset()


@pytest.mark.slow
@pytest.mark.parametrize("maps_at", [0, 1])
def test_networks_take_turns(cnn_board, maps_at):
    """Convolutional and recurrent network in one program, each going on where it was left, every output and count."""
    rng, parameters = np.random.default_rng(21), CNN_BOARD.parameters
    networks = [small_gru()[1], small_gru()[1]]
    networks[maps_at] = random_mixed(rng, 2, 2)
    programs = compile_together(networks, parameters)
    device = Device(SimulatedPort(cnn_board), timeout=PATIENT)
    device.load(programs[0])
    for _ in range(2):
        done = [np.empty((0, network.n_inputs), np.int16) for network in networks]
        for turn in range(9):
            present, steps = turn % 2, int(rng.integers(1, 5))
            network = networks[present]
            x = random_maps(rng, network, steps) if present == maps_at else random_inputs(rng, steps, 5)
            done[present] = np.concatenate([done[present], x])
            device.switch(programs[present])
            golden = Golden(network).run(done[present])
            np.testing.assert_array_equal(device.run(x).outputs, golden.outputs[-steps:])
            assert difference(golden, golden.outputs, device.counters(), parameters) is None
        device.reset()


def test_a_long_run(board):
    rng, network, program = small_gru()
    device = Device(SimulatedPort(board), timeout=PATIENT)
    assert device.load(program) > 0
    assert device.load(program) == 0, "it is there already"
    x = random_inputs(rng, 800, 5)
    np.testing.assert_array_equal(device.run(x).outputs, Golden(network).run(x).outputs)
    assert board.lights["initialised"] and not board.lights["fault"]


class NoisyPort(SimulatedPort):
    """Flips bits, drops and doubles bytes in both directions: `rate` faults a byte, a third of each kind."""

    def __init__(self, board, rate, seed):
        super().__init__(board, longest_wait_s=1e-4)
        self.rate, self.rng, self.faults = rate, np.random.default_rng(seed), 0

    def spoil(self, data):
        spoilt = bytearray()
        for byte in data:
            what = 3 * self.rng.random() / self.rate
            self.faults += what < 3
            if what < 1:
                byte ^= 1 << int(self.rng.integers(8))
            spoilt += bytes([byte] * (0 if 1 <= what < 2 else 2 if 2 <= what < 3 else 1))
        return bytes(spoilt)

    def send(self, data):
        super().send(self.spoil(data))

    def receive(self, wait, wake=None):
        return self.spoil(super().receive(wait, wake))


def noisy_run(board, rate):
    rng, network, program = small_gru(seed=5)
    board.reset()
    board.run(60_000)
    port = NoisyPort(board, rate, 1)
    device = Device(port, timeout=1.0)
    device.load(program)
    x = random_inputs(rng, 300, 5)
    np.testing.assert_array_equal(device.run(x).outputs, Golden(network).run(x).outputs)
    assert port.faults > 0


@pytest.mark.parametrize("rate", [1e-4, 4e-4])
def test_a_noisy_line_costs_only_time(board, rate):
    noisy_run(board, rate)


def test_too_noisy_a_line_is_told(board):
    with pytest.raises(LinkError, match="too many frames are lost or damaged"):
        noisy_run(board, 1e-2)


def test_reset_in_the_middle_is_told(board):
    rng, network, program = small_gru(seed=7)
    device = Device(SimulatedPort(board), timeout=PATIENT)
    device.load(program)
    x = random_inputs(rng, 60, 5)
    stream = device.stream(iter(x))
    next(stream)
    board.reset()
    with pytest.raises(SessionError, match="the device was reset, or another host has used it"):
        list(stream)
    board.run(60_000)
    assert device.load(program) == 0, "SDRAM survives a reset"
    np.testing.assert_array_equal(device.run(x).outputs, Golden(network).run(x).outputs)


def test_nothing_on_the_line_wedges_it(board):
    """Noise, cut and overlong frames, breaks, hosts that die at any byte: the next host gets its answers."""
    rng = np.random.default_rng(11)
    frame = encode(Message(1, Operation.WRITE_MEMORY, 300, 0, rng.bytes(600)).to_bytes())
    damaged = encode(Message(1, Operation.WRITE_MEMORY, 300, 0, b"5" * 600).to_bytes()).replace(b"5", b"6", 1)
    attacks = [damaged, rng.bytes(3000), frame[:100], frame[:-1] + b"\1" * 3000, b"\2\1" * 2000 + b"\0", b"\0" * 50,
               frame[:50] + frame, encode(b"\1\x63\0\0\0\0\0\0"), b"\xff" * 500]
    for attack in attacks:
        board.send(attack)
        board.run(45 * len(attack))
        board.hold_line(int(rng.integers(1, 3000)))
        board.run(5000)
        device = Device(SimulatedPort(board), timeout=PATIENT)
        assert device.info.board == "ulx3s"
    counts = device.link_statistics()["device"]
    assert all(counts[name] > 0 for name in ("bad_checksum", "too_long", "bad_character", "refused")), counts


@contextmanager
def served():
    """`amacrine simulate` in a process of its own; gives its port."""
    # A shell's background jobs, and all that they start, ignore SIGINT; this one must not.
    with subprocess.Popen([*COMMAND, "simulate", "ulx3s", "--json"], stdout=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_the_command_over_a_pseudo_terminal(board, tmp_path):
    """A host killed while it loads; then the command line, as a user has it, on the same board."""
    walk = np.cumsum(np.random.default_rng(5).normal(0, 0.2, (40, 5)), axis=0)
    np.save(tmp_path / "inputs.npy", walk)
    run = ["run", make_model(tmp_path), tmp_path / "inputs.npy", "--engine", "board", "--timeout", "60"]
    with served() as port:
        victim = subprocess.Popen([*COMMAND, *map(str, run), "--port", port], stderr=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL)
        try:
            victim.wait(3)
        except subprocess.TimeoutExpired:
            victim.kill()
            victim.wait()
        result = succeed(*run, "--port", port, "--out", tmp_path / "out.npy", "--json", tmp_path / "stats.json")
        assert "yes, every frame" in result.stdout
        assert json.loads((tmp_path / "stats.json").read_text())["bit_exact"] is True
        devices = succeed("devices", "--port", port)
        assert port in devices.stdout and "ulx3s" in devices.stdout
        assert "32 MB" in succeed("selftest", "--port", port, "--pattern-kb", 16, "--timeout", 60).stdout


@pytest.mark.slow
def test_nsnet2_with_its_program_over_the_line(board):
    workload = clip()
    network = quantise(workload.network, workload.calibration, nsnet2.THRESHOLDS)
    program = compile_network(network, BOARD.parameters)
    x = network.quantise_inputs(workload.inputs[100:112])
    device = Device(SimulatedPort(board), timeout=PATIENT)
    assert device.load(program) == program.weights.nbytes
    watch = board.watch(len(x), program.n_inputs, program.n_outputs)
    np.testing.assert_array_equal(device.run(x).outputs, Golden(network).run(x).outputs)
    # While it is busy, nearly every cycle of the SDRAM's pins delivers a weight word.
    assert watch.words[-1] - watch.words[0] >= 0.95 * (watch.finished[-1] - watch.finished[0])
