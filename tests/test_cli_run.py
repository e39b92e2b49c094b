"""The commands that do something, on small models: run with each engine, compile, info, demo, bench."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx_graphs import Graph, T, sequence_through_ort

from amacrine.sim import area
from amacrine.sw import cli, demo, execute
from amacrine.sw.layout import COLUMN_FIELDS
from amacrine.sw.program import Program


def amacrine(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def succeed(*arguments: object) -> Result:
    result = amacrine(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def make_model(folder: Path) -> Path:
    """Dense with ReLU, LSTM, GRU, dense: every kind of layer, of odd sizes."""
    graph = Graph(seed=3)
    x = graph.input("x", T, 1, 5)
    h = graph.dense(x, "first", 5, 13, "Relu")
    graph.recurrent("LSTM", h, ["lstm"], 13, 9)
    squeezed = graph.node("Squeeze", ["lstm", graph.integers("direction", 1)], "lstm_out")
    graph.recurrent("GRU", squeezed, ["gru"], 9, 11)
    squeezed = graph.node("Squeeze", ["gru", "direction"], "gru_out")
    graph.output(graph.dense(squeezed, "last", 11, 3))
    return graph.save(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def inputs(tmp_path) -> Path:
    """40 steps of a slow random walk, as float32."""
    path = tmp_path / "inputs.npy"
    walk = np.cumsum(np.random.default_rng(5).normal(0, 0.2, (40, 5)), axis=0)
    np.save(path, walk.astype(np.float32))
    return path


def run(model: Path, inputs: Path, engine: str, *options: object) -> tuple[np.ndarray, dict]:
    """Outputs and stats of `amacrine run`."""
    out, stats = inputs.with_name(f"{engine}.npy"), inputs.with_name(f"{engine}.json")
    succeed("run", model, inputs, "--out", out, "--json", stats, "--engine", engine, *options)
    return np.load(out), json.loads(stats.read_text())


def test_float_is_onnx_runtime(model, inputs):
    outputs, stats = run(model, inputs, "float")
    (expected,) = sequence_through_ort(model, np.load(inputs), "tb")
    np.testing.assert_allclose(outputs, expected.reshape(outputs.shape), rtol=0, atol=1e-5)
    assert (stats["frames"], stats["bit_exact"], stats["columns_skipped"]) == (40, None, None)
    assert stats["cycles_per_frame"] is stats["weight_bytes_per_frame"] is None


def test_golden_is_close_to_float(model, inputs):
    expected, _ = run(model, inputs, "float")
    outputs, stats = run(model, inputs, "golden")
    assert np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    assert np.ptp(expected) > 0.1
    assert stats["bit_exact"] is stats["cycles_per_frame"] is stats["sisdr_db"] is None
    assert set(stats["columns_skipped"]) == {"first_product_node", "lstm_node", "gru_node", "last_product_node", "all"}


@pytest.mark.parametrize("theta", ["0", "0.05,gru_node.recurrent=3lsb"])
def test_simulated_hardware_is_golden(model, inputs, theta):
    golden, golden_stats = run(model, inputs, "golden", "--theta", theta)
    simulated, stats = run(model, inputs, "sim", "--theta", theta, "--latency", 7)
    np.testing.assert_array_equal(simulated, golden)
    assert stats["bit_exact"] is True
    for same in ("columns_skipped", "weight_bytes_per_frame", "thresholds"):
        assert stats[same] == golden_stats[same]
    assert 0 < stats["cycles_per_frame"]["mean"] <= stats["cycles_per_frame"]["max"]
    assert stats["simulated_cycles_per_second"] > 0


def test_thresholds_skip_more(model, inputs):
    _, without = run(model, inputs, "golden")
    _, with_thresholds = run(model, inputs, "golden", "--theta", "0.1")
    assert with_thresholds["columns_skipped"]["all"] > without["columns_skipped"]["all"] + 0.1
    assert with_thresholds["weight_bytes_per_frame"] < without["weight_bytes_per_frame"]
    assert without["thresholds"] == {}
    assert with_thresholds["thresholds"]["gru_node.recurrent"] == pytest.approx(0.1, abs=2**-8)


def test_calibration_data_can_be_other_data(model, inputs):
    calibration = inputs.with_name("calibration.npy")
    np.save(calibration, 30 * np.load(inputs))
    wide, _ = run(model, inputs, "golden", "--calibration", calibration)
    own, _ = run(model, inputs, "golden")
    assert not np.array_equal(wide, own)


def test_a_note_says_that_the_inputs_calibrate(model, inputs):
    assert "--calibration" in succeed("run", model, inputs).stderr
    assert succeed("run", model, inputs, "--calibration", inputs).stderr == ""


def test_frames_limits_the_sequence(model, inputs):
    few, stats = run(model, inputs, "golden", "--frames", 7)
    many, _ = run(model, inputs, "golden")
    assert stats["frames"] == 7
    np.testing.assert_array_equal(few, many[:7])


@pytest.mark.parametrize(("change", "message"), [
    ("output", "first in step 6, element 2"), ("events", "events of gru_node.recurrent instead of"),
])
def test_a_difference_is_told_and_is_exit_code_1(model, inputs, monkeypatch, change, message):
    """The comparison itself: hardware that differs in one element, or in one count."""
    def faulty(*arguments: object) -> execute.Simulation:
        simulation = execute_correctly(*arguments)
        if change == "output":
            simulation.run.outputs[6, 2] += 1
            simulation.run.outputs[9, 0] += 1
        else:
            simulation.counters["gru_node.recurrent"]["events"] += 1
        return simulation

    execute_correctly = execute.run_simulated
    monkeypatch.setattr(execute, "run_simulated", faulty)
    stats = inputs.with_name("stats.json")
    result = amacrine("run", model, inputs, "--engine", "sim", "--calibration", inputs, "--json", stats)
    assert result.exit_code == 1
    assert result.stderr.startswith("amacrine: error: the simulated hardware")
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert json.loads(stats.read_text())["bit_exact"] is False


# ---- programs ---------------------------------------------------------------------------------------------
def compile_(model: Path, calibration: Path, name: str, *options: object) -> Path:
    path = calibration.with_name(name)
    succeed("compile", model, "-o", path, "--calibration", calibration, *options)
    return path


def test_program_is_reproducible_and_told_by_info(model, inputs):
    first = compile_(model, inputs, "first", "--theta", "0.05")
    second = compile_(model, inputs, "second", "--theta", "0.05")
    assert first.read_bytes() == second.read_bytes()
    description = inputs.with_name("info.json")
    text = succeed("info", first, "--json", description).stdout
    told = json.loads(description.read_text())
    program = Program.load(first)
    assert told["checksum"] == program.checksum() and program.checksum() in text
    assert told["parameters"]["pes"] == 8
    assert told["weight_bytes"] == program.weights.size
    assert [job["name"] for job in told["jobs"]][-2:] == ["last_product_node.input", "last_product_node.bias"]
    gru = program.job("gru_node.recurrent")
    assert (gru.columns, gru.rows, gru.words) == (11, 33, 3 * 2)
    assert program.columns[gru.number][COLUMN_FIELDS.index("length")] == -(-11 // program.parameters.lanes)
    assert f"{gru.theta} LSB" in text


def test_options_change_the_program(model, inputs):
    plain = Program.load(compile_(model, inputs, "plain"))
    wide = Program.load(compile_(model, inputs, "wide", "--pes", 16, "--parameter", "queue_depth=32"))
    late = Program.load(compile_(model, inputs, "late", "--no-anticipation"))
    assert (wide.parameters.pes, wide.parameters.queue_depth, wide.weights.shape[1]) == (16, 32, 16)
    assert not np.array_equal(late.entries, plain.entries)
    np.testing.assert_array_equal(late.weights, plain.weights)


# ---- NSNet2 -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[Path, Path]:
    return demo.build(tmp_path_factory.mktemp("clip"))


@pytest.mark.slow
def test_nsnet2_on_the_simulated_hardware(clip, tmp_path):
    noisy, clean = clip
    out, stats, picture = (tmp_path / name for name in ("out.wav", "stats.json", "picture.png"))
    succeed("run", "nsnet2", noisy, "--engine", "sim", "--frames", 5, "--out", out, "--json", stats,
            "--reference", clean, "--picture", picture)
    told = json.loads(stats.read_text())
    assert (told["frames"], told["bit_exact"]) == (5, True)
    assert told["recurrent_columns_skipped"] > 0.3
    assert told["sisdr_db"] is not None and set(told["sisdr_references_db"]) == {"noisy"}
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 5 * 160)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_any_sample_rate_and_channel_count_gives_a_note(clip, tmp_path):
    noisy = tmp_path / "stereo.wav"
    samples, rate = soundfile.read(clip[0])
    soundfile.write(noisy, np.stack([samples, samples], axis=1)[:8000], rate // 2)
    result = succeed("run", "nsnet2", noisy, "--engine", "float", "--out", tmp_path / "out.wav", "--frames", 3)
    assert result.stderr == (f"amacrine: note: {noisy}: 2 channels mixed down to one\n"
                             f"amacrine: note: {noisy}: resampled from 8000 Hz to 16000 Hz\n")
    assert soundfile.info(tmp_path / "out.wav").frames == 480


@pytest.mark.slow
def test_demo(tmp_path):
    folder = tmp_path / "demo"
    result = succeed("demo", "--out", folder, "--frames", 20)
    told = json.loads((folder / "stats.json").read_text())
    assert (told["frames"], told["bit_exact"]) == (20, True)
    assert set(told["sisdr_references_db"]) == {"noisy", "float", "dense golden"}
    assert "yes, every frame" in result.stdout and "times real time" in result.stdout
    assert {path.name for path in folder.iterdir()} == {
        "noisy.wav", "clean.wav", "enhanced.wav", "stats.json", "picture.png", "nsnet2.program"}
    program = Program.load(folder / "nsnet2.program")
    assert (program.n_inputs, program.n_outputs) == (161, 161)


# ---- bench ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_bench_utilisation(tmp_path):
    path = tmp_path / "utilisation.json"
    result = succeed("bench", "utilisation", "--hidden", 16, "--hidden", 24, "--sparsity", 0.8, "--json", path)
    rows = json.loads(path.read_text())
    keys = {"layers", "inputs", "hidden", "pes", "memory_latency", "sparsity", "cycles_per_step",
            "words_per_step", "utilisation"}
    assert [row["hidden"] for row in rows] == [16, 24]
    for row in rows:
        assert keys <= set(row)
        assert (row["layers"], row["inputs"], row["pes"], row["memory_latency"]) == (2, 40, 8, 1)
        assert row["sparsity"] == pytest.approx(0.8, abs=0.02)
        assert row["utilisation"] == pytest.approx(row["words_per_step"] / row["cycles_per_step"], abs=1e-3)
    assert len(result.stdout.splitlines()) == 3


def test_bench_area(tmp_path, monkeypatch):
    """The command around `area.measure`, which test_area.py tests and which takes minutes."""
    def measure(pes, seeds):
        for seed in seeds:
            yield area.AreaRow(pes, 100.0 + pes + seed, 4_000, 3_000, 30, pes + 6, seed, ("path",))

    monkeypatch.setattr(area, "measure", measure)
    path = tmp_path / "area.json"
    result = succeed("bench", "area", "--pes", 8, "--pes", 16, "--json", path)
    rows = json.loads(path.read_text())
    assert [(row["pes"], row["seed"]) for row in rows] == [(pes, seed) for pes in (8, 16) for seed in (1, 2, 3)]
    assert rows[0] == {"pes": 8, "fmax_mhz": 109.0, "luts": 4_000, "ffs": 3_000, "block_rams": 30,
                       "multipliers": 14, "seed": 1}
    lines = result.stdout.splitlines()
    assert lines[0].split() == list(rows[0])
    assert lines[-2:] == ["8 PEs: 110.0 MHz, median of 3", "16 PEs: 118.0 MHz, median of 3"]


def test_silero_vad(tmp_path):
    """Segments on the terminal, probabilities in a file, a picture, and the same with golden and float."""
    _, clean = demo.build(tmp_path, "beckett")
    out, picture = tmp_path / "p.npy", tmp_path / "p.png"
    results = {}
    for engine in ("float", "golden"):
        result = succeed("run", "silero-vad", clean, "--frames", 100, "--out", out, "--picture", picture,
                         "--engine", engine)
        results[engine] = np.load(out)[:, 0]
        assert results[engine].shape == (100,)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert result.stdout.splitlines()[0].startswith("speech from 0.35 s to 1.")
    assert np.abs(results["golden"] - results["float"]).mean() < 0.02


@pytest.mark.slow
def test_silero_vad_on_the_simulated_hardware(tmp_path):
    """All layers, with the CNN engine that the model asks for; the program is the one that `compile` writes."""
    _, clean = demo.build(tmp_path, "beckett")
    out, stats, golden = tmp_path / "p.npy", tmp_path / "stats.json", tmp_path / "golden.npy"
    text = succeed("run", "silero-vad", clean, "--frames", 20, "--out", out, "--json", stats, "--engine", "sim").stdout
    succeed("run", "silero-vad", clean, "--frames", 20, "--out", golden)
    np.testing.assert_array_equal(np.load(out), np.load(golden))
    told = json.loads(stats.read_text())
    assert (told["frames"], told["bit_exact"]) == (20, True)
    jobs = {job["name"]: job for job in told["jobs"]}
    assert list(jobs)[:5] == ["conv1.input", "conv2.input", "conv3.input", "conv4.input", "lstm.input"]
    assert all(jobs[f"conv{n}.input"]["macs_done"] > 0 and jobs[f"conv{n}.input"]["cycles"] > 0 for n in (1, 2, 3, 4))
    assert "convolution  MACs/frame" in text and "times real time" in text
    program = tmp_path / "silero.program"
    assert "18 passes of the CNN engine" in succeed("compile", "silero-vad", "-o", program).stdout
    assert "18 passes, 112,512 bytes of kernels" in succeed("info", program).stdout
    assert "leave out --calibration" in amacrine("compile", "silero-vad", "-o", program, "--calibration", out).stderr
