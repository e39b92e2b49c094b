"""Demo clips: recorded speech that PyPI packages carry, with seeded noise added.

Same files on every machine. Both recordings are under the MIT licence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from numpy.random import RandomState

from .audio import read_wav, write_wav
from .errors import AmacrineError
from .files import package_file
from .signals import NOISES, add_noise

RATE_HZ = 16_000


@dataclass(frozen=True)
class Clip:
    """Where a recording is, how much of it to take, and which of ``signals.NOISES`` to add."""

    package: str
    name: str
    requirement: str
    seconds: float
    noise: str
    seed: int


CLIPS = {
    "beckett": Clip(
        "moonshine_onnx", "assets/beckett.wav", "useful-moonshine-onnx==20251121",
        seconds=10.0, noise="fan", seed=1,
    ),
    "cities": Clip(
        "moonshine_voice", "assets/two_cities.wav", "moonshine-voice==0.1.5",
        seconds=12.0, noise="pink", seed=2,
    ),
}


def build(folder: str | os.PathLike[str], clip: str = "beckett", snr_db: float = 10.0) -> tuple[Path, Path]:
    """Write ``noisy.wav`` and ``clean.wav`` (16 kHz, mono, 16 bits) into a folder, making it if needed.

    Returns
    -------
    noisy, clean : paths of the files

    Raises
    ------
    AmacrineError : no such clip, its package is not installed, or the folder cannot be written.
    """
    if clip not in CLIPS:
        raise AmacrineError(f"there is no demo clip {clip!r}; choose one of {', '.join(CLIPS)}")
    folder, chosen = Path(folder), CLIPS[clip]
    speech, _ = read_wav(package_file(chosen.package, chosen.name, chosen.requirement), RATE_HZ)
    speech = speech[: int(chosen.seconds * RATE_HZ)]
    noise = NOISES[chosen.noise](speech, RATE_HZ, RandomState(chosen.seed))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmacrineError(f"cannot make the folder {folder}: {error.strerror}") from error
    noisy_path, clean_path = folder / "noisy.wav", folder / "clean.wav"
    write_wav(noisy_path, add_noise(speech, noise, snr_db), RATE_HZ)
    write_wav(clean_path, speech, RATE_HZ)
    return noisy_path, clean_path
