"""Silero VAD: features, network and decisions against the package's own ONNX model."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest
from numpy.random import RandomState

from amacrine.sw import silero
from amacrine.sw.audio import read_wav
from amacrine.sw.errors import AmacrineError
from amacrine.sw.files import package_file
from amacrine.sw.golden import Golden
from amacrine.sw.quantise import quantise
from amacrine.sw.signals import NOISES, add_noise


def onnx_probabilities(samples: np.ndarray) -> np.ndarray:
    """What the package's model says of each frame, with the 64 samples of context that its wrapper adds."""
    session = onnxruntime.InferenceSession(str(silero.model_path()))
    frames = -(-len(samples) // silero.HOP_LENGTH)
    padded = np.zeros(silero.CONTEXT + frames * silero.HOP_LENGTH, np.float32)
    padded[silero.CONTEXT : silero.CONTEXT + len(samples)] = samples
    state, probabilities = np.zeros((2, 1, 128), np.float32), []
    for start in range(0, frames * silero.HOP_LENGTH, silero.HOP_LENGTH):
        frame = padded[None, start : start + silero.CONTEXT + silero.HOP_LENGTH]
        output, state = session.run(None, {"input": frame, "state": state, "sr": np.array(silero.RATE_HZ)})
        probabilities.append(output[0, 0])
    return np.array(probabilities)


@cache
def recording() -> np.ndarray:
    """A minute and more: two speakers, clean and in noise, noise alone, silence."""
    rng = RandomState(7)
    one, _ = read_wav(package_file("moonshine_onnx", "assets/beckett.wav", ""), silero.RATE_HZ)
    two, _ = read_wav(package_file("moonshine_voice", "assets/two_cities.wav", ""), silero.RATE_HZ)
    two = two[: 25 * silero.RATE_HZ]
    pieces = [np.zeros(3 * silero.RATE_HZ), one, two, 0.05 * one]
    for make_noise in NOISES.values():
        noisy = add_noise(one, make_noise(one, silero.RATE_HZ, rng), 10)
        pieces += [noisy, (noisy - one)[: 4 * silero.RATE_HZ]]
    return np.concatenate(pieces)


@cache
def expected() -> np.ndarray:
    return onnx_probabilities(recording())


def test_a_minute_of_speech_noise_and_silence():
    assert len(recording()) >= 60 * silero.RATE_HZ
    assert 0.2 < (expected() >= silero.DECISION).mean() < 0.8


def test_float_is_the_packages_model():
    probabilities = silero.load_network().run(silero.features(recording()))[:, 0]
    np.testing.assert_allclose(probabilities, expected(), rtol=0, atol=1e-4)


def test_golden_decides_like_the_packages_model():
    network = quantise(silero.load_network(), silero.calibration_features(), silero.THRESHOLDS)
    run = Golden(network).run(network.quantise_inputs(silero.features(recording())))
    probabilities = network.dequantise_outputs(run.outputs)[:, 0]
    same = np.mean((probabilities >= silero.DECISION) == (expected() >= silero.DECISION))
    difference, skipped = np.abs(probabilities - expected()).mean(), run.columns_skipped("lstm")
    print(f"same decision on {same:.2%} of {len(probabilities)} frames, mean difference {difference:.4f}, "
          f"{skipped:.1%} of the LSTM's columns skipped")
    assert same >= 0.99
    assert difference <= 0.02
    assert skipped >= 0.65


def test_features_of_a_frame():
    samples = RandomState(1).uniform(-1, 1, 2 * silero.HOP_LENGTH - 100)
    features = silero.features(samples)
    assert features.shape == (2, silero.N_BINS * silero.SPECTRA)
    padded = np.concatenate([samples, np.zeros(100)])
    frame = padded[silero.HOP_LENGTH - silero.CONTEXT :]    # the second one
    frame = np.concatenate([frame, frame[-2 : -2 - silero.FFT_PAD : -1]])
    window = np.hanning(silero.FFT_LENGTH + 1)[:-1]
    spectra = [np.abs(np.fft.rfft(window * frame[start : start + silero.FFT_LENGTH])) for start in (0, 128, 256, 384)]
    np.testing.assert_allclose(features[1].reshape(silero.N_BINS, silero.SPECTRA), np.transpose(spectra), atol=1e-4)


@pytest.mark.parametrize("probabilities, expected", [
    ([], []), ([0.1, 0.4], []), ([0.5, 0.9, 0.1], [(0.0, 0.064)]),
    ([0.1, 0.8, 0.1, 0.7], [(0.032, 0.064), (0.096, 0.128)]),
])
def test_segments(probabilities, expected):
    np.testing.assert_allclose(np.array(silero.segments(np.array(probabilities))).reshape(-1, 2),
                               np.array(expected).reshape(-1, 2))


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setattr("amacrine.sw.files.find_spec", lambda name: None)
    with pytest.raises(AmacrineError, match=r"run `pip install --no-deps silero-vad==6\.2\.3`$"):
        silero.model_path()
