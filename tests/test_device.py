"""The driver against a device in Python: results, faults of line and device, and what the user is told of them."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serial
from mixed_networks import SMALL, random_mixed
from mock_device import GoldenEngine, MockDevice, Noise, TogetherEngine
from networks import random_inputs, random_network
from test_conv_engine import random_maps

from amacrine.sw.compile import compile_network, compile_together
from amacrine.sw.device import CHUNK_WORDS, Device
from amacrine.sw.errors import (
    AmacrineError,
    DeviceError,
    LinkError,
    MemoryFaultError,
    MisfitError,
    PortError,
    SessionError,
    SilentError,
    WrongDeviceError,
)
from amacrine.sw.execute import expected_counters
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Parameters, Register
from amacrine.sw.program import register_writes
from amacrine.sw.protocol import EXCHANGE_ANSWER, Message, Operation
from amacrine.sw.stream import MASK, Stream


class Case:
    """A random network, its program, inputs and the outputs that they should give."""

    def __init__(self, seed=4, steps=80):
        rng = np.random.default_rng(seed)
        self.network = random_network(rng, max_layers=3, sizes=(5, 17, 33, 50))
        self.program = compile_network(self.network)
        self.inputs = random_inputs(rng, steps, self.program.n_inputs)
        self.golden = Golden(self.network).run(self.inputs)

    def mock(self, **options):
        return MockDevice(GoldenEngine(self.network, self.program), **options)


@pytest.fixture(scope="module")
def case():
    return Case()


def echo_program(n):
    """A program by whose registers an EchoEngine sees vectors of n elements."""
    return replace(Case(steps=1).program, n_inputs=n, input_length=n, n_outputs=n)


def ramp(steps, n):
    return np.arange(steps * n, dtype=np.int64).astype(np.int16).reshape(steps, n)


# ---- results ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_outputs_and_counters_are_golden(seed):
    case = Case(seed)
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)
        counters = device.counters()
        for job, counts in expected_counters(case.golden, case.program.parameters).items():
            assert {name: counters[job][name] for name in counts} == counts
        assert device.info.board == "mock" and device.info.parameters == Parameters()
        image = np.frombuffer(case.program.weights.tobytes(), "<u2")
        np.testing.assert_array_equal(board.memory[: len(image)], image)
        for address, value in register_writes(case.program):
            assert board.registers.get(address, 0) == value
        for address, value in case.program.initial:
            assert board.registers[int(address)] == int(value) & MASK


def test_a_sequence_goes_on_until_reset(case):
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        for _ in range(2):
            parts = [device.run(part).outputs for part in np.array_split(case.inputs, 5)]
            np.testing.assert_array_equal(np.concatenate(parts), case.golden.outputs)
            device.counters()
            device.reset()


@pytest.mark.parametrize("n", [1, 3, 161, 600, 1300])
@pytest.mark.parametrize("options", [
    {}, {"input_elements": 16, "output_elements": 4}, {"steps_a_request": 1}, {"receive_frames": 1},
    {"batch_s": 0.003, "receive_bytes": 1100}, {"batch_s": 0.003, "receive_frames": 3},
])
def test_vectors_of_any_size_through_buffers_of_any_size(n, options):
    inputs = ramp(2000 // n + 2, n)
    if options.get("output_elements") == 4:
        options = options | {"output_elements": max(4, n // 4)}
    with MockDevice(**options) as board, Device.open(board.port) as device:
        device.load(echo_program(n))
        np.testing.assert_array_equal(list(device.stream(inputs)), inputs)
        assert board.counts[4:7] == [0, 0, 0]   # overruns, bad characters, refusals


def test_positions_go_beyond_32_bits():
    inputs = ramp(60, 7)
    with MockDevice() as board, Device.open(board.port) as device:
        device.load(echo_program(7))
        start = (1 << 32) // 7 * 7 - 7 * 30      # as if so many elements had gone through
        board.taken = board.released = start
        stream = device._stream
        stream._taken = stream._sent = stream._received = start
        stream._limit += start
        np.testing.assert_array_equal(list(device.stream(inputs)), inputs)


class StillLink:
    """Takes requests, and leaves the answers to the test."""

    def has_room(self, size):
        return True

    def submit(self, request):
        return request


def exchange_answer(taken, free):
    return Message(0, 0, 0, 0, EXCHANGE_ANSWER.pack(taken, free, 0))


def test_room_that_an_older_answer_tells_of_is_not_added_to_what_was_taken_since():
    stream = Stream(StillLink(), session=1, program=echo_program(8), input_elements=16, output_elements=16,
                    clock_hz=50_000_000)
    stream._inputs += bytes(2 * 8)
    stream._exchange()                          # inputs 0 to 7, and behind them a fetch
    [first], fetch = stream._givers, stream._fetch
    first.answer = exchange_answer(8, 8)
    stream._inputs += bytes(2 * 8)
    stream._gather()
    stream._exchange()                          # inputs 8 to 15
    [second] = stream._givers
    fetch.answer, second.answer = exchange_answer(8, 16), exchange_answer(16, 8)
    stream._gather()
    assert (stream._taken, stream._limit) == (16, 24)


# ---- loading ----------------------------------------------------------------------------------------------
def big_program(case, words=5 * CHUNK_WORDS):
    """The same program with a longer weight image."""
    rng = np.random.default_rng(8)
    more = rng.integers(-128, 128, (2 * words // 8, 8), np.int8)
    return replace(case.program, weights=np.concatenate([case.program.weights, more]))


def test_loading_sends_only_what_is_missing(case):
    program = big_program(case)
    size, told = program.weights.nbytes, []
    with case.mock(memory_words=1 << 20) as board, Device.open(board.port) as device:
        assert device.load(program, told.append) == size
        assert told[0] == 0 and told[-1] == size and told == sorted(told)
        told.clear()
        assert device.load(program, told.append) == 0 and told == [size]
        board.memory[CHUNK_WORDS + 5] ^= 4
        assert device.load(program) == 2 * CHUNK_WORDS
        assert board.written_words == size // 2 + CHUNK_WORDS
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)


def test_a_program_for_other_gateware(case):
    with case.mock(parameters=Parameters(pes=16, lanes=4)) as board, Device.open(board.port) as device:
        with pytest.raises(MisfitError, match="compiled for other gateware than the board has: pes 8 instead of 16, "
                                              "lanes 2 instead of 4, psum_depth 1024 instead of 512; compile it"):
            device.load(case.program)
        assert board.written_words == 0


def test_a_program_larger_than_the_memory(case):
    size = case.program.weights.nbytes
    with case.mock(memory_words=100) as board, Device.open(board.port) as device:
        with pytest.raises(MisfitError, match=f"has {size:,} bytes of weights, and the board's memory 200, "
                                              f"{size - 200:,} too few"):
            device.load(case.program)


def test_memory_that_does_not_hold_the_weights(case):
    with case.mock(stuck_high=0x10) as board, Device.open(board.port) as device:
        with pytest.raises(MemoryFaultError, match="does not hold the weights that were written, from memory word "
                                                   "0 on; 'amacrine selftest' tells more"):
            device.load(case.program)


def test_memory_that_is_not_initialised(case):
    with case.mock(initialised=False) as board, Device.open(board.port, timeout=0.05, tries=4) as device:
        with pytest.raises(MemoryFaultError, match="the board does not initialise its memory; program it again"):
            device.load(case.program)


def test_an_engine_that_does_not_halt(case):
    with case.mock(stuck_engine=True) as board, Device.open(board.port) as device:
        with pytest.raises(DeviceError, match="the engine does not halt; program the board again"):
            device.load(case.program)


# ---- streaming --------------------------------------------------------------------------------------------
def test_an_output_is_yielded_before_the_next_input_is_there(case):
    """Each input waits for the output before: without that promise this would never end."""
    arrived = threading.Semaphore(1)

    def frames():
        for x in case.inputs[:20]:
            arrived.acquire()
            yield x

    outputs = []
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        for y in device.stream(frames()):
            outputs.append(y)
            arrived.release()
    np.testing.assert_array_equal(outputs, case.golden.outputs[:20])


def test_an_error_of_the_source_comes_after_the_outputs_before_it(case):
    def frames():
        yield from case.inputs[:5]
        raise RuntimeError("microphone unplugged")

    outputs = []
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        with pytest.raises(RuntimeError, match="microphone unplugged"):
            for y in device.stream(frames()):
                outputs.append(y)
        np.testing.assert_array_equal(outputs, case.golden.outputs[:5])
        np.testing.assert_array_equal(device.run(case.inputs[5:]).outputs, case.golden.outputs[5:])


@pytest.mark.parametrize("source", [list, iter, lambda inputs: inputs])
def test_a_stream_that_is_left_early(case, source):
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        stream = device.stream(source(case.inputs))
        next(stream)
        with pytest.raises(AmacrineError, match="the last stream was left before its end, so the sequence is "
                                                r"incomplete; start a new one with reset\(\)"):
            next(device.stream(case.inputs))
        stream.close()
        with pytest.raises(AmacrineError, match="left before its end"):
            next(device.stream(case.inputs))
        device.reset()
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)


@pytest.mark.parametrize("frames", [np.zeros((3, 4), np.int16), np.zeros((3, 5), np.float32), np.zeros(5, np.int16),
                                    [np.zeros(4, np.int16)], [np.zeros(5, np.int64)], [[0.5] * 5]])
def test_inputs_of_the_wrong_form(frames):
    with MockDevice() as board, Device.open(board.port) as device:
        device.load(echo_program(5))
        with pytest.raises(AmacrineError, match="inputs must be int16 vectors of 5 elements, "):
            list(device.stream(frames))


def test_calls_in_the_wrong_order(case):
    with case.mock() as board, Device.open(board.port) as device:
        with pytest.raises(AmacrineError, match=r"no program is loaded on the device; call load\(\) first"):
            device.run(case.inputs)
        device.load(case.program)
        device.abort()
        with pytest.raises(AmacrineError, match=r"no sequence is under way after abort\(\); start one with reset\(\)"):
            device.run(case.inputs)


def test_an_engine_that_makes_no_output(case):
    with case.mock(steps_a_request=0) as board, Device.open(board.port) as device:
        device.load(case.program)
        with pytest.raises(SilentError, match="made no output in 20 s of its time; load the program again, and"):
            device.run(case.inputs[:1])

# ---- programs with convolutions ---------------------------------------------------------------------------
@pytest.mark.parametrize("behind", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"input_elements": 16, "output_elements": 16}])
def test_maps_in_the_gatewares_order_through_buffers_of_any_size(behind, options):
    """The host's maps are channel by channel, the line's pixel by pixel; most are longer than the small buffers."""
    for seed in range(4):
        rng = np.random.default_rng([seed, behind])
        network = random_mixed(rng, 2, behind)
        program = compile_network(network, SMALL)
        x = random_maps(rng, network, 12)
        golden = Golden(network).run(x)
        with MockDevice(GoldenEngine(network, program), SMALL, **options) as board, Device.open(board.port) as device:
            device.load(program)
            np.testing.assert_array_equal(device.run(x[:5]).outputs, golden.outputs[:5])
            np.testing.assert_array_equal(list(device.stream(iter(x[5:]))), golden.outputs[5:])
            counters = device.counters()
            for name, counts in expected_counters(golden, SMALL).items():
                assert {count: counters[name][count] for count in counts} == counts
            assert board.counts[4:7] == [0, 0, 0]   # overruns, bad characters, refusals

# ---- networks that were compiled together -----------------------------------------------------------------
def test_networks_take_turns():
    """Vectors of other lengths and maps, on a line that loses something now and then."""
    rng = np.random.default_rng(7)
    networks = [random_network(rng, 3, (5, 17, 33)), random_mixed(rng, 2, 1), random_network(rng, 2, (3, 9))]
    programs = compile_together(networks, SMALL)
    noise = Noise(flip=2e-4)
    with MockDevice(TogetherEngine(networks, programs), SMALL, to_host=noise, to_device=noise,
                    input_elements=64) as board, Device.open(board.port, timeout=0.2, tries=20) as device:
        device.load(programs[0])
        for sequence in range(2):
            if sequence:
                device.reset()
            goldens, present = [Golden(network) for network in networks], programs.index(device.program)
            for turn in range(12):
                x = random_maps(rng, networks[1], 3) if present == 1 else random_inputs(
                    rng, int(rng.integers(1, 7)), networks[present].n_inputs)
                np.testing.assert_array_equal(device.run(x).outputs, goldens[present].run(x).outputs)
                if turn % 3 == 0:
                    assert set(device.counters()) == {place.name for place in programs[present].counters()}
                present = int(rng.integers(3))
                device.switch(programs[present])
                assert device.program is programs[present]


def test_a_switch_that_cannot_be(case):
    rng = np.random.default_rng(8)
    networks = [random_network(rng, 2, (5, 9)), random_network(rng, 2, (5, 9))]
    programs = compile_together(networks)
    with MockDevice(TogetherEngine(networks, programs)) as board, Device.open(board.port) as device:
        with pytest.raises(AmacrineError, match="no program is loaded"):
            device.switch(programs[1])
        device.load(programs[0])
        with pytest.raises(AmacrineError, match="was not compiled together with what is loaded; load its program"):
            device.switch(case.program)
        next(device.stream(random_inputs(rng, 20, networks[0].n_inputs)))
        with pytest.raises(AmacrineError, match="left before its end"):
            device.switch(programs[1])
        device.reset()
        board.reset()
        with pytest.raises(SessionError, match="the device was reset"):
            device.switch(programs[1])
        device.load(programs[0])
        device.abort()
        with pytest.raises(AmacrineError, match="no sequence is under way"):
            device.switch(programs[1])


# ---- the line ---------------------------------------------------------------------------------------------
RATE = 3e-4     # a byte to the device; answers are smaller by far, so six times as many of them are damaged


@pytest.mark.parametrize("direction", ["to_device", "to_host", "both"])
@pytest.mark.parametrize("kind", ["flip", "drop", "double", "all", "rare"])
def test_noise_makes_it_slower_and_nothing_else(case, kind, direction):
    rates = {name: RATE * {"all": 1 / 3, "rare": 1 / 30}.get(kind, name == kind) for name in ("flip", "drop", "double")}
    noise = {"to_device": Noise(**rates), "to_host": Noise(**{name: 6 * rate for name, rate in rates.items()})}
    if direction != "both":
        noise = {direction: noise[direction]}
    with case.mock(seed=2, **noise) as board, Device.open(board.port, timeout=0.2, tries=20) as device:
        device.load(case.program)
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)
        counters = device.counters()
        for job, counts in expected_counters(case.golden, case.program.parameters).items():
            assert {name: counters[job][name] for name in counts} == counts
        statistics = device.link_statistics()
        assert kind == "rare" or statistics["host"]["repeated"] > 0
        assert statistics["device"]["overrun"] == statistics["device"]["refused"] == 0


@pytest.mark.parametrize(("direction", "message"), [
    ("to_device", "WRITE_MEMORY was sent 10 times"), ("to_host", "no answer arrives whole any more")])
def test_too_much_noise_is_an_error(case, direction, message):
    with case.mock() as board, Device.open(board.port, timeout=0.02) as device:
        setattr(board, direction, Noise(flip=0.003 if direction == "to_device" else 0.2))
        with pytest.raises(LinkError, match=f"too many frames are lost or damaged on {board.port}: {message} "
                                            ".*; use a shorter cable, or a lower baud rate on both sides"):
            device.load(case.program)


def test_a_slow_device_gets_nothing_to_do_twice(case):
    """Far slower than the shortest time-out: it is asked now and then, but no work is repeated."""
    with case.mock(slow_s=0.05) as board, Device.open(board.port) as device:
        device.load(case.program)
        np.testing.assert_array_equal(device.run(case.inputs[:30]).outputs, case.golden.outputs[:30])
        assert device.statistics.repeated == 0
        assert board.written_words == case.program.weights.nbytes // 2
        assert board.operations.count(Operation.START) == board.operations.count(Operation.ABORT) == 1


def test_a_port_that_is_not_there():
    with pytest.raises(PortError, match="there is no port /dev/no_such; 'amacrine devices' lists those that there are"):
        Device.open("/dev/no_such")


def test_a_port_without_permission(monkeypatch):
    def refuse(name, baud, **options):
        raise serial.SerialException(errno.EACCES, f"could not open port {name}")

    monkeypatch.setattr(serial, "Serial", refuse)   # root, who may run this, may open everything
    with pytest.raises(PortError, match="no permission to use /dev/ttyUSB0: .* 'sudo usermod -aG dialout .USER'"):
        Device.open("/dev/ttyUSB0")


def test_two_hosts_on_a_port(case):
    with case.mock() as board, Device.open(board.port) as device:
        with pytest.raises(PortError, match=f"{board.port} is busy: another program holds it; end that first"):
            Device.open(board.port)
        device.load(case.program)   # undisturbed
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)


def test_a_port_that_vanishes(case):
    with case.mock(vanish_after=4) as board, Device.open(board.port) as device:
        device.load(case.program)
        with pytest.raises(PortError, match=f"{board.port} has vanished .*: is the cable plugged in and the"):
            device.run(case.inputs)


def test_silence():
    with MockDevice(silent=True) as board, pytest.raises(SilentError, match=f"nothing answers on {board.port}: is the"):
        Device.open(board.port, timeout=0.02)


def test_something_else_answers():
    with MockDevice(garbage=b"login: \0") as board, pytest.raises(
            SilentError, match=f"nothing on {board.port} speaks Amacrine's protocol .*--baud the board's rate"):
        Device.open(board.port, timeout=0.02)


# ---- the other end ----------------------------------------------------------------------------------------
def test_another_version_of_the_protocol():
    with MockDevice(version=2) as board, pytest.raises(
            WrongDeviceError, match="speaks version 2 of the protocol, and this Amacrine version 1; program the board"):
        Device.open(board.port)


@pytest.mark.parametrize(("identity", "message"), [
    ({"parameters": {"pes": 8, "weight_planes": 3}}, r"TypeError: .*weight_planes.*; program the board with this"),
    ({"parameters": Parameters().as_dict() | {"lanes": 3}}, "AmacrineError: The parameter lanes must be a power of"),
    ({"memory_words": 0}, "describes itself by values that cannot be; program the board"),
    ({"clock_hz": "fast"}, "describes itself by values that cannot be; program the board"),
])
def test_gateware_of_another_version(identity, message):
    with MockDevice(identity=identity) as board, pytest.raises(WrongDeviceError, match=message):
        Device.open(board.port)


@pytest.mark.parametrize("who", ["reset", "host"])
def test_a_sequence_that_is_taken_away(case, who):
    with case.mock(reset_after=5 if who == "reset" else 0) as board, Device.open(board.port) as device:
        device.load(case.program)
        stream = device.stream(iter(case.inputs))
        with pytest.raises(SessionError, match="the device was reset, or another host has used it, so the "):
            for step, y in enumerate(stream):
                np.testing.assert_array_equal(y, case.golden.outputs[step])
                if who == "host" and step == 3:
                    board.counts[8] ^= 1    # the number of the session
        with pytest.raises(AmacrineError):
            device.run(case.inputs)
        assert device.load(case.program) == 0
        np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)


def test_counters_after_a_reset(case):
    with case.mock() as board, Device.open(board.port) as device:
        device.load(case.program)
        device.run(case.inputs)
        board.reset()
        with pytest.raises(SessionError, match="the device was reset"):
            device.counters()


HOST = """
import sys
sys.path.insert(0, sys.argv[1])
from test_device import Case, big_program
from amacrine.sw.device import Device
case = Case()
with Device.open(sys.argv[2]) as device:
    if sys.argv[3] == "load":
        device.load(big_program(case), lambda done: print("working", flush=True) if done > 50_000 else None)
    else:
        device.load(case.program)
        while True:
            device.run(case.inputs, lambda done: print("working", flush=True))
"""


@pytest.mark.parametrize("stage", ["load", "stream"])
def test_a_host_that_is_killed_leaves_a_device_that_works(case, stage):
    program = big_program(case)
    with case.mock(memory_words=1 << 20, slow_s=0.002) as board:
        host = subprocess.Popen([sys.executable, "-c", HOST, str(Path(__file__).parent), board.port, stage],
                                stdout=subprocess.PIPE)
        assert host.stdout.readline() == b"working\n"
        host.send_signal(signal.SIGKILL)
        host.communicate()
        board.slow_s = 0.0
        with Device.open(board.port) as device:
            sent = device.load(program)
            assert 0 < sent <= program.weights.nbytes - (2 * CHUNK_WORDS if stage == "load" else 0)
            np.testing.assert_array_equal(device.run(case.inputs).outputs, case.golden.outputs)


def test_memory_and_registers(case):
    with MockDevice() as board, Device.open(board.port) as device:
        words = np.random.default_rng(1).integers(0, 1 << 16, 3000, np.uint16)
        device.write_memory(100, words)
        np.testing.assert_array_equal(device.read_memory(100, 3000), words)
        assert [device.checksum(100, 3000)] == device.checksums(100, 3000)
        device.fill(200, 40_000, 0x1234)
        assert device.read_memory(40_000, 1)[0] == 40_000 ^ 0x1234
        assert device.read_registers(Register.IDENTITY) == [0x414D4143]
        device.write_registers([(Register.LIST + i, i) for i in range(30)] + [(Register.CELL, 7)])
        assert board.registers[Register.LIST + 29] == 29 and board.registers[Register.CELL] == 7
        with pytest.raises(DeviceError, match="the device refused READ_MEMORY with status BAD_ADDRESS"):
            device.read_memory(board.memory_words, 1)
