"""The link's own registers: counts of frames, and what they tell of the board."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.protocol import LinkRegister

COUNTS = LinkRegister.REFUSED + 1
"""Registers 0 to COUNTS - 1 count events."""
READ_CYCLES = 12
"""From a register's address to its data, or less."""
_TURN = 8


class LinkRegisters(wiring.Component):
    """Counts events, and reads the registers of `LinkRegister`.

    The counts are in LUT RAM; one adder serves them in turn, each once in 8 cycles. So an event must not come
    twice in 8 cycles, and data is there READ_CYCLES cycles after its address.

    Members
    -------
    events : In(7)
        Bit i, for one cycle: one more of LinkRegister i.
    memory_initialised, session : In
        Of FLAGS and SESSION.
    address : In(4), data : Out(32)
        Reads a register.
    cycles : Out(32)
        CYCLES, for whoever needs the time.
    """

    def __init__(self):
        super().__init__({
            "events": In(COUNTS), "memory_initialised": In(1), "session": In(16),
            "address": In(4), "data": Out(32), "cycles": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=unsigned(32), depth=_TURN, init=[])
        write, read = ram.write_port(), ram.read_port(domain="comb")
        turn, cleared, waiting = Signal(range(_TURN)), Signal(), Signal(_TURN)
        here = Cat(turn == number for number in range(_TURN))
        m.d.sync += [turn.eq(turn + 1), cleared.eq(cleared | (turn == _TURN - 1)), self.cycles.eq(self.cycles + 1),
                     waiting.eq((waiting & ~Mux(cleared, here, 0)) | self.events)]
        m.d.comb += [
            read.addr.eq(turn), write.addr.eq(turn), write.en.eq(~cleared | (waiting & here).any()),
            write.data.eq(Mux(cleared, read.data + 1, 0)),
        ]
        with m.Switch(self.address):
            with m.Case(LinkRegister.FLAGS):
                m.d.sync += self.data.eq(self.memory_initialised)
            with m.Case(LinkRegister.SESSION):
                m.d.sync += self.data.eq(self.session)
            with m.Case(LinkRegister.CYCLES):
                m.d.sync += self.data.eq(self.cycles)
            with m.Default():
                with m.If(turn == self.address[:3]):
                    m.d.sync += self.data.eq(read.data)
        return m
