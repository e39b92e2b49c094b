"""A small first-in first-out queue in distributed RAM."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """Holds up to `depth` payloads in LUT RAM.

    Unlike `amaranth.lib.fifo`, it tells when there are only `margin` places left, so that a pipeline in
    front of it needs no stall of its own. Latency 1 cycle, 1 payload a cycle.

    Parameters
    ----------
    shape : ShapeLike
        Payload. Costs about 1 LUT a bit for a depth of 16.
    depth : int
        Payloads, a power of two.
    margin : int
        Places that `room` keeps free.

    Members
    -------
    i, o : streams of `shape`
    room : Out(1)
        More than `margin` places are free.
    """

    def __init__(self, shape, depth, margin=0):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2, not {depth!r}")
        self.shape, self.depth, self.margin = shape, depth, margin
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "room": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=self.shape, depth=self.depth, init=[])
        write, read = ram.write_port(), ram.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        push, pop = Signal(), Signal()
        m.d.comb += [
            push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(level != self.depth), self.o.valid.eq(level != 0),
            self.room.eq(level < self.depth - self.margin),
            write.data.eq(self.i.payload), write.en.eq(push), self.o.payload.eq(read.data),
        ]
        m.d.sync += [write.addr.eq(write.addr + push), read.addr.eq(read.addr + pop), level.eq(level + push - pop)]
        return m
