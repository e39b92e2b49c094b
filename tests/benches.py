"""The components side by side in one top, so that all their benches share one Verilator build."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.hw.arbiter import WeightArbiter
from amacrine.hw.cell import Cell
from amacrine.hw.columns import ColumnEngine
from amacrine.hw.counters import Counters
from amacrine.hw.encoder import Encoder
from amacrine.hw.fetch import ColumnFetch, fetch_job_layout
from amacrine.hw.function import FunctionUnit, PreActivation
from amacrine.hw.map_events import MapEvents
from amacrine.hw.memory import WeightMemory, weight_port
from amacrine.hw.numerics import PRE, Event, request_layout
from amacrine.hw.queue import Queue
from amacrine.hw.sequencer import CellSequencer, ColumnSequencer, DescriptorTable
from amacrine.hw.vectors import InputLoader, VectorMemory
from amacrine.sim import cocotb_runner
from amacrine.sim.top import SideBySide
from amacrine.sw.conv_layout import ConvParameters
from amacrine.sw.layout import CELL_JOBS, COLUMN_JOBS, Function, Parameters

SWEEP_WIDTH = 64
MEMORY_WORDS = 1024
TABLE_FIELDS, TABLE_ROWS = ("a", "b", "c", "d", "e"), 8
MAX_LATENCY = 64

#: by number of PEs; each with another number of lanes, too, and one with what the CNN engine needs
PARAMETERS = {
    pes: Parameters(pes=pes, lanes=lanes, vector_depth=1024, reference_depth=256, state_depth=128, psum_depth=120,
                    queue_depth=8, weight_address_bits=20, conv=ConvParameters(macs=8) if pes == 8 else None)
    for pes, lanes in ((1, 1), (3, 16), (8, 4))
}


class FunctionSweep(wiring.Component):
    """Applies a function unit to all arguments in turn, and keeps its last `SWEEP_WIDTH` results, newest on top.

    So that a bench can look at all 2**18 arguments without waking up in each cycle.
    """

    def __init__(self):
        super().__init__({"function": In(Function), "start": In(1), "y": Out(16 * SWEEP_WIDTH)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = FunctionUnit()
        x = Signal(PRE)
        m.d.sync += x.eq(x + 1)
        with m.If(self.start):
            m.d.sync += x.eq(-(1 << 17))
        m.d.comb += [unit.x.eq(x), unit.function.eq(self.function)]
        m.d.sync += self.y.eq(Cat(self.y[16:], unit.y))
        return m


class FetchAndColumns(wiring.Component):
    """Column fetch and column engine, as the engine connects them: the fetch knows how long short columns wait."""

    def __init__(self, params):
        self.params = params
        super().__init__({
            "job": In(fetch_job_layout(params)), "event": In(stream.Signature(Event)),
            "request": Out(stream.Signature(request_layout(params))),
            "weights": In(stream.Signature(unsigned(8 * params.pes))),
            "read_done": In(CELL_JOBS), "done": Out(COLUMN_JOBS), "reset": In(1), "idle": Out(1),
            "peek_address": In(range(params.psum_depth)), "peek_data": Out(32 * params.pes),
            "counted": Out(range(COLUMN_JOBS)), "starts": Out(1), "takes": Out(1), "waits_weights": Out(1),
            "waits_psums": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch, m.submodules.columns = fetch, columns = ColumnFetch(self.params), ColumnEngine(self.params)
        connect(m, flipped(self.event), fetch.event)
        connect(m, fetch.request, flipped(self.request))
        connect(m, fetch.op, columns.op)
        connect(m, flipped(self.weights), columns.weights)
        m.d.comb += [
            fetch.job.eq(self.job), columns.read_done.eq(self.read_done), columns.reset.eq(self.reset),
            columns.peek_address.eq(self.peek_address), self.peek_data.eq(columns.peek_data),
            self.done.eq(columns.done), self.idle.eq(fetch.idle & columns.idle), self.counted.eq(columns.job),
            self.starts.eq(columns.starts), self.takes.eq(columns.takes),
            self.waits_weights.eq(columns.waits_weights), self.waits_psums.eq(columns.waits_psums),
        ]
        return m


class ArbiterAndMemory(wiring.Component):
    """An arbiter in front of an ideal weight memory."""

    HOST = ("write_address", "write_data", "write_enable", "latency")

    def __init__(self, params):
        self.arbiter, self.memory = WeightArbiter(params), WeightMemory(params, MEMORY_WORDS, MAX_LATENCY)
        port, members = weight_port(params), self.memory.signature.members
        super().__init__({"columns": In(port), "kernels": In(port), **{name: members[name] for name in self.HOST}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter, m.submodules.memory = arbiter, memory = self.arbiter, self.memory
        connect(m, flipped(self.columns), arbiter.columns)
        connect(m, flipped(self.kernels), arbiter.kernels)
        connect(m, arbiter.port, memory.port)
        m.d.comb += [getattr(memory, name).eq(getattr(self, name)) for name in self.HOST]
        return m


class Components(SideBySide):
    """All components."""

    def __init__(self):
        p8 = PARAMETERS[8]
        parts = {
            "queue": Queue(8, 4, margin=1), "function": FunctionUnit(), "sweep": FunctionSweep(),
            "pre": PreActivation(), "counters": Counters(), "map_events": MapEvents(),
            "table": DescriptorTable(TABLE_FIELDS, TABLE_ROWS), "memory": WeightMemory(p8, MEMORY_WORDS),
            "slow_memory": WeightMemory(p8, MEMORY_WORDS, MAX_LATENCY), "fetch": ColumnFetch(p8),
            "arbiter": WeightArbiter(p8), "shared_memory": ArbiterAndMemory(p8),
            "column_sequencer": ColumnSequencer(p8), "cell_sequencer": CellSequencer(p8),
        }
        for pes, parameters in PARAMETERS.items():
            lanes = parameters.lanes
            parts |= {
                f"encoder{lanes}": Encoder(parameters), f"vectors{lanes}": VectorMemory(parameters),
                f"loader{lanes}": InputLoader(parameters), f"columns{pes}": FetchAndColumns(parameters),
                f"cell{pes}": Cell(parameters),
            }
        super().__init__(parts)


def run_bench(module, work, seed=1):
    """Run the cocotb tests of a module of benches against `Components`."""
    return cocotb_runner.run(cocotb_runner.build(Components), module, work, seed)
