"""A compiled network: weight image, descriptors, and what the host needs to know. One file; docs/program.md."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .errors import AmacrineError
from .files import write_atomically
from .layout import Parameters, Register

FORMAT_VERSION = 1
ARRAYS = {"weights": np.int8, "columns": np.uint16, "cells": np.uint16, "entries": np.uint16,
          "initial": np.int32}


@dataclass(frozen=True)
class ProgramJob:
    """A column job as reports name it.

    Parameters
    ----------
    name : golden's name for it, ``<layer>.input``, ``<layer>.recurrent``, or ``<layer>.bias``
    number : column job in the gateware
    columns, rows, words : columns, rows without padding, and weight words of a column
    encoder : ``delta``, ``threshold`` or ``bias``
    theta : threshold in LSBs of the source vector
    """

    name: str
    number: int
    columns: int
    rows: int
    words: int
    encoder: str
    theta: int


@dataclass(frozen=True, eq=False)
class Program:
    """What the gateware runs.

    Parameters
    ----------
    network : the network's name
    parameters : of the gateware it was compiled for
    n_inputs, input_frac, n_outputs, output_frac : vectors of the host, and their fractional bits
    input_word : first word of the input in vector memory
    loop_start : column list entry that a step starts with
    jobs : column jobs by number
    weights : int8 (words, K)
    columns, cells : uint16 (jobs, fields), rows of ``layout.COLUMN_FIELDS`` and ``layout.CELL_FIELDS``
    entries : uint16 (entries,), the column list
    initial : int32 (n, 2), register addresses and values to write between clearing and running
    """

    network: str
    parameters: Parameters
    n_inputs: int
    input_frac: int
    n_outputs: int
    output_frac: int
    input_word: int
    loop_start: int
    jobs: tuple[ProgramJob, ...]
    weights: np.ndarray
    columns: np.ndarray
    cells: np.ndarray
    entries: np.ndarray
    initial: np.ndarray

    def job(self, name: str) -> ProgramJob:
        """The job called ``name``."""
        return next(job for job in self.jobs if job.name == name)

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values."""
        return {
            "network": self.network, "parameters": self.parameters.as_dict(),
            "n_inputs": self.n_inputs, "input_frac": self.input_frac,
            "n_outputs": self.n_outputs, "output_frac": self.output_frac,
            "input_word": self.input_word, "loop_start": self.loop_start,
            "jobs": [asdict(job) for job in self.jobs],
        }

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
            header["jobs"] = tuple(ProgramJob(**job) for job in header["jobs"])
            return cls(**header, **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise AmacrineError(f"{path} is damaged: its header lacks or garbles {error}; "
                                "compile it again.") from None


def register_writes(program: Program) -> list[tuple[int, int]]:
    """Address and value of every register a program sets, descriptors included."""
    writes = [(Register.LIST + row, int(entry)) for row, entry in enumerate(program.entries)]
    for base, rows in ((Register.COLUMN, program.columns), (Register.CELL, program.cells)):
        pairs = rows.astype(np.uint32)[:, ::2] | rows.astype(np.uint32)[:, 1::2] << 16
        writes += [(base + 8 * row + pair, int(value)) for (row, pair), value in np.ndenumerate(pairs)]
    return [*writes, (Register.LIST_LOOP, program.loop_start | len(program.entries) << 8),
            (Register.CELL_COUNT, len(program.cells)),
            (Register.INPUT, program.input_word | program.n_inputs << 16)]


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
