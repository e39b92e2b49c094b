"""The golden model: the arithmetic contract (docs/arithmetic.md) in vectorised NumPy, with all counts.

A sequence passes through one layer after the other. The encoder of a layer's input turns the whole sequence
of vectors x into the sequence x̂ of what the layer knows of them; partial sums are then bias + W·x̂, one
matrix product. Only the recurrent half of a layer needs a loop over the time steps.

Matrix products are in float64, because only floating point has fast ones. They are exact here: every sum
under way is an integer below n * 2**17 * 2**7, far below the 2**53 up to which float64 holds all integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .activation import sigmoid, tanh
from .errors import AmacrineError
from .fixed import ACTIVATION_BITS, PRE_BITS, PRE_FRAC, STATE_BITS, STATE_FRAC, requantise
from .golden_conv import ConvLayer, conv_run
from .qlayers import BOUNDED, QGRU, QLSTM, Job, QConv, QDense, QLayer, gate_rows, layer_jobs
from .quantised import QuantisedNetwork

BLOCK = 1024  # time steps computed at once; bounds the memory for partial sums, changes no result

#: events of one step: indices, and their values (differences, or for a threshold encoder the elements)
StepEvents = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class GoldenRun:
    """What ``Golden.run`` computed for T steps; jobs are named ``<layer>.input`` and ``<layer>.recurrent``.

    Parameters
    ----------
    network : the network that ran
    vectors : layer name to its output vectors, int16 (T, size)
    events : job name to the number of events in each step, int64 (T,)
    anticipated : recurrent job to the number of its events in the step to come, known already
    trace : job name to the events of each step, or None if not asked for
    conv_macs : convolution's job to its useful multiplications in each step, int64 (T,): those of an input that is
        not zero with a kernel element, for a sum within the result
    conv_nonzero : convolution's job to the number of steps in which each input is not zero, int64 (n,)
    """

    network: QuantisedNetwork
    vectors: dict[str, np.ndarray]
    events: dict[str, np.ndarray]
    anticipated: dict[str, int]
    trace: dict[str, list[StepEvents]] | None
    conv_macs: dict[str, np.ndarray] = field(default_factory=dict)
    conv_nonzero: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def outputs(self) -> np.ndarray:
        """The network's output vectors, int16 (T, n_outputs)."""
        return self.vectors[self.network.layers[-1].name]

    def words(self, job: str, pes: int) -> np.ndarray:
        """Weight words of ``pes`` weights fetched in each step, int64 (T,): each gate starts a new word.

        A convolution fetches all its kernels in every step.
        """
        if job in self.conv_macs:
            return np.full(len(self.events[job]), -(-self.network.jobs[job].source.weight.size // pes))
        gates, height = len(self.network.jobs[job].gates), self.network.jobs[job].height
        return self.events[job] * (gates * -(-height // pes))

    def macs(self, job: str) -> np.ndarray:
        """Multiplications in each step, int64 (T,)."""
        if job in self.conv_macs:
            return self.conv_macs[job]
        return self.events[job] * self.network.jobs[job].source.rows

    def columns(self, job: str) -> int:
        """Columns (of a convolution: inputs) that the job would have in all steps if nothing were left out."""
        return len(self.events[job]) * self.network.jobs[job].source.n

    def columns_skipped(self, name: str | None = None) -> float:
        """Fraction of columns left out, of a job, a layer, or (None) the whole network."""
        jobs = [job for job in self.events if name in (None, job, self.network.jobs[job].layer.name)]
        if not jobs:
            raise AmacrineError(f"no layer or job named {name!r}; jobs are {', '.join(self.events)}")
        columns = sum(self.columns(job) for job in jobs)
        return 1.0 - sum(int(self.events[job].sum()) for job in jobs) / columns if columns else 0.0


class Golden:
    """Runs a quantised network; state lives on from call to call until ``reset``."""

    def __init__(self, network: QuantisedNetwork):
        self.network = network
        self._layers = [_running(layer) for layer in network.layers]

    def reset(self) -> None:
        """Start a new sequence."""
        for layer in self._layers:
            layer.reset()

    def run(self, x: np.ndarray, trace: bool = False) -> GoldenRun:
        """Continue the sequence by T steps.

        Parameters
        ----------
        x : int16 (T, n_inputs), in LSBs (see ``QuantisedNetwork.quantise_inputs``); T may be 0
        trace : also return every event
        """
        x = checked_inputs(self.network, x)
        vectors: dict[str, list[np.ndarray]] = {layer.name: [] for layer in self.network.layers}
        events: dict[str, list[np.ndarray]] = {job: [] for job in self.network.jobs}
        traces: dict[str, list[StepEvents]] = {job: [] for job in self.network.jobs}
        macs: dict[str, list[np.ndarray]] = {
            layer.job_name: [] for layer in self._layers if isinstance(layer, ConvLayer)}
        nonzero = {layer.job_name: np.zeros(layer.q.shape.n_inputs, np.int64) for layer in self._layers
                   if isinstance(layer, ConvLayer)}
        for start in range(0, max(len(x), 1), BLOCK):
            vector = x[start : start + BLOCK].astype(np.int64)
            for layer in self._layers:
                if isinstance(layer, ConvLayer):
                    macs[layer.job_name].append(layer.macs(vector))
                    nonzero[layer.job_name] += np.count_nonzero(vector, axis=0)
                vector, deltas = layer.run(vector)
                vectors[layer.q.name].append(vector.astype(np.int16))
                for job, delta in deltas.items():
                    events[job].append(np.count_nonzero(delta, axis=1))
                    if trace:
                        traces[job] += [(index := np.flatnonzero(row), row[index]) for row in delta]
        return GoldenRun(
            self.network,
            {name: np.concatenate(parts) for name, parts in vectors.items()},
            {job: np.concatenate(parts).astype(np.int64) for job, parts in events.items()},
            {layer.recurrent_name: layer.anticipated() for layer in self._recurrent_layers()},
            traces if trace else None,
            {job: np.concatenate(parts) for job, parts in macs.items()},
            nonzero,
        )

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Of each recurrent layer: ``h``, its last output vector, and ``s`` (GRU) or ``c`` (LSTM); int16."""
        return {layer.q.name: layer.state() for layer in self._recurrent_layers()}

    def _recurrent_layers(self) -> list[_RecurrentLayer]:
        return [layer for layer in self._layers if isinstance(layer, _RecurrentLayer)]


def checked_inputs(network: QuantisedNetwork, x: np.ndarray) -> np.ndarray:
    """``x`` itself, if it is int16 (T, n_inputs)."""
    x = np.asarray(x)
    if x.dtype != np.int16 or x.ndim != 2 or x.shape[1] != network.n_inputs:
        raise AmacrineError(
            f"expected int16 input vectors of shape (steps, {network.n_inputs}), not {x.dtype} {x.shape}"
        )
    return x


def _running(layer: QLayer) -> _DenseLayer | _RecurrentLayer | ConvLayer:
    if isinstance(layer, QConv):
        return ConvLayer(layer)
    return _DenseLayer(layer) if isinstance(layer, QDense) else _RecurrentLayer(layer)


class _Encoder:
    """One reader's view x̂ of a vector. What it emits is how the view changes, so x̂ tells the events."""

    def __init__(self, job: Job):
        self.source = job.source
        self.view = np.zeros(job.source.n, np.int64)

    def events(self, x: np.ndarray) -> np.ndarray:
        """The events that ``x`` (n,) would have now, as a vector of values, 0 where there is none."""
        value = x - self.view
        value[np.abs(value) < self.source.theta] = 0
        return value

    def step(self, x: np.ndarray) -> np.ndarray:
        """Take in one vector (n,) and return its events."""
        delta = self.events(x)
        self.view = self.view + delta
        return delta

    def sequence(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take in vectors (T, n); return the events and what the layer then multiplies, both (T, n)."""
        x = np.maximum(x, 0) if self.source.rectify else x  # only here: a recurrent source never rectifies
        if self.source.encoder == "threshold":
            value = self.events(x)  # the view stays zero
            return value, value
        start = self.view
        delta = np.array([self.step(row) for row in x], np.int64).reshape(x.shape)
        return delta, start + np.cumsum(delta, axis=0)


class _DenseLayer:
    def __init__(self, q: QDense):
        self.q = q
        [(self.job_name, self.job)] = layer_jobs(q).items()
        self.columns = q.input.weight.T.astype(np.float64)
        self.reset()

    def reset(self) -> None:
        self.encoder = _Encoder(self.job)

    def run(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Vectors (T, n) to output vectors (T, rows) and the events of each job, int64."""
        delta, view = self.encoder.sequence(x)
        psum = self.q.bias + (view.astype(np.float64) @ self.columns).astype(np.int64)
        return dense_cell(self.q, psum), {self.job_name: delta}


class _RecurrentLayer:
    def __init__(self, q: QGRU | QLSTM):
        self.q = q
        (self.input_name, self.input_job), (self.recurrent_name, self.recurrent_job) = layer_jobs(q).items()
        self.input_columns = q.input.weight.T.astype(np.float64)
        # one row of memory for each column of weights, so that the active columns can be gathered
        self.recurrent_columns = np.ascontiguousarray(q.recurrent.weight.T, np.float64)
        self.reset()

    def reset(self) -> None:
        self.input_encoder = _Encoder(self.input_job)
        self.recurrent_encoder = _Encoder(self.recurrent_job)
        self.recurrent_psum = np.zeros(self.q.recurrent.rows)  # W·ĥ, kept from step to step
        self.h = self.q.initial_h.astype(np.int64)
        self.inner = (self.q.initial_s if isinstance(self.q, QGRU) else self.q.initial_c).astype(np.int64)

    def run(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Vectors (T, n) to output vectors (T, H) and the events of each job, int64."""
        input_delta, view = self.input_encoder.sequence(x)
        psums = initial_psums(self.q, len(x))
        rows = gate_rows(self.q.input_gates, self.q.size)
        psums[:, rows] += (view.astype(np.float64) @ self.input_columns).astype(np.int64)
        vectors = np.empty((len(x), self.q.size), np.int64)
        recurrent_delta = np.empty_like(vectors)
        rows = gate_rows(self.q.recurrent_gates, self.q.size)
        for t, psum in enumerate(psums):
            recurrent_delta[t] = delta = self.recurrent_encoder.step(self.h)
            self._add_columns(delta)
            psum[rows] += self.recurrent_psum.astype(np.int64)
            self.inner, self.h = recurrent_cell(self.q, psum.reshape(4, -1), self.inner)
            vectors[t] = self.h
        return vectors, {self.input_name: input_delta, self.recurrent_name: recurrent_delta}

    def _add_columns(self, delta: np.ndarray) -> None:
        """Add the columns of the events. A gather pays only if it leaves out most of the matrix."""
        active = np.flatnonzero(delta)
        if 2 * len(active) < len(delta):
            self.recurrent_psum += delta[active].astype(np.float64) @ self.recurrent_columns[active]
        else:
            self.recurrent_psum += delta.astype(np.float64) @ self.recurrent_columns

    def anticipated(self) -> int:
        """Number of recurrent events that the next step will have."""
        return int(np.count_nonzero(self.recurrent_encoder.events(self.h)))

    def state(self) -> dict[str, np.ndarray]:
        inner = "s" if isinstance(self.q, QGRU) else "c"
        return {"h": self.h.astype(np.int16), inner: self.inner.astype(np.int16)}


def initial_psums(q: QGRU | QLSTM, steps: int) -> np.ndarray:
    """Partial sums that hold only the bias, int64 (steps, 4·H)."""
    return np.tile(q.bias.astype(np.int64).reshape(-1), (steps, 1))


def dense_cell(q: QDense, psum: np.ndarray) -> np.ndarray:
    """Partial sums (..., rows) to the output vector, int64."""
    if q.activation in BOUNDED:
        function = sigmoid if q.activation == "sigmoid" else tanh
        y = function(requantise(psum, q.input.scale - PRE_FRAC, PRE_BITS))
        return requantise(y, STATE_FRAC - q.output_frac, ACTIVATION_BITS)
    y = requantise(psum, q.input.scale - q.output_frac, ACTIVATION_BITS)
    return np.maximum(y, 0) if q.activation == "relu" else y


def recurrent_cell(q: QGRU | QLSTM, psum: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Partial sums (4, H) and the state s or c (H,) to the next state and the output vector h, int64."""
    pre = requantise(psum, q.input.scale - PRE_FRAC, PRE_BITS)
    return _gru_cell(q, pre, inner) if isinstance(q, QGRU) else _lstm_cell(q, pre, inner)


def _gru_cell(q: QGRU, pre: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r, z = sigmoid(pre[:2])
    n = tanh(requantise((pre[2] << STATE_FRAC) + r * pre[3], STATE_FRAC, PRE_BITS))
    v = (n << STATE_FRAC) + z * (s - n)  # (1 - z)·n + z·s with 30 fractional bits
    return (
        requantise(v, STATE_FRAC, STATE_BITS),
        requantise(v, 2 * STATE_FRAC - q.output_frac, ACTIVATION_BITS),
    )


def _lstm_cell(q: QLSTM, pre: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, o = sigmoid(pre[[0, 1, 3]])
    g = requantise(tanh(pre[2]), STATE_FRAC - q.cell_frac, STATE_BITS)
    c = requantise(f * c + i * g, STATE_FRAC, STATE_BITS)
    v = o * tanh(requantise(c << (PRE_FRAC - q.cell_frac), 0, PRE_BITS))  # 30 fractional bits
    return c, requantise(v, 2 * STATE_FRAC - q.output_frac, ACTIVATION_BITS)


def dense_run(network: QuantisedNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """One sequence without encoders and thresholds: the vectors of each layer, int16 (T, size).

    Plain int64 matrix products of whole vectors, to hold the event-driven run against: at Θ = 0 both agree.
    """
    vector = checked_inputs(network, x).astype(np.int64)
    vectors = {}
    for q in network.layers:
        if isinstance(q, QConv):
            vector = conv_run(q, vector)
            vectors[q.name] = vector.astype(np.int16)
            continue
        vector = np.maximum(vector, 0) if q.input.rectify else vector
        psums = vector @ q.input.weight.astype(np.int64).T
        if isinstance(q, QDense):
            vector = dense_cell(q, psums + q.bias)
        else:
            vector = _dense_recurrence(q, psums)
        vectors[q.name] = vector.astype(np.int16)
    return vectors


def _dense_recurrence(q: QGRU | QLSTM, input_psums: np.ndarray) -> np.ndarray:
    weight = q.recurrent.weight.astype(np.int64)
    h = q.initial_h.astype(np.int64)
    inner = (q.initial_s if isinstance(q, QGRU) else q.initial_c).astype(np.int64)
    vectors = np.empty((len(input_psums), q.size), np.int64)
    for t, input_psum in enumerate(input_psums):
        psum = q.bias.astype(np.int64)
        psum[list(q.input_gates)] += input_psum.reshape(-1, q.size)
        psum[list(q.recurrent_gates)] += (weight @ h).reshape(-1, q.size)
        inner, h = recurrent_cell(q, psum, inner)
        vectors[t] = h
    return vectors
