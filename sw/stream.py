"""Vectors to a device and back, several steps in flight: the host's side of EXCHANGE (docs/protocol.md).

Requests that carry inputs go out as long as the device has room; beside them one request at a time fetches outputs. It
may be one only, as asking for outputs releases those before, and these must have arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .errors import AmacrineError, SessionError, SilentError
from .program import Program
from .protocol import EXCHANGE_ANSWER, EXCHANGE_HEADER, HOLD_CYCLES, MAX_DATA, Operation, Status
from .source import open_source
from .transport import Link, Request

MAX_INPUTS = MAX_DATA // 2
MAX_OUTPUTS = (MAX_DATA - EXCHANGE_ANSWER.size) // 2
MASK = 0xFFFFFFFF
HOLD_S, BUSY_HOLD_S = 5e-3, 0.2e-3
"""How long a device keeps an answer back until outputs are there: with nothing to send, and with inputs that wait."""
DEAD_S = 20.0
"""Of the device's own time without an output that is due."""

GONE = ("the device was reset, or another host has used it, so the sequence is lost; load the program and start again "
        "(only what is missing is sent)")


class Stream:
    """A sequence under way. Positions count elements since its start, and grow beyond the 32 bits of the line.

    Parameters
    ----------
    link : to a device that runs
    session : the number that START was given
    program : that the device runs
    input_elements, output_elements : sizes of the device's stream buffers
    clock_hz : of the device
    """

    def __init__(self, link: Link, session: int, program: Program, input_elements: int, output_elements: int,
                 clock_hz: int):
        self._link, self.session, self._clock_hz = link, session, clock_hz
        self._chunk = max(1, min(MAX_INPUTS, input_elements // 2))      # smaller ones only at the end
        self._wanted = min(MAX_OUTPUTS, output_elements)
        self._inputs = bytearray()      # from position _taken on: what the device may still need
        self._taken = self._sent = 0    # positions of inputs: known to be taken, sent
        self._limit = input_elements    # no input may go beyond
        self._received = 0              # position of outputs
        self._outputs = bytearray()     # received, not handed out yet
        self._givers: list[Request] = []
        self._fetch: Request | None = None
        self._hold = 0
        self._dead_cycles = 0
        self.open = True                # False once it was left before its end
        self._begin(program, 0)

    def _begin(self, program: Program, steps: int) -> None:
        self._program, self._steps_before = program, steps
        self._n_inputs, self._n_outputs = program.n_inputs, program.n_outputs
        self._first_input, self._first_output = self._given, self._received     # positions

    def switch(self, program: Program, steps: int) -> None:
        """The device goes on with another program, which has done so many steps in this sequence."""
        self._check_open()
        self._begin(program, steps)

    @property
    def steps(self) -> int:
        """Steps of the present program in this sequence."""
        self._check_open()
        return self._steps_before + (self._given - self._first_input) // self._n_inputs

    def _check_open(self) -> None:
        if not self.open:
            raise AmacrineError("the last stream was left before its end, so the sequence is incomplete; "
                                "start a new one with reset()")

    def _outputs_of(self, position: int) -> int:
        """Position of the outputs behind those of all inputs before a position."""
        return self._first_output + (position - self._first_input) // self._n_inputs * self._n_outputs

    @property
    def _given(self) -> int:
        return self._taken + len(self._inputs) // 2

    def run(self, frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Continue the sequence by these vectors; yields the outputs in order, each as soon as it is here."""
        self._check_open()
        with open_source(frames, self._n_inputs) as source:
            self.open = False
            while True:
                while not self._full and (frame := source.poll()) is not None:
                    self._inputs += self._program.streamed(frame).astype("<i2", copy=False).tobytes()
                self._exchange()
                yield from self._frames()
                if source.ended and self._due_in_all == self._received and self._given == self._taken:
                    break
                self._link.pump(wake=None if source.ended or self._full else source.wake)
                self._gather()
                yield from self._frames()
            self.open = True
            source.raise_error()

    @property
    def _full(self) -> bool:
        """Whether enough inputs are here to be sent."""
        return self._given - self._sent >= 2 * self._chunk

    @property
    def _due_in_all(self) -> int:
        """Output elements that the complete frames will give which were taken from the source."""
        return self._outputs_of(self._given)

    def _frames(self) -> Iterator[np.ndarray]:
        size = 2 * self._n_outputs
        while len(self._outputs) >= size:
            frame = np.frombuffer(bytes(self._outputs[:size]), "<i2").astype(np.int16, copy=False)
            del self._outputs[:size]
            yield self._program.restored(frame)

    def _exchange(self) -> None:
        """Send what may be sent."""
        if not self._givers:
            self._sent = self._taken        # what was not taken, for a gap before it, goes out again
        while (size := self._sendable()) and self._link.has_room(EXCHANGE_HEADER.size + 2 * size):
            start = 2 * (self._sent - self._taken)
            self._givers.append(self._ask(self._sent, bytes(self._inputs[start : start + 2 * size]), 0, 0))
            self._sent += size
        ask = self._given > self._taken or self._due_in_all > self._received
        if self._fetch is None and ask and self._link.has_room(EXCHANGE_HEADER.size):
            due = self._outputs_of(self._sent) - self._received
            waiting = self._given > self._sent
            self._hold = 0 if self._sendable() else self._hold_units(BUSY_HOLD_S if waiting else HOLD_S)
            self._fetch = self._ask(self._sent, b"", max(1, min(due, self._wanted)), self._hold)

    def _sendable(self) -> int:
        """Elements that the next request may carry: a whole chunk, or all there are."""
        size = min(self._chunk, self._given - self._sent)
        return size if self._sent + size <= self._limit else 0

    def _hold_units(self, seconds: float) -> int:
        return min(0xFFFF, max(1, int(seconds * self._clock_hz) // HOLD_CYCLES))

    def _ask(self, position: int, inputs: bytes, wanted: int, hold: int) -> Request:
        def data() -> bytes:    # anew at each sending: outputs that were released since cannot be asked for
            return EXCHANGE_HEADER.pack(self._received & MASK, self.session, wanted, hold, 0) + inputs
        return self._link.submit(Request(Operation.EXCHANGE, len(inputs) // 2, position & MASK, data))

    def _gather(self) -> None:
        """Take in the answers that have come."""
        for request in self._givers:
            if request.answer is not None:
                self._note(request)
        self._givers = [request for request in self._givers if request.answer is None]
        if self._fetch is not None and self._fetch.answer is not None:
            request, self._fetch = self._fetch, None
            before = self._received, self._taken
            self._note(request)
            alive = before != (self._received, self._taken)
            self._dead_cycles = 0 if alive else self._dead_cycles + self._hold * HOLD_CYCLES
            if self._dead_cycles > DEAD_S * self._clock_hz:
                raise SilentError(f"the device answers, but made no output in {DEAD_S:.0f} s of its time; load the "
                                  "program again, and if that does not help, please report it")

    def _note(self, request: Request) -> None:
        assert request.answer is not None
        if request.answer.code == Status.WRONG_SESSION:
            raise SessionError(GONE)
        if request.answer.code == Status.NO_ROOM:
            return      # nothing taken; a later answer tells where the device is
        answer = request.result()
        position, free, _ = EXCHANGE_ANSWER.unpack_from(answer.data)
        # Signed: a fetch's answer may be older than that of a request with inputs which is noted before it.
        news = (position - self._taken + (1 << 31) & MASK) - (1 << 31)
        if news > len(self._inputs) // 2:
            raise SessionError(GONE)    # it has more inputs than it was given
        self._limit = max(self._limit, self._taken + news + free)
        if news > 0:
            del self._inputs[: 2 * news]
            self._taken += news
            self._sent = max(self._sent, self._taken)
        if answer.count and answer.address == self._received & MASK:
            self._outputs += answer.data[EXCHANGE_ANSWER.size :]
            self._received += answer.count
