"""Frames and the request engine: fuzzed, and with losses where it hurts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amacrine.sw.device import Device
from amacrine.sw.errors import DeviceError, LinkError, SilentError
from amacrine.sw.layout import Parameters
from amacrine.sw.protocol import FrameError, Message, Operation, Status, decode, encode
from amacrine.sw.transport import MAX_LINE, Link, Request, Splitter

IDENTITY = {"board": "fake", "build": "0", "clock_hz": 1, "baud": 1, "parameters": Parameters().as_dict(),
            "memory_words": 1024, "receive_bytes": 4096, "receive_frames": 8, "input_elements": 64,
            "output_elements": 64}


class FakePort:
    """A port whose other end is a function from a request to bytes on the line."""

    name = "fake"

    def __init__(self, answer):
        self.answer, self.splitter, self.incoming, self.closed = answer, Splitter(), b"", False

    def send(self, data):
        for frame in self.splitter.feed(data):
            self.incoming += self.answer(Message.from_bytes(decode(frame)))

    def receive(self, wait, wake=None):
        data, self.incoming = self.incoming[:100], self.incoming[100:]
        return data

    def close(self):
        self.closed = True


def echo(request: Message) -> bytes:
    """READ_MEMORY of a memory whose words are their addresses; anything else is refused."""
    if request.code != Operation.READ_MEMORY:
        return encode(Message(request.tag, Status.BAD_ADDRESS).to_bytes())
    data = b"".join((request.address + i).to_bytes(2, "little") for i in range(request.count))
    return encode(Message(request.tag, Status.OK, request.count, request.address, data).to_bytes())


# ---- frames -----------------------------------------------------------------------------------------------
def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(st.binary(max_size=40) | st.binary(min_size=1, max_size=1).map(lambda byte: byte * (MAX_LINE + 1))),
       st.lists(st.integers(0, 10**6)))
def test_splitter_is_split(parts, places):
    data = b"\0".join(parts)
    splitter = Splitter()
    frames = [frame for piece in cut(data, places) for frame in splitter.feed(piece)]
    assert frames == [part for part in data.split(b"\0")[:-1] if 0 < len(part) <= MAX_LINE]
    assert len(splitter._part) <= MAX_LINE


@given(st.binary(max_size=1200))
def test_decoder_takes_nothing_but_frames(line):
    try:
        body = decode(line)
    except FrameError:
        return
    assert encode(body) == line + b"\0"


@given(st.binary(min_size=8, max_size=1044), st.binary(max_size=50), st.lists(st.integers(0, 10**6)))
def test_a_frame_after_rubbish_is_found(body, rubbish, places):
    splitter = Splitter()
    found = []
    for piece in cut(rubbish + b"\0" + encode(body), places):
        for frame in splitter.feed(piece):
            try:
                found.append(decode(frame))
            except FrameError:
                pass
    assert found == [body]


@given(st.binary(min_size=8, max_size=300), st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_no_frame(body, place, change):
    line = bytearray(encode(body))
    line[place % (len(line) - 1)] ^= change
    for part in bytes(line).split(b"\0"):
        with pytest.raises(FrameError):
            decode(part)


def test_a_frame_byte_by_byte():
    assert encode(bytes.fromhex("0704010002010000")).hex() == "040704010302010105" "7a833ffb" "00"


# ---- answers ----------------------------------------------------------------------------------------------
messages = st.builds(Message, tag=st.integers(0, 255), code=st.integers(0, 255), count=st.integers(0, 65535),
                     address=st.integers(0, 2**32 - 1), data=st.binary(max_size=64))
near = st.builds(lambda code, count, data, same: (code, count, data, same), st.sampled_from([0, 0, 0, 2, 7, 99]),
                 st.integers(0, 20), st.binary(max_size=40), st.booleans())


@settings(deadline=None)
@given(st.lists(messages), st.lists(near), st.sampled_from(list(Operation)))
def test_answers_of_any_kind_give_an_answer_or_a_typed_error(others, candidates, operation):
    """Good frames with another tag, or of the wrong form, are ignored; error statuses are told."""
    candidates = iter(candidates)

    def answer(request):
        code, count, data, same = next(candidates, (0, 0, b"", True))
        mine = Message(request.tag, code, request.count if same else count, request.address if same else 1, data)
        foreign = [other for other in others if other.tag != request.tag]
        return b"".join(encode(message.to_bytes()) for message in (*foreign, mine))

    link = Link(FakePort(answer), timeout=1e-4, tries=3)
    try:
        answer_ = link.ask(operation, 3, 5, b"")
    except DeviceError as error:
        assert str(error)
    else:
        assert answer_.code == Status.OK and Request(operation, 3, 5).fits(answer_)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
                           max_leaves=5)


@settings(deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()) |
       st.tuples(st.sampled_from(list(IDENTITY)), json_values).map(
           lambda pair: json.dumps(IDENTITY | dict([pair])).encode()))
def test_identities_of_any_kind_give_a_device_or_a_typed_error(text):
    def answer(request):
        return encode(Message(request.tag, 0, len(text), 1, text).to_bytes())

    port = FakePort(answer)
    try:
        device = Device(port, timeout=1e-4, tries=2)
    except DeviceError:
        assert port.closed
    else:
        assert device.info.memory_words > 0 and isinstance(device.info.parameters, Parameters)


# ---- losses -----------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.sampled_from(["ok", "ok", "request", "answer", "twice"]), max_size=60))
def test_every_request_is_answered_whatever_is_lost(fates):
    """Each sending meets its fate; an answer may also be repeated."""
    fates = iter(fates)

    def answer(request):
        fate = next(fates, "ok")
        lost = {"request": b"", "answer": encode(bytes(12))[:-5] + b"\0"}
        return lost.get(fate, echo(request)) * (2 if fate == "twice" else 1)

    link = Link(FakePort(answer), timeout=1e-4, tries=100)
    link.set_credits(4096, 8)
    requests = [Request(Operation.READ_MEMORY, 2, 7 * i) for i in range(20)]
    for i, request in enumerate(link.ask_all(requests)):
        assert request is requests[i]
        assert request.result().data == (7 * i).to_bytes(2, "little") + (7 * i + 1).to_bytes(2, "little")


def test_an_overtaken_request_is_sent_again_without_waiting():
    seen = Counter()

    def answer(request):
        seen[request.address] += 1
        return b"" if request.address in (3, 4) and seen[request.address] < 3 else echo(request)

    link = Link(FakePort(answer), timeout=1000.0)
    link.set_credits(4096, 4)
    assert len(list(link.ask_all(Request(Operation.READ_MEMORY, 1, i) for i in range(20)))) == 20
    assert link.statistics.timeouts == 0
    assert link.statistics.repeated == 4 and seen[3] == seen[4] == 3


def test_credits_are_never_exceeded():
    pending = []

    class Slow(FakePort):
        def receive(self, wait, wake=None):
            sizes = [len(request.to_bytes()) + 4 for request in pending]
            assert len(sizes) <= 5 and sum(sizes) <= 3000
            return echo(pending.pop(0)) if pending else b""

    port = Slow(lambda request: pending.append(request) or b"")
    link = Link(port, timeout=1000.0)
    link.set_credits(3000, 5)
    requests = [Request(Operation.READ_MEMORY, 1, i, bytes(100 * (i % 11))) for i in range(60)]
    assert len(list(link.ask_all(requests))) == 60


@pytest.mark.parametrize(("answer", "error", "message"), [
    (lambda request: b"", SilentError, "nothing answers on fake: is the board powered and programmed"),
    (lambda request: b"abc", SilentError, r"nothing on fake speaks Amacrine's protocol \(12 bytes came, but no answer"),
])
def test_silence(answer, error, message):
    with pytest.raises(error, match=message):
        Link(FakePort(answer), timeout=1e-4, tries=3).ask(Operation.IDENTIFY)


def test_a_device_that_falls_silent():
    answers = iter([True])
    link = Link(FakePort(lambda request: echo(request) if next(answers, False) else b""), timeout=1e-4, tries=3)
    link.ask(Operation.READ_MEMORY, 1)
    with pytest.raises(SilentError, match="the device on fake does not answer any more: is it still powered"):
        link.ask(Operation.READ_MEMORY, 1)


def test_a_line_that_damages_everything():
    answers = iter([True])

    def answer(request):    # only small frames pass
        small = request.code == Operation.READ_REGISTERS
        good = Message(request.tag, Status.OK, request.count, request.address, bytes(4 if small else 2))
        return encode(good.to_bytes()) if small or next(answers, False) else b"\x03ab\0"

    link = Link(FakePort(answer), timeout=1e-4, tries=3)
    link.ask(Operation.READ_MEMORY, 1)
    with pytest.raises(LinkError, match=r"too many frames are lost or damaged on fake: READ_MEMORY was sent 3 times "
                                        r"\(2 of 7 frames were repetitions, 3 answers damaged\)"):
        link.ask(Operation.READ_MEMORY, 1)
