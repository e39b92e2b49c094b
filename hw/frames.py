"""Frames of the serial link (docs/protocol.md): COBS( body | CRC-32 ) 00."""

from amaranth.hdl import Module, ResetInserter, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.protocol import CRC_BYTES, MAX_FRAME, MIN_FRAME, LinkRegister

from .cobs import Byte, CobsDecoder, CobsEncoder, Decoded
from .queue import Queue
from .ram import block_ram, read_port

LENGTH = unsigned(11)
"""Of a body in bytes."""
FRAME_EVENTS = 6
"""Number of what `FrameReceiver` counts."""



def add_crc32(m, start, data_width=8):
    """A CRC-32 in the module; `start` begins anew, and takes no data in the same cycle."""
    processor = catalog.CRC32_ISO_HDLC(data_width=data_width).create()
    m.submodules += ResetInserter(start)(processor)     # its own `start` would be a multiplexer before each bit
    return processor


class BodyByte(data.Struct):
    """A byte of a request's body."""

    data: unsigned(8)
    last: unsigned(1)
    length: LENGTH      # of the whole body, the same for all its bytes


class FrameReceiver(wiring.Component):
    """Characters to the bodies of good frames; all others are dropped.

    ::

        characters --> COBS --> CRC-32 --> ring of `depth` bytes --> bodies
                                  `------> queue of `frames` lengths ---^

    A frame goes into the ring as it comes, and stays there if it turns out to be good: then its body (and not its
    CRC) takes room until it is read. So nothing is delivered of a frame that was cut short, and the length of a
    body is known with its first byte.

    Parameters
    ----------
    depth, frames : int
        Bytes and frames in the buffer, powers of two.

    Members
    -------
    i : In(stream of 8 bits, always ready)
        Characters, at least two cycles apart.
    bad_character : In(1)
        There was a character, but it is not known which; not in the cycle of one that is known.
    o : Out(stream of BodyByte)
        A byte in two cycles.
    events : Out(6)
        What happened, for one cycle: bit i is what LinkRegister i counts.
    """

    def __init__(self, depth=4096, frames=16):
        if depth < MAX_FRAME or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two that holds a frame of {MAX_FRAME} bytes, not {depth!r}")
        self.depth, self.frames = depth, frames
        super().__init__({
            "i": In(stream.Signature(8, always_ready=True)), "bad_character": In(1),
            "o": Out(stream.Signature(BodyByte)), "events": Out(FRAME_EVENTS),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = block_ram(unsigned(8), self.depth)
        m.submodules.lengths = lengths = Queue(LENGTH, self.frames)
        writing, reading = Signal(range(2 * self.depth)), Signal(range(2 * self.depth))
        token, valid, damaged = self._decoded(m)
        self._write(m, ram.write_port(), lengths.i, token, valid, damaged, writing, reading)
        self._read(m, read_port(m, ram), lengths.o, reading)
        return m

    def _decoded(self, m):
        """What the COBS decoder says, a cycle later; and whether a bad character was in the present frame."""
        m.submodules.decoder = decoder = CobsDecoder()
        token, valid, damaged, ends = Signal(Decoded), Signal(), Signal(), Signal()
        m.d.comb += [decoder.i.valid.eq(self.i.valid), decoder.i.payload.eq(self.i.payload), decoder.o.ready.eq(1),
                     ends.eq(valid & token.end)]
        m.d.sync += [valid.eq(decoder.o.valid), token.eq(decoder.o.p),
                     damaged.eq((damaged & ~ends) | self.bad_character)]
        return token, valid, damaged

    def _write(self, m, write, lengths, token, valid, damaged, writing, reading):
        """Bytes into the ring; at the end of a frame, what becomes of them."""
        start = Signal()
        crc = add_crc32(m, start)
        begin, length = Signal.like(writing), Signal(range(MAX_FRAME + 2))
        full, overrun = Signal(), Signal()
        m.d.comb += [
            full.eq((writing ^ reading) == self.depth), crc.data.eq(token.data), lengths.payload.eq(length - CRC_BYTES),
            write.addr.eq(writing), write.data.eq(token.data),
        ]
        m.d.sync += self.events.eq(0)
        with m.If(self.bad_character):
            m.d.sync += self.events[LinkRegister.BAD_CHARACTER].eq(1)

        def happens(register):
            m.d.sync += self.events[register].eq(1)

        with m.If(valid & ~token.end):
            m.d.comb += [crc.valid.eq(1), write.en.eq(~full)]
            with m.If(length != MAX_FRAME + 1):
                m.d.sync += length.eq(length + 1)
            with m.If(full | overrun):
                m.d.sync += overrun.eq(1)
            with m.Else():
                m.d.sync += writing.eq(writing + 1)
        with m.If(valid & token.end):
            m.d.comb += start.eq(1)
            m.d.sync += [length.eq(0), overrun.eq(0), writing.eq(begin)]
            with m.If(token.empty | damaged):
                pass
            with m.Elif(length == MAX_FRAME + 1):
                happens(LinkRegister.TOO_LONG)
            with m.Elif(overrun | ~lengths.ready):
                happens(LinkRegister.OVERRUN)
            with m.Elif(token.bad | (length < MIN_FRAME)):
                happens(LinkRegister.BAD_FORM)
            with m.Elif(~crc.match_detected):
                happens(LinkRegister.BAD_CHECKSUM)
            with m.Else():
                happens(LinkRegister.RECEIVED)
                m.d.comb += lengths.valid.eq(1)
                m.d.sync += [writing.eq(writing - CRC_BYTES), begin.eq(writing - CRC_BYTES)]

    def _read(self, m, read, lengths, reading):
        """Bodies out of the ring, as their lengths come out of the queue."""
        left, length, o = Signal(LENGTH), Signal(LENGTH), self.o
        valid, byte = Signal(), Signal(BodyByte)    # from the ring; `o` comes after, for the ring takes most of a cycle
        m.d.comb += [read.addr.eq(reading), read.en.eq(~valid | ~o.valid)]
        with m.If(left == 0):
            m.d.comb += lengths.ready.eq(1)
            with m.If(lengths.valid):
                m.d.sync += [left.eq(lengths.payload), length.eq(lengths.payload)]
        with m.If(read.en):
            m.d.sync += [valid.eq(left != 0), byte.last.eq(left == 1), byte.length.eq(length)]
            with m.If(left != 0):
                m.d.sync += [left.eq(left - 1), reading.eq(reading + 1)]
        with m.If(~o.valid):
            m.d.sync += [o.valid.eq(valid), o.payload.eq(byte), o.p.data.eq(read.data)]
        with m.Elif(o.ready):
            m.d.sync += o.valid.eq(0)


class FrameTransmitter(wiring.Component):
    """Bodies to frames: appends the CRC-32, stuffs, ends with a zero byte.

    Parameters
    ----------
    ram_style : as for `CobsEncoder`

    Members
    -------
    i : In(stream of Byte)
        Bodies of at least one byte.
    o : Out(stream of 8 bits)
        Characters.
    """

    def __init__(self, ram_style="block"):
        self.ram_style = ram_style
        super().__init__({"i": In(stream.Signature(Byte)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        start = Signal()
        crc = add_crc32(m, start)
        m.submodules.encoder = encoder = CobsEncoder(self.ram_style)
        connect(m, encoder.o, flipped(self.o))
        index = Signal(range(CRC_BYTES))
        m.d.comb += crc.data.eq(self.i.p.data)
        with m.FSM():
            with m.State("BODY"):
                m.d.comb += [encoder.i.valid.eq(self.i.valid), self.i.ready.eq(encoder.i.ready),
                             encoder.i.p.data.eq(self.i.p.data), crc.valid.eq(self.i.valid & self.i.ready)]
                with m.If(crc.valid & self.i.p.last):
                    m.next = "CRC"
            with m.State("CRC"):
                m.d.comb += [encoder.i.valid.eq(1), encoder.i.p.data.eq(crc.crc.word_select(index, 8)),
                             encoder.i.p.last.eq(index == CRC_BYTES - 1)]
                with m.If(encoder.i.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == CRC_BYTES - 1):
                        m.d.comb += start.eq(1)
                        m.next = "BODY"
        return m
