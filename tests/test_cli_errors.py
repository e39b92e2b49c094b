"""Bad input to the command: one sentence on stderr, exit code 2, and no file left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner
from onnx_graphs import Graph, T
from safetensors import safe_open
from safetensors.numpy import save_file

from amacrine.sw import cli


def write_model(folder: Path, change=lambda graph: None, n_inputs: int = 3, n_units: int = 5, **gru) -> Path:
    """A GRU behind a dense layer, perhaps changed; the file is made.onnx."""
    graph = Graph()
    h = graph.dense(graph.input("x", T, 1, n_inputs), "fc", n_inputs, n_units, "Relu")
    graph.recurrent("GRU", h, ["gru"], n_units, 4, **gru)
    graph.output("gru")
    change(graph)
    return graph.save(folder)


def replace_weight(name: str, value: float):
    """A change to a graph: one element of a weight becomes ``value``."""
    def change(graph: Graph) -> None:
        tensor = next(tensor for tensor in graph.initializers if tensor.name == name)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.flat[1] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return change


@pytest.fixture
def folder(tmp_path) -> Path:
    """With a model, inputs for it, its program, and a sound."""
    write_model(tmp_path)
    np.save(tmp_path / "inputs.npy", np.random.default_rng(1).normal(size=(20, 3)))
    result = invoke("compile", tmp_path / "made.onnx", "--calibration", tmp_path / "inputs.npy",
                    "-o", tmp_path / "made.program")
    assert result.exit_code == 0, result.stderr
    soundfile.write(tmp_path / "noisy.wav", np.random.default_rng(2).uniform(-0.1, 0.1, 3200), 16_000)
    return tmp_path


def invoke(*arguments: object):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(folder: Path, *arguments: object) -> str:
    """The sentence with which the command refuses; it must have written nothing into ``folder``."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("amacrine: error: ") and result.stderr.count("\n") == 1, result.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return result.stderr


def run_refused(folder: Path, *options: object, engine: str = "golden", inputs: str = "inputs.npy") -> str:
    return refused(folder, "run", folder / "made.onnx", folder / inputs, "--out", folder / "out.npy",
                   "--json", folder / "out.json", "--engine", engine, *options)


def enhance_refused(folder: Path, *options: object, sound: str = "noisy.wav") -> str:
    return refused(folder, "run", "nsnet2", folder / sound, "--out", folder / "out.wav",
                   "--json", folder / "out.json", "--engine", "float", *options)


# ---- models -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("data", "message"), [
    (None, "does not exist"), (b"", "is not an ONNX file"), (b"not a model at all", "is not an ONNX file"),
])
def test_no_onnx_file(folder, data, message):
    path = folder / "made.onnx"
    path.unlink() if data is None else path.write_bytes(data)
    assert f"{path}: {message}" in run_refused(folder)


def test_truncated_onnx_file(folder):
    path = folder / "made.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not an ONNX file, or a truncated one" in run_refused(folder)


def test_unsupported_operator(folder):
    write_model(folder, lambda graph: graph.output(graph.node("Softplus", ["gru"], "soft")))
    assert "'soft_node'" in (message := run_refused(folder))
    assert "operator Softplus is not supported" in message


def test_gru_of_the_wrong_variant(folder):
    write_model(folder, linear_before_reset=0)
    assert "'gru_node'" in (message := run_refused(folder))
    assert "linear_before_reset" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight", ["fc_w", "gru_r"])
def test_weights_that_are_not_finite(folder, weight, value):
    write_model(folder, replace_weight(weight, value))
    assert "holds NaN or infinity" in run_refused(folder)


def test_partial_sums_that_could_overflow(folder):
    graph = Graph()
    weight = graph.constant("weight", np.full((1000, 2), 20.0))
    graph.node("Sigmoid", [graph.node("MatMul", [graph.input("x", T, 1000), weight], "huge")], "y")
    graph.output("y")
    graph.save(folder)
    np.save(folder / "inputs.npy", np.tile([[100.0], [-100.0]], (3, 1000)))
    message = run_refused(folder)
    assert "no fixed-point formats fit layer 'huge_node'" in message and "the partial sum of row" in message


def test_values_beyond_every_format(folder):
    write_model(folder, replace_weight("fc_b", 3e9))
    assert "the output of layer 'fc_product_node' reaches 3e+09" in run_refused(folder)


@pytest.mark.parametrize("command", ["run", "compile"])
def test_layer_larger_than_the_gateware_allows(folder, command):
    graph = Graph()
    graph.output(graph.dense(graph.input("x", T, 3), "wide", 3, 4096))
    graph.save(folder)
    message = run_refused(folder, engine="sim") if command == "run" else refused(
        folder, "compile", folder / "made.onnx", "--calibration", folder / "inputs.npy", "-o", folder / "p")
    assert "has 4096 units, and the gateware allows 4095" in message


def test_network_larger_than_the_memories(folder):
    message = refused(folder, "compile", folder / "made.onnx", "--calibration", folder / "inputs.npy",
                      "-o", folder / "p", "--parameter", "vector_depth=16")
    assert "elements of vector memory, and the gateware has 16" in message


# ---- inputs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((20, 4)), "reads an array of shape (steps, 3)"), (np.zeros(3), "not (3,)"),
    (np.zeros((0, 3)), "at least one step"), (np.zeros((2, 1, 3)), "not (2, 1, 3)"),
    (np.array([["a", "b", "c"]]), "reads real numbers"),
    (np.array([[0, 1, 2], [0, np.nan, 1]]), "holds nan at step 1, column 1"),
    (np.array([[0, 1, -np.inf]]), "holds -inf at step 0, column 2"),
])
@pytest.mark.parametrize("engine", ["float", "golden"])
def test_arrays_that_are_no_inputs(folder, array, message, engine):
    np.save(folder / "bad.npy", array)
    assert message in (text := run_refused(folder, engine=engine, inputs="bad.npy"))
    assert "bad.npy" in text


def test_calibration_data_is_checked_too(folder):
    np.save(folder / "bad.npy", np.full((5, 3), np.nan))
    assert "holds nan at step 0" in run_refused(folder, "--calibration", folder / "bad.npy")
    assert "give some with --calibration" in refused(
        folder, "compile", folder / "made.onnx", "-o", folder / "p")


@pytest.mark.parametrize(("write", "message"), [
    (lambda path: path.write_bytes(b""), "is not a .npy file"),
    (lambda path: path.write_bytes(b"x" * 300), "is not a .npy file"),
    (lambda path: np.save(path, np.array([{}, {}]), allow_pickle=True), "is not a .npy file"),
    (lambda path: np.savez(f"{path}.npz", x=np.zeros(3)) or Path(f"{path}.npz").rename(path), "is an archive"),
    (lambda path: path.mkdir(), "cannot read"), (lambda path: None, "cannot read"),
])
def test_files_that_are_no_arrays(folder, write, message):
    write(folder / "bad.npy")
    assert message in (text := run_refused(folder, inputs="bad.npy"))
    assert "bad.npy" in text


def test_truncated_array(folder):
    data = (folder / "inputs.npy").read_bytes()
    (folder / "bad.npy").write_bytes(data[:-50])
    assert "is not a .npy file of numbers, or is truncated" in run_refused(folder, inputs="bad.npy")


# ---- sounds -----------------------------------------------------------------------------------------------
def test_sounds_that_cannot_be_read(folder):
    bad = folder / "bad.wav"
    assert "No such file" in enhance_refused(folder, sound="bad.wav")
    bad.write_bytes(b"")
    assert "bad.wav is empty" in enhance_refused(folder, sound="bad.wav")
    bad.write_bytes(b"RIFF, but nothing like a sound")
    assert "bad.wav is not a sound file" in enhance_refused(folder, sound="bad.wav")
    soundfile.write(bad, np.zeros(0), 16_000)
    assert "bad.wav holds no samples" in enhance_refused(folder, sound="bad.wav")
    soundfile.write(bad, np.full(100, np.nan), 16_000, subtype="FLOAT")
    assert "not a finite number" in enhance_refused(folder, sound="bad.wav")


def test_reference_must_belong_to_the_sound(folder):
    soundfile.write(folder / "other.wav", np.ones(1600), 16_000)
    assert "3200 and 1600 samples" in enhance_refused(folder, "--reference", folder / "other.wav")
    soundfile.write(folder / "other.wav", np.zeros(3200), 16_000)
    assert "the reference is silent" in enhance_refused(folder, "--reference", folder / "other.wav")


# ---- options ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("theta", "message"), [
    ("-0.1", "must be a finite number, at least 0"), ("nan", "must be a finite number"),
    ("gru_node=-3lsb", "at least 0"), ("70000lsb", "at most 65535 fit"), ("1e9", "at most 65535 fit"),
    ("gru_node.recurrent=2.5lsb", "whole number of LSBs"), ("much", "neither a number"),
    ("lstm=0.1", "threshold for unknown 'lstm'"), ("0.1,0.2", "twice"), ("", "neither a number"),
])
def test_thresholds(folder, theta, message):
    assert message in run_refused(folder, f"--theta={theta}")


@pytest.mark.parametrize(("options", "message"), [
    (["--engine", "fpga"], "'fpga' is not one of 'float', 'golden', 'sim'"), (["--pes", "0"], "1 to 64, not 0"),
    (["--pes", "65"], "1 to 64, not 65"), (["--parameter", "pes=4"], "no parameter 'pes'"),
    (["--parameter", "queue_depth=many"], "whole number, not 'many'"), (["--frames", "0"], "'--frames'"),
    (["--parameter", "queue_depth=17"], "must be a power of two"), (["--latency", "2"], "1 or 3 to 128"),
    (["--reference", "clean.wav"], "--reference is for nsnet2 only"),
    (["--picture", "picture.png"], "--picture is for nsnet2 and silero-vad only"),
    (["--no-such-option"], "--no-such-option"),
])
def test_options(folder, options, message):
    assert message in run_refused(folder, *options)


def test_options_that_nsnet2_does_not_take(folder):
    assert "brings its own calibration data" in enhance_refused(folder, "--calibration", folder / "inputs.npy")
    assert "a picture shows weight fetches" in enhance_refused(folder, "--picture", folder / "picture.png")
    assert "brings its own calibration data" in refused(
        folder, "compile", "nsnet2", "-o", folder / "p", "--calibration", folder / "inputs.npy")


@pytest.mark.parametrize("arguments", [["no-such-command"], ["run"], ["bench", "no-such-bench"], ["--no-such"],
                                       ["bench", "utilisation", "--pes", "65"], ["demo", "--clip", "none"]])
def test_usage(tmp_path, arguments):
    assert "amacrine" in refused(tmp_path, *arguments)


# ---- outputs ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("option", ["--out", "--json"])
def test_folders_that_are_not_there(folder, option):
    assert "does not exist" in refused(folder, "run", folder / "made.onnx", folder / "inputs.npy",
                                       option, folder / "absent" / "file")
    assert "it is a folder" in refused(folder, "run", folder / "made.onnx", folder / "inputs.npy", option, folder)


def test_other_commands_check_their_outputs_too(folder):
    absent = folder / "absent" / "file"
    for arguments in (["compile", "nsnet2", "-o"], ["info", folder / "made.program", "--json"],
                      ["bench", "utilisation", "--json"], ["bench", "area", "--json"]):
        assert "does not exist" in refused(folder, *arguments, absent)
    assert "cannot make the folder" in refused(folder, "demo", "--out", folder / "made.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is writable for root")
def test_folder_without_permission(folder):
    (folder / "closed").mkdir(mode=0o500)
    assert "is not writable" in refused(folder, "run", folder / "made.onnx", folder / "inputs.npy",
                                        "--out", folder / "closed" / "out.npy")


# ---- programs ---------------------------------------------------------------------------------------------
def test_missing_program(folder):
    assert "There is no program file" in refused(folder, "info", folder / "absent")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_program(folder, keep):
    path = folder / "made.program"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is not a program file, or is truncated" in refused(folder, "info", path)


def test_corrupted_program(folder):
    path = folder / "made.program"
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    assert "is damaged: its checksum does not match" in refused(folder, "info", path)


@pytest.mark.parametrize(("change", "message"), [
    ({"version": "3"}, "of format version 3, and this Amacrine reads version 2"),
    ({"format": "weights"}, "is a safetensors file but not a program"), ({"header": "{"}, "is damaged"),
    ({"checksum": "0"}, "checksum does not match"),
])
def test_program_of_another_kind(folder, change, message):
    path = folder / "made.program"
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() | change
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    save_file(arrays, path, metadata)
    assert message in refused(folder, "info", path)


# ---- tools ------------------------------------------------------------------------------------------------
def test_no_compiler(folder, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for arguments in (["run", "nsnet2", folder / "noisy.wav", "--engine", "sim"],
                      ["demo", "--out", folder / "demo"], ["bench", "utilisation", "--hidden", 16]):
        assert "needs a C++ compiler, and 'no-such-compiler' is not there" in refused(folder, *arguments)


def test_the_real_process_shows_no_traceback(folder):
    (folder / "made.onnx").write_bytes(b"not a model at all")
    command = [Path(sys.executable).with_name("amacrine"), "run", folder / "made.onnx", folder / "inputs.npy",
               "--out", folder / "out.npy"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"amacrine: error: {folder / 'made.onnx'}: is not an ONNX file")
    assert result.stderr.count("\n") == 1
    assert not (folder / "out.npy").exists()


def test_a_layer_that_the_cnn_bench_does_not_have(tmp_path):
    assert "there is no layer 'nonsense' to measure; choose from 3x3, 56; " in refused(
        tmp_path, "bench", "cnn", "--layer", "nonsense")
