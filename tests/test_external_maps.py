# amaranth: UnusedElaboratable=no
"""Maps in external memory: what encoder and input write, the decoder reads, while kernels are read beside it."""

from dataclasses import dataclass

import cocotb
import pytest
from external_benches import ELEMENTS, EXTERNAL, WEIGHTS, run_bench
from feature_benches import chunk_payloads
from feature_maps import DENSITIES, pack, random_slab
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put
from test_map_decoder import CHANNELS, Map, decode, write_table

from amacrine.hw.conv_numerics import map_write_layout, value_write_layout
from amacrine.hw.external_maps import PlaneReader
from amacrine.hw.map_encoder import encoder_job_layout
from amacrine.hw.numerics import request_layout
from amacrine.sw.conv_layout import EXTERNAL_ALIGN, EXTERNAL_BIT, SLABS
from amacrine.sw.layout import Parameters

MAP, VALUE = Codec(map_write_layout(EXTERNAL)), Codec(value_write_layout(EXTERNAL))
PLACE = Codec(encoder_job_layout(EXTERNAL))
REQUEST = {pes: Codec(request_layout(parameters)) for pes, parameters in WEIGHTS.items()}
VALID = ("start", "chunk__valid", "input_map__valid", "input_value__valid", "host__enable", "job__valid",
         "feature__ready", "write_enable", "kernels__request__valid", "kernels__data__ready", "result_ends",
         "input_ends", "stop")
KERNEL_WORDS = 64


def test_external_maps(tmp_path):
    run_bench(__name__, tmp_path)


@pytest.mark.parametrize("pes", [1, 3])
def test_odd_numbers_of_weights_are_refused(pes):
    with pytest.raises(ValueError, match=f"need an even number of weights in a word, not {pes}"):
        PlaneReader(Parameters(pes=pes))


@dataclass
class Pointers:
    """Where a slab's planes begin."""

    map: int
    value: int

    @property
    def external(self):
        return self.value >> EXTERNAL_BIT

    @property
    def fields(self):
        """As the slab table has it."""
        low = self.map & ((1 << EXTERNAL_BIT) - 1)
        return {"map": low // EXTERNAL_ALIGN if self.external else low, "value": self.value}


class Layout:
    """Gives slabs their places, by chance on chip or in external memory, until that or the table is full."""

    def __init__(self, rng, share=0.7):
        self.rng, self.share, self.row, self.map, self.value = rng, share, 0, 0, 0
        self.end = 2 * EXTERNAL_ALIGN       # kernels lie before that

    def place(self, slab):
        words, values = len(pack(slab)[0]), slab.size
        if self.rng.random() < self.share:
            start = self.end
            middle = start + -(-words // EXTERNAL_ALIGN) * EXTERNAL_ALIGN
            self.end = middle + -(-values // EXTERNAL_ALIGN) * EXTERNAL_ALIGN
            return Pointers(start | 1 << EXTERNAL_BIT, middle | 1 << EXTERNAL_BIT)
        place = Pointers(self.map, self.value)
        self.map, self.value = self.map + words, self.value + values
        return place

    def add(self, slabs):
        places, channel, channels = [self.place(slab) for slab in slabs], self.rng.randrange(3), []
        for slab in slabs:
            channels.append(channel)
            channel += slab.shape[2]
        made = Map(slabs, self.row, places, channels)
        self.row += len(slabs)
        fits = (self.row <= SLABS and self.map <= EXTERNAL.map_depth and self.value <= EXTERNAL.value_depth
                and self.end <= ELEMENTS)
        return made if fits else None


def random_maps(rng, numbers, count, share=0.7):
    layout, maps = Layout(rng, share), []
    for _ in range(count):
        height, width = numbers.integers(1, 7, 2)
        slabs = [random_slab(numbers, (height, width, rng.choice(CHANNELS)), rng.choice(DENSITIES))
                 for _ in range(rng.choice((1, 1, 2, 3)))]
        if placed := layout.add(slabs):
            maps.append(placed)
    return maps


async def started(dut, pes, rng, latency, stall):
    """A memory whose first words are random, and these."""
    loop = Ports(dut, f"external{pes}")
    await loop.begin(*VALID)
    loop.set(latency=latency, stall=stall)
    kernels = [rng.getrandbits(8 * pes) for _ in range(KERNEL_WORDS)]
    for address, word in enumerate(kernels):
        loop.set(write_enable=1, write_address=address, write_data=word)
        await loop.cycles()
    loop.set(write_enable=0)
    return loop, kernels


async def fill_table(loop, maps):
    for feature_map in maps:
        fields = [place.fields for place in feature_map.places]
        await write_table(loop, Map(feature_map.slabs, feature_map.first, fields, feature_map.first_channels))


async def encode(loop, feature_map, rng, p_idle):
    """As the engine writes results, one slab after the other."""
    for slab, place in zip(feature_map.slabs, feature_map.places, strict=True):
        loop.set(start=1, place=PLACE.pack(map=place.map, value=place.value))
        await loop.cycles()
        loop.set(start=0)
        await put(loop, "chunk", chunk_payloads(slab, EXTERNAL.lanes), rng, p_idle)
        await loop.until(lambda: loop.idle.value == 1)
        loop.set(result_ends=1)
        await loop.cycles()
        loop.set(result_ends=0)
    await loop.cycles()
    await loop.until(lambda: loop.result_written.value == 1)


async def write_planes(loop, feature_map, rng, p_idle):
    """As the input writes them, but whole planes, and values one by one or in pairs."""
    for slab, place in zip(feature_map.slabs, feature_map.places, strict=True):
        words, values = pack(slab)
        pairs, at = [], 0
        while at < len(values):
            two = at + 1 < len(values) and rng.random() < 0.5
            pairs.append(VALUE.pack(address=place.value + at, value=values[at], two=two,
                                    next_value=values[at + 1] if two else -1))
            at += 1 + two
        maps = cocotb.start_soon(put(loop, "input_map", [MAP.pack(address=place.map + k, bits=bits)
                                                         for k, bits in enumerate(words)], rng, p_idle))
        await put(loop, "input_value", pairs, rng, p_idle)
        await maps
        loop.set(input_ends=1)
        await loop.cycles()
        loop.set(input_ends=0)
    await loop.cycles()
    await loop.until(lambda: loop.input_written.value == 1)


class Kernels:
    """Reads bursts of kernels for ever, and knows which words must come."""

    def __init__(self, loop, pes, words, rng):
        self.loop, self.pes, self.words, self.rng, self.expected, self.items = loop, pes, words, rng, [], []

    async def run(self, p_idle, p_stall):
        cocotb.start_soon(get(self.loop, "kernels__data", self.items, self.rng, p_stall))
        while True:
            length = self.rng.randrange(1, 20)
            address = self.rng.randrange(KERNEL_WORDS - length)
            await put(self.loop, "kernels__request", [REQUEST[self.pes].pack(address=address, length=length)], self.rng)
            self.expected += self.words[address:address + length]
            while len(self.items) + 16 < len(self.expected) or self.rng.random() < p_idle:
                await self.loop.cycles()

    def check(self):
        assert len(self.items) > 50 and self.items == self.expected[:len(self.items)]


@bench_test
@cocotb.parametrize(
    (("latency", "stall", "p_idle", "p_stall"),
     [(1, 0, 0.0, 0.0), (3, 100, 0.4, 0.0), (20, 0, 0.0, 0.4), (60, 200, 0.2, 0.2), (128, 30, 0.0, 0.0)]),
    pes=list(WEIGHTS))
async def round_trip(dut, pes, latency, stall, p_idle, p_stall):
    """Two maps are written at a time, while those written before are decoded."""
    rng, numbers = generators("external", pes, latency)
    loop, words = await started(dut, pes, rng, latency, stall)
    maps = random_maps(rng, numbers, 12)
    assert len(maps) > 6
    await fill_table(loop, maps)
    kernels = Kernels(loop, pes, words, rng)
    cocotb.start_soon(kernels.run(0.9 * (p_idle > 0), p_stall))
    before = []
    for first, second in zip(maps[::2], maps[1::2], strict=False):
        decoding = cocotb.start_soon(decode(loop, before, rng, p_idle, p_stall)) if before else None
        beside = cocotb.start_soon(write_planes(loop, second, rng, p_idle))
        await encode(loop, first, rng, p_idle)
        await beside
        if decoding:
            await decoding
        before = [first, second, *rng.choices([first, second], k=2)]
    await decode(loop, before, rng, p_idle, p_stall)
    kernels.check()


@bench_test
@cocotb.parametrize(pes=list(WEIGHTS), latency=[1, 40])
async def stopped_it_asks_for_nothing(dut, pes, latency):
    """But for the bursts that it offers already; when it goes on, nothing is lost."""
    rng, numbers = generators("stop", pes, latency)
    loop, _ = await started(dut, pes, rng, latency, 0)
    maps = random_maps(rng, numbers, 4, share=1.0)
    await fill_table(loop, maps)
    for feature_map in maps:
        await encode(loop, feature_map, rng, 0.0)
    decoding = cocotb.start_soon(decode(loop, maps * 3, rng))
    while not decoding.done():
        await loop.cycles(rng.randrange(1, 80))
        loop.set(stop=1)
        await loop.cycles(2)
        await loop.until(lambda: loop.reading.value == 0)
        for _ in range(60):
            await loop.cycles()
            assert loop.reading.value == 0
        loop.set(stop=0)
    await decoding


@bench_test
@cocotb.parametrize(pes=[8])
async def elements_come_one_a_cycle(dut, pes):
    """A dense map of one slab, in one go, behind a memory with some latency."""
    rng, numbers = generators("external rate", pes)
    loop, _ = await started(dut, pes, rng, 20, 0)
    feature_map = Layout(rng, share=1.0).add([random_slab(numbers, (12, 16, 16), "full")])
    await fill_table(loop, [feature_map])
    await encode(loop, feature_map, rng, 0.0)
    loop.set(job__valid=1, job__payload=feature_map.job, feature__ready=1)
    count = cycles = 0
    while count < 12 * 16 * 16 + 12:
        await loop.cycles()
        loop.set(job__valid=0)
        cycles += 1
        count += loop.feature__valid.value == 1
    cocotb.log.info("%d items in %d cycles", count, cycles)
    assert cycles < count + 80
    await loop.cycles(SURPLUS_CYCLES)
