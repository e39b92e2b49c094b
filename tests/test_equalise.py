"""Equalised networks compute the same and have weights of one scale."""

from __future__ import annotations

import numpy as np
import pytest

from amacrine.sw.conv import Conv
from amacrine.sw.convolution import ConvShape
from amacrine.sw.equalise import equalise
from amacrine.sw.network import GRU, LSTM, Dense, Network

SHAPE = ConvShape(3, 5, 4, 6, (3, 2), pads=(1, 0, 1, 1), pooling="max", pool_window=(2, 2))


def network(rng: np.random.Generator, last: str) -> Network:
    """Convolutions whose channels differ by a factor of up to a thousand, one of them dead, and a layer behind."""
    def conv(name: str, shape: ConvShape) -> Conv:
        scale = 10.0 ** np.linspace(-2, 1, shape.out_channels)
        scale[1] = 0.0
        return Conv(name, shape, rng.normal(size=shape.weight_shape) * scale[:, None, None, None],
                    rng.normal(size=shape.out_channels) * scale, "relu")

    second = ConvShape(6, SHAPE.out_height, SHAPE.out_width, 4, (1, 1))
    n = second.n_outputs
    layers = {"dense": Dense("last", rng.normal(size=(5, n)), rng.normal(size=5)),
              "gru": GRU("last", rng.normal(size=(9, n)), rng.normal(size=(9, 3)), *rng.normal(size=(2, 9)),
                         np.zeros(3)),
              "lstm": LSTM("last", rng.normal(size=(8, n)), rng.normal(size=(8, 2)), rng.normal(size=8), np.zeros(2),
                           np.zeros(2))}
    return Network("net", (conv("one", SHAPE), conv("two", second), layers[last]))


@pytest.mark.parametrize("last", ["dense", "gru", "lstm"])
def test_same_function_more_even_weights(last):
    rng = np.random.default_rng(3)
    before = network(rng, last)
    after = equalise(before)
    x = rng.normal(size=(4, before.n_inputs))
    np.testing.assert_allclose(after.run(x), before.run(x), rtol=1e-9, atol=1e-9)

    def unevenness(net: Network) -> float:
        largest = np.abs(net.layers[0].weight).max(axis=(1, 2, 3))
        return largest[largest > 0].max() / largest[largest > 0].min()
    assert unevenness(after) < 0.2 * unevenness(before)
    # No vector grows, so none needs another format.
    for name, trace in before.trace(x).items():
        if name != "last":
            assert (np.abs(after.trace(x)[name].output) <= np.abs(trace.output) * (1 + 1e-9)).all()


def test_other_layers_stay_as_they_are():
    rng = np.random.default_rng(4)
    grouped = ConvShape(4, 3, 3, 4, (1, 1), groups=2)
    layers = (Conv("sigmoid", SHAPE, rng.normal(size=SHAPE.weight_shape), rng.normal(size=6), "sigmoid"),
              Conv("one", ConvShape(6, 2, 2, 4, (1, 1)), rng.normal(size=(4, 6, 1, 1)), np.zeros(4), "identity"))
    net = Network("net", layers)
    assert all(a.weight is b.weight for a, b in zip(equalise(net).layers, layers, strict=True))
    layers = (Conv("one", ConvShape(2, 3, 3, 4, (1, 1)), rng.normal(size=(4, 2, 1, 1)), np.zeros(4), "relu"),
              Conv("two", grouped, rng.normal(size=(4, 2, 1, 1)), np.zeros(4), "relu"))
    assert all(a.weight is b.weight for a, b in zip(equalise(Network("net", layers)).layers, layers, strict=True))
