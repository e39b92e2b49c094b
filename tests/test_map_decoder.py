"""The map decoder, reading feature memory: maps of any shape and density, of one or more slabs; and its cycles."""

from collections import Counter
from dataclasses import dataclass

import cocotb
import numpy as np
from feature_benches import LARGE, PARAMETERS, chunk_payloads, run_bench
from feature_maps import DENSITIES, decoded, pack, random_slab
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put

from amacrine.hw.conv_numerics import FEATURE, map_write_layout, value_write_layout
from amacrine.hw.map_decoder import DECODER_JOB
from amacrine.hw.map_encoder import encoder_job_layout
from amacrine.sw.conv_layout import SLAB_FIELDS, SLABS

JOB, ITEM = Codec(DECODER_JOB), Codec(FEATURE)
MAP, VALUE = Codec(map_write_layout(PARAMETERS)), Codec(value_write_layout(PARAMETERS))
CHANNELS = (1, 2, 7, 15, 16, 17, 32, 40)
VALID = ("start", "chunk__valid", "input_map__valid", "input_value__valid", "host__enable", "job__valid",
         "feature__ready")


def test_map_decoder(tmp_path):
    run_bench(__name__, tmp_path)


@dataclass
class Map:
    """A feature map and where it lies."""

    slabs: list
    first: int
    places: list
    first_channels: list

    @property
    def job(self):
        height, width, _ = self.slabs[0].shape
        return JOB.pack(slab_first=self.first, slab_count=len(self.slabs), height=height, width=width)

    @property
    def items(self):
        return decoded(self.slabs, self.first_channels)


class Layout:
    """Gives slabs their places: room for all their values, with gaps between, until memory or table is full."""

    def __init__(self, rng):
        self.rng, self.row, self.map, self.value = rng, 0, 0, 0

    def add(self, slabs):
        """A map of these slabs, or None if it does not fit."""
        first, places, channel, channels = self.row, [], self.rng.randrange(3), []
        for slab in slabs:
            places.append({"map": self.map, "value": self.value})
            channels.append(channel)
            channel += slab.shape[2] + self.rng.randrange(2)
            self.map += len(pack(slab)[0]) + self.rng.randrange(3)
            self.value += slab.size + self.rng.randrange(3)
        self.row += len(slabs) + self.rng.randrange(2)
        if self.row > SLABS or self.map > PARAMETERS.map_depth or self.value > PARAMETERS.value_depth:
            return None
        return Map(slabs, first, places, channels)


def random_maps(rng, numbers, count):
    layout, maps = Layout(rng), []
    for _ in range(count):
        height, width = numbers.integers(1, 6, 2)
        slabs = [random_slab(numbers, (height, width, rng.choice(CHANNELS)), rng.choice(DENSITIES))
                 for _ in range(rng.choice((1, 1, 2, 3, 5)))]
        if placed := layout.add(slabs):
            maps.append(placed)
    return maps


async def write_table(loop, feature_map):
    for number, (slab, place) in enumerate(zip(feature_map.slabs, feature_map.places, strict=True)):
        fields = {"map": place["map"], "value_low": place["value"] & 0xFFFF, "value_high": place["value"] >> 16,
                  "channels": slab.shape[2], "first_channel": feature_map.first_channels[number], "pad": 0}
        words = [fields[name] for name in SLAB_FIELDS]
        for pair in range(len(words) // 2):
            loop.set(host__enable=1, host__row=feature_map.first + number, host__pair=pair,
                     host__data=words[2 * pair] | words[2 * pair + 1] << 16)
            await loop.cycles()
    loop.set(host__enable=0)


async def write_planes(loop, feature_map, rng):
    """As the input does, but whole planes."""
    for slab, place in zip(feature_map.slabs, feature_map.places, strict=True):
        words, values = pack(slab)
        maps = cocotb.start_soon(put(loop, "input_map", [MAP.pack(address=place["map"] + k, bits=bits)
                                                         for k, bits in enumerate(words)], rng))
        await put(loop, "input_value", [VALUE.pack(address=place["value"] + k, value=value)
                                        for k, value in enumerate(values)], rng)
        await maps


async def encode(loop, slab, place, rng, p_idle=0.0, params=PARAMETERS):
    """As the engine does."""
    loop.set(start=1, place=Codec(encoder_job_layout(params)).pack(**place))
    await loop.cycles()
    loop.set(start=0)
    await put(loop, "chunk", chunk_payloads(slab, params.lanes), rng, p_idle)
    await loop.until(lambda: loop.idle.value == 1)


def unpacked(items):
    """Items with the fields that count."""
    for item in map(ITEM.unpack, items):
        names = ("row_end", "last") if item["row_end"] else ("row_end", "x", "channel", "value")
        yield {name: item[name] for name in names}


def check(items, maps):
    expected = [item for feature_map in maps for item in feature_map.items]
    found = list(unpacked(items))
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"item {number}: {one} instead of {other}"
    assert len(found) == len(expected)


async def decode(loop, maps, rng, p_idle=0.0, p_stall=0.0):
    """Run jobs for all maps one after the other and check what comes."""
    items, expected = [], sum(len(feature_map.items) for feature_map in maps)
    monitor = cocotb.start_soon(get(loop, "feature", items, rng, p_stall))
    await put(loop, "job", [feature_map.job for feature_map in maps], rng, p_idle)
    await loop.until(lambda: len(items) >= expected, 100_000)
    await loop.cycles(SURPLUS_CYCLES)
    monitor.cancel()
    loop.feature__ready.value = 0
    check(items, maps)


@patterns
async def elements_and_row_ends(dut, p_idle, p_stall):
    """Maps of all kinds at once in memory, decoded in any order and again, several jobs in a row."""
    loop = Ports(dut, "loop")
    rng, numbers = generators("map_decoder", p_idle, p_stall)
    await loop.begin(*VALID)
    maps = random_maps(rng, numbers, 14)
    assert len(maps) > 6
    for feature_map in maps:
        await write_table(loop, feature_map)
        await write_planes(loop, feature_map, rng)
    await decode(loop, maps + rng.choices(maps, k=8), rng, p_idle, p_stall)


@bench_test
async def small_maps_in_a_row(dut):
    """A job can be over before its slab has been fetched again."""
    loop = Ports(dut, "loop")
    rng, numbers = generators("small maps")
    await loop.begin(*VALID)
    layout = Layout(rng)
    maps = [layout.add([random_slab(numbers, (height, 1, 1), density)] * slabs)
            for density in ("zero", "full") for height in (1, 2) for slabs in (1, 2)]
    for feature_map in maps:
        await write_table(loop, feature_map)
        await write_planes(loop, feature_map, rng)
    await decode(loop, rng.choices(maps, k=60), rng)


@bench_test
async def all_slabs(dut):
    """A map may have as many slabs as the table has rows; pointers and table do not meet."""
    loop = Ports(dut, "loop")
    rng, numbers = generators("all slabs")
    await loop.begin(*VALID)
    shape = (3, 2, 3)
    slabs = [random_slab(numbers, shape, "half") for _ in range(SLABS)]
    places = [{"map": 6 * k, "value": 18 * k} for k in range(SLABS)]
    feature_map = Map(slabs, 0, places, [3 * k for k in range(SLABS)])
    await write_table(loop, feature_map)
    await write_planes(loop, feature_map, rng)
    await decode(loop, [feature_map, feature_map], rng)


@patterns
async def round_trip(dut, p_idle, p_stall):
    """What the encoder writes, the decoder reads; while the next map is encoded and a third is written beside it."""
    loop = Ports(dut, "loop")
    rng, numbers = generators("round trip", p_idle, p_stall)
    await loop.begin(*VALID)
    maps = random_maps(rng, numbers, 9)
    for feature_map in maps:
        await write_table(loop, feature_map)
    for turn in range(0, len(maps) - 2, 3):
        first, second, third = maps[turn:turn + 3]
        for feature_map in (first, second):
            beside = cocotb.start_soon(write_planes(loop, third, rng))
            running = None if feature_map is first else cocotb.start_soon(decode(loop, [first], rng, p_idle, p_stall))
            for slab, place in zip(feature_map.slabs, feature_map.places, strict=True):
                await encode(loop, slab, place, rng, p_idle)
            await beside
            if running:
                await running
        await decode(loop, [second, third], rng, p_idle, p_stall)


@bench_test
async def large_memory(dut):
    """Slabs across and beyond 2**16 values, and chunks of 16."""
    loop = Ports(dut, "large")
    rng, numbers = generators("large memory")
    await loop.begin(*VALID)
    slabs = [random_slab(numbers, (3, 4, channels), "half") for channels in (16, 40, 1)]
    feature_map = Map(slabs, 5, [{"map": 4000, "value": 65500}, {"map": 20, "value": (1 << 17) - 500},
                                 {"map": 300, "value": 3}], [0, 16, 56])
    await write_table(loop, feature_map)
    for slab, place in zip(slabs, feature_map.places, strict=True):
        await encode(loop, slab, place, rng, params=LARGE)
    await decode(loop, [feature_map], rng)


async def counted(loop, feature_map, rng, jobs=1):
    """Cycles from the first job's acceptance to the last item's, and cycles in which an item was there."""
    await write_table(loop, feature_map)
    await write_planes(loop, feature_map, rng)
    loop.set(job__valid=1, job__payload=feature_map.job, feature__ready=1)
    counts, ends, last = Counter(), 0, len(feature_map.slabs[0])
    while ends < jobs * last:
        await loop.cycles()
        if loop.job__valid.value == 1 and loop.job__ready.value == 1:
            counts["jobs"] += 1
            if counts["jobs"] == jobs:
                loop.set(job__valid=0)
        if loop.feature__valid.value == 1:
            if not counts["items"]:
                counts["latency"] = counts["cycles"]
            counts["items"] += 1
            ends += ITEM.unpack(int(loop.feature__payload.value))["row_end"]
        counts["cycles"] += counts["jobs"] > 0
    return counts


async def measure(dut, *shapes, density, jobs=1):
    loop = Ports(dut, "loop")
    rng, numbers = generators("cycles", shapes, density)
    await loop.begin(*VALID)
    feature_map = Layout(rng).add([random_slab(numbers, shape, density) for shape in shapes])
    counts = await counted(loop, feature_map, rng, jobs)
    words = sum(len(pack(slab)[0]) for slab in feature_map.slabs)
    cocotb.log.info("%s %s, %d jobs: %d words, %s", shapes, density, jobs, words, dict(counts))
    return counts, words


@bench_test
@cocotb.parametrize(shape=[(16, 16, 16), (60, 4, 32), (50, 40, 1), (3, 3, 40)])
async def dense_maps_take_a_cycle_an_element(dut, shape):
    """And one a row end; with the time to start, and without gaps between rows."""
    counts, _ = await measure(dut, shape, density="full")
    assert counts["items"] == np.prod(shape) + shape[0]
    assert counts["latency"] == 14
    assert counts["cycles"] == counts["items"] + counts["latency"]


@bench_test
@cocotb.parametrize(shape=[(12, 16, 32), (60, 4, 16), (1, 30, 1)])
async def zero_maps_take_a_cycle_a_word(dut, shape):
    counts, words = await measure(dut, shape, density="zero")
    assert counts["items"] == shape[0]
    assert counts["cycles"] <= words + 14


@bench_test
async def sparse_maps(dut):
    """One element a word on average leaves few gaps."""
    counts, words = await measure(dut, (20, 24, 16), density="sparse")
    assert counts["cycles"] < 1.1 * max(words, counts["items"]) + 40


@bench_test
async def slabs_change_fast(dut):
    """A change of slab costs 5 cycles behind a long slab; with short ones, there is one each 9 cycles."""
    counts, _ = await measure(dut, *((10, 8, 16),) * 3, density="full")
    assert counts["cycles"] == counts["items"] + 14 + (3 * 10 - 1) * 5
    counts, _ = await measure(dut, *((10, 1, 1),) * 3, density="zero")
    assert counts["cycles"] <= 3 * 10 * 9 + 14


@bench_test
async def jobs_in_a_row(dut):
    """A job begins while the one before still sends its last row."""
    counts, _ = await measure(dut, (8, 8, 16), density="full", jobs=4)
    assert counts["items"] == 4 * (8 * 8 * 16 + 8)
    assert counts["cycles"] <= counts["items"] + 14 + 3 * 5
