"""Random networks of convolutions, with other layers behind them or without, and gateware for them."""

from test_conv_engine import random_layer
from test_golden import gru, identity, lstm, relu, relu_threshold, sigmoid_threshold, tanh

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import Parameters
from amacrine.sw.quantised import QuantisedNetwork

BEHIND = (relu_threshold, relu_threshold, sigmoid_threshold, relu, tanh, identity, gru, lstm)
SMALL = Parameters(pes=4, conv=ConvParameters(macs=8, value_depth=8192, map_depth=4096, kernel_depth=2048,
                                              psum_depth=512, pool_depth=256))
"""So small that many layers take several passes."""
LARGER = ConvParameters(macs=16, value_depth=8192, map_depth=2048, kernel_depth=2048, psum_depth=256, pool_depth=128)
EXTERNAL = ConvParameters(macs=16, value_depth=512, map_depth=64, kernel_depth=2048, psum_depth=256, pool_depth=128,
                          external=1)
"""So small that many maps go through weight memory."""
MOST = 300
"""Elements of the convolutions' result: what is behind them should not take all the time."""


def convolutions(rng, count):
    """A chain of `count` convolutions whose result is not large."""
    while True:
        height = 1 if rng.random() < 0.3 else int(rng.integers(1, 9))
        channels, width, frac, layers = int(rng.integers(1, 12)), int(rng.integers(1, 12)), 8, []
        for number in range(count):
            layers.append(random_layer(rng, f"conv{number}", channels, height, width, frac))
            shape, frac = layers[-1].shape, layers[-1].output_frac
            channels, height, width = shape.out_channels, shape.out_height, shape.out_width
        if layers[-1].size <= MOST:
            return layers


def random_mixed(rng, convs, behind, makers=BEHIND):
    """`convs` convolutions, then `behind` other layers, with thresholds of all kinds."""
    layers = convolutions(rng, convs)
    for _ in range(behind):
        before, make = layers[-1], makers[rng.integers(len(makers))]
        theta = int(rng.choice((0, 0, 0, 1, 200, 3000)))
        layers.append(make(rng, before.size, before.output_frac, int(rng.integers(1, 40)), theta=theta))
    return QuantisedNetwork("mixed", tuple(layers), 8)
