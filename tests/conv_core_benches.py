"""The core of the CNN engine side by side in one top, so that its benches share one Verilator build."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.hw.conv_counters import ConvCounters
from amacrine.hw.conv_macs import ROWS, ConvMacs
from amacrine.hw.kernel_buffer import KernelBuffer
from amacrine.hw.scatter import Scatter
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import Parameters

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
MIDDLE_PORTS = {4: Parameters(pes=4, weight_address_bits=20), 16: Parameters(pes=8, weight_address_bits=20)}
#: by port words in a kernel word
BUFFERS = {
    1: (ConvParameters(macs=4, kernel_depth=128), Parameters(pes=4, weight_address_bits=16), 3),
    2: (ConvParameters(macs=16, kernel_depth=256), Parameters(pes=8, weight_address_bits=16), 16),
    8: (ConvParameters(macs=8, kernel_depth=32), Parameters(pes=1, weight_address_bits=16), 1),
}


class Middle(wiring.Component):
    """Scatter unit, MACs and kernel buffer as the engine connects them; map decoder and finisher are the bench's."""

    FORWARDED = {"scatter": ("job", "feature", "flushed", "waits"), "kernels": ("port", "bias_release"),
                 "macs": ("finish", "answer", "answer_valid", "rows_valid", "clear", "clear_word", "takes")}

    def __init__(self, params, weight_params):
        self.scatter, self.macs = Scatter(params), ConvMacs(params)
        self.kernels = KernelBuffer(params, weight_params)
        members = {name: getattr(self, part).signature.members[name]
                   for part, names in self.FORWARDED.items() for name in names}
        super().__init__({**members, "kernel_job": self.kernels.signature.members["job"], "rows": Out(ROWS)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.scatter, m.submodules.macs, m.submodules.kernels = self.scatter, self.macs, self.kernels
        scatter, macs, kernels = self.scatter, self.macs, self.kernels
        connect(m, scatter.op, macs.op)
        connect(m, flipped(self.kernel_job), kernels.job)
        m.d.comb += [
            macs.kernel_ready.eq(kernels.ready), macs.kernel_base.eq(kernels.base),
            kernels.release.eq(macs.kernel_release),
            kernels.kernel_address.eq(macs.kernel_address), macs.kernel_data.eq(kernels.kernel_data),
            self.rows.eq(macs.rows),
        ]
        for part, names in self.FORWARDED.items():
            for name in names:
                self._forward(m, getattr(self, part), name)
        return m

    def _forward(self, m, part, name):
        inner, outer, member = getattr(part, name), getattr(self, name), part.signature.members[name]
        if member.is_signature:
            connect(m, flipped(outer), inner)
        else:
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)


class ConvCore(SideBySide):
    """All parts."""

    def __init__(self):
        parts = {f"macs{macs}": ConvMacs(params) for macs, params in MACS.items()}
        parts |= {f"scatter{macs}": Scatter(params) for macs, params in SCATTER.items()}
        parts |= {f"kernels{ratio}": KernelBuffer(*options) for ratio, options in BUFFERS.items()}
        parts |= {f"middle{macs}": Middle(params, MIDDLE_PORTS[macs]) for macs, params in SCATTER.items()}
        parts["counters"] = ConvCounters(16)
        super().__init__(parts)


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `ConvCore`."""
    return cocotb_runner.run(cocotb_runner.build(ConvCore), module, work, seed)
