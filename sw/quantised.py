"""A network in the integers of the arithmetic contract (docs/arithmetic.md).

Every instance of ``QuantisedNetwork`` has been checked: sizes, formats, encoders, and a proof that no partial
sum can overflow. Golden model, compiler and gateware may rely on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import AmacrineError
from .fixed import ACTIVATION_BITS, ACTIVATION_FRACS, from_fixed, to_fixed
from .qcheck import check_frac, check_layer
from .qlayers import FULL_RANGE, Job, QConv, QLayer, layer_jobs


@dataclass(frozen=True, eq=False)
class QuantisedNetwork:
    """A chain of integer layers; raises ``AmacrineError`` if anything in it breaks the contract.

    Parameters
    ----------
    name : the network's name
    layers : first to last
    input_frac : fractional bits of the network's input vector
    """

    name: str
    layers: tuple[QLayer, ...]
    input_frac: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise AmacrineError(f"network {self.name!r} has no layers")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise AmacrineError(f"layer names of network {self.name!r} are not unique: {', '.join(names)}")
        check_frac("the network's input", self.input_frac, ACTIVATION_FRACS)
        n, frac, vector_range = self.n_inputs, self.input_frac, FULL_RANGE
        previous: QLayer | None = None
        for layer in self.layers:
            _check_order(previous, layer)
            check_layer(layer, n, frac, vector_range)
            n, frac, vector_range = layer.size, layer.output_frac, layer.output_range
            previous = layer

    @property
    def n_inputs(self) -> int:
        return self.layers[0].input.n

    @property
    def n_outputs(self) -> int:
        return self.layers[-1].size

    @property
    def output_frac(self) -> int:
        return self.layers[-1].output_frac

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """All jobs by name, in the order of the layers, input before recurrent."""
        return {name: job for layer in self.layers for name, job in layer_jobs(layer).items()}

    def quantise_inputs(self, x: np.ndarray) -> np.ndarray:
        """Real input vectors (T, n_inputs) to int16, saturating; refuses NaN, infinity and other shapes."""
        return to_fixed(checked_vectors(x, self.n_inputs), self.input_frac, ACTIVATION_BITS).astype(np.int16)

    def dequantise_outputs(self, y: np.ndarray) -> np.ndarray:
        """Output vectors in LSBs to real numbers, float64 of the same shape."""
        return from_fixed(y, self.output_frac)


def _check_order(previous: QLayer | None, layer: QLayer) -> None:
    """A convolution must be the first layer or follow another one that makes the maps it reads."""
    if previous is None or not isinstance(layer, QConv):
        return
    if not isinstance(previous, QConv):
        raise AmacrineError(f"layer {layer.name!r} is a convolution behind layer {previous.name!r}, which is none; "
                            "convolutions must come first")
    a, b = layer.shape, previous.shape
    reads, makes = (a.in_channels, a.in_height, a.in_width), (b.out_channels, b.out_height, b.out_width)
    if reads != makes:
        raise AmacrineError(f"layer {layer.name!r} reads maps of {reads}, but layer {previous.name!r} makes {makes}")


def checked_vectors(x: np.ndarray, n: int) -> np.ndarray:
    """``x`` as finite float64 (T, n), or ``AmacrineError`` with what is wrong."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != n:
        raise AmacrineError(f"expected input vectors of shape (steps, {n}), not {x.shape}")
    if not np.isfinite(x).all():
        step, element = np.argwhere(~np.isfinite(x))[0]
        raise AmacrineError(
            f"input element {element} of step {step} is {x[step, element]}, not a finite number"
        )
    return x
