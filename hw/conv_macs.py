"""The CNN engine's multiply-accumulate units, and the partial sums that they add to."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from amacrine.sw.conv_layout import ConvParameters

from .conv_numerics import SIDE, conv_op_layout
from .numerics import ACTIVATION, PSUM, WEIGHT, delay
from .ram import block_ram, read_port

BANKS = 2
WRITE_DELAY = 4
"""Cycles from the read of a partial sum to the write of the new one."""
ANSWER_CYCLES = 3
"""Cycles from a finisher's request to its answer."""
KERNEL_HOLD = 2
"""Cycles after the end of a pass in which `kernel_ready` and `kernel_base` may still be those of that pass."""

ROWS = data.StructLayout({"final": SIDE, "last": 1})
"""How many output rows have become final, and whether they are the last ones of their pass."""


def finish_layout(params: ConvParameters):
    """A word of partial sums that the finisher wants; `clear` makes it zero."""
    return data.StructLayout({"bank": 1, "address": range(params.psum_depth // BANKS), "clear": 1})


class MacLane(wiring.Component):
    """One lane: multiply, add, and a partial sum of each word, in two banks.

    Stages: weight and value are there in stage 3, the words read from the banks (addresses in stage 2) in stage 4,
    product and old sum in stage 5, the new sum in stage 6, in which it is written. A run that follows in 1 to 4 cycles
    reads too early: it gets the new sum past the memory.
    One multiplier, 2 · `depth` · 32 bits of block RAM.

    Members
    -------
    weight, value : In
        Stage 3.
    bank : In(1)
        Stage 4: where the old sum comes from.
    after_3 : In(1)
        Stage 3: if `after_late` in the next stage, it is from 3 and not from 4 cycles ago.
    after_2, after_late, forwarded : In(1)
        Stage 4: the old sum is that of 2 or (else) 3 or 4 cycles ago; any of them.
    after_1 : In(1)
        Stage 5: the old sum is that of the cycle before.
    address, write_address, write, write_zero : In, for each bank
        Read address (stage 2), and the write port (stage 6).
    answer_bank : In(1), answer : Out(PSUM)
        The finisher's sum, two cycles after the bank's address.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({
            "weight": In(WEIGHT), "value": In(ACTIVATION), "bank": In(1),
            "after_1": In(1), "after_2": In(1), "after_3": In(1), "after_late": In(1), "forwarded": In(1),
            "address": In(range(depth)).array(BANKS), "write_address": In(range(depth)).array(BANKS),
            "write": In(1).array(BANKS), "write_zero": In(1).array(BANKS),
            "answer_bank": In(1), "answer": Out(PSUM),
        })

    def elaborate(self, platform):
        m = Module()
        product_s4, product_s5, old_s5 = Signal(signed(24)), Signal(signed(24)), Signal(PSUM)
        sum_s6, sum_s7, late_s4, forward_s5 = Signal(PSUM), Signal(PSUM), Signal(PSUM), Signal(PSUM)
        # A block RAM's output is slow: nothing is between it and its register, which becomes part of it.
        words_s4 = [delay(m, self._bank(m, number, sum_s6), 1) for number in range(BANKS)]
        # At most one of old_s5 and forward_s5 is not zero, so that a single LUT a bit is in front of the adder.
        # The product has two registers, one near the multiplier and one near the adder.
        m.d.sync += [
            late_s4.eq(Mux(self.after_3, sum_s6, sum_s7)),
            product_s4.eq(self.weight * self.value), product_s5.eq(product_s4),
            old_s5.eq(Mux(self.forwarded, 0, Mux(self.bank, words_s4[1], words_s4[0]))),
            forward_s5.eq(Mux(self.after_2, sum_s6, Mux(self.after_late, late_s4, 0))),
            sum_s6.eq(Mux(self.after_1, sum_s6, old_s5 | forward_s5) + product_s5),
            sum_s7.eq(sum_s6),
        ]
        m.d.comb += self.answer.eq(Mux(self.answer_bank, words_s4[1], words_s4[0]))
        return m

    def _bank(self, m, number, new):
        """A bank; the word that is read from it."""
        m.submodules[f"bank{number}"] = ram = block_ram(PSUM, self.depth)
        read, write = read_port(m, ram), ram.write_port()
        m.d.comb += [
            read.addr.eq(self.address[number]), write.addr.eq(self.write_address[number]),
            write.en.eq(self.write[number]), write.data.eq(Mux(self.write_zero[number], 0, new)),
        ]
        return read.data


class ConvMacs(wiring.Component):
    """P lanes that add runs of kernel words, times a value, to partial sums.

    A run of `words` cycles does psum[bank][psum + i] += kernel[kernel + i] · value, lane by lane, a word a cycle.
    Runs follow each other without a gap, whatever words they touch. The end of an input row takes one cycle, the end
    of a pass (a row end with `last`) four. A sum is written 6 cycles after its kernel word was asked for.

    Parameters
    ----------
    params : ConvParameters
        `macs` multipliers, and `psum_depth` words of `macs` · 32 bits of block RAM in two banks.

    Members
    -------
    op : In(stream of conv_op_layout)
        Waits for `kernel_ready`.
    kernel_ready, kernel_base : In
        The kernels of the pass at work are complete, and begin here in the kernel ring. Read KERNEL_HOLD cycles
        after `kernel_release` again.
    kernel_release : Out(1)
        All kernel words of the pass have been read.
    kernel_address : Out, kernel_data : In(P bytes)
        Kernel read port; data a cycle after the address.
    finish : In(stream of finish_layout)
        Word wanted by the finisher: ready unless the runs read that bank in this cycle.
    answer_valid : Out(1), answer : Out(P · 32)
        The word, ANSWER_CYCLES after its request was taken. `clear` has made it zero for requests and runs from 5
        cycles after the request on.
    rows : Out(ROWS), rows_valid : Out(1)
        An input row ended, and all sums before it may be read: 6 cycles after its op was taken.
    clear : In(1), clear_word : In
        Makes a word of both banks zero. Only while idle.
    idle : Out(1)
        No run is under way.
    takes : Out(1)
        A multiply-accumulate cycle.
    zero_weights : Out
        Lanes with a weight of zero in such a cycle, `zeros_delay` cycles later.

    Attributes
    ----------
    zeros_delay : int
        5 to 7, by the number of lanes.
    """

    def __init__(self, params: ConvParameters):
        self.params, self.depth = params, params.psum_depth // BANKS
        self.zeros_delay = 4 + (ceil_log2(params.macs) + 1) // 2
        super().__init__({
            "op": In(stream.Signature(conv_op_layout(params))),
            "kernel_ready": In(1), "kernel_base": In(range(params.kernel_depth)), "kernel_release": Out(1),
            "kernel_address": Out(range(params.kernel_depth)), "kernel_data": In(8 * params.macs),
            "finish": In(stream.Signature(finish_layout(params))),
            "answer_valid": Out(1), "answer": Out(32 * params.macs),
            "rows": Out(ROWS), "rows_valid": Out(1),
            "clear": In(1), "clear_word": In(range(self.depth)), "idle": Out(1),
            "takes": Out(1), "zero_weights": Out(range(params.macs + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        active, run = self._runs(m)
        # Stage 1: addresses for the banks, which are read in stage 2. `free` is the same as `uses`, for all others:
        # synthesis does not merge them.
        active_s1, bank_s1, psum_s1 = Signal(), Signal(), Signal(range(self.depth))
        uses, free = Signal(BANKS), Signal(BANKS, init=3)
        m.d.sync += [active_s1.eq(active), bank_s1.eq(run.bank), psum_s1.eq(run.psum)]
        for number in range(BANKS):
            used = active & (run.bank == number)
            m.d.sync += [uses[number].eq(used), free[number].eq(~used)]
        banks = [self._bank(m, number, uses[number], psum_s1) for number in range(BANKS)]
        m.d.comb += self.finish.ready.eq(free.bit_select(self.finish.p.bank, 1))
        answer_bank = delay(m, self.finish.p.bank, ANSWER_CYCLES)
        m.d.sync += self.answer_valid.eq(delay(m, self.finish.valid & self.finish.ready, ANSWER_CYCLES - 1))

        # Kernel words have two registers, one near their block RAM and one near the multipliers.
        weights_s3, bank_s4 = delay(m, self.kernel_data, 2), delay(m, bank_s1, 3)
        values_s3 = self._copies(m, delay(m, run.value, 2))
        hazards = self._hazards(m, *(delay(m, signal, 1) for signal in (active_s1, bank_s1, psum_s1)))
        for k in range(self.params.macs):
            m.submodules[f"lane{k}"] = lane = MacLane(self.depth)
            m.d.comb += [
                lane.weight.eq(weights_s3.word_select(k, 8)), lane.bank.eq(bank_s4),
                lane.value.eq(values_s3[k * len(values_s3) // self.params.macs]),
                *(getattr(lane, name).eq(signal) for name, signal in hazards.items()),
                lane.answer_bank.eq(answer_bank), self.answer.word_select(k, 32).eq(lane.answer),
            ]
            for number, bank in enumerate(banks):
                m.d.comb += [getattr(lane, name)[number].eq(signal) for name, signal in bank.items()]
        m.d.comb += [self.takes.eq(active), self.idle.eq(~(active | active_s1))]
        self._count_zeros(m, weights_s3, delay(m, active_s1, 2))
        return m

    def _copies(self, m, value_s2):
        """Four registers of the value, for a quarter of the lanes each: one would have a long way to them all.

        They differ in what a reset does, on which nothing depends, so that synthesis does not merge them.
        """
        copies = [Signal(ACTIVATION, name=f"value{number}_s3", init=-(number & 1), reset_less=number >= 2)
                  for number in range(4)]
        m.d.sync += [copy.eq(value_s2) for copy in copies]
        return copies

    def _runs(self, m):
        """Stage 0: the run at work, counted up; returns whether there is one, and its op."""
        active, last, run = Signal(), Signal(), Signal(conv_op_layout(self.params))
        hold, may_take = Signal(range(KERNEL_HOLD + 1)), Signal()
        head, takes, ends = self.op.p, Signal(), Signal()
        m.d.comb += [
            self.op.ready.eq(may_take & (~active | last)), takes.eq(self.op.valid & self.op.ready),
            ends.eq(takes & head.row_end), self.kernel_address.eq(run.kernel),
        ]
        m.d.sync += [
            run.psum.eq(run.psum + 1), run.kernel.eq(run.kernel + 1),
            run.words.eq(run.words - 1), last.eq(run.words == 2),
            may_take.eq(self.kernel_ready & (hold == 0) & ~(ends & head.last)),
            self.kernel_release.eq(ends & head.last),
        ]
        with m.If(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        with m.If(ends & head.last):
            m.d.sync += hold.eq(KERNEL_HOLD)
        with m.If(last):
            m.d.sync += active.eq(0)
        with m.If(takes):
            m.d.sync += [run.eq(head), run.kernel.eq(head.kernel + self.kernel_base),
                         active.eq(~head.row_end), last.eq(head.words == 1)]
        rows = Signal(ROWS)
        m.d.comb += [rows.final.eq(head.final), rows.last.eq(head.last)]
        cycles = WRITE_DELAY + 2
        m.d.comb += [self.rows_valid.eq(delay(m, ends, cycles)), self.rows.eq(delay(m, rows.as_value(), cycles))]
        return active, run

    def _bank(self, m, number, used, psum):
        """The ports of a bank, with which the runs or the finisher read now, and write a few cycles later."""
        wanted, request = Signal(name=f"wanted{number}"), self.finish.p
        address = Signal(range(self.depth), name=f"address{number}")
        zero = Signal(name=f"zero{number}")
        m.d.comb += [
            wanted.eq(self.finish.valid & (request.bank == number)),
            zero.eq(~used), address.eq(Mux(used, psum, request.address)),
        ]
        # The address has a long way to the lanes, so a cycle for it. Stage 5 goes to the write port by registers that
        # clearing shares.
        address_s2 = delay(m, address, 1)
        address_s5, zero_s5 = delay(m, address_s2, WRITE_DELAY - 1), delay(m, zero, WRITE_DELAY)
        write_s5 = delay(m, used | (wanted & request.clear), WRITE_DELAY)
        write, write_zero = Signal(name=f"write{number}"), Signal(name=f"write_zero{number}")
        write_address = Signal(range(self.depth), name=f"write_address{number}")
        m.d.sync += [
            write.eq(write_s5 | self.clear), write_zero.eq(zero_s5 | self.clear),
            write_address.eq(Mux(self.clear, self.clear_word, address_s5)),
        ]
        return {"address": address_s2, "write_address": write_address, "write": write, "write_zero": write_zero}

    def _hazards(self, m, active, bank, psum):
        """Which of the last sums is the one to add to, as the lanes want to know it; of the run in stage 2."""
        same, forwarded = Signal(WRITE_DELAY), Signal()
        for distance in range(1, WRITE_DELAY + 1):
            equal = (delay(m, bank, distance) == bank) & (delay(m, psum, distance) == psum)
            m.d.comb += same[distance - 1].eq(delay(m, active, distance) & equal)
        same_s3, late_s4 = delay(m, same, 1), Signal()
        m.d.sync += [forwarded.eq(same_s3[1:].any()), late_s4.eq(same_s3[2:].any())]
        return {"after_1": delay(m, same_s3[0], 2), "after_2": delay(m, same_s3[1], 1), "after_3": same_s3[2],
                "after_late": late_s4, "forwarded": forwarded}

    def _count_zeros(self, m, weights, valid):
        """Adds up the weights that are zero, four numbers a stage."""
        counts = []
        for k in range(self.params.macs):
            zero = Signal(unsigned(1), name=f"zero_weight{k}")
            m.d.sync += zero.eq(valid & (weights.word_select(k, 8) == 0))
            counts.append(zero)
        while len(counts) > 1:
            level, counts = counts, []
            for k in range(0, len(level), 4):
                total = Signal(range(self.params.macs + 1), name=f"zeros{len(level)}_{k}")
                m.d.sync += total.eq(sum(level[k:k + 4]))
                counts.append(total)
        m.d.comb += self.zero_weights.eq(counts[0])
