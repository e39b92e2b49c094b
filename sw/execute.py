"""Runs a workload on one of the engines: floating point, golden model, simulated hardware, board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from amacrine.sim.engine import SimulatedEngine, SimulatedRun

from .compile import compile_network
from .conv import Conv
from .conv_counts import PassCounts, expected_passes
from .device import Device
from .errors import MisfitError
from .golden import Golden, GoldenRun
from .layout import Parameters
from .network import Network
from .program import Program
from .progress import bar, clock
from .quantised import QuantisedNetwork
from .report import JobStats, RunStats
from .workload import Workload

CHUNK = 50  # steps between two looks at the progress
SIMULATED = "the simulated hardware"


def run_float(network: Network, inputs: np.ndarray) -> np.ndarray:
    """The network's own outputs, float64 (T, n_outputs)."""
    parts, states = [], network.initial_states()
    with bar("floating point", len(inputs)) as progress:
        for start in range(0, len(inputs), CHUNK):
            outputs, states = network.run_from(inputs[start : start + CHUNK], states)
            parts.append(outputs)
            progress.update(len(outputs))
    return np.concatenate(parts)


def run_golden(network: QuantisedNetwork, inputs: np.ndarray, trace: bool = False) -> GoldenRun:
    """The golden model's run of int16 inputs (T, n_inputs) from the start of a sequence."""
    golden, parts = Golden(network), []
    with bar("golden model", len(inputs)) as progress:
        for start in range(0, max(1, len(inputs)), CHUNK):      # one part at least, of no steps
            parts.append(golden.run(inputs[start : start + CHUNK], trace))
            progress.update(len(parts[-1].outputs))
    return GoldenRun(
        network,
        {name: np.concatenate([part.vectors[name] for part in parts]) for name in parts[0].vectors},
        {job: np.concatenate([part.events[job] for part in parts]) for job in parts[0].events},
        parts[-1].anticipated,
        {job: [step for part in parts for step in (part.trace or {})[job]] for job in parts[0].events}
        if trace else None,
        {job: np.concatenate([part.conv_macs[job] for part in parts]) for job in parts[0].conv_macs},
        {job: np.sum([part.conv_nonzero[job] for part in parts], axis=0) for job in parts[0].conv_nonzero},
    )


@dataclass(frozen=True, eq=False)
class Execution:
    """What an engine made of a workload.

    Parameters
    ----------
    outputs : float64 (T, n_outputs), in real units
    stats : the figures
    golden : the golden model's run; None in floating point
    fault : how the hardware, simulated or not, differs from the golden model; None if it does not, or was not there
    """

    outputs: np.ndarray
    stats: RunStats
    golden: GoldenRun | None = None
    fault: str | None = None


def execute_float(workload: Workload) -> Execution:
    """The network itself, in floating point."""
    start = perf_counter()
    outputs = run_float(workload.network, workload.inputs)
    return Execution(outputs, replace(_stats(workload, outputs), wall_seconds=perf_counter() - start))


def execute_golden(workload: Workload, network: QuantisedNetwork, parameters: Parameters,
                   trace: bool = False) -> Execution:
    """The golden model; its weight bytes are those of hardware with such parameters."""
    start = perf_counter()
    golden = run_golden(network, network.quantise_inputs(workload.inputs), trace)
    seconds = perf_counter() - start
    outputs = network.dequantise_outputs(golden.outputs)
    stats = _stats(workload, outputs, job_stats(golden, parameters), network)
    return Execution(outputs, replace(stats, wall_seconds=seconds), golden)


def execute_simulated(workload: Workload, network: QuantisedNetwork, parameters: Parameters, latency: int = 1,
                      trace: bool = False) -> Execution:
    """The simulated hardware, compared with the golden model in every output and count; outputs are its own."""
    program, inputs = compile_network(network, parameters), network.quantise_inputs(workload.inputs)
    golden = run_golden(network, inputs, trace)
    simulation = run_simulated(program, inputs, latency)
    outputs = network.dequantise_outputs(simulation.run.outputs)
    fault = difference(golden, simulation.run.outputs, simulation.counters, parameters)
    cycles = simulation.run.cycles_per_step
    stats = replace(
        _stats(workload, outputs, job_stats(golden, parameters, simulation.counters), network),
        bit_exact=fault is None, cycles_mean=float(cycles.mean()), cycles_max=int(cycles.max()),
        wall_seconds=simulation.seconds)
    return Execution(outputs, stats, golden, fault)


def execute_board(workload: Workload, network: QuantisedNetwork, device: Device, trace: bool = False) -> Execution:
    """A board, compared with the golden model in every output and count; outputs are its own."""
    parameters = device.info.parameters
    program, inputs = compile_network(network, parameters), network.quantise_inputs(workload.inputs)
    golden = run_golden(network, inputs, trace)
    load(device, program)
    with bar("board", len(inputs)) as progress:
        run = device.run(inputs, progress=lambda done: progress.update(done - progress.n))
    counters = device.counters()
    outputs = network.dequantise_outputs(run.outputs)
    fault = difference(golden, run.outputs, counters, parameters, f"the board {device.info.board}")
    stats = replace(_stats(workload, outputs, job_stats(golden, parameters, counters), network),
                    bit_exact=fault is None, wall_seconds=run.seconds, board=device.info.board,
                    link=device.link_statistics())
    return Execution(outputs, stats, golden, fault)


def check_board(device: Device, network: Network) -> None:
    """Refuse a board that lacks an engine which the network needs, before other work is done for it."""
    if device.info.parameters.conv is None and any(isinstance(layer, Conv) for layer in network.layers):
        raise MisfitError(f"the board {device.info.board} has no CNN engine, which the convolutions of "
                          f"{network.name} need; use a board with one, such as ulx3s-cnn, or --engine golden or sim")


def load(device: Device, program: Program) -> None:
    """Load a program, with its progress on stderr."""
    with bar("loading", program.weights.nbytes, unit="byte") as progress:
        device.load(program, lambda done: progress.update(done - progress.n))


def _stats(workload: Workload, outputs: np.ndarray, jobs: Sequence[JobStats] = (),
           network: QuantisedNetwork | None = None) -> RunStats:
    noisy = workload.noisy_sisdr_db
    return RunStats(
        len(outputs), jobs, sisdr_db=workload.sisdr_db(outputs), frame_hz=workload.frame_hz,
        sisdr_references_db={} if noisy is None else {"noisy": noisy},
        thresholds={} if network is None else thresholds_in_units(network),
    )


@dataclass(frozen=True, eq=False)
class Simulation:
    """What the simulated hardware did: its run, its counters by job and pass, and how long that took."""

    run: SimulatedRun
    counters: dict[str, dict[str, int]]
    seconds: float


def run_simulated(program: Program, inputs: np.ndarray, latency: int = 1) -> Simulation:
    """The simulated hardware's run of int16 inputs (T, n_inputs), offered as fast as it takes them."""
    with clock("building the simulation, once"):
        engine = SimulatedEngine(program.parameters, program.memory_words, latency=latency)
    with engine, bar("simulated hardware", len(inputs)) as progress:
        engine.load(program)
        start = perf_counter()
        run = engine.run(inputs, progress=lambda done: progress.update(done - progress.n))
        return Simulation(run, engine.counters(), perf_counter() - start)


def difference(golden: GoldenRun, outputs: np.ndarray, counters: dict[str, dict[str, int]], parameters: Parameters,
               hardware: str = SIMULATED) -> str | None:
    """What the hardware did otherwise than the golden model, first of all; None if nothing."""
    unequal = np.argwhere(outputs != golden.outputs)
    if len(unequal):
        step, element = unequal[0]
        return (f"{hardware} differs from the golden model, first in step {step}, element {element}: "
                f"{outputs[step, element]} instead of {golden.outputs[step, element]}")
    for job, counts in expected_counters(golden, parameters).items():
        for name, count in counts.items():
            if counters[job][name] != count:
                return (f"{hardware}'s outputs equal the golden model's, but it counted {counters[job][name]} {name} "
                        f"of {job} instead of {count}")
    return None


def expected_counters(golden: GoldenRun, parameters: Parameters) -> dict[str, dict[str, int]]:
    """What hardware with such parameters should count: events and weight words of each column job, and events, MAC
    cycles and multiplications by zero of each pass of the CNN engine.

    When it has finished the last step, it has also fetched the recurrent columns of the one to come.
    """
    expected = {}
    for job, events in golden.events.items():
        if job in golden.conv_macs:
            continue
        ahead = golden.anticipated.get(job, 0)
        words = int(golden.words(job, parameters.pes).sum()) + ahead * column_words(golden, job, parameters.pes)
        expected[job] = {"events": int(events.sum()) + ahead, "words": words}
    for each in passes(golden, parameters):
        expected[each.name] = {"events": each.events, "mac_cycles": each.mac_cycles, "zero_macs": each.zero_macs}
    return expected


def passes(golden: GoldenRun, parameters: Parameters) -> list[PassCounts]:
    """The passes of a run, if hardware with such parameters has a CNN engine."""
    return list(expected_passes(golden, parameters.conv)) if parameters.conv else []


def column_words(golden: GoldenRun, job: str, pes: int) -> int:
    """Weight words in a column of a job."""
    return len(golden.network.jobs[job].gates) * -(-golden.network.jobs[job].height // pes)


def job_stats(golden: GoldenRun, parameters: Parameters,
              counters: dict[str, dict[str, int]] | None = None) -> list[JobStats]:
    """Counts of each job; bytes are those on the weight port, with each gate padded to whole words."""
    made, counted = [], passes(golden, parameters)
    for job, events in golden.events.items():
        if job in golden.conv_macs:
            made.append(_conv_stats(golden, job, counted, parameters, counters))
            continue
        made.append(JobStats(
            job, columns=golden.columns(job), columns_skipped=golden.columns(job) - int(events.sum()),
            weight_bytes=int(golden.words(job, parameters.pes).sum()) * parameters.pes,
            dense_bytes=golden.columns(job) * column_words(golden, job, parameters.pes) * parameters.pes,
            cycles=None if counters is None else sum(
                count for name, count in counters[job].items() if name != "events"),
        ))
    return made


def _conv_stats(golden: GoldenRun, job: str, counted: Sequence[PassCounts], parameters: Parameters,
                counters: dict[str, dict[str, int]] | None) -> JobStats:
    """Counts of a convolution, all its passes together; it fetches all its kernels in every step."""
    layer, steps = golden.network.jobs[job].layer.name, len(golden.events[job])
    own = [each for each in counted if each.layer == layer]
    columns, macs = golden.columns(job), parameters.conv.macs if parameters.conv else 0
    weight_bytes = (sum(each.kernel_bytes for each in own) * steps if own
                    else int(golden.words(job, parameters.pes).sum()) * parameters.pes)
    return JobStats(
        job, columns, columns - int(golden.events[job].sum()), weight_bytes, weight_bytes,
        cycles=None if counters is None else sum(counters[each.name]["cycles"] for each in own),
        macs=int(golden.conv_macs[job].sum()),
        macs_done=sum(each.mac_cycles for each in own) * macs if own else None,
        macs_by_zero=sum(each.zero_macs for each in own) if own else None,
    )


def thresholds_in_units(network: QuantisedNetwork) -> dict[str, float]:
    """Thresholds of a network's jobs in units of their vectors, where they are not 0."""
    return {name: job.source.theta / 2.0**job.source.input_frac
            for name, job in network.jobs.items() if job.source.theta}
