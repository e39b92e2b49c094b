"""Input maps from the host: compressed and put into feature memory, each step's into one of two places."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import MAX_SIDE, ConvParameters

from .conv_numerics import CHANNEL, map_write_layout, value_write_layout
from .map_encoder import MapEncoder, encoder_job_layout
from .numerics import ACTIVATION

POSITIONS = range(MAX_SIDE**2 + 1)


class InputMaps(wiring.Component):
    """Takes maps element by element, row by row, column by column, channel by channel.

    One element a cycle, a few cycles between two maps. At most two maps that have not been read for the last time
    are in feature memory; then the host waits.

    Members
    -------
    channels, positions : In
        Of a map: channels, and rows · columns; not 0.
    even, odd : In(encoder_job_layout)
        Where the maps of even and odd steps lie, slabs 0 and 1.
    run : In(1)
        Takes elements while high. A ResetInserter around the component starts a sequence.
    busy : Out(1)
        A map has been taken, and is not complete in feature memory.
    ends : Out(1), written : In(1)
        All words of a map have been taken; and those taken are complete in memory. With external maps only.
    read : In(2), done : Out(2)
        Last step, modulo 4, whose map will not be read again, and whose map is complete.
    input : In(stream of ACTIVATION)
    map, value : Out(streams of map_write_layout, value_write_layout)
        To feature memory.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "channels": In(CHANNEL), "positions": In(POSITIONS),
            "even": In(encoder_job_layout(params)), "odd": In(encoder_job_layout(params)),
            "run": In(1), "busy": Out(1), "read": In(2, init=3), "done": Out(2, init=3),
            "input": In(stream.Signature(ACTIVATION)),
            "map": Out(stream.Signature(map_write_layout(params))),
            "value": Out(stream.Signature(value_write_layout(params))),
            **({"ends": Out(1), "written": In(1)} if params.external else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = MapEncoder(self.params, lanes=1)
        connect(m, encoder.map, flipped(self.map))
        connect(m, encoder.value, flipped(self.value))
        step, channels_left, positions_left = Signal(2), Signal(CHANNEL), Signal(POSITIONS)
        last_channel, last_position, takes = Signal(), Signal(), Signal()
        chunk = encoder.chunk
        m.d.comb += [
            encoder.job.eq(Mux(step[0], self.odd, self.even)),
            chunk.p.values[0].eq(self.input.payload), chunk.p.used.eq(1), chunk.p.last.eq(last_channel),
            takes.eq(chunk.valid & chunk.ready),
        ]
        with m.FSM():
            with m.State("START"):
                m.d.sync += [channels_left.eq(self.channels), positions_left.eq(self.positions),
                             last_channel.eq(self.channels == 1), last_position.eq(self.positions == 1)]
                with m.If(self.run & ((step - self.read)[:2] != 3)):
                    m.d.comb += encoder.start.eq(1)
                    m.next = "FILL"
            with m.State("FILL"):
                m.d.comb += [chunk.valid.eq(self.input.valid & self.run), self.input.ready.eq(chunk.ready & self.run)]
                with m.If(takes):
                    m.d.sync += [channels_left.eq(channels_left - 1), last_channel.eq(channels_left == 2)]
                    with m.If(last_channel):
                        m.d.sync += [channels_left.eq(self.channels), last_channel.eq(self.channels == 1),
                                     positions_left.eq(positions_left - 1), last_position.eq(positions_left == 2)]
                        with m.If(last_position):
                            m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.busy.eq(1)
                if self.params.external:
                    m.d.comb += self.ends.eq(encoder.idle)
                with m.If(encoder.idle & (self.written if self.params.external else 1)):
                    m.d.sync += [self.done.eq(step), step.eq(step + 1)]
                    m.next = "START"
        return m
