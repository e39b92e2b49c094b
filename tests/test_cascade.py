"""The cascade: its gate, its frames, and the simulated hardware against both golden models."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from mock_device import MockDevice, TogetherEngine

from amacrine.boards.table import find
from amacrine.sw import cascade as cascades
from amacrine.sw import cli_cascade, nsnet2, silero
from amacrine.sw.audio import read_wav, write_wav
from amacrine.sw.cascade import gate, load_cascade
from amacrine.sw.cli import main
from amacrine.sw.compile import compile_together
from amacrine.sw.demo import CLIPS, RATE_HZ
from amacrine.sw.files import package_file
from amacrine.sw.quantise import quantise


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


@pytest.fixture(scope="module")
def silence(tmp_path_factory):
    """Half a second in which the gate never opens."""
    path = tmp_path_factory.mktemp("cascade") / "silence.wav"
    write_wav(path, np.zeros(8_000), RATE_HZ)
    return path


@pytest.mark.parametrize("engine", ["golden", "sim"])
def test_a_gate_that_never_opens(silence, engine, tmp_path):
    result = run(silence, "--engine", engine, "--json", tmp_path / "c.json", "--out", tmp_path / "clean.wav")
    assert result.exit_code == 0, result.output
    assert "no speech" in result.output and "gate open 0.0%" in result.output
    figures = json.loads((tmp_path / "c.json").read_text())
    vad, enhancer, *_, both = figures["gated"]
    assert (figures["gate_open"], enhancer["frames"], enhancer["weight_bytes"]) == (0, 0, 0)
    assert both["weight_bytes"] == vad["weight_bytes"] > 0
    assert both["milliseconds"] is None if engine == "golden" else both["milliseconds"] == vad["milliseconds"] > 0
    assert not read_wav(tmp_path / "clean.wav", RATE_HZ)[0].any()


# ---- on a board -------------------------------------------------------------------------------------------
@pytest.fixture
def engine(recording):
    """The golden models of both networks, as the engines of a ulx3s-cnn."""
    loaded, _ = load_cascade(recording)
    networks = [quantise(part.network, part.calibration, thresholds) for part, thresholds in (
        (loaded.detection, silero.THRESHOLDS), (loaded.enhancement, nsnet2.THRESHOLDS))]
    return TogetherEngine(networks, compile_together(networks, find("ulx3s-cnn").parameters))


def board(engine, **options):
    return MockDevice(engine, find("ulx3s-cnn").parameters, memory_words=1 << 24, real_words=1 << 21, **options)


def test_a_board_is_compared_with_the_golden_models(recording, engine, tmp_path):
    with board(engine) as device:
        result = run(recording, "--engine", "board", "--port", device.port, "--json", tmp_path / "board.json",
                     "--out", tmp_path / "board.wav")
    assert result.exit_code == 0, result.output
    assert "equal to golden model: yes, every output and count of both networks" in result.output
    settings = [f"--parameter={name}={value}" for name, value in find("ulx3s-cnn").parameters.as_dict().items()
                if name != "pes"]
    assert run(recording, "--pes", 2, *settings, "--json", tmp_path / "golden.json",
               "--out", tmp_path / "golden.wav").exit_code == 0
    told, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("board", "golden"))
    assert told.pop("bit_exact") is True and expected.pop("bit_exact") is None
    assert told == expected
    assert (tmp_path / "board.wav").read_bytes() == (tmp_path / "golden.wav").read_bytes()


def test_a_board_that_vanishes_in_the_middle(recording, engine, tmp_path):
    with board(engine, vanish_after=80) as device:
        result = run(recording, "--engine", "board", "--port", device.port, "--json", tmp_path / "board.json")
    assert result.exit_code == 2 and "has vanished" in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == "" and not (tmp_path / "board.json").exists()


@pytest.mark.parametrize("model", ["silero-vad", "cascade"])
def test_a_board_without_cnn_engine_is_told_before_other_work(recording, model):
    with MockDevice() as device:
        result = CliRunner().invoke(main, ["run", model, str(recording), "--engine", "board", "--port", device.port])
        operations = set(device.operations)
    assert result.exit_code == 2 and operations == {1}, result.output
    assert result.output == ("amacrine: error: the board mock has no CNN engine, which the convolutions of silero-vad "
                             "need; use a board with one, such as ulx3s-cnn, or --engine golden or sim\n")


def test_a_fault_of_the_enhancer_alone_is_a_difference(silence, monkeypatch, tmp_path):
    def faulty(*arguments):
        return replace(cascades.run_always(*arguments), fault="it is wrong")

    monkeypatch.setattr(cli_cascade, "run_always", faulty)
    result = run(silence, "--engine", "sim", "--json", tmp_path / "c.json")
    assert result.exit_code == 1 and "equal to golden model: NO" in result.stdout and "it is wrong" in result.stderr
    assert json.loads((tmp_path / "c.json").read_text())["bit_exact"] is False


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "86401"])
@pytest.mark.parametrize("option", ["--hangover", "--timeout"])
def test_seconds_that_are_none(silence, option, seconds):
    result = run(silence, option, seconds)
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.output


@pytest.mark.parametrize("arguments", [("--engine", "float"), ("--theta", "0.1"), ("--frames", "3"),
                                       ("--reference", "x.wav"), ("--picture", "x.png"), ("--calibration", "x.npy")])
def test_options_that_do_not_belong_to_it(recording, arguments):
    result = run(recording, *arguments)
    assert result.exit_code == 2 and arguments[0] in result.output


def test_hangover_is_for_the_cascade_only(recording):
    result = CliRunner().invoke(main, ["run", "silero-vad", str(recording), "--hangover", "1"])
    assert result.exit_code == 2 and "--hangover is not for silero-vad; leave it out" in result.output
