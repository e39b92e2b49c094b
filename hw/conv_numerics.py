"""Payloads of the CNN engine; what they mean is in docs/convolution.md."""

from amaranth.hdl import Cat, Const, Mux, unsigned
from amaranth.lib import data

from amacrine.sw.conv_layout import EXTERNAL_ALIGN, EXTERNAL_BIT, MAX_CHANNELS, MAX_SIDE, ConvParameters

from .numerics import ACTIVATION

SIDE = range(MAX_SIDE + 1)
CHANNEL = range(MAX_CHANNELS + 1)
EXTERNAL_POINTER = unsigned(EXTERNAL_BIT + 1)


def pointer_shape(params: ConvParameters, depth: int):
    """Of an address in a plane of feature memory; with EXTERNAL_BIT set it counts elements of external memory."""
    return EXTERNAL_POINTER if params.external else range(depth)


def map_pointer(params: ConvParameters, map_field, value):
    """Where a slab's map words begin, from the fields of a descriptor that say where map words and values lie."""
    if not params.external:
        return map_field
    high = Cat(Const(0, EXTERNAL_ALIGN.bit_length() - 1), map_field[:16])
    return Mux(value[EXTERNAL_BIT], Cat(high, Const(1)), map_field)


def chunk_layout(params: ConvParameters):
    """Up to L results of one position, channels ascending from lane 0; lanes that are not `used` are zero."""
    return data.StructLayout({
        "values": data.ArrayLayout(ACTIVATION, params.lanes), "used": unsigned(params.lanes),
        "last": 1,          # it ends its position
    })


def map_write_layout(params: ConvParameters):
    """A word for the sparsity maps in feature memory."""
    return data.StructLayout({"address": pointer_shape(params, params.map_depth), "bits": unsigned(16)})


def value_write_layout(params: ConvParameters):
    """A value for feature memory, and if there are `two`, the next one, for the address behind."""
    return data.StructLayout({
        "address": pointer_shape(params, params.value_depth), "value": ACTIVATION, "next_value": ACTIVATION, "two": 1})


FEATURE = data.StructLayout({
    "row_end": 1,           # no element: all of this input row have been sent
    "last": 1,              # with row_end: the map has ended
    "x": SIDE, "channel": CHANNEL,
    "value": ACTIVATION,
})
"""What the map decoder sends: a non-zero element, or the end of a row."""


def conv_op_layout(params: ConvParameters):
    """A run of multiply-accumulate cycles, or the end of an input row."""
    return data.StructLayout({
        "row_end": 1,       # no run: `final` more output rows will get nothing more
        "final": SIDE,
        "last": 1,          # with row_end: the pass has ended, its kernels may be overwritten
        "bank": 1, "psum": range(params.psum_depth // 2),    # first word of partial sums
        "kernel": range(params.kernel_depth),                # first kernel word, from the pass's first on
        "words": unsigned(13), "value": ACTIVATION,
    })


def finished_layout(params: ConvParameters):
    """What the finisher sends: a chunk of results with what pooling has to know of its position."""
    return data.StructLayout({
        "chunk": chunk_layout(params),
        "x_odd": 1, "y_odd": 1, "row_last": 1,
        "first": 1, "final": 1,         # of the map's first position, of its last
    })


def result_layout(params: ConvParameters):
    """A chunk of a pass's final results, or the end of the pass."""
    return data.StructLayout({"end": 1, "chunk": chunk_layout(params)})
