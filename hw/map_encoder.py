"""From results to feature memory: the encoder that leaves zeros out."""

from dataclasses import replace
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.conv_layout import MAP_BITS, ConvParameters

from .conv_numerics import chunk_layout, map_write_layout, value_write_layout
from .numerics import ACTIVATION


def encoder_job_layout(params: ConvParameters):
    """Where a slab begins: its first map word and its first value."""
    return data.StructLayout({"map": range(params.map_depth), "value": range(params.value_depth)})


class MapEncoder(wiring.Component):
    """Writes chunks of results as sparsity maps and non-zero values.

    Looks at all elements of a chunk at once and sends up to two non-zero values a cycle, so a chunk takes half as many
    cycles as it has non-zero values, rounded up, and one if it has none. A map word goes out when 16 channels have
    come or the position ends. Latency from a chunk: 1 cycle to its map word, 2 cycles to its first values. A stalled
    output stops the input a chunk later. Does not check that a slab has room for all that is written.

    Parameters
    ----------
    params : ConvParameters
        Depths of feature memory.
    lanes : int
        Elements of a chunk, a power of two up to 16. Costs about 20 LUTs each, and 100 for all.

    Members
    -------
    start : In(1), job : In(encoder_job_layout)
        Begins a slab. Only while `idle`; no chunk is taken in this cycle.
    idle : Out(1)
        All chunks taken so far are in feature memory.
    chunk : In(stream of chunk_layout)
        Channels of a position ascending; all chunks but a position's last one are full.
    map, value : Out(streams of map_write_layout, value_write_layout)
        To feature memory.
    """

    def __init__(self, params: ConvParameters, lanes: int):
        if lanes not in (1, 2, 4, 8, 16):
            raise ValueError(f"lanes must be a power of two up to {MAP_BITS}, not {lanes!r}")
        self.params, self.lanes = params, lanes
        super().__init__({
            "start": In(1), "job": In(encoder_job_layout(params)), "idle": Out(1),
            "chunk": In(stream.Signature(chunk_layout(replace(params, macs=4 * lanes)))),
            "map": Out(stream.Signature(map_write_layout(params))),
            "value": Out(stream.Signature(value_write_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        takes, nonzero = Signal(), Signal(self.lanes)
        value_free, map_free = Signal(), Signal()       # the output's register may be written
        m.d.comb += [
            nonzero.eq(Cat(self.chunk.p.values[lane].any() for lane in range(self.lanes))),
            map_free.eq(~self.map.valid | self.map.ready), self.chunk.ready.eq(value_free & map_free & ~self.start),
            takes.eq(self.chunk.valid & self.chunk.ready),
        ]
        pending = self._send_values(m, takes, nonzero, value_free)
        self._send_maps(m, takes, nonzero, map_free)
        m.d.comb += self.idle.eq(~(pending.any() | self.value.valid | self.map.valid))
        return m

    def _send_values(self, m, takes, nonzero, free):
        """Keeps a chunk until its non-zero values are sent, from the lowest lane up; `free` when it can be replaced."""
        lanes = self.lanes
        values = Signal(data.ArrayLayout(ACTIVATION, lanes))
        # One-hot, the two lanes whose values go next; and those behind them. Kept, so that `free` comes early.
        lowest, second, rest = (Signal(lanes, name=name) for name in ("lowest", "second", "rest"))
        moves, address = Signal(), Signal(range(self.params.value_depth))

        def chosen(lane_bits):      # an OR of one-hot choices; a priority multiplexer would be slow
            return reduce(or_, (values[lane].as_unsigned() & lane_bits[lane].replicate(16) for lane in range(lanes)))

        def split(bits):
            others = bits & (bits - 1)
            rest_of_them = others & (others - 1)
            return [lowest.eq(bits & ~others), second.eq(others & ~rest_of_them), rest.eq(rest_of_them)]

        m.d.comb += [
            moves.eq(~self.value.valid | self.value.ready),
            free.eq(~rest.any() & (moves | ~lowest.any())),
        ]
        with m.If(moves):
            m.d.sync += [self.value.valid.eq(lowest.any()), self.value.p.address.eq(address),
                         self.value.p.value.eq(chosen(lowest)), self.value.p.next_value.eq(chosen(second)),
                         self.value.p.two.eq(second.any()), address.eq(address + lowest.any() + second.any()),
                         *split(rest)]
        with m.If(takes):
            m.d.sync += [values.eq(self.chunk.p.values), *split(nonzero)]
        with m.If(self.start):
            m.d.sync += address.eq(self.job.value)
        return lowest

    def _send_maps(self, m, takes, nonzero, free):
        """Collects the flags of up to 16 channels in a word."""
        groups = MAP_BITS // self.lanes
        group, bits, merged = Signal(range(groups)), Signal(MAP_BITS), Signal(MAP_BITS)
        address, complete = Signal(range(self.params.map_depth)), Signal()
        m.d.comb += [merged.eq(bits), complete.eq(self.chunk.p.last | (group == groups - 1))]
        for number in range(groups):        # not an index, which Yosys drops if it has no bits
            with m.If(group == number):
                m.d.comb += merged[number * self.lanes:(number + 1) * self.lanes].eq(nonzero)
        with m.If(free):
            m.d.sync += self.map.valid.eq(takes & complete)
        with m.If(takes):
            m.d.sync += [group.eq(group + 1), bits.eq(merged), self.map.p.bits.eq(merged),
                         self.map.p.address.eq(address), address.eq(address + complete)]
            with m.If(complete):
                m.d.sync += [group.eq(0), bits.eq(0)]
        with m.If(self.start):
            m.d.sync += [address.eq(self.job.map), group.eq(0), bits.eq(0)]
