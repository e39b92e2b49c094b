"""Feature memory of the CNN engine: where feature maps rest, zeros left out."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.conv_layout import MAP_BITS, ConvParameters

from .conv_numerics import map_write_layout, pointer_shape, value_write_layout
from .numerics import ACTIVATION, delay
from .ram import block_ram, read_port


class FeatureMemory(wiring.Component):
    """The two planes of feature memory: sparsity maps and non-zero values (docs/convolution.md).

    Each plane gives one word a cycle; the maps take one, the values one or two that are neighbours, for they lie in two
    banks, even addresses and odd ones. The engine's results are taken at once; the
    input waits for a cycle in which there is none for the same plane. A word must not be read in the cycle in which
    it is written. Block RAM: (map_depth + value_depth) * 16 bits. Of addresses that have more bits, the low ones count.

    Members
    -------
    result_map, result_value : In(streams of map_write_layout, value_write_layout)
        Always ready.
    input_map, input_value : In(streams of map_write_layout, value_write_layout)
    map_address, map_enable : In; map_data : Out(16)
        Data a cycle after the address, kept while not enabled.
    value_address, value_enable : In; value_data : Out(ACTIVATION)
        Data two cycles after an address that is enabled.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        map_write = stream.Signature(map_write_layout(params))
        value_write = stream.Signature(value_write_layout(params))
        super().__init__({
            "result_map": In(map_write), "result_value": In(value_write),
            "input_map": In(map_write), "input_value": In(value_write),
            "map_address": In(pointer_shape(params, params.map_depth)), "map_enable": In(1), "map_data": Out(MAP_BITS),
            "value_address": In(pointer_shape(params, params.value_depth)), "value_enable": In(1),
            "value_data": Out(ACTIVATION),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.maps = maps = block_ram(unsigned(MAP_BITS), self.params.map_depth)
        write, read = maps.write_port(), read_port(m, maps)
        word, written = self._first_of(m, self.result_map, self.input_map)
        m.d.comb += [
            write.en.eq(written), write.addr.eq(word.address), write.data.eq(word.bits),
            read.addr.eq(self.map_address), read.en.eq(self.map_enable), self.map_data.eq(read.data),
        ]
        self._values(m)
        return m

    def _values(self, m):
        """The banks of values. Each has a register, which becomes part of the block RAM, before one is selected."""
        pair, written = self._first_of(m, self.result_value, self.input_value)
        odd = pair.address[0]
        words = []
        for bank in range(2):
            m.submodules[f"values{bank}"] = ram = block_ram(ACTIVATION, self.params.value_depth // 2)
            write, read = ram.write_port(), read_port(m, ram)
            first = odd == bank         # it gets the first value
            m.d.comb += [
                write.en.eq(written & (first | pair.two)), write.data.eq(Mux(first, pair.value, pair.next_value)),
                # Only an odd address has its neighbour in another row.
                write.addr.eq((pair.address >> 1) + (odd & ~first)),
                read.addr.eq(self.value_address >> 1), read.en.eq(self.value_enable),
            ]
            words.append(delay(m, read.data, 1))
        m.d.comb += self.value_data.eq(Mux(delay(m, self.value_address[0], 2), words[1], words[0]))

    @staticmethod
    def _first_of(m, first, second):
        """The payload of the one of two streams that is written, and whether there is one; `first` goes first."""
        m.d.comb += [first.ready.eq(1), second.ready.eq(~first.valid)]
        payload = Signal.like(first.p)
        m.d.comb += payload.eq(Mux(first.valid, first.p, second.p))
        return payload, first.valid | second.valid
