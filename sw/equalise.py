"""Weights of neighbouring layers brought to one scale, channel by channel, which changes nothing but their rounding.

A ReLU lets positive factors pass, so a channel of a convolution can be made s times smaller if what the next layer
makes of it is made s times larger. Networks whose batch normalisation was folded into their weights have channels of
very different scale, and one power of two for all would leave few bits to the small ones.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-free quantization through weight equalization and bias
correction", ICCV 2019, equation 11.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .conv import Conv
from .network import GRU, LSTM, Dense, Layer, Network

ROUNDS = 20  # a chain of layers settles; further rounds change less than a thousandth


def equalise(network: Network) -> Network:
    """The same function with equalised weights: a convolution with ReLU and the layer behind it, pair by pair.

    Grouped convolutions, other activations and average pooling of other layers stay as they are.
    """
    layers = list(network.layers)
    for _ in range(ROUNDS):
        for number in range(len(layers) - 1):
            before, after = layers[number], layers[number + 1]
            if isinstance(before, Conv) and before.activation == "relu" and before.shape.groups == 1 and (
                    not isinstance(after, Conv) or after.shape.groups == 1):
                layers[number], layers[number + 1] = _pair(before, after)
    return replace(network, layers=tuple(layers))


def _pair(before: Conv, after: Layer) -> tuple[Conv, Layer]:
    """Both layers with the largest weights of each channel between them made equal."""
    channels = before.shape.out_channels
    columns = _input_weights(after).reshape(_rows(after), channels, -1)
    out, into = np.abs(before.weight).max(axis=(1, 2, 3)), np.abs(columns).max(axis=(0, 2))
    dead = (out == 0) | (into == 0)
    scale = np.sqrt(np.where(dead, 1.0, out) / np.where(dead, 1.0, into))
    # Only the ratios count: no channel gets larger, so that vectors keep within their format.
    scale = np.where(dead, 1.0, scale / scale[~dead].min(initial=np.inf))
    scaled = (columns * scale[:, None]).reshape(_input_weights(after).shape)
    return (replace(before, weight=before.weight / scale[:, None, None, None], bias=before.bias / scale),
            _with_input_weights(after, scaled))


def _input_weights(layer: Layer) -> np.ndarray:
    return layer.weight if isinstance(layer, Dense | Conv) else layer.weight_ih


def _rows(layer: Layer) -> int:
    return _input_weights(layer).shape[0]


def _with_input_weights(layer: Layer, weight: np.ndarray) -> Layer:
    if isinstance(layer, GRU | LSTM):
        return replace(layer, weight_ih=weight)
    return replace(layer, weight=weight)
