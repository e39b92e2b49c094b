"""The cascade: its gate, its frames, and the simulated hardware against both golden models."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from amacrine.sw import cascade as cascades
from amacrine.sw.audio import read_wav, write_wav
from amacrine.sw.cascade import gate, load_cascade
from amacrine.sw.cli import main
from amacrine.sw.demo import CLIPS, RATE_HZ
from amacrine.sw.files import package_file


@pytest.mark.parametrize("seed", range(20))
def test_gate_by_counting(seed):
    rng = np.random.default_rng(seed)
    probabilities, hangover = rng.random(60) ** 3, int(rng.integers(0, 9))
    silent, expected = hangover + 1, []
    for probability in probabilities:
        silent = 0 if probability >= 0.5 else silent + 1
        expected.append(silent <= hangover)
    np.testing.assert_array_equal(gate(probabilities, hangover), expected)


def test_gate_without_frames():
    assert gate(np.empty(0), 3).tolist() == []


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """0.7 s of silence, 1 s of speech, 0.9 s of silence."""
    clip = CLIPS["beckett"]
    speech, _ = read_wav(package_file(clip.package, clip.name, clip.requirement), RATE_HZ)
    path = tmp_path_factory.mktemp("cascade") / "pauses.wav"
    write_wav(path, np.concatenate([np.zeros(11_200), speech[8_000:24_000], np.zeros(14_500)]), RATE_HZ)
    return path


def test_each_frame_is_due_with_its_last_sample(recording):
    loaded, _ = load_cascade(recording)
    for frame, step in enumerate(loaded.due):
        last = min(160 * frame + 319, len(loaded.enhancement.noisy) - 1)
        assert step == min(last // 512, len(loaded.detection.inputs) - 1) or last == 160 * frame + 319
    assert (np.diff(loaded.due) >= 0).all() and loaded.due[-1] == len(loaded.detection.inputs) - 1


def run(*arguments):
    return CliRunner().invoke(main, ["run", "cascade", *map(str, arguments)])


def test_golden(recording, tmp_path):
    result = run(recording, "--json", tmp_path / "cascade.json", "--out", tmp_path / "clean.wav")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "cascade.json").read_text())
    assert 0.2 < figures["gate_open"] < 0.8 and figures["bit_exact"] is None
    gated, always = figures["gated"][-1], figures["always"][-1]
    assert 0 < gated["weight_bytes"] and always["weight_bytes"] > 0 and gated["milliseconds"] is None
    enhanced, _ = read_wav(tmp_path / "clean.wav", RATE_HZ)
    assert np.abs(enhanced[:8_000]).max() == 0 and np.abs(enhanced[12_000:24_000]).max() > 0.01


def test_hangover_keeps_the_gate_open(recording, tmp_path):
    opened = []
    for seconds in (0, 0.2, 10):
        assert run(recording, "--hangover", seconds, "--json", tmp_path / "c.json").exit_code == 0
        opened.append(json.loads((tmp_path / "c.json").read_text())["gate_open"])
    assert opened[0] < opened[1] < opened[2]


def test_simulated_hardware_equals_both_golden_models(recording, tmp_path):
    result = run(recording, "--engine", "sim", "--json", tmp_path / "cascade.json")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "cascade.json").read_text())
    assert figures["bit_exact"] is True
    names = [row["what"] for row in figures["gated"]]
    assert names == ["silero-vad", "nsnet2-20ms-baseline", cascades.SWITCHING, "in all"]
    assert all(row["milliseconds"] > 0 for row in figures["gated"] + figures["always"])


@pytest.mark.parametrize("arguments", [("--engine", "float"), ("--theta", "0.1"), ("--frames", "3"),
                                       ("--reference", "x.wav"), ("--picture", "x.png"), ("--calibration", "x.npy")])
def test_options_that_do_not_belong_to_it(recording, arguments):
    result = run(recording, *arguments)
    assert result.exit_code == 2 and arguments[0] in result.output


def test_hangover_is_for_the_cascade_only(recording):
    result = CliRunner().invoke(main, ["run", "silero-vad", str(recording), "--hangover", "1"])
    assert result.exit_code == 2 and "--hangover is not for silero-vad; leave it out" in result.output
