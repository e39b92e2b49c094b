"""The delta engine: everything between streams of vectors and the weight memory."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.layout import COLUMN_JOBS, IDENTITY, Parameters, Register

from .cell import Cell
from .columns import ColumnEngine
from .counters import Counters
from .encoder import Encoder
from .fetch import ColumnFetch
from .memory import weight_port
from .numerics import ACTIVATION, INDEX, MapEvent
from .sequencer import CellSequencer, ColumnSequencer
from .vectors import InputLoader, VectorMemory

REGISTER_BITS = 18


class DeltaEngine(wiring.Component):
    """A delta recurrent network accelerator: dense, GRU and LSTM layers, any network that fits.

    ::

        input -> vectors -> encoder -> fetch --requests--> weight port
                    ^                    | ops                 | weights
                    |                    +-----> columns <-----+
        output <-- cell <---- partial sums --------'

    The host loads descriptors through `bus`, weights by its own way behind the weight port, clears the state,
    runs, and then only streams: one input vector in, one output vector out, per step. The ports behind the bus are
    for what works beside it (hw/engine.py); without that they cost nothing.

    Members
    -------
    weights : Out(weight port)
    input, output : streams of ACTIVATION
        Vectors, element 0 first.
    bus_address, bus_w_data, bus_write : In; bus_r_data : Out
        Registers (`amacrine.sw.layout.Register`); data is read three cycles after the address.
    map_event : In(stream of MapEvent)
        Events of MAP jobs; only with `conv`.
    others_data : In(32)
        What others answer on the bus, two cycles after the address; zero if they are not meant.
    others_rest : In(1)
        Nothing is under way outside that will come in as input or event, but for what the host sends. Clearing waits
        for that, too.
    others_cleared : In(1)
        Until then it counts as clearing.
    length : Out(12)
        Elements of an input.
    run, stopping, clearing : Out(1)
        It runs; it is to be cleared, and waits for what is on its way; it is being cleared.
    """

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "weights": Out(weight_port(params)),
            "input": In(stream.Signature(ACTIVATION)), "output": Out(stream.Signature(ACTIVATION)),
            "bus_address": In(REGISTER_BITS), "bus_w_data": In(32), "bus_write": In(1), "bus_r_data": Out(32),
            "others_data": In(32), "others_rest": In(1, init=1), "others_cleared": In(1, init=1),
            "length": Out(INDEX), "run": Out(1), "stopping": Out(1), "clearing": Out(1),
            **({"map_event": In(stream.Signature(MapEvent))} if params.conv else {}),
        })

    def elaborate(self, platform):
        m, params = Module(), self.params
        parts = SimpleNamespace(
            vectors=VectorMemory(params), loader=InputLoader(params), sequencer=ColumnSequencer(params),
            encoder=Encoder(params), fetch=ColumnFetch(params), columns=ColumnEngine(params),
            cell_sequencer=CellSequencer(params), cell=Cell(params), counters=Counters())
        for name, part in vars(parts).items():
            m.submodules[name] = part
        connect(m, flipped(self.input), parts.loader.input)
        connect(m, parts.loader.output, parts.vectors.input)
        connect(m, parts.cell.output, flipped(self.output))
        connect(m, parts.encoder.event, parts.fetch.event)
        connect(m, parts.fetch.op, parts.columns.op)
        connect(m, parts.fetch.request, flipped(self.weights.request))
        connect(m, flipped(self.weights.data), parts.columns.weights)
        connect(m, parts.cell_sequencer.job, parts.cell.job)
        if params.conv:
            connect(m, flipped(self.map_event), parts.encoder.map_event)
        self._column_jobs(m, parts)
        self._cell_jobs(m, parts)
        quiet = self._control(m, parts)
        self._write_registers(m, parts)
        self._read_registers(m, parts, quiet)
        return m

    def _column_jobs(self, m, parts):
        vectors, loader, sequencer, encoder = parts.vectors, parts.loader, parts.sequencer, parts.encoder
        columns, counters = parts.columns, parts.counters
        m.d.comb += [
            loader.read.eq(sequencer.input_read),
            sequencer.input_done.eq(loader.done), sequencer.input_count.eq(loader.count),
            encoder.job.eq(sequencer.encoder_job), encoder.start.eq(sequencer.start),
            sequencer.encoder_finishes.eq(encoder.finishes),
            encoder.available.eq(sequencer.available), encoder.all_available.eq(sequencer.all_available),
            vectors.read_enable.eq(encoder.vector_enable), vectors.read_word.eq(encoder.vector_word),
            encoder.vector_data.eq(vectors.read_data), parts.fetch.job.eq(sequencer.fetch_job),
        ]
        m.d.sync += [     # counting may come a cycle late
            # While there is nothing to do, the job in the encoder is what the column engine waits for.
            counters.job.eq(Mux(columns.idle & parts.fetch.idle, sequencer.fetch_job.job, columns.job)),
            counters.starts.eq(columns.starts), counters.takes.eq(columns.takes),
            counters.waits_weights.eq(columns.waits_weights), counters.waits_psums.eq(columns.waits_psums),
        ]

    def _cell_jobs(self, m, parts):
        vectors, sequencer, cell = parts.vectors, parts.sequencer, parts.cell
        m.d.comb += [
            parts.cell_sequencer.done.eq(parts.columns.done), parts.cell_sequencer.ran.eq(sequencer.ran),
            parts.columns.read_done.eq(cell.read_done),
            parts.columns.peek_address.eq(cell.peek_address), cell.peek_data.eq(parts.columns.peek_data),
            sequencer.write_done.eq(cell.write_done),
            sequencer.progress_cell.eq(cell.progress_cell), sequencer.progress_count.eq(cell.progress_count),
            vectors.cell_enable.eq(cell.write_enable), vectors.cell_address.eq(cell.write_address),
            vectors.cell_data.eq(cell.write_data),
        ]

    def _written(self, register):
        return self.bus_write & (self.bus_address == register)

    def _control(self, m, parts):
        """CONTROL and RESUME. Clearing waits until all that is on its way has arrived, and takes no inputs."""
        encoder, params = parts.encoder, self.params
        words = max(params.vector_depth // params.lanes, params.reference_depth // params.lanes, params.state_depth,
                    COLUMN_JOBS)
        run, clearing, stopping = self.run, self.clearing, self.stopping
        word, quiet, reset = Signal(range(words)), Signal(), Signal()
        resting, rested = Signal(), Signal(7)     # nothing seems to move, and for how many cycles, up to 64
        written = self._written(Register.CONTROL) | self._written(Register.RESUME)
        resume, resume_step = Signal(), Signal(2)
        m.d.sync += [resume.eq(self._written(Register.RESUME)), resume_step.eq(self.bus_w_data)]
        for part in (parts.loader, parts.sequencer):
            m.d.comb += [part.resume.eq(resume), part.resume_step.eq(resume_step)]
        m.d.comb += [
            resting.eq(parts.columns.idle & parts.fetch.idle & parts.cell.idle
                       & (encoder.blocked | ~(parts.sequencer.works | encoder.busy)) & self.others_rest),
            quiet.eq(rested[-1]),       # a job that is about to be handed out would have been by now
            parts.cell.discard.eq(stopping),
            reset.eq(stopping & quiet),
        ]
        with m.If(~resting | written):
            m.d.sync += rested.eq(0)
        with m.Elif(~quiet):
            m.d.sync += rested.eq(rested + 1)
        with m.If(self._written(Register.CONTROL)):
            m.d.sync += [stopping.eq(self.bus_w_data[0]), run.eq((run | self.bus_w_data[1]) & ~self.bus_w_data[2])]
        with m.If(reset):
            m.d.sync += [stopping.eq(0), run.eq(0), clearing.eq(1), word.eq(0)]
        with m.If(clearing):
            m.d.sync += [word.eq(word + 1), clearing.eq(word != words - 1)]
        for part in (parts.loader, parts.sequencer, parts.cell_sequencer):
            m.d.comb += [part.run.eq(run), part.reset.eq(reset)]
        with m.If(stopping):
            m.d.comb += parts.loader.run.eq(0)
        m.d.comb += [
            encoder.reset.eq(reset | resume), parts.columns.reset.eq(reset), parts.cell.reset.eq(reset),
            parts.counters.run.eq(run),
            parts.counters.clear.eq(clearing & (word < COLUMN_JOBS)), parts.counters.clear_job.eq(word),
            parts.vectors.clear.eq(clearing), parts.vectors.clear_word.eq(word),
            encoder.clear.eq(clearing), encoder.clear_word.eq(word),
            parts.vectors.host_reads.eq(~run),
        ]
        with m.If(clearing):
            m.d.comb += [parts.cell.state_address.eq(word), parts.cell.state_w_data.eq(0), parts.cell.state_write.eq(1)]
        with m.Else():
            m.d.comb += [parts.cell.state_address.eq(self.bus_address), parts.cell.state_w_data.eq(self.bus_w_data),
                         parts.cell.state_write.eq(self.bus_write & self.bus_address[17])]
        return quiet

    def _write_registers(self, m, parts):
        """The writable side of the bus: single registers, and a page for each table."""
        sequencer, cell_sequencer, loader = parts.sequencer, parts.cell_sequencer, parts.loader
        address, page = self.bus_address, self.bus_address[8:]
        for port, base, row in (
            (sequencer.list_write, Register.LIST, address[:6]),
            (sequencer.descriptor_write, Register.COLUMN, address[3:8]),
            (cell_sequencer.descriptor_write, Register.CELL, address[3:8]),
        ):
            m.d.comb += [port.enable.eq(self.bus_write & (page == base >> 8)),
                         port.row.eq(row), port.pair.eq(address[:3]), port.data.eq(self.bus_w_data)]
        with m.If(self._written(Register.LIST_LOOP)):
            m.d.sync += [port.eq(self.bus_w_data.word_select(byte, 8)) for byte, port in enumerate(
                (sequencer.loop_start, sequencer.loop_end, sequencer.starts))]
        with m.If(self._written(Register.CELL_COUNT)):
            m.d.sync += cell_sequencer.count.eq(self.bus_w_data)
        with m.If(self._written(Register.INPUT)):
            m.d.sync += [loader.base.eq(self.bus_w_data[:16]), loader.length.eq(self.bus_w_data[16:])]
        m.d.comb += [
            self.length.eq(loader.length),
            parts.vectors.host_write.eq(self.bus_write & address[16]), parts.vectors.host_address.eq(address),
            parts.vectors.host_w_data.eq(self.bus_w_data[:16]),
        ]

    def _read_registers(self, m, parts, quiet):
        """The readable side of the bus: address, then the tables' own register, then this one."""
        constants = [IDENTITY] + [0] * (Register.PARAMETERS - 1) + list(self.params.as_dict().values())
        address, page = self.bus_address, self.bus_address[8:16]
        m.d.comb += [
            parts.counters.read.eq((page == Register.COUNTERS >> 8) & ~address[16:].any()),
            parts.counters.read_job.eq(address[3:]), parts.counters.read_field.eq(address[:3]),
            parts.vectors.host_selects.eq(address[16]), parts.cell.state_selects.eq(address[17]),
        ]
        # Each source is zero unless it is meant. While it runs, the memories are the engine's.
        value = Signal(32)
        with m.If(~address[8:].any()):
            with m.Switch(address[:5]):
                with m.Case(Register.CONTROL):
                    m.d.sync += value.eq(Cat(self.clearing | self.stopping | ~self.others_cleared, self.run, quiet))
                for number, constant in enumerate(constants):
                    if constant:
                        with m.Case(number):
                            m.d.sync += value.eq(Const(constant, 32))
                with m.Default():
                    m.d.sync += value.eq(0)
        with m.Else():
            m.d.sync += value.eq(0)
        vector, late = Signal(ACTIVATION), Signal(32)
        memories = parts.cell.state_r_data | vector | parts.counters.read_data.as_signed()
        m.d.sync += [vector.eq(parts.vectors.host_r_data), late.eq(value),
                     self.bus_r_data.eq(late | self.others_data | Mux(self.run, 0, memories))]
