"""Feature memory of the CNN engine: where feature maps rest, zeros left out."""

from amaranth.hdl import Module, Mux, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.conv_layout import MAP_BITS, ConvParameters

from .conv_numerics import map_write_layout, value_write_layout
from .numerics import ACTIVATION
from .ram import block_ram, read_port


class FeatureMemory(wiring.Component):
    """The two planes of feature memory: sparsity maps and non-zero values (docs/convolution.md).

    Each plane takes one word and gives one word a cycle. The engine's results are taken at once; the
    input waits for a cycle in which there is none for the same plane. A word must not be read in the cycle in which
    it is written. Block RAM: (map_depth + value_depth) * 16 bits.

    Members
    -------
    result_map, result_value : In(streams of map_write_layout, value_write_layout)
        Always ready.
    input_map, input_value : In(streams of map_write_layout, value_write_layout)
    map_address, map_enable : In; map_data : Out(16)
        Data a cycle after the address, kept while not enabled.
    value_address, value_enable : In; value_data : Out(ACTIVATION)
        The same for values.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        map_write = stream.Signature(map_write_layout(params))
        value_write = stream.Signature(value_write_layout(params))
        super().__init__({
            "result_map": In(map_write), "result_value": In(value_write),
            "input_map": In(map_write), "input_value": In(value_write),
            "map_address": In(range(params.map_depth)), "map_enable": In(1), "map_data": Out(MAP_BITS),
            "value_address": In(range(params.value_depth)), "value_enable": In(1), "value_data": Out(ACTIVATION),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.maps = maps = block_ram(unsigned(MAP_BITS), self.params.map_depth)
        m.submodules.values = values = block_ram(ACTIVATION, self.params.value_depth)
        self._write(m, maps, self.result_map, self.input_map, "bits")
        self._write(m, values, self.result_value, self.input_value, "value")
        map_read, value_read = read_port(m, maps), read_port(m, values)
        m.d.comb += [
            map_read.addr.eq(self.map_address), map_read.en.eq(self.map_enable), self.map_data.eq(map_read.data),
            value_read.addr.eq(self.value_address), value_read.en.eq(self.value_enable),
            self.value_data.eq(value_read.data),
        ]
        return m

    @staticmethod
    def _write(m, plane, first, second, word):
        """One write port for two streams, of which `first` goes first."""
        write = plane.write_port()
        m.d.comb += [
            first.ready.eq(1), second.ready.eq(~first.valid),
            write.en.eq(first.valid | second.valid),
            write.addr.eq(Mux(first.valid, first.p.address, second.p.address)),
            write.data.eq(Mux(first.valid, first.p[word], second.p[word])),
        ]
