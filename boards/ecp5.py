"""Clock and reset of an ECP5 board: its oscillator, a PLL, a reset that is released in step with the clock."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

VCO_HZ = (400e6, 800e6)     # ECP5 family data sheet, sysCLOCK PLL timing
PHASE_DETECTOR_HZ = (10e6, 400e6)
RESET_CYCLES = 1 << 10


@dataclass(frozen=True)
class PLLSettings:
    """Dividers of an EHXPLLL: output = input · feedback / reference, VCO = output · post."""

    reference: int
    feedback: int
    post: int


def pll_settings(input_hz: float, output_hz: float) -> PLLSettings:
    """Dividers for exactly `output_hz`, with the VCO as near to the middle of its range as can be.

    Raises
    ------
    ValueError
        There are none.
    """
    found = []
    for reference in range(1, 129):
        if not PHASE_DETECTOR_HZ[0] <= input_hz / reference <= PHASE_DETECTOR_HZ[1]:
            continue
        feedback = round(output_hz * reference / input_hz)
        if not 1 <= feedback <= 80 or abs(input_hz * feedback / reference - output_hz) > 1:
            continue
        for post in range(1, 129):
            vco = output_hz * post
            if VCO_HZ[0] <= vco <= VCO_HZ[1]:
                found.append((abs(vco - sum(VCO_HZ) / 2), reference, feedback, post))
    if not found:
        raise ValueError(f"no PLL setting makes {output_hz / 1e6:g} MHz from {input_hz / 1e6:g} MHz; take a clock "
                         "that is a simple fraction of the oscillator's")
    return PLLSettings(*min(found)[1:])


class ClockAndReset(Elaboratable):
    """Drives the domains `sync`, at `clock_hz` from the platform's default clock, and `memory`, a later phase of it.

    The reset of `sync` is a flip-flop in the same domain; it stays for RESET_CYCLES after the PLL has locked and the
    button was let go, so neither a bouncing button nor the pin's delay matters.

    Parameters
    ----------
    clock_hz : of `sync`
    phase_ps : delay of `memory` after `sync`, rounded to an eighth of a VCO period
    button : Signal or None
        High resets. May be asynchronous.
    """

    def __init__(self, clock_hz: float, phase_ps: int, button=None):
        self.clock_hz, self.phase_ps, self.button = clock_hz, phase_ps, button

    def elaborate(self, platform):
        m = Module()
        pin = platform.request(platform.default_clk, dir="-")
        m.submodules.oscillator = oscillator = io.Buffer("i", pin)
        clock, memory_clock, locked = Signal(), Signal(), Signal()
        input_hz = platform.lookup(platform.default_clk).clock.frequency
        settings = pll_settings(input_hz, self.clock_hz)
        eighths = round(self.phase_ps * 1e-12 * self.clock_hz * settings.post * 8)     # of a VCO period
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{input_hz / 1e6:g}", a_FREQUENCY_PIN_CLKOP=f"{self.clock_hz / 1e6:g}",
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA", p_CLKOP_ENABLE="ENABLED",
            p_CLKI_DIV=settings.reference, p_CLKFB_DIV=settings.feedback, p_CLKOP_DIV=settings.post,
            p_CLKOP_CPHASE=settings.post - 1, p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP",
            p_OUTDIVIDER_MUXB="DIVB", p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=settings.post,
            p_CLKOS_CPHASE=settings.post - 1 + eighths // 8, p_CLKOS_FPHASE=eighths % 8,
            i_CLKI=oscillator.i, i_CLKFB=clock, i_RST=0, i_STDBY=0, i_PHASESEL0=0, i_PHASESEL1=0, i_PHASEDIR=1,
            i_PHASESTEP=1, i_PHASELOADREG=1, i_PLLWAKESYNC=0, i_ENCLKOP=0, i_ENCLKOS=0, o_CLKOP=clock,
            o_CLKOS=memory_clock, o_LOCK=locked)
        m.domains.raw = ClockDomain(reset_less=True, local=True)
        m.d.comb += [ClockSignal("sync").eq(clock), ClockSignal("memory").eq(memory_clock),
                     ClockSignal("raw").eq(clock)]
        good, waited = Signal(), Signal(range(RESET_CYCLES))
        m.submodules.good = FFSynchronizer(locked & ~self.button if self.button is not None else locked, good,
                                           o_domain="raw")
        reset = Signal(init=1)
        m.d.comb += ResetSignal("sync").eq(reset)
        m.d.raw += reset.eq(waited != RESET_CYCLES - 1)
        with m.If(~good):
            m.d.raw += waited.eq(0)
        with m.Elif(reset):
            m.d.raw += waited.eq(waited + 1)
        return m
