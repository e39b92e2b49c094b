"""Sound files: what is read, what is written, what is refused, and the SI-SDR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from amacrine.sw import audio, demo, files, signals
from amacrine.sw.errors import AmacrineError


def tone(rate: int, hz: float = 440.0, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("subtype", "tolerance"), [
    ("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-30), ("FLOAT", 2**-24),
    ("DOUBLE", 0.0), ("ULAW", 0.02), ("ALAW", 0.02),
])
def test_every_sample_format_is_read(tmp_path: Path, subtype: str, tolerance: float) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000, subtype=subtype)
    samples, notes = audio.read_wav(tmp_path / "a.wav")
    assert samples.dtype == np.float64
    np.testing.assert_allclose(samples, tone(16_000), rtol=0, atol=tolerance)
    assert notes == []


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 16_001])
def test_other_rates_are_resampled_with_a_note(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate), rate, subtype="DOUBLE")
    samples, notes = audio.read_wav(path)
    assert abs(len(samples) - 8_000) <= 1
    inner = slice(800, 7_200)  # the filter sees silence beyond both ends
    np.testing.assert_allclose(samples[inner], tone(16_000)[inner], atol=2e-3)
    assert notes == [f"{path}: resampled from {rate} Hz to 16000 Hz"]


def test_channels_are_averaged_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    channels = np.array([[0.5, 0.25, 0.0], [-0.5, 0.5, 0.75]])
    soundfile.write(path, channels, 16_000, subtype="DOUBLE")
    samples, notes = audio.read_wav(path)
    np.testing.assert_allclose(samples, [0.25, 0.25])
    assert notes == [f"{path}: 3 channels mixed down to one"]


def test_two_conversions_give_two_notes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((4_410, 2)), 44_100)
    samples, notes = audio.read_wav(tmp_path / "a.wav", rate=8_000)
    assert samples.shape == (800,)
    assert len(notes) == 2


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name to a file and what its error must say."""
    names = ("missing", "empty", "text", "no_samples", "nan", "infinite", "rate")
    path = {name: folder / f"{name}.wav" for name in names}
    path["empty"].touch()
    path["text"].write_text("RIFF, but only in words\n" * 10)
    soundfile.write(path["no_samples"], np.zeros(0), 16_000)
    broken = np.zeros(16_000)
    broken[8_000] = np.nan
    soundfile.write(path["nan"], broken, 16_000, subtype="FLOAT")
    broken[8_000] = -np.inf
    soundfile.write(path["infinite"], np.stack([np.zeros(16_000), broken], 1), 16_000, subtype="FLOAT")
    soundfile.write(path["rate"], np.zeros(100), 1)
    return {
        "missing": (path["missing"], "No such file"),
        "folder": (folder, "Is a directory"),
        "empty": (path["empty"], "is empty"),
        "text": (path["text"], "not a sound file"),
        "no_samples": (path["no_samples"], "holds no samples"),
        "nan": (path["nan"], "not a finite number, 0.500 s"),
        "infinite": (path["infinite"], "not a finite number, 0.500 s"),
        "rate": (path["rate"], "sample rate of 1 Hz"),
    }


@pytest.mark.parametrize(
    "name", ["missing", "folder", "empty", "text", "no_samples", "nan", "infinite", "rate"]
)
def test_bad_file_is_refused_in_one_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    path, sentence = bad_files(tmp_path)[name]
    with pytest.raises(AmacrineError, match=sentence) as caught:
        audio.read_wav(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_cut_off_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(16_000), 16_000)
    whole = path.read_bytes()
    refused = 0
    for length in (*range(1, 60), *range(60, len(whole), 997)):  # every byte of the header
        path.write_bytes(whole[:length])
        try:
            samples, _ = audio.read_wav(path)
        except AmacrineError:
            refused += 1
        else:
            np.testing.assert_allclose(samples, tone(16_000)[: len(samples)], atol=2**-15)
    assert refused >= 12  # at least while the file has no "RIFF", length and "WAVE"


def test_written_file_is_read_back_exactly(tmp_path: Path) -> None:
    samples = np.arange(-32768, 32768) / 32768
    assert audio.write_wav(tmp_path / "a.wav", samples, 16_000) == []
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    np.testing.assert_array_equal(audio.read_wav(tmp_path / "a.wav")[0], samples)


def test_samples_beyond_full_scale_saturate_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert audio.write_wav(path, np.array([0.0, 1.5, -1.0, -1.5, 0.25]), 16_000) == [
        f"{path}: 2 samples beyond full scale were clipped"
    ]
    np.testing.assert_array_equal(audio.read_wav(path)[0], [0, 1 - 2**-15, -1, -1, 0.25])


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    audio.write_wav(path, tone(16_000), 16_000)
    before = path.read_bytes()

    def disk_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(AmacrineError, match=r"cannot write .*a\.wav: No space left on device"):
        audio.write_wav(path, tone(8_000), 16_000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmacrineError, match="folder .*nowhere does not exist"):
        audio.write_wav(tmp_path / "nowhere" / "a.wav", tone(16_000), 16_000)
    with pytest.raises(AmacrineError, match="it is a folder"):
        audio.write_wav(tmp_path, tone(16_000), 16_000)
    with pytest.raises(AmacrineError, match="not finite"):
        audio.write_wav(tmp_path / "a.wav", np.array([0.0, np.nan]), 16_000)
    assert list(tmp_path.iterdir()) == []


def test_si_sdr_of_known_mixtures() -> None:
    n = 16_000
    speech = np.sin(2 * np.pi * 100 * np.arange(n) / n)
    noise = np.cos(2 * np.pi * 100 * np.arange(n) / n)  # orthogonal, same energy
    for snr_db in (-10.0, 0.0, 3.0, 25.0):
        estimate = speech + 10 ** (-snr_db / 20) * noise
        assert audio.si_sdr(estimate, speech) == pytest.approx(snr_db, abs=1e-9)
        assert audio.si_sdr(-0.01 * estimate, speech) == pytest.approx(snr_db, abs=1e-9)
    # projection and residual by hand: s = (1, 1), ŝ = (2, 1), α = 3/2, error (−1/2, 1/2): 4.5 / 0.5
    assert audio.si_sdr(np.array([2.0, 1.0]), np.ones(2)) == pytest.approx(10 * np.log10(9))


def test_si_sdr_at_its_limits() -> None:
    speech = np.array([1.0, 0.0, 2.0])
    assert audio.si_sdr(speech, speech) == np.inf
    assert audio.si_sdr(np.zeros(3), speech) == -np.inf
    assert audio.si_sdr(np.array([0.0, 1.0, 0.0]), speech) == -np.inf
    with pytest.raises(AmacrineError, match="reference is silent"):
        audio.si_sdr(speech, np.zeros(3))


def test_si_sdr_cuts_a_frame_of_padding_but_no_more() -> None:
    rng = np.random.default_rng(1)
    speech, noise = rng.standard_normal((2, 4_000))
    estimate = speech + 0.1 * noise
    padded = np.concatenate([estimate, np.ones(320)])
    assert audio.si_sdr(padded, speech) == audio.si_sdr(estimate, speech)
    assert audio.si_sdr(estimate, np.concatenate([speech, np.ones(320)])) == audio.si_sdr(estimate, speech)
    with pytest.raises(AmacrineError, match="4321 and 4000 samples"):
        audio.si_sdr(np.append(padded, 0.0), speech)


@pytest.mark.parametrize("kind", signals.NOISES)
def test_noise_is_reproducible_and_of_the_ratio_asked_for(kind: str) -> None:
    speech = signals.speech_like(16_000, 16_000, np.random.RandomState(3))
    noise = signals.NOISES[kind](speech, 16_000, np.random.RandomState(4))
    again = signals.NOISES[kind](speech, 16_000, np.random.RandomState(4))
    np.testing.assert_array_equal(noise, again)
    assert np.mean(noise**2) == pytest.approx(1.0)
    added = signals.add_noise(speech, noise, 6.0) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(6.0)


@pytest.mark.parametrize(("exponent", "slope_db"), [(0.0, 0.0), (1.0, -3.01), (2.0, -6.02)])
def test_coloured_noise_falls_as_its_exponent_says(exponent: float, slope_db: float) -> None:
    noise = signals.coloured_noise(1 << 16, exponent, np.random.RandomState(5))
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [10 * np.log10(power[1 << k : 2 << k].mean()) for k in range(8, 15)]
    assert np.mean(np.diff(octaves)) == pytest.approx(slope_db, abs=0.3)


@pytest.mark.parametrize("clip", demo.CLIPS)
def test_demo_clip_has_its_noise_and_is_the_same_each_time(tmp_path: Path, clip: str) -> None:
    chosen = demo.CLIPS[clip]
    if clip != "beckett" and files.find_spec(chosen.package) is None:
        pytest.skip(f"{chosen.requirement} is not installed")
    noisy_path, clean_path = demo.build(tmp_path / "new" / "folder", clip)
    noisy, notes = audio.read_wav(noisy_path)
    clean, _ = audio.read_wav(clean_path)
    assert notes == []
    assert len(noisy) == len(clean) > 9.9 * 16_000
    assert np.abs(noisy).max() < 1 - 2**-15  # nothing saturated
    ratio = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
    assert ratio == pytest.approx(10.0, abs=0.01)
    again = demo.build(tmp_path, clip)
    assert [path.read_bytes() for path in again] == [noisy_path.read_bytes(), clean_path.read_bytes()]


def test_demo_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AmacrineError, match="no demo clip 'opera'; choose one of beckett, cities"):
        demo.build(tmp_path, "opera")
    (tmp_path / "file").touch()
    with pytest.raises(AmacrineError, match="cannot make the folder"):
        demo.build(tmp_path / "file" / "folder")
    monkeypatch.setattr(files, "find_spec", lambda package: None)
    with pytest.raises(AmacrineError, match=r"`pip install --no-deps useful-moonshine-onnx==20251121`"):
        demo.build(tmp_path)
