"""The top that is placed and routed: any component, with three pins."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Module, Signal, Value
from amaranth.lib.wiring import In


class Pinned(Elaboratable):
    """A component between shift registers, so that it needs three pins, however many ports it has.

    One pin feeds a chain of flip-flops, one for each bit of the inputs and one for the reset. Each bit of the
    outputs goes to a flip-flop, and a pipelined tree of XORs brings them to a pin. So nothing can be optimised
    away, and every path of the component starts and ends in a flip-flop, as in a larger design. Costs a
    flip-flop for each bit of a port and one LUT for three outputs, about 30 in all for the engine.

    Parameters
    ----------
    component : an Amaranth component in the domain ``sync``

    Members
    -------
    clk, d, q : the pins
    """

    def __init__(self, component: Any) -> None:
        self.component = component
        self.clk, self.d, self.q = Signal(), Signal(), Signal()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.dut = self.component
        m.domains.sync = sync = ClockDomain()
        m.domains.pins = pins = ClockDomain(reset_less=True)
        m.d.comb += [sync.clk.eq(self.clk), pins.clk.eq(self.clk)]
        inputs: list[Any] = [sync.rst]
        outputs: list[Any] = []
        for _, member, value in self.component.signature.flatten(self.component):
            (inputs if member.flow == In else outputs).append(Value.cast(value))
        chain, stage = Signal(len(Cat(inputs))), Signal(len(Cat(outputs)))
        m.d.comb += Cat(inputs).eq(chain)
        m.d.pins += [chain.eq(Cat(self.d, chain)), stage.eq(Cat(outputs))]
        while len(stage) > 1:
            folded = Signal(-(-len(stage) // 4))
            m.d.pins += [folded[i].eq(stage[4 * i:4 * i + 4].xor()) for i in range(len(folded))]
            stage = folded
        m.d.comb += self.q.eq(stage)
        return m
