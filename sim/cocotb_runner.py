"""Runs cocotb benches in Verilator: builds a component once, keeps it in the cache, and checks the results.

cocotb's own runner would compile Verilator's runtime for each model and keep every signal visible, which costs
most of the time of a small bench. Here the runtime is compiled once, only the ports of the top are visible,
and the runner is left what it does well, to start a simulation.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cocotb_tools import config
from cocotb_tools.runner import get_runner

from .build import HERE, cached, compiler, run_tool, source_digest, verilator_root, write_verilog

RUNTIME = ("verilated.cpp", "verilated_vpi.cpp", "verilated_threads.cpp")


def build(make: Callable[[], Any]) -> Path:
    """Folder with the simulation of the Amaranth component that ``make`` returns.

    Parameters
    ----------
    make : a function of a module; the build is kept until its file or the gateware changes, for each installation of
        cocotb by itself, whose libraries it looks for where they were
    """
    file = Path(inspect.getfile(make))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with cached(f"cocotb {make.__qualname__} {digest} {source_digest()} {config.libs_dir}") as (folder, done):
        if not done:
            write_verilog(make(), folder / "top.v")
            _verilate(folder)
            _compile(folder)
    return folder


def run(folder: Path, module: str, work: Path, seed: int = 1, only: str | None = None,
        plusargs: Sequence[str] = ()) -> list[str]:
    """Run the cocotb tests of a module, and return their names.

    Parameters
    ----------
    folder : from ``build``
    module : a module that Python can import, with cocotb tests
    work : folder for log and results, in which the simulation runs
    seed : of ``cocotb.RANDOM_SEED``
    only : regular expression on test names
    plusargs : for the simulation

    Raises
    ------
    AssertionError : a test failed, or none ran; with the end of the log
    """
    log, results = work / f"{module}.log", work / f"{module}.xml"
    stopped: BaseException | None = None
    try:
        get_runner("verilator").test(module, "top", hdl_toplevel_lang="verilog", build_dir=folder, test_dir=work,
                                     results_xml=str(results), seed=seed, log_file=log, test_filter=only,
                                     plusargs=list(plusargs))
    except (SystemExit, RuntimeError) as reason:    # the results, if there are any, tell more
        stopped = reason
    names = _checked_results(results, log)
    if stopped is not None:
        raise AssertionError(f"The simulation stopped ({stopped}); the end of its log:\n" + _tail(log))
    return names


def _checked_results(results: Path, log: Path) -> list[str]:
    """Names of the tests that ran; with what failed, how, as the error."""
    if not results.exists():
        raise AssertionError("The simulation ended without results; the end of its log:\n" + _tail(log))
    names, failed = [], []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        names.append(case.get("name", ""))
        for fault in (*case.iterfind("failure"), *case.iterfind("error")):
            failed.append(f"{names[-1]}: {fault.get('message')}\n{fault.text}")
    if not names:
        raise AssertionError("no test ran; the end of the log:\n" + _tail(log))
    if failed:
        raise AssertionError(f"{len(failed)} of {len(names)} tests failed, the first ones:\n" + "\n".join(failed[:3]))
    return names


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-30:]) if log.exists() else "(no log)"


def _verilate(folder: Path) -> None:
    root = verilator_root()
    run_tool([root / "bin" / "verilator_bin", "--cc", "--vpi", "--public-depth", "1", "--top-module", "top",
              "--prefix", "Vtop", "-O3", "-Wno-fatal", "-Wno-lint", "--x-assign", "fast", "--x-initial", "fast",
              "--noassert", "--Mdir", folder, "top.v", HERE / "ram.v", HERE / "sdram.v"],
             "Verilator", cwd=folder, environment={"VERILATOR_ROOT": str(root)})


def _compile(folder: Path) -> None:
    """C++ to the executable ``top``."""
    objects = _compile_all([*folder.glob("V*.cpp"), config.share_dir / "lib" / "verilator" / "verilator.cpp"], folder)
    libraries = config.libs_dir
    run_tool([compiler(), *objects, *_runtime(), "-o", folder / "top", f"-L{libraries}", f"-Wl,-rpath,{libraries}",
              "-lcocotbvpi_verilator", "-lpthread", "-ldl"], "The linker")


def _runtime() -> list[Path]:
    """Verilator's runtime, compiled."""
    root = verilator_root()
    with cached(f"verilator runtime {root} {compiler()}") as (folder, done):
        if not done:
            _compile_all([root / "include" / name for name in RUNTIME], folder)
    return sorted(folder.glob("*.o"))


def _compile_all(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Object files of C++ sources, in ``folder``; the model's hot half is optimised a little."""
    root = verilator_root()
    flags = ["-std=c++20", f"-I{folder}", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}",
             "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=0", "-DVM_TRACE_FST=0", "-DVM_TIMING=0", "-w"]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        level = "-O0" if "__Slow" in source.name else "-O1"
        run_tool([compiler(), *flags, level, "-c", source, "-o", target], "The C++ compiler")
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(compile_one, sorted(sources, key=lambda path: -path.stat().st_size)))
