"""The queue: order, capacity, and the room it announces. The output queue is tested with the cell unit."""

import cocotb
from benches import run_bench
from streams import SURPLUS_CYCLES, Ports, generators, get, patterns, put

DEPTH, MARGIN = 4, 1    # of the queue among the components


def test_queue(tmp_path):
    run_bench(__name__, tmp_path)


@patterns
async def order_and_number(dut, p_idle, p_stall):
    """What goes in comes out, nothing else, and `room` is right in each cycle."""
    queue = Ports(dut, "queue")
    rng, _ = generators("queue", p_idle, p_stall)
    await queue.begin("i__valid", "o__ready")
    payloads, items = [rng.getrandbits(8) for _ in range(400)], []
    cocotb.start_soon(get(queue, "o", items, rng, p_stall))
    cocotb.start_soon(room_is_right(queue))
    await put(queue, "i", payloads, rng, p_idle)
    await queue.cycles(SURPLUS_CYCLES)
    assert items == payloads


async def room_is_right(queue):
    """`room` promises more than MARGIN places, whatever comes in meanwhile; it may be a cycle late."""
    level = 0
    while True:
        await queue.cycles()
        assert queue.i__ready.value == (level < DEPTH)
        assert queue.o__valid.value == (level > 0)
        if queue.room.value == 1:
            assert level < DEPTH - MARGIN
        pushed = int(queue.i__valid.value) & int(queue.i__ready.value)
        level += pushed - (int(queue.o__valid.value) & int(queue.o__ready.value))

