"""A simulated board: the Verilated board gateware with its SDRAM chip, reached through its serial pins.

``SimulatedBoard`` is the board with a stopwatch, ``SimulatedPort`` connects the driver to it without an operating
system in between. Whoever wants a port that other programs can open takes sim/terminal.py.
"""

from __future__ import annotations

import ctypes
import select
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amacrine.boards.board import Board
from amacrine.boards.table import build_id
from amacrine.sw.errors import AmacrineError
from amacrine.sw.extras import need
from amacrine.sw.port import HasFileno

from .build import Function, build_library, load_library
from .sdram import VIOLATIONS

FAST_BIT_CYCLES = 4
"""Clock cycles in a bit of the line, unless told otherwise: a simulation has no time for the real speed."""
ROOM = 4096             # received bytes taken at once
LOOK_BYTES = 4          # between two looks at what was received, as time on the line


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """When steps began and ended in the engine.

    Parameters
    ----------
    started, finished : uint64 (T,), the cycle of a step's first input and of its last output element
    words : uint64 (T,), weight words consumed till then
    """

    started: np.ndarray
    finished: np.ndarray
    words: np.ndarray


class SimulatedBoard:
    """A board in simulation; its time passes only in ``run``.

    Parameters
    ----------
    board : which one
    baud : of its line; by default as many that a bit has FAST_BIT_CYCLES cycles
    """

    def __init__(self, board: Board, baud: int | None = None):
        need("amaranth", extra="sim")
        self.board, self.baud = board, baud or board.clock_hz // FAST_BIT_CYCLES
        self._library = load_library(_build(board, self.baud), "board", _FUNCTIONS)
        self._board = self._library.board_new(board.clock_hz / self.baud)
        self._watched: Stopwatch | None = None      # the library writes into its arrays

    def __enter__(self) -> SimulatedBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._board:
            self._library.board_delete(self._board)
            self._board = None

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return int(self._library.board_cycles(self._board))

    @property
    def unsent(self) -> int:
        """Bytes that are still to go to the board."""
        return int(self._library.board_unsent(self._board))

    @property
    def lights(self) -> dict[str, bool]:
        """The LEDs, but for the one that blinks."""
        bits = int(self._library.board_lights(self._board))
        return {name: bool(bits >> bit & 1) for bit, name in enumerate(("active", "busy", "fault", "initialised"))}

    def send(self, data: bytes) -> None:
        """Put bytes on the line, behind those that are still to go."""
        self._library.board_send(self._board, data, len(data))

    def run(self, cycles: int, wanted: int = 0) -> bytes:
        """Let time pass, and return what the board sent, by the byte; see `run_timed`."""
        return self.run_timed(cycles, wanted)[0]

    def run_timed(self, cycles: int, wanted: int = 0) -> tuple[bytes, np.ndarray]:
        """Let time pass, and return what the board sent.

        Parameters
        ----------
        cycles : at most so many
        wanted : stop when so many bytes have come; 0 takes all that come

        Returns
        -------
        bytes, and for each the cycle in which its stop bit came, uint64

        Raises
        ------
        AmacrineError : the SDRAM chip was misused
        """
        self._library.board_run(self._board, cycles, wanted)
        if violation := int(self._library.board_violation(self._board)):
            raise AmacrineError(f"The SDRAM controller broke a rule of the chip: {VIOLATIONS[violation]}; this is a "
                                "fault in Amacrine, please report it.")
        data, times = bytearray(), []
        buffer, stamps = ctypes.create_string_buffer(ROOM), np.empty(ROOM, np.uint64)
        while count := self._library.board_take(self._board, buffer, stamps.ctypes.data, ROOM):
            data += buffer.raw[:count]
            times.append(stamps[:count].copy())
        return bytes(data), np.concatenate(times) if times else np.empty(0, np.uint64)

    def reset(self, cycles: int = 16) -> None:
        """Press the reset button. Block RAM and SDRAM keep what they hold."""
        self._library.board_reset(self._board, cycles)

    def preload(self, weights: np.ndarray) -> None:
        """Put a program's weights, int8 (words, K), into the SDRAM without the line: the driver finds them there."""
        words = np.ascontiguousarray(weights).reshape(-1).view(np.uint16)
        self._library.board_preload(self._board, words.ctypes.data, len(words))

    def hold_line(self, cycles: int) -> None:
        """A break: the line towards the board is low for the next cycles."""
        self._library.board_break(self._board, cycles)

    def watch(self, steps: int, n_inputs: int, n_outputs: int) -> Stopwatch:
        """Start the stopwatch; its arrays fill as the simulation runs."""
        self._watched = Stopwatch(*(np.zeros(steps, np.uint64) for _ in range(3)))
        arrays = (self._watched.started, self._watched.finished, self._watched.words)
        self._library.board_watch(self._board, *(array.ctypes.data for array in arrays), steps, n_inputs, n_outputs)
        return self._watched


class SimulatedPort:
    """The port of a simulated board for the driver, ``Device(SimulatedPort(board), timeout=...)``: see ``sw/port.py``.

    Waiting takes the board's time, not the machine's, so what the driver does can be repeated to the cycle. Only the
    driver's own time-out runs by the machine's clock: make it long.

    Parameters
    ----------
    longest_wait_s : seconds of the board's time after which ``receive`` returns in any case
    """

    def __init__(self, board: SimulatedBoard, longest_wait_s: float = 0.1):
        self.longest_wait_s = longest_wait_s
        self.board, self.name = board, f"the simulated {board.board.name}"
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        self.board.send(data)

    def sleep_until(self, cycle: int) -> None:
        """Let the board's time pass while nobody looks at the port; what arrives is kept."""
        self._received += self.board.run(max(0, cycle - self.board.cycles))

    def receive(self, wait: float | None, wake: HasFileno | None = None) -> bytes:
        """What has arrived, as soon as something has; nothing after ``wait`` seconds."""
        if self._received:
            data = bytes(self._received)
            self._received.clear()
            return data
        clock_hz = self.board.board.clock_hz
        seconds = self.longest_wait_s if wait is None else min(wait, self.longest_wait_s)
        end = self.board.cycles + round(seconds * clock_hz)
        look = LOOK_BYTES * 10 * clock_hz // self.board.baud
        while not (data := self.board.run(look)) and self.board.cycles < end:
            if wake is not None and select.select([wake], [], [], 0)[0]:
                break
        return data

    def close(self) -> None:
        """Nothing to give back; the board goes on."""


def _build(board: Board, baud: int) -> Path:
    from .board_top import SimulatedBoardTop

    # build_id: the digest of all that describes boards, too; the gateware tells it. A test's board may be another.
    key = f"board {board.name} {board.parameters} {board.buffers} {baud} {build_id()}"
    return build_library(key, lambda: SimulatedBoardTop(board, baud), "sdram.v", "board.cpp")


_POINTER, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
_FUNCTIONS: tuple[Function, ...] = (
    ("new", _POINTER, [ctypes.c_double]), ("delete", None, [_POINTER]), ("cycles", _U64, [_POINTER]),
    ("violation", _U32, [_POINTER]), ("lights", _U32, [_POINTER]), ("reset", None, [_POINTER, _U32]),
    ("break", None, [_POINTER, _U64]), ("send", None, [_POINTER, ctypes.c_char_p, _U32]), ("unsent", _U64, [_POINTER]),
    ("watch", None, [_POINTER] * 4 + [_U64] * 3), ("run", None, [_POINTER, _U64, _U64]),
    ("preload", None, [_POINTER, _POINTER, _U32]), ("take", _U32, [_POINTER, ctypes.c_char_p, _POINTER, _U32]),
)
