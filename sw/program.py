"""A compiled network: weight image, descriptors, and what the host needs to know. One file; docs/program.md."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .conv_layout import CONV_COUNTER_FIELDS, SLAB_FIELDS, ConvRegister
from .errors import AmacrineError
from .files import write_atomically
from .layout import COLUMN_FIELDS, COUNTER_FIELDS, ColumnMode, Parameters, Register, Route

FORMAT_VERSION = 2
ARRAYS = {"weights": np.int8, "columns": np.uint16, "cells": np.uint16, "entries": np.uint16, "initial": np.int32,
          "passes": np.uint16, "slabs": np.uint16, "input_order": np.int32, "output_order": np.int32}


@dataclass(frozen=True)
class ProgramJob:
    """A column job as reports name it.

    Parameters
    ----------
    name : golden's name for it, ``<layer>.input``, ``<layer>.recurrent``, or ``<layer>.bias``
    number : column job in the gateware
    columns, rows, words : columns, rows without padding, and weight words of a column
    encoder : ``delta``, ``threshold``, ``bias``, or ``map`` for the non-zero elements of a convolution's result
    theta : threshold in LSBs of the source vector
    """

    name: str
    number: int
    columns: int
    rows: int
    words: int
    encoder: str
    theta: int


@dataclass(frozen=True)
class ProgramPass:
    """A pass of the CNN engine as reports name it.

    Parameters
    ----------
    name : the layer's name, and behind it the pass's number in the layer, from 1 on: ``<layer>.pass1``
    layer : the layer
    number : pass in the gateware
    first_channel, channels : output channels
    kernel_bytes : bytes of kernels and biases that the pass fetches in each step
    """

    name: str
    layer: str
    number: int
    first_channel: int
    channels: int
    kernel_bytes: int


class CounterPlace(NamedTuple):
    """Where the counters of a column job or pass can be read.

    Parameters
    ----------
    name : of the job or pass
    address : register of the first counter
    names : of the counters, in the order of their registers
    """

    name: str
    address: int
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """What the gateware runs.

    Parameters
    ----------
    network : the network's name
    parameters : of the gateware it was compiled for
    n_inputs, input_frac, n_outputs, output_frac : vectors of the host, and their fractional bits
    route : where the host's inputs go, ``layout.Route``
    input_word, input_length : first word of the input in vector memory, and elements of the vector or flat map that the
        first layer behind the convolutions reads; 0 if there is none
    map_channels, map_positions : channels, and rows times columns, of the host's maps; 0 without convolutions
    memory_words : words of K weights from address 0 on that it uses: the weights and, behind them, maps that do not fit
        on chip
    loop_start, loop_end : column list entry that a step starts with, and the one behind its last; what is between
        those that run once a sequence and `loop_start`, or behind `loop_end`, is of other networks
    jobs : column jobs by number
    conv_jobs : passes of the CNN engine by number
    weights : int8 (words, K): of each network kernels, then columns
    columns, cells : uint16 (jobs, fields), rows of ``layout.COLUMN_FIELDS`` and ``layout.CELL_FIELDS``
    entries : uint16 (entries,), the column list
    initial : int32 (n, 2), register addresses and values to write between clearing and running
    passes, slabs : uint16, rows of ``conv_layout.PASS_FIELDS`` and ``conv_layout.SLAB_FIELDS``
    input_order, output_order : int32, for each element in the order of the gateware's streams, its index in the host's
        vectors; empty if the orders are the same
    """

    network: str
    parameters: Parameters
    n_inputs: int
    input_frac: int
    n_outputs: int
    output_frac: int
    route: Route
    input_word: int
    input_length: int
    map_channels: int
    map_positions: int
    memory_words: int
    loop_start: int
    loop_end: int
    jobs: tuple[ProgramJob, ...]
    conv_jobs: tuple[ProgramPass, ...]
    weights: np.ndarray
    columns: np.ndarray
    cells: np.ndarray
    entries: np.ndarray
    initial: np.ndarray
    passes: np.ndarray
    slabs: np.ndarray
    input_order: np.ndarray
    output_order: np.ndarray

    def job(self, name: str) -> ProgramJob:
        """The job called ``name``."""
        return next(job for job in self.jobs if job.name == name)

    def counters(self) -> list[CounterPlace]:
        """The counters of all column jobs and passes."""
        jobs = [CounterPlace(job.name, Register.COUNTERS + 8 * job.number, COUNTER_FIELDS) for job in self.jobs]
        base = Register.CONV + ConvRegister.COUNTERS
        return jobs + [CounterPlace(each.name, base + 4 * each.number, CONV_COUNTER_FIELDS) for each in self.conv_jobs]

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values."""
        return {
            "network": self.network, "parameters": self.parameters.as_dict(),
            "n_inputs": self.n_inputs, "input_frac": self.input_frac,
            "n_outputs": self.n_outputs, "output_frac": self.output_frac,
            "route": int(self.route), "input_word": self.input_word, "input_length": self.input_length,
            "map_channels": self.map_channels, "map_positions": self.map_positions,
            "memory_words": self.memory_words, "loop_start": self.loop_start, "loop_end": self.loop_end,
            "jobs": [asdict(job) for job in self.jobs], "conv_jobs": [asdict(job) for job in self.conv_jobs],
        }

    def streamed(self, inputs: np.ndarray) -> np.ndarray:
        """The host's inputs (..., n_inputs) in the order in which the gateware takes their elements."""
        return inputs[..., self.input_order] if len(self.input_order) else inputs

    def restored(self, outputs: np.ndarray) -> np.ndarray:
        """The gateware's outputs (..., n_outputs) in the host's order."""
        if not len(self.output_order):
            return outputs
        restored = np.empty_like(outputs)
        restored[..., self.output_order] = outputs
        return restored

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(getattr(self, name), dtype) for name, dtype in ARRAYS.items()}

    def checksum(self) -> str:
        """SHA-256 of header and arrays, in hexadecimal."""
        return _checksum(self.header(), self.arrays())

    def save(self, path: str | Path) -> None:
        """Write the program file; the same program gives the same bytes."""
        metadata = {"format": "amacrine program", "version": str(FORMAT_VERSION),
                    "header": _canonical(self.header()), "checksum": self.checksum()}
        write_atomically(Path(path), _sorted_metadata(save(self.arrays(), metadata)))

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a program file; ``AmacrineError`` if it is missing, damaged, or of another version."""
        path = Path(path)
        if not path.is_file():
            raise AmacrineError(f"There is no program file {path}; make one with 'amacrine compile'.")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise AmacrineError(f"{path} is not a program file, or is truncated ({error}); "
                                "compile it again.") from None
        if metadata.get("format") != "amacrine program":
            raise AmacrineError(f"{path} is a safetensors file but not a program; make one with "
                                "'amacrine compile'.")
        if metadata.get("version") != str(FORMAT_VERSION):
            raise AmacrineError(f"{path} is a program of format version {metadata.get('version')}, and this "
                                f"Amacrine reads version {FORMAT_VERSION}; compile it again.")
        try:
            header = json.loads(metadata["header"])
            if _checksum(header, arrays) != metadata["checksum"] or set(arrays) != set(ARRAYS):
                raise AmacrineError(f"{path} is damaged: its checksum does not match; compile it again.")
            header["parameters"] = Parameters.from_dict(header["parameters"])
            header["route"] = Route(header["route"])
            header["jobs"] = tuple(ProgramJob(**job) for job in header["jobs"])
            header["conv_jobs"] = tuple(ProgramPass(**job) for job in header["conv_jobs"])
            return cls(**header, **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise AmacrineError(f"{path} is damaged: its header lacks or garbles {error}; "
                                "compile it again.") from None


def register_writes(program: Program) -> list[tuple[int, int]]:
    """Address and value of every register a program sets, descriptors included."""
    writes = [(Register.LIST + row, int(entry)) for row, entry in enumerate(program.entries)]
    writes += [*_table(Register.COLUMN, 8, program.columns), *_table(Register.CELL, 8, program.cells)]
    writes += [(Register.CONV + address, value) for address, value in _conv_writes(program)]
    return [*writes, (Register.CELL_COUNT, len(program.cells)), *switch_writes(program)]


def switch_writes(program: Program) -> list[tuple[int, int]]:
    """Address and value of the registers that tell which of the networks in a device is at work."""
    control = COLUMN_FIELDS.index("control")
    starts = sum(int(row[control]) & 3 == ColumnMode.BIAS for row in program.columns)       # each listed once, first
    return [(Register.LIST_LOOP, program.loop_start | program.loop_end << 8 | starts << 16),
            (Register.INPUT, program.input_word | program.input_length << 16), (Register.ROUTE, program.route)]


def network_key(program: Program) -> tuple[tuple[int, int], ...]:
    """What tells the networks in a device apart, however often their programs were read or compiled."""
    return tuple(switch_writes(program))


def check_switch(present: Program | None, program: Program) -> None:
    """Refuse to go on with a program that was not compiled together with the present one."""
    if present is None or not (np.array_equal(program.entries, present.entries)
                               and np.array_equal(program.columns, present.columns)):
        raise AmacrineError(f"Network {program.network!r} was not compiled together with what is loaded; "
                            "load its program first.")


def _conv_writes(program: Program) -> list[tuple[int, int]]:
    """Address and value of the CNN engine's registers, if there is one; it stands still without convolutions."""
    if not len(program.passes):
        return [] if program.parameters.conv is None else [(ConvRegister.RUN, 0)]
    return conv_writes(program.passes, program.slabs, program.map_channels, program.map_positions)


def conv_writes(passes: np.ndarray, slabs: np.ndarray, channels: int, positions: int) -> list[tuple[int, int]]:
    """Address and value of the registers that a CNN engine needs for these descriptors and input maps; it runs then."""
    writes = [*_table(ConvRegister.PASSES, 16, passes), *_table(ConvRegister.SLABS, 4, slabs),
              (ConvRegister.COUNT, len(passes)), (ConvRegister.CHANNELS, channels), (ConvRegister.POSITIONS, positions)]
    for step, place in enumerate(("EVEN", "ODD")):
        slab = dict(zip(SLAB_FIELDS, map(int, slabs[step]), strict=True))
        writes += [(ConvRegister[f"{place}_MAP"], slab["map"]),
                   (ConvRegister[f"{place}_VALUE"], slab["value_low"] | slab["value_high"] << 16)]
    return [*writes, (ConvRegister.RUN, 1)]


def _table(base: int, stride: int, rows: np.ndarray) -> list[tuple[int, int]]:
    """Writes of descriptors, uint16 (rows, fields): two fields a word, the rows ``stride`` words apart."""
    pairs = rows.astype(np.uint32)[:, ::2] | rows.astype(np.uint32)[:, 1::2] << 16
    return [(base + stride * row + pair, int(value)) for (row, pair), value in np.ndenumerate(pairs)]


def _canonical(header: dict[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, separators=(",", ":"))


def _checksum(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(_canonical(header).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _sorted_metadata(data: bytes) -> bytes:
    """A safetensors file with its JSON header in sorted order: safetensors itself writes metadata unordered."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
