"""Where results go: chunks of passes as a slab in feature memory, or as single elements."""

import cocotb
from conv_back_benches import PARAMETERS, run_bench
from feature_maps import DENSITIES, chunks, pack, random_slab, written_values
from streams import SURPLUS_CYCLES, Codec, Ports, generators, get, patterns, put, signed, word

from amacrine.hw.conv_numerics import chunk_layout, map_write_layout, result_layout, value_write_layout
from amacrine.hw.result_writer import writer_job_layout

CHUNKS = {macs: Codec(chunk_layout(params)) for macs, params in PARAMETERS.items()}
RESULTS = {macs: Codec(result_layout(params)) for macs, params in PARAMETERS.items()}
JOB, MAP, VALUE = (Codec(layout(PARAMETERS[4])) for layout in (writer_job_layout, map_write_layout, value_write_layout))


def test_result_writer(tmp_path):
    run_bench(__name__, tmp_path)


class Pass:
    """A random slab (rows, columns, channels): its job, what goes in, and what should come out."""

    def __init__(self, macs, rng, np_rng):
        self.dense = rng.random() < 0.4
        shape = (rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 40))
        slab = random_slab(np_rng, shape, rng.choice(list(DENSITIES)))
        place = {"map": rng.randrange(1024), "value": rng.randrange(4096)}
        self.job = JOB.pack(place=place["map"] | place["value"] << PARAMETERS[4].map_depth.bit_length() - 1,
                            dense=self.dense)
        pieces = [CHUNKS[macs].pack(values=word(piece["values"], 16), used=piece["used"], last=piece["last"])
                  for piece in chunks(slab, macs // 4)]
        junk = rng.getrandbits(18 * macs // 4)
        self.results = [RESULTS[macs].pack(chunk=piece) for piece in pieces] + [
            RESULTS[macs].pack(end=1, chunk=junk & (1 << 17 * macs // 4) - 1)]
        words, values = pack(slab)
        self.elements = [int(value) for value in slab.reshape(-1)] if self.dense else []
        self.maps = [] if self.dense else [(place["map"] + i, bits) for i, bits in enumerate(words)]
        self.values = [] if self.dense else [(place["value"] + i, value) for i, value in enumerate(values)]


@patterns
async def slabs_and_elements(dut, p_idle, p_stall):
    """Passes of both kinds behind one another."""
    for macs in PARAMETERS:
        ports = Ports(dut, f"writer{macs}")
        rng, np_rng = generators("writer", macs, p_idle, p_stall)
        if macs == min(PARAMETERS):
            await ports.begin("job__valid", "result__valid", "map__ready", "value__ready", "element__ready")
        ports.set(job__valid=0, result__valid=0)
        passes = [Pass(macs, rng, np_rng) for _ in range(30)]
        maps, values, elements, written = [], [], [], []
        for name, items in (("map", maps), ("value", values), ("element", elements)):
            cocotb.start_soon(get(ports, name, items, rng, p_stall))
        cocotb.start_soon(watch(ports, written, maps, values))
        cocotb.start_soon(put(ports, "job", [each.job for each in passes], rng, p_idle))
        await put(ports, "result", [item for each in passes for item in each.results], rng, p_idle)
        count = len(passes)
        await ports.until(lambda written=written, count=count: len(written) == count)
        await ports.cycles(SURPLUS_CYCLES)
        assert [tuple(MAP.unpack(item).values()) for item in maps] == [item for each in passes for item in each.maps]
        assert written_values(map(VALUE.unpack, values)) == [item for each in passes for item in each.values]
        assert [signed(item, 16) for item in elements] == [item for each in passes for item in each.elements]
        sums = [0, 0]
        for each, seen in zip(passes, written, strict=True):
            sums = [sums[0] + len(each.maps), sums[1] + len(each.values)]
            assert list(seen) == sums, "a pass was not in feature memory when it was reported"


async def watch(ports, written, maps, values):
    """How much of both planes had been written when a pass was reported."""
    while True:
        await ports.cycles()
        if ports.written.value == 1:
            written.append((len(maps), len(written_values(map(VALUE.unpack, values)))))
