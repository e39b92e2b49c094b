"""Random quantised networks and inputs for whole engines, and what golden says of them."""

from dataclasses import replace

from test_golden import gru, identity, lstm, relu, relu_threshold, sigmoid_threshold, stack, tanh, walk

from amacrine.sw.golden import Golden
from amacrine.sw.qlayers import QDense
from amacrine.sw.quantised import QuantisedNetwork

MAKERS = (relu, relu_threshold, sigmoid_threshold, tanh, identity, gru, gru, lstm, lstm)
SIZES = (1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 24, 33, 50)
THETAS = (0, 0, 1, 300, 3000, 20000)


def random_network(rng, max_layers=5, sizes=SIZES):
    """A chain of one to `max_layers` layers of any kind, each source with a threshold of its own, some rectifying."""
    count = int(rng.integers(1, max_layers + 1))
    makers = [MAKERS[i] for i in rng.integers(0, len(MAKERS), count)]
    network = with_rectifiers(rng, stack(rng, makers, [int(n) for n in rng.choice(sizes, count + 1)]))
    common = int(rng.choice(THETAS))
    return with_thresholds(network, lambda: common if rng.random() < 0.7 else int(rng.choice((*THETAS, 65535))))


def with_rectifiers(rng, network):
    """The network with some dense layers, a third of them, that count negative inputs as zero."""
    layers = [replace(layer, input=replace(layer.input, rectify=bool(rng.random() < 1 / 3)))
              if isinstance(layer, QDense) else layer for layer in network.layers]
    return replace(network, layers=tuple(layers))


def with_thresholds(network, theta):
    """The network with threshold `theta()` for each of its sources."""
    layers = []
    for layer in network.layers:
        sources = {name: replace(getattr(layer, name), theta=theta())
                   for name in ("input", "recurrent") if hasattr(layer, name)}
        layers.append(replace(layer, **sources))
    return QuantisedNetwork(network.name, tuple(layers), network.input_frac)


def random_inputs(rng, steps, n):
    """Walks over the whole range; some steps repeat the one before, so that they have no events."""
    x = walk(rng, steps, n, stride=int(rng.choice((1, 50, 2000, 30000))))
    for t in range(1, steps):
        if rng.random() < 0.3:
            x[t] = x[t - 1]
    return x


def expected_counts(program, run, anticipate, before=None):
    """Events and weight words of each column job since the sequence's start, as the counters must have them.

    Parameters
    ----------
    run : golden's, of the present call
    anticipate : recurrent columns of the step to come are fetched already
    before : events of earlier runs of the same sequence, by job; brought up to date
    """
    before = {} if before is None else before
    counts = {}
    for job in program.jobs:
        if job.encoder == "bias":
            events = job.columns
        else:
            before[job.name] = before.get(job.name, 0) + int(run.events[job.name].sum())
            events = before[job.name] + (run.anticipated.get(job.name, 0) if anticipate else 0)
            words = run.words(job.name, program.parameters.pes)
            assert words.sum() == run.events[job.name].sum() * job.words
        counts[job.name] = (events, events * job.words)
    return counts


def golden_runs(network, sequence):
    """Golden runs of one sequence, given in parts."""
    golden = Golden(network)
    return [golden.run(x) for x in sequence]

