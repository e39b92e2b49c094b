"""Requests and answers on a port: several in flight, sent again when one is lost. docs/protocol.md.

Each sending of a request has a tag of its own, so an answer tells which sending it belongs to. Answers come in the
order of sendings: one that overtakes an earlier sending proves that the latter, or its answer, was lost, and the
request is sent again at once. Only when nothing comes at all must a time-out help: then a small question goes out,
whose answer will tell about the others. A device that is merely busy so gets nothing to do twice.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .errors import DeviceError, LinkError, RefusedError, SilentError
from .port import HasFileno, Port
from .protocol import (
    CRC_BYTES,
    HEADER,
    LINK_REGISTERS,
    MAX_FRAME,
    FrameError,
    Message,
    Operation,
    Status,
    decode,
    encode,
)

MAX_LINE = MAX_FRAME + MAX_FRAME // 254 + 1
"""Longest frame on the line, without the zero byte that ends it."""

MIN_PATIENCE_S = 0.01
BACKOFF = 4   # to the power of the questions that were not answered
MAX_IN_FLIGHT = 64
"""Requests that are not answered; a quarter of the tags, so that a tag in use is not given out again."""

QUESTION_BYTES = HEADER.size + CRC_BYTES
"""Room in the device's buffer that is kept for a question to a silent device."""


class Splitter:
    """Cuts what arrives at its zero bytes, and holds no more than a frame of it."""

    def __init__(self) -> None:
        self._part = bytearray()
        self._skipping = False
        self.too_long = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that these bytes complete; empty ones and too long ones are left out."""
        frames = []
        *ends, rest = data.split(b"\0")
        for end in ends:
            self._add(end)
            if self._part and not self._skipping:
                frames.append(bytes(self._part))
            self._part.clear()
            self._skipping = False
        self._add(rest)
        return frames

    def _add(self, data: bytes) -> None:
        if self._skipping:
            return
        self._part += data
        if len(self._part) > MAX_LINE:
            self._part.clear()
            self._skipping = True
            self.too_long += 1


@dataclass(eq=False)
class Request:
    """A request and, later, its answer.

    Parameters
    ----------
    operation, count, address : as in a message
    data : bytes, or a function that gives them each time the request is sent
    """

    operation: Operation
    count: int = 0
    address: int = 0
    data: bytes | Callable[[], bytes] = b""
    answer: Message | None = field(default=None, init=False)
    sendings: int = field(default=0, init=False)

    def message(self, tag: int) -> Message:
        data = self.data if isinstance(self.data, bytes) else self.data()
        return Message(tag, self.operation, self.count, self.address, data)

    def fits(self, answer: Message) -> bool:
        """Whether the answer has the form that this request's has: a stale one, of another host's, may not."""
        if answer.code != Status.OK:
            return True
        size = len(answer.data)
        same = (answer.count, answer.address) == (self.count, self.address)
        match self.operation:
            case Operation.IDENTIFY:
                return 0 < size and answer.count <= size
            case Operation.READ_REGISTERS:
                return same and size == 4 * self.count
            case Operation.READ_MEMORY:
                return same and size == 2 * self.count
            case Operation.CHECKSUM_MEMORY:
                return answer.address == self.address and size == 4
            case Operation.EXCHANGE:
                return size == 8 + 2 * answer.count
            case Operation.WRITE_REGISTERS | Operation.WRITE_MEMORY:
                return same and size == 0
            case Operation.FILL_MEMORY | Operation.START:
                return answer.address == self.address and size == 0
        return size == 0

    def result(self) -> Message:
        """The answer; RefusedError if it is not OK."""
        assert self.answer is not None, "not answered yet"
        if self.answer.code != Status.OK:
            raise RefusedError(f"the device refused {self.operation.name} with status {status_name(self.answer.code)}; "
                               "if its gateware is of this version of Amacrine, please report it", self.answer.code)
        return self.answer


def status_name(code: int) -> str:
    return Status(code).name if code in list(Status) else str(code)


@dataclass
class LinkStatistics:
    """What happened on the line, as the host saw it.

    Parameters
    ----------
    requests : frames sent, repetitions included
    repeated : frames sent again
    timeouts : times that nothing came, so that a small question was sent to find out more
    answers : good answers that belonged to a request
    damaged : frames received that were none
    stale : good frames that belonged to no request
    bytes_sent, bytes_received : on the line
    """

    requests: int = 0
    repeated: int = 0
    timeouts: int = 0
    answers: int = 0
    damaged: int = 0
    stale: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True)
class _Sending:
    request: Request
    size: int
    time: float


class Link:
    """Sends requests and gathers answers.

    Parameters
    ----------
    port : an open port
    timeout : seconds of silence, at most, after which the device is asked again; fewer when it answered faster before
    tries : times that a request is sent, and that a silent device is asked after the full time-out, before the link is
        given up
    """

    def __init__(self, port: Port, timeout: float = 1.0, tries: int = 10):
        self.port, self.timeout, self.tries = port, timeout, tries
        self.statistics = LinkStatistics()
        self._splitter = Splitter()
        self._receive_bytes, self._receive_frames = HEADER.size + CRC_BYTES, 1
        self._tag = random.randrange(256)
        self._flight: dict[int, _Sending] = {}      # by tag, in the order of sending
        self._waiting: dict[Request, None] = {}     # not answered, oldest first
        self._patience, self._slowest = timeout, 0.0
        self._last_event = 0.0      # time of the last answer or question
        self._unheard = 0           # questions after a full time-out since the last answer
        self._bytes_heard = 0       # bytes received until the last answer

    def set_credits(self, receive_bytes: int, receive_frames: int) -> None:
        """The size of the device's receive buffer."""
        self._receive_bytes = receive_bytes - QUESTION_BYTES
        self._receive_frames = min(receive_frames - 1, MAX_IN_FLIGHT)

    def has_room(self, size: int) -> bool:
        """Whether a request with so many bytes of data may be sent now."""
        used = sum(sending.size for sending in self._flight.values())
        return not self._waiting or (len(self._flight) < self._receive_frames
                                     and used + HEADER.size + size + CRC_BYTES <= self._receive_bytes)

    def submit(self, request: Request) -> Request:
        """Send a request as soon as the device has room for it."""
        size = len(request.message(0).data)
        while not self.has_room(size):
            self.pump()
        self._waiting[request] = None
        if len(self._waiting) == 1:
            self._last_event = time.monotonic()
        self._send(request)
        return request

    def ask(self, operation: Operation, count: int = 0, address: int = 0, data: bytes = b"") -> Message:
        """The answer to a request; RefusedError if it is not OK."""
        request = self.submit(Request(operation, count, address, data))
        while request.answer is None:
            self.pump()
        return request.result()

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests in their order, each when it is answered; several are in flight."""
        flying: deque[Request] = deque()
        for request in requests:
            flying.append(self.submit(request))
            while flying and flying[0].answer is not None:
                yield flying.popleft()
        for request in flying:
            while request.answer is None:
                self.pump()
            yield request

    def pump(self, wait: float | None = None, wake: HasFileno | None = None) -> None:
        """Wait until something arrives, time is up, or ``wake`` can be read; send again what needs it."""
        if self._waiting:
            left = max(0.0, self._last_event + self._patience - time.monotonic())
            wait = left if wait is None else min(wait, left)
        data = self.port.receive(wait, wake)
        self.statistics.bytes_received += len(data)
        for frame in self._splitter.feed(data):
            self._take(frame)
        if self._waiting and time.monotonic() >= self._last_event + self._patience:
            self._question()

    def _take(self, frame: bytes) -> None:
        try:
            answer = Message.from_bytes(decode(frame))
        except FrameError:
            self.statistics.damaged += 1
            return
        sending = self._flight.get(answer.tag)
        if sending is None or not sending.request.fits(answer):
            self.statistics.stale += 1
            return
        self.statistics.answers += 1
        self._last_event, self._unheard, self._bytes_heard = time.monotonic(), 0, self.statistics.bytes_received
        # Slowly forgotten, as the time that operations take differs much.
        self._slowest = max(self._last_event - sending.time, 0.9 * self._slowest)
        self._patience = min(max(MIN_PATIENCE_S, 3 * self._slowest), self.timeout)
        if sending.request.answer is None:
            sending.request.answer = answer
            self._waiting.pop(sending.request, None)
        self._resend_overtaken(answer.tag)

    def _resend_overtaken(self, tag: int) -> None:
        """Send again what should have been answered before the sending with this tag."""
        lost = []
        for earlier in list(self._flight):
            sending = self._flight.pop(earlier)
            if earlier == tag:
                break
            lost.append(sending.request)
        for request in lost:
            if request in self._waiting:
                self._send(request)

    def _question(self) -> None:
        """Nothing has come for too long: ask something small."""
        if self._patience >= self.timeout:      # the quick questions before are not counted
            if self._unheard >= self.tries:
                raise self._silence()
            self._unheard += 1
        self.statistics.timeouts += 1
        self._patience = min(BACKOFF * self._patience, self.timeout)
        self._last_event = time.monotonic()
        self._send(Request(Operation.READ_REGISTERS, 1, LINK_REGISTERS))

    def _send(self, request: Request) -> None:
        if request.sendings >= self.tries:
            raise self._noise(f"{request.operation.name} was sent {request.sendings} times")
        self._tag = (self._tag + 1) & 0xFF
        body = request.message(self._tag).to_bytes()
        line = b"\0" + encode(body)     # the zero byte ends what may be left of a damaged frame
        self.statistics.repeated += request.sendings > 0
        request.sendings += 1
        self._flight.pop(self._tag, None)
        self._flight[self._tag] = _Sending(request, len(body) + CRC_BYTES, time.monotonic())
        self.statistics.requests += 1
        self.statistics.bytes_sent += len(line)
        self.port.send(line)

    def _noise(self, what: str) -> LinkError:
        seen = self.statistics
        return LinkError(
            f"too many frames are lost or damaged on {self.port.name}: {what} ({seen.repeated} of {seen.requests} "
            f"frames were repetitions, {seen.damaged} answers damaged); use a shorter cable, or a lower baud rate on "
            "both sides")

    def _silence(self) -> DeviceError:
        name, seen = self.port.name, self.statistics
        if seen.answers and seen.bytes_received > self._bytes_heard:
            return self._noise("no answer arrives whole any more")
        if seen.answers:
            return SilentError(f"the device on {name} does not answer any more: is it still powered and programmed, "
                               "and the cable in order? Then start again")
        if seen.bytes_received:
            return SilentError(f"nothing on {name} speaks Amacrine's protocol ({seen.bytes_received} bytes came, but "
                               "no answer): is this the right port, and --baud the board's rate?")
        return SilentError(f"nothing answers on {name}: is the board powered and programmed ('amacrine program'), and "
                           "is this the right port ('amacrine devices')?")
