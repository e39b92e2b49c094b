"""Pooling against plain NumPy."""

import cocotb
from conv_back_benches import PARAMETERS, run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put, word

from amacrine.hw.conv_numerics import chunk_layout, finished_layout, result_layout
from amacrine.hw.pool import POOL_JOB
from amacrine.sw.conv_layout import Pool
from amacrine.sw.fixed import requantise

JOB = Codec(POOL_JOB)
CHUNKS = {macs: Codec(chunk_layout(params)) for macs, params in PARAMETERS.items()}
FINISHED = {macs: Codec(finished_layout(params)) for macs, params in PARAMETERS.items()}
RESULTS = {macs: Codec(result_layout(params)) for macs, params in PARAMETERS.items()}


def test_pool(tmp_path):
    run_bench(__name__, tmp_path)


def chunk_bits(macs, values):
    """Packed chunks of one position."""
    lanes = macs // 4
    parts = [values[i:i + lanes] for i in range(0, len(values), lanes)]
    return [CHUNKS[macs].pack(values=word(part, 16), used=(1 << len(part)) - 1, last=k == len(parts) - 1)
            for k, part in enumerate(parts)]


class Pass:
    """A random map (height, width, channels), its job, what goes in and what should come out."""

    def __init__(self, macs, rng, np_rng, mode=None):
        params, lanes = PARAMETERS[macs], macs // 4
        self.mode = rng.choice(list(Pool)) if mode is None else mode
        height = 1 if self.mode == Pool.ROW else rng.randint(1, 7)
        width, chunks = rng.randint(1, 9), rng.randint(1, 4)
        if rng.random() < 0.1 and self.mode == Pool.GLOBAL:
            chunks = params.pool_depth
        if rng.random() < 0.1 and self.mode in (Pool.ROW, Pool.SQUARE):
            width, chunks = 9, params.pool_depth // 4       # all of the memory, and half a window beyond it
        self.chunks, self.alone = chunks * height * width, chunks == 1
        assert self.mode == Pool.GLOBAL or chunks * (width // 2) <= params.pool_depth
        channels = chunks * lanes - rng.randint(0, lanes - 1)
        limit = rng.choice((100, 1 << 15))
        values = np_rng.integers(-limit, limit, (height, width, channels))
        if rng.random() < 0.2:
            values[:] = rng.choice((-limit, limit - 1))
        average, shift = rng.random() < 0.5, rng.choice((0, 1, 2, rng.randint(0, 20), 20))
        self.job = JOB.pack(mode=self.mode, average=average, shift=shift)
        self.inputs = [
            FINISHED[macs].pack(chunk=bits, x_odd=x % 2, y_odd=y % 2, row_last=x == width - 1, first=x == y == 0,
                               final=x == width - 1 and y == height - 1)
            for y in range(height) for x in range(width) for bits in chunk_bits(macs, values[y, x])]
        pooled = self.pool(values, average, shift)
        self.chunks_out = [bits for row in pooled for position in row for bits in chunk_bits(macs, position)]

    def pool(self, values, average, shift):
        if self.mode == Pool.NONE:
            return values
        height, width, channels = values.shape
        rows, columns = {Pool.ROW: (1, 2), Pool.SQUARE: (2, 2), Pool.GLOBAL: (height, width)}[self.mode]
        full = values[:height // rows * rows, :width // columns * columns]
        windows = full.reshape(height // rows, rows, width // columns, columns, channels)
        return requantise(windows.sum((1, 3)), shift, 16) if average else windows.max((1, 3))


async def run(ports, macs, passes, rng, p_idle, p_stall):
    ports.set(finished__valid=0, job__valid=0)
    items = []
    cocotb.start_soon(get(ports, "result", items, rng, p_stall))
    cocotb.start_soon(put(ports, "job", [p.job for p in passes], rng, p_idle))
    await put(ports, "finished", [bits for p in passes for bits in p.inputs], rng, p_idle)
    await ports.cycles(SURPLUS_CYCLES)
    items = [(item["end"], None if item["end"] else item["chunk"]) for item in map(RESULTS[macs].unpack, items)]
    assert items == [item for p in passes for item in [*((0, bits) for bits in p.chunks_out), (1, None)]]


@patterns
async def against_numpy(dut, p_idle, p_stall):
    for macs in PARAMETERS:
        rng, np_rng = generators("pool", macs, p_idle, p_stall)
        ports = Ports(dut, f"pool{macs}")
        if macs == min(PARAMETERS):
            await ports.begin("finished__valid", "job__valid", "result__ready")
        await run(ports, macs, [Pass(macs, rng, np_rng) for _ in range(60)], rng, p_idle, p_stall)


@bench_test
@cocotb.parametrize(("mode", list(Pool)))
async def cycles_a_chunk(dut, mode):
    """One a cycle without pooling, three with it, or five if a position has only one chunk."""
    rng, np_rng = generators("rate", mode)
    ports = Ports(dut, "pool16")
    await ports.begin("finished__valid", "job__valid", "result__ready")
    one = Pass(16, rng, np_rng, mode)
    items = []
    cocotb.start_soon(get(ports, "result", items, rng))
    await put(ports, "job", [one.job], rng)
    count = 0

    async def count_cycles():
        nonlocal count
        while True:
            await ports.cycles()
            count += 1

    cocotb.start_soon(count_cycles())
    await put(ports, "finished", one.inputs, rng)
    assert count <= one.chunks * (1 if mode == Pool.NONE else 3 + 2 * one.alone) + 2
