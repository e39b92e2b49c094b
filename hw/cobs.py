"""Consistent Overhead Byte Stuffing: frames of any bytes as bytes without a zero, and a zero that ends them."""

from amaranth.hdl import Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .ram import block_ram, read_port

BLOCK = 254
"""Most bytes behind one code byte."""


class Byte(data.Struct):
    """A byte of a frame."""

    data: unsigned(8)
    last: unsigned(1)


class Decoded(data.Struct):
    """A byte of a frame, or, with `end`, that the frame is over."""

    data: unsigned(8)
    end: unsigned(1)
    bad: unsigned(1)      # its last block was cut short
    empty: unsigned(1)    # there was nothing, not even a code byte, so there was no frame


class CobsDecoder(wiring.Component):
    """The inverse of COBS. Latency 0, 1 byte a cycle.

    Members
    -------
    i : In(stream of 8 bits)
        What was on the line, with the zero bytes.
    o : Out(stream of Decoded)
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(Decoded))})

    def elaborate(self, platform):
        m = Module()
        left = Signal(8)                # bytes of the block that are to come
        first = Signal(init=1)          # no byte of the frame has come
        full = Signal()                 # the block has BLOCK bytes, so no zero follows it
        end, code, silent = Signal(), Signal(), Signal()
        m.d.comb += [
            end.eq(self.i.payload == 0), code.eq(left == 0),
            # The zero behind a block is delivered with the next code byte.
            silent.eq(code & (first | full) & ~end),
            self.o.valid.eq(self.i.valid & ~silent), self.i.ready.eq(silent | self.o.ready),
            self.o.p.data.eq(Mux(code, 0, self.i.payload)), self.o.p.end.eq(end), self.o.p.bad.eq(~code),
            self.o.p.empty.eq(first),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [first.eq(end), left.eq(Mux(end, 0, Mux(code, self.i.payload, left) - Const(1)))]
            with m.If(code):
                m.d.sync += full.eq(self.i.payload == BLOCK + 1)
        return m


class CobsEncoder(wiring.Component):
    """COBS and the zero byte that ends a frame.

    Takes a block (up to a zero, BLOCK bytes or the last), one byte a cycle, then sends it, a byte in three cycles.

    Parameters
    ----------
    ram_style : str
        Where the block is: "block" costs a block RAM, "distributed" about 100 LUTs.

    Members
    -------
    i : In(stream of Byte)
    o : Out(stream of 8 bits)
    """

    def __init__(self, ram_style="block"):
        self.ram_style = ram_style
        super().__init__({"i": In(stream.Signature(Byte)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = block_ram(unsigned(8), 256, self.ram_style)
        write, read = ram.write_port(), read_port(m, ram)
        count, zero, last = Signal(8), Signal(), Signal()
        byte_zero, more, offers, byte = Signal(), Signal(), Signal(), Signal(8)
        # A byte waits in a register of its own: block RAM takes most of a cycle.
        with m.If(~self.o.valid):
            m.d.sync += [self.o.valid.eq(offers), self.o.payload.eq(byte)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.comb += [byte_zero.eq(self.i.p.data == 0), write.addr.eq(count), write.data.eq(self.i.p.data),
                     more.eq(read.addr != count), read.en.eq(0)]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += [self.i.ready.eq(1), write.en.eq(self.i.valid)]
                m.d.sync += [zero.eq(byte_zero), last.eq(self.i.p.last)]
                with m.If(self.i.valid):
                    m.d.sync += count.eq(count + ~byte_zero)
                    with m.If(byte_zero | self.i.p.last | (count == BLOCK - 1)):
                        m.next = "SEND_CODE"
            with m.State("SEND_CODE"):
                m.d.comb += [offers.eq(1), byte.eq(count + 1)]
                with m.If(~self.o.valid):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += read.en.eq(1)
                m.d.sync += read.addr.eq(read.addr + 1)
                with m.If(more):
                    m.next = "SEND"
                with m.Else():
                    m.d.sync += [read.addr.eq(0), count.eq(0), zero.eq(0)]
                    with m.If(~last):
                        m.next = "TAKE"
                    with m.Elif(zero):       # a zero at the end has an empty block behind it
                        m.next = "SEND_CODE"
                    with m.Else():
                        m.next = "END"
            with m.State("SEND"):
                m.d.comb += [offers.eq(1), byte.eq(read.data)]
                with m.If(~self.o.valid):
                    m.next = "READ"
            with m.State("END"):
                m.d.comb += offers.eq(1)
                with m.If(~self.o.valid):
                    m.next = "TAKE"
        return m
