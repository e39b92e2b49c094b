"""From results to where they are needed: feature memory, or whoever takes single elements."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters

from .conv_numerics import chunk_layout, map_write_layout, result_layout, value_write_layout
from .map_encoder import MapEncoder, encoder_job_layout
from .numerics import ACTIVATION


class Serialiser(wiring.Component):
    """Chunks to elements, the used lanes only, lane 0 first; one element a cycle.

    Members
    -------
    chunk : In(stream of chunk_layout)
    element : Out(stream of ACTIVATION)
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({"chunk": In(stream.Signature(chunk_layout(params))),
                          "element": Out(stream.Signature(ACTIVATION))})

    def elaborate(self, platform):
        m = Module()
        lanes = self.params.lanes
        values, used = Signal(data.ArrayLayout(ACTIVATION, lanes)), Signal(lanes)
        last = Signal()
        m.d.comb += [
            last.eq(~used[1:].any()), self.element.valid.eq(used[0]), self.element.payload.eq(values[0]),
            self.chunk.ready.eq(~used[0] | (self.element.ready & last)),
        ]
        with m.If(self.chunk.ready):
            m.d.sync += [values.eq(self.chunk.p.values), used.eq(Mux(self.chunk.valid, self.chunk.p.used, 0))]
        with m.Elif(self.element.ready):
            m.d.sync += [values.eq(values.as_value() >> 16), used.eq(used >> 1)]
        return m


def writer_job_layout(params: ConvParameters):
    """Where a pass's slab begins, unless its results leave as elements."""
    return data.StructLayout({"place": encoder_job_layout(params), "dense": 1})


class ResultWriter(wiring.Component):
    """Results of one pass after the other: compressed into feature memory, or as elements to whoever wants them.

    Members
    -------
    job : In(stream of writer_job_layout)
    result : In(stream of result_layout)
    map, value : Out(streams)
        To feature memory.
    element : Out(stream of ACTIVATION)
    written : Out(1)
        A pass is complete: in feature memory, or on its way to whoever takes the elements.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(writer_job_layout(params))),
            "result": In(stream.Signature(result_layout(params))),
            "map": Out(stream.Signature(map_write_layout(params))),
            "value": Out(stream.Signature(value_write_layout(params))),
            "element": Out(stream.Signature(ACTIVATION)), "written": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = MapEncoder(self.params, self.params.lanes)
        m.submodules.serialiser = serialiser = Serialiser(self.params)
        connect(m, encoder.map, flipped(self.map))
        connect(m, encoder.value, flipped(self.value))
        connect(m, serialiser.element, flipped(self.element))
        dense, result = Signal(), self.result
        m.d.comb += [encoder.job.eq(self.job.p.place), encoder.chunk.payload.eq(result.p.chunk),
                     serialiser.chunk.payload.eq(result.p.chunk)]
        with m.FSM():
            with m.State("JOB"):
                m.d.comb += [self.job.ready.eq(1), encoder.start.eq(self.job.valid)]
                m.d.sync += dense.eq(self.job.p.dense)
                with m.If(self.job.valid):
                    m.next = "FORWARD"
            with m.State("FORWARD"):
                is_chunk = result.valid & ~result.p.end
                m.d.comb += [encoder.chunk.valid.eq(is_chunk & ~dense), serialiser.chunk.valid.eq(is_chunk & dense),
                             result.ready.eq(result.p.end | Mux(dense, serialiser.chunk.ready, encoder.chunk.ready))]
                with m.If(result.valid & result.p.end):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.written.eq(encoder.idle)
                with m.If(encoder.idle):
                    m.next = "JOB"
        return m
