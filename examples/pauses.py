"""A recording with long pauses, for `amacrine run cascade`: phrases of recorded speech, seconds of noise between them.

    python examples/pauses.py pauses.wav

The speech is that of `amacrine demo`, from a PyPI package under the MIT licence, the noise a fan; same file everywhere.
"""

import sys

import numpy as np
from numpy.random import RandomState

from amacrine.sw.audio import read_wav, write_wav
from amacrine.sw.demo import CLIPS, RATE_HZ
from amacrine.sw.files import package_file
from amacrine.sw.signals import fan_noise

PHRASES_S = ((0.0, 3.0), (3.0, 5.5))    # of the clip
PAUSE_S = 5.0
SNR_DB = 20.0


def recording() -> np.ndarray:
    """Samples (n,) at 16 kHz: a pause before each phrase and after the last."""
    clip = CLIPS["beckett"]
    speech, _ = read_wav(package_file(clip.package, clip.name, clip.requirement), RATE_HZ)
    pause = np.zeros(int(PAUSE_S * RATE_HZ))
    parts = [pause]
    for start, end in PHRASES_S:
        parts += [speech[int(start * RATE_HZ) : int(end * RATE_HZ)], pause]
    sound = np.concatenate(parts)
    level = np.sqrt(np.mean(speech**2) / 10 ** (SNR_DB / 10))
    return sound + level * fan_noise(len(sound), RATE_HZ, RandomState(7))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/pauses.py OUT.wav")
    write_wav(sys.argv[1], recording(), RATE_HZ)
