"""Benchmark of a whole board: milliseconds that a frame of NSNet2 takes, through the driver, the line and the SDRAM.

Everything is simulated at the clock and the baud rate of the board, with the driver that a real board has: only
the weights are put into the SDRAM chip directly. Each set of thresholds is measured twice:

one by one
    a frame each 10 ms, as from a microphone; its time is that from the first byte of it on the line to the arrival of
    the last byte of its output, transfers both ways included. A frame that comes before the one before is done waits,
    and that counts.
in a row
    frames as fast as the board takes them, several in flight; a frame's time is that between two outputs.

Every output is compared with the golden model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from amacrine.boards.board import Board
from amacrine.sw import demo, nsnet2
from amacrine.sw.compile import compile_network
from amacrine.sw.device import Device
from amacrine.sw.errors import DiffersError
from amacrine.sw.execute import run_golden
from amacrine.sw.quantise import quantise, with_thresholds
from amacrine.sw.thresholds import Thresholds
from amacrine.sw.workload import Enhancement, load_enhancement

from .board import SimulatedBoard, SimulatedPort

FRAME_MS = 1000 * nsnet2.HOP_LENGTH / nsnet2.RATE_HZ
PATIENCE_S = 600.0      # of the machine's time


@dataclass(frozen=True, eq=False)
class RealTime:
    """One row; `frame_ms` is not part of it.

    Parameters
    ----------
    words_per_cycle : weight words read, of the one a cycle that the SDRAM's pins could give
    sisdr_cost_db : SI-SDR of the float network less that with these thresholds, over the whole clip
    """

    board: str
    clock_mhz: float
    baud: int
    thresholds: str
    arrival: str
    frames: int
    mean_ms: float
    p99_ms: float
    worst_ms: float
    words_per_cycle: float
    sisdr_cost_db: float
    frame_ms: np.ndarray

    def as_dict(self) -> dict[str, float | str]:
        row = asdict(self)
        del row["frame_ms"]
        return row


def clip() -> Enhancement:
    """The noisy speech of the demo."""
    with TemporaryDirectory() as folder:
        return load_enhancement(*demo.build(Path(folder)))[0]


def measure(board: Board, frames: int, progress: Callable[[int], None] = lambda done: None) -> Iterator[RealTime]:
    """The rows of a board, over the first frames of the demo's clip.

    Parameters
    ----------
    progress : called with the frames done of 4 · ``frames``
    """
    workload = clip()
    quantised = quantise(workload.network, workload.calibration)
    sets: dict[str, Thresholds] = {"0": {}, "chosen": nsnet2.THRESHOLDS}
    in_float = workload.sisdr_db(workload.network.run(workload.inputs))
    assert in_float is not None
    done = 0
    for name, thresholds in sets.items():
        network = with_thresholds(quantised, thresholds)
        program, inputs = compile_network(network, board.parameters), network.quantise_inputs(workload.inputs)
        golden = run_golden(network, inputs)
        with_loss = workload.sisdr_db(network.dequantise_outputs(golden.outputs))
        assert with_loss is not None
        for arrival, run in (("in a row", _in_a_row), ("one by one", _one_by_one)):
            def tell(step: int, before: int = done) -> None:
                progress(before + step)

            with SimulatedBoard(board, board.baud) as simulated:
                simulated.preload(program.weights)
                port = SimulatedPort(simulated)
                device = Device(port, timeout=PATIENCE_S)
                sent = device.load(program)
                assert sent == 0, "the weights are there already"
                watch = simulated.watch(frames, program.n_inputs, program.n_outputs)
                got, times = run(device, port, inputs[:frames], tell)
            if not np.array_equal(got, golden.outputs[:frames]):
                raise DiffersError(f"the simulated {board.name} differs from the golden model (thresholds {name}, "
                                   f"{arrival})")
            done += frames
            cycles = float(watch.finished[-1] - watch.finished[0])
            yield RealTime(
                board.name, board.clock_hz / 1e6, board.baud, name, arrival, frames, round(float(times.mean()), 2),
                round(float(np.percentile(times, 99)), 2), round(float(times.max()), 2),
                round(float(watch.words[-1] - watch.words[0]) / cycles, 4), round(in_float - with_loss, 2), times)


def _in_a_row(device: Device, port: SimulatedPort, inputs: np.ndarray,
              progress: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, and the milliseconds between them as the host sees them."""
    board, outputs, ends = port.board, [], [port.board.cycles]
    for output in device.stream(inputs):
        outputs.append(output)
        ends.append(board.cycles)
        progress(len(outputs))
    return np.stack(outputs), np.diff(ends)[1:] / board.board.clock_hz * 1e3


def _one_by_one(device: Device, port: SimulatedPort, inputs: np.ndarray,
                progress: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, and the milliseconds from a frame's arrival to its output."""
    board, clock_hz = port.board, port.board.board.clock_hz
    outputs, times, start = [], [], board.cycles
    for step, frame in enumerate(inputs):
        due = start + round(step * FRAME_MS / 1e3 * clock_hz)
        port.sleep_until(due)
        outputs.append(device.run(frame[None]).outputs[0])
        times.append((board.cycles - due) / clock_hz * 1e3)
        progress(step + 1)
    return np.stack(outputs), np.array(times)
