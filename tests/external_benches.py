# amaranth: UnusedElaboratable=no
"""Encoder, feature memory that is partly external, decoder and kernels, on a weight memory, in one top."""

from dataclasses import replace

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from feature_benches import PARAMETERS, Loop

from amacrine.hw.external_maps import ExternalFeatures
from amacrine.hw.map_decoder import MapDecoder
from amacrine.hw.memory import WeightMemory, weight_port
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.layout import Parameters

EXTERNAL = replace(PARAMETERS, external=1)
ELEMENTS = 1 << 18
"""Of external memory."""
WEIGHTS = {pes: Parameters(pes=pes, weight_address_bits=20) for pes in (2, 8, 32)}
MAX_LATENCY = 128


class ExternalLoop(wiring.Component):
    """An encoder's results go to feature memory, which the decoder reads; the bench plays input, kernels and host."""

    def __init__(self, pes):
        self.weight_params, self.loop = WEIGHTS[pes], Loop(EXTERNAL)
        self.depth = 2 * ELEMENTS // pes
        memory = WeightMemory(self.weight_params, self.depth, MAX_LATENCY, writes=True)
        self.names = ("write_address", "write_data", "write_enable", "latency", "stall")
        super().__init__({
            **self.loop.signature.members, **{name: memory.signature.members[name] for name in self.names},
            "result_ends": In(1), "input_ends": In(1), "result_written": Out(1), "input_written": Out(1),
            "stop": In(1), "reading": Out(1), "kernels": In(weight_port(self.weight_params)),
        })
        self.memory = memory

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder, m.submodules.decoder = encoder, decoder = self.loop.encoder, MapDecoder(EXTERNAL)
        m.submodules.features = features = ExternalFeatures(EXTERNAL, self.weight_params)
        m.submodules.memory = memory = self.memory
        connect(m, features.port, memory.port)
        connect(m, features.write, memory.write)
        connect(m, encoder.map, features.result_map)
        connect(m, encoder.value, features.result_value)
        for name in ("input_map", "input_value", "kernels"):
            connect(m, flipped(getattr(self, name)), getattr(features, name))
        connect(m, flipped(self.chunk), encoder.chunk)
        connect(m, flipped(self.host), decoder.host)
        connect(m, flipped(self.job), decoder.job)
        connect(m, decoder.feature, flipped(self.feature))
        m.d.comb += [
            encoder.start.eq(self.start), encoder.job.eq(self.place), self.idle.eq(encoder.idle),
            *(getattr(memory, name).eq(getattr(self, name)) for name in self.names),
            features.starts.eq(decoder.starts), features.stop.eq(self.stop),
            features.result_ends.eq(self.result_ends), features.input_ends.eq(self.input_ends),
            self.result_written.eq(features.result_written), self.input_written.eq(features.input_written),
            self.reading.eq(features.port.request.valid),
        ]
        for plane in ("map", "value"):
            m.d.comb += [getattr(features, f"{plane}_{port}").eq(getattr(decoder, f"{plane}_{port}"))
                         for port in ("address", "enable")]
            m.d.comb += [getattr(decoder, f"{plane}_{port}").eq(getattr(features, f"{plane}_{port}"))
                         for port in ("data", "ready")]
        return m


class ExternalParts(SideBySide):
    """One for each number of weights in a word."""

    def __init__(self):
        super().__init__({f"external{pes}": ExternalLoop(pes) for pes in WEIGHTS})


def run_bench(module, work, **options):
    """Run the cocotb tests of a module of benches against `ExternalParts`."""
    return cocotb_runner.run(cocotb_runner.build(ExternalParts), module, work, **options)
