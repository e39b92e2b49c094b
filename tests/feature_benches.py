"""The front end of the CNN engine in one top: encoders for themselves, and encoder, memory, decoder connected."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from feature_maps import chunks

from amacrine.hw.conv_numerics import FEATURE, map_write_layout, value_write_layout
from amacrine.hw.features import FeatureMemory
from amacrine.hw.map_decoder import DECODER_JOB, MapDecoder, slab_write_port
from amacrine.hw.map_encoder import MapEncoder, encoder_job_layout
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.conv_layout import ConvParameters

PARAMETERS = ConvParameters(macs=16, value_depth=8192, map_depth=2048)
LARGE = ConvParameters(macs=64, value_depth=1 << 17, map_depth=1 << 12)
"""So large that values have addresses above 16 bits."""
MEMORY = ConvParameters(value_depth=64, map_depth=16)
ENCODER_LANES = (1, 4, 16)


class Loop(wiring.Component):
    """An encoder's results go to feature memory, which the decoder reads; the bench plays the input."""

    def __init__(self, params):
        self.params = params
        self.encoder = MapEncoder(params, params.lanes)
        super().__init__({
            "start": In(1), "place": In(encoder_job_layout(params)), "idle": Out(1),
            "chunk": In(self.encoder.chunk.signature.flip()),
            "input_map": In(stream.Signature(map_write_layout(params))),
            "input_value": In(stream.Signature(value_write_layout(params))),
            "host": In(slab_write_port()), "job": In(stream.Signature(DECODER_JOB)),
            "feature": Out(stream.Signature(FEATURE)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = self.encoder
        m.submodules.memory = memory = FeatureMemory(self.params)
        m.submodules.decoder = decoder = MapDecoder(self.params)
        connect(m, flipped(self.chunk), encoder.chunk)
        connect(m, encoder.map, memory.result_map)
        connect(m, encoder.value, memory.result_value)
        connect(m, flipped(self.input_map), memory.input_map)
        connect(m, flipped(self.input_value), memory.input_value)
        connect(m, flipped(self.host), decoder.host)
        connect(m, flipped(self.job), decoder.job)
        connect(m, decoder.feature, flipped(self.feature))
        m.d.comb += [encoder.start.eq(self.start), encoder.job.eq(self.place), self.idle.eq(encoder.idle)]
        for plane in ("map", "value"):
            m.d.comb += [getattr(memory, f"{plane}_{port}").eq(getattr(decoder, f"{plane}_{port}"))
                         for port in ("address", "enable")]
            m.d.comb += getattr(decoder, f"{plane}_data").eq(getattr(memory, f"{plane}_data"))
        return m


class FrontEnd(SideBySide):
    """All components."""

    def __init__(self):
        parts = {"memory": FeatureMemory(MEMORY), "loop": Loop(PARAMETERS), "large": Loop(LARGE)}
        parts |= {f"encoder{lanes}": MapEncoder(PARAMETERS, lanes) for lanes in ENCODER_LANES}
        super().__init__(parts)


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `FrontEnd`."""
    return cocotb_runner.run(cocotb_runner.build(FrontEnd), module, work, seed)


def chunk_payloads(slab, lanes):
    """The slab as payloads of a stream of chunks."""
    payloads = []
    for chunk in chunks(slab, lanes):
        values = sum((value & 0xFFFF) << (16 * lane) for lane, value in enumerate(chunk["values"]))
        payloads.append(values | chunk["used"] << (16 * lanes) | int(chunk["last"]) << (17 * lanes))
    return payloads
