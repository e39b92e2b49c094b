"""A small first-in first-out queue in distributed RAM."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .ram import block_ram, read_port


def burst_owner(m, owners, taken):
    """Whom the words that come or go now belong to, of bursts that are done in order.

    Parameters
    ----------
    owners : Queue
        Of the bursts; its payload has `words`, their number, and may have `single`, whether there is only one.
    taken : 1
        A word of the burst goes by in this cycle.

    Returns
    -------
    owner : the payload of the burst at work
    known : 1, there is one
    """
    owner, known, last = Signal(owners.shape), Signal(), Signal()
    coming = owners.o.p
    m.d.comb += owners.o.ready.eq(~known | (taken & last))
    with m.If(taken):
        m.d.sync += [owner.words.eq(owner.words - 1), last.eq(owner.words == 2)]
    with m.If(owners.o.ready):
        m.d.sync += [known.eq(owners.o.valid), owner.eq(coming),
                     last.eq(coming.single if "single" in owners.shape.members else coming.words == 1)]
    return owner, known


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
        push, pop, valid = Signal(), Signal(), Signal()
        m.d.comb += [
            push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(level != self.depth), self.o.valid.eq(valid),
            write.data.eq(self.i.payload), write.en.eq(push), self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            valid.eq(push | (level > 1) | ((level == 1) & ~pop)),
            self.room.eq(level < self.depth - self.margin - 1),     # a cycle late, so one more is kept free
        ]
        # `pop` comes late in a cycle: it only enables registers.
        with m.If(push):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(pop):
            m.d.sync += read.addr.eq(read.addr + 1)
        with m.If(push ^ pop):
            m.d.sync += level.eq(Mux(push, level + 1, level - 1))
        return m


class OutputQueue(wiring.Component):
    """Holds up to `depth` payloads in block RAM, for a writer that keeps count and never writes too many.

    Latency 2 cycles, 1 payload a cycle.

    Members
    -------
    i : In(stream of `shape`, always ready)
    o : Out(stream of `shape`)
    """

    def __init__(self, shape, depth):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2, not {depth!r}")
        self.shape, self.depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape, always_ready=True)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = block_ram(self.shape, self.depth)
        write, read = ram.write_port(), read_port(m, ram)
        there, valid = Signal(), Signal()
        m.d.comb += [
            write.data.eq(self.i.payload), write.en.eq(self.i.valid), there.eq(read.addr != write.addr),
            read.en.eq(~valid | self.o.ready), self.o.valid.eq(valid), self.o.payload.eq(read.data),
        ]
        m.d.sync += write.addr.eq(write.addr + self.i.valid)
        with m.If(read.en):
            m.d.sync += [valid.eq(there), read.addr.eq(read.addr + there)]
        return m
