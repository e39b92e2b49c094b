"""The tops that are simulated: an engine with an ideal weight memory, and components for themselves."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.hw.memory import WeightMemory
from amacrine.hw.numerics import ACTIVATION
from amacrine.sw.layout import Parameters

MAX_LATENCY = 128


class SimulationTop(wiring.Component):
    """An engine and its `WeightMemory`, with the host's side of both as ports.

    Parameters
    ----------
    engine : Engine or ConvEngine
    params : Parameters
        Of its weight port.
    depth : int
        Words of weight memory.

    Members
    -------
    word_taken : Out(1)
        A weight word is consumed in this cycle.
    word_written : Out(1)
        The engine writes a word in this cycle.
    """

    def __init__(self, engine: wiring.Component, params: Parameters, depth: int):
        self.engine, self.params, self.depth = engine, params, depth
        super().__init__({
            "input": In(stream.Signature(ACTIVATION)), "output": Out(stream.Signature(ACTIVATION)),
            "bus_address": In(len(engine.bus_address)), "bus_w_data": In(32), "bus_write": In(1), "bus_r_data": Out(32),
            "weight_address": In(range(depth)), "weight_data": In(8 * params.pes), "weight_write": In(1),
            "latency": In(range(MAX_LATENCY + 1), init=1), "stall": In(8), "word_taken": Out(1),
            "word_written": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        writes = hasattr(engine, "write")
        m.submodules.memory = memory = WeightMemory(self.params, self.depth, MAX_LATENCY, writes)
        connect(m, engine.weights, memory.port)
        if writes:
            connect(m, engine.write, memory.write)
            m.d.comb += self.word_written.eq(memory.write.valid & memory.write.ready)
        connect(m, flipped(self.input), engine.input)
        connect(m, engine.output, flipped(self.output))
        m.d.comb += [
            engine.bus_address.eq(self.bus_address), engine.bus_w_data.eq(self.bus_w_data),
            engine.bus_write.eq(self.bus_write), self.bus_r_data.eq(engine.bus_r_data),
            memory.write_address.eq(self.weight_address), memory.write_data.eq(self.weight_data),
            memory.write_enable.eq(self.weight_write),
            self.word_taken.eq(memory.port.data.valid & memory.port.data.ready),
            memory.latency.eq(self.latency), memory.stall.eq(self.stall),
        ]
        return m


class SideBySide(wiring.Component):
    """Components side by side, so that all their benches share one build; port `p` of component `c` is `c__p`.

    Parameters
    ----------
    parts : name to component
    """

    def __init__(self, parts: Mapping[str, wiring.Component]):
        self.parts = parts
        super().__init__({name: Out(part.signature) for name, part in parts.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, part in self.parts.items():
            m.submodules[name] = part
            connect(m, flipped(getattr(self, name)), part)
        return m
