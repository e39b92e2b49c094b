"""Post-training quantisation: a float network, calibration data and thresholds to a ``QuantisedNetwork``.

The rule by which formats are chosen is that of ``formats.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .errors import AmacrineError
from .fixed import from_fixed
from .formats import choose_formats, layer_weights
from .golden import dense_run
from .network import Network
from .qlayers import QGRU, QLSTM, Encoder, QConv, QDense, QLayer, Source, layer_jobs
from .quantised import QuantisedNetwork
from .thresholds import Threshold, Thresholds, check_names, parse_thresholds, theta

__all__ = [
    "LayerSqnr",
    "QConv",
    "QDense",
    "QGRU",
    "QLSTM",
    "QuantisedNetwork",
    "Source",
    "Threshold",
    "parse_thresholds",
    "quantise",
    "sqnr_report",
    "with_thresholds",
]


def quantise(
    network: Network, calibration: np.ndarray, thresholds: Thresholds | None = None
) -> QuantisedNetwork:
    """Quantise ``network``.

    The encoder is ``threshold`` for a Dense layer that reads the output of a ReLU or ReLU6, ``delta`` otherwise. A
    convolution has no threshold; it leaves out zeros only.

    Parameters
    ----------
    network : the trained network
    calibration : (T, n_inputs), typical input vectors, one sequence of at least one step
    thresholds : of the encoders, see ``thresholds.Thresholds``; 0 where none is given

    Raises
    ------
    AmacrineError
        for calibration data of another shape, or not finite; naming the layer for which no formats exist,
        or the threshold that is unknown or out of range
    """
    layers = choose_formats(network, calibration)
    quantised = QuantisedNetwork(network.name, layers, layers[0].input.input_frac)
    return with_thresholds(quantised, thresholds or {})


def with_thresholds(network: QuantisedNetwork, thresholds: Thresholds) -> QuantisedNetwork:
    """The same network with encoders chosen and thresholds set as `quantise` does."""
    check_names(thresholds, network.jobs)
    previous: list[QLayer | None] = [None, *network.layers[:-1]]
    finished = [_with_encoders(*pair, thresholds) for pair in zip(network.layers, previous, strict=True)]
    return replace(network, layers=tuple(finished))


def _with_encoders(layer: QLayer, previous: QLayer | None, thresholds: Thresholds) -> QLayer:
    """``layer`` with encoders chosen and thresholds set."""
    if isinstance(layer, QConv):
        if layer.name in thresholds or f"{layer.name}.input" in thresholds:
            raise AmacrineError(f"layer {layer.name!r} is a convolution, which leaves out zeros only; "
                                "give it no threshold")
        return layer
    after_relu = isinstance(previous, QDense | QConv) and previous.activation in ("relu", "relu6")
    after_relu |= layer.input.rectify
    encoder: Encoder = "threshold" if after_relu and isinstance(layer, QDense) else "delta"
    first, *second = [
        replace(job.source, encoder=encoder, theta=theta(thresholds, name, job.source.input_frac))
        for name, job in layer_jobs(layer).items()
    ]
    if isinstance(layer, QDense):
        return replace(layer, input=first)
    return replace(layer, input=first, recurrent=second[0])


@dataclass(frozen=True)
class LayerSqnr:
    """Signal to quantisation noise of one layer, in dB; infinite where nothing is lost.

    Parameters
    ----------
    name : the layer
    weights_db : of the weights of each source, ``input`` and perhaps ``recurrent``
    outputs_db : of the output vectors, thresholds left out, errors of the layers before included
    """

    name: str
    weights_db: dict[str, float]
    outputs_db: float


def sqnr_report(network: Network, quantised: QuantisedNetwork, x: np.ndarray) -> list[LayerSqnr]:
    """Compare ``quantised`` with the ``network`` it was made from, on input vectors ``x`` (T, n_inputs)."""
    trace = network.trace(x)
    vectors = dense_run(quantised, quantised.quantise_inputs(x))
    report = []
    for layer, q in zip(network.layers, quantised.layers, strict=True):
        weights = {
            name.rpartition(".")[2]: sqnr_db(weight, from_fixed(job.source.weight, job.source.weight_frac))
            for (name, job), weight in zip(layer_jobs(q).items(), layer_weights(layer), strict=True)
        }
        outputs_db = sqnr_db(trace[q.name].output, from_fixed(vectors[q.name], q.output_frac))
        report.append(LayerSqnr(q.name, weights, outputs_db))
    return report


def sqnr_db(exact: np.ndarray, approximate: np.ndarray) -> float:
    """Power of ``exact`` over the power of the error, in dB."""
    noise = float(np.sum((exact - approximate) ** 2))
    signal = float(np.sum(exact**2))
    return float(10 * np.log10(signal / noise)) if noise and signal else (-np.inf if noise else np.inf)
