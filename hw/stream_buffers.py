"""Input and output elements between the link and the engine, named by their positions in the sequence.

Positions count elements from the start of a sequence, modulo 2**32; an element's place in a buffer is its position
modulo the depth.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .numerics import ACTIVATION
from .ram import block_ram, read_port

POSITION_BITS = 32


def check_depth(depth):
    if depth < 16 or depth > 32768 or depth & (depth - 1):
        raise ValueError(f"depth must be a power of two from 16 to 32768, not {depth!r}")


class InputBuffer(wiring.Component):
    """Holds input elements until the engine takes them, in block RAM. Latency 2 cycles, 1 element a cycle.

    Parameters
    ----------
    depth : int
        Elements, a power of two.
    origin : int
        Position of a sequence's first element; other than 0 only for tests of what happens after 2**32 elements.

    Members
    -------
    data, write : In
        The next element; only while `free` is not 0.
    position : Out(32)
        Of the next element.
    free : Out(range(depth + 1))
        Elements that there is room for.
    clear : In(1)
        Empties the buffer and sets `position` to `origin`. It takes back an element that is offered.
    o : Out(stream of ACTIVATION)
    """

    def __init__(self, depth=2048, origin=0):
        check_depth(depth)
        self.depth, self.origin = depth, origin
        super().__init__({
            "data": In(ACTIVATION), "write": In(1), "position": Out(POSITION_BITS, init=origin),
            "free": Out(range(depth + 1), init=depth), "clear": In(1), "o": Out(stream.Signature(ACTIVATION)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = block_ram(ACTIVATION, self.depth)
        write, read = ram.write_port(), read_port(m, ram)
        count = range(2 * self.depth)
        reading = Signal(count, init=self.origin % len(count))
        there, leaves = Signal(), Signal()
        m.d.comb += [
            write.addr.eq(self.position), write.data.eq(self.data), write.en.eq(self.write), read.addr.eq(reading),
            there.eq(reading != self.position[:len(reading)]), read.en.eq(~self.o.valid | self.o.ready),
            leaves.eq(there & read.en), self.o.payload.eq(read.data),
        ]
        with m.If(read.en):
            m.d.sync += [self.o.valid.eq(there), reading.eq(reading + there)]
        m.d.sync += self.position.eq(self.position + self.write)
        with m.If(self.write ^ leaves):
            m.d.sync += self.free.eq(Mux(leaves, self.free + 1, self.free - 1))
        with m.If(self.clear):
            m.d.sync += [self.position.eq(self.origin), reading.eq(self.origin), self.free.eq(self.depth),
                         self.o.valid.eq(0)]
        return m


class OutputBuffer(wiring.Component):
    """Keeps the engine's output elements until they are released, in block RAM; takes 1 element a cycle.

    Parameters
    ----------
    depth, origin : int
        As for `InputBuffer`.

    Members
    -------
    i : In(stream of ACTIVATION)
        Waits while the buffer is full.
    position : Out(32)
        Of the first element that is kept, or that is to come.
    level : Out(range(depth + 1))
        Elements that are kept, a cycle late.
    release, release_to : In
        Forgets the elements before position `release_to`; it must be from `position` to `position` + `level`.
    address : In(range(depth)), data : Out(ACTIVATION)
        Reads the element at a position modulo `depth`; data comes two cycles after the address.
    clear : In(1)
        Empties the buffer and sets `position` to `origin`. While it lasts, elements are taken and forgotten.
    """

    def __init__(self, depth=2048, origin=0):
        check_depth(depth)
        self.depth, self.origin = depth, origin
        super().__init__({
            "i": In(stream.Signature(ACTIVATION)), "position": Out(POSITION_BITS, init=origin),
            "level": Out(range(depth + 1)), "release": In(1), "release_to": In(POSITION_BITS),
            "address": In(range(depth)), "data": Out(ACTIVATION), "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = block_ram(ACTIVATION, self.depth)
        write, read = ram.write_port(), read_port(m, ram)
        count = range(2 * self.depth)
        end = Signal(count, init=self.origin % len(count))
        kept = Signal(count)        # differs from `level` by an element that was taken just now
        m.d.comb += [
            kept.eq(end - self.position[:len(end)]), self.i.ready.eq(~kept[-1]),    # set only when it is `depth`
            write.addr.eq(end), write.data.eq(self.i.payload), write.en.eq(self.i.valid & self.i.ready),
            read.addr.eq(self.address),
        ]
        m.d.sync += [end.eq(end + write.en), self.level.eq(kept), self.data.eq(read.data)]
        with m.If(self.release):
            m.d.sync += self.position.eq(self.release_to)
        with m.If(self.clear):
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [end.eq(self.origin), self.level.eq(0), self.position.eq(self.origin)]
        return m
