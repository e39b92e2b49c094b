"""σ and tanh: one table with linear interpolation, or the value itself."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from amacrine.sw.activation import SLOPE, TABLE
from amacrine.sw.layout import Function

from .numerics import ACTIVATION, PRE, delay

ENTRY = data.StructLayout({"value": unsigned(18), "slope": unsigned(13)})
# Half an LSB of the result is in the table already: tanh first, then sigmoid, whose LSB is twice as large.
ENTRIES = [{"value": int(value) + half, "slope": int(slope)}
           for half in (1 << 1, 1 << 2) for value, slope in zip(TABLE[:256], SLOPE, strict=True)]


class FunctionUnit(wiring.Component):
    """Computes an activation function, one value a cycle, `latency` cycles late: 6, and `way`.

    Bit for bit sw/activation.py: tanh and sigmoid from one table of 256 segments; IDENTITY passes the low 16
    bits, RELU those above zero. One block RAM and one multiplier.

    Parameters
    ----------
    linear : bool
        Whether IDENTITY and RELU are there; costs about 40 LUTs.
    way : int
        More cycles for the way from the table to the multiplier, which may be far away. A cycle costs 60 flip-flops.

    Members
    -------
    function : In(Function)
        Comes with its value.
    x : In(PRE)
        12 fractional bits, for sigmoid and tanh.
    y : Out(ACTIVATION)
        15 fractional bits after sigmoid and tanh.
    """

    def __init__(self, linear=True, way=0):
        self.linear, self.way, self.latency = linear, way, 6 + way
        super().__init__({"function": In(Function), "x": In(PRE), "y": Out(ACTIVATION)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=ENTRY, depth=512, init=ENTRIES)
        read = table.read_port()

        # s1: u = |x| at 13 fractional bits of tanh's argument, which is x / 2 for a sigmoid.
        magnitude, doubled, u_s1 = Signal(18), Signal(19), Signal(16)
        is_tanh, negative = self.function == Function.TANH, self.x[-1]
        is_tanh_s1 = delay(m, is_tanh, 1)
        m.d.comb += [magnitude.eq(Mux(negative, -self.x, self.x)),
                     doubled.eq(Mux(is_tanh, magnitude << 1, magnitude)), read.addr.eq(Cat(u_s1[8:], ~is_tanh_s1))]
        m.d.sync += u_s1.eq(Mux(doubled[16:].any(), 0xFFFF, doubled))
        # s2: the table's entry; s3: factors, for whom the way does not count here; s4: product; s5: magnitude of the
        # result; s6: the result.
        # Without a reset, these two become the block RAM's output register.
        value_s3, slope_s3 = Signal(18, reset_less=True), Signal(13, reset_less=True)
        product_s4, base_s4 = Signal(21), Signal(18)
        low_s3 = delay(m, u_s1[:8], 2 + self.way)
        sum_s4, cap_s4, result_s5 = Signal(26), Signal(), Signal(15)
        is_tanh_s4, negative_s4 = delay(m, is_tanh_s1, 3 + self.way), delay(m, negative, 4 + self.way)
        m.d.sync += [
            value_s3.eq(read.data.value), slope_s3.eq(read.data.slope),
            product_s4.eq(delay(m, slope_s3, self.way) * low_s3), base_s4.eq(delay(m, value_s3, self.way)),
            result_s5.eq(Mux(is_tanh_s4, Mux(cap_s4, 0x7FFF, sum_s4[10:]), Mux(cap_s4, 0x3FFF, sum_s4[11:]))),
        ]
        # Bit 25 is tanh = 1.0, whose result must not be 1.0 for want of room: nor 0.5 + 0.5.
        m.d.comb += [sum_s4.eq((base_s4 << 8) + product_s4), cap_s4.eq(sum_s4[25] & (is_tanh_s4 | ~negative_s4))]

        is_tanh_s5, negative_s5 = delay(m, is_tanh_s4, 1), delay(m, negative_s4, 1)
        term = Signal(ACTIVATION)
        offset = Cat(negative_s5, Const(0, 13), ~is_tanh_s5)    # carry of the negation, and 0.5 for a sigmoid
        m.d.comb += term.eq(result_s5 ^ negative_s5.replicate(16))
        if self.linear:
            is_linear = (self.function == Function.IDENTITY) | (self.function == Function.RELU)
            is_linear_s5, linear_s1 = delay(m, is_linear, 5 + self.way), Signal(ACTIVATION)
            m.d.sync += linear_s1.eq(Mux((self.function == Function.RELU) & self.x[15], 0, self.x))
            linear_s5 = delay(m, linear_s1, 4 + self.way)
            with m.If(is_linear_s5):
                m.d.comb += term.eq(linear_s5)
            offset = Mux(is_linear_s5, 0, offset)
        m.d.sync += self.y.eq(term + offset)
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
        # What a coarse shift does not bring into 23 bits will not fit after a fine one of up to 3 either.
        doubled, coarse_s1, fine_s2 = Signal(signed(33)), Signal(signed(23)), Signal(signed(23))
        shift_s1, narrow_s2 = delay(m, self.shift, 1), delay(m, self.narrow, 2)
        large_s1, large_s2 = Signal(3), Signal()
        m.d.comb += doubled.eq(self.psum << 1)
        m.d.sync += [
            large_s1.eq(Cat(~_same(doubled[22:27]), ~_same(doubled[26:31]), ~_same(doubled[30:33]))),
            large_s2.eq(Cat(large_s1[n] & (shift_s1[2:] <= n) for n in range(3)).any()),
        ]
        negative_s2 = delay(m, self.psum[-1], 2)
        rounded = Signal(signed(23))
        fits = ~large_s2 & Mux(narrow_s2, _same(rounded[15:]), _same(rounded[17:]))
        limit = Mux(narrow_s2, Cat((~negative_s2).replicate(15), negative_s2.replicate(3)),
                    Cat((~negative_s2).replicate(17), negative_s2))
        m.d.comb += rounded.eq((fine_s2 + 1) >> 1)
        m.d.sync += [
            coarse_s1.eq(doubled >> (self.shift[2:] << 2)), fine_s2.eq(coarse_s1 >> shift_s1[:2]),
            self.q.eq(Mux(fits, rounded, limit.as_signed())),
        ]
        return m


def _same(bits):
    """Whether all bits are equal."""
    return bits.all() | ~bits.any()
