"""From the results of a convolution to events of the layer behind it."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .numerics import ACTIVATION, INDEX, MapEvent


class MapEvents(wiring.Component):
    """Elements of flat maps, one map behind the other, to an event for each that is not zero, and an end of each map.

    Latency 1 cycle, one element a cycle, zeros too; one cycle more for a map whose last element is not zero.
    About 60 LUTs.

    Members
    -------
    length : In(12)
        Elements of a map; not 0. Change only between maps.
    reset : In(1)
        Forgets what has come of a map, and takes back an event that is offered.
    element : In(stream of ACTIVATION)
    event : Out(stream of MapEvent)
        Ascending index.
    """

    def __init__(self):
        super().__init__({
            "length": In(INDEX), "reset": In(1),
            "element": In(stream.Signature(ACTIVATION)), "event": Out(stream.Signature(MapEvent)),
        })

    def elaborate(self, platform):
        m = Module()
        element, event = self.element, self.event
        index, last, not_zero = Signal(INDEX), Signal(), Signal()
        moves, owes_end = Signal(), Signal()        # the last element was an event: its map's end is next
        m.d.comb += [
            moves.eq(~event.valid | event.ready), element.ready.eq(moves & ~owes_end),
            last.eq(index + 1 == self.length), not_zero.eq(element.payload.any()),
        ]
        with m.If(moves):
            m.d.sync += [
                event.valid.eq(owes_end | (element.valid & (not_zero | last))),
                event.p.index.eq(index), event.p.value.eq(element.payload), event.p.end.eq(owes_end | ~not_zero),
                owes_end.eq(element.valid & not_zero & last & ~owes_end),
            ]
        with m.If(element.valid & element.ready):
            m.d.sync += index.eq(index + 1)
            with m.If(last):
                m.d.sync += index.eq(0)
        with m.If(self.reset):
            m.d.sync += [index.eq(0), owes_end.eq(0), event.valid.eq(0)]
        return m
