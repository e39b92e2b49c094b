"""Buffers of input and output elements: order, positions past 2**32, room, release, clear."""

import cocotb
import pytest
from link_benches import BUFFER_DEPTH, BUFFER_ORIGIN, run_bench
from streams import SURPLUS_CYCLES, Ports, generators, get, patterns, put

from amacrine.hw.stream_buffers import check_depth

MODULUS = 1 << 32


def test_stream_buffers(tmp_path):
    run_bench(__name__, tmp_path)


@pytest.mark.parametrize("depth", [0, 8, 24, 65536])
def test_depth_is_refused(depth):
    with pytest.raises(ValueError, match="power of two from 16"):
        check_depth(depth)


@patterns
async def inputs(dut, p_idle, p_stall):
    """Elements come out in order; `free` is exact but for the one that is offered; clear empties all."""
    ports = Ports(dut, "inputs")
    rng, _ = generators("inputs", p_idle, p_stall)
    await ports.begin("write", "clear", "o__ready")
    for _ in range(2):
        items, sent = [], []
        getter = cocotb.start_soon(get(ports, "o", items, rng, p_stall))
        while len(sent) < 100:
            write = rng.random() >= p_idle and int(ports.free.value) > 0
            assert ports.position.value == (BUFFER_ORIGIN + len(sent)) % MODULUS
            assert BUFFER_DEPTH - int(ports.free.value) in range(len(sent) - len(items) - 2, len(sent) - len(items) + 1)
            value = rng.getrandbits(16)
            ports.set(write=write, data=value)
            if write:
                sent.append(value)
            await ports.cycles()
            ports.set(write=0)
            await ports.cycles()
        while len(items) < len(sent):
            await ports.cycles()
        await ports.cycles(SURPLUS_CYCLES)
        assert items == sent
        getter.cancel()
        ports.set(o__ready=0, write=1)
        await ports.cycles(5)
        ports.set(write=0, clear=1)
        await ports.cycles()
        ports.set(clear=0)
        await ports.cycles()
        assert (ports.free.value, ports.position.value, ports.o__valid.value) == (BUFFER_DEPTH, BUFFER_ORIGIN, 0)


@patterns
async def outputs(dut, p_idle, p_stall):
    """What is kept can be read again and again, until it is released; a full buffer waits."""
    ports = Ports(dut, "outputs")
    rng, _ = generators("outputs", p_idle, p_stall)
    await ports.begin("i__valid", "release", "clear")
    values = [rng.getrandbits(16) for _ in range(200)]
    putter, released = cocotb.start_soon(put(ports, "i", values, rng, p_idle)), 0
    while released < len(values):
        await ports.cycles(rng.randrange(1, 30))
        position, level = int(ports.position.value), int(ports.level.value)
        assert position == (BUFFER_ORIGIN + released) % MODULUS and level <= BUFFER_DEPTH
        for index in rng.sample(range(level), min(level, 3)):
            ports.set(address=(position + index) % BUFFER_DEPTH)
            await ports.cycles(3)
            assert ports.data.value == values[released + index]
        count = rng.randrange(level + 1)
        ports.set(release=1, release_to=(position + count) % MODULUS)
        await ports.cycles()
        ports.set(release=0)
        await ports.cycles(2)
        released += count
    await putter
    ports.set(clear=1)
    await put(ports, "i", values[:100], rng)        # taken, and forgotten
    ports.set(clear=0)
    await ports.cycles(2)
    assert (int(ports.level.value), int(ports.position.value)) == (0, BUFFER_ORIGIN)
    await put(ports, "i", values[:3], rng)
    await ports.cycles(2)
    assert int(ports.level.value) == 3
