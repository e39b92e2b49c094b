"""Hand-made ONNX graphs for the tests of the importer."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from amacrine.sw.network import Network
from amacrine.sw.onnx_import import load_onnx

T, BATCH = "time", "batch"  # open axes


class Graph:
    """A graph under construction; random weights come from one seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []

    def input(self, name: str, *shape, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def constant(self, name: str, value, dtype=np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, values, np.int64)

    def random(self, name: str, *shape: int, dtype=np.float32) -> str:
        return self.constant(name, self.rng.normal(0, 0.5, shape), dtype)

    def node(self, operator: str, inputs: list[str], output: str | list[str], **attributes) -> str:
        """Append a node that is named like its first output with a suffix; returns that output."""
        outputs = [output] if isinstance(output, str) else output
        name = next(filter(None, outputs))
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=f"{name}_node", **attributes))
        return name

    def dense(self, source: str, name: str, n_inputs: int, n_outputs: int, activation: str = "") -> str:
        """MatMul, Add and perhaps an activation; returns the output's name, which is ``name``."""
        weight, bias = self.random(f"{name}_w", n_inputs, n_outputs), self.random(f"{name}_b", n_outputs)
        product = self.node("MatMul", [source, weight], f"{name}_product")
        total = self.node("Add", [product, bias], f"{name}_sum" if activation else name)
        return self.node(activation, [total], name) if activation else total

    def recurrent(self, operator: str, source: str, outputs: list[str], n_inputs: int, n: int,
                  extra: tuple[str, ...] = (), with_bias: bool = True, **attributes) -> None:
        """A GRU or LSTM; ``extra`` are the inputs after the bias: lengths, initial states, peepholes."""
        gates, name = 3 if operator == "GRU" else 4, next(filter(None, outputs))
        weights = [self.random(f"{name}_w", 1, gates * n, n_inputs),
                   self.random(f"{name}_r", 1, gates * n, n),
                   self.random(f"{name}_b", 1, 2 * gates * n) if with_bias else ""]
        if operator == "GRU":
            attributes.setdefault("linear_before_reset", 1)
        self.node(operator, [source, *weights, *extra], outputs, hidden_size=n, **attributes)

    def model(self, opset: int = 17, **extra) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.initializers)
        imports = [helper.make_opsetid("", opset), *extra.pop("opsets", [])]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, **extra)

    def save(self, directory: Path, opset: int = 17) -> Path:
        path = directory / "made.onnx"
        onnx.save(self.model(opset), path)
        return path


def sequence_through_ort(path: Path, x: np.ndarray, axes: str = "bt", **feeds) -> list[np.ndarray]:
    """All outputs of ONNX Runtime for one sequence ``x`` (T, n) given as batch-first or time-first."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shaped = {"bt": x[None], "tb": x[:, None], "t": x}[axes].astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: shaped, **feeds})


def assert_like_ort(path: Path, n_steps: int = 12, axes: str = "bt", **feeds) -> Network:
    """The imported network's output must equal the first output of ONNX Runtime."""
    network = load_onnx(path)
    x = np.random.default_rng(1).normal(size=(n_steps, network.n_inputs))
    expected = sequence_through_ort(path, x, axes, **feeds)[0]
    expected = expected.reshape(-1, network.n_outputs)
    y = network.run(x)
    assert expected.shape == (1 if network.last_only else n_steps, network.n_outputs)
    np.testing.assert_allclose(y[-len(expected):], expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 1e-3 or expected.size == 1, "a constant output would show nothing"
    return network
