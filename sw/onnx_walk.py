"""The walk through an ONNX graph that collects its layers.

What lies between the layers (transposes, reshapes, initial states built from shapes) is not looked
up in a list of exporters' habits but carried out. Constants are folded with the reference operators
of the onnx package. The data is stood in for by a *probe*: an array of the tensor's shape that
numbers its elements, step · width + feature. Shape operators act on the probe, and whether one of
them moved a feature or lost a step is then read off the numbers:

    input (1, T, 161) ─ Transpose ─► (T, 1, 161)  numbers still 0, 1, 2, …: harmless
                      ─ Transpose ─► (1, 161, T)  numbers 0, 161, 322, …: refused
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from . import onnx_maps as maps
from .conv import Conv
from .errors import AmacrineError
from .network import GRU, LSTM, Dense, Layer, Network
from .onnx_nodes import attributes_of, check_recurrent_attributes, evaluate, node_name, refuse, reorder_gates

PROBE_MAPS = 13  # stands for an open number of maps, of which a step may have many elements
PROBE_STEPS = 211  # stands for an open number of steps; a prime that no model has as a size of its own
LARGEST_UNIT_MATRIX = 2048  # an activation on its own costs width² weights

MOVES = {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze",
         "Transpose", "Unsqueeze"}
FOLDABLE = MOVES | {"Add", "Constant", "ConstantOfShape", "Div", "Equal", "Mul", "Range", "ReduceProd",
                    "Shape", "Size", "Sub", "Where"}
ACTIVATION_OF: dict[str, Literal["relu", "sigmoid", "tanh"]] = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
LAYER_OPERATORS = ({"Add", "BatchNormalization", "Clip", "Dropout", "GRU", "Gemm", "LSTM", "MatMul", "Pad",
                    "ReduceMean"}
                   | ACTIVATION_OF.keys() | maps.MAP_OPERATORS)
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
ONLY_CHAINS = "only a chain without branches is supported"


class BatchError(AmacrineError):
    """More sequences than one, perhaps only because the wrong axis was taken for time."""


@dataclass(frozen=True, eq=False)
class Data:
    """Vectors that travel along the chain."""

    probe: np.ndarray
    width: int  # features of a vector
    version: int  # of the chain when they were made; older ones may not be read again
    is_final: bool = False  # a recurrent layer's last hidden state
    pads: maps.Pads = (0, 0, 0, 0)  # zeros around the map that the next convolution has to add


@dataclass(frozen=True)
class State:
    """Recurrent state beside the chain: from the caller, taken as zero, or final and for the caller."""

    is_final: bool


Value = np.ndarray | Data | State | None  # of a tensor in the graph; None is an input left out


class Walk:
    """One walk through a graph, with one input as the data and one choice of its axes' sizes."""

    def __init__(self, graph: GraphProto, opset: int, constants: dict[str, np.ndarray], data_input: str,
                 shape: tuple[int, ...], is_image: bool = False) -> None:
        """With ``is_image``, the first axis of ``shape`` is the steps, and all others are features; else the last."""
        self.graph, self.opset = graph, opset
        self.layers: list[Layer] = []
        self.version = 0  # counts changes of the chain's end
        self.position = 0  # nodes done
        self.is_image = is_image
        self.n_steps = int(np.prod(shape[:1] if is_image else shape[:-1]))
        self.rectifier: Layer | None = None  # a unit matrix with ReLU; a dense layer behind it can do without
        self.values: dict[str, Value] = {tensor.name: State(is_final=False) for tensor in graph.input}
        self.values.update(constants)
        probe = np.arange(int(np.prod(shape))).reshape(shape)
        self.values[data_input] = Data(probe, probe.size // self.n_steps, self.version)

    def network(self, name: str) -> Network:
        """Walk the graph; AmacrineError names the node or output that does not fit into a chain."""
        for node in self.graph.node:
            outputs = self.visit(node, [self.value(node, source) for source in node.input])
            self.values.update(zip(node.output, outputs, strict=False))  # optional outputs may be left out
            self.position += 1
        end, has_states = self.outputs()
        is_last_only = self.n_steps > 1 and end.probe.size == end.width
        return Network(name, tuple(self.layers), return_state=has_states, last_only=is_last_only)

    def value(self, node: NodeProto, name: str) -> Value:
        if name and name not in self.values:
            refuse(node, f"its input {name!r} is of a kind that is not supported")
        return self.values[name] if name else None

    def visit(self, node: NodeProto, values: list[Value]) -> Sequence[Value]:
        constants = [value for value in values if value is None or isinstance(value, np.ndarray)]
        if node.op_type in FOLDABLE and len(constants) == len(values):
            return evaluate(node, constants, self.opset)
        if node.op_type == "Shape" and isinstance(values[0], Data):
            return evaluate(node, [self.data(node, values[0]).probe], self.opset)
        if node.op_type in MOVES:
            return self.move(node, values)
        if node.op_type == "Dropout":
            return self.dropout(node, values)
        if node.op_type == "MatMul":
            return [self.dense(node, values[0], values[1], None)]
        if node.op_type == "Gemm":
            return [self.gemm(node, values)]
        if node.op_type == "Add":
            return [self.add(node, values)]
        if node.op_type in ACTIVATION_OF:
            return [self.activation(node, values[0])]
        if node.op_type in ("GRU", "LSTM"):
            return self.recurrent(node, values)
        return [self.visit_map(node, values)]

    def visit_map(self, node: NodeProto, values: list[Value]) -> Data:
        if node.op_type == "Conv":
            return maps.conv(self, node, values)
        if node.op_type in maps.POOLING:
            return maps.pool(self, node, values[0])
        if node.op_type == "BatchNormalization":
            return maps.batch_norm(self, node, values)
        if node.op_type == "ReduceMean":
            return maps.mean(self, node, values)
        if node.op_type == "Pad":
            return maps.pad(self, node, values)
        if node.op_type == "Clip":
            return maps.clip(self, node, values)
        refuse(node, f"operator {node.op_type} is supported only on constants and sizes, not on the data")

    # What changes no number

    def move(self, node: NodeProto, values: list[Value]) -> Sequence[Value]:
        flowing = [value for value in values if isinstance(value, Data | State)]
        if len(flowing) == 1 and isinstance(flowing[0], Data):
            return self.move_data(node, flowing[0], values)
        is_final = [value.is_final for value in flowing]
        if all(is_final) or (not any(is_final) and all(isinstance(value, State) for value in flowing)):
            return [State(is_final[0])] * len(node.output)  # states of layers, joined or cut apart
        refuse(node, f"it joins several computed tensors; {ONLY_CHAINS}")

    def move_data(self, node: NodeProto, data: Data, values: list[Value]) -> Sequence[Value]:
        self.data(node, data)
        if node.op_type == "Cast":
            if attributes_of(node)["to"] not in FLOATS:
                refuse(node, "it turns the data into integers; keep them floating-point")
            return [data]
        inputs = [value.probe if isinstance(value, Data) else value for value in values
                  if not isinstance(value, State)]
        moved = evaluate(node, inputs, self.opset)
        for probe in moved:
            self.check_order(node, probe, data.width)
        return [replace(data, probe=probe) for probe in moved]

    def check_order(self, node: NodeProto, probe: np.ndarray, width: int) -> None:
        """All steps in order, or the last alone, with the features in order on the last axis.

        Maps may change their axes; the layer that reads them looks whether these suit it.
        """
        numbers = np.arange(self.n_steps * width)
        is_kept = any(np.array_equal(probe.ravel(), part) for part in (numbers, numbers[-width:]))
        if not is_kept or (width > 1 and not self.is_image and probe.shape[-1:] != (width,)):
            refuse(node, "it moves, adds or leaves out features or time steps, which a chain that runs step "
                         "by step cannot; only batch, direction and time axes may be rearranged")

    def dropout(self, node: NodeProto, values: list[Value]) -> Sequence[Value]:
        is_training = values[2] if len(values) > 2 else None
        if is_training is not None and not (isinstance(is_training, np.ndarray) and not is_training.any()):
            refuse(node, "its training mode is not off; export the model for inference")
        return [self.data(node, values[0])]  # and no mask

    # Layers

    def data(self, node: NodeProto, value: Value, padded: bool = False) -> Data:
        if isinstance(value, State):
            refuse(node, f"it computes with a recurrent state or a second graph input; {ONLY_CHAINS}")
        if not isinstance(value, Data):
            refuse(node, "its first input is a constant, but must be the network's data")
        if any(value.pads) and not padded:
            refuse(node, "it follows a Pad node, behind which only a convolution is supported")
        return value

    def chain_end(self, node: NodeProto, value: Value) -> Data:
        """The vectors a layer reads, which must be what the layer before it made."""
        return self.check_features(node, self.chain_data(node, value))

    def chain_data(self, node: NodeProto, value: Value, padded: bool = False) -> Data:
        """What the layer before made, whatever its axes; with zeros to come around it only if ``padded``."""
        data = self.data(node, value, padded)
        if data.version != self.version:
            refuse(node, f"it branches off: its input has already been read by another layer; {ONLY_CHAINS}")
        return data

    def check_features(self, node: NodeProto, data: Data) -> Data:
        """The features must be the last axis."""
        if data.probe.shape[-1:] != (data.width,):
            refuse(node, f"the last axis of its input is not the {data.width} features")
        return data

    def extend(self, layer: Layer, data: Data, width: int) -> Data:
        """Append a layer that keeps the leading axes; returns what it makes."""
        steps = data.probe.reshape(-1, data.width)[:, :1] // data.width
        probe = (steps * width + np.arange(width)).reshape(*data.probe.shape[:-1], width)
        return self.append(layer, probe, width)

    def append(self, layer: Layer, probe: np.ndarray, width: int) -> Data:
        """Append a layer; returns what it makes, with the given probe."""
        self.layers.append(layer)
        self.version += 1
        return Data(probe, width, self.version)

    def unique_name(self, node: NodeProto) -> str:
        taken = {layer.name for layer in self.layers}
        names = (name for name in (node.name, *node.output) if name and name not in taken)
        return next(names, node_name(node))

    def dense(self, node: NodeProto, value: Value, weight: Value, bias: np.ndarray | None) -> Data:
        """A layer of ``weight``, (n_inputs, n_outputs) as in ONNX, and a bias that fits to (n_outputs,)."""
        if isinstance(value, np.ndarray) and isinstance(weight, Data):
            refuse(node, "the constant matrix stands left of the data; export it as data times matrix")
        data = self.chain_end(node, value)
        if not isinstance(weight, np.ndarray) or weight.ndim != 2:
            refuse(node, "its second input is not a constant matrix with two axes")
        n_inputs, n_outputs = weight.shape
        if n_inputs != data.width:
            refuse(node, f"it reads vectors of {n_inputs}, but gets {data.width} features")
        full_bias = self.bias_row(node, np.zeros(1) if bias is None else bias, n_outputs)
        is_rectified = bool(self.layers) and self.layers[-1] is self.rectifier
        if is_rectified:
            self.layers.pop()
        layer = Dense(self.unique_name(node), weight.T.astype(np.float64), full_bias,
                      input_activation="relu" if is_rectified else "identity")
        return self.extend(layer, data, n_outputs)

    def bias_row(self, node: NodeProto, bias: np.ndarray, width: int) -> np.ndarray:
        if bias.size != 1 and (bias.size != width or bias.shape[-1] != width):
            refuse(node, f"the constant that it adds has shape {bias.shape}, but must be one number, or one "
                         f"for each of the {width} features")
        return np.broadcast_to(bias.ravel(), (width,)).astype(np.float64)

    def gemm(self, node: NodeProto, values: list[Value]) -> Data:
        attributes = attributes_of(node)
        value, weight, bias = (*values, None)[:3]
        if attributes.get("transA", 0):
            refuse(node, "transA=1 moves the features of its input; export it with transA=0")
        if bias is not None and not isinstance(bias, np.ndarray):
            refuse(node, f"its bias is not a constant; {ONLY_CHAINS}")
        if isinstance(weight, np.ndarray):
            weight = attributes.get("alpha", 1.0) * weight.astype(np.float64)
            weight = weight.T if attributes.get("transB", 0) else weight
        return self.dense(node, value, weight, None if bias is None else attributes.get("beta", 1.0) * bias)

    def add(self, node: NodeProto, values: list[Value]) -> Data:
        constant = next((value for value in values if isinstance(value, np.ndarray)), None)
        if constant is None:
            refuse(node, f"it adds two computed tensors; {ONLY_CHAINS}")
        data = self.chain_data(node, next(value for value in values if value is not constant))
        if self.is_image and data.probe.ndim > 2 and all(isinstance(layer, Conv) for layer in self.layers):
            return maps.add(self, node, data, constant)
        self.check_features(node, data)
        bias = self.bias_row(node, constant, data.width)
        layer, data = self.linear_end(node, data)
        data = self.extend(replace(layer, bias=layer.bias + bias), data, data.width)
        new_axes = (1,) * max(0, constant.ndim - data.probe.ndim)  # broadcasting may add some in front
        return replace(data, probe=data.probe.reshape(new_axes + data.probe.shape))

    def activation(self, node: NodeProto, value: Value) -> Data:
        data, function = self.chain_data(node, value), ACTIVATION_OF[node.op_type]
        on_map = maps.activation(self, node, data, function)
        if on_map is not None:
            return on_map
        is_recurrent = bool(self.layers) and isinstance(self.layers[-1], GRU | LSTM)
        layer, data = self.linear_end(node, self.check_features(node, data))
        layer = replace(layer, activation=function)
        self.rectifier = layer if is_recurrent and function == "relu" else None
        return self.extend(layer, data, data.width)

    def linear_end(self, node: NodeProto, data: Data) -> tuple[Dense, Data]:
        """Take the dense layer off the chain's end if it has no activation yet, else a new unit matrix."""
        end = self.layers[-1] if self.layers else None
        if isinstance(end, Dense) and end.activation == "identity":
            self.layers.pop()
            return end, data
        if data.width > LARGEST_UNIT_MATRIX:
            refuse(node, f"it follows no dense layer, and one of its own would need {data.width}² weights; "
                         f"the most is {LARGEST_UNIT_MATRIX}²")
        return Dense(self.unique_name(node), np.eye(data.width), np.zeros(data.width)), data

    def recurrent(self, node: NodeProto, values: list[Value]) -> list[Value]:
        check_recurrent_attributes(node)
        value, *weights, lengths, initial_h, initial_c, peepholes = (*values, *[None] * 5)[:8]
        if peepholes is not None:
            refuse(node, "peepholes are not supported; use an LSTM without them")
        weight_ih, weight_hh, bias = (self.constant(node, weight) for weight in weights)
        if weight_ih is None or weight_hh is None:
            refuse(node, "its weights are left out")
        data, n = self.chain_end(node, value), weight_hh.shape[2]
        self.check_sequence(node, data, lengths, weight_ih.shape[2])
        is_gru = node.op_type == "GRU"
        order = (1, 0, 2) if is_gru else (0, 2, 3, 1)  # z, r, h to r, z, n, and i, o, f, c to i, f, c, o
        bias = np.zeros((1, 2 * len(order) * n)) if bias is None else bias
        bias_ih, bias_hh = (reorder_gates(half, order) for half in np.split(bias, 2, axis=1))
        w_ih, w_hh = reorder_gates(weight_ih, order), reorder_gates(weight_hh, order)
        name, h = self.unique_name(node), self.initial(node, initial_h, n)
        layer = (GRU(name, w_ih, w_hh, bias_ih, bias_hh, h) if is_gru else
                 LSTM(name, w_ih, w_hh, bias_ih + bias_hh, h, self.initial(node, initial_c, n)))
        output = self.extend(layer, data, n)
        final = replace(output, probe=output.probe[-1:], is_final=True)
        with_direction = replace(output, probe=output.probe[:, None])
        return [with_direction, final, State(is_final=True)]

    def constant(self, node: NodeProto, value: Value) -> np.ndarray | None:
        if isinstance(value, Data | State):
            refuse(node, "its weights or biases are not constants; export them into the file")
        return value

    def check_sequence(self, node: NodeProto, data: Data, lengths: Value, n_inputs: int) -> None:
        """The input must be (steps, 1, features) with all steps."""
        n_steps, batch = (*data.probe.shape, 0, 0)[:2]
        if batch != 1:
            count = "any number of" if batch == PROBE_STEPS else batch
            refuse(node, f"it gets {count} sequences as a batch, but a chain runs one sequence; export with "
                         "batch size 1, and time as the layer's first axis", BatchError)
        if n_steps != self.n_steps:
            refuse(node, "it reads only the last time step of the layer before; only the end of the chain "
                         "may leave out steps")
        if data.width != n_inputs:
            refuse(node, f"it reads vectors of {n_inputs}, but gets {data.width} features")
        if lengths is not None and not (isinstance(lengths, np.ndarray) and np.all(lengths == n_steps)):
            refuse(node, "sequence_lens may shorten the sequence; export without it")

    def initial(self, node: NodeProto, value: Value, n: int) -> np.ndarray:
        """A state of n values to start from; one that the caller would pass in is taken as zero."""
        if value is None or (isinstance(value, State) and not value.is_final):
            return np.zeros(n)
        if not isinstance(value, np.ndarray):
            refuse(node, f"its initial state is computed by another layer; {ONLY_CHAINS}")
        if value.shape != (1, 1, n):
            refuse(node, f"its initial state has shape {value.shape}, but must have {(1, 1, n)}")
        return value.reshape(n).astype(np.float64)

    # The graph's outputs

    def outputs(self) -> tuple[Data, bool]:
        """The end of the chain, and whether final states are returned beside it."""
        found = {output.name: self.values.get(output.name) for output in self.graph.output}
        vectors = {name: value for name, value in found.items() if isinstance(value, Data)}
        # Without any other output, the last layer's final hidden state is the output of the last step.
        ends = [name for name, value in vectors.items() if not value.is_final] or list(vectors)
        ends.sort(key=lambda name: vectors[name].version)
        if not self.layers or not ends:
            raise AmacrineError("its graph holds no layer that leads to an output; export a network of "
                                "convolutions, dense or recurrent layers")
        end = vectors[ends[-1]]
        if any(end.pads):
            raise AmacrineError(f"graph output {ends[-1]!r} is padded; end the network with a layer")
        for name, value in found.items():
            if name != ends[-1] and not (isinstance(value, Data | State) and value.is_final):
                raise AmacrineError(f"graph output {name!r} is neither the end of the chain nor a final "
                                    "state; export the model with one output")
        if end.version != self.version:
            raise AmacrineError(f"graph output {ends[-1]!r} branches off before the last layer "
                                f"{self.layers[-1].name!r}; {ONLY_CHAINS}")
        return end, len(found) > 1
