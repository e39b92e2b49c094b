"""The components behind the MACs of the CNN engine side by side in one top, for one Verilator build."""

from amacrine.hw.conv_sequencer import ConvSequencer
from amacrine.hw.finisher import Finisher
from amacrine.hw.input_maps import InputMaps
from amacrine.hw.pool import Pooling
from amacrine.hw.result_writer import ResultWriter, Serialiser
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.conv_layout import ConvParameters

#: by number of MACs
PARAMETERS = {macs: ConvParameters(macs=macs, psum_depth=256, pool_depth=32) for macs in (4, 8, 16)}


class BackComponents(SideBySide):
    """Port `p` of component `c` for P MACs is `cP__p`."""

    def __init__(self):
        parts = {"inputs": InputMaps(PARAMETERS[16]), "sequencer": ConvSequencer()}
        for macs, params in PARAMETERS.items():
            parts |= {f"serialiser{macs}": Serialiser(params), f"writer{macs}": ResultWriter(params),
                      f"pool{macs}": Pooling(params), f"finisher{macs}": Finisher(params)}
        super().__init__(parts)


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `BackComponents`."""
    return cocotb_runner.run(cocotb_runner.build(BackComponents), module, work, seed)
