"""The encoder against the golden model's event trace."""

import itertools

import cocotb
import numpy as np
from benches import PARAMETERS, run_bench
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, put, word

from amacrine.hw.encoder import job_layout
from amacrine.hw.numerics import Event, MapEvent, OpKind
from amacrine.sw.compile import BIAS_DIGITS
from amacrine.sw.golden import Golden
from amacrine.sw.layout import ColumnMode
from amacrine.sw.qlayers import QDense, Source
from amacrine.sw.quantised import QuantisedNetwork

BY_LANES = {parameters.lanes: parameters for parameters in PARAMETERS.values()}
EVENT, MAP_EVENT = Codec(Event), Codec(MapEvent)
MAP_LANES = [lanes for lanes, parameters in BY_LANES.items() if parameters.conv]
END = {"kind": OpKind.END.value, "index": 0, "value": 0}
THETAS = (0, 1, 2, 700, 32768, 40000, 65535)


def test_encoder(tmp_path):
    run_bench(__name__, tmp_path)


class Reader:
    """A vector that is encoded step by step, and its golden encoder."""

    def __init__(self, lanes, length, theta, mode, source, reference, rectify=False):
        self.length, self.mode = length, mode
        self.words = -(-length // lanes)
        self.source, self.reference = source, reference     # words
        self.job = {"mode": mode, "source_word": source, "length": self.words, "reference_word": reference,
                    "threshold": theta, "rectify": rectify}
        encoder = "delta" if mode == ColumnMode.DELTA else "threshold"
        weights = Source(np.ones((1, length), np.int8), 0, 8, encoder, theta, rectify)
        layer = QDense("layer", weights, np.zeros(1, np.int32), "identity", 8)
        self.golden = Golden(QuantisedNetwork("reader", (layer,), 8))

    def events(self, x):
        """The events that a step with vector `x` must have, the RESTART of a threshold job and END included."""
        index, value = self.golden.run(x[None], trace=True).trace["layer.input"][0]
        columns = [{"kind": OpKind.COLUMN.value, "index": int(i), "value": int(d)}
                   for i, d in zip(index, value, strict=True)]
        restart = [{"kind": OpKind.RESTART.value, "index": 0, "value": 0}]
        return (restart if self.mode == ColumnMode.THRESHOLD else []) + columns + [END]


class Bench:
    """An encoder, its vector memory, and all events so far."""

    def __init__(self, dut, lanes, rng):
        self.ports, self.lanes, self.rng = Ports(dut, f"encoder{lanes}"), lanes, rng
        self.codec = Codec(job_layout(BY_LANES[lanes]))
        self.memory = [0] * (BY_LANES[lanes].vector_depth // lanes)
        self.events, self.expected = [], []

    async def start(self, p_stall):
        await self.ports.begin("start", "reset", "clear", "event__ready", "available", "all_available",
                               *(["map_event__valid"] if self.lanes in MAP_LANES else []))
        cocotb.start_soon(self.serve_memory())
        cocotb.start_soon(get(self.ports, "event", self.events, self.rng, p_stall))
        await self.clear()

    async def clear(self):
        """Zero x_ref, after a reset."""
        self.ports.set(reset=1)
        await self.ports.cycles()
        self.ports.set(reset=0)
        for address in range(BY_LANES[self.lanes].reference_depth // self.lanes):
            self.ports.set(clear=1, clear_word=address)
            await self.ports.cycles()
        self.ports.set(clear=0)

    async def serve_memory(self):
        ports = self.ports
        while True:
            await ports.cycles()
            if ports.vector_enable.value == 1:
                ports.vector_data.value = self.memory[int(ports.vector_word.value) % len(self.memory)]

    def store(self, reader, x, count):
        """Write the first `count` elements to memory; the others are junk, and zero behind the vector's end."""
        elements = [int(v) if i < count else self.rng.getrandbits(16) for i, v in enumerate(x)]
        elements += [0] * (reader.words * self.lanes - len(elements))
        for w in range(reader.words):
            self.memory[reader.source + w] = word(elements[w * self.lanes:(w + 1) * self.lanes], 16)

    async def run(self, reader, x, p_late):
        """One job: elements become available a few at a time, later with `p_late`, and END must be reported."""
        ports, rng = self.ports, self.rng
        expected = reader.events(x)
        first = len(self.expected)
        self.expected += expected
        available = 0 if p_late else reader.length
        self.store(reader, x, available)
        ports.set(start=1, job=self.codec.pack(**reader.job), available=available % reader.length,
                  all_available=available == reader.length)
        await ports.cycles()
        assert ports.busy.value == 0
        while True:
            ports.set(start=0, job=rng.getrandbits(len(ports.job)))
            await ports.cycles()
            assert ports.busy.value == 1
            if ports.blocked.value == 1:
                seen = available // self.lanes * self.lanes
                sent = [e for e in expected[:-1] if e["kind"] == OpKind.RESTART.value or e["index"] < seen]
                assert available < reader.length and len(self.events) - first == len(sent), "blocked too early"
            if ports.finishes.value == 1:
                break
            if available < reader.length and rng.random() >= p_late:
                available = min(reader.length, available + rng.choice((1, 1, 2, 5, 40)))
                self.store(reader, x, available)
                ports.set(available=available % reader.length, all_available=available == reader.length)
        assert available == reader.length

    def check(self):
        np.testing.assert_array_equal(
            [tuple(EVENT.unpack(e).values()) for e in self.events],
            [(e["kind"], e["index"], e["value"]) for e in self.expected])
        assert self.ports.busy.value == 0


def vectors(np_rng, steps, n, theta):
    """Vectors (steps, n): random walks, many of them just at the threshold, and both ends of the range."""
    stride = max(2 * theta, 20)
    x = np.cumsum(np_rng.integers(-stride, stride + 1, (steps, n)), axis=0)
    x[np_rng.random((steps, n)) < 0.5] = 0
    for t in range(1, steps):
        near = np_rng.random(n) < 0.5
        x[t, near] = x[t - 1, near] + np_rng.choice([-theta - 1, -theta, 1 - theta, 0, theta - 1, theta, theta + 1],
                                                    near.sum())
    x[np_rng.random((steps, n)) < 0.15] = 32767
    x[np_rng.random((steps, n)) < 0.15] = -32768
    return np.clip(x, -32768, 32767).astype(np.int16)


def readers(lanes, seed):
    """Vectors of many lengths, each with its own part of both memories; delta and threshold, rectified and not."""
    source = reference = 0
    for number, length in enumerate((13, 1, 37, lanes + 1, 2 * lanes, lanes, max(1, lanes - 1))):
        mode = ColumnMode.THRESHOLD if number % 3 == seed else ColumnMode.DELTA
        reader = Reader(lanes, length, THETAS[(number + 3 * seed) % len(THETAS)], mode, source, reference,
                        number % 2 == seed)
        yield reader
        source += reader.words
        reference += reader.words if mode == ColumnMode.DELTA else 0


@bench_test
@cocotb.parametrize(("lanes", list(BY_LANES)), (("p_late", "p_stall"), PATTERNS), ("seed", range(2)))
async def events_equal_golden(dut, lanes, p_late, p_stall, seed):
    """Several vectors in turn, each with its own state, over several steps, without a pause between the jobs."""
    rng, np_rng = generators("encoder", lanes, p_late, p_stall, seed)
    bench = Bench(dut, lanes, rng)
    await bench.start(p_stall)
    group = list(readers(lanes, seed))
    steps = 6
    inputs = {reader: vectors(np_rng, steps, reader.length, reader.job["threshold"]) for reader in group}
    for t in range(steps):
        for reader in rng.sample(group, len(group)):
            await bench.run(reader, inputs[reader][t], p_late)
    await bench.ports.cycles(SURPLUS_CYCLES)
    bench.check()
    assert len(bench.expected) > 2 * steps * len(group)


@bench_test
@cocotb.parametrize(lanes=list(BY_LANES), theta=THETAS)
async def corners_of_the_difference(dut, lanes, theta):
    """From one end of the range to the other, and one step on either side of the threshold."""
    rng, _ = generators("corners", lanes, theta)
    bench = Bench(dut, lanes, rng)
    await bench.start(0.0)
    near = [d for d in (theta - 1, theta, theta + 1) if d <= 32767]
    values = [-32768, 32767, -32768, 0, 1, 0, -1, 0, *near, 0, *(-d for d in near), 0, 32767, -1, -32768]
    for mode, rectify in itertools.product((ColumnMode.DELTA, ColumnMode.THRESHOLD), (False, True)):
        reader = Reader(lanes, 5, theta, mode, 0, 0, rectify)
        for t, value in enumerate(values):
            x = np.roll(np.array([value, 0, -value if value > -32768 else 32767, value, values[t - 1]]), t)
            await bench.run(reader, x.astype(np.int16), 0.0)
        await bench.clear()
    await bench.ports.cycles(SURPLUS_CYCLES)
    bench.check()


@bench_test
@cocotb.parametrize(lanes=list(BY_LANES))
async def bias_jobs_send_the_digits(dut, lanes):
    rng, _ = generators("bias", lanes)
    bench = Bench(dut, lanes, rng)
    await bench.start(0.3)
    for length in (1, 2, 3, 7):
        bench.ports.set(start=1, job=bench.codec.pack(mode=ColumnMode.BIAS, length=length))
        await bench.ports.cycles()
        bench.ports.set(start=0)
        await bench.ports.until(lambda: bench.ports.finishes.value == 1)
        values = [*BIAS_DIGITS, *[BIAS_DIGITS[-1]] * length][:length]
        kinds = [OpKind.LOAD] + [OpKind.COLUMN] * (length - 1)
        bench.expected += [{"kind": kind.value, "index": i, "value": value}
                           for i, (kind, value) in enumerate(zip(kinds, values, strict=True))] + [END]
    await bench.ports.cycles(SURPLUS_CYCLES)
    bench.check()


@bench_test
@cocotb.parametrize(lanes=list(BY_LANES))
async def reset_gives_up_a_job_that_waits(dut, lanes):
    """A job that waits for its vector is dropped; after a clear, the next one starts from zero."""
    rng, np_rng = generators("reset", lanes)
    bench = Bench(dut, lanes, rng)
    await bench.start(0.0)
    length = 2 * lanes + 1
    for _ in range(3):
        reader = Reader(lanes, length, 0, ColumnMode.DELTA, 0, 0)
        x = np_rng.integers(1, 1000, length).astype(np.int16)
        await bench.run(reader, x, 0.0)
        bench.store(reader, -x, lanes)
        bench.ports.set(start=1, job=bench.codec.pack(**reader.job), available=lanes, all_available=0)
        await bench.ports.cycles()
        bench.ports.set(start=0)
        bench.expected += [e for e in reader.events(-x) if e["kind"] == OpKind.COLUMN.value and e["index"] < lanes]
        await bench.ports.until(lambda: bench.ports.blocked.value == 1)
        await bench.clear()
        assert bench.ports.busy.value == 0
    await bench.ports.cycles(SURPLUS_CYCLES)
    bench.check()


def map_job(np_rng, length, density=0.5):
    """The events of a map, to send and to expect."""
    index = np.flatnonzero(np_rng.random(length) < density)
    value = np_rng.choice([-32768, -1, 1, 32767, 5], len(index))
    sent = [MAP_EVENT.pack(index=i, value=v) for i, v in zip(index, value, strict=True)]
    end = MAP_EVENT.pack(index=np_rng.integers(4096), value=np_rng.integers(-9, 9), end=1)
    columns = [{"kind": OpKind.COLUMN.value, "index": int(i), "value": int(v)}
               for i, v in zip(index, value, strict=True)]
    return [*sent, end], [{"kind": OpKind.RESTART.value, "index": 0, "value": 0}, *columns, END]


@bench_test
@cocotb.parametrize(("lanes", MAP_LANES), (("p_idle", "p_stall"), PATTERNS))
async def map_events_pass_through(dut, lanes, p_idle, p_stall):
    """MAP jobs among others, which leave the events of a map alone; blocked whenever none is there."""
    rng, np_rng = generators("map", lanes, p_idle, p_stall)
    bench = Bench(dut, lanes, rng)
    ports = bench.ports
    await bench.start(p_stall)
    maps = [map_job(np_rng, length, density) for length in (1, 5, 40) for density in (0.0, 0.3, 1.0)]
    readers_between = list(readers(lanes, 0))
    sender = cocotb.start_soon(put(ports, "map_event", [event for sent, _ in maps for event in sent], rng, p_idle))
    for number, (_, expected) in enumerate(maps):
        bench.expected += expected
        first = len(bench.events)
        ports.set(start=1, job=bench.codec.pack(mode=ColumnMode.MAP, length=1), all_available=rng.random() < 0.5)
        await ports.cycles()
        ports.set(start=0)
        while True:
            await ports.cycles()
            assert ports.busy.value == 1
            if ports.finishes.value == 1:
                break
            restarted = len(bench.events) > first
            assert ports.blocked.value == 0 or (restarted and ports.map_event__valid.value == 0)
        reader = readers_between[number % len(readers_between)]
        await bench.run(reader, vectors(np_rng, 1, reader.length, 5)[0], p_idle)
    await sender
    await ports.cycles(SURPLUS_CYCLES)
    bench.check()


@bench_test
@cocotb.parametrize(lanes=MAP_LANES)
async def reset_gives_up_a_map_job_that_waits(dut, lanes):
    rng, np_rng = generators("map reset", lanes)
    bench = Bench(dut, lanes, rng)
    ports = bench.ports
    await bench.start(0.0)
    for before in (0, 3):
        for given_up in (True, False):
            sent, expected = map_job(np_rng, 9, 1.0)
            ports.set(start=1, job=bench.codec.pack(mode=ColumnMode.MAP, length=1))
            await ports.cycles()
            ports.set(start=0)
            await put(ports, "map_event", sent[:before] if given_up else sent, rng)
            bench.expected += expected[:1 + before] if given_up else expected
            await ports.until(lambda: ports.blocked.value == 1 or ports.busy.value == 0)
            assert ports.busy.value == given_up
            await bench.clear()
    await ports.cycles(SURPLUS_CYCLES)
    bench.check()
