"""From a quantised network to a program: memory layout, descriptors, weight image, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .conv_compile import ConvProgram, compile_convs
from .conv_counts import kernel_bytes, pass_name
from .conv_layout import PASS_FIELDS, SLAB_FIELDS
from .errors import AmacrineError
from .fixed import PRE_FRAC, STATE_FRAC
from .layout import (
    CELL_FIELDS,
    CELL_JOBS,
    COLUMN_FIELDS,
    COLUMN_JOBS,
    INPUT_SOURCE,
    LIST_ENTRIES,
    MAX_VECTOR,
    CellKind,
    ColumnMode,
    Function,
    Parameters,
    Register,
    Route,
)
from .program import Program, ProgramJob, ProgramPass
from .qlayers import QGRU, QLSTM, Job, QConv, QDense, QLayer, layer_jobs, result_frac
from .quantised import QuantisedNetwork
from .schedule import Entry, schedule

FUNCTIONS = {"identity": Function.IDENTITY, "relu": Function.RELU, "sigmoid": Function.SIGMOID,
             "tanh": Function.TANH}
GRU_GROUPS = (2, 0, 1, 3)
"""Partial sums of a GRU in memory: n_x, r, z, n_h, so that the columns of either source go to three in a row."""
GRU_INPUT_GATES = (2, 0, 1)
MODES = {"delta": ColumnMode.DELTA, "threshold": ColumnMode.THRESHOLD, "map": ColumnMode.MAP}
BIAS_DIGITS = (1, 1 << 8, -(1 << 16))
"""Event values of a bias job: the bias is written as a sum of int8 multiples of them, the last one repeated."""


@dataclass
class Region:
    """A memory that is handed out from address 0 on; says at the end how much of it was asked for."""

    name: str
    size: int
    used: int = 0

    def take(self, length: int, align: int = 1) -> int:
        start = -(-self.used // align) * align
        self.used = start + length
        return start

    def check(self, network: str) -> None:
        if self.used > self.size:
            raise AmacrineError(f"Network {network!r} needs {self.used} {self.name}, and the gateware has "
                                f"{self.size}, {self.used - self.size} too few; generate it with more, or use "
                                "a smaller network.")


@dataclass
class Layout:
    """Where a program's data lies."""

    parameters: Parameters
    weights: list[np.ndarray] = field(default_factory=list)
    jobs: list[ProgramJob] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)
    cells: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        p = self.parameters
        self.vectors = Region("elements of vector memory", p.vector_depth)
        self.references = Region("elements of reference memory", p.reference_depth)
        self.states = Region("units of cell state memory", p.state_depth)
        self.psums = Region(f"words of {p.pes} partial sums", p.psum_depth)
        self.image = Region(f"words of {p.pes} weights", 1 << p.weight_address_bits)
        self.column_jobs = Region("column jobs", COLUMN_JOBS)
        self.cell_jobs = Region("cell jobs", CELL_JOBS)

    def vector(self, length: int) -> int:
        """Address of a new vector; the encoder reads whole words of `lanes` elements."""
        start = self.vectors.take(length, self.parameters.lanes)
        self.vectors.used = -(-self.vectors.used // self.parameters.lanes) * self.parameters.lanes
        return start

    def add_weights(self, weights: np.ndarray) -> int:
        """Append int8 (columns, words, K); returns the first word's address."""
        self.weights.append(weights.reshape(-1, self.parameters.pes))
        return self.image.take(len(self.weights[-1]))

    def add_column_job(self, job: ProgramJob, **fields: int) -> None:
        self.column_jobs.take(1)
        self.jobs.append(job)
        weights = fields.pop("weights")
        fields |= {"weight_low": weights & 0xFFFF, "weight_high": weights >> 16, "column_words": job.words,
                   "threshold": job.theta}
        self.columns.append([fields.get(name, 0) for name in COLUMN_FIELDS])

    def add_cell_job(self, fields: dict[str, int]) -> None:
        self.cell_jobs.take(1)
        self.cells.append([fields.get(name, 0) for name in CELL_FIELDS])

    def check(self, network: str) -> None:
        """Refuse what does not fit."""
        for region in (self.vectors, self.references, self.states, self.psums, self.image, self.column_jobs,
                       self.cell_jobs):
            region.check(network)


def compile_network(network: QuantisedNetwork, parameters: Parameters | None = None, *,
                    anticipate: bool = True) -> Program:
    """Lay a network out for gateware with the given parameters.

    Parameters
    ----------
    network : from ``quantise``; its convolutions need a CNN engine
    parameters : of the gateware; a program that does not fit is refused, with the limit and by how much
    anticipate : fetch recurrent columns of the next step before its input has come; the results are the same
    """
    return compile_together([network], parameters, anticipate=anticipate)[0]


def compile_together(networks: Sequence[QuantisedNetwork], parameters: Parameters | None = None, *,
                     anticipate: bool = True) -> list[Program]:
    """Lay several networks out side by side, each with a sequence of its own.

    The programs that are returned, one a network, have everything in common that a device is loaded with, so
    each of them loads all. They differ in what the device is told when it goes on with another network
    (``program.switch_writes``), and name the jobs of their own network only. Only one may have convolutions.
    """
    parameters = parameters or Parameters()
    layout = Layout(parameters)
    names = " and ".join(network.name for network in networks)
    places = [_place(layout, network, anticipate) for network in networks]
    if sum(place.head is not None for place in places) > 1:
        raise AmacrineError(f"Of the networks {names!r}, more than one has convolutions; the CNN engine serves one.")
    head = next((place.head for place in places if place.head), None)
    if head and head.scratch_words:         # maps that do not fit on chip, behind all weights
        head = head.with_scratch(layout.image.used, parameters.pes)
        layout.image.used = head.scratch_first + head.scratch_words
    layout.check(names)
    starts = [Entry(job.number, source=0).encode() for job in layout.jobs if job.encoder == "bias"]     # read no vector
    entries = starts + [entry for place in places for entry in place.loop]
    if len(entries) > LIST_ENTRIES:
        raise AmacrineError(f"Network {names!r} needs {len(entries)} column list entries, and the "
                            f"gateware has {LIST_ENTRIES}; use fewer layers.")
    arrays: dict[str, Any] = {
        "weights": np.concatenate(layout.weights), "columns": _rows(layout.columns, COLUMN_FIELDS),
        "cells": _rows(layout.cells, CELL_FIELDS), "entries": np.array(entries, np.uint16),
        "initial": np.concatenate([place.initial for place in places]),
        "passes": head.passes if head else _rows([], PASS_FIELDS),
        "slabs": head.slabs if head else _rows([], SLAB_FIELDS), "memory_words": layout.image.used,
    }
    shape = next((place.convs[0].shape for place in places if place.convs), None)
    if shape:
        arrays |= {"map_channels": shape.in_channels, "map_positions": shape.in_height * shape.in_width}
    programs, loop_end = [], len(starts)
    for place in places:
        loop_start, loop_end = loop_end, loop_end + len(place.loop)
        programs.append(Program(**(place.header | arrays), loop_start=loop_start, loop_end=loop_end))
    return programs


@dataclass(frozen=True, eq=False)
class _Place:
    """A network's part of a program.

    Parameters
    ----------
    convs, head : its convolutions, and what they became
    loop : the column list of a step
    initial : register writes
    header : what else its program has of its own
    """

    convs: Sequence[QConv]
    head: ConvProgram | None
    loop: list[int]
    initial: np.ndarray
    header: dict[str, Any]


def _place(layout: Layout, network: QuantisedNetwork, anticipate: bool) -> _Place:
    """Lay out one network behind those that are there."""
    parameters, first_job, first_cell = layout.parameters, len(layout.jobs), len(layout.cells)
    convs = [layer for layer in network.layers if isinstance(layer, QConv)]
    layers = network.layers[len(convs) :]       # convolutions come first, or there would be no such network
    head = _compile_head(layout, convs) if convs else None
    _check_sizes(layers, parameters)
    route, source = _route(layers, head), 0
    if route in (Route.VECTOR, Route.MAP_TO_VECTOR):
        source = layout.vector(layers[0].input.n)
        layout.vector(layers[0].input.n)        # the input's second place, right behind
    input_word = source // parameters.lanes
    reads = _Reads(source, True, head.output_order if head else None, route == Route.MAP_TO_EVENTS)
    cells, input_jobs, recurrent_jobs = [], [], []
    for number, layer in enumerate(layers):
        output = layout.vector(layer.size)
        input_jobs.append(len(layout.jobs))
        recurrent_jobs.append(None if isinstance(layer, QDense) else len(layout.jobs) + 1)
        cells.append(_add_layer(layout, layer, first_cell + number, reads, output))
        reads = _Reads(output)
    for number, cell in enumerate(cells):
        next_input = input_jobs[number + 1] if number + 1 < len(cells) else None
        cell |= {"wait_a": _wait(input_jobs[number]), "wait_b": _wait(recurrent_jobs[number]),
                 "wait_c": _wait(next_input)}
        cell["control"] |= (number == len(cells) - 1) << 14
        layout.add_cell_job(cell)
    loop = [entry if entry.source == INPUT_SOURCE else replace(entry, source=first_cell + entry.source)
            for entry in schedule(layout.jobs, input_jobs, recurrent_jobs, anticipate=anticipate)]
    return _Place(convs, head, [entry.encode() for entry in loop], _initial_writes(layers, cells), {
        "network": network.name, "parameters": parameters, "n_inputs": network.n_inputs,
        "input_frac": network.input_frac, "n_outputs": network.n_outputs, "output_frac": network.output_frac,
        "route": route, "input_word": input_word, "input_length": layers[0].input.n if layers else 0,
        "map_channels": 0, "map_positions": 0,
        "jobs": tuple(layout.jobs[first_job:]), "conv_jobs": _name_passes(convs, head),
        "input_order": (head.input_order if head else np.empty(0)).astype(np.int32),
        "output_order": (head.output_order if head and not layers else np.empty(0)).astype(np.int32)})


def _compile_head(layout: Layout, convs: Sequence[QConv]) -> ConvProgram:
    """The convolutions, their kernels in the weight image."""
    parameters = layout.parameters
    if parameters.conv is None:
        raise AmacrineError(f"Layer {convs[0].name!r} is a convolution, and this gateware has no CNN engine; generate "
                            "it with one (--parameter conv_macs=16), or use the golden engine.")
    head = compile_convs(convs, parameters.conv, parameters.pes, first_word=layout.image.used)
    layout.add_weights(head.kernels)
    return head


def _name_passes(convs: Sequence[QConv], head: ConvProgram | None) -> tuple[ProgramPass, ...]:
    """The passes as reports name them."""
    plans = head.plans if head else ()
    firsts = [number for number, (layer, _) in enumerate(plans) if not number or plans[number - 1][0] != layer]
    return tuple(ProgramPass(pass_name(convs[layer].name, number - firsts[layer]), convs[layer].name, number,
                             plan.out_first, plan.channels, kernel_bytes(plan))
                 for number, (layer, plan) in enumerate(plans))


def _route(layers: Sequence[QLayer], head: ConvProgram | None) -> Route:
    """Where inputs go: as events past the encoder if that would only leave out zeros."""
    if head is None:
        return Route.VECTOR
    if not layers:
        return Route.MAP_TO_HOST
    first = layers[0]
    plain = first.input.encoder == "threshold" and first.input.theta <= 1 and not first.input.rectify
    return Route.MAP_TO_EVENTS if plain and isinstance(first, QDense) else Route.MAP_TO_VECTOR


def _rows(rows: Sequence[Sequence[int]], fields: Sequence[str]) -> np.ndarray:
    """Descriptors, uint16 (rows, fields); there may be none."""
    return np.array(rows, np.uint16).reshape(-1, len(fields))


def _check_sizes(layers: Sequence[QLayer], parameters: Parameters) -> None:
    for layer in layers:
        for name, job in layer_jobs(layer).items():
            words = len(job.gates) * _blocks(job.height, parameters.pes)
            for length, what in ((job.source.n, "columns"), (layer.size, "units"), (words, "weight words a column")):
                if length > MAX_VECTOR:
                    raise AmacrineError(f"Layer {name!r} has {length} {what}, and the gateware allows "
                                        f"{MAX_VECTOR}; use a smaller layer or more PEs.")


def _blocks(height: int, pes: int) -> int:
    return -(-height // pes)


def _wait(job: int | None) -> int:
    return 0 if job is None else job | 1 << 15


@dataclass(frozen=True, eq=False)
class _Reads:
    """What a layer reads.

    Parameters
    ----------
    address : of the vector
    is_input : it is the network's input, which has two places
    order : of its elements, if it is not their own
    mapped : it is no vector, but the non-zero elements of a map
    """

    address: int
    is_input: bool = False
    order: np.ndarray | None = None
    mapped: bool = False


def _add_layer(layout: Layout, layer: QLayer, cell: int, reads: _Reads, output: int) -> dict[str, int]:
    """Column jobs, weights and partial sums of a layer; returns its cell descriptor's fields.

    Parameters
    ----------
    cell : number of its cell job
    output : address of the vector that it makes
    """
    parameters = layout.parameters
    blocks = _blocks(layer.size, parameters.pes)
    groups = 1 if isinstance(layer, QDense) else 4
    psum = layout.psums.take(groups * blocks)
    bias = psum
    if layer.input.encoder == "threshold":   # its partial sums start from the bias in each step
        bias = layout.psums.take(groups * blocks)
    for name, job in layer_jobs(layer).items():
        recurrent = job.source is not layer.input
        words = pack_columns(job, GRU_INPUT_GATES if isinstance(layer, QGRU) and not recurrent else None,
                             parameters.pes)
        if reads.order is not None and not recurrent:
            words = words[reads.order]
        delta = job.source.encoder == "delta"
        length = -(-job.source.n // parameters.lanes)
        encoder, theta = ("map", 0) if reads.mapped else (job.source.encoder, job.source.theta)
        layout.add_column_job(
            ProgramJob(name, len(layout.jobs), job.source.n, job.source.rows, words.shape[1], encoder, theta),
            source_word=(vector := (output if recurrent else reads.address) // parameters.lanes), length=length,
            odd_source_word=vector + (length if reads.is_input and not recurrent and not reads.mapped else 0),
            reference_word=layout.references.take(length * parameters.lanes) // parameters.lanes if delta else 0,
            weights=layout.add_weights(words), bias=bias,
            psum=psum + (blocks if recurrent and isinstance(layer, QGRU) else 0),
            control=MODES[encoder] | job.source.rectify << 2 | cell << 4,
        )
    words = pack_bias(_bias_groups(layer), parameters.pes)
    layout.add_column_job(
        ProgramJob(f"{layer.name}.bias", len(layout.jobs), len(words), layer.bias.size, words.shape[1], "bias", 0),
        weights=layout.add_weights(words), psum=bias, length=len(words), control=ColumnMode.BIAS | cell << 4)
    state = 0 if isinstance(layer, QDense) else layout.states.take(layer.size)
    return {"psum": psum, "blocks": blocks, "units": layer.size, "vector": output, "state": state,
            "control": _cell_control(layer)}


def _bias_groups(layer: QLayer) -> np.ndarray:
    """The layer's bias by partial-sum group, int64 (groups, H)."""
    bias = layer.bias.astype(np.int64).reshape(-1, layer.size)
    return bias[list(GRU_GROUPS)] if isinstance(layer, QGRU) else bias


def _cell_control(layer: QLayer) -> int:
    """The control field of a cell descriptor; the output bit is set for the last layer, later."""
    linear = isinstance(layer, QDense) and layer.activation in ("identity", "relu")
    kind = {QDense: CellKind.DENSE, QGRU: CellKind.GRU, QLSTM: CellKind.LSTM}[type(layer)]
    function = FUNCTIONS[layer.activation] if isinstance(layer, QDense) else 0
    shift = layer.input.scale - result_frac(layer)
    out_shift = 0 if linear else STATE_FRAC - layer.output_frac
    cell_shift = PRE_FRAC - layer.cell_frac if isinstance(layer, QLSTM) else 0
    return kind | function << 2 | shift << 4 | out_shift << 8 | cell_shift << 11


def pack_columns(job: Job, gates: tuple[int, ...] | None, pes: int) -> np.ndarray:
    """Weights column by column, gate by gate, each gate padded to whole words: int8 (n, words, K)."""
    weight = job.source.weight.reshape(len(job.gates), job.height, job.source.n)
    if gates is not None:
        weight = weight[list(gates)]
    return _pack(weight, pes)


def pack_bias(bias: np.ndarray, pes: int) -> np.ndarray:
    """Biases (groups, H) as columns for the event values BIAS_DIGITS: int8 (columns, words, K)."""
    digits = []
    rest = bias.copy()
    for _ in range(2):                     # balanced base-256 digits, lowest first
        digit = ((rest + 128) & 255) - 128
        digits.append(digit)
        rest = (rest - digit) >> 8
    rest = -rest                           # what is left is multiplied by -(1 << 16)
    while True:
        digit = np.clip(rest, -128, 127)
        digits.append(digit)
        rest = rest - digit
        if not rest.any():
            break
    return _pack(np.stack(digits, axis=-1).astype(np.int8), pes)


def _pack(weight: np.ndarray, pes: int) -> np.ndarray:
    """(groups, H, n) to (n, groups * ceil(H / K), K), padded with zeros."""
    groups, height, n = weight.shape
    padded = np.zeros((groups, _blocks(height, pes) * pes, n), np.int8)
    padded[:, :height] = weight
    return np.moveaxis(padded, -1, 0).reshape(n, -1, pes)


def _initial_writes(layers: Sequence[QLayer], cells: Sequence[dict[str, int]]) -> np.ndarray:
    """Register writes for initial states that are not zero (clearing has zeroed the others)."""
    writes = []
    for layer, cell in zip(layers, cells, strict=True):
        if not isinstance(layer, QGRU | QLSTM):
            continue
        inner = layer.initial_s if isinstance(layer, QGRU) else layer.initial_c
        for base, values in ((Register.VECTOR + cell["vector"], layer.initial_h),
                             (Register.STATE + cell["state"], inner)):
            writes += [(base + i, int(value)) for i, value in enumerate(values) if value]
    return np.array(writes, np.int32).reshape(-1, 2)
