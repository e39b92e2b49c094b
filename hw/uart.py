"""Asynchronous serial characters: 8 data bits, no parity, 1 stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

PHASE_BITS = 20
"""Of the phase within a bit: an error of the rate below 10**-5 at 33 cycles a bit."""
MIN_CYCLES = 4
"""Clock cycles in a bit, at least."""


def phase_step(clock_hz, baud):
    """What the phase, PHASE_BITS bits a bit time, gains in a cycle."""
    if baud < 1 or clock_hz < MIN_CYCLES * baud:
        raise ValueError(f"a bit must have at least {MIN_CYCLES} cycles, not {clock_hz!r} / {baud!r}")
    return round((baud << PHASE_BITS) / clock_hz)


class UartReceiver(wiring.Component):
    """Characters from a line.

    Each bit is sampled once, in its middle. A start bit that is gone by its middle is ignored. A character without
    a stop bit is reported and not delivered, and the line must be high before the next one starts, so that a
    break is one bad character, however long it is.

    Tolerates a difference of the rates of 3 % at 33 cycles a bit. Latency 2 cycles after the middle of the stop bit.

    Parameters
    ----------
    clock_hz, baud : int
        Their ratio, 4 or more, need not be whole.

    Members
    -------
    rx : In(1)
        The line, idle high; synchronised here.
    o : Out(stream of 8 bits, always ready)
    error : Out(1)
        A character had no stop bit (for one cycle).
    """

    def __init__(self, clock_hz, baud):
        self.step = phase_step(clock_hz, baud)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8, always_ready=True)), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        rx, busy, low = Signal(init=1), Signal(), Signal()
        m.submodules.synchroniser = FFSynchronizer(self.rx, rx, init=1)
        phase, middle, left = Signal(PHASE_BITS), Signal(), Signal(range(10))
        m.d.sync += [Cat(phase, middle).eq(phase + Const(self.step)), self.o.valid.eq(0), self.error.eq(0)]
        with m.If(~busy):
            # Half a bit ahead, so that the phase is zero in the middle of each bit.
            m.d.sync += [Cat(phase, middle).eq(1 << (PHASE_BITS - 1)), left.eq(9), busy.eq(~rx & ~low),
                         low.eq(low & ~rx)]
        with m.Elif(middle):
            m.d.sync += left.eq(left - 1)
            with m.If(left == 9):
                m.d.sync += busy.eq(~rx)
            with m.Elif(left == 0):
                m.d.sync += [busy.eq(0), low.eq(~rx), self.o.valid.eq(rx), self.error.eq(~rx)]
            with m.Else():
                m.d.sync += self.o.payload.eq(Cat(self.o.payload[1:], rx))
        return m


class UartTransmitter(wiring.Component):
    """Characters to a line.

    Parameters
    ----------
    clock_hz, baud : int
        Their ratio, 4 or more, need not be whole.

    Members
    -------
    i : In(stream of 8 bits)
    tx : Out(1)
        The line, idle high, from a flip-flop.
    """

    def __init__(self, clock_hz, baud):
        self.step = phase_step(clock_hz, baud)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        phase, end, busy, left, bits = Signal(PHASE_BITS), Signal(), Signal(), Signal(range(10)), Signal(9)
        m.d.comb += self.i.ready.eq(~busy)
        m.d.sync += Cat(phase, end).eq(phase + Const(self.step))
        with m.If(~busy):
            m.d.sync += [Cat(phase, end).eq(self.step), left.eq(9), busy.eq(self.i.valid), self.tx.eq(~self.i.valid),
                         bits.eq(Cat(self.i.payload, 1))]
        with m.Elif(end):
            m.d.sync += [self.tx.eq(bits[0]), bits.eq(Cat(bits[1:], 1)), left.eq(left - 1), busy.eq(left != 0)]
        return m
