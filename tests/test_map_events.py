"""Flat maps to events: zeros are dropped, indices counted, and each map ends."""

import cocotb
import numpy as np
from benches import run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put

from amacrine.hw.numerics import MapEvent

EVENT = Codec(MapEvent)


def test_map_events(tmp_path):
    run_bench(__name__, tmp_path)


def expected(maps):
    """(index, value) of each event, None at each map's end."""
    events = []
    for row in maps:
        events += [(int(i), int(row[i])) for i in np.flatnonzero(row)] + [None]
    return events


def unpacked(items):
    events = [EVENT.unpack(item) for item in items]
    return [None if event["end"] else (event["index"], event["value"]) for event in events]


def random_maps(np_rng, count, length, density):
    maps = np_rng.integers(-32768, 32768, (count, length))
    maps[np_rng.random(maps.shape) >= density] = 0
    return maps


def elements(maps):
    return [int(value) & 0xFFFF for value in maps.ravel()]


@patterns
async def zeros_are_dropped(dut, p_idle, p_stall):
    """Lengths one after the other, between maps; sparse, dense and empty maps."""
    ports = Ports(dut, "map_events")
    rng, np_rng = generators("map events", p_idle, p_stall)
    await ports.begin("element__valid", "event__ready", "reset")
    items, wanted = [], []
    cocotb.start_soon(get(ports, "event", items, rng, p_stall))
    for length in (1, 2, 17, 300):
        ports.set(length=length)
        for density in (0.0, 0.1, 0.5, 1.0):
            maps = random_maps(np_rng, 6, length, density)
            await put(ports, "element", elements(maps), rng, p_idle)
            wanted += expected(maps)
            while len(items) < len(wanted):         # the length may change once the last end is out
                await ports.cycles()
    await ports.cycles(SURPLUS_CYCLES)
    assert unpacked(items) == wanted


@bench_test
async def an_element_a_cycle(dut):
    """Without stalls, a map takes a cycle an element, and one more if its last element is not zero."""
    ports = Ports(dut, "map_events")
    rng, np_rng = generators("an element a cycle")
    await ports.begin("element__valid", "reset")
    maps = random_maps(np_rng, 40, 9, 0.5)
    ports.set(length=9)
    items, start = [], cocotb.utils.get_sim_time("step")
    cocotb.start_soon(get(ports, "event", items, rng))
    await put(ports, "element", elements(maps), rng)
    cycles = (cocotb.utils.get_sim_time("step") - start) // 10
    assert cycles == maps.size + np.count_nonzero(maps[:-1, -1])
    await ports.cycles(SURPLUS_CYCLES)
    assert unpacked(items) == expected(maps)


@bench_test
@cocotb.parametrize(given=[1, 4, 5])
async def reset_forgets_a_map(dut, given):
    """With an event waiting, and an end owed: the next element is the first of a map."""
    ports = Ports(dut, "map_events")
    rng, np_rng = generators("reset", given)
    await ports.begin("element__valid", "event__ready", "reset")
    ports.set(length=5, event__ready=1)
    maps = random_maps(np_rng, 2, 5, 1.0)
    await put(ports, "element", elements(maps[0])[:given], rng)
    ports.set(event__ready=0)
    await ports.cycles(3)
    ports.set(reset=1)
    await ports.cycles()
    ports.set(reset=0)
    await ports.cycles()
    assert ports.event__valid.value == 0
    items = []
    cocotb.start_soon(get(ports, "event", items, rng))
    await put(ports, "element", elements(maps[1]), rng)
    await ports.cycles(SURPLUS_CYCLES)
    assert unpacked(items) == expected(maps[1:])
