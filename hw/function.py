"""σ and tanh: one table with linear interpolation, or the value itself."""

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.activation import SLOPE, TABLE
from amacrine.sw.layout import Function

from .numerics import ACTIVATION, PRE, delay

ENTRY = data.StructLayout({"value": unsigned(18), "slope": unsigned(13)})


class FunctionUnit(wiring.Component):
    """Computes an activation function, one value a cycle, 6 cycles late.

    Bit for bit sw/activation.py: tanh and sigmoid from one table of 256 segments; IDENTITY passes the low 16
    bits, RELU those above zero. One block RAM and one multiplier.

    Members
    -------
    function : In(Function)
        Comes with its value.
    x : In(PRE)
        12 fractional bits, for sigmoid and tanh.
    y : Out(ACTIVATION)
        15 fractional bits after sigmoid and tanh.
    """

    LATENCY = 6

    def __init__(self):
        super().__init__({"function": In(Function), "x": In(PRE), "y": Out(ACTIVATION)})

    def elaborate(self, platform):
        m = Module()
        table = [{"value": int(value), "slope": int(slope)} for value, slope in zip(TABLE, SLOPE, strict=False)]
        m.submodules.table = table = memory.Memory(shape=ENTRY, depth=256, init=table)
        read = table.read_port()

        # s1: u = |x| at 13 fractional bits of tanh's argument, which is x / 2 for a sigmoid.
        magnitude, doubled, u_s1 = Signal(18), Signal(19), Signal(16)
        is_tanh = self.function == Function.TANH
        m.d.comb += [magnitude.eq(Mux(self.x < 0, -self.x, self.x)),
                     doubled.eq(Mux(is_tanh, magnitude << 1, magnitude))]
        m.d.sync += u_s1.eq(Mux(doubled >> 16 != 0, 0xFFFF, doubled))
        # s2: the table's entry; s3: factors; s4: product; s5: magnitude of the result; s6: the result.
        value_s3, slope_s3, product_s4, base_s4 = Signal(18), Signal(13), Signal(21), Signal(18)
        low_s3 = delay(m, u_s1[:8], 2)
        sum_s4, result_s5 = Signal(27), Signal(17)
        function_s4, function_s5 = delay(m, self.function, 4), Signal(Function)
        m.d.comb += [read.addr.eq(u_s1 >> 8), sum_s4.eq((base_s4 << 8) + product_s4)]
        half = Mux(function_s4 == Function.TANH, 1 << 9, 1 << 10)
        rounded = Signal(27)
        m.d.comb += rounded.eq(sum_s4 + half)
        m.d.sync += [
            value_s3.eq(read.data.value), slope_s3.eq(read.data.slope),
            product_s4.eq(slope_s3 * low_s3), base_s4.eq(value_s3),
            # Rounding can reach 1.0 only for tanh, whose bit 25 is then set; a sigmoid saturates below.
            result_s5.eq(Mux(function_s4 != Function.TANH, rounded >> 11,
                             Mux(rounded[25], (1 << 15) - 1, rounded >> 10))),
            function_s5.eq(function_s4),
        ]
        x_s5 = delay(m, self.x[:16], 5)
        negative_s5 = delay(m, self.x < 0, 5)
        y = Signal(signed(18))
        with m.Switch(function_s5):
            with m.Case(Function.TANH):
                m.d.comb += y.eq(Mux(negative_s5, -result_s5, result_s5))
            with m.Case(Function.SIGMOID):
                m.d.comb += y.eq(16384 + Mux(negative_s5, -result_s5, result_s5))
            with m.Case(Function.RELU):
                m.d.comb += y.eq(Mux(x_s5[-1], 0, x_s5))
            with m.Default():
                m.d.comb += y.eq(x_s5.as_signed())
        m.d.sync += self.y.eq(Mux(y > 32767, Const(32767), y))
        return m


class PreActivation(wiring.Component):
    """q = rq(psum, shift, 18), or 16 bits wide when `narrow`; one value a cycle, 3 cycles late.

    Members
    -------
    psum : In(32, signed), shift : In(4), narrow : In(1)
    q : Out(PRE)
    """

    LATENCY = 3

    def __init__(self):
        super().__init__({"psum": In(signed(32)), "shift": In(4), "narrow": In(1), "q": Out(PRE)})

    def elaborate(self, platform):
        m = Module()
        # One bit below the result's LSB is kept for the rounding: rq(v, s) = ((2v >> s) + 1) >> 1.
        coarse_s1, fine_s2 = Signal(signed(33)), Signal(signed(33))
        shift_s1, narrow_s2 = delay(m, self.shift[:2], 1), delay(m, self.narrow, 2)
        rounded = Signal(signed(33))
        fits = Mux(narrow_s2, _fits(rounded, 16), _fits(rounded, 18))
        limit = Signal(PRE)
        m.d.comb += [
            rounded.eq((fine_s2 + 1) >> 1),
            limit.eq(Mux(narrow_s2, Mux(rounded < 0, -(1 << 15), (1 << 15) - 1),
                         Mux(rounded < 0, -(1 << 17), (1 << 17) - 1))),
        ]
        m.d.sync += [
            coarse_s1.eq((self.psum << 1) >> (self.shift[2:] << 2)),
            fine_s2.eq(coarse_s1 >> shift_s1),
            self.q.eq(Mux(fits, rounded, limit)),
        ]
        return m


def _fits(value, bits):
    """Whether a signed value can be written with `bits` bits."""
    top = value[bits - 1:]
    return (top == 0) | top.all()
