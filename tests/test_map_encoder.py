"""The map encoder: planes as documented, of any shape, whatever waits; and how many cycles it takes."""

import cocotb
import numpy as np
from feature_benches import ENCODER_LANES, PARAMETERS, chunk_payloads, run_bench
from feature_maps import DENSITIES, pack, random_slab, unpack, written_values
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.conv_numerics import map_write_layout, value_write_layout
from amacrine.hw.map_encoder import encoder_job_layout

JOB = Codec(encoder_job_layout(PARAMETERS))
MAP, VALUE = Codec(map_write_layout(PARAMETERS)), Codec(value_write_layout(PARAMETERS))
CHANNELS = (1, 3, 4, 15, 16, 17, 20, 33)
SLABS_A_RUN = 10


def test_map_encoder(tmp_path):
    run_bench(__name__, tmp_path)


async def start(encoder, place):
    encoder.set(start=1, job=JOB.pack(**place))
    await encoder.cycles()
    encoder.set(start=0, job=0)


async def until_idle(encoder):
    await encoder.until(lambda: encoder.idle.value == 1)


@bench_test
@cocotb.parametrize(lanes=ENCODER_LANES, pattern=list(PATTERNS))
async def planes_are_right(dut, lanes, pattern):
    """Slabs one after the other: each word at its address, in order, and nothing else."""
    encoder = Ports(dut, f"encoder{lanes}")
    p_idle, p_stall = pattern
    rng, numbers = generators("map_encoder", lanes, pattern)
    await encoder.begin("start", "chunk__valid", "map__ready", "value__ready")
    maps, values = [], []
    cocotb.start_soon(get(encoder, "map", maps, rng, p_stall))
    cocotb.start_soon(get(encoder, "value", values, rng, p_stall))
    for _ in range(SLABS_A_RUN):
        maps.clear()
        values.clear()
        shape = (*numbers.integers(1, 4, 2), rng.choice(CHANNELS))
        slab = random_slab(numbers, shape, rng.choice(DENSITIES))
        place = {"map": rng.randrange(PARAMETERS.map_depth - 64), "value": rng.randrange(PARAMETERS.value_depth - 512)}
        await start(encoder, place)
        await put(encoder, "chunk", chunk_payloads(slab, lanes), rng, p_idle)
        await until_idle(encoder)
        words, elements = pack(slab)
        assert [MAP.unpack(item) for item in maps] == [
            {"address": place["map"] + k, "bits": bits} for k, bits in enumerate(words)]
        assert written_values(map(VALUE.unpack, values)) == [
            (place["value"] + k, value) for k, value in enumerate(elements)]
        np.testing.assert_array_equal(unpack(words, elements, shape), slab)
    await encoder.cycles(SURPLUS_CYCLES)
    assert len(maps) == len(words) and len(written_values(map(VALUE.unpack, values))) == len(elements)


@bench_test
@cocotb.parametrize(lanes=ENCODER_LANES, density=list(DENSITIES))
async def cycles(dut, lanes, density):
    """A cycle for two values of a chunk, or for a chunk without any."""
    encoder = Ports(dut, f"encoder{lanes}")
    rng, numbers = generators("map_encoder cycles", lanes, density)
    await encoder.begin("start", "chunk__valid")
    encoder.set(map__ready=1, value__ready=1)
    slab = random_slab(numbers, (4, 5, 32), density)
    await start(encoder, {"map": 0, "value": 0})
    taken, cycle, running = [], 0, True

    async def watch():
        nonlocal cycle
        while running:
            await encoder.cycles()
            cycle += 1
            if encoder.chunk__valid.value == 1 and encoder.chunk__ready.value == 1:
                taken.append(cycle)

    watcher = cocotb.start_soon(watch())
    await put(encoder, "chunk", chunk_payloads(slab, lanes), rng)
    await until_idle(encoder)
    running = False
    await watcher
    counts = np.maximum(-(-(slab.reshape(-1, lanes) != 0).sum(1) // 2), 1)
    np.testing.assert_array_equal(np.diff(taken), counts[:-1])


@bench_test
async def latency(dut):
    """Of a chunk that completes a word: 1 cycle to the word, 2 to its first value, then no more work."""
    encoder = Ports(dut, "encoder4")
    await encoder.begin("start", "chunk__valid")
    encoder.set(map__ready=1, value__ready=1)
    await start(encoder, {"map": 5, "value": 7})
    encoder.set(chunk__valid=1, chunk__payload=chunk_payloads(np.array([[[0, -1, 0]]]), 4)[0])
    seen = []
    for _ in range(5):
        await encoder.cycles()
        seen.append((int(encoder.map__valid.value), int(encoder.value__valid.value), int(encoder.idle.value)))
        encoder.set(chunk__valid=0)
    assert seen == [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)]
