"""The CNN engine against the golden model: random chains of convolutions, every element, every count."""

from __future__ import annotations

import numpy as np
import pytest

from amacrine.sim.conv_engine import SimulatedConv
from amacrine.sw.conv_compile import ConvProgram, compile_convs
from amacrine.sw.conv_counts import expected_passes, kernel_bytes, pass_macs
from amacrine.sw.conv_layout import PASS_FIELDS, SLAB_FIELDS, ConvParameters
from amacrine.sw.conv_pack import ConvPass
from amacrine.sw.convolution import ConvShape
from amacrine.sw.golden import Golden
from amacrine.sw.qlayers import QConv
from amacrine.sw.quantised import QuantisedNetwork

#: by number of MACs, with the weights in a word of the weight port; small memories, so that layers take several passes
SIZES = {4: (4, 1024), 8: (2, 512), 16: (8, 512), 64: (64, 256)}
ACTIVATIONS = ("identity", "relu", "relu6", "sigmoid", "tanh")


def parameters(macs: int) -> ConvParameters:
    return ConvParameters(macs=macs, value_depth=8192, map_depth=4096, kernel_depth=2048,
                          psum_depth=SIZES[macs][1], pool_depth=256)


def random_layer(rng: np.random.Generator, name: str, channels: int, height: int, width: int, frac: int) -> QConv:
    """A layer that reads such a map, of any kind that fits."""
    flat = height == 1
    kernel = (1 if flat else int(rng.integers(1, min(height + 2, 7) + 1)), int(rng.integers(1, min(width + 2, 7) + 1)))
    kind = rng.choice(["full", "groups", "depthwise"], p=[0.6, 0.2, 0.2])
    groups = channels if kind == "depthwise" else 2 if kind == "groups" and channels % 2 == 0 else 1
    out = channels if kind == "depthwise" else groups * int(rng.integers(1, 13))
    pads = tuple(0 if flat and side % 2 == 0 else int(rng.integers(0, 4)) for side in range(4))
    pads = tuple(max(pad, 2 if (kernel[side % 2] > (height, width)[side % 2]) else 0) if not (flat and side % 2 == 0)
                 else 0 for side, pad in enumerate(pads))
    shape = ConvShape(channels, height, width, out, kernel, (1 if flat else int(rng.integers(1, 3)),
                      int(rng.integers(1, 3))), pads, groups)
    windows = [("none", (1, 1)), ("max", (shape.conv_height, shape.conv_width))]
    if shape.conv_height > 1 and shape.conv_width > 1:
        windows += [("max", (2, 2)), ("average", (2, 2))]
    elif shape.conv_height == 1 and shape.conv_width > 1:
        windows += [("max", (1, 2)), ("average", (1, 2))]
    windows += [("average", (shape.conv_height, shape.conv_width))]
    pooling, window = windows[rng.integers(len(windows))] if rng.random() < 0.5 else windows[0]
    shape = ConvShape(channels, height, width, out, kernel, shape.stride, pads, groups, pooling, window)
    weight = rng.integers(-128, 128, shape.weight_shape).astype(np.int8)
    weight[rng.random(weight.shape) < 0.2] = 0
    activation = str(rng.choice(ACTIVATIONS, p=[0.2, 0.4, 0.2, 0.1, 0.1]))
    bounded = activation in ("sigmoid", "tanh")
    output_frac = int(rng.integers(12, 15)) if bounded else 8
    scale = int(rng.integers(12, 22)) if bounded else output_frac + int(rng.integers(5, 12))
    bias = rng.integers(-1 << 19, 1 << 19, out).astype(np.int32)
    return QConv(name, shape, weight, scale - frac, frac, bias, activation, output_frac)


def random_network(rng: np.random.Generator, layers: int) -> QuantisedNetwork:
    height = 1 if rng.random() < 0.3 else int(rng.integers(1, 10))
    channels, width, frac = int(rng.integers(1, 20)), int(rng.integers(1, 14)), 8
    made = []
    for number in range(layers):
        made.append(random_layer(rng, f"conv{number}", channels, height, width, frac))
        shape, frac = made[-1].shape, made[-1].output_frac
        channels, height, width = shape.out_channels, shape.out_height, shape.out_width
    return QuantisedNetwork("net", tuple(made), 8)


def random_maps(rng: np.random.Generator, network: QuantisedNetwork, steps: int) -> np.ndarray:
    """Maps of all densities: all zero, all non-zero, one pixel, one channel, and between."""
    shape = network.layers[0].shape
    maps = rng.integers(-2000, 2000, (steps, shape.in_channels, shape.in_height, shape.in_width))
    kinds = rng.choice(["zero", "full", "pixel", "channel", "some"], steps, p=[.1, .2, .1, .1, .5])
    for step, kind in enumerate(kinds):
        keep = np.zeros(maps[step].shape, bool)
        if kind == "full":
            keep[:] = True
            maps[step][maps[step] == 0] = 1
        elif kind == "pixel":
            keep[:, rng.integers(shape.in_height), rng.integers(shape.in_width)] = True
        elif kind == "channel":
            keep[rng.integers(shape.in_channels)] = True
        elif kind == "some":
            keep = rng.random(keep.shape) < rng.random()
        maps[step][~keep] = 0
    return maps.reshape(steps, -1).astype(np.int16)


def useful_macs(plan: ConvPass, weight: np.ndarray, nonzero: np.ndarray) -> int:
    """Multiplications by weights that are not zero, in NumPy; `nonzero` says in how many steps each input is not zero.

    A weight is met by each element at each output position that it adds to, those included that share a word with the
    map's last column.
    """
    shape, width = plan.shape, plan.out_words << plan.q_shift
    kernels = weight[plan.out_first:plan.out_first + plan.channels] != 0
    weights = kernels[:, 0] if plan.depthwise else kernels.sum(0)       # (in_channels, kernel height, kernel width)
    inside = [np.zeros((side, size), np.int64) for side, size in
              ((plan.y.kernel, shape.in_height), (plan.x.kernel, shape.in_width))]
    for (axis, out), table in zip(((plan.y, shape.conv_height), (plan.x, width)), inside, strict=True):
        for element in range(axis.kernel):
            at = np.arange(table.shape[1]) + axis.pad - element
            table[element] = (at % axis.stride == 0) & (at >= 0) & (at // axis.stride < out)
    met = np.einsum("ky,cyx,lx->ckl", inside[0], nonzero[plan.in_low:plan.in_high], inside[1])
    return int((met * weights).sum())


def expected_counts(network: QuantisedNetwork, program: ConvProgram,
                    maps: dict[int, np.ndarray]) -> dict[str, list[int]]:
    """Counts of each pass: `maps` are the inputs of the layers, one map a step."""
    counts: dict[str, list[int]] = {"events": [], "mac_cycles": [], "zero_macs": []}
    for (number, plan), fields in zip(program.plans, program.passes, strict=True):
        shape = plan.shape
        x = maps[number].reshape(-1, shape.in_channels, shape.in_height, shape.in_width)
        first, slabs = (int(fields[PASS_FIELDS.index(name)]) for name in ("slab_first", "slab_count"))
        counts["events"].append(0)
        for slab in program.slabs[first:first + slabs]:
            low, channels = int(slab[SLAB_FIELDS.index("first_channel")]), int(slab[SLAB_FIELDS.index("channels")])
            counts["events"][-1] += np.count_nonzero(x[:, low:low + channels])
        weight, nonzero = network.layers[number].weight, np.count_nonzero(x, axis=0)
        cycles, _ = pass_macs(plan, weight, nonzero)
        counts["mac_cycles"].append(cycles)
        counts["zero_macs"].append(plan.macs * cycles - useful_macs(plan, weight, nonzero))     # all P lanes multiply
    return counts


def check(network: QuantisedNetwork, macs: int, inputs: np.ndarray, seed: int, **stalls: float) -> None:
    """Run on hardware and golden model; everything must be equal, counters of each pass included."""
    params, pes = parameters(macs), SIZES[macs][0]
    program = compile_convs(network.layers, params, pes)
    golden = Golden(network).run(inputs)
    with SimulatedConv(program, params, pes, latency=[1, 5, 40][seed % 3], memory_stall=0.3 * (seed % 2)) as engine:
        run = engine.run(inputs, seed=seed, **stalls)
        took = engine.cycles
    np.testing.assert_array_equal(run.outputs, golden.outputs)
    maps = {0: inputs} | {number + 1: golden.vectors[layer.name] for number, layer in enumerate(network.layers)}
    passes = list(expected_passes(golden, params))
    for name, expected in expected_counts(network, program, maps).items():
        np.testing.assert_array_equal(run.counters[name], expected, name)
        assert [getattr(each, name) for each in passes] == expected, name
    assert [each.kernel_bytes for each in passes] == [kernel_bytes(plan) for _, plan in program.plans]
    assert sum(each.kernel_bytes for each in passes) == program.kernels.size
    assert run.counters["cycles"].min() > 0
    assert run.counters["mac_cycles"].sum() <= run.counters["cycles"].sum() < took


@pytest.mark.parametrize("macs", SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_random_chains(macs, seed):
    rng = np.random.default_rng([seed, macs])
    for attempt in range(4):
        network = random_network(rng, 1 + int(rng.integers(3)))
        stalls = [{}, {"idle": 0.4}, {"stall": 0.5}, {"idle": 0.3, "stall": 0.6}][attempt]
        check(network, macs, random_maps(rng, network, 5), seed, **stalls)
