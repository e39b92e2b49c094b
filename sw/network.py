"""A trained network as a chain of layers, in floating point, and its reference computation.

A network is a chain: each layer reads the vector of the one before, once per time step.
Convolutions come first; they read one map a step, so that a set of images is a sequence of them.
Recurrent layers keep their state from step to step; a sequence starts from the initial state.

The reference computation is float64 and follows the layers' equations literally, one step after
another. It is what the golden model is compared with, and its trace is what a quantiser needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from .conv import Conv, check_shape, chunks, conv_sums, pool_float
from .errors import AmacrineError

Activation = Literal["identity", "relu", "sigmoid", "tanh"]
Float = np.ndarray  # float64 unless said otherwise


def sigmoid(x: Float) -> Float:
    """Logistic function, without overflow for large ``|x|``."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[Float], Float]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}
CONV_ACTIVATIONS: dict[str, Callable[[Float], Float]] = {**ACTIVATIONS, "relu6": lambda x: np.clip(x, 0.0, 6.0)}


@dataclass(frozen=True, eq=False)
class Dense:
    """y = activation(weight @ x + bias), with x first rectified (max(x, 0)) if ``input_activation`` is ``relu``.

    Parameters
    ----------
    name : layer name, unique in its network (used in reports and errors)
    weight : (n_outputs, n_inputs)
    bias : (n_outputs,)
    activation : ``identity``, ``relu``, ``sigmoid`` or ``tanh``
    input_activation : ``identity`` or ``relu``; the latter for a ReLU behind a recurrent layer
    """

    name: str
    weight: Float
    bias: Float
    activation: Activation = "identity"
    input_activation: Literal["identity", "relu"] = "identity"


@dataclass(frozen=True, eq=False)
class GRU:
    """Gated recurrent unit in PyTorch's form, which is ONNX's ``linear_before_reset=1``.

    r = σ(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r·(W_hn h + b_hn)),
    h = (1 − z)·n + z·h. Gates are stacked in PyTorch's order r, z, n.

    Parameters
    ----------
    weight_ih : (3·H, n_inputs)
    weight_hh : (3·H, H)
    bias_ih, bias_hh : (3·H,)
    initial_h : (H,), the state a sequence starts from
    """

    name: str
    weight_ih: Float
    weight_hh: Float
    bias_ih: Float
    bias_hh: Float
    initial_h: Float


@dataclass(frozen=True, eq=False)
class LSTM:
    """Long short-term memory, gates stacked in PyTorch's order i, f, g, o.

    c = σ(f)·c + σ(i)·tanh(g), h = σ(o)·tanh(c).

    Parameters
    ----------
    weight_ih : (4·H, n_inputs)
    weight_hh : (4·H, H)
    bias : (4·H,), the sum of both bias vectors
    initial_h, initial_c : (H,), the state a sequence starts from
    """

    name: str
    weight_ih: Float
    weight_hh: Float
    bias: Float
    initial_h: Float
    initial_c: Float


Layer = Dense | GRU | LSTM | Conv


def layer_inputs(layer: Layer) -> int:
    """Length of the vector a layer reads."""
    if isinstance(layer, Conv):
        return layer.shape.n_inputs
    return (layer.weight if isinstance(layer, Dense) else layer.weight_ih).shape[1]


def layer_outputs(layer: Layer) -> int:
    """Length of the vector a layer makes."""
    if isinstance(layer, Conv):
        return layer.shape.n_outputs
    return layer.weight.shape[0] if isinstance(layer, Dense) else layer.weight_hh.shape[1]


def _expected_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """The shape each array of a layer must have, by field name, given its two matrices' free sizes."""
    n_inputs, n = layer_inputs(layer), layer_outputs(layer)
    if isinstance(layer, Conv):
        return {"weight": layer.shape.weight_shape, "bias": (layer.shape.out_channels,)}
    if isinstance(layer, Dense):
        return {"weight": (n, n_inputs), "bias": (n,)}
    if isinstance(layer, GRU):
        return {"weight_ih": (3 * n, n_inputs), "weight_hh": (3 * n, n),
                "bias_ih": (3 * n,), "bias_hh": (3 * n,), "initial_h": (n,)}
    return {"weight_ih": (4 * n, n_inputs), "weight_hh": (4 * n, n),
            "bias": (4 * n,), "initial_h": (n,), "initial_c": (n,)}


def _check_layer(layer: Layer) -> None:
    if isinstance(layer, Conv):
        check_shape(layer.name, layer.shape)
    for matrix in _matrices(layer):
        array = getattr(layer, matrix)
        if array.ndim != 2 or array.size == 0:
            raise AmacrineError(f"layer {layer.name!r}: {matrix} has shape {array.shape}, "
                                "but must be a matrix with at least one row and one column")
    for field, shape in _expected_shapes(layer).items():
        array = getattr(layer, field)
        if array.shape != shape:
            raise AmacrineError(f"layer {layer.name!r}: {field} has shape {array.shape}, "
                                f"but its {'geometry asks' if isinstance(layer, Conv) else 'matrices ask'} for {shape}")
        if not np.isfinite(array).all():
            raise AmacrineError(f"layer {layer.name!r}: {field} holds NaN or infinity; "
                                "use a checkpoint from before the training diverged")
    _check_activation(layer)


def _matrices(layer: Layer) -> tuple[str, ...]:
    """Fields that are matrices; a convolution's kernels have four axes."""
    if isinstance(layer, Conv):
        return ()
    return ("weight",) if isinstance(layer, Dense) else ("weight_ih", "weight_hh")


def _check_activation(layer: Layer) -> None:
    if not isinstance(layer, Dense | Conv):
        return
    known = CONV_ACTIVATIONS if isinstance(layer, Conv) else ACTIVATIONS
    if layer.activation not in known:
        raise AmacrineError(f"layer {layer.name!r}: activation {layer.activation!r} is not supported; "
                            f"choose one of {', '.join(known)}")
    if isinstance(layer, Dense) and layer.input_activation not in ("identity", "relu"):
        raise AmacrineError(f"layer {layer.name!r}: input activation {layer.input_activation!r} is not supported; "
                            "choose identity or relu")


def _check_pair(before: Layer, after: Layer) -> None:
    """The second layer must be able to read what the first makes."""
    if isinstance(after, Conv) and not isinstance(before, Conv):
        raise AmacrineError(f"layer {after.name!r} is a convolution behind layer {before.name!r}, which is none; "
                            "convolutions must come first")
    if layer_inputs(after) != layer_outputs(before):
        raise AmacrineError(f"layer {after.name!r} reads {layer_inputs(after)} values, but layer "
                            f"{before.name!r} before it makes {layer_outputs(before)}")
    if isinstance(after, Conv) and isinstance(before, Conv):
        a, b = after.shape, before.shape
        reads, makes = (a.in_channels, a.in_height, a.in_width), (b.out_channels, b.out_height, b.out_width)
        if reads != makes:
            raise AmacrineError(f"layer {after.name!r} reads maps of {reads}, but layer {before.name!r} before it "
                                f"makes {makes}; channels, rows and columns must be the same")


State = tuple[Float, ...]  # of one layer: () for Dense and Conv, (h,) for GRU, (h, c) for LSTM


def initial_state(layer: Layer) -> State:
    """The state that a sequence starts from."""
    if isinstance(layer, Dense | Conv):
        return ()
    return (layer.initial_h,) if isinstance(layer, GRU) else (layer.initial_h, layer.initial_c)


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What one layer did over a sequence of T steps.

    Parameters
    ----------
    output : (T, n_outputs)
    psum_min, psum_max : (rows,), the range each partial sum took, bias included. Rows are those of
        the arithmetic: n_outputs for Dense, out_channels for Conv (over all positions), r, z, n_input,
        n_hidden (4·H) for GRU, i, f, g, o (4·H) for LSTM. In a GRU, bias_hh counts with the recurrent sum n_hidden.
    state : the state after the last step
    cell : (T, H), an LSTM's cell state c after each step; None for other layers
    """

    output: Float
    psum_min: Float
    psum_max: Float
    state: State
    cell: Float | None = None


def _trace_conv(layer: Conv, x: Float) -> LayerTrace:
    shape = layer.shape
    output = np.empty((len(x), shape.n_outputs))
    low, high = np.full(shape.out_channels, np.inf), np.full(shape.out_channels, -np.inf)
    for part in chunks(shape, len(x)):
        psum = conv_sums(shape, layer.weight, x[part]) + layer.bias[:, None, None]
        output[part] = pool_float(shape, CONV_ACTIVATIONS[layer.activation](psum))
        np.minimum(low, psum.min(axis=(0, 2, 3)), out=low)
        np.maximum(high, psum.max(axis=(0, 2, 3)), out=high)
    return LayerTrace(output, low, high, ())


def _trace_dense(layer: Dense, x: Float) -> LayerTrace:
    x = ACTIVATIONS[layer.input_activation](x)
    psum = x @ layer.weight.T + layer.bias
    return LayerTrace(ACTIVATIONS[layer.activation](psum), psum.min(axis=0), psum.max(axis=0), ())


def _trace_gru(layer: GRU, x: Float, state: State) -> LayerTrace:
    (h,) = state
    n = h.size
    from_input = x @ layer.weight_ih.T + layer.bias_ih
    output = np.empty((len(x), n))
    low, high = np.full(4 * n, np.inf), np.full(4 * n, -np.inf)  # running, as T·4·H would be large
    for step, row in enumerate(from_input):
        from_hidden = layer.weight_hh @ h + layer.bias_hh
        psum = np.concatenate([row[:2 * n] + from_hidden[:2 * n], row[2 * n:], from_hidden[2 * n:]])
        np.minimum(low, psum, out=low)
        np.maximum(high, psum, out=high)
        r, z = sigmoid(psum[:n]), sigmoid(psum[n:2 * n])
        candidate = np.tanh(psum[2 * n:3 * n] + r * psum[3 * n:])
        h = output[step] = (1.0 - z) * candidate + z * h
    return LayerTrace(output, low, high, (h.copy(),))


def _trace_lstm(layer: LSTM, x: Float, state: State) -> LayerTrace:
    h, c = state
    n = h.size
    psum = x @ layer.weight_ih.T + layer.bias  # the recurrent part is added step by step
    output, cell = np.empty((len(x), n)), np.empty((len(x), n))
    for step in range(len(x)):
        psum[step] += layer.weight_hh @ h
        i, f, o = (sigmoid(psum[step, gate * n:(gate + 1) * n]) for gate in (0, 1, 3))
        c = cell[step] = f * c + i * np.tanh(psum[step, 2 * n:3 * n])
        h = output[step] = o * np.tanh(c)
    return LayerTrace(output, psum.min(axis=0), psum.max(axis=0), (h.copy(), c.copy()), cell)


def _trace_layer(layer: Layer, x: Float, state: State) -> LayerTrace:
    if isinstance(layer, Conv):
        return _trace_conv(layer, x)
    if isinstance(layer, Dense):
        return _trace_dense(layer, x)
    return _trace_gru(layer, x, state) if isinstance(layer, GRU) else _trace_lstm(layer, x, state)


@dataclass(frozen=True, eq=False)
class Network:
    """A chain of layers, checked when it is made: shapes fit, weights are finite, names are unique.

    Parameters
    ----------
    name : for reports
    layers : first to last, at least one
    return_state : the source model also returned the final states of its recurrent layers
    last_only : the source model returned only the last step's output, as classifiers of whole
        sequences do. Here every step has an output, and the model's own is the last row.
    """

    name: str
    layers: tuple[Layer, ...]
    return_state: bool = False
    last_only: bool = False

    def __post_init__(self) -> None:
        if not self.layers:
            raise AmacrineError(f"network {self.name!r} has no layers; give it at least one")
        seen: set[str] = set()
        for layer in self.layers:
            if layer.name in seen:
                raise AmacrineError(f"network {self.name!r} has two layers named {layer.name!r}; rename one")
            seen.add(layer.name)
            _check_layer(layer)
        for before, after in pairwise(self.layers):
            _check_pair(before, after)

    @property
    def n_inputs(self) -> int:
        """Length of the input vector of a step."""
        return layer_inputs(self.layers[0])

    @property
    def n_outputs(self) -> int:
        """Length of the output vector of a step."""
        return layer_outputs(self.layers[-1])

    def initial_states(self) -> dict[str, State]:
        """The states that a sequence starts from, by layer name."""
        return {layer.name: initial_state(layer) for layer in self.layers}

    def check_input(self, x: Float) -> Float:
        """``x`` as float64 of shape (T, n_inputs), T ≥ 1; anything else is refused by AmacrineError."""
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.n_inputs or len(x) == 0:
            raise AmacrineError(f"network {self.name!r} reads an array of shape (steps, {self.n_inputs}) "
                                f"with at least one step, not {x.shape}")
        if x.dtype.kind not in "fiu":
            raise AmacrineError(f"network {self.name!r} reads real numbers, not an array of {x.dtype}")
        finite = np.isfinite(x)
        if not finite.all():
            step, column = np.argwhere(~finite)[0]
            raise AmacrineError(f"the input of network {self.name!r} holds {x[step, column]} "
                                f"at step {step}, column {column}; it must be finite")
        return x.astype(np.float64)

    def trace(self, x: Float, states: dict[str, State] | None = None) -> dict[str, LayerTrace]:
        """Run a sequence ``x`` (T, n_inputs) and return what each layer did, by layer name, in order.

        Starts from ``states``, or from the initial states without them.
        """
        states = self.initial_states() if states is None else states
        vectors, traces = self.check_input(x), {}
        for layer in self.layers:
            traces[layer.name] = _trace_layer(layer, vectors, states[layer.name])
            vectors = traces[layer.name].output
        return traces

    def run_from(self, x: Float, states: dict[str, State] | None = None) -> tuple[Float, dict[str, State]]:
        """Run a piece of a sequence: (T, n_inputs) → (T, n_outputs) and the states to go on from."""
        traces = self.trace(x, states)
        return traces[self.layers[-1].name].output, {name: trace.state for name, trace in traces.items()}

    def run(self, x: Float) -> Float:
        """Run a whole sequence from the initial states: (T, n_inputs) → (T, n_outputs)."""
        return self.run_from(x)[0]
