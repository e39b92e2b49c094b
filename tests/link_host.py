"""The host's side for benches of the whole link: bytes on the line, and a reference of the protocol."""

import struct
import zlib
from collections import Counter

import cocotb
from cobs import cobs
from cocotb.triggers import RisingEdge
from link_benches import ECHO, INFO, MEMORY_WORDS, MOCK_REGISTERS, ORIGIN
from streams import Ports

from amacrine.sw.layout import Register
from amacrine.sw.protocol import (
    EXCHANGE_ANSWER,
    EXCHANGE_HEADER,
    LINK_REGISTERS,
    MAX_FRAME,
    MEMORY_RANGE,
    MIN_FRAME,
    VERSION,
    LinkRegister,
    Message,
    Operation,
    Status,
    decode,
    encode,
    fill_word,
)

MODULUS = 1 << 32
SETTLED = 14
"""A hold (of 256 cycles each) in which the mock engine echoes all that it has got."""
MAX_WANTED = 508


class Line:
    """Bytes to and from the device."""

    def __init__(self, dut):
        self.ports = Ports(dut, "bench")
        self.received, self.frames = bytearray(), []

    async def begin(self, engine_stall=0, memory_stall=0, stop_cycles=200):
        self.ports.set(line_low=0, hold=0, engine_stall=engine_stall, memory_stall=memory_stall,
                       stop_cycles=stop_cycles, restless=0, initialised=1)
        await self.ports.begin("to_device__valid")
        cocotb.start_soon(self._receive())
        await self.ports.cycles(100)

    async def send(self, line):
        ports = self.ports
        for byte in line:
            ports.set(to_device__valid=1, to_device__payload=byte)
            await RisingEdge(ports.clk)
            if ports.to_device__ready.value == 0:
                await RisingEdge(ports.to_device__ready)
                await RisingEdge(ports.clk)
        ports.set(to_device__valid=0)

    async def _receive(self):
        ports = self.ports
        while True:
            await RisingEdge(ports.from_device__valid)
            await RisingEdge(ports.clk)
            byte = int(ports.from_device__payload.value)
            if byte:
                self.received.append(byte)
            else:
                self.frames.append(Message.from_bytes(decode(bytes(self.received))))
                self.received.clear()

    async def answer(self, limit=2000):
        """The next answer."""
        for _ in range(limit):
            if self.frames:
                return self.frames.pop(0)
            await self.ports.cycles(100)
        raise AssertionError("no answer")

    async def ask(self, *fields, **named):
        """The answer to a request, given as a `Message`'s fields."""
        await self.send(encode(Message(*fields, **named).to_bytes()))
        return await self.answer()

    async def low(self, bits):
        """Noise or a break; the line is at rest, and is so afterwards."""
        await self.ports.cycles(100)
        self.ports.set(line_low=1)
        await self.ports.cycles(4 * bits)
        self.ports.set(line_low=0)
        await self.ports.cycles(100)


def exchange(tag, session, inputs, input_position, output_position, wanted, hold=0):
    data = EXCHANGE_HEADER.pack(output_position % MODULUS, session, wanted, hold, 0)
    data += struct.pack(f"<{len(inputs)}H", *inputs)
    return Message(tag, Operation.EXCHANGE, len(inputs), input_position % MODULUS, data)


def classify(line):
    """The `LinkRegister` that counts a frame, given what stood between two zero bytes; None if that is nothing."""
    if not line:
        return None
    frame, left, bad = bytearray(), 0, False
    full, first = False, True
    for byte in line:
        if left == 0:
            if not first and not full:
                frame.append(0)
            first, full, left = False, byte == 255, byte - 1
        else:
            frame.append(byte)
            left -= 1
    bad = left != 0
    if len(frame) > MAX_FRAME:
        return LinkRegister.TOO_LONG
    if bad or len(frame) < MIN_FRAME:
        return LinkRegister.BAD_FORM
    if struct.pack("<I", zlib.crc32(frame[:-4])) != frame[-4:]:
        return LinkRegister.BAD_CHECKSUM
    assert bytes(frame) == cobs.decode(bytes(line))
    return LinkRegister.RECEIVED


class Device:
    """What the device should answer: its registers, memory and streams, as the requests leave them."""

    def __init__(self):
        self.registers, self.memory = {}, [0] * MEMORY_WORDS
        self.session = self.running = 0
        self.released = self.position = ORIGIN      # of outputs, of inputs
        self.echo = []                              # all outputs of the sequence
        self.counts = Counter()
        self.initialised = True

    def frame(self, line):
        """Count a frame, and return its request if it is good."""
        kind = classify(line)
        if kind is not None:
            self.counts[kind] += 1
        return Message.from_bytes(decode(bytes(line))) if kind == LinkRegister.RECEIVED else None

    def status(self, request):
        """Of the answer."""
        code, count, address, length = request.code, request.count, request.address, len(request.data)
        if code not in list(Operation):
            return Status.UNKNOWN_OPERATION
        operation = Operation(code)
        least, most, data = {
            Operation.READ_REGISTERS: (1, 256, 0), Operation.WRITE_REGISTERS: (1, 256, 4 * count),
            Operation.READ_MEMORY: (1, 512, 0), Operation.WRITE_MEMORY: (1, 512, 2 * count),
            Operation.CHECKSUM_MEMORY: (0, 0, 8), Operation.FILL_MEMORY: (0, 0, 8),
            Operation.EXCHANGE: (0, 512, 12 + 2 * count),
        }.get(operation, (0, 0, 0))
        if not least <= count <= most or length != data:
            return Status.BAD_LENGTH
        if operation == Operation.EXCHANGE:
            return self._exchange_status(request)
        words = MEMORY_RANGE.unpack(request.data)[0] if length == 8 and count == 0 else count
        end = {Operation.READ_REGISTERS: LINK_REGISTERS + len(LinkRegister), Operation.WRITE_REGISTERS: LINK_REGISTERS,
               Operation.IDENTIFY: 0, Operation.ABORT: 0, Operation.START: 0xFFFF}.get(operation, MEMORY_WORDS)
        if address + words > end or (operation == Operation.START and address == 0):
            return Status.BAD_ADDRESS
        if Operation.READ_MEMORY <= operation <= Operation.FILL_MEMORY and (self.running or not self.initialised):
            return Status.BUSY
        return Status.OK

    def _exchange_status(self, request):
        position, session, wanted, _, _ = EXCHANGE_HEADER.unpack_from(request.data)
        if wanted > MAX_WANTED:
            return Status.BAD_LENGTH
        if session != self.session or session == 0:
            return Status.WRONG_SESSION
        if (position - self.released) % MODULUS > (ORIGIN + len(self.echo) - self.released) % MODULUS:
            return Status.WRONG_POSITION
        return Status.OK

    def check(self, request, answer):
        """Do a request, and compare the answer. NO_ROOM is up to the caller."""
        status = self.status(request)
        assert answer.tag == request.tag
        assert answer.code == status, (request, answer, status)
        if status:
            self.counts[LinkRegister.REFUSED] += 1
            assert (answer.count, answer.address, answer.data) == (0, 0, b"")
            return
        operation = Operation(request.code)
        expected = getattr(self, operation.name.lower())(request, answer)
        if expected is not None:
            assert answer == Message(request.tag, Status.OK, *expected), (request, answer)

    def identify(self, request, answer):
        return len(INFO), VERSION, INFO

    def read_registers(self, request, answer):
        assert (answer.count, answer.address) == (request.count, request.address)
        values = struct.unpack(f"<{request.count}I", answer.data)
        for address, value in enumerate(values, request.address):
            if address == Register.CONTROL:
                assert value == 4 | 2 * self.running
            elif address < LINK_REGISTERS:
                assert value == self.registers.get(address % MOCK_REGISTERS, 0)
            elif address - LINK_REGISTERS <= LinkRegister.REFUSED:
                # Later requests may have come already; what was dropped has been counted in any case.
                name = LinkRegister(address - LINK_REGISTERS)
                assert value == self.counts[name] or name == LinkRegister.RECEIVED and value > self.counts[name], name
            else:
                assert value == {LinkRegister.FLAGS: self.initialised, LinkRegister.SESSION: self.session}.get(
                    address - LINK_REGISTERS, value)

    def write_registers(self, request, answer):
        for address, value in enumerate(struct.unpack(f"<{request.count}I", request.data), request.address):
            self.registers[address % MOCK_REGISTERS] = value
            if address == Register.CONTROL:
                self.running = (self.running | value >> 1 & 1) & ~value >> 2 & 1 & ~value
        return request.count, request.address

    def read_memory(self, request, answer):
        words = self.memory[request.address:request.address + request.count]
        return request.count, request.address, struct.pack(f"<{request.count}H", *words)

    def write_memory(self, request, answer):
        words = struct.unpack(f"<{request.count}H", request.data)
        self.memory[request.address:request.address + request.count] = words
        return request.count, request.address

    def checksum_memory(self, request, answer):
        words = self.memory[request.address:request.address + MEMORY_RANGE.unpack(request.data)[0]]
        return 0, request.address, struct.pack("<I", zlib.crc32(struct.pack(f"<{len(words)}H", *words)))

    def fill_memory(self, request, answer):
        count, seed = MEMORY_RANGE.unpack(request.data)
        for address in range(request.address, request.address + count):
            self.memory[address] = fill_word(address, seed)
        return 0, request.address

    def start(self, request, answer):
        self.session, self.running, self.echo = request.address, 0, []
        self.released = self.position = ORIGIN
        self.registers[Register.CONTROL] = 1
        return 0, request.address

    def abort(self, request, answer):
        return self.start(request, answer)

    def exchange(self, request, answer):
        position, _, wanted, hold, _ = EXCHANGE_HEADER.unpack_from(request.data)
        inputs = struct.unpack_from(f"<{request.count}H", request.data, EXCHANGE_HEADER.size)
        if request.address == self.position % MODULUS:
            self.echo += [value ^ ECHO for value in inputs]
            self.position += len(inputs)
        self.released += (position - self.released) % MODULUS
        there = self.echo[self.released - ORIGIN:][:wanted]
        if hold < SETTLED or not self.running:
            there = there[:answer.count]
        next_position, _, zero = EXCHANGE_ANSWER.unpack_from(answer.data)
        assert (next_position, zero) == (self.position % MODULUS, 0)
        assert (answer.count, answer.address) == (len(there), position)
        assert answer.data[EXCHANGE_ANSWER.size:] == struct.pack(f"<{len(there)}H", *there)
