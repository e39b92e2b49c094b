"""The serial link: the device's side of docs/protocol.md, from the pins to the engine and its memory."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .frames import FrameReceiver, FrameTransmitter
from .link_ports import memory_port, register_bus
from .link_registers import LinkRegisters
from .numerics import ACTIVATION
from .operations import Executor
from .stream_buffers import InputBuffer, OutputBuffer
from .uart import UartReceiver, UartTransmitter

RECEIVE_BYTES = 4096
RECEIVE_FRAMES = 16


class HostLink(wiring.Component):
    """Serves one host over a serial line.

    ::

        rx --> UART --> frames --> executor --> inputs --> engine
                           |       |  |  |                   |
                     registers <---'  |  '-- bus, memory     |
                                      |                      |
        tx <-- UART <-- frames <------+<------- outputs <----'

    Parameters
    ----------
    clock_hz, baud : int
        At least 4 cycles a bit.
    info : bytes
        What IDENTIFY answers: JSON, 1 to 1024 bytes.
    memory_words : int
        Words of 16 bits that the memory port can address.
    memory_address_bits : int
    input_depth, output_depth : int
        Elements of the stream buffers, powers of two.
    receive_bytes : int
        Of the receive buffer, a power of two: at least 2048, to hold any frame.
    ram_style : str
        Of the two smallest memories: "block", or "distributed" for some 300 LUTs instead of two block RAMs.
    stop_cycles : int
        How long START and ABORT wait for the engine, at most 2**24.
    origin : int
        Position of a sequence's first elements; other than 0 only for tests.
    light_bits : int
        `active` and `fault` change at most once in 2**light_bits cycles; 22 are 42 ms at 100 MHz.

    Members
    -------
    rx : In(1), tx : Out(1)
        Pins, idle high.
    bus : Out(register_bus())
        The engine's registers: `address`, `w_data`, `write`, `r_data`.
    input : Out(stream of ACTIVATION), output : In(stream of ACTIVATION)
        The engine's streams.
    memory : Out(memory_port(memory_address_bits))
    active : Out(1)
        A frame, good or bad, came a moment ago.
    busy : Out(1)
        A request is being executed, or the engine has not taken all inputs.
    fault : Out(1)
        A frame was dropped, a character was bad, or a request was refused, a moment ago; and none was done since.
    """

    def __init__(self, clock_hz, baud, info, memory_words, memory_address_bits=24, input_depth=2048,
                 output_depth=2048, receive_bytes=RECEIVE_BYTES, ram_style="block", stop_cycles=1 << 24, origin=0,
                 light_bits=22):
        self.light_bits, self.input_depth, self.receive_bytes = light_bits, input_depth, receive_bytes
        self.ram_style = ram_style
        self.receiver, self.transmitter = UartReceiver(clock_hz, baud), UartTransmitter(clock_hz, baud)
        self.inputs, self.outputs = InputBuffer(input_depth, origin), OutputBuffer(output_depth, origin)
        self.executor = Executor(info, memory_words, memory_address_bits, input_depth, output_depth, stop_cycles,
                                 ram_style)
        super().__init__({
            "rx": In(1, init=1), "tx": Out(1, init=1), "bus": Out(register_bus()),
            "input": Out(stream.Signature(ACTIVATION)), "output": In(stream.Signature(ACTIVATION)),
            "memory": Out(memory_port(memory_address_bits)), "active": Out(1), "busy": Out(1), "fault": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver, m.submodules.transmitter = receiver, transmitter = self.receiver, self.transmitter
        m.submodules.inputs, m.submodules.outputs = inputs, outputs = self.inputs, self.outputs
        m.submodules.executor = executor = self.executor
        m.submodules.frames_in = frames_in = FrameReceiver(self.receive_bytes, RECEIVE_FRAMES)
        m.submodules.frames_out = frames_out = FrameTransmitter(self.ram_style)
        m.submodules.registers = registers = LinkRegisters()
        connect(m, receiver.o, frames_in.i)
        connect(m, frames_in.o, executor.request)
        connect(m, executor.answer, frames_out.i)
        connect(m, frames_out.o, transmitter.i)
        connect(m, inputs.o, flipped(self.input))
        connect(m, flipped(self.output), outputs.i)
        connect(m, executor.bus, flipped(self.bus))
        connect(m, executor.memory, flipped(self.memory))
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), frames_in.bad_character.eq(receiver.error),
            inputs.data.eq(executor.input_data), inputs.write.eq(executor.input_write),
            inputs.clear.eq(executor.clear), outputs.clear.eq(executor.clear),
            executor.input_position.eq(inputs.position), executor.input_free.eq(inputs.free),
            executor.output_position.eq(outputs.position), executor.output_level.eq(outputs.level),
            outputs.release.eq(executor.output_release), outputs.release_to.eq(executor.output_release_to),
            outputs.address.eq(executor.output_address), executor.output_data.eq(outputs.data),
            registers.events.eq(Cat(frames_in.events, executor.refused)),
            registers.memory_initialised.eq(self.memory.initialised), registers.session.eq(executor.session),
            registers.address.eq(executor.bus.address), executor.register_data.eq(registers.data),
        ]
        self._lights(m, registers)
        return m

    def _lights(self, m, registers):
        bad, came, tick = registers.events[1:].any(), Signal(), Signal()
        m.d.sync += [
            self.busy.eq(~self.executor.idle | (self.inputs.free != self.input_depth) | self.inputs.o.valid),
            tick.eq(registers.cycles[:self.light_bits].all()), came.eq(registers.events.any()),
        ]
        recent, faults, done = Signal(), Signal(), Signal()     # since the last tick, or the last fault
        with m.If(tick):
            m.d.sync += [self.active.eq(recent), recent.eq(0),
                         self.fault.eq(faults), faults.eq(faults & ~done), done.eq(0)]
        with m.If(came):
            m.d.sync += recent.eq(1)
        with m.If(self.executor.done):
            m.d.sync += done.eq(1)
        with m.If(bad):
            m.d.sync += [faults.eq(1), done.eq(0)]
