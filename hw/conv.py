"""The CNN engine: everything between the host's streams of maps and the weight port."""

from types import SimpleNamespace

from amaranth.hdl import Const, Module, ResetInserter, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters, ConvRegister
from amacrine.sw.layout import Parameters

from .conv_counters import RECORDS, ConvCounters
from .conv_macs import ConvMacs
from .conv_numerics import map_pointer
from .conv_sequencer import CONTROL, ConvSequencer
from .external_maps import ExternalFeatures
from .features import FeatureMemory
from .finisher import Finisher
from .input_maps import InputMaps
from .kernel_buffer import KernelBuffer
from .map_decoder import MapDecoder
from .map_encoder import encoder_job_layout
from .memory import weight_port, write_layout
from .numerics import ACTIVATION, delay
from .pool import POOL_JOB, Pooling
from .queue import Queue
from .result_writer import ResultWriter, writer_job_layout
from .scatter import Scatter

REGISTER_BITS = 16
PASSES_AHEAD = 2        # that the finisher may be ahead of pooling and writing
FLUSH_CYCLES = 64       # more than anything takes to leave a pipeline; a power of two


class ConvEngine(wiring.Component):
    """A zero-skipping convolution engine: any chain of convolutions that fits, one map a step.

    ::

        input -> compressed -> features -> decoder -> scatter -> MACs -> finisher -> pooling -> writer -> output
                                  ^                               ^ kernels <- weight port       |
                                  '--------------------------------------------------------------'

    The host loads descriptors through `bus`, kernels by its own way behind the weight port, sets RUN, and
    then only streams. A sequence can be broken off at any moment::

        stop = 1    until no burst is on its way
        reset = 1   until cleared: FLUSH_CYCLES, and a cycle for each word of a bank of partial sums, 256 at least
        reset = 0 for a cycle at least, stop = 0: the next sequence begins with its first step

    Members
    -------
    weights : Out(weight port)
    write : Out(stream of write_layout)
        Words of maps in external memory, which the weight port reads; with the parameter `external` only. One that is
        offered stays offered, also during a reset.
    input, output : streams of ACTIVATION
        Maps, in the orders of `ConvProgram`. Reset takes back an offered output.
    run : In(1)
        Works while high and while the register RUN is set; otherwise takes no inputs and starts no pass, and finishes
        those that are under way.
    stop : In(1)
        Asks for no further burst of kernels or maps; one that is offered stays offered, and those on their way are
        taken.
    reset : In(1), cleared : Out(1)
        Forgets all of the sequence, and makes the partial sums zero; `cleared` tells when that is done. Registers, pass
        descriptors and the slab table keep what the host wrote, which it may not write meanwhile.
    quiet : Out(1)
        Everything is done that can be done without another input element, `run` or passes, and all results have been
        taken. (Kernels for what comes may still be loaded.)
    bus_address, bus_w_data, bus_write : In; bus_r_data : Out
        Registers (`amacrine.sw.conv_layout.ConvRegister`); data is read two cycles after the address, and is zero where
        there is none to read. Counters are read while halted, from 16 cycles after everything is quiet on.
    """

    def __init__(self, params: ConvParameters, weight_params: Parameters):
        self.params, self.weight_params = params, weight_params
        super().__init__({
            "weights": Out(weight_port(weight_params)),
            **({"write": Out(stream.Signature(write_layout(weight_params)))} if params.external else {}),
            "input": In(stream.Signature(ACTIVATION)), "output": Out(stream.Signature(ACTIVATION)),
            "run": In(1, init=1), "stop": In(1), "reset": In(1), "cleared": Out(1), "quiet": Out(1),
            "bus_address": In(REGISTER_BITS), "bus_w_data": In(32), "bus_write": In(1), "bus_r_data": Out(32),
        })

    def elaborate(self, platform):
        m, params = Module(), self.params
        features = ExternalFeatures(params, self.weight_params) if params.external else FeatureMemory(params)
        parts = SimpleNamespace(
            sequencer=ConvSequencer(), inputs=InputMaps(params), features=features,
            decoder=MapDecoder(params), scatter=Scatter(params), kernels=KernelBuffer(params, self.weight_params),
            macs=ConvMacs(params), finisher=Finisher(params), pooling=Pooling(params), writer=ResultWriter(params),
            pool_jobs=Queue(POOL_JOB, PASSES_AHEAD),
            writer_jobs=Queue(writer_job_layout(params), PASSES_AHEAD))
        counters = ConvCounters(params.macs)
        m.submodules.counters = counters
        reset = self._reset(m, parts, counters)
        self._memories(m, parts)
        connect(m, parts.decoder.feature, parts.scatter.feature)
        connect(m, parts.scatter.op, parts.macs.op)
        connect(m, parts.macs.finish, parts.finisher.finish)
        connect(m, parts.finisher.finished, parts.pooling.finished)
        connect(m, parts.pooling.result, parts.writer.result)
        connect(m, parts.pool_jobs.o, parts.pooling.job)
        connect(m, parts.writer_jobs.o, parts.writer.job)
        connect(m, parts.writer.element, flipped(self.output))
        m.d.comb += [
            parts.finisher.rows.eq(parts.macs.rows), parts.finisher.rows_valid.eq(parts.macs.rows_valid),
            parts.finisher.answer.eq(parts.macs.answer), parts.scatter.flushed.eq(parts.finisher.flushed),
        ]
        self._jobs(m, parts, reset)
        self._count(m, parts, counters)
        self._registers(m, parts, counters)
        return m

    def _reset(self, m, parts, counters):
        """Adds the parts, and clears partial sums and counters while the others are in reset; returns that reset."""
        reset, reset_macs, macs = Signal(), Signal(), parts.macs
        for name, part in vars(parts).items():
            m.submodules[name] = ResetInserter(reset_macs if part is macs else reset)(part)
        m.d.sync += reset.eq(self.reset)
        waited, word = Signal(range(FLUSH_CYCLES + 1)), Signal(range(max(macs.depth, RECORDS) + 1))
        flushed, done = waited[-1], word[-1]    # both numbers are powers of two
        with m.If(~reset):
            m.d.sync += [waited.eq(0), word.eq(0)]
        with m.Elif(~flushed):
            m.d.sync += waited.eq(waited + 1)
        with m.Elif(~done):
            m.d.sync += word.eq(word + 1)
        m.d.comb += [
            reset_macs.eq(reset & ~flushed), macs.clear.eq(reset & flushed & ~done), macs.clear_word.eq(word),
            counters.clear.eq(macs.clear), counters.clear_record.eq(word), self.cleared.eq(reset & done),
        ]
        return reset

    def _memories(self, m, parts):
        """Feature memory and kernel buffer with all who use them."""
        features, decoder, kernels, macs, finisher = (
            parts.features, parts.decoder, parts.kernels, parts.macs, parts.finisher)
        connect(m, flipped(self.input), parts.inputs.input)
        connect(m, kernels.port, features.kernels if self.params.external else flipped(self.weights))
        connect(m, parts.inputs.map, features.input_map)
        connect(m, parts.inputs.value, features.input_value)
        connect(m, parts.writer.map, features.result_map)
        connect(m, parts.writer.value, features.result_value)
        for plane in ("map", "value"):
            m.d.comb += [getattr(features, f"{plane}_address").eq(getattr(decoder, f"{plane}_address")),
                         getattr(features, f"{plane}_enable").eq(getattr(decoder, f"{plane}_enable")),
                         getattr(decoder, f"{plane}_data").eq(getattr(features, f"{plane}_data"))]
        m.d.comb += [
            macs.kernel_ready.eq(kernels.ready), macs.kernel_base.eq(kernels.base),
            kernels.release.eq(macs.kernel_release), kernels.kernel_address.eq(macs.kernel_address),
            macs.kernel_data.eq(kernels.kernel_data), kernels.bias_address.eq(finisher.bias_address),
            finisher.bias_data.eq(kernels.bias_data), kernels.bias_release.eq(finisher.bias_release),
        ]

    def _external(self, m, parts):
        """External memory for maps; returns whether all words of results are there."""
        features, decoder, inputs = parts.features, parts.decoder, parts.inputs
        if not self.params.external:
            return Const(1)
        connect(m, features.port, flipped(self.weights))
        connect(m, features.write, flipped(self.write))
        m.d.comb += [
            features.starts.eq(decoder.starts), decoder.map_ready.eq(features.map_ready),
            decoder.value_ready.eq(features.value_ready), features.stop.eq(self.stop),
            features.result_ends.eq(parts.writer.written), features.input_ends.eq(inputs.ends),
            inputs.written.eq(features.input_written),
        ]
        return features.result_written

    def _jobs(self, m, parts, reset):
        """The offered pass to each unit, in the unit's own words."""
        sequencer, job = parts.sequencer, parts.sequencer.job
        control = data.View(CONTROL, job.control[:13])
        for name, port in (("kernels", parts.kernels.job), ("decoder", parts.decoder.job),
                           ("scatter", parts.scatter.job)):
            m.d.comb += [port.valid.eq(getattr(sequencer, f"valid_{name}")),
                         getattr(sequencer, f"ready_{name}").eq(port.ready)]
        finishing = (parts.finisher.job, parts.pool_jobs.i, parts.writer_jobs.i)
        taken = sequencer.ready_finisher
        m.d.comb += taken.eq(finishing[0].ready & finishing[1].ready & finishing[2].ready)
        m.d.comb += [port.valid.eq(sequencer.valid_finisher & taken) for port in finishing]

        kernels, decoder, scatter = parts.kernels.job.p, parts.decoder.job.p, parts.scatter.job.p
        finisher, pool, writer = parts.finisher.job.p, parts.pool_jobs.i.p, parts.writer_jobs.i.p
        same = (
            (decoder, ("slab_count", "height", "width")),
            (scatter, ("channel_low", "channel_high", "out_height", "out_width", "out_words", "run_blocks", "row_words",
                      "slots", "channel_words", "kernel_row", "column_0", "column_1", "column_parity")),
            (finisher, ("out_height", "out_width", "out_words", "blocks", "row_words", "slots", "channels", "chunks",
                        "ceiling")),
            (kernels, ("kernel_words",)),
        )
        for unit, names in same:
            m.d.comb += [unit[name].eq(job[name]) for name in names]
        for unit in (scatter, finisher):
            m.d.comb += [unit[name].eq(control[name]) for name in ("depthwise", "q_shift", "first")]
        value = job.out_value_low | (job.out_value_high << 16)
        m.d.comb += [
            kernels.weights.eq(job.weight_low | (job.weight_high << 16)), kernels.bias_words.eq(job.blocks << 2),
            decoder.slab_first.eq(job.slab_first + (control.input & sequencer.step)),
            scatter.stride_y.eq(control.stride_y), scatter.stride_x.eq(control.stride_x),
            scatter.top.eq(job.pads[:4]), scatter.left.eq(job.pads[4:8]), scatter.kernel_last.eq(job.y_taps[8:12]),
            *(scatter.y_taps[n].eq(job.y_taps.word_select(n, 4)) for n in range(2)),
            *(scatter.x_taps[n].eq(job.x_taps.word_select(n, 4)) for n in range(2)),
            finisher.function.eq(control.function), finisher.shift.eq(job.shifts[:4]),
            finisher.out_shift.eq(job.shifts[4:7]),
            pool.mode.eq(control.pool), pool.average.eq(control.average), pool.shift.eq(job.shifts[8:13]),
            writer.place.map.eq(map_pointer(self.params, job.out_map, value)), writer.place.value.eq(value),
            writer.dense.eq(control.dense),
        ]
        under_way = Signal(unsigned(3))     # passes that the finisher has taken and the writer has not completed
        took = sequencer.valid_finisher & taken
        m.d.sync += under_way.eq(under_way + took - parts.writer.written)
        with m.If(reset):
            m.d.sync += under_way.eq(0)
        m.d.comb += [
            sequencer.drained.eq((under_way == 0) & self._external(m, parts)), parts.kernels.stop.eq(self.stop),
            self.quiet.eq(sequencer.idle & ~parts.inputs.busy & ~self.output.valid),
        ]

    def _count(self, m, parts, counters):
        """What the counters count, and where a pass ends for each of them."""
        feature, macs = parts.decoder.feature, parts.macs
        taken = feature.valid & feature.ready
        m.d.comb += [
            counters.count.eq(parts.sequencer.count),
            counters.cycles_steps.eq(~parts.sequencer.drained), counters.cycles_ends.eq(parts.writer.written),
            counters.events_steps.eq(taken & ~feature.p.row_end),
            counters.events_ends.eq(taken & feature.p.row_end & feature.p.last),
            counters.mac_cycles_steps.eq(macs.takes), counters.mac_cycles_ends.eq(macs.kernel_release),
            counters.zero_macs_steps.eq(macs.zero_weights),
            counters.zero_macs_ends.eq(delay(m, macs.kernel_release, macs.zeros_delay)),
        ]

    def _registers(self, m, parts, counters):
        sequencer, inputs, address = parts.sequencer, parts.inputs, self.bus_address
        run = Signal()
        even, odd = (Signal(encoder_job_layout(self.params), name=name) for name in ("even", "odd"))
        for written, place in ((even, inputs.even), (odd, inputs.odd)):
            m.d.comb += [place.value.eq(written.value),
                         place.map.eq(map_pointer(self.params, written.map, written.value))]
        page = address[8:]
        m.d.comb += [
            sequencer.write_enable.eq(self.bus_write & (page[2:] == ConvRegister.PASSES >> 10)),
            sequencer.write_address.eq(address), sequencer.write_data.eq(self.bus_w_data),
            parts.decoder.host.enable.eq(self.bus_write & (page[1:] == ConvRegister.SLABS >> 9)),
            parts.decoder.host.row.eq(address[2:9]), parts.decoder.host.pair.eq(address[:2]),
            parts.decoder.host.data.eq(self.bus_w_data),
            sequencer.run.eq(run & self.run), inputs.run.eq(run & self.run),
            inputs.read.eq(sequencer.input_read), sequencer.input_done.eq(inputs.done),
        ]
        for register, signal in (
                (ConvRegister.RUN, run), (ConvRegister.COUNT, sequencer.count),
                (ConvRegister.CHANNELS, inputs.channels), (ConvRegister.POSITIONS, inputs.positions),
                (ConvRegister.EVEN_MAP, even.map), (ConvRegister.EVEN_VALUE, even.value),
                (ConvRegister.ODD_MAP, odd.map), (ConvRegister.ODD_VALUE, odd.value)):
            with m.If(self.bus_write & (address == register)):
                m.d.sync += signal.eq(self.bus_w_data)

        # Passes at 4 · pass: records as the counters number them.
        m.d.comb += [
            counters.read.eq((page == ConvRegister.COUNTERS >> 8) & ~sequencer.run),
            counters.read_record.eq(address), self.bus_r_data.eq(counters.read_data),
        ]
        return m
