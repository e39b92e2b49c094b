"""The digits example: its stored weights are small and good, quantised ones as well; its gradients are right."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

PATH = Path(__file__).parents[1] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits():
    spec = importlib.util.spec_from_file_location("digits", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accuracy_in_float_and_quantised(digits):
    assert digits.WEIGHTS.stat().st_size < 200_000
    exact, golden = digits.accuracies(load_file(digits.WEIGHTS))
    assert exact >= 0.98 and golden >= exact - 0.005


def test_simulated_hardware_is_golden(digits):
    execution, right = digits.simulated(load_file(digits.WEIGHTS), 20)
    assert execution.fault is None and execution.stats.bit_exact and right >= 0.95
    [conv1, *_, fc] = execution.stats.jobs
    assert conv1.macs_done >= conv1.macs > 0 and conv1.cycles > 0 and fc.columns_skipped > 0
    assert execution.golden.outputs.shape == (20, 10)


def test_gradients_equal_finite_differences(digits):
    x, labels, *_ = digits.images()
    x, labels = x[:8], labels[:8]
    rng = np.random.default_rng(0)
    weights = {name: array + rng.normal(0, 0.1, array.shape)  # a bias of 0 would be at ReLU's bend
               for name, array in digits.initial_weights(rng).items()}

    def loss():
        scores = digits.network(weights).run(x)
        return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(8), labels])

    found = digits.gradients(weights, x, labels)
    for name, array in weights.items():
        index = tuple(int(rng.integers(n)) for n in array.shape)
        array[index] += 1e-5
        above = loss()
        array[index] -= 2e-5
        below = loss()
        array[index] += 1e-5
        assert found[name][index] == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-6), name


def test_training_lowers_the_loss(digits, monkeypatch):
    monkeypatch.setattr(digits, "EPOCHS", 4)
    x, labels, held_out, held_out_labels = digits.images()
    weights = digits.train(x[:400], labels[:400])
    assert digits.accuracy(digits.network(weights).run(held_out), held_out_labels) > 0.5
