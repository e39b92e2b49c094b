"""A simulated engine with the interface of a device: load a program, start a sequence, stream vectors.

Python wakes once a frame or less; the clock runs in C++ (sim/harness.cpp).
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amacrine.sw.errors import AmacrineError
from amacrine.sw.layout import CLEAR, CLEARING, HALT, QUIET, RUN, Parameters, Register
from amacrine.sw.program import Program, check_switch, network_key, register_writes, switch_writes

from .build import Function, build_simulation, load_library

CHUNK_CYCLES = 100_000          # between two looks at the progress
DEAD_CYCLES = 50_000_000        # without an output: something is wrong


@dataclass(frozen=True, eq=False)
class SimulatedRun:
    """What came out of the simulated engine.

    Parameters
    ----------
    outputs : int16 (T, n_outputs)
    started, finished : uint64 (T,), the cycle in which a step's first input element went in, its last output
        element came out
    cycles : clock cycles from the first step's start to the last one's end
    """

    outputs: np.ndarray
    started: np.ndarray
    finished: np.ndarray
    words: np.ndarray

    @property
    def cycles_per_step(self) -> np.ndarray:
        """Cycles between the ends of successive steps, the first one from its start; int64 (T,)."""
        begins = np.concatenate([self.started[:1], self.finished[:-1]])
        return self.finished.astype(np.int64) - begins.astype(np.int64)

    @property
    def latency(self) -> np.ndarray:
        """Cycles from a step's first input element to its last output element; int64 (T,)."""
        return self.finished.astype(np.int64) - self.started.astype(np.int64)


class SimulatedEngine:
    """The Verilated engine with an ideal weight memory.

    Parameters
    ----------
    parameters : of the gateware that is simulated
    weight_words : words of weight memory to provide at least
    latency : cycles from a weight request to its first word, 1 or 3 to 128
    memory_stall : share of the cycles, 0 to 1, in which the memory delivers nothing
    """

    def __init__(self, parameters: Parameters | None = None, weight_words: int = 1, *, latency: int = 1,
                 memory_stall: float = 0.0):
        self.parameters = parameters or Parameters()
        if not 1 <= latency <= 128 or not 0 <= memory_stall < 1:
            raise AmacrineError(f"The memory's latency must be 1 to 128 cycles and its stall share below 1, not "
                                f"{latency} and {memory_stall}.")
        # A few sizes only, so that most programs share one build; 4 MiB holds NSNet2.
        depth = max(4 << 20, 1 << (weight_words * self.parameters.pes - 1).bit_length()) // self.parameters.pes
        self._library = load_library(build_simulation(self.parameters, depth), "simulation", FUNCTIONS)
        self._simulation = self._library.simulation_new()
        self._library.simulation_memory(self._simulation, latency, int(memory_stall * 256))
        self.program: Program | None = None
        self._steps: Counter[tuple[tuple[int, int], ...]] = Counter()     # of the present sequence, by `network_key`

    def __enter__(self) -> SimulatedEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._simulation:
            self._library.simulation_delete(self._simulation)
            self._simulation = None

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return int(self._library.simulation_cycles(self._simulation))

    def write(self, address: int, value: int) -> None:
        """Write a register."""
        self._library.simulation_write(self._simulation, address, value & 0xFFFFFFFF)

    def read(self, address: int) -> int:
        """Read a register."""
        return int(self._library.simulation_read(self._simulation, address))

    def load(self, program: Program) -> None:
        """Load weights and descriptors, and start the first sequence."""
        if program.parameters != self.parameters:
            raise AmacrineError(f"The program was compiled for other gateware ({program.parameters}) than is "
                                f"simulated ({self.parameters}); compile it for this one.")
        self._clear()       # what still runs must not see half of another program
        self.program = program
        image = np.ascontiguousarray(program.weights).view(np.uint8)
        self._library.simulation_load(self._simulation, image.ctypes.data, len(image), image.shape[1])
        for address, value in register_writes(program):
            self.write(address, value)
        self.reset()

    def reset(self) -> None:
        """Start a new sequence: state zero, or as the program's initial state has it; counters zero."""
        assert self.program is not None, "load a program first"
        self._clear()
        self._steps.clear()
        for address, value in self.program.initial:
            self.write(int(address), int(value))
        self.write(Register.CONTROL, RUN)

    def switch(self, program: Program) -> None:
        """Go on with another of the networks that were compiled together, where it was left, or at its first step."""
        check_switch(self.program, program)
        self._wait_until_quiet()
        self.write(Register.CONTROL, HALT)
        for address, value in switch_writes(program):
            self.write(address, value)
        self.write(Register.RESUME, self._steps[network_key(program)] % 4)
        self.write(Register.CONTROL, RUN)
        self.program = program

    def run(self, inputs: np.ndarray, *, pause: int = 0, idle: float = 0.0, stall: float = 0.0, seed: int = 1,
            progress: Callable[[int], None] | None = None) -> SimulatedRun:
        """Continue the sequence by T steps.

        Parameters
        ----------
        inputs : int16 (T, n_inputs)
        pause : 0 offers inputs always; otherwise cycles from a step's last output to the next one's input
        idle, stall : share of cycles, 0 to 1, in which input and output pause at random
        progress : called with the number of steps finished, now and then
        """
        assert self.program is not None, "load a program first"
        inputs = np.ascontiguousarray(self.program.streamed(inputs), np.int16)
        steps, n_outputs = len(inputs), self.program.n_outputs
        outputs = np.empty((steps, n_outputs), np.int16)
        started, finished, words = (np.zeros(steps, np.uint64) for _ in range(3))
        self._library.simulation_begin(
            self._simulation, inputs.ctypes.data, outputs.ctypes.data, started.ctypes.data, finished.ctypes.data,
            words.ctypes.data, steps, inputs.shape[1], n_outputs, pause, int(idle * 256), int(stall * 256), seed)
        done = -1
        last_cycle = self.cycles
        while done < steps and steps:
            now = int(self._library.simulation_run(self._simulation, CHUNK_CYCLES))
            if now != done:
                done, last_cycle = now, self.cycles
            if self.cycles - last_cycle > DEAD_CYCLES:
                raise AmacrineError(f"The simulated engine made no output for {DEAD_CYCLES} cycles after step "
                                    f"{done} of {steps}; this is a fault in Amacrine, please report it.")
            if progress:
                progress(done)
        self._steps[network_key(self.program)] += steps
        return SimulatedRun(self.program.restored(outputs), started, finished, words)

    def counters(self) -> dict[str, dict[str, int]]:
        """Counters since the sequence's start, by job and pass; waits until work in anticipation is done."""
        assert self.program is not None, "load a program first"
        self._wait_until_quiet()
        self.write(Register.CONTROL, HALT)
        self._idle(8)       # the last counts are on their way to their records
        counters = {each.name: {name: self.read(each.address + field) for field, name in enumerate(each.names)}
                    for each in self.program.counters()}
        self.write(Register.CONTROL, RUN)
        return counters

    def _wait_until_quiet(self) -> None:
        while not self.read(Register.CONTROL) & QUIET:
            self._idle(64)

    def _clear(self) -> None:
        """Stop and clear."""
        self.write(Register.CONTROL, CLEAR)
        while self.read(Register.CONTROL) & CLEARING:
            self._idle(64)

    def _idle(self, cycles: int) -> None:
        self._library.simulation_begin(self._simulation, None, None, None, None, None, 0, 0, 0, 0, 0, 0, 1)
        self._library.simulation_run(self._simulation, cycles)


_POINTER, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
FUNCTIONS: tuple[Function, ...] = (
    ("new", _POINTER, []), ("delete", None, [_POINTER]), ("write", None, [_POINTER, _U32, _U32]),
    ("read", _U32, [_POINTER, _U32]), ("cycles", _U64, [_POINTER]), ("words", _U64, [_POINTER]),
    ("written", _U64, [_POINTER]), ("load", None, [_POINTER, _POINTER, _U32, _U32]),
    ("memory", None, [_POINTER, _U32, _U32]), ("run", _U32, [_POINTER, _U64]),
    ("begin", None, [_POINTER] * 6 + [_U32] * 7),
)
