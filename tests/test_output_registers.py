"""Registers behind block RAM move into it, if that changes nothing."""

import json

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from amacrine.hw.numerics import delay
from amacrine.hw.ram import block_ram, read_port
from amacrine.sim.area import synthesise, tool
from amacrine.sim.output_registers import use_output_registers

CLOCK, ENABLE, OTHER = 2, 3, 4


def register(data, q, **changes):
    pins = {"CLK": [CLOCK], "DI": [data], "LSR": ["0"], "Q": [q]}
    parameters = {"CEMUX": "1 ", "CLKMUX": "CLK", "REGSET": "RESET"}
    for name, value in changes.items():
        (parameters if name in ("CEMUX", "CLKMUX", "REGSET") else pins)[name] = value
    return {"type": "TRELLIS_FF", "parameters": parameters, "connections": pins,
            "port_directions": {pin: "output" if pin == "Q" else "input" for pin in pins}}


def netlist(width=18, outputs=(("DOB0", 10), ("DOB1", 11)), register_1=None, more=None, ports=None, **pins):
    """A block RAM, and a register for each output: net n to net n + 10."""
    connections = {"CLKA": [CLOCK], "CLKB": [CLOCK], "OCEA": ["0"], "OCEB": ["1"], "RSTA": ["0"], "RSTB": ["0"],
                   "DOB2": ["x"], "DOB3": [90], **{name: [net] for name, net in outputs}, **pins}
    ram = {"type": "DP16KD", "connections": connections,
           "parameters": {"DATA_WIDTH_A": f"{width:032b}", "REGMODE_A": "NOREG", "REGMODE_B": "NOREG"},
           "port_directions": {pin: "output" if pin.startswith("DO") else "input" for pin in connections}}
    cells = {"ram": ram, **{f"register{n}": register(net, net + 10) for n, (_, net) in enumerate(outputs)}}
    if register_1:
        cells["register1"] = register_1
    return {"modules": {"top": {"cells": cells | (more or {}), "ports": ports or {}}}}


def test_moved():
    design = netlist()
    assert use_output_registers(design) == 2
    (ram,) = design["modules"]["top"]["cells"].values()
    assert ram["parameters"] == {"DATA_WIDTH_A": f"{18:032b}", "REGMODE_A": "NOREG", "REGMODE_B": "OUTREG"}
    assert [ram["connections"][pin] for pin in ("DOB0", "DOB1", "DOB3", "OCEA", "OCEB")] == [
        [20], [21], [90], ["0"], ["1"]]


def test_both_halves_of_a_wide_word():
    design = netlist(36, (("DOA0", 10), ("DOB17", 11)))
    assert use_output_registers(design) == 2
    (ram,) = design["modules"]["top"]["cells"].values()
    assert {ram["parameters"][f"REGMODE_{side}"] for side in "AB"} == {"OUTREG"}
    assert [ram["connections"][pin] for pin in ("DOA0", "DOB17", "OCEA", "OCEB")] == [[20], [21], ["1"], ["1"]]


def test_each_port_by_itself():
    design = netlist(outputs=(("DOA0", 10), ("DOB1", 11)), register_1=register(11, 21, LSR=[OTHER]))
    assert use_output_registers(design) == 1
    parameters = design["modules"]["top"]["cells"]["ram"]["parameters"]
    assert (parameters["REGMODE_A"], parameters["REGMODE_B"]) == ("OUTREG", "NOREG")


def test_clock_enable():
    design = netlist(outputs=(("DOB0", 10),))
    design["modules"]["top"]["cells"]["register0"] = register(10, 20, CEMUX="CE", CE=[ENABLE])
    assert use_output_registers(design) == 1
    assert design["modules"]["top"]["cells"]["ram"]["connections"]["OCEB"] == [ENABLE]


@pytest.mark.parametrize("changes", [
    {"register_1": register(11, 21, LSR=[OTHER])},
    {"register_1": register(11, 21, REGSET="SET")},
    {"register_1": register(11, 21, CLK=[OTHER])},
    {"register_1": register(11, 21, CLKMUX="INV")},
    {"register_1": register(11, 21, CEMUX="INV", CE=[ENABLE])},
    {"register_1": register(11, 21, CEMUX="CE", CE=[ENABLE])},
    {"more": {"other": register(11, 22)}},
    {"more": {"other": {**register(99, 22), "type": "LUT4"}}, "DOB3": [99]},
    {"ports": {"pin": {"direction": "output", "bits": [11]}}},
    {"register_1": {**register(11, 21), "type": "LUT4"}},
    {"CLKB": [OTHER]}, {"RSTB": [OTHER]},
], ids=["reset", "set", "other clock", "falling edge", "inverted enable", "own enable", "second load", "one without",
        "module output", "no register", "clock of the memory", "reset of the memory"])
def test_left_alone(changes):
    design, before = netlist(**changes), json.dumps(netlist(**changes))
    assert use_output_registers(design) == 0
    assert json.dumps(design) == before


class Tables(wiring.Component):
    """A memory with a register behind it, and one without."""

    address: In(9)
    registered: Out(36)
    direct: Out(36)

    def elaborate(self, platform):
        m = Module()
        for name in ("registered", "direct"):
            m.submodules[name] = ram = block_ram(36, 512)
            write, read = ram.write_port(), read_port(m, ram)
            m.d.comb += [read.addr.eq(self.address), write.addr.eq(self.address), write.en.eq(self.address[0]),
                         write.data.eq(self.address)]
            m.d.comb += getattr(self, name).eq(delay(m, read.data, 1) if name == "registered" else ~read.data)
        return m


def test_what_yosys_writes(tmp_path):
    """`synthesise` uses them; nothing is in the way of those that our memories ask for."""
    synthesise(Tables(), tmp_path, tool("yosys"))
    cells = json.loads((tmp_path / "top.json").read_text())["modules"]["top"]["cells"]
    moved = {name.split(".")[1].split("$")[0]: "OUTREG" in {cell["parameters"][f"REGMODE_{side}"] for side in "AB"}
             for name, cell in cells.items() if cell["type"] == "DP16KD"}
    assert moved == {"registered": True, "direct": False}
