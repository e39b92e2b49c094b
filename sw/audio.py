"""Sound files in and out as mono floating point, and the measure of how clean speech is.

Samples are float64 arrays of shape (n,) with full scale at ±1.
"""

from __future__ import annotations

import io
import os
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from .errors import AmacrineError
from .files import write_atomically

RATES = range(1_000, 384_001)  # sample rates in Hz that are taken for real ones
MAX_LENGTH_DIFFERENCE = 320  # samples: what framing may add at the end of a signal


def read_wav(path: str | os.PathLike[str], rate: int = 16_000) -> tuple[np.ndarray, list[str]]:
    """Read a sound file as mono samples at ``rate``.

    Any sample rate, channel count and sample format that libsndfile knows: channels are averaged,
    other rates are resampled by a polyphase filter.

    Returns
    -------
    samples : (n,) float64, full scale ±1 (a floating-point file may go beyond)
    notes : one sentence for each conversion made

    Raises
    ------
    AmacrineError : the file is missing, unreadable, not a sound file, without samples, with samples
        that are no finite numbers, or with a sample rate outside `RATES`.
    """
    channels, file_rate = _read(Path(path))
    if not len(channels):
        raise AmacrineError(f"{path} holds no samples")
    if file_rate not in RATES:
        raise AmacrineError(f"{path} has a sample rate of {file_rate} Hz; "
                            f"{RATES.start} to {RATES.stop - 1} Hz are supported")
    if not np.isfinite(channels).all():
        first = int(np.argmin(np.isfinite(channels).all(axis=1)))
        raise AmacrineError(f"{path} has a sample that is not a finite number, "
                            f"{first / file_rate:.3f} s after its start")
    notes = []
    samples = channels.mean(axis=1)
    if channels.shape[1] > 1:
        notes.append(f"{path}: {channels.shape[1]} channels mixed down to one")
    if file_rate != rate:
        common = gcd(rate, file_rate)
        samples = resample_poly(samples, rate // common, file_rate // common)
        notes.append(f"{path}: resampled from {file_rate} Hz to {rate} Hz")
    return samples, notes


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Samples (n, channels) and sample rate in Hz of a file, as they are."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise AmacrineError(f"{path} is empty")
            file.seek(0)
            channels, rate = soundfile.read(file, always_2d=True)
            return channels, rate
    except OSError as error:
        raise AmacrineError(f"cannot read {path}: {error.strerror}") from error
    except soundfile.SoundFileError as error:
        raise AmacrineError(f"{path} is not a sound file that can be read; "
                            "a WAV file is expected") from error


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, rate: int) -> list[str]:
    """Write samples (n,) as a 16-bit mono WAV file, whole or not at all; saturates at full scale.

    Returns
    -------
    notes : a sentence with the number of saturated samples, if there are any

    Raises
    ------
    AmacrineError : the file cannot be written, or a sample is not a finite number.
    """
    if not np.isfinite(samples).all():
        raise AmacrineError(f"cannot write {path}: there are samples that are not finite numbers")
    scaled = np.round(np.asarray(samples, dtype=np.float64) * 32768)
    pcm = np.clip(scaled, -32768, 32767)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm.astype(np.int16), rate, format="WAV", subtype="PCM_16")
    write_atomically(path, buffer.getvalue())
    saturated = int((pcm != scaled).sum())
    return [f"{path}: {saturated} samples beyond full scale were clipped"] if saturated else []


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio of an estimate (n,) in dB.

    10 log10(‖α s‖² / ‖α s − ŝ‖²) with α = ŝᵀs / ‖s‖²: J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey,
    "SDR - half-baked or well done?", ICASSP 2019, equations 2 and 3. A perfect estimate gives infinity.

    Framing makes an estimate a little longer than its reference: the longer one is cut at its end.

    Raises
    ------
    AmacrineError : the lengths differ by more than a frame, or the reference is silent.
    """
    if abs(len(estimate) - len(reference)) > MAX_LENGTH_DIFFERENCE:
        raise AmacrineError(f"the signals to compare have {len(estimate)} and {len(reference)} samples; "
                            f"at most {MAX_LENGTH_DIFFERENCE} samples of difference are allowed")
    n = min(len(estimate), len(reference))
    estimate, reference = np.asarray(estimate[:n], np.float64), np.asarray(reference[:n], np.float64)
    energy = reference @ reference
    if energy == 0:
        raise AmacrineError("the reference is silent, so the SI-SDR is not defined")
    target = (estimate @ reference / energy) * reference
    distortion = target - estimate
    if not np.any(target):  # also a silent estimate, where the ratio would be 0 / 0
        return -np.inf
    with np.errstate(divide="ignore"):  # no distortion at all: infinity is the result
        return float(10 * np.log10((target @ target) / (distortion @ distortion)))
