"""Input maps: each step's as documented at its place, and none over one that is still to be read."""

import cocotb
from conv_back_benches import PARAMETERS, run_bench
from feature_maps import DENSITIES, pack, random_slab
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.conv_numerics import map_write_layout, value_write_layout
from amacrine.hw.map_encoder import encoder_job_layout

PLACE, MAP, VALUE = (Codec(layout(PARAMETERS[16]))
                     for layout in (encoder_job_layout, map_write_layout, value_write_layout))
SHAPES = ((1, 1, 1), (2, 3, 1), (1, 4, 17), (3, 2, 32))
STEPS = 12


def test_input_maps(tmp_path):
    run_bench(__name__, tmp_path)


@bench_test
@cocotb.parametrize(shape=list(SHAPES), pattern=list(PATTERNS))
async def maps_alternate(dut, shape, pattern):
    """Map words and values of all steps; the reader is sometimes ahead of the host, sometimes behind."""
    ports, (p_idle, p_stall) = Ports(dut, "inputs"), pattern
    rng, np_rng = generators("inputs", shape, pattern)
    await ports.begin("input__valid", "map__ready", "value__ready", "run")
    places = [{"map": rng.randrange(1024), "value": rng.randrange(4096)} for _ in range(2)]
    slabs = [random_slab(np_rng, shape, rng.choice(list(DENSITIES))) for _ in range(STEPS)]
    ports.set(channels=shape[2], positions=shape[0] * shape[1], read=3,
              even=PLACE.pack(**places[0]), odd=PLACE.pack(**places[1]))
    maps, values = [], []
    cocotb.start_soon(get(ports, "map", maps, rng, p_stall))
    cocotb.start_soon(get(ports, "value", values, rng, p_stall))
    cocotb.start_soon(put(ports, "input", [int(value) & 0xFFFF for slab in slabs for value in slab.reshape(-1)],
                          rng, p_idle))
    await ports.cycles(20)
    assert not maps     # not before it runs
    ports.set(run=1)
    for step, slab in enumerate(slabs):
        words, elements = pack(slab)
        await ports.until(lambda step=step: int(ports.done.value) == step % 4)
        place = places[step % 2]
        assert [MAP.unpack(item) for item in maps[:len(words)]] == [
            {"address": place["map"] + i, "bits": bits} for i, bits in enumerate(words)]
        assert [VALUE.unpack(item) for item in values[:len(elements)]] == [
            {"address": place["value"] + i, "value": value, "next_value": 0, "two": 0}
            for i, value in enumerate(elements)]
        del maps[:len(words)], values[:len(elements)]
        if rng.random() < 0.3:      # at most the next map comes, and waits
            await ports.cycles(40 * slab.size + SURPLUS_CYCLES)
            assert int(ports.done.value) == min(step + 1, STEPS - 1) % 4
            assert len(maps) <= len(words)
        ports.set(read=step % 4)
    await ports.cycles(SURPLUS_CYCLES)
    assert not maps and not values
