"""Number formats and payloads of the gateware; the arithmetic itself is in docs/arithmetic.md."""

from amaranth.hdl import Cat, Mux, Signal, signed, unsigned
from amaranth.lib import data, enum

from amacrine.sw.layout import CELL_JOBS, COLUMN_JOBS, Parameters

ACTIVATION = signed(16)
DELTA = signed(17)      # exact difference of two activations; also the bias weights 1, 2**8, -2**16
WEIGHT = signed(8)
PSUM = signed(32)
PRE = signed(18)        # pre-activation, 12 fractional bits
INDEX = unsigned(12)    # element of a vector, so column of a weight matrix
JOB = range(COLUMN_JOBS)
CELL = range(CELL_JOBS + 1)


HAZARD_CYCLES = 4
"""Cycles after which a partial sum that was read, and then added to, may be read again (hw/columns.py)."""


class OpKind(enum.Enum, shape=unsigned(2)):
    """What the column engine is asked to do."""

    COLUMN = 0    # fetch a column, multiply, add to the partial sums
    LOAD = 1      # the same, but the old partial sums count as zero: first column of a bias
    RESTART = 2   # copy the bias to the partial sums; fetches nothing
    END = 3       # the job's columns are all sent


class Event(data.Struct):
    """What an encoder found: column `index` is to be multiplied by `value`."""

    kind: OpKind
    index: INDEX
    value: DELTA


class MapEvent(data.Struct):
    """An element, not zero, of a flat map; or with `end` that the map is complete, and nothing else."""

    index: INDEX
    value: ACTIVATION
    end: 1


def op_layout(params: Parameters):
    """An event with what the column engine needs to know of its job."""
    return data.StructLayout({
        "kind": OpKind, "value": DELTA,
        "psum": range(params.psum_depth), "bias": range(params.psum_depth), "words": unsigned(12),
        "wait": unsigned(2),      # cycles before the first word, for the sake of short columns
        "job": JOB, "cell": CELL, "step": 1,
    })


def request_layout(params: Parameters):
    """A burst on the weight port: `length` words from word `address` on."""
    return data.StructLayout({"address": unsigned(params.weight_address_bits), "length": unsigned(12)})


def saturate(value, bits):
    """The nearest signed number of `bits` bits."""
    fits = (value[bits - 1:] == 0) | value[bits - 1:].all()
    sign = value[-1]
    return Mux(fits, value[:bits], Cat((~sign).replicate(bits - 1), sign)).as_signed()


def delay(m, value, cycles, domain="sync"):
    """`value`, `cycles` cycles later."""
    for _ in range(cycles):
        later = Signal.like(value, name=f"{getattr(value, 'name', 'value')}_d", reset_less=True)
        m.d[domain] += later.eq(value)
        value = later
    return value
