"""Weights in SDRAM: the engine's weight port and a host's port on one controller."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import Parameters

from .memory import weight_port, write_layout
from .numerics import request_layout
from .queue import Queue, burst_owner
from .sdram import SdramController, burst_layout, pins_signature
from .sdram_chips import SdramChip, Timings

CHUNK = 16
"""Words of a host burst that are done at a time."""
HOST_LENGTH_BITS = 16
IN_FLIGHT = 16
"""Read bursts whose words have not all come."""
PATIENCE = 16
"""Cycles that words to be written wait for those behind them."""


class Gather(wiring.Component):
    """Puts `ratio` words of 16 bits together, the first one in the low bits.

    Latency 1 cycle, none with a ratio of 1; takes a word a cycle. Costs 16 · ratio flip-flops.

    Members
    -------
    i : In(stream of 16 bits)
    o : Out(stream of 16 · ratio bits)
    """

    def __init__(self, ratio: int):
        self.ratio = ratio
        super().__init__({"i": In(stream.Signature(16)), "o": Out(stream.Signature(16 * ratio))})

    def elaborate(self, platform):
        m = Module()
        if self.ratio == 1:
            connect(m, flipped(self.i), flipped(self.o))
            return m
        # The last word goes to the output with those before it: they need no place of their own.
        parts, count, last = Signal(16 * (self.ratio - 1)), Signal(range(self.ratio)), Signal()
        taken = self.i.valid & self.i.ready
        m.d.comb += self.i.ready.eq(~last | ~self.o.valid | self.o.ready)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(taken):
            m.d.sync += [parts.eq(Cat(parts[16:], self.i.payload) if self.ratio > 2 else self.i.payload),
                         count.eq(Mux(last, 0, count + 1)), last.eq(Mux(last, 0, count == self.ratio - 2))]
            with m.If(last):
                m.d.sync += [self.o.payload.eq(Cat(parts, self.i.payload)), self.o.valid.eq(1)]
        return m


class HostChunks(wiring.Component):
    """Cuts a host's bursts into chunks of up to `CHUNK` words that never wait for the host once they have begun.

    A chunk is written when all its words are here, and read when there are places for all its words. So a slow host,
    behind a serial line, does not keep the engine from its weights. Words come at the host's pace, at most about half
    the rate of the memory.

    Members
    -------
    request, write_data, read_data : the host's side, streams as at `SdramController`
    chunk : Out(stream of burst_layout)
    words : Out(stream of 16 bits)
        Those of chunks to be written, always there when they are wanted.
    answer : In(stream of 16 bits, always taken)
        Those of chunks that were read.
    idle : Out(1)
        All chunks of all bursts were taken.
    """

    def __init__(self, chip: SdramChip):
        self.chip = chip
        word = stream.Signature(16)
        super().__init__({
            "request": In(stream.Signature(burst_layout(chip, HOST_LENGTH_BITS))), "write_data": In(word),
            "read_data": Out(word), "chunk": Out(stream.Signature(burst_layout(chip, CHUNK.bit_length()))),
            "words": Out(word), "answer": In(word), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.written = written = Queue(16, 2 * CHUNK)
        m.submodules.read = read = Queue(16, CHUNK)
        connect(m, flipped(self.write_data), written.i)
        connect(m, written.o, flipped(self.words))
        connect(m, flipped(self.answer), read.i)
        connect(m, read.o, flipped(self.read_data))
        request, chunk = self.request, self.chunk
        address, left, write = Signal(self.chip.word_bits), Signal(HOST_LENGTH_BITS), Signal()
        count = Signal(range(CHUNK + 1))
        # Words that are here and belong to no chunk yet; words that were asked for and not yet taken by the host.
        ready, asked = Signal(range(2 * CHUNK + 1)), Signal(range(CHUNK + 1))
        arrives, sent = written.i.valid & written.i.ready, chunk.valid & chunk.ready
        leaves = self.read_data.valid & self.read_data.ready
        m.d.sync += [ready.eq(ready + arrives - Mux(sent & write, count, 0)),
                     asked.eq(asked - leaves + Mux(sent & ~write, count, 0))]
        m.d.comb += [chunk.p.address.eq(address), chunk.p.length.eq(count), chunk.p.write.eq(write)]
        with m.FSM():
            with m.State("WAIT_BURST"):
                m.d.comb += [request.ready.eq(1), self.idle.eq(~request.valid)]
                m.d.sync += [address.eq(request.p.address), left.eq(request.p.length), write.eq(request.p.write)]
                with m.If(request.valid):
                    m.next = "SIZE_CHUNK"
            with m.State("SIZE_CHUNK"):
                m.d.sync += count.eq(Mux(left > CHUNK, CHUNK, left))
                m.next = "WAIT_WORDS"
            with m.State("WAIT_WORDS"):
                with m.If(Mux(write, ready >= count, asked == 0)):
                    m.next = "OFFER_CHUNK"
            with m.State("OFFER_CHUNK"):
                m.d.comb += chunk.valid.eq(1)
                with m.If(chunk.ready):
                    m.d.sync += [address.eq(address + count), left.eq(left - count)]
                    m.next = "SIZE_CHUNK"
                    with m.If(left == count):
                        m.next = "WAIT_BURST"
        return m


class WordWrites(wiring.Component):
    """Words of K weights to bursts of the chip, `CHUNK` words at most, in which words follow each other.

    Takes a word in K/2 + 1 cycles. A burst is offered when all its words are here, and no further one will come, which
    is when it cannot be added, when something `waits`, or after `PATIENCE` cycles.

    Members
    -------
    write : In(stream of write_layout)
    hold : In(1), waits : In(1)
        No word is taken; and none is waited for.
    chunk : Out(stream of burst_layout), words : Out(stream of 16 bits)
        Words are always there when they are wanted.
    empty : Out(1)
        All bursts of all words were taken.
    """

    def __init__(self, params: Parameters, chip: SdramChip):
        self.params, self.chip, self.ratio = params, chip, params.pes // 2
        self.most = max(CHUNK, self.ratio)
        super().__init__({
            "write": In(stream.Signature(write_layout(params))), "hold": In(1), "waits": In(1),
            "chunk": Out(stream.Signature(burst_layout(chip, self.most.bit_length()))),
            "words": Out(stream.Signature(16)), "empty": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(16, 1 << (2 * self.most - 1).bit_length())
        connect(m, queue.o, flipped(self.words))
        write, burst = self.write, self.chunk
        following, parts = Signal.like(write.p.address), Signal(16 * self.ratio)
        left, waited, fits = Signal(range(self.ratio)), Signal(range(PATIENCE)), Signal()
        begun = burst.p.length != 0
        m.d.comb += [
            burst.p.write.eq(1), queue.i.payload.eq(parts[:16]),
            fits.eq(~begun | ((write.p.address == following) & (burst.p.length <= self.most - self.ratio))),
        ]
        with m.FSM():
            with m.State("WAIT_WORD"):
                m.d.comb += [write.ready.eq(fits & ~self.hold), self.empty.eq(~begun)]
                m.d.sync += [parts.eq(write.p.data), left.eq(self.ratio - 1), waited.eq(waited + 1)]
                with m.If(write.valid & write.ready):
                    m.d.sync += following.eq(write.p.address + 1)
                    with m.If(~begun):
                        m.d.sync += burst.p.address.eq(write.p.address * self.ratio)
                    m.next = "SEND_PARTS"
                with m.Elif(begun & (self.waits | write.valid | (waited == PATIENCE - 1))):
                    m.next = "OFFER_BURST"
            with m.State("SEND_PARTS"):
                m.d.comb += queue.i.valid.eq(1)
                with m.If(queue.i.ready):
                    m.d.sync += [parts.eq(parts >> 16), left.eq(left - 1), burst.p.length.eq(burst.p.length + 1),
                                 waited.eq(0)]
                    with m.If(left == 0):
                        m.next = "WAIT_WORD"
            with m.State("OFFER_BURST"):
                m.d.comb += burst.valid.eq(1)
                with m.If(burst.ready):
                    m.d.sync += burst.p.length.eq(0)
                    m.next = "WAIT_WORD"
        return m


class ChunkMerge(wiring.Component):
    """Chunks of the host and of the engine, in any order, with the words of those that are written.

    A chunk of the engine goes first. No latency, a word a cycle.

    Members
    -------
    host_chunk, engine_chunk : In(streams of burst_layout)
    host_words, engine_words : In(streams of 16 bits)
    chunk : Out(stream of burst_layout)
        One that waits may give way to another.
    words : Out(stream of 16 bits)
    """

    def __init__(self, chip: SdramChip, most: int):
        self.chip, self.bits = chip, most.bit_length()
        chunk, word = stream.Signature(burst_layout(chip, self.bits)), stream.Signature(16)
        super().__init__({
            "host_chunk": In(stream.Signature(burst_layout(chip, CHUNK.bit_length()))), "engine_chunk": In(chunk),
            "host_words": In(word), "engine_words": In(word), "chunk": Out(chunk), "words": Out(word)})

    def elaborate(self, platform):
        m = Module()
        owner_layout = data.StructLayout({"engine": 1, "words": self.bits})
        m.submodules.order = order = Queue(owner_layout, 4)
        host, engine, chunk = self.host_chunk, self.engine_chunk, self.chunk
        m.d.comb += [
            chunk.valid.eq((host.valid | engine.valid) & order.i.ready),
            *(chunk.p[name].eq(Mux(engine.valid, engine.p[name], host.p[name]))
              for name in ("address", "length", "write")),
            host.ready.eq(chunk.valid & chunk.ready & ~engine.valid), engine.ready.eq(chunk.valid & chunk.ready),
            order.i.valid.eq(chunk.valid & chunk.ready & chunk.p.write), order.i.p.engine.eq(engine.valid),
            order.i.p.words.eq(chunk.p.length),
        ]
        taken = Signal()
        owner, known = burst_owner(m, order, taken)
        word = Mux(owner.engine, self.engine_words.payload, self.host_words.payload)
        m.d.comb += [
            self.words.payload.eq(word),
            self.words.valid.eq(known & Mux(owner.engine, self.engine_words.valid, self.host_words.valid)),
            taken.eq(self.words.valid & self.words.ready),
            self.engine_words.ready.eq(taken & owner.engine), self.host_words.ready.eq(taken & ~owner.engine),
        ]
        return m


class SdramWeights(wiring.Component):
    """Weights in one SDRAM chip, for the engine to read and for a host to write and read.

    A word of K weights is K/2 words of the chip, the first two weights in the first one: weight word a begins at
    chip word a · K/2. The engine's bursts come first; the host's are done between them, `CHUNK` words at a time.
    Bursts are done in the order in which they were taken, and up to 16 may be in flight, so that the engine's
    next columns are opened while the present one streams. Latency about 20 cycles, K/2 cycles a weight word.

    With `writes`, the engine also writes words, a burst of up to `CHUNK` words of the chip between two bursts that it
    reads; what it asks for waits until the words taken before are written.

    A host's burst waits for the engine's words before it, which the engine must take.

    Parameters
    ----------
    params : Parameters
        `pes` must be even.
    chip : SdramChip
    clock_hz : float
    capture, timings_override : as for `SdramController`
    writes : bool
        Whether there is `write`.

    Members
    -------
    port : the weight port
    write : In(stream of write_layout)
        Words of the engine.
    host_request : In(stream of {address, length, write})
        In words of the chip, 16 bits for the length.
    host_write_data, host_read_data : streams of 16 bits
        The words of the host's bursts, in order.
    host_idle : Out(1)
        The host's bursts are on their way to the chip: what the engine asks for from now on is read after them. (Words
        that were read may still wait for the host.)
    initialised : Out(1)
    pins : the chip's, to be registered in the pads (see `SdramController`)
    """

    def __init__(self, params: Parameters, chip: SdramChip, clock_hz: float, *, capture: int | None = None,
                 timings_override: Timings | None = None, writes: bool = False):
        if params.pes % 2:
            raise ValueError(f"SDRAM words hold two weights, so the number of PEs must be even, not {params.pes}")
        self.params, self.chip = params, chip
        self.ratio = params.pes // 2
        self.length_bits = 12 + (self.ratio - 1).bit_length()
        self._options = {"capture": capture, "timings_override": timings_override, "length_bits": self.length_bits}
        self.clock_hz, self.writes = clock_hz, writes
        super().__init__({
            "port": In(weight_port(params)),
            **({"write": In(stream.Signature(write_layout(params)))} if writes else {}),
            "host_request": In(stream.Signature(burst_layout(chip, HOST_LENGTH_BITS))),
            "host_write_data": In(stream.Signature(16)), "host_read_data": Out(stream.Signature(16)),
            "host_idle": Out(1), "initialised": Out(1), "pins": Out(pins_signature(chip))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = SdramController(self.chip, self.clock_hz, **self._options)
        m.submodules.host = host = HostChunks(self.chip)
        connect(m, flipped(self.host_request), host.request)
        connect(m, flipped(self.host_write_data), host.write_data)
        connect(m, host.read_data, flipped(self.host_read_data))
        connect(m, controller.pins, flipped(self.pins))
        m.d.comb += [self.initialised.eq(controller.initialised), self.host_idle.eq(host.idle)]
        if self.writes:
            owners = self._requests_and_writes(m, controller, host)
        else:
            connect(m, host.words, controller.write_data)
            owners = self._requests(m, controller.request, self.port.request, host.chunk)
        self._answers(m, controller.read_data, host.answer, owners)
        return m

    def _requests_and_writes(self, m, controller, host):
        """Requests of the engine and of others; the engine's reads wait for its writes before them."""
        m.submodules.writes = writes = WordWrites(self.params, self.chip)
        connect(m, flipped(self.write), writes.write)
        m.submodules.merge = merge = ChunkMerge(self.chip, writes.most)
        for part, name in ((host, "host"), (writes, "engine")):
            connect(m, part.chunk, getattr(merge, f"{name}_chunk"))
            connect(m, part.words, getattr(merge, f"{name}_words"))
        connect(m, merge.words, controller.write_data)
        engine = self.port.request
        reads = stream.Signature(request_layout(self.params)).create()
        turn = Signal()         # a burst was read: if there is a word to be written, it goes first
        m.d.comb += [
            writes.hold.eq(engine.valid & ~turn), writes.waits.eq(engine.valid),
            reads.payload.eq(engine.payload), engine.ready.eq(reads.ready & reads.valid),
            reads.valid.eq(engine.valid & writes.empty & ~(turn & self.write.valid)),
        ]
        with m.If(engine.valid & engine.ready):
            m.d.sync += turn.eq(1)
        with m.Elif(writes.chunk.valid & writes.chunk.ready):
            m.d.sync += turn.eq(0)
        return self._requests(m, controller.request, reads, merge.chunk)

    def _requests(self, m, request, engine, chunk):
        """Requests of both, one after the other; returns the queue of who reads how many words."""
        owner_layout = data.StructLayout({"host": 1, "words": self.length_bits})
        m.submodules.owners = owners = Queue(owner_layout, IN_FLIGHT)
        free, take_engine, take_host = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq((~request.valid | request.ready) & owners.i.ready),
            engine.ready.eq(free), take_engine.eq(engine.valid & free),
            chunk.ready.eq(free & ~engine.valid), take_host.eq(chunk.valid & chunk.ready),
            owners.i.valid.eq(take_engine | (take_host & ~chunk.p.write)),
            owners.i.p.host.eq(~engine.valid),
            owners.i.p.words.eq(Mux(engine.valid, engine.p.length * self.ratio, chunk.p.length)),
        ]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(take_engine | take_host):
            m.d.sync += [
                request.valid.eq(1), request.p.length.eq(owners.i.p.words),
                request.p.write.eq(~engine.valid & chunk.p.write),
                request.p.address.eq(Mux(engine.valid, engine.p.address * self.ratio, chunk.p.address)),
            ]
        return owners

    def _answers(self, m, read, host_words, owners):
        """Words to whom they belong."""
        m.submodules.gather = gather = Gather(self.ratio)
        connect(m, gather.o, flipped(self.port.data))
        owner, valid = burst_owner(m, owners, read.valid & read.ready)
        m.d.comb += [
            gather.i.payload.eq(read.payload), gather.i.valid.eq(read.valid & valid & ~owner.host),
            host_words.payload.eq(read.payload), host_words.valid.eq(read.valid & valid & owner.host),
            read.ready.eq(valid & (owner.host | gather.i.ready)),
        ]
