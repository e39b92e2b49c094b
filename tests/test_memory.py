"""The weight memories: content, order, latency, stalls."""

import cocotb
import numpy as np
from benches import MAX_LATENCY, MEMORY_WORDS, PARAMETERS, run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put

from amacrine.hw.numerics import request_layout

REQUEST = Codec(request_layout(PARAMETERS[8]))
LATENCIES = (1, 3, 4, 17, MAX_LATENCY)


def test_memory(tmp_path):
    run_bench(__name__, tmp_path)


async def loaded(dut, name, rng, latency=1, stall=0):
    """A memory full of random words, and these."""
    memory = Ports(dut, name)
    await memory.begin("port__request__valid", "port__data__ready", "write_enable")
    memory.set(latency=latency, stall=stall)
    content = [rng.getrandbits(64) for _ in range(MEMORY_WORDS)]
    for address, word in enumerate(content):
        memory.set(write_enable=1, write_address=address, write_data=word)
        await memory.cycles()
    memory.set(write_enable=0)
    return memory, content


def bursts(rng, count):
    """Addresses and lengths, short and long ones, up to both ends of the memory."""
    some = [(0, 1), (MEMORY_WORDS - 1, 1), (MEMORY_WORDS - 7, 7), (0, 200)]
    for _ in range(count):
        length = rng.choice((1, 1, 2, 3, rng.randrange(1, 40)))
        some.append((rng.randrange(MEMORY_WORDS - length + 1), length))
    return rng.sample(some, len(some))


async def check(memory, content, rng, p_idle, p_stall):
    wanted, items = bursts(rng, 60), []
    cocotb.start_soon(get(memory, "port__data", items, rng, p_stall))
    await put(memory, "port__request", [REQUEST.pack(address=a, length=n) for a, n in wanted], rng, p_idle)
    expected = [content[a + i] for a, n in wanted for i in range(n)]
    for _ in range(100):
        if len(items) >= len(expected):
            break
        await memory.cycles(SURPLUS_CYCLES)
    await memory.cycles(SURPLUS_CYCLES + MAX_LATENCY)
    np.testing.assert_array_equal(np.array(items, np.uint64), np.array(expected, np.uint64))


@patterns
async def block_ram(dut, p_idle, p_stall):
    rng, _ = generators("block RAM", p_idle, p_stall)
    memory, content = await loaded(dut, "memory", rng)
    await check(memory, content, rng, p_idle, p_stall)


@bench_test
@cocotb.parametrize((("p_idle", "p_stall"), [(0.0, 0.0), (0.3, 0.3)]), ("latency", LATENCIES), ("stall", [0, 100]))
async def ideal_memory(dut, p_idle, p_stall, latency, stall):
    rng, _ = generators("ideal", p_idle, p_stall, latency, stall)
    memory, content = await loaded(dut, "slow_memory", rng, latency, stall)
    await check(memory, content, rng, p_idle, p_stall)


@bench_test
@cocotb.parametrize((("name", "latency"), [("memory", 1), *(("slow_memory", latency) for latency in LATENCIES)]))
async def latency_and_rate_are_those_of_the_docstring(dut, name, latency):
    """The first word `latency` cycles after its request was taken, then one word a cycle, bursts without a gap."""
    rng, _ = generators("latency", name, latency)
    memory, _ = await loaded(dut, name, rng, latency)
    wanted, items = [(0, 5), (100, 1), (7, 30), (600, 1), (601, 1), (300, 64)], []
    cocotb.start_soon(get(memory, "port__data", items, rng))
    cocotb.start_soon(put(memory, "port__request", [REQUEST.pack(address=a, length=n) for a, n in wanted], rng))
    await memory.until(lambda: memory.port__request__valid.value == 1 and memory.port__request__ready.value == 1)
    await memory.cycles(latency - 1)
    assert memory.port__data__valid.value == 0 or latency == 1
    for _ in range(sum(n for _, n in wanted)):
        await memory.cycles()
        assert memory.port__data__valid.value == 1
    await memory.cycles()
    assert memory.port__data__valid.value == 0
