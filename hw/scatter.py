"""From non-zero inputs to runs of multiply-accumulate cycles: where an input is added to."""

from types import SimpleNamespace

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from amacrine.sw.conv_layout import ConvParameters

from .conv_numerics import CHANNEL, FEATURE, SIDE, conv_op_layout
from .numerics import ACTIVATION, delay
from .queue import Queue

WORDS = unsigned(13)
PAD = unsigned(4)
TAPS = unsigned(4)
TEMPLATE_STAGES = 7


def scatter_job_layout(params: ConvParameters):
    """The part of a pass that the scatter unit needs; fields as in PASS_FIELDS, those with several numbers split up."""
    return data.StructLayout({
        "depthwise": 1, "stride_y": 1, "stride_x": 1, "q_shift": 2,      # strides less one
        "first": 1,                         # of its layer: rows start in slot 0 again
        "channel_low": CHANNEL, "channel_high": CHANNEL,
        "top": PAD, "left": PAD,
        "y_taps": data.ArrayLayout(TAPS, 2), "kernel_last": TAPS,        # kernel height less one
        "x_taps": data.ArrayLayout(TAPS, 2),
        "out_height": SIDE, "out_width": SIDE, "out_words": SIDE,
        "run_blocks": unsigned(11),
        "row_words": range(params.psum_depth // 2 + 1), "slots": range(params.psum_depth + 1),
        "channel_words": unsigned(16), "kernel_row": WORDS,
        "column_0": WORDS, "column_1": WORDS, "column_parity": WORDS,
    })


def template_layout(params: ConvParameters):
    """An input element's runs: the same for each output row, but for where the rows begin."""
    return data.StructLayout({
        "row_end": 1, "last": 1,
        "psum": range(params.psum_depth // 2), "kernel": range(params.kernel_depth),
        "words": WORDS, "value": ACTIVATION,
    })


def few_times(few, value):
    """`value` times a number of three bits, of adders: too small for a multiplier."""
    bits = [Mux(few[i], value << i, 0) for i in range(min(len(few), 3))]
    return sum(bits[1:], bits[0])


class Templates(wiring.Component):
    """Makes a template of each element, an element a cycle, and drops elements that add to nothing.

    Latency TEMPLATE_STAGES + 1 cycles. Two multipliers, with registers around them.

    Members
    -------
    job : In(scatter_job_layout)
        Must belong to the elements that enter and that are under way.
    i : In(stream of FEATURE)
    o : Out(stream of template_layout)
        Row ends pass through.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(scatter_job_layout(params)), "i": In(stream.Signature(FEATURE)),
            "o": Out(stream.Signature(template_layout(params))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(template_layout(self.params), 16, margin=TEMPLATE_STAGES)
        connect(m, queue.o, flipped(self.o))
        feature, taken = self.i.p, Signal()
        m.d.comb += [self.i.ready.eq(queue.room), taken.eq(self.i.valid & queue.room)]

        span, gi = self._columns(m)
        kernel, psum = self._kernel(m, span), self._psum(m, span, gi)
        words = Signal(WORDS)
        m.d.sync += words.eq(few_times(span["n"], self.job.run_blocks))                   # stage 5

        late = {name: delay(m, feature[name], TEMPLATE_STAGES) for name in ("row_end", "last", "value")}
        valid = delay(m, taken, TEMPLATE_STAGES)
        keep = delay(m, span["keep"], TEMPLATE_STAGES - 4)
        m.d.comb += [
            queue.i.valid.eq(valid & (keep | late["row_end"])),
            queue.i.p.psum.eq(psum), queue.i.p.kernel.eq(kernel), queue.i.p.words.eq(delay(m, words, 2)),
            *(queue.i.p[name].eq(signal) for name, signal in late.items()),
        ]
        return m

    def _columns(self, m):
        """Stages 1 to 4: the words that the element is added to, and the block if depthwise (stage 2)."""
        job, feature = self.job, self.i.p
        u, inside, channel = Signal(11), Signal(), Signal(CHANNEL)
        m.d.sync += [                                                                     # stage 1
            u.eq(feature.x + job.left), channel.eq(feature.channel - job.channel_low),
            inside.eq((feature.channel >= job.channel_low) & (feature.channel < job.channel_high)),
        ]
        parity, h = u[0] & job.stride_x, Mux(job.stride_x, u >> 1, u)
        taps = Mux(parity, job.x_taps[1], job.x_taps[0])
        out_0, out_1, some, gi = Signal(signed(12)), Signal(11), Signal(), Signal(CHANNEL)
        cp_bits = self.params.macs.bit_length() - 1
        block = [channel >> max(cp_bits - q, 0) for q in range(3)]
        m.d.sync += [                                                                     # stage 2
            out_0.eq(h - taps + 1), out_1.eq(Mux(h < job.out_width, h, job.out_width - 1)),
            some.eq(inside & (taps != 0)),
            gi.eq(Mux(job.q_shift[1], block[2], Mux(job.q_shift[0], block[1], block[0]))),
        ]
        word_0, word_1, alignment = Signal(signed(12)), Signal(11), Signal(2)
        q = job.q_shift
        m.d.sync += [                                                                     # stage 3
            word_0.eq(Mux(q[1], out_0 >> 2, Mux(q[0], out_0 >> 1, out_0))),
            word_1.eq(Mux(q[1], out_1 >> 2, Mux(q[0], out_1 >> 1, out_1))),
            alignment.eq(Mux(q[1], out_0[:2], Mux(q[0], out_0[0], 0))),
        ]
        start, skipped, n, keep = Signal(SIDE), Signal(3), Signal(3), Signal()
        below = word_0[-1]
        first = Mux(below, 0, word_0[:10])
        m.d.sync += [                                                                     # stage 4
            start.eq(first), skipped.eq(Mux(below, -word_0[:3], 0)), n.eq(word_1[:3] - first[:3] + 1),
            keep.eq(delay(m, some, 1) & (below | (word_1 >= word_0))),
        ]
        return {"start": start, "skipped": skipped, "n": n, "keep": keep, "channel": channel,
                "parity": delay(m, parity, 3), "alignment": delay(m, alignment, 1)}, gi

    def _kernel(self, m, span):
        """Stage 7: the first kernel word in kernel row 0."""
        job = self.job
        channel_s2, channel_s3 = Signal(range(self.params.kernel_depth)), Signal(range(self.params.kernel_depth))
        m.d.sync += [channel_s2.eq(span["channel"] * job.channel_words), channel_s3.eq(channel_s2)]
        column, skipped = Signal(16), Signal(WORDS)
        aligned, start = Signal(16), Signal(WORDS)
        m.d.sync += [
            aligned.eq(few_times(span["alignment"], Mux(span["parity"], job.column_1, job.column_0))),  # stage 5
            start.eq(Mux(span["parity"], job.column_parity, 0)),
            skipped.eq(few_times(span["skipped"], job.run_blocks)),
            column.eq(aligned + start),                                                                 # stage 6
        ]
        partial, kernel = Signal(range(self.params.kernel_depth)), Signal(range(self.params.kernel_depth))
        m.d.sync += [partial.eq(delay(m, channel_s3, 2) + skipped), kernel.eq(partial + column)]
        return kernel

    def _psum(self, m, span, gi):
        """Stage 7: the first partial sum in its row."""
        job, start = self.job, span["start"]
        factor, times = Signal(CHANNEL), Signal(unsigned(11))
        offset, psum = (Signal(range(self.params.psum_depth // 2), name=name) for name in ("offset", "psum"))
        m.d.sync += [
            factor.eq(Mux(job.depthwise, delay(m, gi, 2), start)),                        # stage 5
            times.eq(Mux(job.depthwise, job.out_words, job.run_blocks)),
            offset.eq(factor * times),                                                    # stage 6
            psum.eq(offset + Mux(job.depthwise, delay(m, start, 2), 0)),                  # stage 7
        ]
        return psum


class RowPlan(wiring.Component):
    """What an input row adds to, computed while the row before is at work. Latency PLAN_STAGES cycles.

    Members
    -------
    job : In(scatter_job_layout)
    u : In
        The input row, plus the padding above.
    low, high : Out
        Output rows that it adds to: low <= row < high; and all rows below `high` are to be opened.
    final : Out
        Rows below this one are final after it.
    count : Out
        `high` - `low`.
    kernel : Out
        Kernel word, from its channel's first on, where the kernel row for output row `low` begins.
    """

    PLAN_STAGES = 4

    def __init__(self, params: ConvParameters):
        super().__init__({
            "job": In(scatter_job_layout(params)), "u": In(signed(12)),
            "low": Out(SIDE), "high": Out(SIDE), "final": Out(SIDE), "count": Out(unsigned(3)),
            "kernel": Out(range(params.kernel_depth)),
        })

    def elaborate(self, platform):
        m = Module()
        job = self.job
        parity, h, taps, edge = Signal(), Signal(signed(12)), Signal(TAPS), Signal(signed(12))
        odd, lifted = self.u[0] & job.stride_y, self.u - job.kernel_last
        m.d.sync += [                                                                     # stage 1
            parity.eq(odd), taps.eq(Mux(odd, job.y_taps[1], job.y_taps[0])),
            h.eq(Mux(job.stride_y, self.u >> 1, self.u)), edge.eq(Mux(job.stride_y, lifted >> 1, lifted)),
        ]
        limits = [Signal(signed(13), name=name) for name in ("limit_low", "limit_high", "limit_final")]
        m.d.sync += [                                                                     # stage 2
            limits[0].eq(h - taps + 1), limits[1].eq(h + 1), limits[2].eq(edge + 1),
        ]
        m.d.sync += [                                                                     # stage 3
            bound.eq(Mux(limit < 0, 0, Mux(limit < job.out_height, limit, job.out_height)))
            for bound, limit in zip((self.low, self.high, self.final), limits, strict=True)
        ]
        element = Signal(3)     # of the kernel's rows as they are stored
        reach = Mux(limits[0] < 0, h[:3], taps[:3] - 1)
        m.d.sync += [
            element.eq(reach + Mux(parity, job.y_taps[0], 0)),
            self.count.eq(self.high[:3] - self.low[:3]), self.kernel.eq(few_times(element, job.kernel_row)),   # stage 4
        ]
        return m


class Scatter(wiring.Component):
    """Sends a run for each output row that an element adds to, and tells when output rows become final.

    An op a cycle; an element that adds to nothing costs a cycle at most, the end of an input row four cycles (and up
    to two behind it, until elements come in again), and a pass about twenty. Before the first run into an output row
    it waits until the row's slot is free; rows are opened in order. Rows that no input reaches are opened and
    reported one by one, above before the first run, below at the end.

    Parameters
    ----------
    params : ConvParameters

    Members
    -------
    job : In(stream of scatter_job_layout)
        Taken when the pass before has been sent to its end; a `first` one starts when all its layer's predecessors'
        rows have been flushed.
    feature : In(stream of FEATURE)
        The input of the pass; the next element is taken when its job has been.
    op : Out(stream of conv_op_layout)
    flushed : In(1)
        A row is finished, and its slot zero again.
    waits : Out(1)
        Waits for a free slot.
    """

    def __init__(self, params: ConvParameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(scatter_job_layout(params))), "feature": In(stream.Signature(FEATURE)),
            "op": Out(stream.Signature(conv_op_layout(params))), "flushed": In(1), "waits": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        job, opened, free, empty = Signal(scatter_job_layout(self.params)), Signal(), Signal(), Signal()
        m.submodules.templates = templates = Templates(self.params)
        m.submodules.plan = plan = RowPlan(self.params)
        m.d.comb += [templates.job.eq(job), plan.job.eq(job)]
        self._feed(m, templates)
        self._count_slots(m, job, opened, free, empty)
        send, op, room = self._sender(m)
        self._control(m, job, templates.o, plan, (opened, free, empty), (send, op, room))
        return m

    def _feed(self, m, templates):
        """Lets in the elements of one pass."""
        accepts, feature = Signal(), self.feature
        m.d.comb += [
            templates.i.payload.eq(feature.payload), templates.i.valid.eq(feature.valid & accepts),
            feature.ready.eq(templates.i.ready & accepts),
        ]
        with m.If(feature.valid & feature.ready & feature.p.row_end & feature.p.last):
            m.d.sync += accepts.eq(0)
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += accepts.eq(1)

    def _count_slots(self, m, job, opened, free, empty):
        """Rows that are open: opened, and not flushed yet."""
        outstanding = Signal(range(self.params.psum_depth + 1))
        with m.If(opened & ~self.flushed):
            m.d.sync += outstanding.eq(outstanding + 1)
        with m.If(~opened & self.flushed):
            m.d.sync += outstanding.eq(outstanding - 1)
        # A slot that is flushed counts as free a cycle later.
        m.d.sync += free.eq(Mux(opened, outstanding + 1 < job.slots, outstanding < job.slots))
        m.d.comb += empty.eq(outstanding == 0)

    def _sender(self, m):
        """A register and a queue for ops; returns whether there is one, the op, and whether there may be one."""
        m.submodules.queue = queue = Queue(conv_op_layout(self.params), 8, margin=1)
        connect(m, queue.o, flipped(self.op))
        send, op = Signal(), Signal(conv_op_layout(self.params))
        m.d.sync += [queue.i.valid.eq(send), queue.i.payload.eq(op)]
        return send, op, queue.room

    def _control(self, m, job, template, plan, slots, sender):
        """From job to job: rows are planned, opened, run into, and reported."""
        (opened, free, empty), (send, op, room) = slots, sender
        u, settling = Signal(signed(12)), Signal(range(plan.PLAN_STAGES + 1))
        now = {name: Signal.like(getattr(plan, name), name=f"now_{name}")
               for name in ("low", "high", "final", "count", "kernel")}
        rows_open, rows_open_next = Signal(SIDE), Signal(SIDE)      # and that number plus one
        rows_reported, target = Signal(SIDE), Signal(SIDE)
        above, ending = Signal(), Signal()
        # Comparisons are made a cycle ahead: rows to be opened, steps to the first row that is added to, rows that have
        # not been reported, all rows up to `target` are open.
        lacks, steps, unreported, complete = Signal(), Signal(), Signal(), Signal()
        oldest = Slot(m, self.params, job, "oldest")            # the slot of the first row that is added to
        row = Signal(SIDE)                                      # its row
        m.d.comb += [plan.u.eq(u), op.value.eq(template.p.value), op.words.eq(template.p.words)]
        with m.If(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        with m.If(opened):
            m.d.sync += [rows_open.eq(rows_open_next), rows_open_next.eq(rows_open_next + 1)]

        cursor = Cursor(m, self.params, job, now, oldest)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [
                    job.eq(self.job.p), u.eq(self.job.p.top - 1), settling.eq(plan.PLAN_STAGES), above.eq(1),
                    ending.eq(0), row.eq(0), rows_open.eq(0), rows_open_next.eq(1), rows_reported.eq(0),
                ]
                with m.If(self.job.valid):
                    m.next = "START"
            with m.State("START"):
                with m.If(~job.first | empty):
                    m.next = "PLAN"
                with m.If(job.first):
                    oldest.restart()
            with m.State("PLAN"):
                m.d.sync += [signal.eq(getattr(plan, name)) for name, signal in now.items()]
                m.d.sync += [target.eq(plan.final), lacks.eq(rows_open != plan.high), steps.eq(row != plan.low)]
                with m.If(settling == 0):
                    m.d.sync += [u.eq(u + 1), settling.eq(plan.PLAN_STAGES), above.eq(0)]
                    with m.If(above):
                        m.next = "COMPARE"
                    with m.Else():
                        m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [opened.eq(lacks & free), self.waits.eq(lacks & ~free)]
                cursor.restart()
                with m.If(free & (rows_open_next == now["high"])):
                    m.d.sync += lacks.eq(0)
                with m.If(steps):
                    m.d.sync += [row.eq(row + 1), steps.eq(row + 1 != now["low"])]
                    oldest.step()
                with m.If(~(steps | lacks)):
                    m.next = "RUN"
            with m.State("RUN"):
                self._run(m, template, cursor, sender)
                with m.If(template.p.row_end):
                    m.d.comb += [op.row_end.eq(1), op.final.eq(now["final"] - rows_reported)]
                    m.d.sync += target.eq(job.out_height)
                    with m.If(template.valid & room & ~template.p.last):
                        m.d.comb += send.eq(1)
                        m.d.sync += rows_reported.eq(now["final"])
                        m.next = "PLAN"
                    with m.If(template.valid & room & template.p.last):
                        m.d.sync += ending.eq(1)
                        m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += [unreported.eq(rows_open != rows_reported), complete.eq(rows_open == target)]
                m.next = "REPORT"
            with m.State("REPORT"):
                # Rows below `target` get nothing more: reports them as far as they are open, and opens the others.
                m.d.comb += [op.row_end.eq(1), op.final.eq(rows_open - rows_reported), op.last.eq(complete & ending)]
                with m.If(unreported | (complete & ending)):
                    m.d.comb += send.eq(room)
                    with m.If(room):
                        m.d.sync += [rows_reported.eq(rows_open), unreported.eq(0)]
                        with m.If(complete & ending):
                            m.next = "FINISH"
                with m.Elif(complete):
                    m.next = "PLAN"
                with m.Else():
                    m.d.comb += [opened.eq(free), self.waits.eq(~free)]
                    with m.If(free):
                        m.d.sync += [unreported.eq(1), complete.eq(rows_open_next == target)]
            with m.State("FINISH"):
                with m.If(row == job.out_height):
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += row.eq(row + 1)
                    oldest.step()

    def _run(self, m, template, cursor, sender):
        """Sends an element's runs, from its first output row to its last."""
        send, op, room = sender
        m.d.comb += [
            template.ready.eq(room & (template.p.row_end | cursor.last | cursor.none)),
            op.bank.eq(cursor.slot.bank), op.psum.eq(cursor.slot.address + template.p.psum),
            op.kernel.eq(cursor.kernel + template.p.kernel),
        ]
        with m.If(template.valid & room & ~template.p.row_end):
            m.d.comb += send.eq(~cursor.none)
            with m.If(cursor.last | cursor.none):
                cursor.restart()
            with m.Else():
                cursor.step()


class Slot:
    """A row slot and its first word of partial sums; it can be moved to the next one.

    Parameters
    ----------
    m : of the component that it belongs to
    params, job : its number of slots, and their distance
    name : of its signals
    """

    def __init__(self, m, params, job, name):
        self.m, self.job = m, job
        self.number = Signal(range(params.psum_depth), name=f"{name}_number")
        self.address = Signal(range(params.psum_depth // 2), name=f"{name}_address")

    @property
    def bank(self):
        """Its bank."""
        return self.number[0]

    def restart(self):
        """Move to slot 0."""
        self.m.d.sync += [self.number.eq(0), self.address.eq(0)]

    def take(self, other):
        """Move to the slot of another one."""
        self.m.d.sync += [self.number.eq(other.number), self.address.eq(other.address)]

    @property
    def following(self):
        """The next slot, which is in the other bank, as something to `take`."""
        number, address = self.number + 1, Mux(self.bank, self.address + self.job.row_words, self.address)
        ends = number == self.job.slots
        return SimpleNamespace(number=Mux(ends, 0, number), address=Mux(ends, 0, address))

    def step(self):
        """Move to the next slot."""
        self.take(self.following)


class Cursor:
    """The output row that an element is added to, from the first that its input row adds to.

    Attributes
    ----------
    slot : Slot
    kernel : first kernel word for it, from that of the channel on
    last : it is the last one
    none : there is none at all
    """

    def __init__(self, m, params, job, plan, oldest):
        self.m, self.job, self.plan, self.oldest = m, job, plan, oldest
        self.slot = Slot(m, params, job, "slot")
        self.kernel = Signal(range(params.kernel_depth), name="row_kernel")
        self.left, self.last, self.none = Signal(3, name="rows_left"), Signal(name="last_row"), Signal(name="no_row")

    def restart(self):
        """Move to the first row."""
        self.slot.take(self.oldest)
        count = self.plan["count"]
        self.m.d.sync += [self.kernel.eq(self.plan["kernel"]), self.left.eq(count), self.last.eq(count == 1),
                          self.none.eq(count == 0)]

    def step(self):
        """Move to the next row: its kernel row is the one before."""
        self.slot.step()
        self.m.d.sync += [self.kernel.eq(self.kernel - self.job.kernel_row), self.left.eq(self.left - 1),
                          self.last.eq(self.left == 2)]
