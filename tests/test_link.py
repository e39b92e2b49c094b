"""The whole link at its pins, against a reference of the protocol: operations, errors, streams, and a bad line."""

import struct
from collections import Counter, deque

import cocotb
from link_benches import (
    INFO,
    INPUT_DEPTH,
    LIGHT_BITS,
    MEMORY_WORDS,
    MOCK_REGISTERS,
    ORIGIN,
    OUTPUT_DEPTH,
    STOP_CYCLES,
    run_bench,
)
from link_host import MAX_WANTED, MODULUS, SETTLED, Device, Line, exchange
from streams import bench_test, generators

from amacrine.sw.layout import Register
from amacrine.sw.protocol import (
    EXCHANGE_ANSWER,
    EXCHANGE_HEADER,
    LINK_REGISTERS,
    MAX_FRAME,
    MEMORY_RANGE,
    VERSION,
    LinkRegister,
    Message,
    Operation,
    Status,
    encode,
)

RECEIVE_BYTES, RECEIVE_FRAMES = 4096, 16
RUN = struct.pack("<I", 2)


def test_link(tmp_path):
    run_bench(__name__, tmp_path)


class Bench:
    """Device and reference in step."""

    def __init__(self, dut, *key):
        self.rng, _ = generators("link", *key)
        self.line, self.device, self.tag = Line(dut), Device(), 0

    async def begin(self, clear=False, **settings):
        """Reset; with `clear`, known words in the mocks' memories, too."""
        await self.line.begin(**settings)
        if clear:
            await self.do(Operation.WRITE_REGISTERS, MOCK_REGISTERS, 0x10000, bytes(4 * MOCK_REGISTERS))
            await self.do(Operation.FILL_MEMORY, 0, 0, MEMORY_RANGE.pack(MEMORY_WORDS, 1))

    async def do(self, code, count=0, address=0, data=b"", status=Status.OK):
        """The answer, which the reference approves of."""
        self.tag = (self.tag + 1) % 256
        request = Message(self.tag, code, count, address, data)
        await self.line.send(encode(request.to_bytes()))
        answer = await self.line.answer()
        self.device.counts[LinkRegister.RECEIVED] += 1
        self.device.check(request, answer)
        assert answer.code == status
        return answer

    async def exchange(self, inputs=(), wanted=0, hold=0, skip=0, ahead=0, status=Status.OK):
        """`skip` outputs are released, inputs come from `ahead` of the right position."""
        device = self.device
        self.tag = (self.tag + 1) % 256
        request = exchange(self.tag, device.session, inputs, device.position + ahead, device.released + skip,
                           wanted, hold)
        await self.line.send(encode(request.to_bytes()))
        answer = await self.line.answer()
        device.counts[LinkRegister.RECEIVED] += 1
        if status == Status.NO_ROOM:
            assert answer == Message(self.tag, status)
            device.counts[LinkRegister.REFUSED] += 1
        else:
            device.check(request, answer)
            assert answer.code == status
        return answer

    async def start(self, session=7):
        await self.do(Operation.START, address=session)
        await self.do(Operation.WRITE_REGISTERS, 1, Register.CONTROL, RUN)

    async def link_registers(self):
        answer = await self.do(Operation.READ_REGISTERS, len(LinkRegister), LINK_REGISTERS)
        return dict(zip(LinkRegister, struct.unpack(f"<{len(LinkRegister)}I", answer.data), strict=True))


def random_words(rng, count):
    return [rng.getrandbits(16) for _ in range(count)]


def packed(words):
    return struct.pack(f"<{len(words)}H", *words)


@bench_test
@cocotb.parametrize(("stall", [0, 150]))
async def every_operation(dut, stall):
    bench = Bench(dut, "operations", stall)
    rng = bench.rng
    await bench.begin(clear=True, engine_stall=stall, memory_stall=stall)
    answer = await bench.do(Operation.IDENTIFY)
    assert (answer.count, answer.address, answer.data) == (len(INFO), VERSION, INFO)
    for count, address in ((1, 0x3FFFF), (256, 0x10000), (3, 2)):
        await bench.do(Operation.WRITE_REGISTERS, count, address, rng.randbytes(4 * count))
        await bench.do(Operation.READ_REGISTERS, count, address)
    # What was not written is read as zero, and from the engine's last register on to the link's first.
    await bench.do(Operation.READ_REGISTERS, 12, LINK_REGISTERS - 2)
    for count, address in ((512, 0), (1, MEMORY_WORDS - 1), (5, 1000), (512, MEMORY_WORDS - 512)):
        await bench.do(Operation.WRITE_MEMORY, count, address, packed(random_words(rng, count)))
        await bench.do(Operation.READ_MEMORY, count, address)
    for words, address in ((0, 5), (1, 7), (511, 9), (512, 11), (513, 13), (1024, 100), (1100, MEMORY_WORDS - 1100)):
        await bench.do(Operation.CHECKSUM_MEMORY, 0, address, MEMORY_RANGE.pack(words, 0))
        await bench.do(Operation.FILL_MEMORY, 0, address, MEMORY_RANGE.pack(words, rng.getrandbits(32)))
        await bench.do(Operation.CHECKSUM_MEMORY, 0, 0, MEMORY_RANGE.pack(MEMORY_WORDS, rng.getrandbits(32)))
    await bench.start()
    await bench.exchange(random_words(rng, 512), 508, SETTLED)
    await bench.exchange((), 508, SETTLED, skip=508)
    await bench.do(Operation.ABORT)
    await bench.do(Operation.READ_MEMORY, 20, 0)
    registers = await bench.link_registers()
    assert registers[LinkRegister.FLAGS] == 1 and registers[LinkRegister.SESSION] == 0
    cycles = registers[LinkRegister.CYCLES]
    assert cycles < (await bench.link_registers())[LinkRegister.CYCLES] < cycles + 10_000
    assert bench.line.ports.broken.value == 0


@bench_test
async def every_error(dut):
    """Each status, and that the request did nothing; where several apply, the smallest."""
    bench = Bench(dut, "errors")
    await bench.begin(clear=True)
    op, words = Operation, MEMORY_RANGE.pack
    for code in (0, max(op) + 1, 0x7F, 0xFF):
        await bench.do(code, status=Status.UNKNOWN_OPERATION)
        await bench.do(code, 3, 5, bytes(1000), status=Status.UNKNOWN_OPERATION)
    bad_length = [
        (op.IDENTIFY, 1), (op.IDENTIFY, 0, 0, b"x"), (op.READ_REGISTERS, 0), (op.READ_REGISTERS, 257),
        (op.READ_REGISTERS, 1, 0, bytes(4)), (op.WRITE_REGISTERS, 0), (op.WRITE_REGISTERS, 257, 0, bytes(1028)),
        (op.WRITE_REGISTERS, 2, 0, bytes(7)), (op.WRITE_REGISTERS, 2, 0, bytes(9)), (op.READ_MEMORY, 0),
        (op.READ_MEMORY, 513), (op.READ_MEMORY, 0xFFFF, MODULUS - 1), (op.WRITE_MEMORY, 0),
        (op.WRITE_MEMORY, 4, 0, bytes(6)),
        (op.WRITE_MEMORY, 513, 0, bytes(1026)), (op.WRITE_MEMORY, 512 + 1024, 0, bytes(1024)), (op.CHECKSUM_MEMORY,),
        (op.CHECKSUM_MEMORY, 1, 0, words(1, 0)), (op.FILL_MEMORY, 0, 0, bytes(7)), (op.FILL_MEMORY, 0, 0, bytes(9)),
        (op.START, 1, 5), (op.START, 0, 5, bytes(2)), (op.ABORT, 1), (op.ABORT, 0, 0, bytes(1)), (op.EXCHANGE,),
        (op.EXCHANGE, 0, 0, bytes(11)), (op.EXCHANGE, 1, 0, bytes(12)), (op.EXCHANGE, 513, 0, bytes(12 + 1024)),
        (op.EXCHANGE, 0, 0, EXCHANGE_HEADER.pack(9, 9, MAX_WANTED + 1, 0, 0)),
    ]
    for request in bad_length:
        await bench.do(*request, status=Status.BAD_LENGTH)
    bad_address = [
        (op.IDENTIFY, 0, 1), (op.ABORT, 0, 1), (op.START, 0, 0), (op.START, 0, 0x10000), (op.START, 0, MODULUS - 1),
        (op.READ_REGISTERS, 1, LINK_REGISTERS + len(LinkRegister)), (op.READ_REGISTERS, 256, LINK_REGISTERS - 200),
        (op.READ_REGISTERS, 1, MODULUS - 1), (op.READ_REGISTERS, 2, MODULUS - 1),
        (op.WRITE_REGISTERS, 1, LINK_REGISTERS, bytes(4)), (op.WRITE_REGISTERS, 2, LINK_REGISTERS - 1, bytes(8)),
        (op.READ_MEMORY, 1, MEMORY_WORDS), (op.READ_MEMORY, 2, MEMORY_WORDS - 1), (op.READ_MEMORY, 1, MODULUS - 1),
        (op.WRITE_MEMORY, 2, MEMORY_WORDS - 1, bytes(4)), (op.CHECKSUM_MEMORY, 0, 1, words(MEMORY_WORDS, 0)),
        (op.CHECKSUM_MEMORY, 0, MODULUS - 1, words(MODULUS - 1, 0)), (op.FILL_MEMORY, 0, 1 << 16, words(0, 0)),
    ]
    for request in bad_address:
        await bench.do(*request, status=Status.BAD_ADDRESS)
    memory = [(op.READ_MEMORY, 1), (op.WRITE_MEMORY, 1, 0, bytes(2)), (op.CHECKSUM_MEMORY, 0, 0, words(0, 0)),
              (op.FILL_MEMORY, 0, 0, words(8, 1))]
    ports = bench.line.ports
    ports.set(restless=1)
    for request in memory:
        assert await bench.line.ask(bench.tag, *request) == Message(bench.tag, Status.BUSY)
        bench.device.counts[LinkRegister.REFUSED] += 1
    ports.set(restless=0, initialised=0)
    bench.device.initialised = False
    for request in memory:
        await bench.do(*request, status=Status.BUSY)
    assert (await bench.link_registers())[LinkRegister.FLAGS] == 0
    ports.set(initialised=1)
    bench.device.initialised = True
    await bench.do(op.READ_MEMORY, 8, 0)        # FILL did nothing
    await bench.exchange([1, 2], status=Status.WRONG_SESSION)
    await bench.start(5)
    for request in memory:
        await bench.do(*request, status=Status.BUSY)
    request = exchange(9, 6, [1, 2], ORIGIN, ORIGIN, 0)
    await bench.line.send(encode(request.to_bytes()))
    bench.device.check(request, await bench.line.answer())
    await bench.exchange([1, 2], skip=1, status=Status.WRONG_POSITION)
    await bench.exchange([1, 2], skip=-1, status=Status.WRONG_POSITION)
    await bench.exchange([1, 2, 3], wanted=4, hold=SETTLED)
    await bench.exchange([4], skip=3)
    await bench.exchange([4], skip=-1, status=Status.WRONG_POSITION)
    await bench.exchange([4], wanted=2, hold=SETTLED)
    registers = await bench.link_registers()
    assert registers[LinkRegister.REFUSED] == bench.device.counts[LinkRegister.REFUSED] > 50
    assert ports.broken.value == 0


@bench_test
async def requests_sent_twice(dut):
    """The second answer is the first, but for how far the streams have come."""
    bench = Bench(dut, "twice")
    rng, line, device = bench.rng, bench.line, bench.device
    await bench.begin(clear=True, engine_stall=50, memory_stall=50)
    requests = [
        Message(1, Operation.IDENTIFY), Message(2, Operation.READ_REGISTERS, 3, 50),
        Message(3, Operation.WRITE_REGISTERS, 2, 50, rng.randbytes(8)),
        Message(4, Operation.WRITE_MEMORY, 9, 30, rng.randbytes(18)), Message(5, Operation.READ_MEMORY, 9, 32),
        Message(6, Operation.CHECKSUM_MEMORY, 0, 3, MEMORY_RANGE.pack(100, 0)),
        Message(7, Operation.FILL_MEMORY, 0, 35, MEMORY_RANGE.pack(100, 99)), Message(8, Operation.START, 0, 77),
        Message(9, Operation.WRITE_REGISTERS, 1, Register.CONTROL, RUN), Message(10, 99),
        exchange(11, 77, [1, 2, 3], ORIGIN, ORIGIN, 3, SETTLED),
        exchange(12, 77, [4], ORIGIN + 3, ORIGIN + 1, 3, SETTLED),
        Message(13, Operation.ABORT),
    ]
    for request in requests:
        await line.send(2 * encode(request.to_bytes()))
        answers = [await line.answer(), await line.answer()]
        for answer in answers:
            device.check(request, answer)
        assert request.code == Operation.EXCHANGE or answers[0] == answers[1]


@bench_test
@cocotb.parametrize(("stall", [0, 200]))
async def streams(dut, stall):
    """Random exchanges, with gaps, inputs and outputs had before, holds; past the position 2**32."""
    bench = Bench(dut, "streams", stall)
    rng, device = bench.rng, bench.device
    await bench.begin(engine_stall=stall)
    await bench.start(1234)
    size = 150
    while device.position < MODULUS + 100:
        count = rng.choice((0, 1, rng.randrange(20), size, size))
        ahead = rng.choice((0, 0, 0, 0, 0, 0, -1, 1, -count, 1 << 31))
        await bench.exchange(random_words(rng, count), rng.choice((0, 1, MAX_WANTED)), SETTLED, 0, ahead)
        await bench.exchange((), MAX_WANTED, SETTLED)       # now all that was sent has been echoed
        there = ORIGIN + len(device.echo) - device.released
        skip = there if there > OUTPUT_DEPTH - size else rng.choice((0, 0, there, rng.randrange(there + 1)))
        await bench.exchange((), rng.choice((0, 5, MAX_WANTED)), rng.choice((0, SETTLED)), skip)
    assert len(device.echo) > MODULUS - ORIGIN


@bench_test
async def full_buffers(dut):
    """Inputs beyond the room are refused as a whole; outputs that are kept stop the engine, and none is lost."""
    bench = Bench(dut, "full")
    rng, device = bench.rng, bench.device
    await bench.begin()
    await bench.start()
    bench.line.ports.set(hold=1)
    free = INPUT_DEPTH
    for count in (512, 500, 1):
        answer = await bench.exchange(random_words(rng, count))
        free -= count
        # One element has left the buffer for the engine, and waits there.
        assert EXCHANGE_ANSWER.unpack_from(answer.data)[1] - free in (0, 1)
    assert (await bench.link_registers())[LinkRegister.OVERRUN] == 0
    await bench.exchange(random_words(rng, free + 2), status=Status.NO_ROOM)
    await bench.exchange(random_words(rng, 512), status=Status.NO_ROOM)
    await bench.exchange(random_words(rng, 512), ahead=-600)      # not taken in any case
    await bench.exchange(random_words(rng, free))
    bench.line.ports.set(hold=0)
    while len(device.echo) < OUTPUT_DEPTH + 600:
        await bench.exchange(random_words(rng, 300), 10, SETTLED)
    await bench.exchange((), MAX_WANTED, SETTLED)
    # The output buffer is full. What comes next stays in the input buffer.
    answer = await bench.exchange(())
    assert EXCHANGE_ANSWER.unpack_from(answer.data)[1] < INPUT_DEPTH - 500
    while device.released < ORIGIN + len(device.echo):
        answer = await bench.exchange((), MAX_WANTED, SETTLED)
        await bench.exchange((), 0, 0, skip=answer.count)
    assert EXCHANGE_ANSWER.unpack_from(answer.data)[1] == INPUT_DEPTH


@bench_test
async def holds(dut):
    """An answer waits for the outputs wanted, and not longer than it was told to."""
    bench = Bench(dut, "hold")
    ports, device = bench.line.ports, bench.device
    await bench.begin()
    await bench.start()
    now = cocotb.simtime.get_sim_time
    for hold in (0, 1, 100):
        start = now("step")
        await bench.exchange((), 5, hold)
        cycles = (now("step") - start) / 10
        assert 256 * hold < cycles < 256 * hold + 3000
    ports.set(hold=1)
    inputs = [1, 2, 3, 4]
    request = exchange(1, device.session, inputs, ORIGIN, ORIGIN, 4, 0xFFFF)
    await bench.line.send(encode(request.to_bytes()) + encode(Message(2, Operation.IDENTIFY).to_bytes()))
    await ports.cycles(10_000)
    assert not bench.line.frames and ports.busy.value == 1
    ports.set(hold=0)
    answer = await bench.line.answer(30)
    device.check(request, answer)
    assert answer.count == 4
    assert (await bench.line.answer(30)).data == INFO
    assert ports.busy.value == 0


@bench_test
async def sessions(dut):
    """START while the engine runs, with elements on their way, starts anew; START that cannot, says so."""
    bench = Bench(dut, "sessions")
    rng, ports, device = bench.rng, bench.line.ports, bench.device
    await bench.begin(engine_stall=100)
    for session in (1, 65535, 1):
        await bench.start(session)
        assert (await bench.link_registers())[LinkRegister.SESSION] == session
        ports.set(hold=rng.randrange(2))
        await bench.exchange(random_words(rng, 300), 3)
        ports.set(hold=0)
        await bench.exchange((), 3)
    await bench.start(9)
    await bench.exchange([5, 6], 2, SETTLED)
    ports.set(stop_cycles=STOP_CYCLES + 100)
    for operation, address in ((Operation.START, 10), (Operation.ABORT, 0)):
        answer = await bench.line.ask(1, operation, 0, address)
        assert answer == Message(1, Status.BUSY)
        device.counts[LinkRegister.REFUSED] += 1
        device.session = device.running = 0
        await bench.exchange([7], status=Status.WRONG_SESSION)
    ports.set(stop_cycles=STOP_CYCLES - 100)
    await bench.start(11)
    await bench.exchange([5, 6], 2, SETTLED)
    await bench.do(Operation.ABORT)
    await bench.exchange([7], status=Status.WRONG_SESSION)


@bench_test
async def requests_in_flight(dut):
    """Random requests, good and bad, as many as the credits allow: answers are right, and in order."""
    bench = Bench(dut, "in flight")
    rng, line, device = bench.rng, bench.line, bench.device
    await bench.begin(clear=True, engine_stall=30, memory_stall=30)
    waiting, sent, done, total = deque(), 0, 0, 150

    def some_request():
        code = rng.choice([*Operation, *Operation, rng.randrange(256)])
        count = rng.choice((0, 1, 2, 10, 40, rng.randrange(520)))
        address = rng.choice((0, 2, 3000, LINK_REGISTERS, rng.randrange(MEMORY_WORDS), rng.getrandbits(32)))
        item = {Operation.WRITE_MEMORY: 2, Operation.WRITE_REGISTERS: 4}.get(code, 0)
        data = rng.randbytes(min(count * item, 1036))
        if code in (Operation.CHECKSUM_MEMORY, Operation.FILL_MEMORY):
            count, data = 0, MEMORY_RANGE.pack(rng.randrange(700), rng.getrandbits(32))
        if code == Operation.START:
            count, address = 0, rng.randrange(3)
        if code == Operation.WRITE_REGISTERS:
            address = 2 + rng.randrange(200)    # the engine stays halted
        if code == Operation.EXCHANGE:
            return exchange(sent % 256, rng.randrange(3), random_words(rng, rng.choice((0, 3))),
                            ORIGIN + rng.randrange(2), ORIGIN, rng.choice((0, 3)))
        if code == Operation.IDENTIFY and rng.random() < 0.7:
            count = address = 0
        return Message(sent % 256, code, count, address, data)

    def taken(request):
        return len(request.to_bytes()) + 4

    pending, used = None, 0
    while done < total:
        if sent < total and pending is None:
            pending = some_request()
        if pending and used + taken(pending) <= RECEIVE_BYTES and len(waiting) < RECEIVE_FRAMES:
            waiting.append(pending)
            used += taken(pending)
            sent += 1
            await line.send(encode(pending.to_bytes()))
            pending = None
        else:
            await line.ports.cycles(100)
        while line.frames:
            request = waiting.popleft()
            device.counts[LinkRegister.RECEIVED] += 1
            device.check(request, line.frames.pop(0))
            used -= taken(request)
            done += 1
    await line.ports.cycles(3000)
    assert not line.frames and not line.received
    assert line.ports.broken.value == 0


def mutated(rng, line):
    """A frame after an accident."""
    line = bytearray(line)
    for _ in range(rng.choice((1, 1, 2, 5))):
        where = rng.randrange(len(line))
        kind = rng.randrange(5)
        if kind == 0:
            line[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del line[where:where + rng.randrange(1, 5)]
        elif kind == 2:
            line[where:where] = rng.randbytes(rng.randrange(1, 5))
        elif kind == 3:
            del line[where:]
        else:
            line[where:where] = line[:rng.randrange(30)]
        if not line:
            break
    return bytes(line)


@bench_test
@cocotb.parametrize(("seed", range(3)))
async def fuzz(dut, seed):
    """Noise, mutated and cut frames, breaks; then a zero byte, and the device answers and has counted all."""
    bench = Bench(dut, "fuzz", seed)
    rng, line, device = bench.rng, bench.line, bench.device
    await bench.begin(clear=True)
    harmless = [
        Message(1, Operation.IDENTIFY), Message(2, Operation.READ_REGISTERS, 2, LINK_REGISTERS + LinkRegister.FLAGS),
        Message(3, 200, 5, 6, bytes(40)), Message(4, Operation.WRITE_REGISTERS, 3, 100, rng.randbytes(12)),
        Message(5, Operation.READ_REGISTERS, 5, 100), exchange(6, 1, [1, 2, 3], 5, 6, 7),
        Message(7, Operation.WRITE_MEMORY, 20, 100, bytes(40)),
    ]
    for burst in range(50):
        frames, present, damaged = [], bytearray(), False

        def count(sent, frames=frames):
            """What the device makes of bytes."""
            nonlocal present, damaged
            for byte in sent:
                if byte:
                    present.append(byte)
                    continue
                request = None if damaged else device.frame(present)
                if request is not None:
                    frames.append(request)
                present, damaged = bytearray(), False

        for _ in range(rng.randrange(1, 8)):
            kind = rng.randrange(8)
            if kind == 0:
                sent = rng.randbytes(rng.randrange(200))
            elif kind == 1:
                sent = bytes(rng.randrange(1, 256) for _ in range(rng.choice((5, 60, MAX_FRAME + 20))))
            elif kind == 2:
                await line.low(rng.choice((10, 11, 30)))
                device.counts[LinkRegister.BAD_CHARACTER] += 1
                damaged = True
                continue
            elif kind == 3:
                sent = encode(rng.choice(harmless).to_bytes())
            elif kind == 4:
                sent = bytes(rng.randrange(4))
            else:
                sent = mutated(rng, encode(rng.choice(harmless).to_bytes()))
            count(sent)
            await line.send(sent)
        identify = Message(burst, Operation.IDENTIFY)
        last = b"\0" + encode(identify.to_bytes())
        count(last)
        await line.send(last)
        for request in frames:
            device.check(request, await line.answer())
        assert request == identify
        if burst % 10 == 9:
            registers = await bench.link_registers()
            for register in list(LinkRegister)[:LinkRegister.REFUSED + 1]:
                assert registers[register] == device.counts[register], register
    assert not line.frames and not line.received
    assert all(device.counts[register] for register in
               (LinkRegister.BAD_CHECKSUM, LinkRegister.BAD_FORM, LinkRegister.TOO_LONG, LinkRegister.BAD_CHARACTER))


@bench_test
async def overrun(dut):
    """A host that ignores its credits loses frames, which are counted, and nothing else."""
    bench = Bench(dut, "overrun")
    line, device = bench.line, bench.device
    await bench.begin()
    await bench.start()
    hold = exchange(1, device.session, [], ORIGIN, ORIGIN, 1, 1000)
    await line.send(encode(hold.to_bytes()))
    sent = RECEIVE_FRAMES + 5
    for tag in range(sent):
        await line.send(encode(Message(tag, Operation.IDENTIFY).to_bytes()))
    device.check(hold, await line.answer(5000))
    await line.ports.cycles(60_000)
    kept = len(line.frames)
    assert RECEIVE_FRAMES - 1 <= kept < sent and [answer.tag for answer in line.frames] == list(range(kept))
    line.frames.clear()
    long = [Message(tag, Operation.WRITE_MEMORY, 512, 0, bytes(1024)) for tag in range(4)]
    await line.send(encode(hold.to_bytes()))
    for request in long:
        await line.send(encode(request.to_bytes()))
    await line.send(encode(Message(9, Operation.IDENTIFY).to_bytes()))
    device.check(hold, await line.answer(5000))
    for request in long[:3]:
        device.check(request, await line.answer())
    assert (await line.answer()).tag == 9
    device.counts = Counter({LinkRegister.OVERRUN: sent - kept + 1, LinkRegister.RECEIVED: kept + 8,
                             LinkRegister.REFUSED: 3})      # the memory was busy
    await bench.link_registers()


@bench_test
async def lights(dut):
    bench = Bench(dut, "lights")
    ports = bench.line.ports
    await bench.begin()
    window = 1 << LIGHT_BITS
    await ports.cycles(3 * window)
    assert (ports.active.value, ports.busy.value, ports.fault.value) == (0, 0, 0)
    await bench.line.send(b"\1\1\1\0")
    await ports.cycles(2 * window)
    assert ports.fault.value == 1
    await ports.cycles(10 * window)
    assert (ports.active.value, ports.fault.value) == (0, 1)
    await bench.line.send(encode(Message(1, Operation.IDENTIFY).to_bytes()))
    await ports.until(lambda: ports.active.value == 1, 2 * window)
    await ports.cycles(3 * window)
    assert (ports.active.value, ports.fault.value) == (0, 0)
    assert (await bench.line.answer()).data == INFO
    await bench.start()
    ports.set(hold=1)
    await bench.exchange([1, 2, 3])
    assert ports.busy.value == 1
    ports.set(hold=0)
    await ports.cycles(100)
    assert ports.busy.value == 0
