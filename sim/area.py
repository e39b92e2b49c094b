"""Area and clock frequency of the engine on an LFE5U-85F, speed grade 6: Yosys, then nextpnr.

Out of context means here: between shift registers (pins.py), which leave three pins and no path from or to a
pin. nextpnr's own ``--out-of-context`` is not used, for it leaves the clock to ordinary wires. The figures are
those of nextpnr's report: LUTs are all its TRELLIS_COMB, with carry chains, LUT RAM and the 30 or so of the shift
registers. Its placement depends on the seed, by some 10 % of the frequency: take the median of three.

Yosys and nextpnr-ecp5 are taken from ``YOSYS`` and ``NEXTPNR_ECP5``, from the search path, or from their YoWASP
packages, in this order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import need
from amacrine.sw.layout import Parameters

from .build import cached, run_tool, source_digest
from .output_registers import use_output_registers

FREQUENCY_MHZ = 120
"""What nextpnr aims at. It stops trying when it gets there."""

SDRAM_MHZ = 160
"""The same for the SDRAM controller alone."""

DEVICE = ("--85k", "--speed", "6", "--package", "CABGA381")
# splitnets: with vectors left whole, abc9 of Yosys 0.70 can stop at an assertion or drive a net twice.
SYNTHESIS = ("read_rtlil top.il; scratchpad -set abc9.D {delay}; synth_ecp5 -top {top} -run begin:map_luts; "
             "splitnets; opt_clean; synth_ecp5 -top {top} -run map_luts: -json top.json")
LOGIC_PS = 4500
"""Delay of LUTs, without wires, up to which Yosys trades speed for area."""

UTILISATION = {"luts": "TRELLIS_COMB", "ffs": "TRELLIS_FF", "block_rams": "DP16KD", "multipliers": "MULT18X18D"}


@dataclass(frozen=True)
class AreaRow:
    """One row of the table; ``critical_path`` is not part of it."""

    pes: int
    fmax_mhz: float
    luts: int
    ffs: int
    block_rams: int
    multipliers: int
    seed: int
    critical_path: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        row = asdict(self)
        del row["critical_path"]
        if not row["pes"]:
            del row["pes"]
            return {"component": "sdram", **row}
        return row


def measure(pes: int, seeds: Iterable[int], parameters: Parameters | None = None) -> Iterator[AreaRow]:
    """The engine's rows, one a seed; synthesised once, and that is kept in the cache.

    Parameters
    ----------
    pes : processing elements
    seeds : of nextpnr's placement
    parameters : the other parameters, if not the defaults; the partial-sum depth follows ``pes`` only without
    """
    chosen = Parameters(pes=pes) if parameters is None else replace(parameters, pes=pes)
    yosys, nextpnr = tool("yosys"), tool("nextpnr-ecp5")
    need("amaranth", extra="synth")
    from amacrine.hw.engine import Engine

    with cached(f"area {chosen} {yosys} {SYNTHESIS} {LOGIC_PS} {source_digest()}") as (folder, done):
        if not done:
            synthesise(Engine(chosen), folder, yosys)
    for seed in seeds:
        yield place(folder / "top.json", seed, pes, nextpnr)


def measure_sdram(seeds: Iterable[int]) -> Iterator[AreaRow]:
    """Rows of the SDRAM controller alone, for an MT48LC16M16 at 133 MHz; ``pes`` is 0."""
    yosys, nextpnr = tool("yosys"), tool("nextpnr-ecp5")
    need("amaranth", extra="synth")
    from amacrine.hw.sdram import SdramController
    from amacrine.hw.sdram_chips import MT48LC16M16

    with cached(f"area sdram {yosys} {SYNTHESIS} {LOGIC_PS} {source_digest()}") as (folder, done):
        if not done:
            synthesise(SdramController(MT48LC16M16, 133e6), folder, yosys)
    for seed in seeds:
        yield place(folder / "top.json", seed, 0, nextpnr, SDRAM_MHZ)


def measure_cnn(macs: int, seeds: Iterable[int]) -> Iterator[AreaRow]:
    """The CNN engine's rows, with kernels coming `macs` weights, up to 8, at a time; ``pes`` is the number of MACs."""
    yosys, nextpnr = tool("yosys"), tool("nextpnr-ecp5")
    need("amaranth", extra="synth")
    from amacrine.hw.conv import ConvEngine

    chosen, port = ConvParameters(macs=macs), Parameters(pes=min(macs, 8))
    with cached(f"area {chosen} {port} {yosys} {SYNTHESIS} {LOGIC_PS} {source_digest()}") as (folder, done):
        if not done:
            synthesise(ConvEngine(chosen, port), folder, yosys)
    for seed in seeds:
        yield place(folder / "top.json", seed, macs, nextpnr)


def median(rows: Iterable[AreaRow]) -> float:
    """Median of the clock frequencies, in MHz."""
    return statistics.median(row.fmax_mhz for row in rows)


def tool(name: str) -> list[str]:
    """The command that runs ``yosys`` or ``nextpnr-ecp5``, or a sentence on how to get it."""
    variable = name.upper().replace("-", "_")
    chosen = os.environ.get(variable)
    path = shutil.which(chosen or name)
    if path is not None:
        return [path]
    if chosen:
        raise AmacrineError(f"{variable} is {chosen!r}, and there is no such program: correct it or unset it, "
                            f"and Amacrine looks for {name} itself.")
    module = f"yowasp_{name.replace('-', '_')}"
    need(module, extra="synth")
    entry = f"_run_{name.replace('-', '_')}_argv"
    return [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{entry}())"]


def synthesise(component: Any, folder: Path, yosys: list[str]) -> None:
    """Netlist of an Amaranth component between shift registers, ``top.json`` in ``folder``.

    Registers behind block RAM have become part of it (`output_registers`).
    """
    from amaranth.back import rtlil

    from .pins import Pinned

    top = Pinned(component)
    (folder / "top.il").write_text(rtlil.convert(top, name="top", ports=[top.clk, top.d, top.q]))
    run_yosys(folder, yosys, "top")


def run_yosys(folder: Path, yosys: list[str], top: str) -> None:
    """From ``top.il``, with module ``top``, to the netlist ``top.json``, both in ``folder``."""
    script = SYNTHESIS.format(delay=LOGIC_PS, top=top)
    run_tool([*yosys, "-q", "-p", script], "Yosys, in synthesis,", cwd=folder)
    netlist = json.loads((folder / "top.json").read_text())
    use_output_registers(netlist, top)
    (folder / "top.json").write_text(json.dumps(netlist))


def place(netlist: Path, seed: int, pes: int, nextpnr: list[str], aim_mhz: int | None = None) -> AreaRow:
    """Places and routes a netlist of ``synthesise``; aims at ``FREQUENCY_MHZ`` if not told otherwise."""
    aim_mhz = aim_mhz or FREQUENCY_MHZ
    with TemporaryDirectory() as work:
        shutil.copy(netlist, work)
        run_tool([*nextpnr, "-q", *DEVICE, "--freq", str(aim_mhz), "--timing-allow-fail", "--seed", str(seed),
                  "--json", netlist.name, "--report", "report.json"], "nextpnr, in placement and routing,",
                 cwd=Path(work))
        return read_report((Path(work) / "report.json").read_text(), pes, seed, aim_mhz)


def read_report(text: str, pes: int, seed: int, aim_mhz: int | None = None) -> AreaRow:
    """Figures of nextpnr's JSON report.

    Raises
    ------
    AmacrineError
        It lacks one of them, or the frequency aimed at was another.
    """
    aim_mhz = aim_mhz or FREQUENCY_MHZ
    try:
        report = json.loads(text)
        clocks = list(report["fmax"].values())
        if len(clocks) != 1:
            raise AmacrineError(f"nextpnr reports {len(clocks)} clocks, not one.")
        achieved, constraint = float(clocks[0]["achieved"]), float(clocks[0]["constraint"])
        used = {name: int(report["utilization"][cell]["used"]) for name, cell in UTILISATION.items()}
        path = describe(report.get("critical_paths", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AmacrineError(f"nextpnr's report cannot be understood ({type(error).__name__}: {error}); "
                            "Amacrine knows that of nextpnr 0.7 to 0.11.") from error
    if abs(constraint - aim_mhz) > 0.1:
        raise AmacrineError(f"nextpnr aimed at {constraint:g} MHz, not at {aim_mhz}: the clock constraint "
                            "got lost.")
    return AreaRow(pes=pes, fmax_mhz=round(achieved, 2), seed=seed, critical_path=path, **used)


def describe(paths: list[dict[str, Any]]) -> tuple[str, ...]:
    """A line for each stretch of the slowest path between flip-flops: delay so far, delay, kind, where it ends."""
    clocked = [path for path in paths if "posedge" in path["from"] and "posedge" in path["to"]]
    lines, total = [], 0.0
    for step in max((path["path"] for path in clocked), key=lambda steps: sum(s["delay"] for s in steps), default=[]):
        total += step["delay"]
        name = re.sub(r"_(LUT4|PFUMX|L6MUX21|CCU2C)_.*", r" (\1)", step["to"]["cell"])
        lines.append(f"{total:6.2f} {step['delay']:5.2f} ns  {step['type']:8} {name}.{step['to']['port']}")
    return tuple(lines)
