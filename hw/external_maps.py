"""Feature maps in external memory: what does not fit on chip goes through the weight memory."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import EXTERNAL_BIT, ConvParameters
from amacrine.sw.layout import Parameters

from .conv_numerics import EXTERNAL_POINTER
from .features import FeatureMemory
from .memory import weight_port, write_layout
from .numerics import delay
from .queue import Queue, burst_owner

PREFETCH = 128
"""Elements of a plane, at most, that are asked for ahead; but not less than 8 words, nor more than 32."""
IN_FLIGHT = 32
"""Bursts that may be asked for before the last word of the first one has been taken."""
PLANE_WRITERS = ("result_value", "result_map", "input_value", "input_map")      # the first one goes first

ELEMENT_WRITE = data.StructLayout({"address": EXTERNAL_POINTER, "bits": unsigned(16)})


def elements_a_word(weight_params: Parameters) -> int:
    """Elements of 16 bits in a word of K weights."""
    if weight_params.pes % 2:
        raise ValueError("feature maps in external memory need an even number of weights in a word, "
                         f"not {weight_params.pes}")
    return weight_params.pes // 2


class PortShare(wiring.Component):
    """Several readers on one weight port, the first one first; each burst's words go to whoever asked for it.

    No latency, a burst and a word a cycle. A burst that is offered stays offered, whoever comes meanwhile.

    Members
    -------
    reader0, reader1, ... : In(weight port)
    port : Out(weight port)
    """

    def __init__(self, weight_params: Parameters, readers: int):
        self.weight_params, self.readers = weight_params, readers
        port = weight_port(weight_params)
        super().__init__({**{f"reader{n}": In(port) for n in range(readers)}, "port": Out(port)})

    def elaborate(self, platform):
        m = Module()
        owner_layout = data.StructLayout({
            "reader": range(self.readers), "words": self.port.request.p.length.shape(), "single": 1})
        m.submodules.owners = owners = Queue(owner_layout, IN_FLIGHT)
        readers = [getattr(self, f"reader{n}") for n in range(self.readers)]
        request = self.port.request
        held, choice, chosen = Signal(), Signal(range(self.readers)), Signal(range(self.readers))
        m.d.comb += chosen.eq(self.readers - 1)
        for number, reader in reversed(list(enumerate(readers))):
            with m.If(reader.request.valid):
                m.d.comb += chosen.eq(number)
        with m.If(held):
            m.d.comb += chosen.eq(choice)
        m.d.sync += [held.eq(request.valid & ~request.ready), choice.eq(chosen)]
        m.d.comb += [
            request.valid.eq(Cat(reader.request.valid for reader in readers).any() & owners.i.ready),
            request.payload.eq(Array(reader.request.payload.as_value() for reader in readers)[chosen]),
            owners.i.valid.eq(request.valid & request.ready), owners.i.p.reader.eq(chosen),
            owners.i.p.words.eq(request.p.length), owners.i.p.single.eq(request.p.length == 1),
            *(reader.request.ready.eq(owners.i.valid & (chosen == n)) for n, reader in enumerate(readers)),
        ]
        self._answers(m, owners, readers)
        return m

    def _answers(self, m, owners, readers):
        """Words to whom they belong. A burst's owner is known in the cycle behind its request, at the latest."""
        word, taken = self.port.data, Signal()
        owner, known = burst_owner(m, owners, taken)
        for number, reader in enumerate(readers):
            m.d.comb += [reader.data.payload.eq(word.payload),
                         reader.data.valid.eq(word.valid & known & (owner.reader == number))]
        m.d.comb += [
            word.ready.eq(known & Array(reader.data.ready for reader in readers)[owner.reader]),
            taken.eq(word.valid & word.ready),
        ]


class PlaneReader(wiring.Component):
    """Reads a plane of a slab in external memory, element after element, ahead of whoever wants it.

    One element a cycle as long as the memory keeps up. After `start`, the first element is there when the memory has
    answered, 4 cycles not counted; what was read too far, or is still on its way, is dropped. Bursts are a quarter
    of what is asked for ahead, 2 to 8 words.

    Parameters
    ----------
    weight_params : Parameters
        Of the weight port. PREFETCH elements in LUT RAM.

    Members
    -------
    start : In(1), address : In(EXTERNAL_POINTER)
        Go on from this element; without EXTERNAL_BIT in the address, read nothing until the next start.
    ready : Out(1), enable : In(1), data : Out(16)
        The next element may be taken, and is; data comes a cycle later and stays until the next one is taken.
    stop : In(1)
        Asks for no further burst; one that is offered stays offered.
    port : Out(weight port)
        Takes the words that it has asked for at once.
    """

    def __init__(self, weight_params: Parameters):
        self.weight_params = weight_params
        self.elements = elements_a_word(weight_params)
        self.depth = min(max(PREFETCH // self.elements, 8), 32)
        self.burst = self.depth // 4
        super().__init__({
            "start": In(1), "address": In(EXTERNAL_POINTER), "ready": Out(1), "enable": In(1), "data": Out(16),
            "stop": In(1), "port": Out(weight_port(weight_params)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = ResetInserter(self.start)(Queue(8 * self.weight_params.pes, self.depth))
        pops = Signal()
        self._ask(m, words.i, pops)
        bits = (self.elements - 1).bit_length()
        word, has_word, index, last = Signal(words.o.payload.shape()), Signal(), Signal(max(bits, 1)), Signal()
        m.d.comb += [
            last.eq(index[:bits].all()), self.ready.eq(has_word & ~self.start),
            words.o.ready.eq(~has_word | (self.enable & last)), pops.eq(words.o.valid & words.o.ready),
        ]
        with m.If(words.o.ready):
            m.d.sync += [word.eq(words.o.payload), has_word.eq(words.o.valid)]
        with m.If(self.enable):
            m.d.sync += self.data.eq(word.word_select(index[:bits], 16))
            if bits:
                m.d.sync += index.eq(index + 1)
        with m.If(self.start):
            m.d.sync += [has_word.eq(0), index.eq(self.address[:bits])]
        return m

    def _ask(self, m, words, pops):
        """Asks for bursts while there is room for them, and lets in the words of those since the last start."""
        request, answer = self.port.request, self.port.data
        bits = (self.elements - 1).bit_length()
        active, address = Signal(), Signal.like(request.p.address)
        room = Signal(range(self.depth + 1), init=self.depth)       # for words that have not been asked for
        on_way, drop = Signal(range(2 * self.depth)), Signal(range(2 * self.depth))
        arrives, asks = Signal(), Signal()
        m.d.comb += [
            answer.ready.eq(1), arrives.eq(answer.valid), request.p.length.eq(self.burst),
            words.payload.eq(answer.payload), words.valid.eq(arrives & (drop == 0)),
            # Slabs that change faster than the memory answers must not pile up bursts.
            asks.eq(active & (room >= self.burst) & (on_way <= self.depth) & ~(request.valid | self.stop | self.start)),
        ]
        with m.If(asks):
            m.d.sync += [request.valid.eq(1), request.p.address.eq(address), address.eq(address + self.burst)]
        with m.Elif(request.ready):
            m.d.sync += request.valid.eq(0)
        m.d.sync += [on_way.eq(on_way + Mux(asks, self.burst, 0) - arrives),
                     room.eq(room - Mux(asks, self.burst, 0) + pops)]
        with m.If(arrives & (drop != 0)):
            m.d.sync += drop.eq(drop - 1)
        with m.If(self.start):
            m.d.sync += [active.eq(self.address[EXTERNAL_BIT]), address.eq(self.address[bits:EXTERNAL_BIT]),
                         room.eq(self.depth), drop.eq(on_way - arrives)]


class PlaneWriter(wiring.Component):
    """Puts elements of a plane together to words of external memory; an element a cycle.

    A plane begins with a word, and its elements come in order: only the first one's address counts. In its last
    word, what is behind the last element is junk.

    Members
    -------
    i : In(stream of ELEMENT_WRITE)
    end : In(1)
        The plane has ended, and no element is offered: what there is of its last word goes out.
    busy : Out(1)
        There are elements here.
    o : Out(stream of write_layout)
    """

    def __init__(self, weight_params: Parameters):
        self.weight_params = weight_params
        self.elements = elements_a_word(weight_params)
        super().__init__({"i": In(stream.Signature(ELEMENT_WRITE)), "end": In(1), "busy": Out(1),
                          "o": Out(stream.Signature(write_layout(weight_params)))})

    def elaborate(self, platform):
        m = Module()
        bits = (self.elements - 1).bit_length()
        index, parts = Signal(max(bits, 1)), Signal(data.ArrayLayout(16, self.elements - 1))    # all but a word's last
        address, place, begun = Signal.like(self.o.p.address), Signal.like(self.o.p.address), Signal()
        filled, flush, last, free, takes = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(index[:bits].all()), free.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(~flush & (~last | free)), takes.eq(self.i.valid & self.i.ready),
            self.busy.eq(filled | self.o.valid),
            place.eq(Mux(begun, address, self.i.p.address[bits:EXTERNAL_BIT])),
        ]
        with m.If(free):
            m.d.sync += [self.o.valid.eq((takes & last) | flush), self.o.p.address.eq(place),
                         self.o.p.data.eq(Cat(parts, self.i.p.bits))]
        with m.If(takes):
            m.d.sync += [index.eq(index + 1), filled.eq(~last), begun.eq(1), address.eq(place + last)]
            for number in range(self.elements - 1):
                with m.If(index == number):
                    m.d.sync += parts[number].eq(self.i.p.bits)
        with m.Elif(flush & free):
            m.d.sync += [filled.eq(0), flush.eq(0), begun.eq(0)]
        with m.Elif(self.end):
            m.d.sync += [flush.eq(filled), begun.eq(filled), index.eq(0)]
        return m


class ExternalFeatures(wiring.Component):
    """Feature memory of which a part lies in external memory, behind the weight port: `FeatureMemory`, and more.

    A pointer with EXTERNAL_BIT set counts elements of 16 bits in external memory, any other one words on chip, which
    are read and written as fast as without external maps. In external memory, slabs are only written from their start
    upwards, an element a cycle and plane, and read likewise, from `starts` on.

    Parameters
    ----------
    params : ConvParameters
    weight_params : Parameters
        Of the weight port; an even number of weights. With 8, about 2000 LUTs more.

    Members
    -------
    result_map, result_value, input_map, input_value : as for `FeatureMemory`, but results may have to wait
    map_address, map_enable, map_data, value_address, value_enable, value_data : as for `FeatureMemory`
    map_ready, value_ready : Out(1)
        The next word of a plane may be read.
    starts : In(1)
        The addresses are those of another slab, or of another place in this one, from this cycle on.
    result_ends, input_ends : In(1)
        A slab has ended, and none of its words is offered.
    result_written, input_written : Out(1)
        All words taken are where bursts that are asked for from now on find them; the last ones after `ends` only.
    kernels : In(weight port), port : Out(weight port)
        Kernels after maps.
    write : Out(stream of write_layout)
        Words of maps. Not forgotten by a reset while offered.
    stop : In(1)
        Asks for no further burst of maps; one that is offered stays offered.
    """

    def __init__(self, params: ConvParameters, weight_params: Parameters):
        self.params, self.weight_params = params, weight_params
        self.memory = FeatureMemory(params)
        port = weight_port(weight_params)
        super().__init__({
            **self.memory.signature.members, "map_ready": Out(1), "value_ready": Out(1), "starts": In(1),
            "result_ends": In(1), "input_ends": In(1), "result_written": Out(1), "input_written": Out(1),
            "kernels": In(port), "port": Out(port), "write": Out(stream.Signature(write_layout(weight_params))),
            "stop": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        m.submodules.share = share = PortShare(self.weight_params, 3)
        connect(m, share.port, flipped(self.port))
        connect(m, flipped(self.kernels), share.reader2)
        for number, plane in enumerate(("map", "value")):
            self._read(m, plane, getattr(share, f"reader{number}"))
        self._write_words(m, [self._write(m, plane) for plane in PLANE_WRITERS])
        return m

    def _read(self, m, plane, port):
        """One plane's words, from where the present slab is."""
        m.submodules[f"{plane}_reader"] = reader = PlaneReader(self.weight_params)
        connect(m, reader.port, port)
        address, enable = getattr(self, f"{plane}_address"), getattr(self, f"{plane}_enable")
        external = address[EXTERNAL_BIT]
        # An address stays until a word of the memory has come, but values come a cycle later.
        cycles = plane == "value"
        m.d.comb += [
            reader.start.eq(self.starts), reader.address.eq(address), reader.stop.eq(self.stop),
            reader.enable.eq(enable & external), getattr(self, f"{plane}_ready").eq(~external | reader.ready),
            getattr(self.memory, f"{plane}_address").eq(address), getattr(self.memory, f"{plane}_enable").eq(enable),
            getattr(self, f"{plane}_data").eq(Mux(delay(m, external, cycles), delay(m, reader.data, cycles),
                                                  getattr(self.memory, f"{plane}_data"))),
        ]

    def _write(self, m, name):
        """One stream of words or values, to feature memory or to a writer of its own, which is returned."""
        m.submodules[f"{name}_writer"] = writer = PlaneWriter(self.weight_params)
        taken, memory, item = getattr(self, name), getattr(self.memory, name), writer.i
        external = taken.p.address[EXTERNAL_BIT]
        m.d.comb += [
            memory.payload.eq(taken.payload), memory.valid.eq(taken.valid & ~external),
            item.valid.eq(taken.valid & external), writer.end.eq(getattr(self, f"{name.split('_')[0]}_ends")),
        ]
        if name.endswith("map"):
            m.d.comb += [item.p.address.eq(taken.p.address), item.p.bits.eq(taken.p.bits),
                         taken.ready.eq(Mux(external, item.ready, memory.ready))]
            return writer
        second, goes_on = Signal(name=f"{name}_second"), Signal(name=f"{name}_goes_on")
        m.d.comb += [
            goes_on.eq(taken.p.two & ~second), item.p.address.eq(taken.p.address),
            item.p.bits.eq(Mux(second, taken.p.next_value, taken.p.value)),
            taken.ready.eq(Mux(external, item.ready & ~goes_on, memory.ready)),
        ]
        with m.If(item.valid & item.ready):
            m.d.sync += second.eq(goes_on)
        return writer

    def _write_words(self, m, writers):
        """Words of all writers to the memory, through a register that outlives a reset."""
        valid, is_input = Signal(reset_less=True), Signal(reset_less=True)
        word, free = Signal(write_layout(self.weight_params), reset_less=True), Signal()
        m.d.comb += [free.eq(~valid | self.write.ready), self.write.valid.eq(valid), self.write.payload.eq(word)]
        with m.If(free):
            m.d.sync += valid.eq(0)
        waits = Const(0)
        for number, writer in enumerate(writers):
            m.d.comb += writer.o.ready.eq(free & ~waits)
            with m.If(writer.o.valid & writer.o.ready):
                m.d.sync += [valid.eq(1), word.eq(writer.o.payload), is_input.eq(number >= 2)]
            waits = waits | writer.o.valid
        m.d.comb += [
            self.result_written.eq(~(writers[0].busy | writers[1].busy | (valid & ~is_input))),
            self.input_written.eq(~(writers[2].busy | writers[3].busy | (valid & is_input))),
        ]
