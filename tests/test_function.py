"""Function unit and pre-activation against sw/activation.py and sw/fixed.py."""

import cocotb
import numpy as np
from benches import SWEEP_WIDTH, run_bench
from cocotb.triggers import Timer
from streams import PERIOD, Ports, bench_test, generators, lanes

from amacrine.hw.function import FunctionUnit, PreActivation
from amacrine.sw.activation import sigmoid, tanh
from amacrine.sw.fixed import requantise
from amacrine.sw.layout import Function

LATENCY = FunctionUnit().latency
ARGUMENTS = np.arange(-(1 << 17), 1 << 17)


def test_function(tmp_path):
    run_bench(__name__, tmp_path)


def golden(function, x):
    """The function of 18-bit numbers; IDENTITY and RELU are for numbers of 16 bits."""
    low = (x + (1 << 15)) % (1 << 16) - (1 << 15)
    return {Function.IDENTITY: lambda: low, Function.RELU: lambda: np.maximum(low, 0),
            Function.SIGMOID: lambda: sigmoid(x), Function.TANH: lambda: tanh(x)}[function]()


@bench_test
@cocotb.parametrize(function=list(Function))
async def all_arguments(dut, function):
    """All 2**18 arguments in a row, one a cycle."""
    sweep = Ports(dut, "sweep")
    await sweep.begin("start")
    sweep.set(start=1, function=function)
    await sweep.cycles(2)
    sweep.set(start=0)                          # x stays for this cycle, then counts
    await sweep.cycles(LATENCY)
    await Timer(PERIOD // 2, "step")            # between two edges
    results = []
    for _ in range(len(ARGUMENTS) // SWEEP_WIDTH):
        await Timer(SWEEP_WIDTH * PERIOD, "step")
        results += lanes(int(sweep.y.value), SWEEP_WIDTH, 16)
    np.testing.assert_array_equal(results, golden(function, ARGUMENTS))


@bench_test
async def function_comes_with_its_argument(dut):
    """Another function and argument in each cycle."""
    unit = Ports(dut, "function")
    rng, np_rng = generators("function")
    await unit.begin("function", "x")
    x = np_rng.integers(-(1 << 17), 1 << 17, 5000)
    x[::3] >>= np_rng.integers(0, 17, len(x[::3]))
    functions = np_rng.integers(0, 4, len(x))
    expected = [int(golden(Function(f), x[i:i + 1])[0]) for i, f in enumerate(functions)]
    results = []
    for argument, function in [*zip(x, functions, strict=True), *[(0, 0)] * (LATENCY + 1)]:
        unit.x.value, unit.function.value = int(argument) & 0x3FFFF, int(function)
        await unit.cycles()
        results.append(unit.y.value.to_signed())
    np.testing.assert_array_equal(results[LATENCY:-1], expected)


@bench_test
@cocotb.parametrize(narrow=[0, 1])
async def pre_activation_requantises(dut, narrow):
    """All shifts; numbers of all magnitudes, the corners, and those halfway between two results."""
    pre = Ports(dut, "pre")
    rng, np_rng = generators("pre", narrow)
    await pre.begin("psum", "shift", "narrow")
    bits = 16 if narrow else 18
    values, shifts = [], []
    for shift in range(16):
        some = np_rng.integers(-(1 << 31), 1 << 31, 120) >> np_rng.integers(0, 31, 120)
        limits = np.array([-(1 << (bits - 1)), (1 << (bits - 1)) - 1]) << shift
        half = (1 << shift) >> 1
        corners = [-(1 << 31), (1 << 31) - 1, 0, -1, 1, half, -half, half - 1, -half - 1]
        corners += [int(limit) + d for limit in limits for d in (-half - 1, -half, -1, 0, 1, half - 1, half, 3 * half)]
        values += [v for v in [*some.tolist(), *corners] if -(1 << 31) <= v < 1 << 31]
        shifts += [shift] * (len(values) - len(shifts))
    order = np_rng.permutation(len(values))
    values, shifts = np.array(values)[order], np.array(shifts)[order]
    results = []
    for value, shift in [*zip(values, shifts, strict=True), *[(0, 0)] * (PreActivation.LATENCY + 1)]:
        pre.psum.value, pre.shift.value, pre.narrow.value = int(value) & 0xFFFFFFFF, int(shift), narrow
        await pre.cycles()
        results.append(pre.q.value.to_signed())
    expected = [int(requantise(v, int(s), bits)) for v, s in zip(values, shifts, strict=True)]
    np.testing.assert_array_equal(results[PreActivation.LATENCY:-1], expected)
