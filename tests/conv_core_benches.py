"""The core of the CNN engine side by side in one top, so that its benches share one Verilator build."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from amacrine.hw.conv_macs import ConvMacs
from amacrine.hw.scatter import Scatter
from amacrine.sim import cocotb_runner
from amacrine.sw.conv_layout import ConvParameters

#: by number of MACs; few words of partial sums, so that runs meet, and that rows wait for slots
MACS = {
    4: ConvParameters(macs=4, kernel_depth=64, psum_depth=16),
    16: ConvParameters(macs=16, kernel_depth=1024, psum_depth=64),
}
#: roomier, for whole convolutions
SCATTER = {
    4: ConvParameters(macs=4, kernel_depth=8192, psum_depth=1024),
    16: ConvParameters(macs=16, kernel_depth=4096, psum_depth=512),
}


class ConvCore(wiring.Component):
    """All parts; port `p` of part `c` is `c__p`."""

    def __init__(self):
        self.parts = {f"macs{macs}": ConvMacs(params) for macs, params in MACS.items()}
        self.parts |= {f"scatter{macs}": Scatter(params) for macs, params in SCATTER.items()}
        super().__init__({name: Out(part.signature) for name, part in self.parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self.parts.items():
            m.submodules[name] = part
            connect(m, flipped(getattr(self, name)), part)
        return m


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `ConvCore`."""
    return cocotb_runner.run(cocotb_runner.build(ConvCore), module, work, seed)
