"""Frames: good ones come through whole, all others are dropped and counted by their reason."""

import zlib
from collections import Counter

import cocotb
from cobs import cobs
from cocotb.triggers import RisingEdge
from link_benches import RING_BYTES, RING_FRAMES, run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put

from amacrine.hw.cobs import Byte
from amacrine.hw.frames import BodyByte
from amacrine.sw.protocol import MAX_FRAME, LinkRegister, encode

BYTE, BODY = Codec(Byte), Codec(BodyByte)
LONGEST = MAX_FRAME - 4


def test_frames(tmp_path):
    run_bench(__name__, tmp_path)


@patterns
async def transmitter(dut, p_idle, p_stall):
    ports = Ports(dut, "frames_out")
    rng, _ = generators("transmitter", p_idle, p_stall)
    await ports.begin("i__valid", "o__ready")
    bodies, items = [rng.randbytes(length) for length in (1, 8, 250, 254, 1032, *range(9, 20))], []
    cocotb.start_soon(get(ports, "o", items, rng, p_stall))
    await put(ports, "i", [BYTE.pack(data=byte, last=index == len(body)) for body in bodies
                           for index, byte in enumerate(body, 1)], rng, p_idle)
    expected = b"".join(map(encode, bodies))
    await ports.until(lambda: len(items) >= len(expected))
    await ports.cycles(SURPLUS_CYCLES)
    assert bytes(items) == expected


class Receiver:
    """Sends characters, counts events, and takes bodies while `takes`."""

    def __init__(self, dut):
        self.ports, self.events, self.bodies, self.items = Ports(dut, "frames_in"), Counter(), [], []

    async def begin(self, rng, p_stall):
        await self.ports.begin("i__valid", "bad_character", "o__ready")
        cocotb.start_soon(self.count())
        self.rng, self.p_stall = rng, p_stall
        self.take()

    def take(self):
        self.getter = cocotb.start_soon(get(self.ports, "o", self.items, self.rng, self.p_stall))

    def stop(self):
        self.getter.cancel()
        self.ports.set(o__ready=0)

    async def count(self):
        while True:
            await RisingEdge(self.ports.clk)
            events = int(self.ports.events.value)
            assert events & (events - 1) == 0 or events >> LinkRegister.BAD_CHARACTER & 1
            for register in LinkRegister:
                self.events[register] += events >> register & 1

    async def send(self, line):
        for byte in line:
            self.ports.set(i__valid=1, i__payload=byte)
            await self.ports.cycles()
            self.ports.set(i__valid=0)
            await self.ports.cycles(self.rng.randrange(1, 4))

    async def bad_character(self):
        self.ports.set(bad_character=1)
        await self.ports.cycles()
        self.ports.set(bad_character=0)
        await self.ports.cycles()

    def taken(self):
        """Bodies that came out, whose lengths are right."""
        body = bytearray()
        for item in map(BODY.unpack, self.items):
            body.append(item["data"])
            if item["last"]:
                assert len(body) == item["length"]
                self.bodies.append(bytes(body))
                body.clear()
        assert not body
        self.items.clear()
        return self.bodies


def broken(rng, body):
    """A frame that is no good, and the reason."""
    good = body + zlib.crc32(body).to_bytes(4, "little")
    kind = rng.randrange(6)
    if kind == 0:
        where = rng.randrange(len(good))
        return cobs.encode(good[:where] + bytes([good[where] ^ 1 << rng.randrange(8)]) + good[where + 1:]), \
            LinkRegister.BAD_CHECKSUM
    if kind == 1 and len(body) > 8:
        return cobs.encode(good[:-1]), LinkRegister.BAD_CHECKSUM
    if kind in (1, 2):
        return bytes([len(good) + 5]) + b"x" * len(good), LinkRegister.BAD_FORM
    short = good[:7]
    if kind == 3:
        return cobs.encode(short + zlib.crc32(short).to_bytes(4, "little")), LinkRegister.BAD_FORM
    if kind == 4:
        return b"\1", LinkRegister.BAD_FORM
    long = rng.randbytes(LONGEST + 1)
    return cobs.encode(long + zlib.crc32(long).to_bytes(4, "little")), LinkRegister.TOO_LONG


@bench_test
@cocotb.parametrize(("p_stall", [0.0, 0.5, 1.0]))
async def good_and_broken(dut, p_stall):
    rng, _ = generators("receiver", p_stall)
    receiver = Receiver(dut)
    await receiver.begin(rng, p_stall)
    bodies, events = [], Counter()
    for _ in range(120):
        body = rng.randbytes(rng.choice((8, 9, 20, rng.randrange(8, 60))) if bodies else LONGEST)
        kind = rng.randrange(5)
        if kind == 0:
            line, reason = broken(rng, body)
            events[reason] += 1
            await receiver.send(line + b"\0")
        elif kind == 1:
            line = encode(body)
            where = rng.randrange(len(line))
            await receiver.send(line[:where])
            await receiver.bad_character()
            await receiver.send(line[where:])
            events[LinkRegister.BAD_CHARACTER] += 1
        else:
            bodies.append(body)
            events[LinkRegister.RECEIVED] += 1
            await receiver.send(bytes(rng.choice((0, 0, 1, 3))) + encode(body))
            await receiver.ports.cycles(3 * len(body))      # until it is read
    await receiver.ports.cycles(20 * SURPLUS_CYCLES)
    assert +receiver.events == events
    assert receiver.taken() == bodies


@bench_test
async def overrun_by_bytes_and_by_frames(dut):
    """What does not fit is dropped whole; what is there, and what comes when there is room again, is not."""
    rng, _ = generators("overrun")
    receiver = Receiver(dut)
    await receiver.begin(rng, 0.0)
    for lengths, kept in (([LONGEST, 900, 120, 8], [LONGEST, 900, 8]), ([10] * 8, [10] * 5), ([1000, 1000, 30], None)):
        receiver.stop()
        await receiver.ports.cycles(3)
        bodies = [rng.randbytes(length) for length in lengths]
        before = receiver.events.copy()
        for body in bodies:
            await receiver.send(encode(body))
        await receiver.ports.cycles(10)
        receiver.take()
        await receiver.ports.cycles(3 * RING_BYTES)
        taken = list(receiver.taken())
        receiver.bodies.clear()
        if kept is not None:
            assert [len(body) for body in taken] == kept
        # In order, and nothing but what was sent.
        rest = iter(bodies)
        assert all(body in rest for body in taken)
        lost = receiver.events[LinkRegister.OVERRUN] - before[LinkRegister.OVERRUN]
        assert len(taken) + lost == len(bodies) and len(taken) >= min(RING_FRAMES, len(bodies)) - lost
        assert receiver.events[LinkRegister.RECEIVED] - before[LinkRegister.RECEIVED] == len(taken)
