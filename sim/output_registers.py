"""Registers behind block RAM, moved into the output registers that the block RAM of an ECP5 has.

Yosys leaves block RAM without its output register (REGMODE NOREG), 5.7 ns from clock to output on speed grade 6; with
it (OUTREG) it is 1.0 ns, and the wire from the block RAM to the register goes, too. This works on the netlist that
Yosys writes as JSON for nextpnr. What is moved behaves the same: a register that takes what the block RAM puts out
with each clock, or with a clock enable that all registers of the port share, that starts as zero, and that neither
a reset of its own nor one of the block RAM reaches.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

PSEUDO_DUAL_WIDTH = 36
"""With this width the outputs of both ports are one word, read with the clock of port B."""


def use_output_registers(netlist: dict[str, Any], top: str = "top") -> int:
    """Moves what can be moved of module `top`, in place.

    Parameters
    ----------
    netlist : of Yosys's ``write_json``, mapped for ECP5 (DP16KD, TRELLIS_FF) and flat

    Returns
    -------
    How many registers, of a bit each, have gone.
    """
    cells = netlist["modules"][top]["cells"]
    loads = _loads(netlist["modules"][top])
    moved = 0
    for ram in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        whole = int(ram["parameters"]["DATA_WIDTH_A"], 2) == PSEUDO_DUAL_WIDTH
        for sides in ("AB",) if whole else ("A", "B"):
            registers = _registers(ram, sides, cells, loads)
            if registers:
                _move(ram, sides, registers, cells)
                moved += len(registers)
    return moved


def _loads(module: dict[str, Any]) -> dict[int, list[tuple[str, str]]]:
    """Cell and port of each input that a net of the module goes to; outputs of the module are ("", port)."""
    loads = defaultdict(list)
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    loads[bit].append((name, port))
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            for bit in port["bits"]:
                loads[bit].append(("", name))
    return loads


def _registers(ram: dict[str, Any], sides: str, cells: dict[str, Any],
               loads: dict[int, list[tuple[str, str]]]) -> dict[str, str]:
    """The register behind each output in use, if all have one that the output register can replace; or none at all."""
    registers, controls = {}, set()
    if any(ram["connections"].get(f"RST{side}", ["0"]) != ["0"] for side in sides):
        return {}
    for output, bits in ram["connections"].items():
        if not (output[:2] == "DO" and output[2] in sides and loads.get(bits[0])):
            continue
        (name, port), *others = loads[bits[0]]
        cell = cells.get(name)
        if others or cell is None or cell["type"] != "TRELLIS_FF" or port != "DI":
            return {}
        pins, parameters = cell["connections"], cell["parameters"]
        enable = {"1": "1", "CE": pins.get("CE", ["1"])[0]}.get(parameters.get("CEMUX", "1").strip())
        controls.add((pins["CLK"][0], parameters.get("CLKMUX", "CLK"), enable))
        if enable is None or pins["LSR"] != ["0"] or parameters["REGSET"] != "RESET":
            return {}
        registers[output] = name
    clock = ram["connections"][f"CLK{sides[-1]}"][0]
    if len(controls) != 1 or next(iter(controls))[:2] != (clock, "CLK"):
        return {}
    return registers


def _move(ram: dict[str, Any], sides: str, registers: dict[str, str], cells: dict[str, Any]) -> None:
    pins = ram["connections"]
    for output, name in registers.items():
        register = cells.pop(name)
        pins[output] = register["connections"]["Q"]
        enable = register["connections"]["CE"] if register["parameters"].get("CEMUX") == "CE" else ["1"]
    for side in sides:
        ram["parameters"][f"REGMODE_{side}"] = "OUTREG"
        pins[f"OCE{side}"] = enable
