"""The driver: load a program on a board, or a simulated one, and stream vectors through it.

    with Device.open("/dev/ttyUSB0") as device:
        device.load(program)
        for y in device.stream(frames):
            ...
"""

from __future__ import annotations

import json
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np

from .errors import (
    AmacrineError,
    MemoryFaultError,
    MisfitError,
    RefusedError,
    SessionError,
    SilentError,
    WrongDeviceError,
)
from .layout import HALT, QUIET, RUN, Parameters, Register
from .port import Port, SerialPort
from .program import Program, check_switch, network_key, register_writes, switch_writes
from .protocol import BAUD, LINK_REGISTERS, MAX_DATA, MEMORY_RANGE, VERSION, LinkRegister, Operation, Status
from .stream import GONE, Stream
from .transport import Link, LinkStatistics, Request

MAX_WORDS = MAX_DATA // 2
MAX_REGISTERS = MAX_DATA // 4
CHUNK_WORDS = 1 << 14
"""Memory words that one CHECKSUM_MEMORY or FILL_MEMORY covers, so that none takes long."""

REPROGRAM = "program the board with this Amacrine's gateware ('amacrine program')"

Progress = Callable[[int], None]


@dataclass(frozen=True)
class DeviceInfo:
    """What a device says of itself; the fields are those of IDENTIFY (docs/protocol.md)."""

    board: str
    build: str
    clock_hz: int
    baud: int
    parameters: Parameters
    memory_words: int
    receive_bytes: int
    receive_frames: int
    input_elements: int
    output_elements: int


@dataclass(frozen=True, eq=False)
class DeviceRun:
    """What a device made of T vectors: outputs, int16 (T, n_outputs), and the seconds that passed for the host."""

    outputs: np.ndarray
    seconds: float


class Device:
    """A device on an open port.

    Parameters
    ----------
    port : see `open`
    timeout : seconds without an answer, at most, before a request is sent again; 1 s suits a board, a simulated one may
        need more
    tries : times that a request is sent before the link is given up

    Members
    -------
    info : what the device says of itself
    program : the one loaded by this object, or None
    """

    def __init__(self, port: Port, timeout: float = 1.0, tries: int = 10):
        self._link = Link(port, timeout, tries)
        self._patience = timeout * tries
        self._stream: Stream | None = None
        self._steps: dict[tuple[tuple[int, int], ...], int] = {}   # of the present sequence, by `network_key`
        self.program: Program | None = None
        try:
            self.info = _identify(self._link)
        except BaseException:
            port.close()
            raise
        self._link.set_credits(self.info.receive_bytes, self.info.receive_frames)

    @classmethod
    def open(cls, port: str, baud: int = BAUD, timeout: float = 1.0, tries: int = 10) -> Device:
        """The device on a serial port or pseudo-terminal; DeviceError, or one derived from it, if there is none."""
        return cls(SerialPort(port, baud), timeout, tries)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back; the program stays loaded."""
        self._link.port.close()

    # ---- programs and sequences --------------------------------------------------------------------------
    def load(self, program: Program, progress: Progress | None = None) -> int:
        """Load a program, and start its first sequence.

        Only those parts of the weights are sent whose checksum in the device differs, so the program that is there
        already loads at once, and an interrupted loading goes on where it was.

        Parameters
        ----------
        progress : called with the number of bytes of weights that are in place

        Returns the number of bytes that were sent.
        """
        image = _image(program)
        _check_fit(program, self.info)
        self.abort()
        self.wait_for_memory()
        self.program = None
        self._stream = None
        missing = self._differing(image)
        sent = sum(min(CHUNK_WORDS, len(image) - start) for start in missing)
        requests = (request for start in missing for request in _memory_writes(start, image[start:][:CHUNK_WORDS]))
        tell = _counted(progress, 2 * (len(image) - sent), 2)
        for request in self._link.ask_all(requests):
            request.result()
            tell(request.count)
        if missing and (wrong := self._differing(image)):
            raise MemoryFaultError(f"the board's memory does not hold the weights that were written, from memory word "
                                   f"{wrong[0]} on; 'amacrine selftest' tells more")
        self.write_registers(register_writes(program))
        self.program = program
        self.reset()
        return 2 * sent

    def reset(self) -> None:
        """Start a new sequence: state zero, or as the program's initial state has it; counters zero."""
        program = self._loaded()
        session = random.randrange(1, 1 << 16)
        self._halt(Operation.START, session)
        self.write_registers([(int(address), int(value)) for address, value in program.initial])
        self.write_registers([(Register.CONTROL, RUN)])
        self._stream = Stream(self._link, session, program, self.info.input_elements, self.info.output_elements,
                              self.info.clock_hz)
        self._steps.clear()

    def switch(self, program: Program) -> None:
        """Go on with another of the networks that were compiled together, where it was left, or at its first step."""
        present = self._loaded()
        check_switch(present, program)
        stream = self._under_way()
        self._steps[network_key(present)] = stream.steps
        self._rest()
        self._check_session(stream)
        self.write_registers(switch_writes(program))
        steps = self._steps.get(network_key(program), 0)
        self.write_registers([(Register.RESUME, steps % 4)])     # by itself: after the others, even if one is repeated
        self.write_registers([(Register.CONTROL, RUN)])
        stream.switch(program, steps)
        self.program = program

    def stream(self, frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Continue the sequence; yields an int16 vector (n_outputs,) for each input vector, in order.

        Parameters
        ----------
        frames : int16 (T, n_inputs), or an iterable of int16 (n_inputs,). An iterable is read by a thread of its own, a
            few vectors ahead, so that an output is yielded as soon as it is here, even while the next input is not.
        """
        self._loaded()
        return self._under_way().run(frames)

    def run(self, inputs: np.ndarray, progress: Progress | None = None) -> DeviceRun:
        """Continue the sequence by T steps.

        Parameters
        ----------
        inputs : int16 (T, n_inputs)
        progress : called with the number of steps finished
        """
        outputs = np.empty((len(inputs), self._loaded().n_outputs), np.int16)
        start = time.perf_counter()
        for step, output in enumerate(self.stream(inputs)):
            outputs[step] = output
            if progress:
                progress(step + 1)
        return DeviceRun(outputs, time.perf_counter() - start)

    def counters(self) -> dict[str, dict[str, int]]:
        """Counters since the sequence's start, by job and pass; waits until work in anticipation is done."""
        places = self._loaded().counters()
        self._rest()
        requests = [Request(Operation.READ_REGISTERS, len(place.names), place.address) for place in places]
        counters = {place.name: dict(zip(place.names, _numbers(request.result().data, "<u4"), strict=True))
                    for place, request in zip(places, self._link.ask_all(requests), strict=True)}
        self._check_session(self._stream)
        self.write_registers([(Register.CONTROL, RUN)])
        return counters

    def _under_way(self) -> Stream:
        if self._stream is None:
            raise AmacrineError("no sequence is under way after abort(); start one with reset()")
        return self._stream

    def _rest(self) -> None:
        """Wait until nothing is left to do, and halt."""
        give_up = time.monotonic() + 10 * self._patience
        while not self.read_registers(Register.CONTROL)[0] & QUIET:
            if time.monotonic() > give_up:
                raise SilentError("the engine does not come to rest; load the program again, and if that does not "
                                  "help, please report it")
        self.write_registers([(Register.CONTROL, HALT)])

    def _check_session(self, stream: Stream | None) -> None:
        """The sequence must be ours: what was read, or is about to be written, would be another host's."""
        [session] = self.read_registers(LINK_REGISTERS + LinkRegister.SESSION)
        if stream is None or session != stream.session:
            raise SessionError(GONE)

    def abort(self) -> None:
        """Stop what runs, whoever started it, so that memory can be reached; `reset` starts anew."""
        self._stream = None
        self._halt(Operation.ABORT)

    def _halt(self, operation: Operation, session: int = 0) -> None:
        try:
            self._link.ask(operation, address=session)
        except RefusedError as error:
            if error.status != Status.BUSY:
                raise
            raise SilentError("the engine does not halt; program the board again, and if that does not help, please "
                              "report it") from error

    # ---- memory: words of 16 bits ------------------------------------------------------------------------
    def read_memory(self, address: int, count: int) -> np.ndarray:
        """Memory words, uint16."""
        requests = (Request(Operation.READ_MEMORY, min(MAX_WORDS, address + count - start), start)
                    for start in range(address, address + count, MAX_WORDS))
        data = b"".join(request.result().data for request in self._link.ask_all(requests))
        return np.frombuffer(data, "<u2").astype(np.uint16, copy=False)

    def write_memory(self, address: int, words: np.ndarray, progress: Progress | None = None) -> None:
        """Write uint16 words; progress is called with the number that are written."""
        tell = _counted(progress)
        for request in self._link.ask_all(_memory_writes(address, words)):
            request.result()
            tell(request.count)

    def fill(self, address: int, count: int, seed: int, progress: Progress | None = None) -> None:
        """Let the device write `protocol.fill_word` of address and seed to each word."""
        self._ranges(Operation.FILL_MEMORY, address, count, seed, progress)

    def checksums(self, address: int, count: int, progress: Progress | None = None) -> list[int]:
        """CRC-32 of each CHUNK_WORDS words, the last one's maybe fewer."""
        answers = self._ranges(Operation.CHECKSUM_MEMORY, address, count, 0, progress)
        return [int.from_bytes(data, "little") for data in answers]

    def checksum(self, address: int, count: int) -> int:
        """CRC-32 of the words' bytes, computed in one go; for long ranges `checksums` is kinder to the time-out."""
        return int.from_bytes(self._link.ask(Operation.CHECKSUM_MEMORY, 0, address, MEMORY_RANGE.pack(count, 0)).data,
                              "little")

    def _ranges(self, operation: Operation, address: int, count: int, seed: int,
                progress: Progress | None) -> list[bytes]:
        requests = (Request(operation, 0, start, MEMORY_RANGE.pack(min(CHUNK_WORDS, address + count - start), seed))
                    for start in range(address, address + count, CHUNK_WORDS))
        answers, tell = [], _counted(progress)
        for request in self._link.ask_all(requests):
            answers.append(request.result().data)
            tell(min(CHUNK_WORDS, address + count - request.address))
        return answers

    def _differing(self, image: np.ndarray) -> list[int]:
        """Where, in steps of CHUNK_WORDS, the memory differs from what it should hold from address 0 on."""
        starts = range(0, len(image), CHUNK_WORDS)
        return [start for start, crc in zip(starts, self.checksums(0, len(image)), strict=True)
                if crc != zlib.crc32(image[start : start + CHUNK_WORDS].tobytes())]

    def wait_for_memory(self) -> None:
        """Wait until the device has initialised its memory."""
        give_up = time.monotonic() + self._patience
        while not self.read_registers(LINK_REGISTERS + LinkRegister.FLAGS)[0] & 1:
            if time.monotonic() > give_up:
                raise MemoryFaultError("the board does not initialise its memory; program it again, and if that does "
                                       "not help, its memory chip is not what the gateware expects")

    # ---- registers and statistics ------------------------------------------------------------------------
    def read_registers(self, address: int, count: int = 1) -> list[int]:
        """At most 256 registers in a row."""
        return _numbers(self._link.ask(Operation.READ_REGISTERS, count, address).data, "<u4")

    def write_registers(self, writes: Iterable[tuple[int, int]]) -> None:
        """Write pairs of address and value, in their order; neighbours go together."""
        for request in self._link.ask_all(_write_requests(writes)):
            request.result()

    def link_statistics(self) -> dict[str, dict[str, int]]:
        """What ``host`` and ``device`` saw on the line; the device's counts are since its reset."""
        values = self.read_registers(LINK_REGISTERS, LinkRegister.REFUSED + 1)
        return {"host": asdict(self._link.statistics),
                "device": {LinkRegister(number).name.lower(): value for number, value in enumerate(values)}}

    @property
    def statistics(self) -> LinkStatistics:
        """The host's own counts, without a question to the device."""
        return self._link.statistics

    def _loaded(self) -> Program:
        if self.program is None:
            raise AmacrineError("no program is loaded on the device; call load() first")
        return self.program


def _identify(link: Link) -> DeviceInfo:
    try:
        answer = link.ask(Operation.IDENTIFY)
    except RefusedError as error:
        raise WrongDeviceError(f"{link.port.name}: {error}") from error
    if answer.address != VERSION:
        raise WrongDeviceError(f"the device on {link.port.name} speaks version {answer.address} of the protocol, and "
                               f"this Amacrine version {VERSION}; {REPROGRAM}")
    try:
        told = json.loads(answer.data.rstrip(b"\0"))
        told["parameters"] = Parameters.from_dict(told["parameters"])
        info = DeviceInfo(**{item.name: told[item.name] for item in fields(DeviceInfo)})
    except (ValueError, KeyError, TypeError, AmacrineError) as error:
        raise WrongDeviceError(f"the gateware on {link.port.name} describes itself otherwise than this Amacrine "
                               f"expects ({type(error).__name__}: {error}); {REPROGRAM}") from error
    numbers = [value for name, value in asdict(info).items() if name not in ("board", "build", "parameters")]
    if (not all(isinstance(number, int) and number > 0 for number in numbers)
            or not isinstance(info.board, str) or not isinstance(info.build, str)):
        raise WrongDeviceError(f"the gateware on {link.port.name} describes itself by values that cannot be; "
                               f"{REPROGRAM}")
    return info


def _check_fit(program: Program, info: DeviceInfo) -> None:
    wanted, there = program.parameters.as_dict(), info.parameters.as_dict()
    if differing := [name for name in wanted if wanted[name] != there[name]]:
        raise MisfitError("the program was compiled for other gateware than the board has: "
                          + ", ".join(f"{name} {wanted[name]} instead of {there[name]}" for name in differing)
                          + "; compile it with the board's parameters")
    words = -(-program.memory_words * program.parameters.pes // 2)
    if words > info.memory_words:
        maps = " and maps" if program.memory_words > len(program.weights) else ""
        raise MisfitError(f"the program has {2 * words:,} bytes of weights{maps}, and the board's memory "
                          f"{2 * info.memory_words:,}, {2 * (words - info.memory_words):,} too few; "
                          "use a smaller network")


def _image(program: Program) -> np.ndarray:
    """The weights as memory words, uint16."""
    data = program.weights.tobytes()
    return np.frombuffer(data + b"\0" * (len(data) % 2), "<u2")


def _memory_writes(address: int, words: np.ndarray) -> Iterator[Request]:
    for at in range(0, len(words), MAX_WORDS):
        part = np.ascontiguousarray(words[at : at + MAX_WORDS], "<u2")
        yield Request(Operation.WRITE_MEMORY, len(part), address + at, part.tobytes())


def _counted(progress: Progress | None, done: int = 0, scale: int = 1) -> Progress:
    """A function that adds up what is done, and tells ``progress``."""
    def tell(more: int) -> None:
        nonlocal done
        done += scale * more
        if progress:
            progress(done)
    tell(0)
    return tell


def _write_requests(writes: Iterable[tuple[int, int]]) -> Iterator[Request]:
    first, values = 0, list[int]()
    for address, value in writes:
        if values and (address != first + len(values) or len(values) == MAX_REGISTERS):
            yield _write_request(first, values)
            values = []
        if not values:
            first = address
        values.append(value & 0xFFFFFFFF)
    if values:
        yield _write_request(first, values)


def _write_request(first: int, values: list[int]) -> Request:
    return Request(Operation.WRITE_REGISTERS, len(values), first, np.array(values, "<u4").tobytes())


def _numbers(data: bytes, dtype: str) -> list[int]:
    return [int(number) for number in np.frombuffer(data, dtype)]
