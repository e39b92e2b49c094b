"""A small convolutional network for scikit-learn's handwritten digits (8 × 8), trained and quantised with NumPy only.

    python examples/digits.py                # accuracy of the stored weights, in floating point and quantised
    python examples/digits.py --engine sim   # the same, and every image on the simulated hardware, equal to golden
    python examples/digits.py --train        # train anew, about two minutes, and store the weights beside this file

Needs the extra `examples` (scikit-learn, for the images). A fifth of the images is held out from training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from amacrine.sw import silero
from amacrine.sw.conv import Conv, pool_windows, windows
from amacrine.sw.convolution import ConvShape
from amacrine.sw.errors import DiffersError
from amacrine.sw.execute import Execution, execute_simulated
from amacrine.sw.golden import Golden
from amacrine.sw.layout import Parameters
from amacrine.sw.network import Dense, Network
from amacrine.sw.quantise import quantise
from amacrine.sw.report import table
from amacrine.sw.workload import Workload

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SEED, EPOCHS, BATCH, RATE, DECAY = 1, 60, 64, 3e-3, 0.02
SHAPES = (
    ConvShape(1, 8, 8, 16, (3, 3), pads=(1, 1, 1, 1)),
    ConvShape(16, 8, 8, 32, (3, 3), pads=(1, 1, 1, 1), pooling="max", pool_window=(2, 2)),
    ConvShape(32, 4, 4, 32, (3, 3), pads=(1, 1, 1, 1), pooling="max", pool_window=(2, 2)),
)
CLASSES = 10
PARAMETERS = Parameters.from_dict({"pes": 8, **silero.GATEWARE})
"""Of the simulated hardware, which Silero VAD has, too."""

Weights = dict[str, np.ndarray]


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 64), 0 to 1, and labels (n,): those to train with, then the held-out fifth."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    x, labels = digits.data[order].astype(np.float32) / 16, digits.target[order]
    held_out = len(x) // 5
    return x[held_out:], labels[held_out:], x[:held_out], labels[:held_out]


def network(weights: Weights) -> Network:
    """The network with such weights, float64."""
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    convs = [Conv(f"conv{i}", shape, exact[f"conv{i}.weight"], exact[f"conv{i}.bias"], "relu")
             for i, shape in enumerate(SHAPES, 1)]
    return Network("digits", (*convs, Dense("fc", exact["fc.weight"], exact["fc.bias"])))


# ---- training ---------------------------------------------------------------------------------------------


def initial_weights(rng: np.random.Generator) -> Weights:
    """He's initialisation, float32."""
    sizes = {f"conv{i}": shape.weight_shape for i, shape in enumerate(SHAPES, 1)}
    weights = {}
    for name, size in {**sizes, "fc": (CLASSES, SHAPES[-1].n_outputs)}.items():
        weights[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / np.prod(size[1:])), size).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(size[0], np.float32)
    return weights


def conv_forward(shape: ConvShape, weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Images (T, n) to (T, n_outputs), and what the way back needs."""
    columns = windows(shape, x)[:, 0]
    y = np.maximum(weight.reshape(len(weight), -1) @ columns + bias[:, None], 0)
    maps = y.reshape(len(x), shape.out_channels, shape.conv_height, shape.conv_width)
    parts = pool_windows(shape, maps)
    best = parts.max(axis=-1, keepdims=True)
    share = (parts == best) & (best > 0)  # where the gradient goes, through pooling and ReLU
    return best.reshape(len(x), -1), (columns, share / np.maximum(share.sum(axis=-1, keepdims=True), 1))


def conv_backward(shape: ConvShape, weight: np.ndarray, kept: tuple, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gradients of weight, bias and input, from that of the output."""
    columns, share = kept
    high, wide = shape.pool_window
    parts = (share * dy.reshape(*share.shape[:4], 1)).astype(np.float32)
    split = parts.reshape(*share.shape[:4], high, wide).transpose(0, 1, 2, 4, 3, 5)
    d_sums = split.reshape(len(dy), shape.out_channels, -1)
    d_weight = np.tensordot(d_sums, columns, axes=((0, 2), (0, 2))).reshape(weight.shape)
    d_columns = weight.reshape(len(weight), -1).T @ d_sums
    top, left, bottom, right = shape.pads
    size = shape.in_channels, shape.in_height + top + bottom, shape.in_width + left + right
    dx = np.zeros((len(dy), *size), np.float32)
    pieces = d_columns.reshape(len(dy), shape.in_channels, *shape.kernel, shape.conv_height, shape.conv_width)
    for row in range(shape.kernel[0]):
        for column in range(shape.kernel[1]):
            dx[:, :, row : row + shape.conv_height, column : column + shape.conv_width] += pieces[:, :, row, column]
    dx = dx[:, :, top : top + shape.in_height, left : left + shape.in_width]
    return d_weight, d_sums.sum(axis=(0, 2)), dx.reshape(len(dy), -1)


def gradients(weights: Weights, x: np.ndarray, labels: np.ndarray) -> Weights:
    """Gradients of the mean cross-entropy."""
    kept = []
    for i, shape in enumerate(SHAPES, 1):
        x, memory = conv_forward(shape, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], x)
        kept.append(memory)
    scores = x @ weights["fc.weight"].T + weights["fc.bias"]
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    likely[np.arange(len(x)), labels] -= 1
    d_scores = likely / len(x)
    found = {"fc.weight": d_scores.T @ x, "fc.bias": d_scores.sum(axis=0)}
    dx = d_scores @ weights["fc.weight"]
    for i, shape in reversed(list(enumerate(SHAPES, 1))):
        d_weight, d_bias, dx = conv_backward(shape, weights[f"conv{i}.weight"], kept[i - 1], dx)
        found |= {f"conv{i}.weight": d_weight, f"conv{i}.bias": d_bias}
    return found


def shifted(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Each image moved by up to one element up, down, left and right."""
    padded = np.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = rng.integers(0, 3, (len(x), 2))
    return np.stack([image[row : row + 8, column : column + 8].ravel()
                     for image, (row, column) in zip(padded, corners, strict=True)])


def batches(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Indices of each batch of an epoch."""
    order = rng.permutation(count)
    yield from (order[start : start + BATCH] for start in range(0, count, BATCH))


def train(x: np.ndarray, labels: np.ndarray) -> Weights:
    """Weights after EPOCHS of AdamW with a rate that falls as a cosine; the same on every call on one machine."""
    rng = np.random.default_rng(SEED)
    weights = initial_weights(rng)
    mean = {name: np.zeros_like(array) for name, array in weights.items()}
    square = {name: np.zeros_like(array) for name, array in weights.items()}
    steps, step = EPOCHS * -(-len(x) // BATCH), 0
    for _ in range(EPOCHS):
        for batch in batches(rng, len(x)):
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for name, gradient in gradients(weights, shifted(rng, x[batch]), labels[batch]).items():
                mean[name] += 0.1 * (gradient - mean[name])
                square[name] += 0.001 * (gradient**2 - square[name])
                move = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8)
                weights[name] -= np.float32(rate) * (move + DECAY * weights[name] * (weights[name].ndim > 1))
    return weights


# ---- accuracy ---------------------------------------------------------------------------------------------


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose greatest score (n, 10) is the label's."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def accuracies(weights: Weights) -> tuple[float, float]:
    """Accuracy on the held-out fifth in floating point and of the golden model."""
    x, _, held_out, labels = images()
    exact = network(weights)
    quantised = quantise(exact, x)
    golden = Golden(quantised).run(quantised.quantise_inputs(held_out)).outputs
    return accuracy(exact.run(held_out), labels), accuracy(golden, labels)


def simulated(weights: Weights, count: int | None = None) -> tuple[Execution, float]:
    """The held-out fifth, or its first `count` images, on the simulated hardware; and the accuracy there."""
    x, _, held_out, labels = (part[:count] if number > 1 else part for number, part in enumerate(images()))
    workload = Workload(network(weights), held_out.astype(np.float64), x)
    execution = execute_simulated(workload, quantise(workload.network, x), PARAMETERS)
    return execution, accuracy(execution.outputs, labels)


def main() -> None:
    """Train if asked to, print both accuracies, and run on the simulated hardware if asked to."""
    parser = argparse.ArgumentParser(description="A convolutional network for 8 x 8 digits, quantised.")
    parser.add_argument("--train", action="store_true", help="train anew and store the weights")
    parser.add_argument("--engine", choices=["golden", "sim"], default="golden",
                        help="sim: also run each held-out image on the simulated hardware")
    arguments = parser.parse_args()
    if arguments.train:
        save_file(train(*images()[:2]), WEIGHTS)
    weights = load_file(WEIGHTS)
    exact, golden = accuracies(weights)
    print(f"held-out digits: {exact:.2%} right in floating point, {golden:.2%} quantised (golden model)")
    if arguments.engine == "sim":
        execution, right = simulated(weights)
        print(f"simulated hardware: {right:.2%} right\n\n{table(execution.stats)}", end="")
        if execution.fault:
            raise DiffersError(execution.fault)


if __name__ == "__main__":
    main()
