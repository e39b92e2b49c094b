"""The result table, its JSON form and the picture of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amacrine.sw import extras, picture, report
from amacrine.sw.errors import AmacrineError

STATS = report.RunStats(
    frames=100,
    jobs=(
        report.JobStats("fc.input", 16_000, 4_000, 4_800_000, 6_400_000, 300_000),
        report.JobStats("gru.input", 40_000, 30_000, 12_000_000, 48_000_000, 750_000),
        report.JobStats("gru.recurrent", 40_000, 38_000, 2_400_000, 48_000_000, 150_000),
    ),
    bit_exact=True,
    cycles_mean=12_345.6,
    cycles_max=20_000,
    sisdr_db=16.5,
    sisdr_references_db={"noisy": 10.0, "float": 16.654},
    thresholds={"features": 0.5, "hidden": 0.1},
    frame_hz=100.0,
    wall_seconds=1.5,
)

TABLE = """\
job            columns/frame  skipped  weight bytes/frame      dense  cycles/frame
fc.input                 160    25.0%              48,000     64,000         3,000
gru.input                400    75.0%             120,000    480,000         7,500
gru.recurrent            400    95.0%              24,000    480,000         1,500
all                      960    75.0%             192,000  1,024,000

frames                 100
equal to golden model  yes, every frame
recurrent layers       85.0% of columns skipped
cycles a frame         12,346 on average, 20,000 at most
at 100 MHz             81.0 times real time
this machine           1.5 s, 823,040 cycles a second
SI-SDR                 16.50 dB (noisy 10.00 dB, float 16.65 dB)
thresholds             features 0.5, hidden 0.1
"""


def test_table() -> None:
    assert report.table(STATS) == TABLE


def test_table_leaves_out_what_was_not_measured() -> None:
    text = report.table(report.RunStats(7, [report.JobStats("fc", 0, 0, 0, 0)]))
    assert text.splitlines() == [
        "job  columns/frame  skipped  weight bytes/frame  dense",
        "fc               0     0.0%                   0      0",
        "all              0     0.0%                   0      0",
        "",
        "frames                 7",
        "equal to golden model  not compared",
    ]
    assert "NO: output differs" in report.table(replace(STATS, bit_exact=False))


def test_a_table_of_its_own_for_convolutions() -> None:
    conv = report.JobStats("conv1.input", 51_600, 10_320, 4_000_000, 4_000_000, 60_000, 1_200_000, 1_600_000, 350_000)
    lines = report.table(replace(STATS, jobs=(conv, *STATS.jobs))).splitlines()
    assert lines[1].split() == ["conv1.input", "516", "20.0%", "40,000", "40,000", "600"]
    assert lines[6:10] == ["", "convolution  MACs/frame  useful  by zero  MACs/cycle",
                           "conv1            16,000   75.0%    21.9%        26.7", ""]
    without = replace(conv, cycles=None)
    assert "convolution  MACs/frame  useful  by zero\nconv1" in report.table(replace(STATS, jobs=(without,)))
    nothing = report.JobStats("conv1.input", 516, 516, 40_000, 40_000, 10, 0, 0, 0)
    assert "0.0%" in report.table(replace(STATS, jobs=(nothing,)))
    assert "convolution" not in report.table(replace(STATS, jobs=(replace(conv, macs_done=None),)))


def test_json_holds_every_figure() -> None:
    result = json.loads(report.to_json(STATS))
    assert result.pop("jobs")[1] == {
        "name": "gru.input", "columns": 40_000, "columns_skipped": 30_000,
        "weight_bytes": 12_000_000, "dense_bytes": 48_000_000, "cycles": 750_000,
        "macs": None, "macs_done": None, "macs_by_zero": None,
    }
    assert result == {
        "frames": 100,
        "bit_exact": True,
        "columns_skipped": {"fc": 0.25, "gru": 0.85, "all": 0.75},
        "recurrent_columns_skipped": 0.85,
        "weight_bytes_per_frame": 192_000,
        "dense_weight_bytes_per_frame": 1_024_000,
        "cycles_per_frame": {"mean": 12_345.6, "max": 20_000},
        "real_time_factor_at_100_mhz": pytest.approx(1e6 / 12_345.6),
        "wall_seconds": 1.5,
        "frames_per_second": pytest.approx(66.667, abs=1e-3),
        "board": None,
        "link": None,
        "simulated_cycles_per_second": pytest.approx(823_040),
        "sisdr_db": 16.5,
        "sisdr_references_db": {"noisy": 10.0, "float": 16.654},
        "thresholds": {"features": 0.5, "hidden": 0.1},
    }


def test_json_has_null_for_what_is_unknown_or_infinite() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    stats = replace(STATS, bit_exact=None, cycles_mean=None, cycles_max=None, sisdr_db=-np.inf,
                    sisdr_references_db={"float": np.inf})
    result = json.loads(report.to_json(stats), parse_constant=refuse)
    assert result["bit_exact"] is result["cycles_per_frame"] is result["sisdr_db"] is None
    assert result["sisdr_references_db"] == {"float": None}


def test_a_run_in_floating_point_has_no_columns() -> None:
    stats = report.RunStats(7, (), frame_hz=100.0, wall_seconds=0.007)
    result = json.loads(report.to_json(stats))
    assert result["columns_skipped"] is result["weight_bytes_per_frame"] is None
    assert result["recurrent_columns_skipped"] is None
    assert report.table(stats).startswith("frames ")
    assert report.table(stats).endswith("0.0 s, 10.0 times real time\n")


def test_json_takes_numpy_numbers() -> None:
    jobs = [report.JobStats("fc", np.int64(10), np.int64(4), np.int64(600), np.int64(1_000))]
    result = json.loads(report.to_json(report.RunStats(np.int64(2), jobs, bit_exact=np.bool_(True))))
    assert (result["frames"], result["bit_exact"], result["columns_skipped"]["fc"]) == (2, True, 0.4)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "all")])
def test_jobs_need_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="names of their own"):
        report.RunStats(1, [report.JobStats(name, 1, 0, 1, 1) for name in names])


def test_event_raster() -> None:
    none = np.zeros(0, int)
    steps = [(np.array([0, 2]), np.array([5, -1])), (none, none), (np.array([1]), np.array([3]))]
    assert picture.event_raster(steps, 4).tolist() == [
        [True, False, True, False], [False] * 4, [False, True, False, False],
    ]


def draw(path: Path, frames: int = 120, budget_bytes: float | None = 60e3, **changes: object) -> np.ndarray:
    """A picture of made-up events, as (rows, columns, 3) of 0 to 255."""
    rng = np.random.RandomState(7)
    events = {"fc.input": rng.rand(frames, 161) < 0.4, "gru.recurrent": rng.rand(frames, 400) < 0.1}
    sound = rng.uniform(-0.5, 0.5, frames * 160)
    arguments: dict[str, object] = {
        "sounds": {"noisy": sound, "enhanced": 0.1 * sound}, "rate": 16_000, "events": events,
        "weight_bytes": 300 * sum(raster.sum(axis=1) for raster in events.values()),
        "dense_bytes": 300 * 561, "budget_bytes": budget_bytes,
    }
    picture.picture(path, **{**arguments, **changes})  # type: ignore[arg-type]
    return np.asarray(Image.open(path).convert("RGB"))


def test_picture_is_a_png_that_fills_a_page_width_and_is_reproducible(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "a.png")
    assert pixels.shape[1] == 1350
    draw(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_picture_shows_more_ink_for_more_events(tmp_path: Path) -> None:
    """Blue is the colour of fetched columns; it must follow the events."""
    few, many = (
        draw(tmp_path / "a.png", events={"fc.input": np.random.RandomState(8).rand(120, 161) < share})
        for share in (0.05, 0.8)
    )
    blue = [int(((p[..., 2].astype(int) - p[..., 0]) > 60).sum()) for p in (few, many)]
    assert blue[1] > 1.5 * blue[0]


@pytest.mark.parametrize(("frames", "budget_bytes"), [(1, None), (3_500, 60e3)])
def test_picture_of_very_short_and_long_runs(tmp_path: Path, frames: int, budget_bytes: float | None) -> None:
    assert draw(tmp_path / "a.png", frames, budget_bytes).std() > 10


def test_silence_can_be_drawn(tmp_path: Path) -> None:
    assert draw(tmp_path / "a.png", sounds={"silence": np.zeros(19_200)}).std() > 10


def test_shrinking_averages() -> None:
    raster = np.zeros((2 * picture.MAX_RASTER + 1, 3))
    raster[:3, 0] = 1
    raster[4, 1] = 1
    raster[-1, 2] = 1  # the last group has this row alone
    small = picture._shrink(raster)
    assert small.shape == (1001, 3)
    np.testing.assert_allclose(small[[0, 1, -1]], [[1, 0, 0], [0, 1 / 3, 0], [0, 0, 1]])
    assert np.count_nonzero(small) == 3


def test_missing_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(AmacrineError, match=r"matplotlib: pip install 'amacrine\[plot\]'"):
        draw(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
