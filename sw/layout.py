"""What gateware and compiler must agree on: generator parameters, descriptors, register map.

Plain Python, so that the compiler and the host driver need no Amaranth. Described in docs/program.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum

from .conv_layout import ConvParameters
from .errors import AmacrineError

CONV_PREFIX = "conv_"
KERNEL_BURST = 64
"""Words in a burst of kernels, at most."""


@dataclass(frozen=True)
class Parameters:
    """What is fixed when the gateware is generated; a program must fit it.

    Parameters
    ----------
    pes : processing elements K, so weights in a weight word. Costs a multiplier, two 32-bit partial-sum
        memories and about 60 LUTs each.
    lanes : vector elements that the encoder looks at in a cycle. Costs about 100 LUTs each.
    vector_depth : elements of vector memory (16 bits each), for all vectors of a program.
    reference_depth : elements of reference memory x̂ (16 bits each), for all delta sources.
    state_depth : units of cell state memory (16 bits each), for all recurrent layers.
    psum_depth : words of K partial sums, for all layers.
    queue_depth : events between encoder and processing elements; covers the weight memory's latency.
    weight_address_bits : width of a weight word's address.
    conv : of the CNN engine, whose P is K times a power of two; None builds none.
    """

    pes: int = 8
    lanes: int = 2
    vector_depth: int = 4096
    reference_depth: int = 4096
    state_depth: int = 2048
    psum_depth: int = 0
    queue_depth: int = 16
    weight_address_bits: int = 24
    conv: ConvParameters | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.pes <= 64:
            raise AmacrineError(f"The number of PEs must be 1 to 64, not {self.pes!r}.")
        if self.psum_depth == 0:  # room for 8192 partial sums, whatever K
            object.__setattr__(self, "psum_depth", -(-8192 // self.pes))
        powers = ("lanes", "vector_depth", "reference_depth", "state_depth", "queue_depth")
        for name, low, high in (("lanes", 1, 16), ("vector_depth", 16, 65536), ("reference_depth", 16, 65536),
                                ("state_depth", 2, 32768), ("psum_depth", 4, 32768), ("queue_depth", 8, 64),
                                ("weight_address_bits", 8, 32)):
            value = getattr(self, name)
            if not low <= value <= high or (name in powers and value & (value - 1)):
                power = "a power of two, " if name in powers else ""
                raise AmacrineError(f"The parameter {name} must be {power}{low} to {high}, not {value!r}.")
        if self.conv:
            ratio = self.conv.macs // self.pes
            if ratio * self.pes != self.conv.macs or ratio & (ratio - 1) or not 1 <= ratio <= KERNEL_BURST:
                raise AmacrineError(f"The CNN engine's {self.conv.macs} MACs must be {self.pes} PEs times a power of "
                                    f"two up to {KERNEL_BURST}; generate it with another number of one of them.")
            if self.conv.external and self.pes % 2:
                raise AmacrineError("Feature maps in external memory need an even number of PEs, not "
                                    f"{self.pes}; generate it with another one, or without conv_external.")

    @property
    def writes(self) -> bool:
        """Whether the engine writes to weight memory: maps that do not fit on chip."""
        return self.conv is not None and self.conv.external == 1

    def as_dict(self) -> dict[str, int]:
        """Names and values, for program headers and reports; those of a CNN engine that is not there are 0."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "conv"}
        return own | {CONV_PREFIX + item.name: getattr(self.conv, item.name) if self.conv else 0
                      for item in fields(ConvParameters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> Parameters:
        """What `as_dict` gave; AmacrineError or TypeError for values or names that cannot be."""
        if not isinstance(values, Mapping):
            raise TypeError(f"parameters must have names, which {values!r} has not")
        conv = {name.removeprefix(CONV_PREFIX): value for name, value in values.items() if name.startswith(CONV_PREFIX)}
        own = {name: value for name, value in values.items() if not name.startswith(CONV_PREFIX)}
        return cls(**own, conv=ConvParameters(**conv) if any(conv.values()) else None)


MAX_VECTOR = 4095
"""Longest vector that the descriptors can express, in elements."""

COLUMN_JOBS = 32
CELL_JOBS = 15
LIST_ENTRIES = 64
INPUT_SOURCE = 15
"""Source number of the vector that the host streams in; smaller numbers are cell jobs."""


class ColumnMode(IntEnum):
    """How a column job turns a vector into events."""

    DELTA = 0
    THRESHOLD = 1
    BIAS = 2
    MAP = 3        # no vector: the events are the elements, not zero, of the map that a convolution makes


class Route(IntEnum):
    """Where the host's inputs go, and what the CNN engine makes of them."""

    VECTOR = 0           # inputs are vectors, for vector memory
    MAP_TO_VECTOR = 1    # inputs are maps; the CNN engine's results are the input vector
    MAP_TO_EVENTS = 2    # its results are the events of a column job with mode MAP
    MAP_TO_HOST = 3      # its results are the outputs


class CellKind(IntEnum):
    """What a cell job does with its partial sums."""

    DENSE = 0
    GRU = 1
    LSTM = 2


class Function(IntEnum):
    """Activation of a dense cell."""

    IDENTITY = 0
    RELU = 1
    SIGMOID = 2
    TANH = 3


# Descriptors are rows of 16-bit fields, written by the host as 32-bit pairs, first field in the low half.
COLUMN_FIELDS = (
    "source_word",     # first word of the source vector, `lanes` elements a word, in even steps
    "length",          # words of the source vector; events of a bias job
    "reference_word",  # first word of x̂ (delta)
    "threshold",       # Θ in LSBs of the source
    "weight_low",      # first weight word of column 0
    "weight_high",
    "column_words",    # weight words in a column, and its stride
    "psum",            # first partial-sum word
    "bias",            # first word of the bias copy (threshold)
    "control",         # mode[1:0], rectify[2]: negative counts as zero, cell[7:4]: the cell job of these partial sums
    "odd_source_word", # the same as source_word in odd steps: the input has two places
    "pad",
)
CELL_FIELDS = (
    "psum",     # first partial-sum word; gate g follows at psum + g·blocks
    "blocks",   # partial-sum words a gate: ceil(units / K)
    "units",    # elements of the result
    "state",    # first element in cell state memory
    "vector",   # first element of the result in vector memory
    "control",  # kind[1:0] function[3:2] shift[7:4] out_shift[10:8] cell_shift[13:11] output[14]
    "wait_a",   # column job that must be done in this step [4:0], used[15]
    "wait_b",   # another
    "wait_c",   # column job whose previous step must be scanned: the last reader of the old vector
    "pad",
)
# List entries: job[4:0] next_step[5] optional[6] source[11:8] source_back[12]


class Register(IntEnum):
    """Word addresses on the engine's register bus (32-bit words)."""

    IDENTITY = 0x0000     # read: 0x414D4143, "AMAC"
    CONTROL = 0x0001      # write: bit 0 halt and clear, 1 run, 2 halt; read: bit 0 clearing, 1 runs, 2 quiet
    LIST_LOOP = 0x0002    # write: list entry a step starts with [7:0], the one behind its last [15:8], and behind those
                          # that run once a sequence [23:16]
    CELL_COUNT = 0x0003   # write: cell jobs a step
    INPUT = 0x0004        # write: first word in vector memory [15:0], length [31:16] of the input vector or flat map
    ROUTE = 0x0005        # write: a `Route`
    RESUME = 0x0006       # write, while halted and quiet: the next input is that of step [1:0], modulo 4, of the list
    PARAMETERS = 0x0010   # read: one word a parameter, in the order of `Parameters`
    LIST = 0x0100         # write: list entries
    COLUMN = 0x0200       # write: column descriptors, 8 words apart
    CELL = 0x0400         # write: cell descriptors, 8 words apart
    COUNTERS = 0x0600     # read: counters of column job j at 8·j, in the order of COUNTER_FIELDS
    CONV = 0x8000         # the CNN engine's registers, `conv_layout.ConvRegister`
    VECTOR = 0x10000      # read, write while idle: vector memory, one element a word
    STATE = 0x20000       # read, write while idle: cell state memory


IDENTITY = 0x414D4143
COUNTER_FIELDS = ("events", "words", "wait_events", "wait_weights", "wait_psums")

CLEAR, RUN, HALT = 1, 2, 4
"""Bits of the CONTROL register, written."""
CLEARING, QUIET = 1, 4
"""Bits of the CONTROL register, read."""
