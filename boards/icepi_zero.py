"""Icepi Zero v1.3: ECP5-25F, 32 MB SDR SDRAM, FT231X serial port, 50 MHz oscillator, 5 LEDs, 2 buttons."""

from amacrine.sw.layout import Parameters

from .board import SMALL, SMALL_BUFFERS, Board


def platform():
    """The amaranth-boards platform; openFPGALoader is not needed to build."""
    from amaranth_boards.icepi_zero import IcepiZero1_3Platform

    return type("Platform", (IcepiZero1_3Platform,), {"required_tools": []})()


BOARDS = (Board(
    name="icepi-zero", title="Icepi Zero v1.3", programmer="icepi-zero", platform=platform,
    clock_hz=80_000_000, chip="W9825G6KH",
    parameters=Parameters(pes=2, **SMALL), buffers=SMALL_BUFFERS,
    leds=[("led", number) for number in range(5)], button=("button", 0)),)
