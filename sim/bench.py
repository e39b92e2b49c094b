"""Benchmark of the weight port's utilisation, on the workload of EdgeDRNN's public test bench.

Two GRU layers, Gaussian weights, inputs from an AR(1) process, one threshold for all sources, chosen by bisection
so that the wanted share of columns is skipped. Utilisation is weight words over clock cycles,
everything counted, over 200 steps after 20 of warm-up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from amacrine.sw.compile import compile_network
from amacrine.sw.errors import AmacrineError
from amacrine.sw.golden import Golden, GoldenRun
from amacrine.sw.layout import Parameters
from amacrine.sw.network import GRU, Network
from amacrine.sw.qlayers import QGRU, Source
from amacrine.sw.quantise import quantise
from amacrine.sw.quantised import QuantisedNetwork

from .engine import SimulatedEngine

WARM_UP, STEPS = 20, 200
RHO = 0.97          # of the AR(1) inputs, whose standard deviation is one


@dataclass(frozen=True)
class Utilisation:
    """One row of the table; cycles and words are means a step, latency from a step's input to its output."""

    layers: int
    inputs: int
    hidden: int
    pes: int
    memory_latency: int
    sparsity: float
    cycles_per_step: float
    words_per_step: float
    utilisation: float
    latency_anticipating: float
    latency_without: float
    seed: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def workload(hidden: int, inputs: int, layers: int, seed: int) -> tuple[Network, np.ndarray]:
    """The network and its input sequence, (WARM_UP + STEPS, inputs)."""
    rng = np.random.default_rng(seed)
    sizes = [inputs] + [hidden] * layers
    stack = tuple(
        GRU(f"gru{i + 1}", rng.normal(0, n**-0.5, (3 * hidden, n)), rng.normal(0, hidden**-0.5, (3 * hidden, hidden)),
            np.zeros(3 * hidden), np.zeros(3 * hidden), np.zeros(hidden))
        for i, n in enumerate(sizes[:-1]))
    x = rng.normal(0, 1, (WARM_UP + STEPS, inputs))
    for t in range(1, len(x)):
        x[t] = RHO * x[t - 1] + (1 - RHO**2) ** 0.5 * x[t]
    return Network(f"{layers} GRU layers of {hidden} units", stack), x


def with_threshold(network: QuantisedNetwork, theta: float) -> QuantisedNetwork:
    """The network with one threshold, in real units, for all sources."""
    def changed(source: Source) -> Source:
        return replace(source, theta=round(theta * 2**source.input_frac))

    return replace(network, layers=tuple(
        replace(layer, input=changed(layer.input), recurrent=changed(layer.recurrent))
        for layer in network.layers if isinstance(layer, QGRU)))


def skipped(run: GoldenRun) -> float:
    """Share of columns skipped after the warm-up."""
    columns = sum(job.source.n for job in run.network.jobs.values()) * STEPS
    return 1 - sum(int(events[WARM_UP:].sum()) for events in run.events.values()) / columns


def at_sparsity(network: QuantisedNetwork, x: np.ndarray, sparsity: float) -> tuple[QuantisedNetwork, GoldenRun]:
    """The threshold that skips the wanted share of columns, by bisection, and the golden run with it."""
    low, high = 0.0, 2.0
    for _ in range(16):
        middle = (low + high) / 2
        candidate = with_threshold(network, middle)
        run = Golden(candidate).run(x)
        if skipped(run) < sparsity:
            low = middle
        else:
            high = middle
    return candidate, run


def measure(hidden: int, sparsity: float, pes: int = 8, latency: int = 1, *, inputs: int = 40, layers: int = 2,
            seed: int = 1) -> Utilisation:
    """One row: golden run, three simulations (streaming; with pauses, anticipating and not), all bit-exact."""
    network, x_real = workload(hidden, inputs, layers, seed)
    quantised = quantise(network, x_real)
    x = quantised.quantise_inputs(x_real)
    quantised, golden = at_sparsity(quantised, x, sparsity)
    parameters = Parameters(pes=pes)
    runs = {}
    for anticipate, pause in ((True, 0), (True, 20_000), (False, 20_000)):
        program = compile_network(quantised, parameters, anticipate=anticipate)
        with SimulatedEngine(parameters, program.memory_words, latency=latency) as engine:
            engine.load(program)
            run = runs[anticipate, pause] = engine.run(x, pause=pause)
        if not np.array_equal(run.outputs, golden.outputs):
            raise AmacrineError(f"The simulated engine differs from the golden model (hidden {hidden}, {pes} PEs); "
                                "this is a fault in Amacrine, please report it.")
    streaming = runs[True, 0]
    cycles, words = (float(count[-1] - count[WARM_UP - 1]) / STEPS for count in (streaming.finished, streaming.words))
    return Utilisation(
        layers, inputs, hidden, pes, latency, round(skipped(golden), 4), round(cycles, 2), round(words, 2),
        round(words / cycles, 4), round(float(runs[True, 20_000].latency[WARM_UP:].mean()), 1),
        round(float(runs[False, 20_000].latency[WARM_UP:].mean()), 1), seed)


#: hidden, sparsity, PEs, memory latency of the standard table; the first six rows have bars in EdgeDRNN's figures
STANDARD = (
    (16, 0.90, 8, 1), (64, 0.90, 8, 1), (128, 0.90, 8, 1), (256, 0.90, 8, 1), (256, 0.95, 8, 1),
    (400, 0.95, 8, 1), (128, 0.90, 8, 40), (256, 0.90, 8, 40), (256, 0.95, 8, 40), (400, 0.95, 8, 40),
    (256, 0.90, 16, 1), (256, 0.90, 32, 1), (256, 0.90, 64, 1),
)
