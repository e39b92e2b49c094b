"""Executes the requests of docs/protocol.md, one at a time: checks all of a request, does it, answers."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import Register
from amacrine.sw.protocol import (
    EXCHANGE_ANSWER,
    EXCHANGE_HEADER,
    HEADER,
    HOLD_CYCLES,
    MAX_DATA,
    MEMORY_RANGE,
    VERSION,
    Operation,
    Status,
)

from .cobs import Byte
from .engine import REGISTER_BITS
from .frames import LENGTH, BodyByte, add_crc32
from .link_ports import memory_port, register_bus
from .link_registers import READ_CYCLES
from .numerics import ACTIVATION, delay
from .ram import read_port
from .requests import MAX_WANTED, ExchangeHeader, Header, rules

BUS_CYCLES = 5
"""From a register's address on the bus to its data, or more."""


class Executor(wiring.Component):
    """Executes requests.

    A request is checked as a whole (its body is there, and its length known), in the order of the status codes,
    before any of it is done. Its bytes are all taken before the answer begins.

    Parameters
    ----------
    info : bytes
        What IDENTIFY answers, 1 to MAX_DATA bytes.
    memory_words, memory_address_bits : int
    input_depth, output_depth : int
        Elements of the stream buffers.
    stop_cycles : int
        How long START and ABORT wait for the engine.
    ram_style : str
        Where `info` is: "block" costs a block RAM, "distributed" some 200 LUTs.

    Members
    -------
    request : In(stream of BodyByte)
    answer : Out(stream of Byte)
    bus : Out(register_bus())
    memory : Out(memory_port(memory_address_bits))
    input_*, output_*, clear : the sides of `InputBuffer` and `OutputBuffer` that are no streams
    register_data : In(32)
        Of the link's own register at `bus.address`, READ_CYCLES cycles later.
    session : Out(16)
    refused, done : Out(1)
        A request was answered with an error, or without (for one cycle).
    idle : Out(1)
        No request is there.
    """

    def __init__(self, info, memory_words, memory_address_bits=24, input_depth=2048, output_depth=2048,
                 stop_cycles=1 << 24, ram_style="block"):
        if not 1 <= len(info) <= MAX_DATA:
            raise ValueError(f"info must have 1 to {MAX_DATA} bytes, not {len(info)}")
        if not 1 <= memory_words <= 1 << memory_address_bits:
            raise ValueError(f"memory_words must be 1 to 2**{memory_address_bits}, not {memory_words!r}")
        if not 2 <= stop_cycles <= 1 << 24:
            raise ValueError(f"stop_cycles must be 2 to 2**24, not {stop_cycles!r}")
        self.info, self.memory_words, self.stop_cycles = bytes(info), memory_words, stop_cycles
        self.address_bits, self.ram_style = memory_address_bits, ram_style
        super().__init__({
            "request": In(stream.Signature(BodyByte)), "answer": Out(stream.Signature(Byte)),
            "bus": Out(register_bus()), "memory": Out(memory_port(memory_address_bits)),
            "input_data": Out(ACTIVATION), "input_write": Out(1), "input_position": In(32),
            "input_free": In(range(input_depth + 1)),
            "output_position": In(32), "output_level": In(range(output_depth + 1)), "output_release": Out(1),
            "output_release_to": Out(32), "output_address": Out(range(output_depth)),
            "output_data": In(ACTIVATION), "clear": Out(1), "register_data": In(32), "session": Out(16),
            "refused": Out(1), "done": Out(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        r = self._registers(m)
        # A byte waits here, so that no path goes through from the executor's state to the frame.
        with m.If(~self.answer.valid):
            m.d.sync += [self.answer.valid.eq(r.answer.valid), self.answer.payload.eq(r.answer.payload)]
        with m.Elif(self.answer.ready):
            m.d.sync += self.answer.valid.eq(0)
        m.d.comb += r.answer.ready.eq(~self.answer.valid)
        self._decode(m, r)
        self._ports(m, r)
        with m.FSM() as fsm:
            self._parse(m, r)
            self._check(m, r)
            self._check_exchange(m, r)
            self._begin(m, r)
            self._stop(m, r)
            self._take(m, r)
            self._burst(m, r)
            self._hold(m, r)
            self._refuse(m, r)
            with m.State("ANSWER"):
                m.d.comb += r.answers.eq(1)
                with m.If(r.answered):
                    m.next = "HEADER"
        # Two state machines, one of which rests: the conditions of each are shorter so.
        with m.FSM(name="answer"):
            with m.State("REST"):
                with m.If(r.answers):
                    m.next = "ANSWER_HEADER"
            self._answer(m, r)
            self._answer_data(m, r)
            with m.State("ANSWERED"):
                m.d.comb += r.answered.eq(1)
                m.next = "REST"
        m.d.comb += self.idle.eq(fsm.ongoing("HEADER") & (r.index == 0))
        m.d.sync += self.clear.eq(fsm.ongoing("AWAIT_STOP"))
        return m

    def _registers(self, m):
        begin = Signal()
        crc = add_crc32(m, begin, data_width=16)
        style = {"block": "block", "distributed": "logic"}[self.ram_style]      # what Yosys calls them for a ROM
        m.submodules.info = info = memory.Memory(shape=unsigned(8), depth=len(self.info), init=self.info,
                                                 attrs={"rom_style": style})
        info_read = read_port(m, info)
        bits = max(self.address_bits, REGISTER_BITS + 1) + 1    # addresses beyond them are refused unseen
        return SimpleNamespace(
            begin=begin, crc=crc, info=info_read, info_byte=delay(m, info_read.data, 1),
            header=Signal(Header), arguments=Signal(ExchangeHeader),
            answers=Signal(), answered=Signal(),        # the answer is to be sent; it is sent
            answer=stream.Signature(Byte).create(), length=Signal(LENGTH), ended=Signal(),      # of the request's body
            code=Signal(8),                             # its operation
            index=Signal(4),                            # byte of the header, the arguments, an item
            status=Signal(3),                           # `Status`
            at=Signal(bits - 1),                        # address of what is being read or written
            left=Signal(bits),                          # items that are to come
            step=Signal(),                              # an item is done: `at` and `left` follow in the next cycle,
            stepped=Signal(), final=Signal(), none=Signal(),        # one later, whether one item, or none, is left
            counted=Signal(),                           # the header's count is not zero
            burst=Signal(10),                           # words of the burst that are to come, of SUM and FILL
            word=Signal(32), word_there=Signal(),       # an item that came, in the high bits; it is complete
            item=Signal(32),                            # an item of the answer
            wait=Signal(range(READ_CYCLES + 1)), timer=Signal(25), expired=Signal(),
            expected=Signal(LENGTH), miscounted=Signal(), end=Signal(bits + 1), beyond=Signal(),
            skip=Signal(32),                            # outputs that are to be released
            takes=Signal(),                             # the inputs are the next ones
            enough=Signal(),                            # outputs wanted are there, a cycle late
        )

    def _decode(self, m, r):
        """What kind of operation it is, from `code`, which the header's second byte sets; a cycle late."""
        def kind(*operations):
            signal = Signal()
            m.d.sync += signal.eq(sum((r.code == operation for operation in operations), start=0) != 0)
            return signal

        op = Operation
        r.known = kind(*op)
        r.identify, r.exchange, r.starts = kind(op.IDENTIFY), kind(op.EXCHANGE), kind(op.START)
        r.stops, r.ranged = kind(op.START, op.ABORT), kind(op.CHECKSUM_MEMORY, op.FILL_MEMORY)
        r.reads_registers, r.writes_registers = kind(op.READ_REGISTERS), kind(op.WRITE_REGISTERS)
        r.reads_memory, r.sums = kind(op.READ_MEMORY), kind(op.CHECKSUM_MEMORY)
        r.writes_memory, r.fills = kind(op.WRITE_MEMORY), kind(op.FILL_MEMORY)
        r.in_memory = kind(op.READ_MEMORY, op.WRITE_MEMORY, op.CHECKSUM_MEMORY, op.FILL_MEMORY)
        r.rule = SimpleNamespace(least=Signal(), most=Signal(10), length=Signal(LENGTH), shift=Signal(3),
                                 limit=Signal(len(r.end)))
        for operation, rule in rules(self.memory_words).items():
            with m.If(r.code == operation):
                m.d.sync += [r.rule.least.eq(rule.counts[0]), r.rule.most.eq(rule.counts[-1]),
                             r.rule.length.eq(rule.length), r.rule.shift.eq(rule.item), r.rule.limit.eq(rule.limit)]

    def _ports(self, m, r):
        """What does not depend on the state."""
        m.d.comb += [
            self.bus.address.eq(r.at), self.bus.w_data.eq(r.word),
            self.memory.request.p.address.eq(r.at), self.memory.request.p.write.eq(r.writes_memory | r.fills),
            # The first burst takes what is not a multiple of the longest one.
            self.memory.request.p.length.eq(Mux(r.reads_memory, 1, Cat(r.left[:9], r.left[:9] == 0))),
            self.memory.write_data.payload.eq(r.word[16:]), self.memory.write_data.valid.eq(r.word_there & r.in_memory),
            self.input_data.eq(r.word[16:]), self.output_address.eq(r.at),
            self.output_release_to.eq(r.arguments.position),
            r.info.addr.eq(r.at), r.crc.data.eq(self.memory.read_data.payload),
        ]
        m.d.sync += [self.bus.write.eq(0), self.refused.eq(0), self.done.eq(0), self.output_release.eq(0),
                     r.step.eq(0), r.stepped.eq(r.step), r.none.eq(r.left == 0), r.final.eq(r.left[:10] == 1),
                     r.counted.eq(r.header.count != 0), r.enough.eq(self.output_level >= r.arguments.wanted[:9])]
        m.d.comb += r.expired.eq(r.timer[-1])       # it stops below zero
        with m.If(~r.expired):
            m.d.sync += r.timer.eq(r.timer - 1)
        with m.If(r.step):
            m.d.sync += [r.at.eq(r.at + 1), r.left.eq(r.left - 1)]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [r.ended.eq(self.request.p.last), r.length.eq(self.request.p.length)]

    def _refuses(self, m, r, status):
        m.d.sync += r.status.eq(status)
        m.next = "REFUSE"

    def _parse(self, m, r):
        """HEADER, ARGUMENTS: the request's fixed part."""
        request = self.request

        def shift(register):
            register = register.as_value()
            m.d.sync += [register.eq(Cat(register[8:], request.p.data)), r.index.eq(r.index + 1)]

        with m.State("HEADER"):
            m.d.comb += request.ready.eq(1)
            m.d.sync += r.status.eq(Status.OK)
            with m.If(request.valid):
                shift(r.header)
                with m.If(r.index == 1):
                    m.d.sync += r.code.eq(request.p.data)
                with m.If(r.index == HEADER.size - 1):
                    m.next = "DECODE"
        with m.State("ARGUMENTS"):
            m.d.comb += request.ready.eq(1)
            with m.If(request.valid):
                shift(r.arguments)
                with m.If(r.index == Mux(r.ranged, MEMORY_RANGE.size, EXCHANGE_HEADER.size) - 1):
                    m.next = "ADD_RANGE"

    def _check(self, m, r):
        """Operation, length, addresses; each sum or comparison in a cycle of its own."""
        header, rule = r.header, r.rule
        items = Mux(rule.shift[1], header.count << 1, Mux(rule.shift[2], header.count << 2, 0))
        words = r.arguments.as_value()[32:64]       # the data of an operation on a memory range are its last 8 bytes
        amount = Mux(r.ranged, words, header.count)
        bits, count = len(r.end) - 1, header.count
        over_512 = count[10:].any() | (count[9] & count[:9].any())
        over_256 = count[9:].any() | (count[8] & count[:8].any())
        with m.State("DECODE"):
            m.d.sync += [r.expected.eq(rule.length + items[:len(r.expected)]), r.index.eq(0), r.wait.eq(0),
                         r.miscounted.eq(Mux(rule.most[9], over_512, Mux(rule.most[8], over_256, count.any()))
                                         | (rule.least & ~count.any()))]
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
        with m.State("ADD_RANGE"):
            m.d.sync += [r.end.eq(header.address[:bits] + amount[:bits]), r.index.eq(0),
                         r.beyond.eq(header.address[bits:].any() | (r.ranged & words[bits:].any())),
                         r.left.eq(amount), r.at.eq(Register.CONTROL)]
            m.next = "CHECK_RANGE"
        with m.State("CHECK_RANGE"):
            m.d.sync += r.beyond.eq(~r.exchange & (r.beyond | (r.end > rule.limit) | (r.starts & (r.end[:16] == 0))))
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
        greedy, foreign, unreachable, no_room = Signal(), Signal(), Signal(), Signal()
        level = len(self.output_level)
        with m.State("CHECK_SESSION"):
            m.d.sync += [
                greedy.eq(arguments.wanted[9:].any() | (arguments.wanted[:9] > MAX_WANTED)),
                foreign.eq((arguments.session != self.session) | (self.session == 0)),
                r.skip.eq(arguments.position - self.output_position),
                r.takes.eq(header.address == self.input_position), no_room.eq(header.count[:10] > self.input_free),
            ]
            m.next = "CHECK_POSITION"
        with m.State("CHECK_POSITION"):
            m.d.sync += unreachable.eq(r.skip[level:].any() | (r.skip[:level] > self.output_level))
            with m.If(greedy):
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
            m.d.comb += r.begin.eq(1)
            m.d.sync += [r.at.eq(r.header.address), r.timer.eq(r.arguments.hold * HOLD_CYCLES), r.wait.eq(0)]
            m.next = "ANSWER"
            with m.If(r.identify):
                m.d.sync += r.left.eq(len(self.info))
            with m.If(r.writes_registers | (r.exchange & r.counted)):
                m.next = "TAKE"
            with m.Elif(r.exchange):
                m.next = "HOLD"
            with m.Elif(r.in_memory & ~r.reads_memory):
                m.next = "BURST"
            with m.Elif(r.stops):
                m.d.sync += [r.at.eq(Register.CONTROL), r.word.eq(1), self.bus.write.eq(1), self.session.eq(0),
                             r.timer.eq(self.stop_cycles - 1)]
                m.next = "AWAIT_STOP"

    def _stop(self, m, r):
        """START, ABORT: until the engine is clear."""
        with m.State("AWAIT_STOP"):
            with m.If(r.wait != BUS_CYCLES):
                m.d.sync += r.wait.eq(r.wait + 1)
            with m.Elif(~self.bus.r_data[0]):
                m.d.sync += self.session.eq(r.header.address)
                m.next = "ANSWER"
            with m.Elif(r.expired):
                self._refuses(m, r, Status.BUSY)

    def _take(self, m, r):
        """TAKE: items from the request to registers, memory or input buffer."""
        accepted = Signal()
        with m.State("TAKE"):
            m.d.comb += [
                self.request.ready.eq(~r.word_there), self.input_write.eq(r.word_there & r.exchange & r.takes),
                accepted.eq(r.word_there & (~r.in_memory | self.memory.write_data.ready)),
            ]
            with m.If(self.request.valid & self.request.ready):
                m.d.sync += [r.word.eq(Cat(r.word[8:], self.request.p.data)), r.index.eq(r.index + 1)]
                with m.If(r.index == Cat(1, r.writes_registers)):
                    m.d.sync += [r.word_there.eq(1), self.bus.write.eq(r.writes_registers), r.index.eq(0)]
            with m.If(accepted):
                m.d.sync += [r.word_there.eq(0), r.step.eq(1)]
                with m.If(r.final):
                    m.next = "ANSWER"
                    with m.If(r.exchange):
                        m.next = "HOLD"

    def _burst(self, m, r):
        """WRITE_, CHECKSUM_, FILL_MEMORY, burst by burst."""
        request, read_data, write_data = self.memory.request, self.memory.read_data, self.memory.write_data
        seed = r.arguments.as_value()[64:80]
        last, known = r.burst == 1, ~(r.step | r.stepped)
        with m.State("BURST"):
            m.d.comb += request.valid.eq(known & ~r.none)
            m.d.sync += r.burst.eq(request.p.length)
            with m.If(known & r.none):
                m.next = "ANSWER"
            with m.If(request.valid & request.ready):
                m.next = "TAKE"
                with m.If(r.fills):
                    m.next = "FILL"
                with m.If(r.sums):
                    m.next = "SUM"
        with m.State("SUM"):
            m.d.comb += [read_data.ready.eq(1), r.crc.valid.eq(read_data.valid)]
            with m.If(read_data.valid):
                m.d.sync += [r.burst.eq(r.burst - 1), r.step.eq(1)]
                with m.If(last):
                    m.next = "BURST"
        with m.State("FILL"):
            with m.If(write_data.ready):
                m.d.sync += r.word_there.eq(0)
            with m.If(~r.step & (~r.word_there | write_data.ready)):
                m.d.sync += [r.word[16:].eq(r.at[:16] ^ r.at[16:] ^ seed), r.word_there.eq(1),
                             r.burst.eq(r.burst - 1), r.step.eq(1)]
                with m.If(last):
                    m.next = "FILLED"
        with m.State("FILLED"):
            with m.If(write_data.ready):
                m.d.sync += r.word_there.eq(0)
                m.next = "BURST"

    def _hold(self, m, r):
        """HOLD: until the outputs wanted are there, or the time is up."""
        settled = Signal(2)     # only then is it known how many there are, after the release
        with m.State("HOLD"):
            m.d.sync += [r.at.eq(r.arguments.position), r.item.eq(self.input_free)]
            with m.If(~settled.all()):
                m.d.sync += settled.eq(settled + 1)
            with m.Elif(r.enough | r.expired):
                m.d.sync += [r.left.eq(Mux(r.enough, r.arguments.wanted[:9], self.output_level[:9])), settled.eq(0)]
                m.next = "ANSWER"

    def _answer(self, m, r):
        """ANSWER_HEADER: the header goes round, and out; `status`, and what differs from the request, in its place."""
        answer, index, header = r.answer, r.index, r.header.as_value()
        is_count, is_address = index[1:] == 1, index[2]
        with m.State("ANSWER_HEADER"):
            m.d.comb += [answer.valid.eq(1), answer.p.data.eq(header[:8])]
            with m.If(index == 1):
                m.d.comb += answer.p.data.eq(r.status)
            with m.Elif(index[1:].any() & (r.status != Status.OK)):
                m.d.comb += answer.p.data.eq(0)
            with m.Elif(is_count & (r.identify | r.exchange)):
                m.d.comb += answer.p.data.eq(r.left[:16].word_select(index[0], 8))
            with m.Elif(is_address & r.exchange):
                m.d.comb += answer.p.data.eq(r.arguments.position.word_select(index[:2], 8))
            with m.Elif((index == 4) & r.identify):
                m.d.comb += answer.p.data.eq(VERSION)
            has_data = r.identify | r.reads_registers | r.reads_memory | r.sums | r.exchange
            with m.If((index == HEADER.size - 1) & ~(has_data & (r.status == Status.OK))):
                m.d.comb += answer.p.last.eq(1)
            with m.If(answer.ready):
                m.d.sync += [header.eq(Cat(header[8:], header[:8])), index.eq(index + 1)]
                with m.If(index == HEADER.size - 1):
                    m.d.sync += [index.eq(0), r.wait.eq(0), self.done.eq(r.status == Status.OK)]
                    m.next = "FETCH"
                    with m.If(answer.p.last):
                        m.next = "ANSWERED"
                    with m.Elif(r.sums):
                        m.next = "ANSWER_SUM"
                    with m.Elif(r.exchange):
                        m.next = "ANSWER_INPUTS"
                    with m.Elif(r.reads_memory):
                        m.next = "REQUEST_WORD"

    def _answer_data(self, m, r):
        """The data of an answer."""
        answer, index = r.answer, r.index
        no_outputs = r.left[:9] == 0
        with m.State("FETCH"):
            m.d.sync += r.wait.eq(r.wait + 1)
            with m.If(r.wait == READ_CYCLES):
                with m.If(r.identify):
                    m.d.sync += r.item.eq(r.info_byte)
                with m.Elif(r.exchange):
                    m.d.sync += r.item.eq(self.output_data.as_unsigned())
                with m.Else():
                    m.d.sync += r.item.eq(Mux(r.at[REGISTER_BITS], self.register_data, self.bus.r_data))
                m.next = "ANSWER_ITEM"
        with m.State("REQUEST_WORD"):
            # One word at a time, as the line is far slower: so the memory never waits with a word.
            m.d.comb += self.memory.request.valid.eq(~r.step)
            with m.If(~r.step & self.memory.request.ready):
                m.next = "READ_WORD"
        with m.State("READ_WORD"):
            m.d.comb += self.memory.read_data.ready.eq(1)
            with m.If(self.memory.read_data.valid):
                m.d.sync += r.item.eq(self.memory.read_data.payload)
                m.next = "ANSWER_ITEM"
        with m.State("ANSWER_ITEM"):
            ends = index == Mux(r.reads_registers, 3, ~r.identify)
            m.d.comb += [answer.valid.eq(1), answer.p.data.eq(r.item[:8]), answer.p.last.eq(ends & r.final)]
            with m.If(answer.ready):
                m.d.sync += [r.item.eq(r.item >> 8), index.eq(index + 1)]
                with m.If(ends):
                    m.d.sync += [r.step.eq(1), r.wait.eq(0), index.eq(0)]
                    m.next = "FETCH"
                    with m.If(r.final):
                        m.next = "ANSWERED"
                    with m.Elif(r.reads_memory):
                        m.next = "REQUEST_WORD"
        with m.State("ANSWER_SUM"):
            m.d.comb += [answer.valid.eq(1), answer.p.data.eq(r.crc.crc.word_select(index[:2], 8)),
                         answer.p.last.eq(index == 3)]
            with m.If(answer.ready):
                m.d.sync += index.eq(index + 1)
                with m.If(index == 3):
                    m.d.sync += index.eq(0)
                    m.next = "ANSWERED"
        with m.State("ANSWER_INPUTS"):      # position; free, as it was after HOLD; zero
            m.d.comb += [
                answer.valid.eq(1), answer.p.last.eq((index == EXCHANGE_ANSWER.size - 1) & no_outputs),
                answer.p.data.eq(Mux(index[2], r.item[:8], self.input_position.word_select(index[:2], 8))),
            ]
            with m.If(answer.ready):
                m.d.sync += index.eq(index + 1)
                with m.If(index[2]):
                    m.d.sync += r.item.eq(r.item >> 8)
                with m.If(index == EXCHANGE_ANSWER.size - 1):
                    m.d.sync += index.eq(0)
                    m.next = "FETCH"
                    with m.If(no_outputs):
                        m.next = "ANSWERED"

    def _refuse(self, m, r):
        """REFUSE: takes the rest of the request; then an answer without data."""
        with m.State("REFUSE"):
            m.d.comb += self.request.ready.eq(~r.ended)
            with m.If(r.ended):
                m.d.sync += [self.refused.eq(1), r.index.eq(0)]
                m.next = "ANSWER"
