"""From feature memory to the convolution: the decoder that sends what is not zero."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import MAP_BITS, SLAB_FIELDS, SLABS, ConvParameters

from .conv_numerics import CHANNEL, FEATURE, SIDE, map_pointer, pointer_shape
from .numerics import ACTIVATION
from .queue import Queue
from .ram import block_ram, read_port

SLAB = range(SLABS)
TABLE_WORDS = 512       # 4 a slab for the host's pairs of fields; from the top down, 2 a slab for its pointers
SLAB_PAIRS = len(SLAB_FIELDS) // 2
QUEUE_DEPTH = 16        # the least that LUT RAM comes in
IN_FLIGHT = 3           # margin of a queue whose writers look at its room two cycles before they write

DECODER_JOB = data.StructLayout({"slab_first": SLAB, "slab_count": range(SLABS + 1), "height": SIDE, "width": SIDE})
"""A map: its slabs, one after the other in the table, and its size. None of them is zero, slab_first excepted."""

WORD = data.StructLayout({
    "bits": unsigned(MAP_BITS),
    "x": SIDE, "channel": CHANNEL,  # of the word's first element
    "row_end": 1, "last": 1,        # it is the last word of its row, and of the map
})
"""A word of a sparsity map."""


def slab_write_port():
    """The host's 32-bit write port of the slab table: row, pair of fields, data."""
    return wiring.Signature({"enable": Out(1), "row": Out(SLAB), "pair": Out(range(SLAB_PAIRS)), "data": Out(32)})


def slab_layout(params: ConvParameters):
    """Where to go on in a slab, and what channels it has."""
    return data.StructLayout({
        "map": pointer_shape(params, params.map_depth), "value": pointer_shape(params, params.value_depth),
        "first_channel": CHANNEL,
        "last_word": unsigned(8),       # of a position
    })


class SlabCursor(wiring.Component):
    """Goes round the slabs of a map, row after row, and keeps their pointers in the meantime.

    The next slab is fetched while the present one is used: it is there 5 cycles after `restart`, 9 after
    `advance`. One block RAM holds table and pointers.

    Members
    -------
    host : In(slab_write_port)
        Only while no slab is used.
    restart : In(1), first, final : In(SLAB)
        Begins with slab `first`, if it is `ready`; `final` is the last one of a row. Both have to stay.
    ready : Out(1), slab : Out(slab_layout), ends_row : Out(1)
        The next slab, and whether it is the row's last one.
    advance : In(1), map, value : In
        Only while `ready`: `slab` is used from now on; the one before is left with these pointers.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "host": In(slab_write_port()), "restart": In(1), "first": In(SLAB), "final": In(SLAB),
            "ready": Out(1), "slab": Out(slab_layout(params)), "ends_row": Out(1), "advance": In(1),
            "map": In(pointer_shape(params, params.map_depth)), "value": In(pointer_shape(params, params.value_depth)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = block_ram(unsigned(32), TABLE_WORDS)
        write, read = table.write_port(), read_port(m, table)
        coming, used, left = Signal(SLAB), Signal(SLAB), Signal(SLAB)   # numbers of slabs
        left_map, left_value = Signal.like(self.map), Signal.like(self.value)
        channels, first_row = Signal(CHANNEL), Signal()     # in the first row, `coming` has no pointers yet
        pair_0, pair_1, pair_2 = (Cat(Const(number, 2), coming) for number in range(SLAB_PAIRS))

        def pointer(slab, number):
            return ~Cat(Const(number, 1), slab, Const(0, 1))

        m.d.comb += self.ends_row.eq(coming == self.final)
        with m.FSM():
            with m.State("READY"):
                m.d.comb += self.ready.eq(1)
                with m.If(self.advance):
                    m.d.sync += [left.eq(used), left_map.eq(self.map), left_value.eq(self.value),
                                 used.eq(coming), coming.eq(coming + 1)]
                    with m.If(self.ends_row):
                        m.d.sync += [coming.eq(self.first), first_row.eq(0)]
                    m.next = "KEEP MAP"
                with m.Elif(self.restart):
                    m.d.sync += [coming.eq(self.first), first_row.eq(1)]
                    m.next = "PAIR 0"
            with m.State("KEEP MAP"):
                m.d.comb += [write.en.eq(1), write.addr.eq(pointer(left, 0)), write.data.eq(left_map)]
                m.next = "KEEP VALUE"
            with m.State("KEEP VALUE"):
                m.d.comb += [write.en.eq(1), write.addr.eq(pointer(left, 1)), write.data.eq(left_value)]
                m.next = "PAIR 0"
            # From here on, each state asks for a word of the table and keeps the one that the state before asked for.
            with m.State("PAIR 0"):
                m.d.comb += read.addr.eq(pair_0)
                m.next = "PAIR 1"
            with m.State("PAIR 1"):
                m.d.comb += read.addr.eq(pair_1)
                m.d.sync += [self.slab.map.eq(read.data[:16]), self.slab.value.eq(read.data[16:])]
                m.next = "PAIR 2"
            with m.State("PAIR 2"):
                m.d.comb += read.addr.eq(pair_2)
                value = Cat(self.slab.value[:16], read.data[:16])
                m.d.sync += [self.slab.value.eq(value), channels.eq(read.data[16:]),
                             self.slab.map.eq(map_pointer(self.params, self.slab.map, value))]
                m.next = "MAP"
            with m.State("MAP"):
                m.d.comb += read.addr.eq(pointer(coming, 0))
                m.d.sync += [self.slab.first_channel.eq(read.data[:16]), self.slab.last_word.eq((channels - 1)[4:])]
                m.next = "VALUE"
                with m.If(first_row):
                    m.next = "READY"
            with m.State("VALUE"):
                m.d.comb += read.addr.eq(pointer(coming, 1))
                m.d.sync += self.slab.map.eq(read.data)
                m.next = "LAST"
            with m.State("LAST"):
                m.d.sync += self.slab.value.eq(read.data)
                m.next = "READY"
        with m.If(self.host.enable):
            m.d.comb += [write.en.eq(1), write.addr.eq(Cat(self.host.pair, self.host.row)),
                         write.data.eq(self.host.data)]
        return m


class MapDecoder(wiring.Component):
    """Sends the non-zero elements of a feature map in decode order, and the end of each row.

    One element or row end a cycle. Map words are read ahead of values, one a cycle, and those without non-zero
    elements vanish before the queue, so there are no gaps while words have one or more on average; an
    all-zero map takes a cycle a map word. With several slabs, 5 cycles pass between the last element of one and the
    first of the next, and at least 9 between two changes of slab. Latency 14 cycles from a job to its first
    element. The next job is taken, and its slab fetched, while the last elements of the one before are still sent; if
    these take long enough, its own follow 5 cycles after them.

    Parameters
    ----------
    params : ConvParameters
        Depths of feature memory. One block RAM and two queues of 16 in LUT RAM; about 750 LUTs.

    Members
    -------
    host : In(slab_write_port)
        Writes the slab table (`SLAB_FIELDS`), only while no job runs.
    job : In(stream of DECODER_JOB)
        The map must be complete in feature memory.
    map_address, map_enable : Out; map_data : In(16)
        Read port of the sparsity maps; data comes a cycle later, until when the address stays as it is if it is that of
        a slab's last word.
    value_address, value_enable : Out; value_data : In(ACTIVATION)
        The same for values, which come two cycles later.
    map_ready, value_ready : In(1)
        The word at the address may be read; 1 if not connected.
    starts : Out(1)
        From this cycle on, addresses are those of another slab, where its pointers are; else they only count up.
    feature : Out(stream of FEATURE)
        Fields that `row_end` does not need are junk with it.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "host": In(slab_write_port()), "job": In(stream.Signature(DECODER_JOB)),
            "map_address": Out(pointer_shape(params, params.map_depth)), "map_enable": Out(1),
            "map_data": In(MAP_BITS), "map_ready": In(1, init=1),
            "value_address": Out(pointer_shape(params, params.value_depth)), "value_enable": Out(1),
            "value_data": In(ACTIVATION), "value_ready": In(1, init=1), "starts": Out(1),
            "feature": Out(stream.Signature(FEATURE)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.cursor = cursor = SlabCursor(self.params)
        m.submodules.words = words = Queue(WORD, QUEUE_DEPTH, margin=IN_FLIGHT)
        m.submodules.features = features = Queue(FEATURE, QUEUE_DEPTH, margin=IN_FLIGHT)
        connect(m, flipped(self.host), cursor.host)
        connect(m, features.o, flipped(self.feature))
        wants_slab, reads = self._read_words(m, cursor, words)
        sends = self._send_elements(m, cursor, words.o, features)
        # Pointers of a slab are final, and may be exchanged, when all before it has been sent.
        m.d.comb += cursor.advance.eq(wants_slab & cursor.ready & ~(reads | words.o.valid | sends))
        m.d.sync += self.starts.eq(cursor.advance)
        return m

    def _read_words(self, m, cursor, words):
        """Walks over the map words; whether it waits for a slab, and whether a word is on its way to the queue."""
        wants_slab = Signal()
        single, last_x, last_row = Signal(), Signal(SIDE), Signal(SIDE)      # of the job
        slab, slab_ends_row = Signal(slab_layout(self.params)), Signal()     # the one that is read
        row, word = Signal(SIDE), Signal.like(slab.last_word)
        # A word on its two stages to the queue; the second one is part of the block RAM.
        asked, came = Signal(WORD), Signal(WORD, reset_less=True)
        valid = Signal(2)
        ends_position, ends_slab, ends_row, ends_map = Signal(), Signal(), Signal(), Signal()
        x, channel = Signal(SIDE), Signal(CHANNEL)      # of the word that is asked for
        m.d.comb += [
            ends_position.eq(word == slab.last_word), ends_slab.eq(ends_position & (x == last_x)),
            ends_row.eq(ends_slab & slab_ends_row), ends_map.eq(ends_row & (row == last_row)),
            cursor.map.eq(self.map_address),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                job = self.job.p
                m.d.sync += [cursor.first.eq(job.slab_first), cursor.final.eq(job.slab_first + job.slab_count - 1),
                             single.eq(job.slab_count == 1), last_x.eq(job.width - 1), last_row.eq(job.height - 1),
                             row.eq(0)]
                with m.If(self.job.valid):
                    m.next = "START"
            with m.State("START"):
                m.d.comb += cursor.restart.eq(1)
                with m.If(cursor.ready):
                    m.next = "SLAB"
            with m.State("SLAB"):
                m.d.comb += wants_slab.eq(1)
                m.d.sync += [slab.eq(cursor.slab), slab_ends_row.eq(cursor.ends_row),
                             channel.eq(cursor.slab.first_channel), x.eq(0), word.eq(0)]
                with m.If(cursor.advance):
                    m.d.sync += self.map_address.eq(cursor.slab.map)
                    m.next = "SCAN"
            with m.State("SCAN"):
                m.d.comb += self.map_enable.eq(words.room & self.map_ready)
                with m.If(self.map_enable):
                    m.d.sync += [self.map_address.eq(self.map_address + 1), word.eq(word + 1),
                                 channel.eq(channel + MAP_BITS)]
                    with m.If(ends_position):
                        m.d.sync += [word.eq(0), channel.eq(slab.first_channel), x.eq(x + 1)]
                    with m.If(ends_slab):
                        m.d.sync += x.eq(0)
                        with m.If(~single):
                            m.next = "SLAB"
                    with m.If(ends_row):
                        m.d.sync += row.eq(row + 1)
                    with m.If(ends_map):
                        m.next = "IDLE"
        m.d.sync += [
            valid.eq(Cat(self.map_enable, valid[0])),
            asked.x.eq(x), asked.channel.eq(channel), asked.row_end.eq(ends_row), asked.last.eq(ends_map),
            came.eq(asked), came.bits.eq(self.map_data),
        ]
        m.d.comb += [words.i.payload.eq(came), words.i.valid.eq(valid[1] & (came.bits.any() | came.row_end))]
        return wants_slab, valid.any()

    def _send_elements(self, m, cursor, words, features):
        """Takes a word at a time from the queue apart; tells whether it has one."""
        word, has_word = Signal(WORD), Signal()         # `bits` are those not sent yet
        # Kept beside the word, since much hangs on them: `bits` without the lowest one, and whether there is any.
        rest, element = Signal(MAP_BITS), Signal()
        sends, done = Signal(), Signal()
        m.d.comb += [
            # A row end that comes with elements takes a cycle of its own after them.
            done.eq(~(rest.any() | (element & word.row_end))),
            sends.eq(has_word & features.room & (self.value_ready | ~element)),
            words.ready.eq(~has_word | (sends & done)),
            self.value_enable.eq(sends & element), cursor.value.eq(self.value_address),
        ]
        with m.If(words.ready):
            m.d.sync += [word.eq(words.p), has_word.eq(words.valid),
                         rest.eq(_without_lowest(words.p.bits)), element.eq(words.p.bits.any())]
        with m.Elif(sends):
            m.d.sync += [word.bits.eq(rest), rest.eq(_without_lowest(rest)), element.eq(rest.any())]
        m.d.sync += self.value_address.eq(self.value_address + self.value_enable)
        with m.If(cursor.advance):
            m.d.sync += self.value_address.eq(cursor.slab.value)

        valid, index = Signal(2), Signal(range(MAP_BITS))
        asked, came = Signal(FEATURE), Signal(FEATURE)      # an element on its two stages to the queue
        lowest = word.bits & ~rest
        m.d.sync += [
            valid.eq(Cat(sends, valid[0])),
            index.eq(Cat(_one_of(lowest[bit] for bit in range(MAP_BITS) if bit >> place & 1) for place in range(4))),
            asked.x.eq(word.x), asked.channel.eq(word.channel), asked.row_end.eq(~element), asked.last.eq(word.last),
            came.eq(asked), came.channel.eq(asked.channel + index),
        ]
        m.d.comb += [features.i.valid.eq(valid[1]), features.i.payload.eq(came),
                     features.i.p.value.eq(self.value_data)]
        return has_word


def _one_of(bits):
    return reduce(or_, bits)


def _without_lowest(bits):
    return bits & (bits - 1)
