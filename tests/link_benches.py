"""The link's components side by side in one top, and the whole link between a host's UART and a mock engine."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.hw.cobs import CobsDecoder, CobsEncoder
from amacrine.hw.frames import FrameReceiver, FrameTransmitter
from amacrine.hw.link import HostLink
from amacrine.hw.link_registers import LinkRegisters
from amacrine.hw.numerics import delay
from amacrine.hw.stream_buffers import InputBuffer, OutputBuffer
from amacrine.hw.uart import UartReceiver, UartTransmitter
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.layout import Register

RATES = {"4": (4, 1), "8": (8, 1), "33": (100_000_000, 3_000_000)}
"""Clock and baud of the UARTs, by name."""
RING_BYTES, RING_FRAMES = 2048, 4
BUFFER_DEPTH, BUFFER_ORIGIN = 16, (1 << 32) - 40

CYCLES_A_BIT = 4
INFO = b'{"board":"bench","clock_hz":4,"baud":1}'
MEMORY_WORDS = 4096 - 5
INPUT_DEPTH, OUTPUT_DEPTH = 1024, 2048
ORIGIN = (1 << 32) - 500
STOP_CYCLES = 3000
LIGHT_BITS = 10
ECHO = 0x5A5A
"""The mock engine's outputs are its inputs, XORed with this."""
MOCK_REGISTERS = 256
"""That the mock engine has; the other addresses name the same ones."""


class PlainPorts(wiring.Component):
    """A component whose streams that are always ready have only `valid` and `payload`: a port cannot be a constant."""

    def __init__(self, component):
        self.component, self.plain = component, {}
        members = {}
        for name, member in component.signature.members.items():
            if member.is_signature and getattr(member.signature, "always_ready", False):
                self.plain[name] = member.flow
                members[f"{name}__valid"] = member.flow(1)
                members[f"{name}__payload"] = member.flow(8)
            else:
                members[name] = member
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = component = self.component
        for name, member in component.signature.members.items():
            inner = getattr(component, name)
            if name in self.plain:
                for part in ("valid", "payload"):
                    outer = getattr(self, f"{name}__{part}")
                    inside = getattr(inner, part)
                    m.d.comb += inside.eq(outer) if member.flow == In else outer.eq(inside)
            elif member.is_signature:
                connect(m, inner, flipped(getattr(self, name)))
            else:
                outer = getattr(self, name)
                m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        return m


class MockEngine(wiring.Component):
    """Registers that keep what is written, CONTROL, and an echo for a network.

    Members
    -------
    hold : In(1)
        The echo waits.
    stall : In(8)
        Probability in 1/256 that a cycle of the echo does nothing.
    stop_cycles : In(16)
        From a 1 in CONTROL until it reads as cleared.
    restless : In(1)
        CONTROL does not read as quiet.
    """

    def __init__(self):
        super().__init__({
            "address": In(18), "w_data": In(32), "write": In(1), "r_data": Out(32),
            "input": In(stream.Signature(16)), "output": Out(stream.Signature(16)),
            "hold": In(1), "stall": In(8), "stop_cycles": In(16), "restless": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=unsigned(32), depth=MOCK_REGISTERS, init=[])
        write, read = ram.write_port(), ram.read_port(domain="comb")
        run, left, lfsr = Signal(), Signal(16), Signal(16, init=0xACE1)
        control = Cat(left != 0, run, ~self.restless)
        m.d.sync += lfsr.eq(Mux(lfsr[0], (lfsr >> 1) ^ 0xB400, lfsr >> 1))
        m.d.comb += [
            write.addr.eq(self.address), write.data.eq(self.w_data), write.en.eq(self.write),
            read.addr.eq(self.address),
            self.r_data.eq(delay(m, Mux(self.address == Register.CONTROL, control, read.data), 3)),
        ]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(self.write & (self.address == Register.CONTROL)):
            m.d.sync += run.eq((run | self.w_data[1]) & ~self.w_data[2] & ~self.w_data[0])
            with m.If(self.w_data[0]):
                m.d.sync += left.eq(self.stop_cycles)
        goes = Signal()
        m.d.comb += [goes.eq(run & ~self.hold & (lfsr[:8] >= self.stall)),
                     self.input.ready.eq((~self.output.valid | self.output.ready) & goes)]
        with m.If(self.output.ready):
            m.d.sync += self.output.valid.eq(0)
        with m.If(self.input.valid & self.input.ready):
            m.d.sync += [self.output.valid.eq(1), self.output.payload.eq(self.input.payload ^ ECHO)]
        with m.If(~run):
            m.d.sync += self.output.valid.eq(0)
        return m


class MockMemory(wiring.Component):
    """Memory of 4096 words behind the memory port, with idle cycles at random, that checks the port's rules.

    Members
    -------
    broken : Out(1)
        A burst was too long, or left the memory, or a word was not taken at once.
    """

    def __init__(self, signature):
        super().__init__({"port": In(signature), "stall": In(8), "broken": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=unsigned(16), depth=4096, init=[])
        write, read = ram.write_port(), ram.read_port(domain="comb")
        port, request = self.port, self.port.request
        address, left, writes, lfsr, goes = Signal(12), Signal(10), Signal(), Signal(16, init=0x1234), Signal()
        m.d.sync += lfsr.eq(Mux(lfsr[0], (lfsr >> 1) ^ 0xB400, lfsr >> 1))
        m.d.comb += [
            goes.eq(lfsr[:8] >= self.stall), request.ready.eq((left == 0) & goes & ~port.read_data.valid),
            write.addr.eq(address), read.addr.eq(address), write.data.eq(port.write_data.payload),
            port.write_data.ready.eq((left != 0) & writes & goes),
            write.en.eq(port.write_data.valid & port.write_data.ready),
        ]
        m.d.sync += port.read_data.valid.eq(0)
        with m.If(request.valid & request.ready):
            m.d.sync += [address.eq(request.p.address), left.eq(request.p.length), writes.eq(request.p.write)]
            with m.If((request.p.length == 0) | (request.p.length > 512)
                      | (request.p.address + request.p.length > MEMORY_WORDS)):
                m.d.sync += self.broken.eq(1)
        with m.If(write.en | (left != 0) & ~writes & goes):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If((left != 0) & ~writes & goes):
            m.d.sync += [port.read_data.valid.eq(1), port.read_data.payload.eq(read.data)]
        with m.If(port.read_data.valid & ~port.read_data.ready):
            m.d.sync += self.broken.eq(1)
        with m.If(port.write_data.valid & (left == 0) & ~request.valid):
            m.d.sync += self.broken.eq(1)
        return m


class LinkBench(wiring.Component):
    """A host's UART, the line, `HostLink`, and mocks behind it.

    Members
    -------
    to_device : In(stream of 8 bits), from_device : Out(stream of 8 bits, always ready)
    line_low : In(1)
        Holds the line to the device low: noise, a break.
    error : Out(1)
        The device sent a character without a stop bit.
    """

    def __init__(self):
        super().__init__({
            "to_device": In(stream.Signature(8)), "from_device": Out(stream.Signature(8, always_ready=True)),
            "line_low": In(1), "error": Out(1), "hold": In(1), "engine_stall": In(8), "memory_stall": In(8),
            "stop_cycles": In(16), "restless": In(1), "initialised": In(1), "broken": Out(1),
            "active": Out(1), "busy": Out(1), "fault": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = HostLink(CYCLES_A_BIT, 1, INFO, MEMORY_WORDS, input_depth=INPUT_DEPTH,
                                            output_depth=OUTPUT_DEPTH, stop_cycles=STOP_CYCLES, origin=ORIGIN,
                                            light_bits=LIGHT_BITS)
        m.submodules.transmitter = transmitter = UartTransmitter(CYCLES_A_BIT, 1)
        m.submodules.receiver = receiver = UartReceiver(CYCLES_A_BIT, 1)
        m.submodules.engine = engine = MockEngine()
        m.submodules.memory = mock_memory = MockMemory(link.memory.signature)
        connect(m, flipped(self.to_device), transmitter.i)
        connect(m, receiver.o, flipped(self.from_device))
        for name in ("request", "write_data"):
            connect(m, getattr(link.memory, name), getattr(mock_memory.port, name))
        connect(m, mock_memory.port.read_data, link.memory.read_data)
        m.d.comb += [
            link.rx.eq(transmitter.tx & ~self.line_low), receiver.rx.eq(link.tx), self.error.eq(receiver.error),
            engine.address.eq(link.bus.address), engine.w_data.eq(link.bus.w_data), engine.write.eq(link.bus.write),
            link.bus.r_data.eq(engine.r_data), engine.hold.eq(self.hold), engine.stall.eq(self.engine_stall),
            engine.stop_cycles.eq(self.stop_cycles), engine.restless.eq(self.restless),
            engine.input.valid.eq(link.input.valid), engine.input.payload.eq(link.input.payload),
            link.input.ready.eq(engine.input.ready), link.output.valid.eq(engine.output.valid),
            link.output.payload.eq(engine.output.payload), engine.output.ready.eq(link.output.ready),
            link.memory.initialised.eq(self.initialised), mock_memory.stall.eq(self.memory_stall),
            self.broken.eq(mock_memory.broken), self.active.eq(link.active), self.busy.eq(link.busy),
            self.fault.eq(link.fault),
        ]
        return m


class LinkComponents(SideBySide):
    """All components of the link."""

    def __init__(self):
        parts = {
            "decoder": CobsDecoder(), "encoder": CobsEncoder(), "frames_out": FrameTransmitter(),
            "frames_in": PlainPorts(FrameReceiver(RING_BYTES, RING_FRAMES)), "registers": LinkRegisters(),
            "inputs": InputBuffer(BUFFER_DEPTH, BUFFER_ORIGIN), "outputs": OutputBuffer(BUFFER_DEPTH, BUFFER_ORIGIN),
            "bench": PlainPorts(LinkBench()),
        }
        for name, (clock_hz, baud) in RATES.items():
            parts |= {f"receiver{name}": PlainPorts(UartReceiver(clock_hz, baud)),
                           f"transmitter{name}": UartTransmitter(clock_hz, baud)}
        super().__init__(parts)


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `LinkComponents`."""
    return cocotb_runner.run(cocotb_runner.build(LinkComponents), module, work, seed)
