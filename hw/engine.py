"""The engine of a gateware: the delta engine, and with it, if wanted, the CNN engine in front of it."""

from types import SimpleNamespace

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import Parameters, Register, Route

from .arbiter import WeightArbiter
from .conv import ConvEngine
from .delta import REGISTER_BITS, DeltaEngine
from .map_events import MapEvents
from .memory import weight_port, write_layout
from .numerics import ACTIVATION, delay
from .queue import Queue

CROSSING_DEPTH = 4      # elements that wait between the two engines, so that neither's ready depends on the other's


class Engine(wiring.Component):
    """Everything between the host's streams and the weight memory. Without `params.conv` the delta engine alone.

    ::

        input -+-------------------------------------> DeltaEngine --+-> output
               '-> ConvEngine -+-> MapEvents -> (events)  ^          |
                               +--------------------------'          |
                               '-------------------------------------'

    Which way is open is in the register ROUTE (docs/convolution.md, `amacrine.sw.layout.Route`). An element takes a
    cycle through each of the two queues that are around the CNN engine. Clearing stops the CNN engine's bursts,
    waits for the last one's words and then holds it, and what is on its way behind it, in reset until both are clear.

    Members
    -------
    weights : Out(weight port)
    write : Out(stream of write_layout)
        Only with `conv.external`: maps that do not fit on chip.
    input, output : streams of ACTIVATION
        Vectors, element 0 first, or maps, in the orders of `ConvProgram`.
    bus_address, bus_w_data, bus_write : In; bus_r_data : Out
        Registers (`amacrine.sw.layout.Register`); data is read three cycles after the address.
    """

    def __init__(self, params: Parameters | None = None):
        self.params = params = params or Parameters()
        super().__init__({
            "weights": Out(weight_port(params)),
            "input": In(stream.Signature(ACTIVATION)), "output": Out(stream.Signature(ACTIVATION)),
            "bus_address": In(REGISTER_BITS), "bus_w_data": In(32), "bus_write": In(1), "bus_r_data": Out(32),
            **({"write": Out(stream.Signature(write_layout(params)))} if params.writes else {}),
        })

    def elaborate(self, platform):
        m, params = Module(), self.params
        m.submodules.delta = delta = DeltaEngine(params)
        m.d.comb += [delta.bus_address.eq(self.bus_address), delta.bus_w_data.eq(self.bus_w_data),
                     delta.bus_write.eq(self.bus_write), self.bus_r_data.eq(delta.bus_r_data)]
        if params.conv is None:
            connect(m, flipped(self.input), delta.input)
            connect(m, delta.output, flipped(self.output))
            connect(m, delta.weights, flipped(self.weights))
            return m
        held = Signal()         # the CNN engine's reset
        parts = SimpleNamespace(
            delta=delta, conv=ConvEngine(params.conv, params), arbiter=WeightArbiter(params), map_events=MapEvents(),
            inputs=Queue(ACTIVATION, CROSSING_DEPTH), results=Queue(ACTIVATION, CROSSING_DEPTH))
        m.submodules.conv, m.submodules.arbiter, m.submodules.map_events = parts.conv, parts.arbiter, parts.map_events
        m.submodules.inputs, m.submodules.results = (ResetInserter(held)(queue)
                                                     for queue in (parts.inputs, parts.results))
        connect(m, delta.weights, parts.arbiter.columns)
        connect(m, parts.conv.weights, parts.arbiter.kernels)
        connect(m, parts.arbiter.port, flipped(self.weights))
        if params.writes:
            connect(m, parts.conv.write, flipped(self.write))
        connect(m, parts.inputs.o, parts.conv.input)
        connect(m, parts.conv.output, parts.results.i)
        connect(m, parts.map_events.event, delta.map_event)
        self._route(m, parts)
        self._control(m, parts, held)
        self._bus(m, parts)
        return m

    def _route(self, m, parts):
        """Opens the ways that ROUTE names."""
        delta, inputs, results, elements = parts.delta, parts.inputs.i, parts.results.o, parts.map_events.element
        route = {way: Signal(name=way.name.lower(), init=way == Route.VECTOR) for way in Route}
        with m.If(self.bus_write & (self.bus_address == Register.ROUTE)):
            m.d.sync += [is_open.eq(self.bus_w_data == way) for way, is_open in route.items()]
        vector, to_vector, to_events, to_host = route.values()
        takes_maps = Signal()
        m.d.comb += [
            takes_maps.eq(~vector & delta.run & ~delta.stopping),
            inputs.payload.eq(self.input.payload), inputs.valid.eq(self.input.valid & takes_maps),
            delta.input.payload.eq(Mux(vector, self.input.payload, results.payload)),
            delta.input.valid.eq(Mux(vector, self.input.valid, results.valid & to_vector)),
            self.input.ready.eq(Mux(vector, delta.input.ready, inputs.ready & takes_maps)),
            elements.payload.eq(results.payload), elements.valid.eq(results.valid & to_events),
            self.output.payload.eq(Mux(to_host, results.payload, delta.output.payload)),
            self.output.valid.eq(Mux(to_host, results.valid, delta.output.valid)),
            delta.output.ready.eq(self.output.ready & ~to_host),
            results.ready.eq((to_vector & delta.input.ready) | (to_events & elements.ready)
                             | (to_host & self.output.ready)),
        ]

    def _control(self, m, parts, held):
        """CONTROL is the delta engine's; what it says of running, rest and clearing is true of both."""
        delta, conv, map_events = parts.delta, parts.conv, parts.map_events
        rested = Signal(4)      # cycles without a burst of kernels on its way, since no more may be asked for
        with m.If(~delta.stopping | ~parts.arbiter.kernels_idle):
            m.d.sync += rested.eq(0)
        with m.Elif(~rested.all()):
            m.d.sync += rested.eq(rested + 1)
        with m.If(delta.stopping & rested.all()):
            m.d.sync += held.eq(1)
        with m.Elif(~delta.stopping & ~delta.clearing & conv.cleared):
            m.d.sync += held.eq(0)
        m.d.comb += [
            conv.run.eq(delta.run), conv.stop.eq(delta.stopping), conv.reset.eq(held), map_events.reset.eq(held),
            map_events.length.eq(delta.length), delta.others_cleared.eq(~held),
        ]
        m.d.sync += delta.others_rest.eq(Mux(
            delta.stopping, held, conv.quiet & ~parts.results.o.valid & ~map_events.event.valid))

    def _bus(self, m, parts):
        """The CNN engine's page."""
        conv, meant = parts.conv, Signal()
        m.d.comb += [
            meant.eq(self.bus_address[15] & ~self.bus_address[16:].any()),
            conv.bus_address.eq(self.bus_address[:15]), conv.bus_w_data.eq(self.bus_w_data),
            conv.bus_write.eq(self.bus_write & meant),
            parts.delta.others_data.eq(Mux(delay(m, meant, 2), conv.bus_r_data, 0)),
        ]
