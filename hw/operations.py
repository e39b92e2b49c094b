"""Executes the requests of docs/protocol.md, one at a time: checks all of a request, does it, answers."""

from types import SimpleNamespace
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import Register
from amacrine.sw.protocol import (
    EXCHANGE_ANSWER,
    EXCHANGE_HEADER,
    HEADER,
    HOLD_CYCLES,
    LINK_REGISTERS,
    MAX_DATA,
    MEMORY_RANGE,
    VERSION,
    LinkRegister,
    Operation,
    Status,
)

from .cobs import Byte
from .engine import REGISTER_BITS
from .frames import LENGTH, BodyByte, crc32
from .link_registers import READ_CYCLES
from .numerics import ACTIVATION
from .ram import read_port

BURST = 512
"""Longest burst of the memory port."""
BUS_CYCLES = 5
"""From a register's address on the bus to its data, or more."""
MAX_WANTED = (MAX_DATA - EXCHANGE_ANSWER.size) // 2
ADDRESSES = 1 << 33
"""More than any."""


def memory_request_layout(address_bits):
    """A burst of the memory port: `length` words of 16 bits from word `address` on."""
    return data.StructLayout({"address": address_bits, "length": range(BURST + 1), "write": 1})


def memory_port(address_bits):
    """Memory, seen from the link: words of 16 bits, in the order of the requests.

    Members
    -------
    request : Out(stream of {address, length, write})
        Bursts of 1 to BURST words. A later burst sees what an earlier one wrote.
    write_data : Out(stream of 16 bits)
        The words of bursts that write. They come a few cycles apart, never before their burst's request.
    read_data : In(stream of 16 bits)
        The words of bursts that read. `ready` is 1 from the request to the last word.
    initialised : In(1)
        The memory can be used.
    """
    return wiring.Signature({
        "request": Out(stream.Signature(memory_request_layout(address_bits))),
        "write_data": Out(stream.Signature(16)), "read_data": In(stream.Signature(16)), "initialised": In(1),
    })


def register_bus():
    """The engine's registers, seen from the link; data is read three cycles after the address."""
    return wiring.Signature({"address": Out(REGISTER_BITS), "w_data": Out(32), "write": Out(1), "r_data": In(32)})


class Rule(NamedTuple):
    """What a request must look like."""

    counts: range       # allowed
    length: int         # of the body but for what follows
    item: int           # bytes for each one counted
    limit: int          # end of the addresses


def rules(memory_words):
    """The `Rule` of each operation."""
    plain, none = HEADER.size, range(1)
    registers, words = range(1, MAX_DATA // 4 + 1), range(1, MAX_DATA // 2 + 1)
    ranged, exchange = plain + MEMORY_RANGE.size, plain + EXCHANGE_HEADER.size
    return {
        Operation.IDENTIFY: Rule(none, plain, 0, 0),
        Operation.READ_REGISTERS: Rule(registers, plain, 0, LINK_REGISTERS + len(LinkRegister)),
        Operation.WRITE_REGISTERS: Rule(registers, plain, 4, LINK_REGISTERS),
        Operation.READ_MEMORY: Rule(words, plain, 0, memory_words),
        Operation.WRITE_MEMORY: Rule(words, plain, 2, memory_words),
        Operation.CHECKSUM_MEMORY: Rule(none, ranged, 0, memory_words),
        Operation.FILL_MEMORY: Rule(none, ranged, 0, memory_words),
        Operation.START: Rule(none, plain, 0, 0xFFFF),
        Operation.EXCHANGE: Rule(range(MAX_DATA // 2 + 1), exchange, 2, ADDRESSES - 1),
        Operation.ABORT: Rule(none, plain, 0, 0),
    }


class Header(data.Struct):
    """`amacrine.sw.protocol.HEADER`."""

    tag: unsigned(8)
    code: unsigned(8)
    count: unsigned(16)
    address: unsigned(32)


class ExchangeHeader(data.Struct):
    """`EXCHANGE_HEADER`; the data of the operations on a memory range are its last 8 bytes."""

    position: unsigned(32)
    session: unsigned(16)
    wanted: unsigned(16)
    hold: unsigned(16)
    zero: unsigned(16)


class Words(data.Struct):
    """Up to four bytes of an answer, the first in the low bits."""

    data: unsigned(32)
    more: unsigned(2)   # bytes, less one
    last: unsigned(1)   # the answer ends with them


class WordsToBytes(wiring.Component):
    """Takes words apart; one word in `more` + 2 cycles.

    Members
    -------
    i : In(stream of Words)
    o : Out(stream of Byte)
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Words)), "o": Out(stream.Signature(Byte))})

    def elaborate(self, platform):
        m = Module()
        words = Signal(Words)
        m.d.comb += [
            self.i.ready.eq(~self.o.valid), self.o.p.data.eq(words.data[:8]),
            self.o.p.last.eq(words.last & (words.more == 0)),
        ]
        with m.If(~self.o.valid):
            m.d.sync += [words.eq(self.i.p), self.o.valid.eq(self.i.valid)]
        with m.Elif(self.o.ready):
            m.d.sync += [words.data.eq(words.data >> 8), words.more.eq(words.more - 1),
                         self.o.valid.eq(words.more != 0)]
        return m


class Executor(wiring.Component):
    """Executes requests.

    A request is checked as a whole (its body is there, and its length known), in the order of the status codes,
    before any of it is done. Its bytes are all taken before the answer ends.

    Parameters
    ----------
    info : bytes
        What IDENTIFY answers, 1 to MAX_DATA bytes.
    memory_words, memory_address_bits : int
    input_depth, output_depth : int
        Elements of the stream buffers.
    stop_cycles : int
        How long START and ABORT wait for the engine.

    Members
    -------
    request : In(stream of BodyByte)
    answer : Out(stream of Words)
    bus : Out(register_bus())
    memory : Out(memory_port(memory_address_bits))
    inputs, outputs : the sides of `InputBuffer` and `OutputBuffer` that are no streams
    clear : Out(1)
        Of both buffers.
    register_data : In(32)
        Of the link's own register at `bus.address`, READ_CYCLES cycles later.
    session : Out(16)
    refused, done : Out(1)
        A request was answered with an error, or without (for one cycle).
    idle : Out(1)
        No request is there.
    """

    def __init__(self, info, memory_words, memory_address_bits=24, input_depth=2048, output_depth=2048,
                 stop_cycles=1 << 24):
        if not 1 <= len(info) <= MAX_DATA:
            raise ValueError(f"info must have 1 to {MAX_DATA} bytes, not {len(info)}")
        if not 1 <= memory_words <= 1 << memory_address_bits:
            raise ValueError(f"memory_words must be 1 to 2**{memory_address_bits}, not {memory_words!r}")
        if not 1 <= stop_cycles <= 1 << 24:
            raise ValueError(f"stop_cycles must be 1 to 2**24, not {stop_cycles!r}")
        self.info, self.memory_words, self.stop_cycles = bytes(info), memory_words, stop_cycles
        self.address_bits = memory_address_bits
        super().__init__({
            "request": In(stream.Signature(BodyByte)), "answer": Out(stream.Signature(Words)),
            "bus": Out(register_bus()), "memory": Out(memory_port(memory_address_bits)),
            "input_data": Out(ACTIVATION), "input_write": Out(1), "input_position": In(32),
            "input_free": In(range(input_depth + 1)),
            "output_position": In(32), "output_level": In(range(output_depth + 1)), "output_release": Out(1),
            "output_count": Out(range(output_depth + 1)), "output_address": Out(range(output_depth)),
            "output_data": In(ACTIVATION), "clear": Out(1), "register_data": In(32), "session": Out(16),
            "refused": Out(1), "done": Out(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        r = self._registers(m)
        self._ports(m, r)
        self._rule(m, r)
        with m.FSM() as fsm:
            self._parse(m, r)
            self._check(m, r)
            self._check_exchange(m, r)
            self._begin(m, r)
            self._stop(m, r)
            self._take(m, r)
            self._burst(m, r)
            self._hold(m, r)
            self._answer(m, r)
            self._answer_data(m, r)
            self._refuse(m, r)
        m.d.comb += self.idle.eq(fsm.ongoing("HEADER") & (r.index == 0))
        m.d.sync += self.clear.eq(fsm.ongoing("AWAIT_STOP"))
        return m

    def _registers(self, m):
        m.submodules.crc = crc = crc32(data_width=16).create()
        m.submodules.info = info = memory.Memory(shape=unsigned(8), depth=len(self.info), init=self.info,
                                                 attrs={"rom_style": "block"})
        r = SimpleNamespace(
            crc=crc, info=read_port(m, info), header=Signal(Header), arguments=Signal(ExchangeHeader),
            length=Signal(LENGTH), ended=Signal(),      # of the request's body
            index=Signal(4),                            # byte of the header, the arguments, an item
            status=Signal(3),                           # `Status`
            at=Signal(max(self.address_bits, REGISTER_BITS + 1)),   # address of what is being read or written
            left=Signal(max(self.address_bits, 10) + 1),         # items that are to come
            word=Signal(32), word_there=Signal(),       # item that came, in the high bits
            wait=Signal(range(READ_CYCLES + 1)), timer=Signal(24),
            expected=Signal(LENGTH), miscounted=Signal(), end=Signal(33), beyond=Signal(),
            skip=Signal(32),                            # outputs that are to be released
            takes=Signal(),                             # the inputs are the next ones
            enough=Signal(),                            # outputs wanted are there, a cycle late
        )
        code, arguments = r.header.code, r.arguments.as_value()
        r.words, r.seed = arguments[32:64], arguments[64:80]
        r.known, r.ranged, r.exchange = Signal(), Signal(), Signal()
        r.in_memory, r.stops = Signal(), Signal()
        m.d.comb += [
            r.known.eq((code >= Operation.IDENTIFY) & (code <= Operation.ABORT)),
            r.ranged.eq((code == Operation.CHECKSUM_MEMORY) | (code == Operation.FILL_MEMORY)),
            r.exchange.eq(code == Operation.EXCHANGE),
            r.stops.eq((code == Operation.START) | (code == Operation.ABORT)),
            r.in_memory.eq((code >= Operation.READ_MEMORY) & (code <= Operation.FILL_MEMORY)),
        ]
        return r

    def _ports(self, m, r):
        """What does not depend on the state."""
        m.d.comb += [
            self.bus.address.eq(r.at), self.bus.w_data.eq(r.word),
            self.memory.request.p.address.eq(r.at),
            self.memory.request.p.write.eq((r.header.code == Operation.WRITE_MEMORY)
                                           | (r.header.code == Operation.FILL_MEMORY)),
            # The first burst takes what is not a multiple of BURST.
            self.memory.request.p.length.eq(Mux(r.header.code == Operation.READ_MEMORY, 1,
                                                Cat(r.left[:9], r.left[:9] == 0))),
            self.memory.write_data.payload.eq(r.word[16:]), self.memory.write_data.valid.eq(r.word_there & r.in_memory),
            self.input_data.eq(r.word[16:]), self.output_address.eq(r.at), self.output_count.eq(r.skip),
            r.info.addr.eq(r.at), r.crc.data.eq(self.memory.read_data.payload),
        ]
        m.d.sync += [self.bus.write.eq(0), self.refused.eq(0), self.done.eq(0), self.output_release.eq(0),
                     r.enough.eq(self.output_level >= r.arguments.wanted)]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [r.ended.eq(self.request.p.last), r.length.eq(self.request.p.length)]

    def _rule(self, m, r):
        """The `Rule` of the request's operation."""
        r.rule = SimpleNamespace(least=Signal(), most=Signal(10), length=Signal(LENGTH), limit=Signal(33))
        with m.Switch(r.header.code):
            for operation, rule in rules(self.memory_words).items():
                with m.Case(operation):
                    m.d.comb += [r.rule.least.eq(rule.counts[0]), r.rule.most.eq(rule.counts[-1]),
                                 r.rule.length.eq(rule.length + r.header.count * rule.item),
                                 r.rule.limit.eq(rule.limit)]

    def _refuses(self, m, r, status):
        m.d.sync += r.status.eq(status)
        m.next = "REFUSE"

    def _parse(self, m, r):
        """HEADER, ARGUMENTS: the request's fixed part."""
        request = self.request

        def shift(register):
            register = register.as_value()
            m.d.sync += register.eq(Cat(register[8:], request.p.data))

        with m.State("HEADER"):
            m.d.comb += request.ready.eq(1)
            with m.If(request.valid):
                shift(r.header)
                m.d.sync += r.index.eq(r.index + 1)
                with m.If(r.index == HEADER.size - 1):
                    m.next = "DECODE"
        with m.State("ARGUMENTS"):
            m.d.comb += request.ready.eq(1)
            with m.If(request.valid):
                shift(r.arguments)
                m.d.sync += r.index.eq(r.index + 1)
                with m.If(r.index == Mux(r.ranged, MEMORY_RANGE.size, EXCHANGE_HEADER.size) - 1):
                    m.next = "ADD_RANGE"

    def _check(self, m, r):
        """Operation, length, addresses; each sum or comparison in a cycle of its own."""
        header = r.header
        with m.State("DECODE"):
            m.d.sync += [r.expected.eq(r.rule.length), r.index.eq(0), r.wait.eq(0),
                         r.miscounted.eq((header.count < r.rule.least) | (header.count > r.rule.most))]
            m.next = "CHECK_LENGTH"
        with m.State("CHECK_LENGTH"):
            with m.If(~r.known):
                self._refuses(m, r, Status.UNKNOWN_OPERATION)
            with m.Elif(r.miscounted | (r.length != r.expected)):
                self._refuses(m, r, Status.BAD_LENGTH)
            with m.Elif(r.ranged | r.exchange):
                m.next = "ARGUMENTS"
            with m.Else():
                m.next = "ADD_RANGE"
        amount = Mux(r.ranged, r.words, Mux(r.stops, 0, header.count))
        with m.State("ADD_RANGE"):
            m.d.sync += [r.end.eq(header.address + amount), r.left.eq(amount), r.at.eq(Register.CONTROL), r.index.eq(0)]
            m.next = "CHECK_RANGE"
        with m.State("CHECK_RANGE"):
            no_session = (header.code == Operation.START) & (r.end[:16] == 0)
            m.d.sync += r.beyond.eq((r.end > r.rule.limit) | no_session)
            m.next = "CHECK_ADDRESS"
        with m.State("CHECK_ADDRESS"):
            with m.If(r.beyond):
                self._refuses(m, r, Status.BAD_ADDRESS)
            with m.Elif(r.in_memory):
                m.next = "CHECK_BUSY"
            with m.Elif(r.exchange):
                m.next = "CHECK_SESSION"
            with m.Else():
                m.next = "BEGIN"
        with m.State("CHECK_BUSY"):
            m.d.sync += r.wait.eq(r.wait + 1)
            with m.If(r.wait == BUS_CYCLES):
                with m.If((self.bus.r_data[:3] == 0b100) & self.memory.initialised):
                    m.next = "BEGIN"
                with m.Else():
                    self._refuses(m, r, Status.BUSY)

    def _check_exchange(self, m, r):
        """Session, positions, room."""
        arguments, header = r.arguments, r.header
        skip, unreachable, no_room, foreign = r.skip, Signal(), Signal(), Signal()
        with m.State("CHECK_SESSION"):
            m.d.sync += [
                skip.eq(arguments.position - self.output_position), r.takes.eq(header.address == self.input_position),
                no_room.eq(header.count > self.input_free),
                foreign.eq((arguments.session != self.session) | (self.session == 0)),
            ]
            m.next = "CHECK_POSITION"
        with m.State("CHECK_POSITION"):
            m.d.sync += unreachable.eq(skip > self.output_level)
            with m.If(arguments.wanted > MAX_WANTED):
                self._refuses(m, r, Status.BAD_LENGTH)
            with m.Elif(foreign):
                self._refuses(m, r, Status.WRONG_SESSION)
            with m.Else():
                m.next = "CHECK_ROOM"
        with m.State("CHECK_ROOM"):
            with m.If(unreachable):
                self._refuses(m, r, Status.WRONG_POSITION)
            with m.Elif(r.takes & no_room):
                self._refuses(m, r, Status.NO_ROOM)
            with m.Else():
                m.d.sync += self.output_release.eq(1)
                m.next = "BEGIN"

    def _begin(self, m, r):
        """All is checked."""
        with m.State("BEGIN"):
            m.d.comb += r.crc.start.eq(1)
            m.d.sync += [r.at.eq(r.header.address), r.timer.eq(r.arguments.hold * HOLD_CYCLES), r.wait.eq(0)]
            with m.Switch(r.header.code):
                with m.Case(Operation.IDENTIFY):
                    m.d.sync += [r.header.count.eq(len(self.info)), r.header.address.eq(VERSION)]
                    m.next = "ANSWER"
                with m.Case(Operation.READ_REGISTERS, Operation.READ_MEMORY):
                    m.next = "ANSWER"
                with m.Case(Operation.WRITE_REGISTERS):
                    m.next = "TAKE"
                with m.Case(Operation.EXCHANGE):
                    with m.If(r.header.count == 0):
                        m.next = "HOLD"
                    with m.Else():
                        m.next = "TAKE"
                with m.Case(Operation.START, Operation.ABORT):
                    m.d.sync += [r.at.eq(Register.CONTROL), r.word.eq(1), self.bus.write.eq(1), self.session.eq(0),
                                 r.timer.eq(self.stop_cycles - 1)]
                    m.next = "AWAIT_STOP"
                with m.Default():
                    m.next = "BURST"

    def _stop(self, m, r):
        """START, ABORT: until the engine is clear."""
        with m.State("AWAIT_STOP"):
            m.d.sync += r.timer.eq(r.timer - 1)
            with m.If(r.wait != BUS_CYCLES):
                m.d.sync += r.wait.eq(r.wait + 1)
            with m.Elif(~self.bus.r_data[0]):
                m.d.sync += self.session.eq(r.header.address)
                m.next = "ANSWER"
            with m.Elif(r.timer == 0):
                self._refuses(m, r, Status.BUSY)

    def _take(self, m, r):
        """TAKE: items from the request to registers, memory or input buffer."""
        accepted = Signal()
        registers = r.header.code == Operation.WRITE_REGISTERS
        with m.State("TAKE"):
            m.d.comb += [
                self.request.ready.eq(~r.word_there), self.input_write.eq(r.word_there & r.exchange & r.takes),
                accepted.eq(r.word_there & (~r.in_memory | self.memory.write_data.ready)),
            ]
            with m.If(self.request.valid & self.request.ready):
                m.d.sync += [r.word.eq(Cat(r.word[8:], self.request.p.data)), r.index.eq(r.index + 1)]
                with m.If(r.index == Mux(registers, 3, 1)):
                    m.d.sync += [r.word_there.eq(1), self.bus.write.eq(registers), r.index.eq(0)]
            with m.If(accepted):
                m.d.sync += [r.word_there.eq(0), r.at.eq(r.at + 1), r.left.eq(r.left - 1)]
                with m.If(r.left[:10] == 1):
                    m.next = "ANSWER"
                    with m.If(r.exchange):
                        m.next = "HOLD"

    def _burst(self, m, r):
        """WRITE_, CHECKSUM_, FILL_MEMORY, burst by burst."""
        request, read_data, write_data = self.memory.request, self.memory.read_data, self.memory.write_data
        last = r.left[:9] == 1
        with m.State("BURST"):
            m.d.comb += request.valid.eq(r.left != 0)
            with m.If(r.left == 0):
                m.next = "ANSWER"
            with m.Elif(request.ready):
                with m.Switch(r.header.code):
                    with m.Case(Operation.WRITE_MEMORY):
                        m.next = "TAKE"
                    with m.Case(Operation.FILL_MEMORY):
                        m.next = "FILL"
                    with m.Default():
                        m.next = "SUM"
        with m.State("SUM"):
            m.d.comb += [read_data.ready.eq(1), r.crc.valid.eq(read_data.valid)]
            with m.If(read_data.valid):
                m.d.sync += [r.at.eq(r.at + 1), r.left.eq(r.left - 1)]
                with m.If(last):
                    m.next = "BURST"
        with m.State("FILL"):
            with m.If(~r.word_there | write_data.ready):
                m.d.sync += [r.word[16:].eq(r.at[:16] ^ r.at[16:] ^ r.seed), r.word_there.eq(1),
                             r.at.eq(r.at + 1), r.left.eq(r.left - 1)]
                with m.If(last):
                    m.next = "FILLED"
        with m.State("FILLED"):
            with m.If(write_data.ready):
                m.d.sync += r.word_there.eq(0)
                m.next = "BURST"

    def _hold(self, m, r):
        """HOLD: until the outputs wanted are there, or the time is up."""
        # What was just released no longer counts three cycles later.
        released, enough = Signal(2), r.enough
        with m.State("HOLD"):
            with m.If(~released.all()):
                m.d.sync += released.eq(released + 1)
            with m.Else():
                m.d.sync += r.timer.eq(r.timer - 1)
                with m.If(enough | (r.timer == 0)):
                    m.d.sync += [r.header.count.eq(Mux(enough, r.arguments.wanted, self.output_level)),
                                 r.header.address.eq(r.arguments.position), released.eq(0)]
                    m.next = "ANSWER"

    def _answer(self, m, r):
        """ANSWER, ANSWER_ADDRESS: the answer's header."""
        answer, code = self.answer, r.header.code
        with m.State("ANSWER"):
            m.d.comb += [answer.valid.eq(1), answer.p.more.eq(3),
                         answer.p.data.eq(Cat(r.header.tag, r.status, Const(0, 8 - len(r.status)), r.header.count))]
            with m.If(answer.ready):
                m.d.sync += self.done.eq(r.status == Status.OK)
                m.next = "ANSWER_ADDRESS"
        with m.State("ANSWER_ADDRESS"):
            m.d.comb += [answer.valid.eq(1), answer.p.more.eq(3), answer.p.data.eq(r.header.address)]
            with m.If(answer.ready):
                m.d.sync += [r.at.eq(r.header.address), r.left.eq(r.header.count), r.status.eq(Status.OK), r.wait.eq(0),
                             r.index.eq(0)]
            with m.If(r.status != Status.OK):
                m.d.comb += answer.p.last.eq(1)
                with m.If(answer.ready):
                    m.next = "HEADER"
            with m.Else():
                with m.Switch(code):
                    for operation in Operation:
                        with m.Case(operation):
                            self._answer_header_ends(m, r, operation)

    def _answer_header_ends(self, m, r, operation):
        """What follows the header of an answer that is no error."""
        after = {
            Operation.IDENTIFY: "FETCH", Operation.READ_REGISTERS: "FETCH", Operation.READ_MEMORY: "REQUEST_WORD",
            Operation.CHECKSUM_MEMORY: "ANSWER_SUM", Operation.EXCHANGE: "ANSWER_INPUTS",
        }
        m.d.comb += self.answer.p.last.eq(int(operation not in after))
        with m.If(self.answer.ready):
            m.next = after.get(operation, "HEADER")
            if operation == Operation.IDENTIFY:
                m.d.sync += r.at.eq(0)

    def _answer_data(self, m, r):
        """The data of an answer."""
        answer, code, item_last = self.answer, r.header.code, r.left[:10] == 1

        def item(valid, value, size, last):
            m.d.comb += [answer.valid.eq(valid), answer.p.data.eq(value), answer.p.more.eq(size - 1),
                         answer.p.last.eq(last)]

        def next_item(again):
            with m.If(answer.valid & answer.ready):
                m.d.sync += [r.at.eq(r.at + 1), r.left.eq(r.left - 1), r.wait.eq(0)]
                m.next = again
                with m.If(item_last):
                    m.next = "HEADER"

        with m.State("FETCH"):
            m.d.sync += r.wait.eq(r.wait + 1)
            with m.If(r.wait == READ_CYCLES):
                with m.Switch(code):
                    with m.Case(Operation.IDENTIFY):
                        m.d.sync += r.word.eq(r.info.data)
                    with m.Case(Operation.EXCHANGE):
                        m.d.sync += r.word.eq(self.output_data.as_unsigned())
                    with m.Default():
                        m.d.sync += r.word.eq(Mux(r.at[REGISTER_BITS], self.register_data, self.bus.r_data))
                m.next = "OFFER"
        with m.State("OFFER"):
            size = Mux(code == Operation.IDENTIFY, 1, Mux(r.exchange, 2, 4))
            item(1, r.word, size, item_last)
            next_item("FETCH")
        with m.State("REQUEST_WORD"):
            # One word at a time, as the line is far slower: so the memory never waits with a word.
            m.d.comb += self.memory.request.valid.eq(answer.ready)
            with m.If(answer.ready & self.memory.request.ready):
                m.next = "READ_WORD"
        with m.State("READ_WORD"):
            m.d.comb += self.memory.read_data.ready.eq(answer.ready)
            item(self.memory.read_data.valid, self.memory.read_data.payload, 2, item_last)
            next_item("REQUEST_WORD")
        with m.State("ANSWER_SUM"):
            item(1, r.crc.crc, 4, 1)
            with m.If(answer.ready):
                m.next = "HEADER"
        with m.State("ANSWER_INPUTS"):
            item(1, self.input_position, 4, 0)
            m.d.sync += r.word.eq(self.input_free)
            with m.If(answer.ready):
                m.next = "ANSWER_FREE"
        with m.State("ANSWER_FREE"):
            item(1, r.word, 4, r.header.count == 0)
            with m.If(answer.ready):
                m.next = "FETCH"
                with m.If(r.header.count == 0):
                    m.next = "HEADER"

    def _refuse(self, m, r):
        """REFUSE: takes the rest of the request; then an answer without data."""
        with m.State("REFUSE"):
            m.d.comb += self.request.ready.eq(~r.ended)
            m.d.sync += [r.header.count.eq(0), r.header.address.eq(0)]
            with m.If(r.ended):
                m.d.sync += self.refused.eq(1)
                m.next = "ANSWER"
