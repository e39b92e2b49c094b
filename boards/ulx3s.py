"""ULX3S: ECP5-12F to 85F, 32 MB SDR SDRAM, FT231X serial port, 25 MHz oscillator, 8 LEDs."""

from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import Parameters

from .board import SMALL, SMALL_BUFFERS, Board


def platform(size: str):
    """The amaranth-boards platform; openFPGALoader is not needed to build."""
    from amaranth_boards import ulx3s

    base = getattr(ulx3s, f"ULX3S_{size}_Platform")
    return type("Platform", (base,), {"required_tools": []})()


# As many MACs as the memory feeds with kernels; Silero VAD and the digits of examples/ fit.
CNN = ConvParameters(macs=8, value_depth=2048, map_depth=256, kernel_depth=4096, psum_depth=128, pool_depth=64)


def ulx3s(name: str, size: str, clock_hz: int, conv: ConvParameters | None = None, small: bool = False) -> Board:
    """The board with an FPGA of one size, with a CNN engine or without."""
    return Board(
        name=name, title=f"ULX3S with LFE5U-{size}" + (" and a CNN engine" if conv else ""), programmer="ulx3s",
        platform=lambda: platform(size), clock_hz=clock_hz,
        # MT48LC16M16, AS4C16M16, IS42S16160 and W9825G6KH have all been fitted: the slowest timings serve all.
        chip="IS42S16160", parameters=Parameters(pes=2, conv=conv, **(SMALL if small else {})),
        buffers=SMALL_BUFFERS if small else {},
        leds=[("led", number) for number in range(5)], button=("button_fire", 0))


BOARDS = (
    ulx3s("ulx3s", "85F", 100_000_000),
    ulx3s("ulx3s-cnn", "85F", 75_000_000, CNN),
    ulx3s("ulx3s-45f", "45F", 87_500_000),      # a fuller FPGA is slower
    ulx3s("ulx3s-25f", "25F", 87_500_000, small=True),
)
