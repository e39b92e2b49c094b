"""Seeded synthetic sounds: noise of several kinds, and a rough imitation of speech.

Noise has an RMS of 1. The random source is NumPy's ``RandomState``, whose stream NEP 19 froze for good:
newer generators may change theirs from one NumPy release to the next.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from scipy.signal import lfilter

FORMANTS_HZ = ((250, 900), (800, 2500), (2300, 3500))  # ranges of a vowel's resonances
FRICATIVE_HZ = ((2500, 5000), (4000, 7000))


def _unit_rms(samples: np.ndarray) -> np.ndarray:
    return samples / np.sqrt(np.mean(samples**2))


def coloured_noise(n: int, exponent: float, rng: RandomState) -> np.ndarray:
    """Noise (n,) whose power falls as 1 / frequency ** exponent: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    spectrum[0] = 0
    return _unit_rms(np.fft.irfft(spectrum, n))


def fan_noise(n: int, rate: int, rng: RandomState) -> np.ndarray:
    """A fan (n,): the rush of air, 12 dB below it a hum whose harmonics waver slowly."""
    time = np.arange(n) / rate
    hum = np.zeros(n)
    for harmonic in range(1, 9):
        waver = 1 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.2, 2.0) * time + rng.uniform()))
        hum += waver / harmonic * np.sin(2 * np.pi * (118.0 * harmonic * time + rng.uniform()))
    return _unit_rms(0.25 * _unit_rms(hum) + coloured_noise(n, 1.5, rng))


def babble(speech: np.ndarray, rng: RandomState, voices: int = 8) -> np.ndarray:
    """Many voices at once (n,): copies of ``speech``, each from another place, every other reversed."""
    total = np.zeros(len(speech))
    for voice in range(voices):
        copy = np.roll(speech, rng.randint(len(speech)))
        total += copy[::-1] if voice % 2 else copy
    return _unit_rms(total)


def speech_like(n: int, rate: int, rng: RandomState) -> np.ndarray:
    """Syllables and pauses (n,) with the peak at 1; not words, but the pace and spectra of speech."""
    pieces, length = [], 0
    while length < n:
        pieces += [_syllable(rate, rng), np.zeros(int(rate * rng.uniform(0.0, 0.1)))]
        if rng.uniform() < 0.1:  # between phrases
            pieces.append(np.zeros(int(rate * rng.uniform(0.2, 0.6))))
        length = sum(map(len, pieces))
    samples = np.concatenate(pieces)[:n]
    return samples / np.abs(samples).max()


def _syllable(rate: int, rng: RandomState) -> np.ndarray:
    """A vowel with gliding pitch or, one time in four, a fricative: source, resonators, envelope."""
    n = int(rate * rng.uniform(0.08, 0.35))
    voiced = rng.uniform() < 0.75
    if voiced:
        pitch_hz = rng.uniform(80, 300) * np.linspace(1, rng.uniform(0.8, 1.25), n)
        source = np.diff(np.floor(np.cumsum(pitch_hz) / rate), prepend=-1.0)  # one pulse a period
    else:
        source = rng.standard_normal(n)
    for low, high in FORMANTS_HZ if voiced else FRICATIVE_HZ:
        radius = np.exp(-np.pi * rng.uniform(60, 250) / rate)  # from the bandwidth in Hz
        angle = 2 * np.pi * rng.uniform(low, high) / rate
        source = lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], source)
    loudness = rng.uniform(0.3, 1.0) if voiced else rng.uniform(0.05, 0.3)
    return loudness * np.hanning(n) * source / np.abs(source).max()


NOISES: dict[str, Callable[[np.ndarray, int, RandomState], np.ndarray]] = {
    "white": lambda speech, rate, rng: coloured_noise(len(speech), 0.0, rng),
    "pink": lambda speech, rate, rng: coloured_noise(len(speech), 1.0, rng),
    "brown": lambda speech, rate, rng: coloured_noise(len(speech), 2.0, rng),
    "fan": lambda speech, rate, rng: fan_noise(len(speech), rate, rng),
    "babble": lambda speech, rate, rng: babble(speech, rng),
}


def add_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech (n,) plus noise (n,), scaled to a signal-to-noise ratio over the whole signal."""
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2) / 10 ** (snr_db / 10))
    return speech + gain * noise
