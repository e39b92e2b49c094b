"""The cell unit: partial sums of a layer to its next vector, for dense, GRU and LSTM layers.

Where each value is, in cycles after a unit was issued (see docs/architecture.md for a drawing):

    1  lane selected         4  pre-activations q       10 gates (front functions)   11 factors
    12 product               13 first sum               14 rounded                   15 late argument
    21 late function         22 factors                 23 product                   24 second sum v
    25 shifted               26 rounded: h
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.layout import CELL_JOBS, CellKind, Function, Parameters

from .function import FunctionUnit, PreActivation
from .numerics import ACTIVATION, CELL, PRE, delay, saturate
from .queue import OutputQueue
from .ram import block_ram, read_port

LATENCY = 26
HALF = 1 << 14      # what rounds a sum that loses 15 fractional bits


def cell_job_layout(params: Parameters):
    """A cell descriptor as the gateware uses it."""
    return data.StructLayout({
        "cell": CELL, "step": 1,
        "psum": range(params.psum_depth), "blocks": unsigned(12), "units": unsigned(12),
        "state": range(params.state_depth), "vector": range(params.vector_depth),
        "kind": CellKind, "function": Function, "shift": unsigned(4), "out_shift": unsigned(3),
        "cell_shift": unsigned(3), "output": 1,
    })


def unit_layout(params: Parameters):
    """What travels with a unit through the pipeline."""
    return data.StructLayout({
        "valid": 1, "last": 1, "phase": 1, "cell": CELL, "step": 1,
        "state": range(params.state_depth), "vector": range(params.vector_depth),
        "kind": CellKind, "function": Function, "shift": unsigned(4), "out_shift": unsigned(3),
        "cell_shift": unsigned(3), "output": 1,
    })


class Cell(wiring.Component):
    """Turns the partial sums of one layer into its next vector, a unit a cycle (LSTM: two cycles).

    GRU: h = n + z * (s - n) with n = tanh(nx + r * nh). LSTM: c = f * c + i * g, h = o * tanh(c), in two
    phases, i and g first. Dense: the pre-activation goes through both multipliers unchanged to the late function.
    Formats and rounding: docs/arithmetic.md; golden model: sw/golden.py.

    Partial sums are read a block of K units at a time, a word a gate, into registers, and those of the next
    block while this one is at work. Latency 7 cycles from a job's start to its first unit's issue, and
    26 from there to its result. The pipeline never stalls: units whose result goes to the host are issued
    only while the output queue has a place for them. K < 4 reads more words than it has units: 4 / K cycles a unit.

    Three function units (a block RAM and a multiplier each) and two multipliers, whatever K.

    Members
    -------
    job : In(stream of cell_job_layout)
    peek_address, peek_data
        The column engine's second port: K partial sums, a cycle after the address.
    read_done, write_done : Out(CELL_JOBS)
        Per cell job, the parity of the last step whose partial sums were all read, whose vector is complete.
    progress_cell, progress_count : Out
        The job whose vector is being written, and how many of its elements are.
    write_enable, write_address, write_data : Out
        To the vector memory.
    state_address, state_write, state_w_data, state_r_data
        The host's port on the cell state, only while idle; data two cycles after the address.
    output : Out(stream of ACTIVATION)
        Vectors for the host.
    discard : In(1)
        Throws results for the host away, so that what is under way can end though nobody takes them.
    reset : In(1)
        Start of a sequence: forgets `read_done` and `write_done`. Only while idle.
    idle : Out(1)
        Nothing was under way a cycle ago, and the host had taken all results.
    """

    OUTPUT_DEPTH = 512

    def __init__(self, params: Parameters):
        self.params = params
        super().__init__({
            "job": In(stream.Signature(cell_job_layout(params))),
            "peek_address": Out(range(params.psum_depth)), "peek_data": In(32 * params.pes),
            "read_done": Out(CELL_JOBS), "write_done": Out(CELL_JOBS),
            "progress_cell": Out(CELL), "progress_count": Out(12),
            "write_enable": Out(1), "write_address": Out(range(params.vector_depth)),
            "write_data": Out(ACTIVATION),
            "state_address": In(range(params.state_depth)), "state_selects": In(1), "state_write": In(1),
            "state_w_data": In(ACTIVATION), "state_r_data": Out(ACTIVATION),
            "output": Out(stream.Signature(ACTIVATION)), "discard": In(1), "reset": In(1), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        unit = Signal(unit_layout(self.params))
        psums = self._load(m, unit)
        units = [unit]                  # units[s]: the unit at stage s
        for s in range(1, LATENCY + 1):
            late = Signal(unit_layout(self.params), name=f"unit_s{s}")
            m.d.sync += late.eq(units[-1])
            units.append(late)
        q_s4 = self._pre_activations(m, units, psums)
        front0_s10, front1_s10 = self._front_functions(m, units, q_s4)
        state_s10, store_s25 = self._state(m, units)
        rounded_s14 = self._first_sum(m, units, q_s4, front0_s10, front1_s10, state_s10)
        late_s21 = self._late_function(m, units, rounded_s14)
        state_s25, h_s26 = self._second_sum(m, units, front1_s10, delay(m, state_s10, 11), late_s21)
        is_lstm = units[25].kind == CellKind.LSTM
        m.d.comb += store_s25.eq(Mux(is_lstm, delay(m, rounded_s14[:16], 11), state_s25))
        self._write(m, units[LATENCY], h_s26)
        m.d.sync += self.idle.eq(~Cat(u.valid for u in units).any() & self.job.ready & self._empty)
        return m

    def _load(self, m, unit):
        """Reads partial sums block by block and issues units. Returns the four partial sums at stage 1.

        A dense layer's only one comes in the last gate's place.
        """
        pes = self.params.pes
        job, busy = Signal(cell_job_layout(self.params)), Signal()
        gates_last = Mux(job.kind == CellKind.DENSE, 0, 3)
        # Reading: `gate` of the block at `block_address`, into `coming`, which shifts: the last gate's is coming[0].
        reading, captured = Signal(), Signal()
        gate, last_gate, captured_last = Signal(2), Signal(), Signal()
        block_address, blocks_left = Signal(range(self.params.psum_depth)), Signal(12)
        coming = [Signal(32 * pes, name=f"coming{g}", reset_less=True) for g in range(4)]
        present = [[Signal(32, name=f"present{g}_{k}", reset_less=True) for k in range(pes)] for g in range(4)]
        full, full_next, moves = Signal(), Signal(), Signal()
        m.d.comb += last_gate.eq(gate == gates_last)
        m.d.sync += [captured.eq(reading), captured_last.eq(last_gate)]
        with m.If(reading):
            m.d.sync += [self.peek_address.eq(self.peek_address + job.blocks), gate.eq(gate + 1)]
            with m.If(last_gate):
                m.d.sync += [reading.eq(0), blocks_left.eq(blocks_left - 1), block_address.eq(block_address + 1)]
        with m.If(captured):
            m.d.sync += Cat(coming).eq(Cat(self.peek_data, coming))
        m.d.comb += full_next.eq(captured & captured_last)
        with m.If(full_next):
            m.d.sync += full.eq(1)
            with m.If(blocks_left == 0):
                m.d.sync += self.read_done.bit_select(job.cell, 1).eq(job.step)
        with m.Elif(moves):
            m.d.sync += full.eq(0)
        with m.If(busy & ~reading & ~captured & (~full | moves) & (blocks_left != 0)):
            m.d.sync += [reading.eq(1), gate.eq(0), self.peek_address.eq(block_address)]

        # Issuing: the unit of `lane`, a one-hot number, while there is `work`.
        lane, work, units_left, last = Signal(pes), Signal(), Signal(12), Signal()
        room, issue, permit, final = self._room(m, unit), Signal(), Signal(), Signal()
        two_phases = job.kind == CellKind.LSTM
        m.d.sync += permit.eq(room | ~job.output)
        m.d.comb += [
            # An LSTM's second phase must follow the first at once.
            issue.eq(work & (permit | unit.phase)), unit.phase.eq(final & two_phases), unit.valid.eq(issue & final),
            unit.last.eq(last), moves.eq(full & (~work | (unit.valid & lane[-1]))),
        ]
        for field in ("cell", "step", "state", "vector", "kind", "function", "shift", "out_shift", "cell_shift",
                      "output"):
            m.d.comb += unit[field].eq(job[field])
        with m.If(issue & two_phases):
            m.d.sync += final.eq(~final)
        with m.If(unit.valid):
            m.d.sync += [lane.eq(lane << 1), units_left.eq(units_left - 1), last.eq(units_left == 2),
                         job.state.eq(job.state + 1), job.vector.eq(job.vector + 1)]
            with m.If(last):
                m.d.sync += busy.eq(0)
            with m.If(last | lane[-1]):
                m.d.sync += work.eq(0)
        with m.If(moves):
            m.d.sync += [lane.eq(1), work.eq(1)]

        m.d.comb += self.job.ready.eq(~busy)
        with m.If(self.job.valid & ~busy):
            m.d.sync += [job.eq(self.job.p), busy.eq(1), final.eq(self.job.p.kind != CellKind.LSTM),
                         units_left.eq(self.job.p.units), last.eq(self.job.p.units == 1),
                         blocks_left.eq(self.job.p.blocks), block_address.eq(self.job.p.psum),
                         self.peek_address.eq(self.job.p.psum), reading.eq(1), gate.eq(0)]
        with m.If(self.reset):
            m.d.sync += [self.read_done.eq(~0), self.write_done.eq(~0)]
        # Whose turn it is not is zero a cycle later: an OR is half of a multiplexer.
        selected = [[Signal(32, name=f"selected{g}_{k}", reset_less=True) for k in range(pes)] for g in range(4)]
        moved = Signal()
        m.d.sync += moved.eq(moves)
        for k in range(pes):
            with m.If(moves if k == 0 else moved):      # `coming` stays for another cycle
                m.d.sync += [words[k].eq(there.word_select(k, 32))
                             for words, there in zip(present, coming, strict=True)]
            m.d.sync += [chosen[k].eq(Mux(lane[k], words[k], 0))
                         for chosen, words in zip(selected, present, strict=True)]
        return [reduce(or_, lanes) for lanes in reversed(selected)]

    def _room(self, m, unit):
        """Whether the output queue has a place for one more unit, those in the pipeline counted."""
        m.submodules.outputs = self._outputs = OutputQueue(ACTIVATION, self.OUTPUT_DEPTH)
        self._empty = Signal()
        reserved, leaves = Signal(range(self.OUTPUT_DEPTH + 1)), Signal()
        m.d.comb += [
            self.output.payload.eq(self._outputs.o.payload),
            self.output.valid.eq(self._outputs.o.valid & ~self.discard),
            self._outputs.o.ready.eq(self.output.ready | self.discard),
            leaves.eq(self._outputs.o.valid & self._outputs.o.ready),
            self._empty.eq(reserved == 0),
        ]
        m.d.sync += reserved.eq(reserved + (unit.valid & unit.output) - leaves)
        return reserved < self.OUTPUT_DEPTH - 1     # known a cycle late, so one place is kept free

    def _pre_activations(self, m, units, psums):
        """Stages 1 to 4: the unit's partial sums, requantised."""
        q = []
        narrow = (units[1].kind == CellKind.DENSE) & ((units[1].function == Function.IDENTITY)
                                                      | (units[1].function == Function.RELU))
        for g, psum in enumerate(psums):
            m.submodules[f"pre{g}"] = pre = PreActivation()
            m.d.comb += [pre.psum.eq(psum), pre.shift.eq(units[1].shift), pre.narrow.eq(narrow if g == 3 else 0)]
            q.append(pre.q)
        return q

    def _front_functions(self, m, units, q_s4):
        """Stages 4 to 10: GRU: σ(r), σ(z). LSTM: σ(i), tanh(g) in phase 0, σ(f), σ(o) in phase 1."""
        m.submodules.front0 = front0 = FunctionUnit(linear=False)
        m.submodules.front1 = front1 = FunctionUnit(linear=False)
        is_lstm, first_phase, second_phase = units[3].kind == CellKind.LSTM, Signal(), Signal()
        m.d.sync += [first_phase.eq(is_lstm & ~units[3].phase), second_phase.eq(is_lstm & units[3].phase)]
        m.d.comb += [
            front0.x.eq(Mux(first_phase, q_s4[0], q_s4[1])), front0.function.eq(Function.SIGMOID),
            front1.x.eq(Mux(second_phase, q_s4[3], q_s4[2])),
            front1.function.eq(Mux(first_phase, Function.TANH, Function.SIGMOID)),
        ]
        return front0.y, front1.y

    def _state(self, m, units):
        """The cell state memory: read for stage 10, written from stage 25. Returns (read, to be written)."""
        m.submodules.state = state = block_ram(ACTIVATION, self.params.state_depth)
        read, write = read_port(m, state), state.write_port()
        store_s25 = Signal(ACTIVATION)
        u = units[25]
        with m.If(self.idle):
            m.d.comb += [read.addr.eq(self.state_address), read.zero.eq(~self.state_selects),
                         write.addr.eq(self.state_address), write.data.eq(self.state_w_data),
                         write.en.eq(self.state_write)]
        with m.Else():
            m.d.comb += [read.addr.eq(units[8].state), write.addr.eq(u.state), write.data.eq(store_s25),
                         write.en.eq(u.valid & (u.kind != CellKind.DENSE))]
        state_s10 = Signal(ACTIVATION, reset_less=True)     # part of the block RAM
        m.d.comb += self.state_r_data.eq(state_s10)
        m.d.sync += state_s10.eq(read.data)
        return state_s10, store_s25

    def _first_sum(self, m, units, q_s4, front0_s10, front1_s10, state_s10):
        """Stages 10 to 14. GRU: nx + r * nh; LSTM: i * g, then f * c + i * g; dense: q. Requantised by 15."""
        u10, u12, u13 = units[10], units[12], units[13]
        a_s11, b_s11 = Signal(ACTIVATION), Signal(PRE)
        product_s12, sum_s13, rounded_s14 = Signal(signed(34)), Signal(signed(35)), Signal(PRE)
        g_s10 = Signal(ACTIVATION)     # tanh(g) at the cell state's format: rq(.., 3 + cell_shift, 16)
        m.d.comb += g_s10.eq((((front1_s10 >> 2) >> u10.cell_shift) + 1) >> 1)
        base_s5 = Signal(PRE)
        m.d.sync += base_s5.eq(Mux(units[4].kind == CellKind.DENSE, q_s4[3], q_s4[0]))
        base_s12, nh_s10 = delay(m, base_s5, 7), delay(m, q_s4[3], 6)
        with m.Switch(u10.kind):
            with m.Case(CellKind.GRU):
                m.d.sync += [a_s11.eq(front0_s10), b_s11.eq(nh_s10)]
            with m.Case(CellKind.LSTM):
                m.d.sync += [a_s11.eq(front0_s10), b_s11.eq(Mux(u10.phase, state_s10, g_s10))]
            with m.Default():
                m.d.sync += a_s11.eq(0)
        addend = Signal(signed(35), init=HALF)
        with m.If(u12.kind != CellKind.LSTM):
            m.d.comb += addend.eq((base_s12 << 15) | HALF)
        with m.Elif(u12.phase):
            m.d.comb += addend.eq(sum_s13)     # phase 0 of the same unit, a cycle ago
        rounded = Signal(signed(20))
        m.d.comb += rounded.eq(sum_s13 >> 15)
        m.d.sync += [
            product_s12.eq(a_s11 * b_s11), sum_s13.eq(addend + product_s12),
            rounded_s14.eq(Mux(u13.kind == CellKind.LSTM, saturate(rounded, 16), saturate(rounded, 18))),
        ]
        return rounded_s14

    def _late_function(self, m, units, rounded_s14):
        """Stages 14 to 21: GRU: n = tanh(..); LSTM: tanh(c); dense: its function."""
        u13, u15 = units[13], units[15]
        x_s15, shift_s14, shifted = Signal(PRE), Signal(3), Signal(signed(18 + 7))
        m.d.comb += shifted.eq(rounded_s14 << shift_s14)
        m.d.sync += [shift_s14.eq(Mux(u13.kind == CellKind.LSTM, u13.cell_shift, 0)), x_s15.eq(saturate(shifted, 18))]
        m.submodules.late = late = FunctionUnit()
        m.d.comb += [late.x.eq(x_s15),
                     late.function.eq(Mux(u15.kind == CellKind.DENSE, u15.function, Function.TANH))]
        return late.y

    def _second_sum(self, m, units, front1_s10, state_s21, late_s21):
        """Stages 21 to 26. v: GRU: n + z * (s - n); LSTM: o * tanh(c); dense: y. Returns state, result."""
        a_s22, b_s22, late_s23 = delay(m, front1_s10, 12), Signal(signed(17)), delay(m, late_s21, 2)
        product_s23, v_s24 = Signal(signed(33)), Signal(signed(34))
        with m.Switch(units[21].kind):
            with m.Case(CellKind.GRU):
                m.d.sync += b_s22.eq(state_s21 - late_s21)
            with m.Case(CellKind.LSTM):
                m.d.sync += b_s22.eq(late_s21)
            with m.Default():
                m.d.sync += b_s22.eq(0)
        base = Mux(units[23].kind == CellKind.LSTM, 0, late_s23 << 15)
        m.d.sync += [product_s23.eq(a_s22 * b_s22), v_s24.eq(product_s23 + base)]
        # rq(v, 15 + out_shift): one bit more than the result is kept for its rounding.
        state_s25, shifted_s25, h_s26 = Signal(ACTIVATION), Signal(signed(20)), Signal(ACTIVATION)
        m.d.sync += [
            state_s25.eq(saturate(((v_s24 >> 14) + 1) >> 1, 16)),
            shifted_s25.eq((v_s24 >> 14) >> units[24].out_shift),
            h_s26.eq(saturate((shifted_s25 + 1) >> 1, 16)),
        ]
        return state_s25, h_s26

    def _write(self, m, unit, h):
        """Stage 26: the result to vector memory and, if wanted, to the host."""
        m.d.comb += [
            self.write_enable.eq(unit.valid), self.write_address.eq(unit.vector), self.write_data.eq(h),
            self._outputs.i.payload.eq(h), self._outputs.i.valid.eq(unit.valid & unit.output),
        ]
        with m.If(unit.valid):
            m.d.sync += [self.progress_cell.eq(unit.cell), self.progress_count.eq(self.progress_count + 1)]
            with m.If(unit.last):
                m.d.sync += [self.progress_count.eq(0), self.write_done.bit_select(unit.cell, 1).eq(unit.step)]
