"""The link's registers: counts since the reset, and what is read besides."""

from collections import Counter

from cocotb.triggers import RisingEdge
from link_benches import run_bench
from streams import Ports, bench_test, generators

from amacrine.hw.link_registers import COUNTS, READ_CYCLES
from amacrine.sw.protocol import LinkRegister

TURN = 8
"""Cycles between two events of a kind, at least."""


def test_link_registers(tmp_path):
    run_bench(__name__, tmp_path)


async def read(ports, address):
    ports.set(address=address)
    await ports.cycles(READ_CYCLES + 1)
    return int(ports.data.value)


@bench_test
async def counts(dut):
    """Events at any distance from each other are all counted; reset clears the counts."""
    ports = Ports(dut, "registers")
    rng, _ = generators("registers")
    ports.set(address=0, memory_initialised=1, session=0xABCD)
    await ports.begin("events")
    for _ in range(2):
        dut.rst.value = 1
        await ports.cycles(3)
        dut.rst.value = 0
        expected, last = Counter(), {}
        for cycle in range(3000):
            free = [bit for bit in range(COUNTS) if cycle - last.get(bit, -TURN) >= TURN]
            happen = [bit for bit in free if rng.random() < 0.2]
            expected.update(happen)
            last.update(dict.fromkeys(happen, cycle))
            ports.set(events=sum(1 << bit for bit in happen))
            await RisingEdge(ports.clk)
        ports.set(events=0)
        await ports.cycles(2 * TURN)
        assert {bit: await read(ports, bit) for bit in range(COUNTS)} == dict(expected)
        assert await read(ports, LinkRegister.FLAGS) == 1
        assert await read(ports, LinkRegister.SESSION) == 0xABCD
        first = await read(ports, LinkRegister.CYCLES)
        assert await read(ports, LinkRegister.CYCLES) == first + READ_CYCLES + 1
