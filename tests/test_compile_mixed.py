"""Programs with convolutions: what the compiler lays out, in which order, what a file keeps, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from mixed_networks import SMALL, random_mixed
from test_conv_engine import random_maps
from test_golden import gru, identity, relu, relu_threshold

from amacrine.sw.compile import compile_network, pack_columns
from amacrine.sw.conv_compile import compile_convs
from amacrine.sw.conv_layout import PASS_FIELDS, ConvParameters, ConvRegister
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import AmacrineError
from amacrine.sw.layout import COLUMN_FIELDS, INPUT_SOURCE, ColumnMode, Parameters, Register, Route
from amacrine.sw.program import Program, register_writes
from amacrine.sw.qlayers import QConv, QDense, Source, layer_jobs
from amacrine.sw.quantised import QuantisedNetwork


def conv(name, shape, activation="relu"):
    rng = np.random.default_rng(1)
    return QConv(name, shape, rng.integers(-128, 128, shape.weight_shape).astype(np.int8), 8, 8,
                 np.zeros(shape.out_channels, np.int32), activation, 8)


def network(*makers, theta=0, out_channels=5, size=6):
    """A convolution of 3 × 4 × 6 maps, and such layers behind it."""
    rng = np.random.default_rng(2)
    layers = [conv("conv", ConvShape(3, 4, 6, out_channels, (3, 3), pads=(1, 1, 1, 1)))]
    for make in makers:
        layers.append(make(rng, layers[-1].size, layers[-1].output_frac, size, theta=theta))
    return QuantisedNetwork("net", tuple(layers), 8)


def field(program, job, name):
    return int(program.columns[program.job(job).number][COLUMN_FIELDS.index(name)])


@pytest.mark.parametrize(("makers", "theta", "route", "encoder"), [
    ((relu_threshold,), 0, Route.MAP_TO_EVENTS, "map"), ((relu_threshold,), 1, Route.MAP_TO_EVENTS, "map"),
    ((relu_threshold, gru), 0, Route.MAP_TO_EVENTS, "map"), ((relu_threshold,), 2, Route.MAP_TO_VECTOR, "threshold"),
    ((relu,), 0, Route.MAP_TO_VECTOR, "delta"), ((gru,), 0, Route.MAP_TO_VECTOR, "delta"),
])
def test_route_and_encoder_of_the_first_layer_behind(makers, theta, route, encoder):
    net = network(*makers, theta=theta)
    program = compile_network(net, SMALL)
    [name, *_] = layer_jobs(net.layers[1])
    assert (program.route, program.job(name).encoder) == (route, encoder)
    assert (program.n_inputs, program.input_length, program.n_outputs) == (72, 120, net.n_outputs)
    assert field(program, name, "control") & 3 == ColumnMode[encoder.upper()]
    places = {field(program, name, "source_word"), field(program, name, "odd_source_word")}
    assert places == {0} if encoder == "map" else places == {0, 60}
    entries = [entry for entry in program.entries if entry >> 8 & 15 == INPUT_SOURCE]
    if encoder == "map":    # listed once, and waited for
        assert [entry & 0xE0 for entry in entries] == [0]


def test_columns_behind_are_in_the_order_of_the_stream():
    net = network(relu_threshold, out_channels=11)
    small = replace(SMALL, conv=replace(SMALL.conv, kernel_depth=32))
    program = compile_network(net, small)
    head = compile_convs(net.layers[:1], small.conv, SMALL.pes)
    assert len(head.passes) == 2 and len(program.output_order) == 0
    name = f"{net.layers[1].name}.input"
    start = field(program, name, "weight_low") | field(program, name, "weight_high") << 16
    columns = pack_columns(layer_jobs(net.layers[1])[name], None, SMALL.pes)
    there = program.weights[start:][: columns.shape[0] * columns.shape[1]].reshape(columns.shape)
    np.testing.assert_array_equal(there, columns[head.output_order])
    np.testing.assert_array_equal(program.input_order, head.input_order)


def test_kernels_are_where_the_passes_look_for_them():
    rng = np.random.default_rng(3)
    for behind in (0, 2):
        net = random_mixed(rng, 3, behind)
        program = compile_network(net, SMALL)
        head = compile_convs([layer for layer in net.layers if isinstance(layer, QConv)], SMALL.conv, SMALL.pes)
        kernels, done = head.kernels.reshape(-1, SMALL.pes), 0
        for row, job in zip(program.passes, program.conv_jobs, strict=True):
            fields = dict(zip(PASS_FIELDS, map(int, row), strict=True))
            start = fields["weight_low"] | fields["weight_high"] << 16
            words = job.kernel_bytes // SMALL.pes
            np.testing.assert_array_equal(program.weights[start : start + words], kernels[done : done + words])
            done += words
        assert done == len(kernels)
        names = [f"{layer}.pass{sum(other.layer == layer for other in program.conv_jobs[:number]) + 1}"
                 for number, layer in enumerate(job.layer for job in program.conv_jobs)]
        assert [job.name for job in program.conv_jobs] == names


def test_convolutions_alone():
    net = network()
    program = compile_network(net, SMALL)
    assert program.route is Route.MAP_TO_HOST
    assert (program.input_length, len(program.entries), len(program.cells)) == (0, 0, 0)
    x = random_maps(np.random.default_rng(1), net, 4)
    maps = program.streamed(x).reshape(4, 4, 6, 3)
    np.testing.assert_array_equal(maps.transpose(0, 3, 1, 2).reshape(4, -1), x)
    y = np.arange(2 * 120, dtype=np.int16).reshape(2, 120)
    np.testing.assert_array_equal(program.restored(y[:, program.output_order]), y)
    np.testing.assert_array_equal(program.restored(y[0, program.output_order]), y[0])


def test_registers():
    net = network(gru)
    program = compile_network(net, SMALL)
    writes = dict(register_writes(program))
    conv_base = Register.CONV
    assert writes[Register.ROUTE] == Route.MAP_TO_VECTOR and writes[Register.INPUT] == 120 << 16
    assert writes[conv_base + ConvRegister.COUNT] == len(program.passes)
    assert (writes[conv_base + ConvRegister.CHANNELS], writes[conv_base + ConvRegister.POSITIONS]) == (3, 24)
    assert (writes[conv_base + ConvRegister.EVEN_VALUE], writes[conv_base + ConvRegister.ODD_VALUE]) == (0, 72)
    assert (writes[conv_base + ConvRegister.EVEN_MAP], writes[conv_base + ConvRegister.ODD_MAP]) == (0, 24)
    for row, fields in enumerate(program.passes.tolist()):
        for number, value in enumerate(fields):
            pair = writes[conv_base + ConvRegister.PASSES + 16 * row + number // 2]
            assert pair >> 16 * (number % 2) & 0xFFFF == value
    assert len({address for address, _ in register_writes(program)}) == len(register_writes(program))


def test_without_convolutions_the_cnn_engine_stands_still():
    rng = np.random.default_rng(4)
    net = QuantisedNetwork("net", (identity(rng, 9, 8, 4),), 8)
    program = compile_network(net, SMALL)
    assert (program.route, program.input_length) == (Route.VECTOR, 9)
    writes = {address: value for address, value in register_writes(program) if address in range(0x8000, 0x10000)}
    assert writes == {Register.CONV + ConvRegister.RUN: 0}
    writes = {address for address, _ in register_writes(compile_network(net))}
    assert not writes & set(range(Register.CONV, Register.VECTOR))
    x = np.zeros((3, 9), np.int16)
    assert program.streamed(x) is x and program.restored(x) is x


@pytest.mark.parametrize("behind", [0, 2])
def test_a_file_keeps_it_all(behind, tmp_path):
    program = compile_network(random_mixed(np.random.default_rng(5), 2, behind), SMALL)
    program.save(tmp_path / "program")
    again = Program.load(tmp_path / "program")
    assert again.header() == program.header() and again.checksum() == program.checksum()
    assert again.conv_jobs == program.conv_jobs and again.route is program.route
    assert register_writes(again) == register_writes(program)


@pytest.mark.parametrize(("depths", "message"), [
    ({"value_depth": 128}, "'conv': the maps of the input, itself and two inputs need 144 values of feature memory, "
                           "and the CNN engine has 128, 16 too few"),
    ({"map_depth": 32}, "'conv': .* need 48 map words of feature memory, and the CNN engine has 32, 16 too few"),
    ({"kernel_depth": 16}, "'conv' needs .* kernel words of 8 weights, and the CNN engine has 16"),
    ({"psum_depth": 8}, "'conv' needs .* words of 8 partial sums for 4 rows, and the CNN engine has 8"),
])
def test_what_the_cnn_engine_has_too_little_of(depths, message):
    parameters = replace(SMALL, conv=replace(SMALL.conv, **depths))
    with pytest.raises(AmacrineError, match=message):
        compile_network(network(gru), parameters)


def test_too_little_for_pooling_and_too_many_passes():
    shape = ConvShape(3, 8, 8, 16, (3, 3), pooling="max", pool_window=(2, 2))
    pooled = QuantisedNetwork("net", (conv("pooled", shape),), 8)
    with pytest.raises(AmacrineError, match="'pooled' needs 12 chunks of 2 results in pooling memory, and the CNN "
                                            "engine has 4, 8 too few"):
        compile_network(pooled, replace(SMALL, conv=replace(SMALL.conv, pool_depth=4)))
    many = QuantisedNetwork("net", (conv("many", ConvShape(1, 1, 1, 16 * 65, (1, 1))),), 8)
    with pytest.raises(AmacrineError, match="need 65 passes, and the CNN engine has 64, 1 too few"):
        compile_network(many, replace(SMALL, conv=replace(SMALL.conv, psum_depth=4)))


def test_other_refusals():
    with pytest.raises(AmacrineError, match=r"'conv' is a convolution, and this gateware has no CNN engine; "
                                            r"generate it with one \(--parameter conv_macs=16\)"):
        compile_network(network(gru))
    first = conv("conv", ConvShape(1, 64, 65, 1, (1, 1)))
    source = Source(np.ones((3, 64 * 65), np.int8), 8, 8, "threshold", 0)
    wide = QuantisedNetwork("net", (first, QDense("fc", source, np.zeros(3, np.int32), "relu", 8)), 8)
    with pytest.raises(AmacrineError, match="'fc.input' has 4160 columns, and the gateware allows 4095"):
        compile_network(wide, Parameters(conv=ConvParameters(value_depth=1 << 14, map_depth=1 << 14)))
    with pytest.raises(AmacrineError, match="words of 4 weights, and the gateware has 256"):
        compile_network(network(gru), replace(SMALL, weight_address_bits=8))
