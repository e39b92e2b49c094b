"""What all cocotb benches share: clock and reset, payloads, drivers and monitors of streams.

The drivers keep the rules of a stream and the monitors check them: valid, once offered, stays; a payload that
is not offered is junk; a payload that waits does not change. Monitors never stop by themselves, so
that surplus items are seen, too.
"""

import random

import cocotb
import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

PERIOD = 10
PATTERNS = ((0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.5, 0.5), (0.1, 1.0))
"""Shares of cycles in which drivers idle and monitors stall. A monitor with a stall of 1.0 waits for valid
before it is ready, for one cycle: a component that waits for ready before it is valid would never go on."""
SURPLUS_CYCLES = 64
"""To wait after the last expected item."""


bench_test = cocotb.test(timeout_time=2_000_000 * PERIOD, timeout_unit="step")
"""Decorator: a cocotb test, which fails if it takes more than two million cycles."""


def patterns(test):
    """Decorator: a cocotb test that runs with each of `PATTERNS`."""
    return bench_test(cocotb.parametrize((("p_idle", "p_stall"), PATTERNS))(test))


def generators(*key):
    """Random generators, Python's for streams and NumPy's for data, from the run's seed and `key`."""
    text = f"{cocotb.RANDOM_SEED} {key}"
    return random.Random(text), np.random.default_rng(list(text.encode()))


class Ports:
    """The ports of one component of the simulated top, by their own names, and the clock."""

    def __init__(self, dut, name=""):
        self._dut, self._prefix = dut, f"{name}__" if name else ""
        self.clk = dut.clk

    def __getattr__(self, port):
        handle = getattr(self._dut, self._prefix + port)
        setattr(self, port, handle)
        return handle

    def set(self, **values):
        """Give inputs new values."""
        for name, value in values.items():
            getattr(self, name).value = int(value)

    async def begin(self, *zero):
        """Start the clock and reset; the inputs named `zero` are zero from then on."""
        self.set(**dict.fromkeys(zero, 0))
        Clock(self.clk, PERIOD, "step", impl="gpi").start()
        self._dut.rst.value = 1
        await self.cycles(3)
        self._dut.rst.value = 0
        await self.cycles(1)

    async def cycles(self, count=1):
        for _ in range(count):
            await RisingEdge(self.clk)

    async def wait(self, count):
        """`cycles` for long waits, in which Python sleeps."""
        await Timer(count * PERIOD, "step")
        await RisingEdge(self.clk)

    async def until(self, condition, limit=20_000):
        """Wait for the cycle in which `condition()` holds; its value."""
        for _ in range(limit):
            await RisingEdge(self.clk)
            if value := condition():
                return value
        raise AssertionError(f"not within {limit} cycles")


class Codec:
    """Payloads of a layout: dictionaries of integers to bits and back."""

    def __init__(self, layout):
        layout = data.Layout.cast(layout)
        self.fields = [(name, field.offset, Shape.cast(field.shape)) for name, field in layout]

    def pack(self, **values):
        bits = 0
        for name, offset, shape in self.fields:
            value = int(values.pop(name, 0))
            masked = value & ((1 << shape.width) - 1)
            assert signed(masked, shape.width) == value if shape.signed else masked == value, (name, value)
            bits |= masked << offset
        assert not values, f"no such fields: {values}"
        return bits

    def unpack(self, bits):
        values = {}
        for name, offset, shape in self.fields:
            value = (bits >> offset) & ((1 << shape.width) - 1)
            values[name] = signed(value, shape.width) if shape.signed else value
        return values


def signed(bits, width):
    """Two's complement."""
    return bits - (1 << width) if width and bits >> (width - 1) else bits


def lanes(bits, count, width):
    """`count` signed numbers, the first in the low bits."""
    mask = (1 << width) - 1
    return [signed((bits >> (width * lane)) & mask, width) for lane in range(count)]


def word(values, width):
    """Inverse of `lanes`."""
    mask = (1 << width) - 1
    return sum((int(value) & mask) << (width * lane) for lane, value in enumerate(values))


def handles(ports, name):
    return (getattr(ports, f"{name}__{part}") for part in ("valid", "ready", "payload"))


async def put(ports, name, payloads, rng, p_idle=0.0):
    """Offer all payloads (integers), with idle cycles at random."""
    valid_port, ready_port, payload_port = handles(ports, name)
    width = len(payload_port)
    for payload in payloads:
        valid = accepted = False
        while not accepted:
            valid = valid or rng.random() >= p_idle               # once offered, keep offering
            valid_port.value = int(valid)
            payload_port.value = payload if valid else rng.getrandbits(width)
            await RisingEdge(ports.clk)
            accepted = valid and ready_port.value == 1
    valid_port.value = 0
    payload_port.value = rng.getrandbits(width)


async def get(ports, name, items, rng, p_stall=0.0):
    """Append what comes out to `items`, for ever; checks that nothing changes while it waits."""
    valid_port, ready_port, payload_port = handles(ports, name)
    held, valid, ready = None, False, False
    while True:
        ready = (valid and not ready) if p_stall == 1.0 else rng.random() >= p_stall
        ready_port.value = int(ready)
        await RisingEdge(ports.clk)
        valid = valid_port.value == 1
        if held is not None:
            assert valid, f"{name}: valid fell while stalled"
            assert int(payload_port.value) == held, f"{name}: payload moved while stalled"
        held = int(payload_port.value) if valid and not ready else None
        if valid and ready:
            items.append(int(payload_port.value))
