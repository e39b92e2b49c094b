"""The serialiser: the used lanes of chunks, one after the other."""

import cocotb
from conv_back_benches import PARAMETERS, run_bench
from streams import SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, patterns, put, signed, word

from amacrine.hw.conv_numerics import chunk_layout

CODECS = {macs: Codec(chunk_layout(params)) for macs, params in PARAMETERS.items()}


def test_serialiser(tmp_path):
    run_bench(__name__, tmp_path)


def chunks(macs, rng, count):
    """Packed chunks and all their used values."""
    lanes, packed, expected = macs // 4, [], []
    for _ in range(count):
        used = rng.choice((0, 1, lanes, rng.randint(1, lanes)))
        values = [rng.randint(-(1 << 15), (1 << 15) - 1) if lane < used else 0 for lane in range(lanes)]
        packed.append(CODECS[macs].pack(values=word(values, 16), used=(1 << used) - 1, last=rng.random() < 0.5))
        expected += values[:used]
    return packed, expected


@patterns
async def order_and_number(dut, p_idle, p_stall):
    for macs in PARAMETERS:
        ports = Ports(dut, f"serialiser{macs}")
        rng, _ = generators("serialiser", macs, p_idle, p_stall)
        if macs == min(PARAMETERS):
            await ports.begin("chunk__valid", "element__ready")
        packed, expected = chunks(macs, rng, 200)
        items = []
        ports.set(chunk__valid=0)
        cocotb.start_soon(get(ports, "element", items, rng, p_stall))
        await put(ports, "chunk", packed, rng, p_idle)
        await ports.cycles(SURPLUS_CYCLES)
        assert [signed(item, 16) for item in items] == expected


@bench_test
async def one_element_a_cycle(dut):
    ports = Ports(dut, "serialiser16")
    rng, _ = generators("rate")
    await ports.begin("chunk__valid", "element__ready")
    packed, expected = chunks(16, rng, 300)
    packed = [chunk for chunk in packed if CODECS[16].unpack(chunk)["used"]]
    items = []
    cocotb.start_soon(get(ports, "element", items, rng))
    cocotb.start_soon(put(ports, "chunk", packed, rng))
    await ports.cycles(len(expected) + 4)
    assert len(items) == len(expected)
