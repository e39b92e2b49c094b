"""Single ONNX nodes: naming them in refusals, evaluating them, and the attributes of recurrent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from .errors import AmacrineError

# What the onnx package raises on malformed tensors and nodes
ONNX_FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError)
DEFAULT_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def node_name(node: NodeProto) -> str:
    """The node's name, or that of its first output: names are optional in ONNX."""
    return node.name or next((name for name in node.output if name), "")


def refuse(node: NodeProto, reason: str, kind: type[AmacrineError] = AmacrineError) -> NoReturn:
    """Raise AmacrineError naming the node."""
    raise kind(f"{node.op_type} node {node_name(node)!r}: {reason}")


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes that are set, by name; text is bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def evaluate(node: NodeProto, inputs: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """The outputs of one node by ONNX's reference operators; None stands for an input left out."""
    known = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
    graph = helper.make_graph([node], "node", [helper.make_empty_tensor_value_info(name) for name in known],
                              [helper.make_empty_tensor_value_info(name) for name in node.output])
    try:
        return [np.asarray(value) for value in ReferenceEvaluator(graph, opsets={"": opset}).run(None, known)]
    except ONNX_FAULTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        refuse(node, f"it cannot be evaluated ({reason}); check the exported graph")


def check_recurrent_attributes(node: NodeProto) -> None:
    """Refuse every variant of GRU and LSTM that the layers do not compute."""
    attributes = attributes_of(node)
    direction = attributes.get("direction", b"forward").decode()
    if direction != "forward":
        refuse(node, f"direction {direction!r} reads the sequence from its end, which cannot be done step by "
                     "step; use a forward layer")
    if node.op_type == "GRU" and not attributes.get("linear_before_reset", 0):
        refuse(node, "linear_before_reset=0 is not supported; use reset_after=True in Keras, or PyTorch")
    if "clip" in attributes:
        refuse(node, f"clip={attributes['clip']:g} is not supported; export the layer without clipping")
    activations = [name.decode() for name in attributes.get("activations", [])]
    supported = DEFAULT_ACTIVATIONS[node.op_type]
    if activations and activations != supported:
        refuse(node, f"activations {', '.join(activations)} are not supported; use {', '.join(supported)}")
    if attributes.get("layout", 0):
        refuse(node, "layout=1 is not supported; export with layout=0, time first")
    if attributes.get("input_forget", 0):
        refuse(node, "input_forget=1 is not supported; use a forget gate of its own")


def reorder_gates(matrix: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """The gate blocks of (1, gates·H, …) in another order, as float64 of shape (gates·H, …)."""
    blocks = np.split(matrix[0].astype(np.float64), len(order))
    return np.concatenate([blocks[gate] for gate in order])
