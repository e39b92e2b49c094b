"""Silero VAD, a published voice activity detector: its weights, its features, its decisions.

Silero Team, "Silero VAD: pre-trained enterprise-grade voice activity detector", 2024, MIT licence; the 16 kHz network
of the package ``silero-vad`` (``tinygrad_model.py`` there is its shortest description; the weights are those of its
ONNX file, because its safetensors file holds another checkpoint, with other decisions). Each 32 ms it reads the
magnitudes of four short spectra and answers with the probability of speech:

    576 samples ─► 4 × (window, FFT) ─► magnitudes (129, 4) ─► 4 × (convolution, ReLU) ─► LSTM ─► ReLU ─► dense, σ
    64 old, 512 new

The window and FFT are the network's own first layer, a convolution with fixed weights, which runs on the host.
Arrays have the time step first, as everywhere in Amacrine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import RandomState
from onnx import numpy_helper

from .convolution import ConvShape
from .equalise import equalise
from .files import package_file
from .network import LSTM, Conv, Dense, Network
from .signals import NOISES, add_noise, speech_like
from .thresholds import parse_thresholds

RATE_HZ = 16_000
HOP_LENGTH = 512  # samples: 32 ms from frame to frame
CONTEXT = 64  # samples of the frame before that a frame begins with
FFT_LENGTH, FFT_HOP, FFT_PAD = 256, 128, 64
N_BINS = FFT_LENGTH // 2 + 1
SPECTRA = 4  # in a frame
DECISION = 0.5  # probability from which on a frame counts as speech
CONV_STRIDES = (1, 2, 2, 1)
THRESHOLDS = parse_thresholds("lstm.input=0.03,lstm.recurrent=0.05")
GATEWARE = {"conv_macs": 16, "conv_value_depth": 2048, "conv_map_depth": 256, "conv_kernel_depth": 1024,
            "conv_psum_depth": 64, "conv_pool_depth": 64}
"""A small CNN engine that both this network and examples/digits.py fit into."""


def model_path() -> Path:
    """Path of the ONNX file inside the installed package ``silero_vad``, which is not imported.

    Raises
    ------
    AmacrineError : the package is not installed; the sentence gives the pip command.
    """
    return package_file("silero_vad", "data/silero_vad_16k_op15.onnx", "silero-vad==6.2.3")


@cache
def weights() -> dict[str, np.ndarray]:
    """The model's weights by name, float64."""
    return {tensor.name.removeprefix("model."): numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in onnx.load(model_path()).graph.initializer}


def load_network() -> Network:
    """The network behind the spectra: (T, 516) magnitudes, bin by bin four columns, to (T, 1) probabilities."""
    given = weights()
    layers: list[Conv | LSTM | Dense] = []
    width = SPECTRA
    for number, stride in enumerate(CONV_STRIDES):
        weight, bias = (given[f"encoder.{number}.reparam_conv.{name}"] for name in ("weight", "bias"))
        n_out, n_in, kernel = weight.shape
        shape = ConvShape(n_in, 1, width, n_out, (1, kernel), (1, stride), (0, 1, 0, 1))
        layers.append(Conv(f"conv{number + 1}", shape, weight[:, :, None], bias, "relu"))
        width = shape.out_width
    weight_hh = given["decoder.rnn.weight_hh"]
    zeros = np.zeros(weight_hh.shape[1])
    bias = given["decoder.rnn.bias_ih"] + given["decoder.rnn.bias_hh"]
    layers.append(LSTM("lstm", given["decoder.rnn.weight_ih"], weight_hh, bias, zeros, zeros))
    layers.append(Dense("final", given["decoder.decoder.2.weight"][:, :, 0], given["decoder.decoder.2.bias"], "sigmoid",
                        input_activation="relu"))
    return equalise(Network("silero-vad", tuple(layers)))


def features(samples: np.ndarray) -> np.ndarray:
    """Network input (T, 516) of a signal (n,) at 16 kHz, T = ⌈n / 512⌉; zeros follow the last sample.

    Frame t holds samples 512·t − 64 to 512·t + 512 and, at its end, the last 64 mirrored.
    """
    n_frames = -(-len(samples) // HOP_LENGTH)
    padded = np.zeros(CONTEXT + n_frames * HOP_LENGTH)
    padded[CONTEXT : CONTEXT + len(samples)] = samples
    frames = sliding_window_view(padded, CONTEXT + HOP_LENGTH)[::HOP_LENGTH]
    frames = np.pad(frames, ((0, 0), (0, FFT_PAD)), mode="reflect")
    windows = sliding_window_view(frames, FFT_LENGTH, axis=1)[:, ::FFT_HOP]  # (T, 4, 256)
    both = windows @ weights()["stft.forward_basis_buffer"][:, 0].T  # cosines of all bins, then sines
    magnitudes = np.hypot(both[..., :N_BINS], both[..., N_BINS:])
    return np.ascontiguousarray(np.moveaxis(magnitudes, 1, 2)).reshape(len(frames), -1)


def segments(probabilities: np.ndarray) -> list[tuple[float, float]]:
    """Runs of frames whose probability (T,) reaches `DECISION`: start and end of each, in seconds."""
    speech = np.concatenate([[False], np.asarray(probabilities) >= DECISION, [False]])
    edges = np.flatnonzero(speech[1:] != speech[:-1]) * HOP_LENGTH / RATE_HZ
    return [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]


def calibration_features() -> np.ndarray:
    """Features (T, 516) of what a microphone delivers, to choose number formats from; louder input saturates.

    Synthetic speech from −10 to −40 dB of full scale, alone and in all kinds of noise, and silence. Same result
    everywhere, no file needed.
    """
    rng = RandomState(129)
    sounds = [np.zeros(RATE_HZ // 4)]
    for level_db in (-10, -20, -40):
        for make_noise in NOISES.values():
            speech = speech_like(RATE_HZ, RATE_HZ, rng)
            noisy = add_noise(speech, make_noise(speech, RATE_HZ, rng), rng.uniform(0, 25))
            sounds.append(10 ** (level_db / 20) * noisy / np.abs(noisy).max())
        sounds.append(10 ** (level_db / 20) * speech_like(RATE_HZ, RATE_HZ, rng))
    sounds.append(np.zeros(RATE_HZ // 4))
    return features(np.concatenate(sounds))
