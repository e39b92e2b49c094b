"""Controller for one SDR SDRAM chip with 16 data pins: bursts of any length, close to one word a cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .queue import Queue
from .sdram_chips import POSTPONED, SdramChip, Timings, sampling, timings

BATCH = 4
"""Refreshes that are collected while bursts are waiting; done in a row they share the closing of the banks."""
FORCE = POSTPONED - 1
"""Refreshes outstanding at which a burst that does not end is interrupted."""


def burst_layout(chip: SdramChip, length_bits: int = 12):
    """A burst: `length` words of 16 bits, 1 at least, from word `address` on, read or written."""
    return data.StructLayout({
        "address": unsigned(chip.word_bits), "length": unsigned(length_bits), "write": 1})


def segment_layout(chip: SdramChip):
    """The part of a burst in one row: `left` + 1 words; `same` if the segment before was in the same row."""
    return data.StructLayout({
        "column": unsigned(chip.column_bits), "bank": unsigned(chip.bank_bits), "row": unsigned(chip.row_bits),
        "left": unsigned(chip.column_bits), "write": 1, "same": 1})


def later(m, value, cycles=1):
    """`value`, `cycles` cycles later, and zero after a reset, whatever was on its way."""
    for _ in range(cycles):
        late = Signal.like(value, name="late")
        m.d.sync += late.eq(value)
        value = late
    return value


def pins_signature(chip: SdramChip):
    """The chip's pins, seen from the controller; data pins as output, output enable and input."""
    return wiring.Signature({
        "cke": Out(1), "cs_n": Out(1, init=1), "ras_n": Out(1, init=1), "cas_n": Out(1, init=1), "we_n": Out(1, init=1),
        "bank": Out(chip.bank_bits), "address": Out(chip.address_bits), "dqm": Out(2, init=3),
        "dq_o": Out(16), "dq_oe": Out(1), "dq_i": In(16)})


class BurstSplitter(wiring.Component):
    """Cuts bursts where a row ends.

    The word address is, from its low bits, column, bank, row: a burst that runs on to the next row changes bank,
    so that row can be activated while this one streams. Latency 3 cycles, a segment every 2 cycles in a burst.

    Parameters
    ----------
    chip : SdramChip
    length_bits : int

    Members
    -------
    request : In(stream of burst_layout)
    segment : Out(stream of segment_layout)
    idle : Out(1)
        There is no burst here.
    """

    def __init__(self, chip: SdramChip, length_bits: int):
        self.chip, self.length_bits = chip, length_bits
        super().__init__({
            "request": In(stream.Signature(burst_layout(chip, length_bits))),
            "segment": Out(stream.Signature(segment_layout(chip))), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        columns = self.chip.column_bits
        request, segment = self.request, self.segment
        column, place = Signal(columns), Signal(self.chip.bank_bits + self.chip.row_bits)
        before, same, write = Signal.like(place), Signal(), Signal()
        # Words after the next one, and where the last of them lies, counted from the start of the row.
        left, end = Signal(max(self.length_bits, columns)), Signal(max(self.length_bits, columns) + 1)
        crosses = end[columns:].any()
        m.d.comb += [
            Cat(segment.p.bank, segment.p.row).eq(place), segment.p.column.eq(column), segment.p.write.eq(write),
            segment.p.left.eq(Mux(crosses, ~column, left)), segment.p.same.eq(same),
        ]
        with m.FSM():
            with m.State("WAIT_BURST"):
                m.d.comb += [request.ready.eq(1), self.idle.eq(~request.valid)]
                m.d.sync += [Cat(column, place).eq(request.p.address), left.eq(request.p.length - 1),
                             write.eq(request.p.write)]
                with m.If(request.valid):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                m.d.sync += [end.eq(column + left), same.eq(place == before)]
                m.next = "OFFER_SEGMENT"
            with m.State("OFFER_SEGMENT"):
                m.d.comb += segment.valid.eq(1)
                with m.If(segment.ready):
                    m.d.sync += [before.eq(place), place.eq(place + 1), column.eq(0),
                                 left.eq(Cat(end[:columns], (end >> columns) - 1))]
                    m.next = "WAIT_BURST"
                    with m.If(crosses):
                        m.next = "MEASURE"
        return m


class SdramController(wiring.Component):
    """Reads and writes bursts in order, one word a cycle while rows follow each other in different banks.

    Chip bursts have length 1. One row segment streams while the row of the next one is activated, which takes one
    command slot; the last word of a segment precharges its bank, unless the next one is in the same row.
    Refreshes are collected and done in a row between segments, at once while nothing else is to do, and in the
    middle of a segment if it does not end. Timing and figures are in docs/sdram.md.

    A reset stops what is under way. After power-up the chip is given time; after a later reset its rows are closed and
    refreshed at once, so it keeps what it holds.

    The pins have one register each outside, in the FPGA's pads (`pins.dq_i` too). Read data come `capture` + 4
    cycles after their command was decided; back-pressure stops commands, so it never loses data.

    Parameters
    ----------
    chip : SdramChip
    clock_hz : float
        Of the domain sync, which is also the chip's clock but for the phase.
    capture : int
        Cycles from a READ on `pins` to its word on `pins.dq_i`; default: that of `sampling()` for a typical board.
    timings_override : Timings
        Instead of those from the data sheet, to test what catches mistakes in them.
    length_bits : int
        Width of a burst's length.
    read_depth : int
        Words of LUT RAM for read data. At least `capture` + 9 for one word a cycle.

    Members
    -------
    request : In(stream of burst_layout)
        Bursts; past the end of the chip they go on at its beginning.
    write_data : In(stream of 16 bits)
        The words of write bursts, in order.
    read_data : Out(stream of 16 bits)
        The words of read bursts, in order.
    initialised : Out(1)
        The chip is ready; bursts offered earlier wait.
    pins : Out(pins_signature)
    """

    def __init__(self, chip: SdramChip, clock_hz: float, *, capture: int | None = None,
                 timings_override: Timings | None = None, length_bits: int = 12, read_depth: int = 32):
        self.chip, self.clock_hz, self.length_bits, self.read_depth = chip, clock_hz, length_bits, read_depth
        if chip.column_bits > 10:
            raise ValueError(f"{chip.name} has {chip.column_bits} column bits; A10 is the precharge bit, so at most 10")
        if length_bits < 1:
            raise ValueError(f"length_bits must be at least 1, not {length_bits!r}")
        self.timings = timings_override or timings(chip, clock_hz)
        self.capture = sampling(chip, clock_hz).capture if capture is None else capture
        if not self.timings.cas < self.capture <= self.timings.cas + 4:
            raise ValueError(f"capture must be {self.timings.cas + 1} to {self.timings.cas + 4} cycles with CAS "
                             f"latency {self.timings.cas}, not {self.capture!r}")
        super().__init__({
            "request": In(stream.Signature(burst_layout(chip, length_bits))),
            "write_data": In(stream.Signature(16)), "read_data": Out(stream.Signature(16)),
            "initialised": Out(1), "pins": Out(pins_signature(chip))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(self.chip, self.length_bits)
        m.submodules.writes = writes = Queue(16, 4)
        connect(m, flipped(self.request), splitter.request)
        connect(m, flipped(self.write_data), writes.i)
        self._signals()
        self._slots(m, splitter.segment)
        self._banks(m)
        self._transfers(m, writes.o)
        self._refresh_clock(m, splitter)
        self._sequence(m)
        self._pins(m, writes.o)
        self._reads(m)
        return m

    def _signals(self):
        """What the parts of the controller share. Decisions of this cycle are on the pins in the next one."""
        t = self.timings
        self.a, self.n = Signal(segment_layout(self.chip)), Signal(segment_layout(self.chip))
        self.a_valid, self.a_last = Signal(), Signal()      # the segment that streams; only one word of it is left
        self.n_valid, self.n_same = Signal(), Signal()      # the next one; it goes on in the row that streams
        self.n_opened, self.n_ready = Signal(), Signal()    # its row was activated; and that long enough ago
        self.move, self.finish = Signal(), Signal()         # the next becomes the present; the present's last word
        self.activate_next, self.activate = Signal(), Signal()
        self.transfer, self.close = Signal(), Signal()      # READ or WRITE; with precharge
        self.may_run, self.running = Signal(), Signal()     # bank timers count for the next cycle; commands flow
        self.hold, self.force = Signal(), Signal()          # no more activations; refresh now
        self.open = Signal(1 << self.chip.bank_bits)
        # Shift registers: bit 0 is set in the cycles in which something is not yet allowed.
        self.a_ras, self.n_ras = Signal(max(t.ras - 2, 1)), Signal(max(t.ras - 2, 1))
        self.busy_any = Signal()
        self.precharge_all, self.refresh, self.set_mode, self.reopen = Signal(), Signal(), Signal(), Signal()
        self.debt = Signal(range(2 * POSTPONED))            # refreshes outstanding
        self.tick = Signal()                                # one more is due

    def _slots(self, m, segment):
        """The present segment and the next one."""
        a, n, t = self.a, self.n, self.timings
        opening = later(m, self.activate, max(t.rcd - 2, 0))
        m.d.comb += [
            self.finish.eq(self.transfer & self.a_last),
            self.move.eq(Mux(self.a_valid, self.finish & (self.n_ready | self.n_same), self.n_ready)),
            segment.ready.eq(~self.n_valid),
        ]
        m.d.sync += [self.a_ras.eq(self.a_ras >> 1), self.n_ras.eq(self.n_ras >> 1)]
        with m.If(self.transfer):
            m.d.sync += [a.column.eq(a.column + 1), a.left.eq(a.left - 1), self.a_last.eq(a.left == 1)]
        with m.If(self.finish):
            m.d.sync += self.a_valid.eq(0)
        with m.If(self.move):
            m.d.sync += [a.eq(n), self.a_valid.eq(1), self.a_last.eq(n.left == 0), self.n_valid.eq(0),
                         self.n_same.eq(0)]
            with m.If(~self.n_same):
                m.d.sync += self.a_ras.eq(self.n_ras >> 1)
        with m.Elif(~self.n_valid):
            m.d.sync += [n.eq(segment.p), self.n_valid.eq(segment.valid),
                         self.n_same.eq(segment.valid & segment.p.same & self.a_valid & ~self.finish)]
        with m.If(self.activate):
            m.d.sync += [self.n_opened.eq(1), self.n_ras.eq(Const((1 << max(t.ras - 2, 0)) - 1))]
        with m.If(self.move | self.precharge_all):
            m.d.sync += [self.n_opened.eq(0), self.n_ready.eq(0)]
        with m.Elif(opening):
            m.d.sync += self.n_ready.eq(1)

    def _banks(self, m):
        """Which banks are open, and which may be activated; decides to activate the next row."""
        t, banks = self.timings, 1 << self.chip.bank_bits
        activated, act_bank = later(m, self.activate, 1), later(m, self.n.bank, 1)
        closed, closed_bank, closed_write = (later(m, x, 1) for x in (self.close, self.a.bank, self.a.write))
        # Loaded a cycle after the command and looked at a cycle before the next one.
        ones = [max(count, 0) for count in (t.rc - 3, t.rp - 2, t.wr + t.rp - 3)]
        after_act, after_read, after_write = (Const((1 << count) - 1, max(*ones, 1)) for count in ones)
        busy = [Signal(max(*ones, 1), name=f"busy{bank}") for bank in range(banks)]
        for bank in range(banks):
            act_here, close_here = activated & (act_bank == bank), closed & (closed_bank == bank)
            m.d.sync += busy[bank].eq(
                (busy[bank] >> 1) | Mux(act_here, after_act, 0)
                | Mux(close_here, Mux(closed_write, after_write, after_read), 0))
            with m.If(self.precharge_all | close_here):
                m.d.sync += self.open[bank].eq(0)
            with m.Elif(act_here | (self.reopen & (self.a.bank == bank))):
                m.d.sync += self.open[bank].eq(1)
        barred = Cat(self.open[bank] | busy[bank][0] for bank in range(banks))
        apart = Signal(max(t.rrd - 2, 1))
        m.d.sync += apart.eq(apart >> 1)
        with m.If(self.activate):
            m.d.sync += apart.eq(Const((1 << max(t.rrd - 2, 0)) - 1))
        m.d.sync += self.activate_next.eq(
            self.n_valid & ~self.n_opened & ~barred.bit_select(self.n.bank, 1) & ~apart[0]
            & ~self.activate_next & ~self.hold & self.may_run)
        m.d.comb += [self.activate.eq(self.activate_next & self.running),
                     self.busy_any.eq(barred.any() | closed | activated)]

    def _transfers(self, m, written):
        """Decides to read or write a word: the data bus, and the reader's places, must be free."""
        t, a = self.timings, self.a
        read, read_bus, free = Signal(), Signal(t.cas + 1), Signal(range(self.read_depth + 1), init=self.read_depth)
        room, taken = Signal(), self.read_data.valid & self.read_data.ready
        may = Mux(a.write, written.valid & ~read_bus[0], room)
        m.d.comb += [
            self.transfer.eq(self.a_valid & self.running & ~self.activate_next & may & ~(self.a_last & self.a_ras[0])),
            self.close.eq(self.finish & ~self.n_same),
            read.eq(self.transfer & ~a.write), written.ready.eq(self.transfer & a.write),
        ]
        # After a word was read, one cycle is left for the chip to release the data pins.
        m.d.sync += [read_bus.eq(Mux(read, -1, read_bus >> 1)), room.eq(free >= 2)]
        with m.If(read ^ taken):
            m.d.sync += free.eq(Mux(read, free - 1, free + 1))
        self.read = read

    def _refresh_clock(self, m, splitter):
        """Counts refreshes that are due, and says how urgent they are."""
        t = self.timings
        until = Signal(range(t.interval), init=t.interval - 1)
        m.d.sync += [self.tick.eq(until == 0), until.eq(Mux(until == 0, t.interval - 1, until - 1))]
        # Two segments may still stream after the hold.
        batch = max(1, min(BATCH, FORCE - -(-(2 << self.chip.column_bits) // t.interval)))
        idle = ~self.a_valid & ~self.n_valid & splitter.idle
        m.d.sync += [self.hold.eq((self.debt >= batch) | ((self.debt != 0) & idle)), self.force.eq(self.debt >= FORCE)]

    def _sequence(self, m):
        """Power-up, refresh, and what interrupts a segment for it. `pause` makes the next command come in time."""
        t = self.timings
        longest = max(t.rfc, t.ras, t.rc, t.wr + t.rp, t.mrd, t.rcd) + 2
        # After a reset, too, a pause: the chip may just have been given a command.
        pause = Signal(range(longest), init=longest - 1)
        # Not reset: a chip that is powered up already must neither wait with open rows nor miss its refreshes.
        power_up = Signal(range(t.power_up // t.interval + 2), init=t.power_up // t.interval + 1, reset_less=True)
        mode_set, a_shut = Signal(), Signal()
        counting, resume = Signal(), Signal()
        m.d.comb += self.may_run.eq(self.running | resume)
        m.d.sync += pause.eq(pause - 1)
        with m.If(self.refresh ^ (self.tick & counting)):
            m.d.sync += self.debt.eq(Mux(self.refresh, self.debt - 1, self.debt + 1))

        def after(cycles, state):
            m.d.sync += pause.eq(max(cycles - 2, 0))
            m.next = state

        with m.FSM():
            with m.State("POWER_UP"):
                with m.If(self.tick):
                    m.d.sync += power_up.eq(power_up - 1)
                with m.If((power_up == 0) & (pause == 0)):
                    m.d.sync += [counting.eq(1), self.debt.eq(8)]
                    m.next = "PRECHARGE_ALL"
            with m.State("PRECHARGE_ALL"):
                m.d.comb += self.precharge_all.eq(1)
                m.d.sync += a_shut.eq(self.a_valid)
                after(t.rp, "PAUSE")
            with m.State("REFRESH"):
                m.d.comb += self.refresh.eq(1)
                after(t.rfc, "PAUSE")
            with m.State("SET_MODE"):
                m.d.comb += self.set_mode.eq(1)
                m.d.sync += mode_set.eq(1)
                after(t.mrd, "PAUSE")
            with m.State("REOPEN"):
                m.d.comb += self.reopen.eq(1)
                m.d.sync += a_shut.eq(0)
                after(max(t.rcd, t.ras, t.rc - t.rp), "PAUSE")
            with m.State("PAUSE"):
                with m.If(pause == 0):
                    with m.If(self.debt != 0):
                        m.next = "REFRESH"
                    with m.Elif(~mode_set):
                        m.next = "SET_MODE"
                    with m.Elif(a_shut):
                        m.next = "REOPEN"
                    with m.Else():
                        m.d.comb += resume.eq(1)
                        m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                m.d.sync += self.initialised.eq(1)
                with m.If(self.hold & ~self.a_valid & ~self.n_opened & ~self.activate_next & ~self.busy_any):
                    m.next = "REFRESH"
                with m.Elif(self.force):
                    after(max(t.ras, t.wr + t.rp, t.rcd) + 1, "INTERRUPT")
            with m.State("INTERRUPT"):
                with m.If(pause == 0):
                    m.next = "PRECHARGE_ALL"

    def _pins(self, m, written):
        """Decisions to commands, registered."""
        pins, a, n = self.pins, self.a, self.n
        row = self.activate | self.reopen
        any_row = row | self.precharge_all | self.refresh | self.set_mode
        column = Cat(a.column, Const(0, 10 - self.chip.column_bits), self.close)
        m.d.sync += [
            pins.cke.eq(1), pins.dqm.eq(Mux(self.initialised, 0, 3)),
            pins.cs_n.eq(~(any_row | self.transfer)), pins.ras_n.eq(~any_row),
            pins.cas_n.eq(~(self.transfer | self.refresh | self.set_mode)),
            pins.we_n.eq(~(written.ready | self.precharge_all | self.set_mode)),
            pins.bank.eq(Mux(self.set_mode, 0, Mux(self.activate, n.bank, a.bank))),
            pins.dq_o.eq(written.payload), pins.dq_oe.eq(written.ready),
            pins.address.eq(column),
        ]
        with m.If(self.activate):
            m.d.sync += pins.address.eq(n.row)
        with m.If(self.reopen):
            m.d.sync += pins.address.eq(a.row)
        with m.If(self.precharge_all):
            m.d.sync += pins.address.eq(1 << 10)
        with m.If(self.set_mode):
            m.d.sync += pins.address.eq(self.timings.cas << 4)      # burst length 1

    def _reads(self, m):
        """Read data, from the pins to the reader, who has a place for each word before it is asked for."""
        m.submodules.reads = reads = Queue(16, self.read_depth)
        m.d.comb += [reads.i.valid.eq(later(m, self.read, self.capture + 1)), reads.i.payload.eq(self.pins.dq_i)]
        connect(m, reads.o, flipped(self.read_data))
