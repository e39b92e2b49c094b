"""The layers that `amacrine bench cnn` measures."""

from math import prod

from amacrine.sim.conv_bench import LAYERS, VGG19, VGG19_LIKE, VGG19_ROWS, bench_parameters, vgg19_times
from amacrine.sw.conv_pack import plan_passes

VGG19_MACS = 19.51e9    # of its convolutions, padding included, for an image of 224 × 224


def test_vgg19_is_all_of_vgg19():
    """Rows of the table, as often as they count, make its 16 convolutions and their multiplications."""
    assert len(VGG19) + sum(VGG19_LIKE.values()) - len(VGG19_LIKE) == 16
    assert all(shape.in_height == VGG19_ROWS for shape in VGG19.values())
    macs = sum(vgg19_times(name) * prod(shape.weight_shape) * shape.conv_height * shape.conv_width
               for name, shape in VGG19.items())
    assert abs(macs / VGG19_MACS - 1) < 0.001


def test_all_layers_fit():
    for macs in (16, 64):
        for name, shape in (LAYERS | VGG19).items():
            assert plan_passes(name, shape, bench_parameters(macs))
