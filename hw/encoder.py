"""Turns a vector into events: delta encoder, threshold encoder, bias loader; and a gate for the events of maps."""

from types import SimpleNamespace

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import ColumnMode, Parameters

from .numerics import ACTIVATION, DELTA, INDEX, Event, MapEvent, OpKind
from .ram import block_ram, read_port

BIAS_VALUES = (1, 1 << 8, -(1 << 16))
"""Values of a bias job's events: the bias in digits of base 256. The last one is repeated if need be."""


def job_layout(params: Parameters):
    """The part of a column descriptor that the encoder reads."""
    return data.StructLayout({
        "mode": ColumnMode,
        "rectify": 1,             # negative elements count as zero
        "source_word": range(params.vector_depth // params.lanes),
        "length": INDEX,          # words of the source to scan; events of a bias job
        "reference_word": range(params.reference_depth // params.lanes),
        "threshold": unsigned(16),
    })


class Encoder(wiring.Component):
    """Sends an event for each element of a vector that has to be computed, then an END.

    DELTA: d = x - x_ref; if d != 0 and abs(d) >= threshold, send it and set x_ref = x. THRESHOLD: the same
    with x_ref = 0, which is never written, after a RESTART. BIAS: `length` events of BIAS_VALUES, the
    first one a LOAD. MAP: after a RESTART the events of `map_event` up to its end, one a cycle. With
    `rectify`, x is max(x, 0). Golden model: sw/golden.py.

    Looks at `lanes` elements a cycle, and spends a further cycle on each event but the first of a word.
    Latency 5 cycles from a job's start, or from an element's becoming available, to its event.
    Memories survive reset: zero x_ref through `clear` before a sequence.

    Parameters
    ----------
    params : Parameters
        `lanes` costs about 100 LUTs each, `reference_depth` block RAM. MAP and its port only with `conv`.

    Members
    -------
    start : In(1), job : In(job_layout)
        Begins a job. Only while not `busy`.
    busy : Out(1)
        From the cycle after `start` until END was taken.
    finishes : Out(1)
        The last cycle of `busy`.
    blocked : Out(1)
        Waits for elements of its source, or for an event of a map, with all events sent.
    reset : In(1)
        Gives up the present job. Only while `blocked` or not `busy`; a cycle of it comes before `clear`.
    available : In(12), all_available : In(1)
        Elements of the source that may be read so far, or all of them.
    vector_word, vector_enable, vector_data
        Read port of the vector memory; data comes a cycle later and stays while not enabled.
    clear, clear_word : In
        Writes zero to a word of x_ref. Only right after `reset`, or more of it.
    map_event : In(stream of MapEvent)
        Taken by MAP jobs only.
    event : Out(stream of Event)
        Ascending index.
    """

    def __init__(self, params: Parameters):
        self.params = params
        lanes = params.lanes
        super().__init__({
            "job": In(job_layout(params)), "start": In(1), "reset": In(1),
            "busy": Out(1), "finishes": Out(1), "blocked": Out(1),
            "available": In(12), "all_available": In(1),
            "vector_word": Out(range(params.vector_depth // lanes)), "vector_enable": Out(1),
            "vector_data": In(16 * lanes),
            "clear": In(1), "clear_word": In(range(params.reference_depth // lanes)),
            "event": Out(stream.Signature(Event)),
            **({"map_event": In(stream.Signature(MapEvent))} if params.conv else {}),
        })

    def elaborate(self, platform):
        m = Module()
        job = Signal(job_layout(self.params))     # the job that runs
        with m.If(self.start):
            m.d.sync += job.eq(self.job)
        scan = self._scan(m, job)
        kind, index = Signal(OpKind), Signal(INDEX)

        def offer(kind, index=0, value=0):
            return [self.event.valid.eq(1), self.event.p.kind.eq(kind), self.event.p.index.eq(index),
                    self.event.p.value.eq(value)]

        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [scan.word.eq(0), index.eq(0), kind.eq(OpKind.LOAD)]
                    # The mode comes from block RAM, so late: single bits tell. THRESHOLD and MAP are odd.
                    with m.If(self.job.mode[0]):
                        m.next = "RESTART"
                    with m.Elif(self.job.mode[1]):
                        m.next = "BIAS"
                    with m.Else():
                        m.next = "SCAN"
            with m.State("BIAS"):
                value = Mux(index == 0, BIAS_VALUES[0], Mux(index == 1, BIAS_VALUES[1], BIAS_VALUES[2]))
                m.d.comb += offer(kind, index, value)
                with m.If(self.event.ready):
                    # Behind the first event, `scan.word` is one ahead of `index`.
                    first = kind == OpKind.LOAD
                    m.d.sync += [index.eq(index + 1), scan.word.eq(Mux(first, 2, scan.word + 1)),
                                 kind.eq(OpKind.COLUMN)]
                    with m.If(Mux(first, job.length == 1, scan.all_issued)):
                        m.next = "END"
            with m.State("RESTART"):
                m.d.comb += offer(OpKind.RESTART)
                with m.If(self.event.ready):
                    m.next = "SCAN"
                    if self.params.conv:
                        with m.If(job.mode == ColumnMode.MAP):
                            m.next = "MAP"
            with m.State("SCAN"):
                m.d.comb += [scan.running.eq(1), scan.ready.eq(self.event.ready)]
                with m.If(scan.valid):
                    m.d.comb += offer(OpKind.COLUMN, scan.index, scan.value)
                m.d.comb += self.blocked.eq(scan.stuck)
                with m.If(scan.empty):
                    m.next = "END"
                with m.If(self.reset):
                    m.next = "IDLE"
            if self.params.conv:
                with m.State("MAP"):
                    come = self.map_event
                    m.d.comb += [self.blocked.eq(~come.valid), come.ready.eq(self.event.ready | come.p.end)]
                    with m.If(come.valid & come.p.end):
                        m.next = "END"
                    with m.Elif(come.valid):
                        m.d.comb += offer(OpKind.COLUMN, come.p.index, come.p.value)
                    with m.If(self.reset):
                        m.next = "IDLE"
            with m.State("END"):
                m.d.comb += offer(OpKind.END)
                with m.If(self.event.ready):
                    m.d.comb += self.finishes.eq(1)
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m

    def _scan(self, m, job):
        """The pipeline that compares `lanes` elements a cycle: read, difference, compare, send."""
        lanes, params = self.params.lanes, self.params
        shift = lanes.bit_length() - 1
        scan = SimpleNamespace(running=Signal(), valid=Signal(), ready=Signal(), empty=Signal(), stuck=Signal(),
                               all_issued=Signal(), word=Signal(INDEX), index=Signal(INDEX), value=Signal(DELTA))
        m.submodules.reference = reference = block_ram(
            data.ArrayLayout(ACTIVATION, lanes), params.reference_depth // lanes)
        read, write = read_port(m, reference), reference.write_port(granularity=1)

        # One bit of `valid` a stage; all stages move together, whenever the last one is free.
        advance = Signal()
        valid = Signal(4)
        words = [Signal(INDEX, name=f"word_s{s}") for s in range(1, 5)]
        issue, use_reference = Signal(), Signal()
        m.d.comb += [
            use_reference.eq(job.mode == ColumnMode.DELTA),
            scan.all_issued.eq(scan.word == job.length),
            issue.eq(scan.running & ~scan.all_issued
                     & (self.all_available | ((self.available >> shift) > scan.word))),
            self.vector_word.eq(job.source_word + scan.word), self.vector_enable.eq(advance),
            read.addr.eq(job.reference_word + scan.word), read.en.eq(advance),
        ]

        vector = data.View(data.ArrayLayout(ACTIVATION, lanes), self.vector_data)
        above = Signal(16)      # a difference is sent if its magnitude is above this
        m.d.sync += above.eq(job.threshold - job.threshold.any())
        pending = Signal(lanes)
        fresh = Signal()
        x_s4, d_s4 = [], []
        for lane in range(lanes):
            # Both are registers behind block RAM, and become part of it.
            x_s2, r_s2 = (Signal(ACTIVATION, name=f"{name}_s2_{lane}", reset_less=True) for name in "xr")
            rectified = Mux(job.rectify & x_s2[-1], 0, x_s2)
            x_s3, d_s3 = Signal(ACTIVATION, name=f"x_s3_{lane}"), Signal(DELTA, name=f"d_s3_{lane}")
            x, d = Signal(ACTIVATION, name=f"x_s4_{lane}"), Signal(DELTA, name=f"d_s4_{lane}")
            # abs(d) > above, in one addition: d ^ sign is abs(d), less one if d is negative.
            sign = d_s3[-1]
            compared = Signal(18, name=f"compared_{lane}")
            m.d.comb += compared.eq(Cat(sign, d_s3[:16] ^ sign.replicate(16)) + Cat(sign, ~above))
            over = compared[-1]
            with m.If(advance):
                m.d.sync += [
                    x_s2.eq(vector[lane]), r_s2.eq(read.data[lane]),
                    x_s3.eq(rectified), d_s3.eq(rectified - Mux(use_reference, r_s2, 0)),
                    d.eq(d_s3), pending[lane].eq(over & valid[2]),
                ]
            with m.If(self.clear | self.reset):     # zero is what clearing writes
                m.d.sync += x.eq(0)
            with m.Elif(advance):
                m.d.sync += x.eq(x_s3)
            x_s4.append(x)
            d_s4.append(d)
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(issue, valid[:3])), fresh.eq(1)]
            m.d.sync += [late.eq(early) for early, late in zip([scan.word, *words], words, strict=False)]
            with m.If(issue):
                m.d.sync += scan.word.eq(scan.word + 1)

        # Send the lowest pending lane; the references of all of them are written at once.
        lowest = Signal(range(lanes))
        for lane in reversed(range(lanes)):
            with m.If(pending[lane]):
                m.d.comb += lowest.eq(lane)
        rest, drained = Signal(lanes), Signal()
        m.d.comb += [
            rest.eq(pending & (pending - 1)),
            scan.valid.eq(pending.any()),
            scan.index.eq((words[3] << shift) | lowest), scan.value.eq(Array(d_s4)[lowest]),
            advance.eq(~pending.any() | (scan.ready & (rest == 0))),
            drained.eq(~valid[:3].any() & ~pending.any()),
            scan.empty.eq(drained & scan.all_issued), scan.stuck.eq(drained & ~scan.all_issued & ~issue),
        ]
        with m.If(scan.valid & scan.ready & ~advance):
            m.d.sync += pending.eq(rest)
        with m.If(fresh & ~advance):
            m.d.sync += fresh.eq(0)
        for lane in range(lanes):
            m.d.comb += write.data[lane].eq(x_s4[lane])
        m.d.comb += [write.addr.eq(job.reference_word + words[3]),
                     write.en.eq(Mux(fresh & use_reference & scan.running, pending, Const(0)))]
        with m.If(self.clear):
            m.d.comb += [write.addr.eq(self.clear_word), write.en.eq(Const((1 << lanes) - 1))]
        return scan
