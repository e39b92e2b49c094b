"""COBS encoder and decoder against the library `cobs`."""

import cocotb
from cobs import cobs
from link_benches import run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, generators, get, patterns, put

from amacrine.hw.cobs import Byte, Decoded

BYTE, DECODED = Codec(Byte), Codec(Decoded)


def test_cobs(tmp_path):
    run_bench(__name__, tmp_path)


def frames(rng):
    """Frames with many zeros and none, and lengths around those of a block."""
    some = [b"\0", b"\0\0", b"x", b"\0x", b"x\0", bytes(300)]
    for length in (253, 254, 255, 256, 508, 509, 600):
        full = bytes(rng.randrange(1, 256) for _ in range(length))
        some += [full, full + b"\0", b"\0" + full, full[:254] + b"\0" + full[254:]]
    some += [bytes(rng.choice((0, rng.randrange(256))) for _ in range(rng.randrange(1, 40))) for _ in range(40)]
    return rng.sample(some, len(some))


@patterns
async def encoder(dut, p_idle, p_stall):
    ports = Ports(dut, "encoder")
    rng, _ = generators("encoder", p_idle, p_stall)
    await ports.begin("i__valid", "o__ready")
    wanted, items = frames(rng), []
    cocotb.start_soon(get(ports, "o", items, rng, p_stall))
    await put(ports, "i", [BYTE.pack(data=byte, last=index == len(frame)) for frame in wanted
                           for index, byte in enumerate(frame, 1)], rng, p_idle)
    expected = b"".join(cobs.encode(frame) + b"\0" for frame in wanted)
    await ports.until(lambda: len(items) >= len(expected))
    await ports.cycles(SURPLUS_CYCLES)
    assert bytes(items) == expected


@patterns
async def decoder(dut, p_idle, p_stall):
    """Good frames, no frames between zeros, and frames that were cut."""
    ports = Ports(dut, "decoder")
    rng, _ = generators("decoder", p_idle, p_stall)
    await ports.begin("i__valid", "o__ready")
    line, items, expected = bytearray(), [], []
    for frame in [b"", *frames(rng)]:
        kind, sent = rng.randrange(6), cobs.encode(frame)
        if kind == 0:
            sent = b""
        elif kind == 1 and len(sent) > 1:
            sent = sent[:rng.randrange(1, len(sent))]
        line += sent + b"\0"
        expected.append((sent, try_decode(sent)))
    cocotb.start_soon(get(ports, "o", items, rng, p_stall))
    await put(ports, "i", line, rng, p_idle)
    await ports.cycles(SURPLUS_CYCLES)
    found = bytearray()
    tokens = iter(DECODED.unpack(item) for item in items)
    for sent, frame in expected:
        found.clear()
        for token in tokens:
            if token["end"]:
                break
            found.append(token["data"])
        assert token["empty"] == (not sent)
        assert token["bad"] == (frame is None)
        assert frame is None or found == frame
    assert next(tokens, None) is None


def try_decode(line):
    try:
        return cobs.decode(line)
    except cobs.DecodeError:
        return None
