"""A device in Python behind a pseudo-terminal, after docs/protocol.md, with faults to choose."""

from __future__ import annotations

import json
import os
import select
import struct
import threading
import time
import tty
import zlib
from dataclasses import dataclass, field

import numpy as np
from cobs import cobs

from amacrine.sw.conv_counts import expected_passes
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Parameters
from amacrine.sw.program import switch_writes

RECEIVED, BAD_CHECKSUM, BAD_FORM, TOO_LONG, OVERRUN, BAD_CHARACTER, REFUSED, FLAGS, SESSION, CYCLES = range(10)
OK, UNKNOWN_OPERATION, BAD_LENGTH, BAD_ADDRESS, BUSY, WRONG_SESSION, WRONG_POSITION, NO_ROOM = range(8)
MASK = 0xFFFFFFFF
CONV_COUNTERS = 1000
"""What an engine's counters of the passes begin at."""


@dataclass
class Noise:
    """What happens to the bytes of one direction; rates per byte."""

    flip: float = 0.0
    drop: float = 0.0
    double: float = 0.0

    def apply(self, data: bytes, rng) -> bytes:
        if not (self.flip or self.drop or self.double):
            return data
        array = np.frombuffer(data, np.uint8).copy()
        flips = rng.random(len(array)) < self.flip
        array[flips] ^= (1 << rng.integers(0, 8, flips.sum())).astype(np.uint8)
        copies = 1 + (rng.random(len(array)) < self.double) - (rng.random(len(array)) < self.drop)
        return np.repeat(array, np.maximum(copies, 0)).tobytes()


class EchoEngine:
    """Outputs are the inputs."""

    def reset(self) -> None:
        pass

    def step(self, x: np.ndarray) -> np.ndarray:
        return x

    def counters(self) -> dict[int, tuple[int, ...]]:
        return {}


class GoldenEngine:
    """The golden model of a network; elements in a program's order, counters as its jobs and passes are numbered."""

    def __init__(self, network, program):
        self.golden, self.program = Golden(network), program
        self.reset()

    def reset(self) -> None:
        self.golden.reset()
        self.runs, self.counted = [], (-1, {})

    def step(self, x: np.ndarray) -> np.ndarray:
        order = self.program.input_order
        if len(order):
            x = x[np.argsort(order)]
        self.runs.append(self.golden.run(x[None]))
        outputs, order = self.runs[-1].outputs[0], self.program.output_order
        return outputs[order] if len(order) else outputs

    def counters(self) -> dict[int, tuple[int, ...]]:
        if self.counted[0] != len(self.runs):       # they are read register by register
            self.counted = len(self.runs), self._counts()
        return self.counted[1]

    def _counts(self) -> dict[int, tuple[int, ...]]:
        counts = {}
        passes = [list(expected_passes(run, self.program.parameters.conv)) for run in self.runs
                  if self.program.conv_jobs]
        for each in self.program.conv_jobs:
            counts[CONV_COUNTERS + each.number] = (7, *(sum(getattr(one[each.number], name) for one in passes)
                                                        for name in ("events", "mac_cycles", "zero_macs")))
        for job in self.program.jobs:
            if job.encoder == "bias":
                events = job.columns
            else:
                events = sum(int(run.events[job.name].sum()) for run in self.runs)
                events += self.runs[-1].anticipated.get(job.name, 0) if self.runs else 0
            counts[job.number] = (events, events * job.words, 1, 2, 3)
        return counts


class TogetherEngine:
    """The golden models of networks that were compiled together; the registers tell which of them is at work."""

    def __init__(self, networks, programs):
        self.engines = [GoldenEngine(*pair) for pair in zip(networks, programs, strict=True)]
        self.present = self.engines[0]

    def reset(self) -> None:
        for engine in self.engines:
            engine.reset()

    def resume(self, registers: dict[int, int], steps: int) -> None:
        """RESUME was written: the network that LIST_LOOP, INPUT and ROUTE tell goes on."""
        [self.present] = [engine for engine in self.engines
                          if all(registers[address] == value for address, value in switch_writes(engine.program))]
        assert steps == len(self.present.runs) % 4

    def step(self, x: np.ndarray) -> np.ndarray:
        return self.present.step(x)

    def counters(self) -> dict[int, tuple[int, ...]]:
        return self.present.counters()


@dataclass
class MockDevice:
    """Answers until it is closed; `port` is the name to open.

    Parameters
    ----------
    engine : what turns input vectors into output vectors
    to_device, to_host : faults on the line
    real_words : words that the memory chip really has, addresses wrap around; 0: as many as it says
    stuck_high, stuck_low : data lines that always read 1, or 0
    dead_address : address lines that have no effect
    tied_addresses : two address lines that are one: if either is set, both are
    bad_cell : address of a word whose bit 7 always reads 1
    stuck_engine : does not halt
    silent : answers nothing
    garbage : sends this, whatever it receives
    reset_after, vanish_after : after so many EXCHANGE requests, once
    batch_s : gathers requests for so long, and then answers those that fit into its receive buffer
    slow_s : time that each answer takes
    steps_a_request : steps the engine does between two requests, at most
    """

    engine: object = field(default_factory=EchoEngine)
    parameters: Parameters = field(default_factory=Parameters)
    to_device: Noise = field(default_factory=Noise)
    to_host: Noise = field(default_factory=Noise)
    seed: int = 1
    memory_words: int = 1 << 16
    real_words: int = 0
    stuck_high: int = 0
    stuck_low: int = 0
    dead_address: int = 0
    tied_addresses: tuple[int, int] | None = None
    bad_cell: int = -1
    initialised: bool = True
    stuck_engine: bool = False
    version: int = 1
    identity: dict = field(default_factory=dict)
    silent: bool = False
    garbage: bytes = b""
    reset_after: int = 0
    vanish_after: int = 0
    batch_s: float = 0.0
    slow_s: float = 0.0
    steps_a_request: int = 1000
    receive_bytes: int = 4096
    receive_frames: int = 8
    input_elements: int = 1024
    output_elements: int = 1024

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.memory = np.random.default_rng(99).integers(0, 1 << 16, self.real_words or self.memory_words, np.uint16)
        self.registers = {}
        self.counts = [0] * 10
        self.operations = []
        self.written_words = 0
        self.reset()
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)
        self.part = b""
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed.set()
        self.thread.join()
        self._close_line()

    def _close_line(self):
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)
        self.master = self.slave = -1

    def reset(self):
        """As by the board's button: a sequence is gone, and so are descriptors; memory stays."""
        self.registers.clear()
        self.counts = [0] * 10
        self.exchanges = 0
        self._clear(0)

    def _clear(self, session):
        self.counts[SESSION] = session
        self.running = False
        self.inputs, self.vector = [], []       # in the buffer, in the engine
        self.outputs = []                       # from position `released` on
        self.taken = self.released = 0
        self.engine.reset()

    # ---- line ---------------------------------------------------------------------------------------------
    def _serve(self):
        while not self.closed.is_set() and self.master >= 0:
            if not select.select([self.master], [], [], 0.02)[0]:
                continue
            data = os.read(self.master, 65536)
            while self.batch_s and select.select([self.master], [], [], self.batch_s)[0]:
                data += os.read(self.master, 65536)
            if self.silent:
                continue
            if self.garbage:
                os.write(self.master, self.garbage)
                continue
            *lines, self.part = (self.part + self.to_device.apply(data, self.rng)).split(b"\0")
            bodies = [body for line in lines if line and (body := self._decode(line)) is not None]
            answers = [self.answer(body) for body in self._fitting(bodies)]
            for answer in answers:
                frame = cobs.encode(answer + struct.pack("<I", zlib.crc32(answer))) + b"\0"
                time.sleep(self.slow_s)
                self._write(self.to_host.apply(frame, self.rng))
            if self.vanish_after and self.exchanges >= self.vanish_after:
                self._close_line()

    def _write(self, data):
        while data and not self.closed.is_set():
            if select.select([], [self.master], [], 0.02)[1]:
                data = data[os.write(self.master, data) :]

    def _decode(self, line):
        try:
            frame = cobs.decode(line)
        except cobs.DecodeError:
            self.counts[BAD_FORM] += 1
            return None
        if len(frame) > 1048:
            self.counts[TOO_LONG] += 1
        elif len(frame) < 12:
            self.counts[BAD_FORM] += 1
        elif zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:], "little"):
            self.counts[BAD_CHECKSUM] += 1
        else:
            return frame[:-4]
        return None

    def _fitting(self, bodies):
        """Those that the receive buffer has room for if none is answered before the last has come."""
        if not self.batch_s:
            return bodies
        fitting = []
        for body in bodies:
            if (len(fitting) < self.receive_frames
                    and sum(len(other) + 4 for other in fitting) + len(body) + 4 <= self.receive_bytes):
                fitting.append(body)
            else:
                self.counts[OVERRUN] += 1
        return fitting

    # ---- requests -----------------------------------------------------------------------------------------
    def answer(self, body: bytes) -> bytes:
        tag, operation, count, address = struct.unpack_from("<BBHI", body)
        data = body[8:]
        self.counts[RECEIVED] += 1
        self.operations.append(operation)
        handlers = {1: self._identify, 2: self._read_registers, 3: self._write_registers, 4: self._read_memory,
                    5: self._write_memory, 6: self._checksum, 7: self._fill, 8: self._start, 9: self._exchange,
                    10: self._abort}
        self._work()
        result = handlers[operation](count, address, data) if operation in handlers else UNKNOWN_OPERATION
        if isinstance(result, int):
            self.counts[REFUSED] += 1
            return struct.pack("<BBHI", tag, result, 0, 0)
        count, address, data = result
        return struct.pack("<BBHI", tag, OK, count, address) + data

    def _identify(self, count, address, data):
        told = {"board": "mock", "build": "0123456789abcdef", "clock_hz": 50_000_000, "baud": 3_000_000,
                "parameters": self.parameters.as_dict(), "memory_words": self.memory_words,
                "receive_bytes": self.receive_bytes, "receive_frames": self.receive_frames,
                "input_elements": self.input_elements, "output_elements": self.output_elements,
                "something_new": 1} | self.identity
        text = json.dumps(told).encode()
        text += b"\0" * (-len(text) % 4)
        return len(text), self.version, text

    def _read_registers(self, count, address, data):
        if data or not 1 <= count <= 256:
            return BAD_LENGTH
        values = [self._register(address + i) for i in range(count)]
        return BAD_ADDRESS if None in values else (count, address, struct.pack(f"<{count}I", *values))

    def _register(self, address):
        if address >= 0x40000:
            self.counts[FLAGS] = int(self.initialised)
            return self.counts[address - 0x40000] & MASK if address < 0x4000A else None
        if address == 0:
            return 0x414D4143
        if address == 1:
            return 2 * self.running + 4
        if 0x600 <= address < 0x700:
            job, number = divmod(address - 0x600, 8)
            return (*self.engine.counters().get(job, (0,) * 5), 0, 0, 0)[number]
        if 0x8C00 <= address < 0x8D00:
            number, field = divmod(address - 0x8C00, 4)
            return self.engine.counters().get(CONV_COUNTERS + number, (0,) * 4)[field]
        if 0x10 <= address < 0x1E:
            return list(self.parameters.as_dict().values())[address - 0x10]
        return self.registers.get(address, 0) if address < 0x30000 else None

    def _write_registers(self, count, address, data):
        if not 1 <= count <= 256 or len(data) != 4 * count:
            return BAD_LENGTH
        if address + count > 0x30000:
            return BAD_ADDRESS
        for i, value in enumerate(struct.unpack(f"<{count}I", data)):
            self.registers[address + i] = value
            if address + i == 1:
                self.running = value == 2
            if address + i == 6:
                assert not self.running and not self.vector
                self.engine.resume(self.registers, value)
        return count, address, b""

    def _memory_range(self, address, count):
        if address + count > self.memory_words:
            return BAD_ADDRESS
        return BUSY if self.running or not self.initialised else None

    def _cells(self, address, count):
        cells = np.arange(address, address + count) % len(self.memory) & ~self.dead_address
        if self.tied_addresses:
            a, b = self.tied_addresses
            cells |= (cells >> a & 1) << b | (cells >> b & 1) << a
        return cells

    def _read(self, address, count):
        cells = self._cells(address, count)
        words = self.memory[cells] | np.uint16(self.stuck_high)
        words[cells == self.bad_cell] |= 1 << 7
        return words & np.uint16(0xFFFF ^ self.stuck_low)

    def _read_memory(self, count, address, data):
        if data or not 1 <= count <= 512:
            return BAD_LENGTH
        return self._memory_range(address, count) or (count, address, self._read(address, count).tobytes())

    def _write_memory(self, count, address, data):
        if not 1 <= count <= 512 or len(data) != 2 * count:
            return BAD_LENGTH
        if error := self._memory_range(address, count):
            return error
        self.memory[self._cells(address, count)] = np.frombuffer(data, "<u2")
        self.written_words += count
        return count, address, b""

    def _checksum(self, count, address, data):
        if count or len(data) != 8:
            return BAD_LENGTH
        words, _ = struct.unpack("<II", data)
        return self._memory_range(address, words) or (
            0, address, struct.pack("<I", zlib.crc32(self._read(address, words).tobytes())))

    def _fill(self, count, address, data):
        if count or len(data) != 8:
            return BAD_LENGTH
        words, seed = struct.unpack("<II", data)
        if error := self._memory_range(address, words):
            return error
        a = np.arange(address, address + words)
        self.memory[self._cells(address, words)] = (a ^ a >> 16 ^ seed) & 0xFFFF
        return 0, address, b""

    def _start(self, count, address, data):
        if count or data:
            return BAD_LENGTH
        if not 1 <= address <= 0xFFFF:
            return BAD_ADDRESS
        if self.stuck_engine:
            return BUSY
        self._clear(address)
        return 0, address, b""

    def _abort(self, count, address, data):
        if count or data:
            return BAD_LENGTH
        if address:
            return BAD_ADDRESS
        if self.stuck_engine:
            return BUSY
        self._clear(0)
        return 0, 0, b""

    def _work(self):
        """The engine goes on as far as inputs and output buffer allow."""
        n_inputs = self.registers.get(4, 0) >> 16
        if self.registers.get(5):
            n_inputs = self.registers.get(0x8002, 0) * self.registers.get(0x8003, 0)
        for _ in range(self.steps_a_request if self.running and n_inputs else 0):
            missing = n_inputs - len(self.vector)
            self.vector += self.inputs[:missing]
            del self.inputs[:missing]
            if len(self.vector) < n_inputs or len(self.outputs) >= self.output_elements:
                break
            self.outputs += self.engine.step(np.array(self.vector, np.int16)).tolist()
            self.vector = []

    def _exchange(self, count, address, data):
        self.exchanges += 1
        if self.reset_after and self.exchanges > self.reset_after:
            self.reset_after = 0
            self.reset()
        if count > 512 or len(data) != 12 + 2 * count:
            return BAD_LENGTH
        position, session, wanted, _, _ = struct.unpack_from("<IHHHH", data)
        if wanted > 508:
            return BAD_LENGTH
        if session != self.counts[SESSION] or not session:
            return WRONG_SESSION
        ahead = (position - self.released) & MASK
        if ahead > len(self.outputs):
            return WRONG_POSITION
        takes = address == self.taken & MASK
        if takes and count > self.input_elements - len(self.inputs):
            return NO_ROOM
        del self.outputs[:ahead]
        self.released += ahead
        if takes:
            self.inputs += struct.unpack_from(f"<{count}h", data, 12)
            self.taken += count
        self._work()
        outputs = self.outputs[:wanted]
        free = self.input_elements - len(self.inputs)
        data = struct.pack("<IHH", self.taken & MASK, free, 0) + struct.pack(f"<{len(outputs)}h", *outputs)
        return len(outputs), position, data
