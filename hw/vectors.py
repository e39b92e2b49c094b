"""Vector memory and the unit that streams inputs into it."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import Parameters

from .numerics import ACTIVATION
from .ram import block_ram, read_port


def word_layout(params: Parameters):
    """A word of vector memory with its address."""
    return data.StructLayout({
        "address": range(params.vector_depth // params.lanes), "elements": data.ArrayLayout(ACTIVATION, params.lanes)})


class VectorMemory(wiring.Component):
    """All vectors of a program: read `lanes` elements at a time, written so by the input, else one by one.

    Writers in order of priority: the cell unit, the input, the host. In `clear`, all give way. Block RAM
    only: vector_depth * 16 bits.

    Members
    -------
    cell_enable, cell_address, cell_data : In
    input : In(stream of word_layout)
    host_write, host_address, host_w_data : In; host_r_data : Out
        Only while idle; read data a cycle after the address.
    clear, clear_word : In
        Writes zero to a word of `lanes` elements.
    read_enable, read_word : In; read_data : Out(16 * lanes)
        Data a cycle after the address, kept while not enabled.
    host_reads : In(1)
        Gives the read port to the host.
    """

    def __init__(self, params: Parameters):
        self.params = params
        address, word = range(params.vector_depth), range(params.vector_depth // params.lanes)
        super().__init__({
            "cell_enable": In(1), "cell_address": In(address), "cell_data": In(ACTIVATION),
            "input": In(stream.Signature(word_layout(params))),
            "host_write": In(1), "host_address": In(address), "host_w_data": In(ACTIVATION),
            "host_reads": In(1), "host_selects": In(1, init=1), "host_r_data": Out(ACTIVATION),
            "clear": In(1), "clear_word": In(word),
            "read_enable": In(1), "read_word": In(word), "read_data": Out(16 * params.lanes),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self.params.lanes
        lane_bits = lanes.bit_length() - 1
        write_word, enables = Signal.like(self.clear_word), Signal(lanes)
        elements = Signal(data.ArrayLayout(ACTIVATION, lanes))
        address, value = Signal.like(self.cell_address), Signal(ACTIVATION)
        with m.If(self.cell_enable):
            m.d.comb += [address.eq(self.cell_address), value.eq(self.cell_data)]
        with m.Else():
            m.d.comb += [address.eq(self.host_address), value.eq(self.host_w_data)]
        with m.If(self.clear):
            m.d.comb += [write_word.eq(self.clear_word), enables.eq(~0)]
        with m.Elif(self.cell_enable | self.host_write):
            m.d.comb += [write_word.eq(address >> lane_bits), enables.eq(1 << (address & (lanes - 1)))]
            m.d.comb += [elements[lane].eq(value) for lane in range(lanes)]
        with m.Else():
            m.d.comb += [write_word.eq(self.input.p.address), elements.eq(self.input.p.elements),
                         enables.eq(self.input.valid.replicate(lanes)), self.input.ready.eq(1)]

        words = []
        for lane in range(lanes):
            m.submodules[f"lane{lane}"] = ram = block_ram(ACTIVATION, self.params.vector_depth // lanes)
            write, read = ram.write_port(), read_port(m, ram)
            m.d.comb += [
                write.addr.eq(write_word), write.data.eq(elements[lane]), write.en.eq(enables[lane]),
                read.addr.eq(Mux(self.host_reads, self.host_address >> lane_bits, self.read_word)),
                read.en.eq(self.read_enable | self.host_reads),
                # For the host, all lanes but one are zero, so that an OR selects.
                read.zero.eq(self.host_reads & ~(self.host_selects & (self.host_address & (lanes - 1) == lane))),
            ]
            words.append(read.data)
        m.d.comb += [self.read_data.eq(Cat(words)), self.host_r_data.eq(reduce(or_, words))]
        return m


class InputLoader(wiring.Component):
    """Packs the elements of the input vectors into words, for their two places in vector memory in turn.

    Takes one element a cycle, of up to two vectors that have not been scanned yet; pauses while a full word
    has to wait for the cell unit's writing.

    Members
    -------
    base, length : In
        First word of the first place, and elements of the vector.
    run, reset : In(1)
    read : In(2)
        Last step, modulo 4, whose input was scanned.
    resume : In(1), resume_step : In(2)
        The next vector is for this step, modulo 4. What has come of one is forgotten.
    input : In(stream of ACTIVATION)
    output : Out(stream of word_layout)
        To the vector memory.
    done : Out(2), count : Out(12)
        Last step, modulo 4, whose input is complete in memory; elements of the next one that are.
    """

    def __init__(self, params: Parameters):
        self.params = params
        word = range(params.vector_depth // params.lanes)
        super().__init__({
            "base": In(word), "length": In(12),
            "run": In(1), "reset": In(1), "read": In(2), "resume": In(1), "resume_step": In(2),
            "input": In(stream.Signature(ACTIVATION)), "output": Out(stream.Signature(word_layout(params))),
            "done": Out(2, init=3), "count": Out(12),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self.params.lanes
        lane_bits = lanes.bit_length() - 1
        taken, step = Signal(12), Signal(2)      # elements packed of this vector, which is for this step
        elements = Signal(data.ArrayLayout(ACTIVATION, lanes))
        full, ahead, takes, writes, completes = Signal(), Signal(2), Signal(), Signal(), Signal()
        full_lane, full_vector = taken[:lane_bits] == lanes - 1, taken + 1 == self.length
        last = Signal()                          # the waiting word ends its vector
        words = Signal.like(self.base)           # from the first place to the second
        m.d.comb += [
            words.eq((self.length + lanes - 1) >> lane_bits),
            ahead.eq(step - self.read), self.input.ready.eq(self.run & (ahead != 3) & (~full | self.output.ready)),
            takes.eq(self.input.valid & self.input.ready), writes.eq(full & self.output.ready),
            self.output.valid.eq(full), completes.eq(takes & (full_lane | full_vector)),
        ]
        with m.If(writes):
            m.d.sync += [full.eq(0), self.count.eq(self.count + lanes)]
            with m.If(last):
                m.d.sync += [self.count.eq(0), self.done.eq(self.done + 1)]
        with m.If(takes):
            with m.If(taken[:lane_bits] == 0):
                m.d.sync += elements.eq(0)
            m.d.sync += taken.eq(taken + 1)
            for lane in range(lanes):       # not an index, which Yosys drops if it has no bits
                with m.If(taken[:lane_bits] == lane):
                    m.d.sync += elements[lane].eq(self.input.payload)
            with m.If(full_vector):
                m.d.sync += [taken.eq(0), step.eq(step + 1)]
        with m.If(completes):
            m.d.sync += [
                full.eq(1), last.eq(full_vector),
                self.output.p.address.eq(self.base + (taken >> lane_bits) + Mux(step[0], words, 0)),
            ]
        m.d.comb += self.output.p.elements.eq(elements)
        with m.If(self.reset | self.resume):
            first = Mux(self.resume, self.resume_step, 0)
            m.d.sync += [full.eq(0), taken.eq(0), step.eq(first), self.count.eq(0), self.done.eq(first - 1)]
        return m
