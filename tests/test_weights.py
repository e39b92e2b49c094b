# amaranth: UnusedElaboratable=no
"""Weights in SDRAM: what the host writes is what host and engine read, both at once, in order."""

import cocotb
import pytest
from sdram_benches import SMALL, WEIGHTS, WRITTEN, run_bench, typical_boards
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.memory import write_layout
from amacrine.hw.numerics import request_layout
from amacrine.hw.sdram import burst_layout
from amacrine.hw.sdram_chips import MT48LC16M16
from amacrine.hw.weights import CHUNK, HOST_LENGTH_BITS, SdramWeights
from amacrine.sim.sdram import VIOLATIONS
from amacrine.sw.layout import Parameters

HOST = Codec(burst_layout(SMALL["MT48LC16M16A2"], HOST_LENGTH_BITS))
ENGINE = {pes: Codec(request_layout(parameters)) for pes, parameters in WEIGHTS.items()}
WRITE = {pes: Codec(write_layout(parameters)) for pes, parameters in WEIGHTS.items()}


def test_weights(tmp_path):
    run_bench(__name__, tmp_path)


@pytest.mark.parametrize("pes", [1, 3, 7])
def test_odd_numbers_of_pes_are_refused(pes):
    with pytest.raises(ValueError, match=f"SDRAM words hold two weights, .* must be even, not {pes}"):
        SdramWeights(Parameters(pes=pes), MT48LC16M16, 100e6)


async def started(dut, pes, name="weights", *also_zero):
    part = Ports(dut, f"{name}{pes}")
    typical_boards(dut)
    await part.begin("port__request__valid", "port__data__ready", "host_request__valid", "host_write_data__valid",
                     "host_read_data__ready", *also_zero)
    await part.until(lambda: part.initialised.value == 1)
    return part


async def write(part, rng, start, words, p_idle=0.0):
    """Done when a burst of the engine would see the words."""
    request = [HOST.pack(address=start, length=len(words), write=1)]
    requested = cocotb.start_soon(put(part, "host_request", request, rng))
    await put(part, "host_write_data", words, rng, p_idle)
    await requested
    await part.until(lambda: part.host_idle.value == 1)


async def arrived(part, items, count):
    for _ in range(2000):
        if len(items) >= count:
            break
        await part.cycles(100)
    await part.cycles(SURPLUS_CYCLES)
    assert part.violations.value == 0, VIOLATIONS[int(part.violation.value)]
    assert part.poisoned.value == 0


@bench_test
@cocotb.parametrize((("p_idle", "p_stall"), [(0.0, 0.0), (0.2, 0.3), (0.9, 0.0), (0.0, 1.0)]), pes=list(WEIGHTS))
async def engine_and_host(dut, pes, p_idle, p_stall):
    """The engine reads one half of the words while the host writes and reads the other one."""
    rng, _ = generators("both", pes, p_idle)
    part, ratio = await started(dut, pes), pes // 2
    columns, half = [rng.getrandbits(16) for _ in range(1200)], 3000
    await write(part, rng, 0, columns)
    taken, read = [], []
    cocotb.start_soon(get(part, "port__data", taken, rng, p_stall))
    cocotb.start_soon(get(part, "host_read_data", read, rng, p_stall))
    bursts = []
    for _ in range(60):
        length = rng.choice((1, 2, rng.randrange(1, 100 // ratio)))
        bursts.append((rng.randrange(len(columns) // ratio - length + 1), length))
    engine = cocotb.start_soon(
        put(part, "port__request", [ENGINE[pes].pack(address=a, length=n) for a, n in bursts], rng, p_idle))
    expected = []
    for _ in range(6):
        start, length = rng.randrange(half, half + 600), rng.choice((1, CHUNK, CHUNK + 1, rng.randrange(1, 90)))
        words = [rng.getrandbits(16) for _ in range(length)]
        await write(part, rng, start, words, p_idle)
        await put(part, "host_request", [HOST.pack(address=start, length=length, write=0)], rng)
        expected += words
    await engine
    wanted = [sum(columns[(a + i) * ratio + part_] << 16 * part_ for part_ in range(ratio))
              for a, n in bursts for i in range(n)]
    await arrived(part, taken, len(wanted))
    await arrived(part, read, len(expected))
    assert taken == wanted and read == expected


@bench_test
@cocotb.parametrize(write_burst=[0, 1])
async def a_slow_host_does_not_keep_the_engine_waiting(dut, write_burst):
    """A host that wants many words written and brings none, or wants many read and takes none."""
    rng, _ = generators("slow host")
    part = await started(dut, 8)
    columns, taken = [rng.getrandbits(16) for _ in range(400)], []
    await write(part, rng, 0, columns)
    await put(part, "host_request", [HOST.pack(address=0, length=400, write=write_burst)], rng)
    await part.cycles(200)
    cocotb.start_soon(get(part, "port__data", taken, rng))
    await put(part, "port__request", [ENGINE[8].pack(address=0, length=100)], rng)
    await part.cycles(400 + 60)
    assert taken == [sum(columns[4 * i + j] << 16 * j for j in range(4)) for i in range(100)]


@bench_test
@cocotb.parametrize(pes=list(WEIGHTS))
async def columns_follow_each_other_closely(dut, pes):
    """Requests in flight hide the latency: at least 95 % of the chip's words a cycle, in columns of 600."""
    rng, _ = generators("rate")
    part, ratio = await started(dut, pes), pes // 2
    await write(part, rng, 0, [7] * 1200)
    items, length = [], 600 // ratio
    part.set(port__data__ready=1)
    cocotb.start_soon(
        put(part, "port__request", [ENGINE[pes].pack(address=rng.randrange(2) * length, length=length)] * 8, rng))
    await part.until(lambda: part.port__data__valid.value == 1)
    for _ in range(8 * 600):
        await part.cycles()
        items.append(part.port__data__valid.value == 1)
    assert sum(items) >= 0.95 * 8 * length


class Observed:
    """What the engine writes, and what its bursts must then read, in the order in which both are taken."""

    def __init__(self, part, pes, content):
        self.part, self.pes, self.content, self.expected, self.writes = part, pes, content, [], 0

    def takes(self, name):
        valid, ready = (getattr(self.part, f"{name}__{signal}").value for signal in ("valid", "ready"))
        return valid == 1 and ready == 1

    async def run(self):
        while True:
            await self.part.cycles()
            wrote, reads = self.takes("write"), self.takes("port__request")
            assert not (wrote and reads)
            if wrote:
                word = WRITE[self.pes].unpack(int(self.part.write__payload.value))
                self.content[word["address"]] = word["data"]
                self.writes += 1
            if reads:
                burst = ENGINE[self.pes].unpack(int(self.part.port__request__payload.value))
                self.expected += [self.content[burst["address"] + n] for n in range(burst["length"])]


def written_words(rng, pes, words, count):
    """Planes that grow by turns, as the CNN engine writes them, and single words anywhere."""
    ends, payloads = [0, words // 2], []
    for _ in range(count):
        plane, address = rng.randrange(2), rng.randrange(words)
        if rng.random() < 0.9:
            address, ends[plane] = ends[plane] % words, ends[plane] + 1
        payloads.append(WRITE[pes].pack(address=address, data=rng.getrandbits(8 * pes)))
    return payloads


@bench_test
@cocotb.parametrize((("p_idle", "p_stall"), [(0.0, 0.0), (0.2, 0.3), (0.95, 0.0), (0.0, 1.0)]), pes=list(WRITTEN))
async def the_engine_reads_what_it_wrote(dut, pes, p_idle, p_stall):
    """Bursts read the words that were taken before them, while a host works on another part of the memory."""
    rng, _ = generators("engine writes", pes, p_idle)
    part, ratio = await started(dut, pes, "written", "write__valid"), pes // 2
    words, host = 120, 3000
    content = [rng.getrandbits(16) for _ in range(words * ratio)]
    await write(part, rng, 0, content)
    observed = Observed(part, pes, [sum(content[a * ratio + i] << 16 * i for i in range(ratio)) for a in range(words)])
    taken, read, expected = [], [], []
    cocotb.start_soon(observed.run())
    cocotb.start_soon(get(part, "port__data", taken, rng, p_stall))
    cocotb.start_soon(get(part, "host_read_data", read, rng, p_stall))
    bursts = [(rng.randrange(words - 16), rng.randrange(1, 17)) for _ in range(150)]
    reads = cocotb.start_soon(
        put(part, "port__request", [ENGINE[pes].pack(address=a, length=n) for a, n in bursts], rng, p_idle))
    writes = cocotb.start_soon(put(part, "write", written_words(rng, pes, words, 300), rng, p_idle))
    for _ in range(3):
        chunk = [rng.getrandbits(16) for _ in range(rng.randrange(1, 60))]
        await write(part, rng, host, chunk, p_idle)
        await put(part, "host_request", [HOST.pack(address=host, length=len(chunk), write=0)], rng)
        expected += chunk
    await reads
    await writes
    await put(part, "port__request", [ENGINE[pes].pack(address=0, length=words)], rng)
    await part.cycles()
    await arrived(part, taken, len(observed.expected))
    await arrived(part, read, len(expected))
    assert observed.writes == 300 and len(observed.expected) == sum(n for _, n in bursts) + words
    assert taken == observed.expected and read == expected


@bench_test
@cocotb.parametrize(pes=list(WRITTEN))
async def words_in_a_row_are_written_fast(dut, pes):
    """A word in K/2 + 1 cycles, and little more while bursts are read: 16 words, of the chip, each by turns."""
    rng, _ = generators("write rate", pes)
    part, ratio = await started(dut, pes, "written", "write__valid"), pes // 2
    part.set(port__data__ready=1)
    payloads = [WRITE[pes].pack(address=address, data=0) for address in range(400)]
    for length in (0, max(16 // ratio, 1)):
        writes = cocotb.start_soon(put(part, "write", payloads, rng))
        if length:
            cocotb.start_soon(put(part, "port__request", [ENGINE[pes].pack(address=0, length=length)] * 400, rng))
        cycles = 0
        while not writes.done():
            await part.cycles()
            cycles += 1
        cocotb.log.info("%d words of %d weights in %d cycles, bursts of %d read", len(payloads), pes, cycles, length)
        assert cycles < 400 * (ratio + 1) * (3.5 if length else 1.3) + 200
