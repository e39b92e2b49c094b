"""A simulated CNN engine: load convolutions, stream maps. Python wakes once a map or less (sim/harness.cpp)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from amaranth.lib import wiring

from amacrine.hw.conv import ConvEngine
from amacrine.sw.conv_compile import ConvProgram
from amacrine.sw.conv_layout import CONV_COUNTER_FIELDS, SLAB_FIELDS, ConvParameters, ConvRegister
from amacrine.sw.errors import AmacrineError
from amacrine.sw.layout import Parameters
from amacrine.sw.program import conv_writes

from .build import build_library, load_library
from .engine import CHUNK_CYCLES, FUNCTIONS
from .top import SimulationTop

Maker = Callable[[ConvParameters, Parameters], wiring.Component]

DEAD_CYCLES = 20_000_000        # without an output: something is wrong


@dataclass(frozen=True, eq=False)
class SimulatedMaps:
    """What came out: int16 (T, n_outputs), flattened (channels, height, width); and the counts of CONV_COUNTER_FIELDS,
    int64 (passes,) each."""

    outputs: np.ndarray
    counters: dict[str, np.ndarray]


class SimulatedConv:
    """The Verilated CNN engine with an ideal weight memory.

    Parameters
    ----------
    program : convolutions compiled for `params` and `pes`
    params : of the CNN engine
    pes : weights in a word of the weight port
    latency : cycles from a weight request to its first word, 1 or 3 to 128
    memory_stall : share of the cycles, 0 to 1, in which the memory delivers nothing
    make : ConvEngine, or another component with its weight port, streams and bus
    """

    def __init__(self, program: ConvProgram, params: ConvParameters, pes: int, *, latency: int = 1,
                 memory_stall: float = 0.0, make: Maker = ConvEngine):
        self.program = program
        image = np.ascontiguousarray(program.kernels).reshape(-1, pes).view(np.uint8)
        size = max(1 << 20, image.size, (program.scratch_first + program.scratch_words) * pes)
        depth = (1 << (size - 1).bit_length()) // pes
        weight_params = Parameters(pes=pes)
        library = build_library(f"conv {make.__name__} {params} {pes} {depth}",
                                lambda: SimulationTop(make(params, weight_params), weight_params, depth), "ram.v",
                                "harness.cpp")
        self._library = load_library(library, "simulation", FUNCTIONS)
        self._simulation = self._library.simulation_new()
        self._library.simulation_memory(self._simulation, latency, int(memory_stall * 256))
        self._library.simulation_load(self._simulation, image.ctypes.data, len(image), image.shape[1])
        channels = int(program.slabs[0][SLAB_FIELDS.index("channels")])
        positions = len(program.input_order) // channels
        for address, value in conv_writes(program.passes, program.slabs, channels, positions):
            self.write(address, value)

    def __enter__(self) -> SimulatedConv:
        return self

    def __exit__(self, *exception: object) -> None:
        self._library.simulation_delete(self._simulation)

    def write(self, address: int, value: int) -> None:
        """Write a register."""
        self._library.simulation_write(self._simulation, address, value & 0xFFFFFFFF)

    def read(self, address: int) -> int:
        """Read a register."""
        return int(self._library.simulation_read(self._simulation, address))

    def run(self, inputs: np.ndarray, *, idle: float = 0.0, stall: float = 0.0, seed: int = 1) -> SimulatedMaps:
        """Stream maps through the engine.

        Parameters
        ----------
        inputs : int16 (T, n_inputs), flattened (channels, height, width)
        idle, stall : share of cycles, 0 to 1, in which input and output pause at random
        """
        before = self.counters()
        self.begin(inputs, idle=idle, stall=stall, seed=seed)
        done, silent = 0, 0
        while done < len(inputs):
            now = self.advance(CHUNK_CYCLES)
            done, silent = now, 0 if now != done else silent + CHUNK_CYCLES
            if silent > DEAD_CYCLES:
                raise AmacrineError(f"The simulated CNN engine made no output for {DEAD_CYCLES} cycles after {done} "
                                    f"of {len(inputs)} maps; this is a fault in Amacrine, please report it.")
        outputs, after = self.outputs, self.counters()
        return SimulatedMaps(outputs, {name: after[name] - before[name] for name in CONV_COUNTER_FIELDS})

    def begin(self, inputs: np.ndarray, *, idle: float = 0.0, stall: float = 0.0, seed: int = 1) -> None:
        """Get ready to stream maps, as `run` does it; `advance` lets time pass."""
        steps, n_outputs = len(inputs), len(self.program.output_order)
        streamed = np.ascontiguousarray(inputs[:, self.program.input_order], np.int16)
        self._buffers = streamed, np.zeros((steps, n_outputs), np.int16), np.zeros((3, steps), np.uint64)
        self._library.simulation_begin(
            self._simulation, streamed.ctypes.data, self._buffers[1].ctypes.data,
            *(times.ctypes.data for times in self._buffers[2]), steps, streamed.shape[1], n_outputs, 0,
            int(idle * 256), int(stall * 256), seed)

    def advance(self, cycles: int) -> int:
        """Stream for so many cycles, or until all results are here; the number of maps whose results are."""
        return int(self._library.simulation_run(self._simulation, cycles))

    def rest(self, cycles: int) -> None:
        """Let time pass without streaming; what has not been streamed is forgotten."""
        self._library.simulation_begin(self._simulation, *[None] * 5, 0, 0, 0, 0, 0, 0, 1)
        self.advance(cycles)

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return int(self._library.simulation_cycles(self._simulation))

    @property
    def words(self) -> tuple[int, int]:
        """Words of weight memory that were read, and that the engine wrote, since the simulation began."""
        return (int(self._library.simulation_words(self._simulation)),
                int(self._library.simulation_written(self._simulation)))

    @property
    def outputs(self) -> np.ndarray:
        """What has come out since `begin`: int16 (T, n_outputs), flattened (channels, height, width)."""
        restored = np.empty_like(self._buffers[1])
        restored[:, self.program.output_order] = self._buffers[1]
        return restored

    def counters(self) -> dict[str, np.ndarray]:
        """Counts since the sequence began, by name: int64 (passes,). Halts meanwhile; what is streamed is forgotten."""
        self.write(ConvRegister.RUN, 0)
        self.rest(64)       # the last counts arrive
        table = [[self.read(ConvRegister.COUNTERS + len(CONV_COUNTER_FIELDS) * number + field)
                  for field in range(len(CONV_COUNTER_FIELDS))] for number in range(len(self.program.passes))]
        self.write(ConvRegister.RUN, 1)
        return dict(zip(CONV_COUNTER_FIELDS, np.array(table, np.int64).T, strict=True))
