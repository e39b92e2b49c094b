"""The CNN engine with maps in external memory against the golden model, and where the compiler puts them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_conv_engine import SIZES, random_maps, random_network
from test_conv_sequences import break_off_at_random

from amacrine.sim.conv_engine import SimulatedConv
from amacrine.sw.conv_compile import compile_convs
from amacrine.sw.conv_layout import EXTERNAL_ALIGN, EXTERNAL_BIT, PASS_FIELDS, SLAB_FIELDS, ConvParameters
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Parameters
from amacrine.sw.qlayers import QConv
from amacrine.sw.quantised import QuantisedNetwork

#: words of feature memory (maps, values) that programs are compiled for: hardly any map fits, some do, all do
MEMORIES = {"none": (16, 16), "some": (256, 512), "all": (4096, 8192)}
MACS = (8, 16)      # with 2 and 8 weights in a word


def hardware(macs: int) -> ConvParameters:
    return ConvParameters(macs=macs, value_depth=8192, map_depth=4096, kernel_depth=2048, psum_depth=SIZES[macs][1],
                          pool_depth=256, external=1)


def compiled(network, macs, memory, **place):
    map_depth, value_depth = MEMORIES[memory]
    params = replace(hardware(macs), map_depth=map_depth, value_depth=value_depth)
    return compile_convs(network.layers, params, SIZES[macs][0], **place)


def external_slabs(program):
    """Numbers of the slabs that are not on chip."""
    return np.flatnonzero(program.slabs[:, SLAB_FIELDS.index("value_high")] >> (EXTERNAL_BIT - 16) & 1).tolist()


@pytest.mark.parametrize("macs", MACS)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("seed", range(4))
def test_random_chains(macs, memory, seed):
    rng, kinds = np.random.default_rng([seed, macs, 7]), set()
    for attempt in range(4):
        network = random_network(rng, 1 + int(rng.integers(4)))
        inputs = random_maps(rng, network, 5)
        program = compiled(network, macs, memory)
        kinds.add(bool(external_slabs(program)))
        stalls = [{}, {"idle": 0.4}, {"stall": 0.5}, {"idle": 0.3, "stall": 0.6}][attempt]
        latency, share = [1, 5, 40, 100][seed], [0, 0.3, 0.6, 0][(seed + attempt) % 4]
        with SimulatedConv(program, hardware(macs), SIZES[macs][0], latency=latency, memory_stall=share) as engine:
            run = engine.run(inputs, seed=seed, **stalls)
        np.testing.assert_array_equal(run.outputs, Golden(network).run(inputs).outputs)
    assert memory == "some" or (memory == "none") in kinds
    assert memory != "all" or kinds == {False}


@pytest.mark.parametrize("macs", MACS)
@pytest.mark.parametrize("seed", range(3))
def test_a_sequence_broken_off_leaves_nothing_behind(seed, macs):
    """Neither bursts of maps on their way nor words that wait to be written."""
    map_depth, value_depth = MEMORIES["none"]
    params = hardware(macs)
    break_off_at_random(seed, macs, params=params,
                        compile_for=replace(params, map_depth=map_depth, value_depth=value_depth))


def layer(name, channels, side, out, kernel=1, stride=1):
    shape = ConvShape(channels, side, side, out, (kernel, kernel), (stride, stride), (kernel // 2,) * 4)
    weight = np.arange(np.prod(shape.weight_shape)).reshape(shape.weight_shape).astype(np.int8)
    return QConv(name, shape, weight, 8, 8, np.zeros(out, np.int32), "relu", 8)


CHAIN = QuantisedNetwork("chain", (layer("a", 4, 12, 16), layer("b", 16, 12, 32, stride=2), layer("c", 32, 6, 4),
                                   layer("d", 4, 6, 2)), 8)


def test_a_map_of_many_slabs():
    """A layer in several passes, all of whose slabs are external; planes begin at multiples of EXTERNAL_ALIGN."""
    network = QuantisedNetwork("slabs", (layer("wide", 3, 9, 260, 3), layer("back", 260, 9, 6)), 8)
    program = compiled(network, 8, "none")
    assert sum(number == 0 for number, _ in program.plans) >= 3
    planes = [program.value_address(slab) & ((1 << EXTERNAL_BIT) - 1) for slab in external_slabs(program)]
    planes += [int(program.slabs[slab][0]) * EXTERNAL_ALIGN for slab in external_slabs(program)]
    assert all(plane % EXTERNAL_ALIGN == 0 for plane in planes) and len(set(planes)) == len(planes)
    inputs = random_maps(np.random.default_rng(3), network, 4)
    with SimulatedConv(program, hardware(8), 2, latency=20) as engine:
        run = engine.run(inputs)
    np.testing.assert_array_equal(run.outputs, Golden(network).run(inputs).outputs)


def test_the_largest_maps_leave_the_chip():
    """Input 2 · 576 values, results 2304, 1152, 144 and one that leaves: as few as possible are external."""
    def names(value_depth):
        params = replace(hardware(8), map_depth=2048, value_depth=value_depth)
        program = compile_convs(CHAIN.layers, params, 2)
        return external_slabs(program), program

    assert names(8192)[0] == []
    assert names(4096)[0] == [2]
    slabs, program = names(1024)
    assert slabs[:4] == [0, 1, 2, 3]
    first = program.scratch_first * SIZES[8][0] // 2
    ends = [program.value_address(slab) % (1 << EXTERNAL_BIT) for slab in slabs]
    assert min(ends) >= first and max(ends) < first + program.scratch_words * SIZES[8][0] // 2


def test_external_maps_lie_behind_the_kernels_or_where_there_is_room():
    program = compiled(CHAIN, 16, "none", first_word=100)
    words = len(program.kernels) * 2
    assert 100 + words <= program.scratch_first < 100 + words + EXTERNAL_ALIGN // 4
    moved = program.with_scratch(50_000, SIZES[16][0])
    assert 50_000 <= moved.scratch_first < 50_000 + EXTERNAL_ALIGN // 4
    other = compiled(CHAIN, 16, "none", first_word=moved.scratch_first - words)     # as if compiled there
    assert (moved.scratch_first, moved.scratch_words) == (other.scratch_first, other.scratch_words)
    np.testing.assert_array_equal(moved.slabs, other.slabs)
    kernels = [PASS_FIELDS.index(name) for name in ("weight_low", "weight_high")]
    np.testing.assert_array_equal(np.delete(moved.passes, kernels, 1), np.delete(other.passes, kernels, 1))
    np.testing.assert_array_equal(moved.passes[:, kernels], program.passes[:, kernels])
    on_chip = compiled(CHAIN, 16, "all")
    assert on_chip.scratch_words == 0 and on_chip.with_scratch(50_000, 8) is on_chip


def test_maps_that_were_moved_stay_what_they_are():
    """Some on chip, some not."""
    program = compiled(CHAIN, 16, "some").with_scratch(80_000, SIZES[16][0])
    inputs = random_maps(np.random.default_rng(4), CHAIN, 3)
    with SimulatedConv(program, hardware(16), SIZES[16][0], latency=5) as engine:
        run = engine.run(inputs)
    np.testing.assert_array_equal(run.outputs, Golden(CHAIN).run(inputs).outputs)


def test_maps_of_an_image_network_have_room():
    """The first layers of VGG19 at their full size: 224 × 224 × 64, twice as input and once as result, in 20.5 MB."""
    layers = (layer("conv1_2", 64, 224, 64, 3), layer("next", 64, 224, 4))
    program = compile_convs(layers, ConvParameters(macs=16, psum_depth=1024, kernel_depth=8192, external=1), 8)
    assert external_slabs(program) == [0, 1, *range(2, 2 + sum(number == 0 for number, _ in program.plans))]
    assert 3 * 2 * 224 * 224 * 64 * 17 / 16 <= program.scratch_words * 8 < 20_500_000


def test_what_no_memory_holds_is_refused():
    with pytest.raises(AmacrineError, match=r"need 3456 values .* has 512, .* with external maps \(external=1\)"):
        compile_convs(CHAIN.layers, ConvParameters(macs=16, value_depth=512), 8)
    with pytest.raises(AmacrineError, match="reaches 67108864; use smaller maps"):
        compiled(CHAIN, 16, "none").with_scratch((1 << 24) - 1000, SIZES[16][0])
    with pytest.raises(AmacrineError, match="reaches 67108864; use smaller maps"):
        compiled(CHAIN, 16, "none", first_word=(1 << 24) - 1000)
    with pytest.raises(AmacrineError, match="external must be 0 or 1, not 2"):
        ConvParameters(external=2)
    with pytest.raises(AmacrineError, match="need an even number of PEs, not 1"):
        Parameters(pes=1, conv=ConvParameters(external=1))
