"""Vector memory and input loader: who writes what, where, and how it is counted."""

import cocotb
import numpy as np
from benches import PARAMETERS, run_bench
from cocotb.triggers import RisingEdge
from streams import PATTERNS, SURPLUS_CYCLES, Codec, Ports, bench_test, generators, get, lanes, put, word

from amacrine.hw.vectors import word_layout

BY_LANES = {parameters.lanes: parameters for parameters in PARAMETERS.values()}
WORDS = {n: Codec(word_layout(parameters)) for n, parameters in BY_LANES.items()}


def test_vectors(tmp_path):
    run_bench(__name__, tmp_path)


@bench_test
@cocotb.parametrize(width=list(BY_LANES))
async def memory_keeps_what_was_written(dut, width):
    """All writers at once, by priority; reads by the encoder's port, which holds its word, and by the host's."""
    memory = Ports(dut, f"vectors{width}")
    rng, _ = generators("vectors", width)
    await memory.begin("cell_enable", "input__valid", "host_write", "clear", "host_reads", "read_enable")
    memory.set(host_selects=1)
    depth = BY_LANES[width].vector_depth
    content = [0] * depth
    for address in range(depth // width):
        memory.set(clear=1, clear_word=address)
        await memory.cycles()
    read = host = None          # what the read ports must show; None before anything was read
    for _ in range(4000):
        clear, cell, offered, writes = (int(rng.random() < p) for p in (0.02, 0.4, 0.5, 0.3))
        place = rng.randrange(depth) // width * width     # most accesses meet in a few words
        near = [rng.choice((place, rng.randrange(min(64, depth)))) + k for k in range(3)]
        address, host_address = near[0] % depth, near[1] % depth
        first = near[2] % depth // width
        values = [rng.randrange(-32768, 32768) for _ in range(width + 2)]
        host_reads, enable = rng.random() < 0.3, rng.random() < 0.6
        read_word = rng.randrange(64 // width + 1)
        memory.set(clear=clear, clear_word=first, cell_enable=cell, cell_address=address,
                   cell_data=word(values[:1], 16), host_write=writes, host_address=host_address,
                   host_w_data=word(values[1:2], 16), input__valid=offered,
                   input__payload=word(values[2:], 16) << WORDS[width].fields[1][1] | first,
                   host_reads=host_reads, read_enable=enable, read_word=read_word)
        if clear:
            written = {first * width + k: 0 for k in range(width)}
        elif cell:
            written = {address: values[0]}
        elif writes:
            written = {host_address: values[1]}
        else:
            written = {first * width + k: values[2 + k] for k in range(width)} if offered else {}
        looked_at = host_address // width if host_reads else read_word
        if {a // width for a in written} & {looked_at}:
            memory.set(host_reads=0, read_enable=0)       # a word is not read while it is written
            host_reads = enable = False
        await RisingEdge(memory.clk)
        assert memory.input__ready.value == (not (clear or cell or writes))
        if read is not None:
            np.testing.assert_array_equal(lanes(int(memory.read_data.value), width, 16), read)
        if host is not None:
            assert memory.host_r_data.value.to_signed() == host
        host = content[host_address] if host_reads else None
        if host_reads:
            read = None                                   # the same port
        elif enable:
            read = content[read_word * width:(read_word + 1) * width]
        for a, value in written.items():
            content[a] = value


@bench_test
@cocotb.parametrize(("width", list(BY_LANES)), (("p_idle", "p_stall"), PATTERNS), ("length", [1, 2, 4, 5, 33]))
async def loader_packs_vectors(dut, width, p_idle, p_stall, length):
    """Vector after vector to the two places in turn, never more than two that have not been scanned."""
    loader = Ports(dut, f"loader{width}")
    rng, np_rng = generators("loader", width, p_idle, p_stall, length)
    await loader.begin("input__valid", "output__ready", "run", "resume")
    loader.set(reset=1, base=7, length=length, read=3)
    await loader.cycles()
    loader.set(reset=0, run=1)
    vectors = np_rng.integers(-32768, 32768, (9, length))
    n_words, items, scanned = -(-length // width), [], -1
    cocotb.start_soon(get(loader, "output", items, rng, p_stall))
    elements = cocotb.start_soon(put(loader, "input", [int(v) & 0xFFFF for v in vectors.ravel()], rng, p_idle))
    taken = waited = 0
    while scanned < len(vectors) - 1:
        await RisingEdge(loader.clk)
        written = len(items)        # before this cycle
        assert int(loader.done.value) == (written // n_words - 1) % 4
        assert int(loader.count.value) == written % n_words * width
        assert taken <= (scanned + 3) * length
        taken += int(loader.input__valid.value) & int(loader.input__ready.value)
        waited = 0 if loader.input__ready.value == 1 else waited + 1
        complete = written // n_words - 1
        if complete > scanned and (waited > 20 or rng.random() < 0.1):
            assert taken == min((scanned + 3) * length, vectors.size) or waited <= 20, "room is not used"
            scanned += 1
            loader.read.value = scanned % 4
    await elements
    await loader.cycles(SURPLUS_CYCLES)
    padded = np.zeros((len(vectors), n_words * width), int)
    padded[:, :length] = vectors
    expected = [{"address": 7 + t % 2 * n_words + w, "elements": word(padded[t, w * width:(w + 1) * width], 16)}
                for t in range(len(vectors)) for w in range(n_words)]
    assert [WORDS[width].unpack(item) for item in items] == expected


@bench_test
@cocotb.parametrize(width=list(BY_LANES))
async def loader_forgets_a_vector_that_is_given_up(dut, width):
    """After a reset in the middle, the next element is the first of the first place; without run, none is taken."""
    loader = Ports(dut, f"loader{width}")
    rng, _ = generators("give up", width)
    await loader.begin("input__valid", "output__ready", "run", "reset", "resume")
    length = 2 * width + 1
    loader.set(base=0, length=length, read=3)
    items = []
    cocotb.start_soon(get(loader, "output", items, rng, 0.3))
    for given_up in (1, width, width + 1, 2 * width, length + 1):
        loader.set(reset=1, run=0)
        await loader.cycles()
        loader.set(reset=0, input__valid=1)
        await loader.cycles(3)
        assert loader.input__ready.value == 0
        loader.set(input__valid=0, run=1)
        await loader.cycles()
        await put(loader, "input", [rng.getrandbits(16) for _ in range(given_up)], rng)
        loader.set(reset=1, run=0)
        await loader.cycles()
        loader.set(reset=0, run=1)
        await loader.cycles()
        items.clear()
        values = list(range(1, length + 1))
        await put(loader, "input", values, rng)
        await loader.cycles(SURPLUS_CYCLES)
        values += [0] * (-length % width)
        assert items == [WORDS[width].pack(address=w, elements=word(values[w * width:(w + 1) * width], 16))
                         for w in range(len(values) // width)]
        assert loader.done.value == 0 and loader.count.value == 0


@bench_test
@cocotb.parametrize(width=list(BY_LANES), step=range(4))
async def loader_resumes_with_a_step(dut, width, step):
    """Told which step is next, it forgets what has come, and puts the next vector into that step's place."""
    loader = Ports(dut, f"loader{width}")
    rng, _ = generators("resume", width, step)
    await loader.begin("input__valid", "output__ready", "run", "reset", "resume")
    length, items = 2 * width + 1, []
    cocotb.start_soon(get(loader, "output", items, rng, 0.3))
    for partly in (0, 1, width, width + 1, 2 * width):
        loader.set(base=0, length=length, read=3, reset=1)
        await loader.cycles()
        loader.set(reset=0, run=1)
        await loader.cycles()
        await put(loader, "input", [rng.getrandbits(16) for _ in range(partly)], rng)
        await loader.cycles(SURPLUS_CYCLES)
        loader.set(run=0)
        await loader.cycles()
        loader.set(resume=1, resume_step=step, base=5, read=(step - 1) % 4)
        await loader.cycles()
        loader.set(resume=0, resume_step=rng.randrange(4))
        await loader.cycles()
        assert loader.done.value == (step - 1) % 4 and loader.count.value == 0
        items.clear()
        loader.set(run=1)
        await put(loader, "input", list(range(1, length + 1)), rng, 0.3)
        await loader.cycles(SURPLUS_CYCLES)
        values = [*range(1, length + 1), *[0] * (-length % width)]
        first = 5 + step % 2 * (len(values) // width)
        assert items == [WORDS[width].pack(address=first + w, elements=word(values[w * width:(w + 1) * width], 16))
                         for w in range(len(values) // width)]
        assert loader.done.value == step and loader.count.value == 0
