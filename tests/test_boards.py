"""Boards: clocks, pins and reports, without placing and routing anything."""

import json

import pytest

from amacrine.boards.bitstream import MARGIN, read_report
from amacrine.boards.ecp5 import PHASE_DETECTOR_HZ, VCO_HZ, pll_settings
from amacrine.boards.table import BOARDS, build_id, find
from amacrine.boards.top import BoardTop
from amacrine.sw.errors import AmacrineError


@pytest.mark.parametrize(("input_hz", "output_hz"), [
    (25e6, 100e6), (25e6, 75e6), (25e6, 87.5e6), (25e6, 62.5e6), (50e6, 80e6), (50e6, 100e6), (12e6, 96e6)])
def test_pll_settings_are_exact_and_within_the_limits(input_hz, output_hz):
    settings = pll_settings(input_hz, output_hz)
    assert input_hz * settings.feedback / settings.reference == output_hz
    assert VCO_HZ[0] <= output_hz * settings.post <= VCO_HZ[1]
    assert PHASE_DETECTOR_HZ[0] <= input_hz / settings.reference <= PHASE_DETECTOR_HZ[1]


def test_a_clock_that_the_pll_cannot_make_is_refused():
    with pytest.raises(ValueError, match="no PLL setting makes 101 MHz from 25 MHz"):
        pll_settings(25e6, 101e6)


def test_an_unknown_board_is_refused_with_the_names_there_are():
    with pytest.raises(AmacrineError, match="no board 'ulx4'; choose one of ulx3s, .*icepi-zero"):
        find("ulx4")


def test_the_build_id_is_the_same_each_time():
    assert build_id() == build_id() and len(build_id()) == 16


@pytest.mark.parametrize("name", BOARDS)
def test_every_pin_of_a_board_is_placed(name):
    """The whole top elaborates; SDRAM, line, LEDs, button and oscillator are on pins, and the clock is constrained."""
    board = find(name)
    plan = board.platform().prepare(BoardTop(board, "test"), "amacrine")
    constraints = plan.files["amacrine.lpf"]
    placed = {line.split('"')[1] for line in constraints.splitlines() if line.startswith("LOCATE")}
    chip = board.sdram
    wanted = {f"sdram_0__{pin}__io" for pin in ("clk", "clk_en", "cs", "ras", "cas", "we")}
    wanted |= {f"sdram_0__dq__io[{bit}]" for bit in range(16)} | {f"sdram_0__dqm__io[{bit}]" for bit in range(2)}
    wanted |= {f"sdram_0__a__io[{bit}]" for bit in range(chip.address_bits)}
    wanted |= {f"sdram_0__ba__io[{bit}]" for bit in range(chip.bank_bits)}
    wanted |= {"uart_0__rx__io", "uart_0__tx__io"} | {f"{led}_{number}__io" for led, number in board.leds}
    wanted |= {f"{board.button[0]}_{board.button[1]}__io"}
    assert wanted <= placed
    assert constraints.count("FREQUENCY PORT") == 1
    netlist = plan.files["amacrine.il"]
    # Flip-flops in the pads: outputs, and both directions of the data pins.
    assert netlist.count("cell \\OFS1P3DX") >= len(wanted) and netlist.count("cell \\IFS1P3DX") == 16
    assert netlist.count("cell \\ODDRX1F") == 1 and netlist.count("cell \\EHXPLLL") == 1


def report(constraint, achieved):
    used = {"TRELLIS_COMB": 5000, "TRELLIS_FF": 3000, "DP16KD": 50, "MULT18X18D": 8}
    return json.dumps({"fmax": {"clock": {"achieved": achieved, "constraint": constraint}},
                       "utilization": {cell: {"used": count} for cell, count in used.items()}, "critical_paths": []})


def test_report_tells_whether_the_clock_is_met():
    board = find("ulx3s")
    wanted = board.clock_hz / 1e6
    assert read_report(report(wanted * MARGIN, wanted + 0.01), board, 1).met
    row = read_report(report(wanted * MARGIN, wanted - 0.01), board, 1)
    assert not row.met
    assert (row.luts, row.ffs, row.block_rams, row.multipliers) == (5000, 3000, 50, 8)


def test_a_lost_clock_constraint_is_noticed():
    with pytest.raises(AmacrineError, match="aim at .* reports 12.0 MHz: the constraint got lost"):
        read_report(report(12.0, 150.0), find("ulx3s"), 1)
