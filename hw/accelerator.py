"""The accelerator of a board: engine, weights in SDRAM, link to the host. Everything but clocks and pins."""

import json

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import Parameters

from .engine import Engine
from .link import RECEIVE_BYTES, RECEIVE_FRAMES, HostLink
from .sdram import pins_signature
from .sdram_chips import SdramChip
from .weights import SdramWeights


class Accelerator(wiring.Component):
    """A whole device in one clock domain::

        rx, tx <-> HostLink <-- bus, input, output --> Engine
                       |                                 | weight port
                       '------- host port --> SdramWeights <-> SDRAM pins

    Parameters
    ----------
    params : Parameters
        Of the engine; K must be even, as the memory's words hold two weights.
    chip : SdramChip
    clock_hz, baud : int
        Of the domain `sync`, of the line.
    board, build : str
        Name of the board and digest of the gateware, for IDENTIFY.
    stream_depth, receive_bytes, ram_style
        Of the link: elements of inputs and of outputs, bytes of requests (each 1024 elements or 2048 bytes are a
        block RAM); where its smallest memories are.

    Members
    -------
    rx : In(1), tx : Out(1)
        The serial line, idle high.
    pins : the SDRAM's pins, to go through a flip-flop each
    active, busy, fault, initialised : Out(1)
        For LEDs: a frame came, a request or step is under way, something on the line was refused, the memory is
        ready.
    input_taken, output_given, word_taken : Out(1)
        For measurements: an element goes into or comes out of the engine, a weight word is consumed.
    """

    def __init__(self, params: Parameters, chip: SdramChip, clock_hz: int, baud: int, *, board: str, build: str,
                 stream_depth: int = 2048, receive_bytes: int = RECEIVE_BYTES, ram_style: str = "block"):
        self.params, self.chip, self.clock_hz, self.baud = params, chip, clock_hz, baud
        self.stream_depth, self.receive_bytes, self.ram_style = stream_depth, receive_bytes, ram_style
        self.info = json.dumps({
            "board": board, "build": build, "clock_hz": clock_hz, "baud": baud, "parameters": params.as_dict(),
            "memory_words": 1 << chip.word_bits, "receive_bytes": receive_bytes, "receive_frames": RECEIVE_FRAMES,
            "input_elements": stream_depth, "output_elements": stream_depth}).encode()
        super().__init__({
            "rx": In(1, init=1), "tx": Out(1, init=1), "pins": Out(pins_signature(chip)),
            "active": Out(1), "busy": Out(1), "fault": Out(1), "initialised": Out(1),
            "input_taken": Out(1), "output_given": Out(1), "word_taken": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = Engine(self.params)
        m.submodules.weights = weights = SdramWeights(self.params, self.chip, self.clock_hz, writes=self.params.writes)
        m.submodules.link = link = HostLink(
            self.clock_hz, self.baud, self.info, 1 << self.chip.word_bits, self.chip.word_bits,
            self.stream_depth, self.stream_depth, self.receive_bytes, self.ram_style)
        connect(m, link.input, engine.input)
        connect(m, engine.output, link.output)
        connect(m, engine.weights, weights.port)
        if self.params.writes:
            connect(m, engine.write, weights.write)
        connect(m, link.memory.write_data, weights.host_write_data)
        connect(m, weights.host_read_data, link.memory.read_data)
        connect(m, weights.pins, flipped(self.pins))
        asked, request = link.memory.request, weights.host_request
        m.d.comb += [
            request.valid.eq(asked.valid), asked.ready.eq(request.ready), request.p.address.eq(asked.p.address),
            request.p.length.eq(asked.p.length), request.p.write.eq(asked.p.write),
            link.memory.initialised.eq(weights.initialised),
            link.rx.eq(self.rx), self.tx.eq(link.tx),
            engine.bus_address.eq(link.bus.address), engine.bus_w_data.eq(link.bus.w_data),
            engine.bus_write.eq(link.bus.write), link.bus.r_data.eq(engine.bus_r_data),
            self.active.eq(link.active), self.busy.eq(link.busy), self.fault.eq(link.fault),
            self.initialised.eq(weights.initialised),
            self.input_taken.eq(engine.input.valid & engine.input.ready),
            self.output_given.eq(engine.output.valid & engine.output.ready),
            self.word_taken.eq(engine.weights.data.valid & engine.weights.data.ready),
        ]
        return m
