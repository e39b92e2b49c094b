"""The weight port's arbiter: every word to whom it belongs, in order, at full rate, and columns before kernels."""

import cocotb
from benches import MAX_LATENCY, MEMORY_WORDS, PARAMETERS, run_bench
from cocotb.triggers import RisingEdge
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put

from amacrine.hw.arbiter import KERNELS_AHEAD
from amacrine.hw.numerics import request_layout
from amacrine.sw.layout import KERNEL_BURST

REQUEST = Codec(request_layout(PARAMETERS[8]))
OWNERS = ("columns", "kernels")
REGION = 1 << 19        # columns lie below this address, kernels above


def test_arbiter(tmp_path):
    run_bench(__name__, tmp_path)


def content(address):
    """A word that tells its address."""
    return address * 0x800_0040_0001


def bursts(rng, owner, count):
    """Addresses and lengths, of kernels up to KERNEL_BURST words."""
    longest = {"columns": 200, "kernels": KERNEL_BURST}[owner]
    made = []
    for _ in range(count):
        length = rng.choice((1, 1, 2, 3, rng.randrange(1, 20), longest))
        made.append((rng.randrange(REGION - length) + REGION * (owner == "kernels"), length))
    return made


def packed(wanted):
    return [REQUEST.pack(address=address, length=length) for address, length in wanted]


def words(wanted):
    return [content(address + i) for address, length in wanted for i in range(length)]


class Memory:
    """A weight memory in Python that starts a burst `latency()` cycles after its request; and all that can be seen."""

    def __init__(self, dut, rng, latency, p_idle):
        self.ports, self.rng, self.latency, self.p_idle = Ports(dut, "arbiter"), rng, latency, p_idle
        self.requests, self.deepest = [], 0

    async def start(self, p_stall):
        await self.ports.begin(*(f"{owner}__{port}" for owner in OWNERS for port in ("request__valid", "data__ready")),
                               "port__request__ready", "port__data__valid")
        cocotb.start_soon(get(self.ports, "port__request", self.requests, self.rng, p_stall))
        cocotb.start_soon(self.serve())
        cocotb.start_soon(self.watch())

    async def serve(self):
        ports, at = self.ports, 0
        while True:
            while at == len(self.requests):
                await RisingEdge(ports.clk)
            self.deepest = max(self.deepest, len(self.requests) - at)
            await ports.cycles(self.latency())
            burst = REQUEST.unpack(self.requests[at])
            at += 1
            await put(ports, "port__data", [content(burst["address"] + i) for i in range(burst["length"])], self.rng,
                      self.p_idle)

    async def watch(self):
        """Columns go first, few kernels are on their way, and `kernels_idle` tells whether any are."""
        ports, waiting = self.ports, 0
        while True:
            await RisingEdge(ports.clk)
            asks, takes = ports.kernels__request__valid.value == 1, ports.kernels__request__ready.value == 1
            assert not (takes and ports.columns__request__valid.value == 1)
            assert (ports.kernels_idle.value == 1) == (waiting == 0 and not asks)
            if asks and takes:
                assert waiting <= KERNELS_AHEAD
                waiting += REQUEST.unpack(int(ports.kernels__request__payload.value))["length"]
            waiting -= ports.kernels__data__valid.value == 1 and ports.kernels__data__ready.value == 1
            assert waiting >= 0


@bench_test
@cocotb.parametrize((("p_idle", "p_stall"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.5, 0.5), (0.1, 1.0)]),
                    latency=[0, 1, 30, None])
async def words_go_to_their_owner(dut, p_idle, p_stall, latency):
    """Random bursts of both; latency None: another one each time. All words, and none too many."""
    rng, _ = generators("arbiter", p_idle, p_stall, latency)
    memory = Memory(dut, rng, lambda: rng.choice((0, 1, 2, 9)) if latency is None else latency, p_idle)
    await memory.start(p_stall)
    wanted = {owner: bursts(rng, owner, 60) for owner in OWNERS}
    items: dict[str, list[int]] = {owner: [] for owner in OWNERS}
    for owner in OWNERS:
        cocotb.start_soon(get(memory.ports, f"{owner}__data", items[owner], rng, p_stall))
    asking = [cocotb.start_soon(put(memory.ports, f"{owner}__request", packed(wanted[owner]), rng, p_idle))
              for owner in OWNERS]
    for task in asking:
        await task
    expected = {owner: words(wanted[owner]) for owner in OWNERS}
    await memory.ports.until(lambda: all(len(items[owner]) >= len(expected[owner]) for owner in OWNERS), 100_000)
    await memory.ports.cycles(SURPLUS_CYCLES)
    assert items == expected
    requests = [REQUEST.unpack(request) for request in memory.requests]
    asked = {owner: [(burst["address"], burst["length"]) for burst in requests
                     if (burst["address"] >= REGION) == (owner == "kernels")] for owner in OWNERS}
    assert asked == wanted


@bench_test
async def many_columns_on_their_way(dut):
    """A memory that delivers nothing is asked for 32 bursts, and more."""
    rng, _ = generators("deep")
    memory = Memory(dut, rng, lambda: 100_000, 0.0)
    await memory.start(0.0)
    cocotb.start_soon(put(memory.ports, "columns__request", packed(bursts(rng, "columns", 100)), rng))
    await memory.ports.cycles(200)
    assert len(memory.requests) >= 32


async def shared(dut, latency):
    """Arbiter and ideal memory, every word its own address."""
    ports = Ports(dut, "shared_memory")
    await ports.begin(*(f"{owner}__{port}" for owner in OWNERS for port in ("request__valid", "data__ready")))
    ports.set(latency=latency, **{f"{owner}__data__ready": 1 for owner in OWNERS})
    for address in range(MEMORY_WORDS):
        ports.set(write_enable=1, write_address=address, write_data=content(address))
        await ports.cycles()
    ports.set(write_enable=0)
    return ports


@bench_test
@cocotb.parametrize((("owner", "length"), [("columns", 1), ("columns", 2), ("columns", 200), ("kernels", 2),
                                           ("kernels", 3), ("kernels", KERNEL_BURST)]))
async def a_word_a_cycle(dut, owner, length):
    """The first word two cycles after its request was taken (one without the arbiter), then one a cycle."""
    rng, _ = generators("rate", owner, length)
    ports = await shared(dut, 1)
    wanted = [(rng.randrange(MEMORY_WORDS - length), length) for _ in range(100)]
    cocotb.start_soon(put(ports, f"{owner}__request", packed(wanted), rng))
    request, answer = (getattr(ports, f"{owner}__{stream}__valid") for stream in ("request", "data"))
    payload, ready = getattr(ports, f"{owner}__data__payload"), getattr(ports, f"{owner}__request__ready")
    await ports.until(lambda: request.value == 1 and ready.value == 1)
    await ports.cycles()
    assert answer.value == 0
    for word in words(wanted):
        await ports.cycles()
        assert answer.value == 1 and int(payload.value) == word
    await ports.cycles()
    assert answer.value == 0


@bench_test
@cocotb.parametrize(latency=[1, 3, MAX_LATENCY], length=[1, 2, 5, KERNEL_BURST])
async def both_at_full_rate(dut, latency, length):
    """Columns with pauses, kernels between them: a word a cycle, but for kernels that are too short for the latency."""
    rng, _ = generators("both", latency, length)
    ports = await shared(dut, latency)
    wanted = {owner: [(rng.randrange(MEMORY_WORDS - KERNEL_BURST), size) for _ in range(200)]
              for owner, size in (("columns", length), ("kernels", KERNEL_BURST))}
    taken = {owner: [] for owner in OWNERS}
    for owner in OWNERS:
        cocotb.start_soon(get(ports, f"{owner}__data", taken[owner], rng))
    cocotb.start_soon(put(ports, "columns__request", packed(wanted["columns"]), rng, 0.5))
    cocotb.start_soon(put(ports, "kernels__request", packed(wanted["kernels"]), rng))
    total = sum(len(words(wanted[owner])) for owner in OWNERS)
    await ports.until(lambda: any(taken.values()))
    cycles = 1
    while sum(len(items) for items in taken.values()) < total:
        await ports.cycles()
        cycles += 1
    assert {owner: words(wanted[owner]) for owner in OWNERS} == taken
    assert total >= (0.95 if latency == MAX_LATENCY else 0.995) * cycles
