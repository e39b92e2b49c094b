"""What `amacrine run` is asked to run: a network, its inputs, and what becomes of its outputs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import nsnet2, silero
from .audio import read_wav, si_sdr, write_wav
from .conv import Conv
from .errors import AmacrineError
from .files import write_atomically
from .network import Dense, Network
from .onnx_import import load_onnx
from .thresholds import Thresholds, check_names


@dataclass(frozen=True, eq=False)
class Workload:
    """A network and vectors for it.

    Parameters
    ----------
    network : in floating point
    inputs : (T, n_inputs) float64
    calibration : (T', n_inputs) float64, to choose number formats from
    """

    network: Network
    inputs: np.ndarray
    calibration: np.ndarray

    @property
    def frame_hz(self) -> float | None:
        """Steps a second in real time, if the network has a time of its own."""
        return None

    def save(self, path: Path, outputs: np.ndarray) -> list[str]:
        """Write what the outputs (T, n_outputs) mean; returns notes."""
        save_array(path, outputs)
        return []

    def summary(self, outputs: np.ndarray) -> list[str]:
        """Lines that say what the outputs mean, if they can be said in words."""
        return []

    def sisdr_db(self, outputs: np.ndarray) -> float | None:
        """SI-SDR of what the outputs mean, if it is sound and there is a clean recording."""
        return None

    @property
    def noisy_sisdr_db(self) -> float | None:
        """SI-SDR of the sound that goes in, if there is a clean recording."""
        return None


@dataclass(frozen=True, eq=False)
class Enhancement(Workload):
    """Noisy speech for NSNet2.

    Parameters
    ----------
    noisy : samples (n,) at 16 kHz
    spectrum : (T, 161) complex128
    reference : clean samples (n,), if there is such a recording
    """

    noisy: np.ndarray
    spectrum: np.ndarray
    reference: np.ndarray | None

    @property
    def frame_hz(self) -> float:
        return nsnet2.RATE_HZ / nsnet2.HOP_LENGTH

    def enhanced(self, gain: np.ndarray) -> np.ndarray:
        """Samples (n,) after the network's gain (T, 161)."""
        return nsnet2.synthesise(self.spectrum, gain)[: len(self.noisy)]

    def save(self, path: Path, outputs: np.ndarray) -> list[str]:
        return write_wav(path, self.enhanced(outputs), nsnet2.RATE_HZ)

    def sisdr_db(self, outputs: np.ndarray) -> float | None:
        return None if self.reference is None else si_sdr(self.enhanced(outputs), self.reference)

    @property
    def noisy_sisdr_db(self) -> float | None:
        return None if self.reference is None else si_sdr(self.noisy, self.reference)


def load_enhancement(
    path: Path, reference_path: Path | None, frames: int | None = None
) -> tuple[Enhancement, list[str]]:
    """`enhancement` with a noisy recording, at most ``frames`` frames of it; and notes on conversions."""
    noisy, notes = read_wav(path, nsnet2.RATE_HZ)
    reference = None
    if reference_path is not None:
        reference, more = read_wav(reference_path, nsnet2.RATE_HZ)
        notes += more
        si_sdr(noisy, reference)  # refuses recordings that do not belong together, before the work begins
    if frames is not None:
        noisy = noisy[: frames * nsnet2.HOP_LENGTH]
    if frames is not None and reference is not None:
        reference = reference[: frames * nsnet2.HOP_LENGTH]
        si_sdr(noisy, reference)  # perhaps it begins with silence
    return enhancement(noisy, reference), notes


def enhancement(noisy: np.ndarray, reference: np.ndarray | None = None) -> Enhancement:
    """NSNet2 with noisy samples (n,) at 16 kHz, and the clean ones, if there are."""
    spectrum, features = nsnet2.features(noisy)
    network = load_onnx(nsnet2.model_path())
    return Enhancement(network, features, nsnet2.calibration_features(), noisy, spectrum, reference)


@dataclass(frozen=True, eq=False)
class Detection(Workload):
    """A recording for Silero VAD; its outputs are the probabilities of speech, (T, 1).

    Parameters
    ----------
    samples : (n,) at 16 kHz
    """

    samples: np.ndarray

    @property
    def frame_hz(self) -> float:
        return silero.RATE_HZ / silero.HOP_LENGTH

    def summary(self, outputs: np.ndarray) -> list[str]:
        found = [f"speech from {start:.2f} s to {end:.2f} s" for start, end in silero.segments(outputs[:, 0])]
        return found or ["no speech"]


def load_detection(path: Path, frames: int | None = None) -> tuple[Detection, list[str]]:
    """`detection` with a recording, at most ``frames`` frames of it; and notes on conversions."""
    samples, notes = read_wav(path, silero.RATE_HZ)
    if frames is not None:
        samples = samples[: frames * silero.HOP_LENGTH]
    return detection(samples), notes


def detection(samples: np.ndarray) -> Detection:
    """Silero VAD with samples (n,) at 16 kHz."""
    return Detection(silero.load_network(), silero.features(samples), silero.calibration_features(), samples)


def load_vectors(
    model: Path, path: Path, calibration_path: Path | None, frames: int | None = None
) -> tuple[Workload, list[str]]:
    """An ONNX model with input vectors; they also serve as calibration data if there are no others."""
    network, notes = load_onnx(model), []
    inputs = network_inputs(network, path)
    calibration = inputs if calibration_path is None else network_inputs(network, calibration_path)
    if network.last_only:
        notes.append("the model itself returns only the last step's output; here every step has one")
    return Workload(network, inputs[:frames], calibration), notes


def network_inputs(network: Network, path: Path) -> np.ndarray:
    """Input vectors (T, n_inputs) for a network from a .npy file, float64.

    Maps may have their own axes there: (T, channels, rows, columns), or one of these less.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise AmacrineError(f"cannot read {path}: {error.strerror or 'it is damaged'}") from error
    except (ValueError, EOFError) as error:
        raise AmacrineError(f"{path} is not a .npy file of numbers, or is truncated; "
                            "write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise AmacrineError(f"{path} is an archive of arrays; write one array with numpy.save")
    if array.ndim > 2 and isinstance(network.layers[0], Conv) and array[0].size == network.n_inputs:
        array = array.reshape(len(array), -1)  # maps with their axes
    try:
        return network.check_input(array)
    except AmacrineError as error:
        raise AmacrineError(f"{path}: {error}") from error


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def check_threshold_names(network: Network, thresholds: Thresholds) -> None:
    """Refuse thresholds for what the network does not have, before it is quantised."""
    check_names(thresholds, [
        f"{layer.name}.{source}" for layer in network.layers
        for source in (("input",) if isinstance(layer, Dense | Conv) else ("input", "recurrent"))
    ])
