"""The UARTs: all characters, rates that do not quite agree, and lines that carry no characters."""

import cocotb
from cocotb.triggers import RisingEdge, Timer
from link_benches import RATES, run_bench
from streams import PERIOD, Ports, bench_test, generators, put

NAMES = list(RATES)
FRAME_BITS = 10


def test_uart(tmp_path):
    run_bench(__name__, tmp_path)


def bit_steps(name):
    clock_hz, baud = RATES[name]
    return clock_hz / baud * PERIOD


class Line:
    """Drives a receiver's line, and collects what it says."""

    def __init__(self, dut, name, rate=1.0):
        self.receiver, self.bit = Ports(dut, f"receiver{name}"), bit_steps(name) / rate
        self.characters, self.errors = [], 0

    async def begin(self):
        self.receiver.set(rx=1)
        await self.receiver.begin()
        cocotb.start_soon(self.collect())
        await self.idle(3)

    async def collect(self):
        while True:
            await RisingEdge(self.receiver.clk)
            if self.receiver.o__valid.value == 1:
                self.characters.append(int(self.receiver.o__payload.value))
            self.errors += int(self.receiver.error.value)

    async def levels(self, levels):
        """One level a bit time."""
        time = 0
        for count, level in enumerate(levels, 1):
            self.receiver.set(rx=level)
            step = round(count * self.bit) - time
            time += step
            await Timer(step, "step")

    async def idle(self, bits):
        await self.levels([1] * bits)

    async def send(self, character, stop=1):
        await self.levels([0, *(character >> i & 1 for i in range(8)), stop])


@bench_test
@cocotb.parametrize((("name", "rate"), [("4", 1), ("8", 1), *(("33", 1 + error / 100) for error in (-3, -2, 0, 2, 3))]))
async def all_characters(dut, name, rate):
    """Back to back and with gaps, at any phase of the clock."""
    rng, _ = generators("characters", name, rate)
    line = Line(dut, name, rate)
    await line.begin()
    characters = rng.sample(range(256), 256)
    for character in characters:
        await line.send(character)
        if rng.random() < 0.2:
            await Timer(rng.randrange(1, 20 * PERIOD), "step")
    await line.idle(20)
    assert (line.characters, line.errors) == (characters, 0)


@bench_test
@cocotb.parametrize(("name", NAMES))
async def bad_characters(dut, name):
    """A bad stop bit, a break of any length and a short pulse cost no other character."""
    rng, _ = generators("bad characters", name)
    line = Line(dut, name)
    await line.begin()
    characters, errors = [], 0
    for _ in range(60):
        kind = rng.randrange(5)
        if kind == 0:
            await line.send(rng.randrange(256), stop=0)
            await line.idle(rng.randrange(2, 4))
            errors += 1
        elif kind == 1:
            await line.levels([0] * rng.randrange(10, 100))
            await line.idle(2)
            errors += 1
        elif kind == 2:
            line.receiver.set(rx=0)
            await Timer(PERIOD, "step")
            await line.idle(2)
        else:
            characters.append(rng.randrange(256))
            await line.send(characters[-1])
    await line.idle(20)
    assert (line.characters, line.errors) == (characters, errors)


@bench_test
@cocotb.parametrize(("name", NAMES))
async def transmitter(dut, name):
    """Each edge is where it should be, to a cycle, within a character; the line rests between them."""
    rng, _ = generators("transmitter", name)
    ports = Ports(dut, f"transmitter{name}")
    await ports.begin("i__valid")
    characters = [0, 255, 0x55, *(rng.randrange(256) for _ in range(20))]
    cocotb.start_soon(put(ports, "i", characters, rng, 0.3))
    cycles, found = bit_steps(name) / PERIOD, []
    for _ in characters:
        start = 0
        while ports.tx.value == 1:
            await RisingEdge(ports.clk)
            start += 1
            assert start < 400
        samples = [0]
        for _ in range(round(FRAME_BITS * cycles) - 1):
            await RisingEdge(ports.clk)
            samples.append(int(ports.tx.value))
        bits = [samples[int((i + 0.5) * cycles)] for i in range(FRAME_BITS)]
        for i, bit in enumerate(bits):     # a cycle off at the edges may be rounding
            assert set(samples[int(i * cycles) + 1:int((i + 1) * cycles) - 1]) <= {bit}
        assert bits[0] == 0 and bits[-1] == 1
        found.append(sum(bit << i for i, bit in enumerate(bits[1:-1])))
    assert found == characters
