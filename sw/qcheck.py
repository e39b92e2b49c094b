"""Checks that a quantised layer obeys the arithmetic contract, and the proof that it cannot overflow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .conv import check_shape, pool_size
from .errors import AmacrineError
from .fixed import ACTIVATION_FRACS, CELL_FRACS, PSUM_BITS, SHIFTS, THETA_BITS, signed_range
from .network import CONV_ACTIVATIONS
from .qlayers import QGRU, QLSTM, Job, QConv, QDense, QLayer, Range, gate_rows, layer_jobs, result_frac


def check_layer(layer: QLayer, n: int, frac: int, vector_range: Range) -> None:
    """Check a layer that reads vectors of ``n`` elements with ``frac`` fractional bits.

    Raises
    ------
    AmacrineError
        naming the layer and, for an overflow, the row of the partial sums
    """
    if isinstance(layer, QConv):
        _check_conv(layer)
    jobs = layer_jobs(layer)
    vectors = ((n, frac), (layer.size, layer.output_frac))  # a layer reads the one before and its own
    for (name, job), vector in zip(jobs.items(), vectors, strict=False):
        _check_source(name, job, *vector)
    for field, dtype, shape in _arrays(layer):
        array = getattr(layer, field)
        if array.dtype != dtype or array.shape != shape:
            raise AmacrineError(
                f"layer {layer.name!r}: {field} must be {np.dtype(dtype)} {shape}, "
                f"not {array.dtype} {array.shape}"
            )
    check_frac(f"the output of layer {layer.name!r}", layer.output_frac, ACTIVATION_FRACS)
    if isinstance(layer, QLSTM):
        check_frac(f"the state c of layer {layer.name!r}", layer.cell_frac, CELL_FRACS)
    scale = layer.input.scale
    if isinstance(layer, QGRU | QLSTM) and layer.recurrent.scale != scale:
        raise AmacrineError(
            f"layer {layer.name!r}: its input has partial-sum scale {scale}, its recurrent source "
            f"{layer.recurrent.scale}; they must be equal"
        )
    if scale - result_frac(layer) not in SHIFTS:
        raise AmacrineError(
            f"layer {layer.name!r}: partial sums with {scale} fractional bits cannot be shifted right to "
            f"{result_frac(layer)}; the shift must be 0 to {SHIFTS[-1]}"
        )
    low, high = psum_bounds(layer.bias, zip(jobs.values(), (vector_range, layer.output_range), strict=False))
    limit_low, limit_high = signed_range(PSUM_BITS)
    if low.min() < limit_low or high.max() > limit_high:
        row = int(np.maximum(-low, high).argmax())
        raise AmacrineError(
            f"layer {layer.name!r}: the partial sum of row {row} can reach {low[row]} to {high[row]}, "
            f"more than {PSUM_BITS} bits hold"
        )


def psum_bounds(bias: np.ndarray, sources: Iterable[tuple[Job, Range]]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest final partial sum of each row, int64 (gates * H,).

    A final partial sum is bias + W·x̂, and an encoder's x̂ is an earlier x or zero, so it has x's range. In a
    convolution a row is a channel, and x̂ a window of the map or, beyond its edges, zero.
    """
    low = np.array(bias, np.int64).reshape(-1)
    high = low.copy()
    for job, (least, greatest) in sources:
        least = max(least, 0) if job.source.rectify else least
        weight = job.source.weight
        if isinstance(job.layer, QConv):  # one row for each channel, as its sums at all positions have these bounds
            weight = weight.reshape(len(weight), -1)
        positive = weight.sum(axis=1, where=weight > 0, dtype=np.int64)
        negative = weight.sum(axis=1, where=weight < 0, dtype=np.int64)
        rows = gate_rows(job.gates, len(weight) // len(job.gates))
        low[rows] += positive * least + negative * greatest
        high[rows] += positive * greatest + negative * least
    return low, high


def _check_conv(layer: QConv) -> None:
    check_shape(layer.name, layer.shape)
    if layer.activation not in CONV_ACTIVATIONS:
        raise AmacrineError(f"layer {layer.name!r}: activation {layer.activation!r} is not supported; "
                            f"choose one of {', '.join(CONV_ACTIVATIONS)}")
    least, greatest = layer.output_range
    size = pool_size(layer.shape)
    if layer.shape.pooling == "average" and size * max(-least, greatest) > signed_range(PSUM_BITS)[1]:
        raise AmacrineError(f"layer {layer.name!r}: the sum of a pooling window of {size} results may need more than "
                            f"{PSUM_BITS} bits; pool in two steps")


def _arrays(layer: QLayer) -> list[tuple[str, type, tuple[int, ...]]]:
    """Fields of a layer that are arrays, with the type and shape they must have."""
    h = layer.size
    if isinstance(layer, QConv):
        return [("bias", np.int32, (layer.shape.out_channels,))]
    if isinstance(layer, QDense):
        return [("bias", np.int32, (h,))]
    if isinstance(layer, QGRU):
        return [("bias", np.int32, (4, h)), ("initial_s", np.int16, (h,))]
    return [("bias", np.int32, (4, h)), ("initial_h", np.int16, (h,)), ("initial_c", np.int16, (h,))]


def check_frac(what: str, frac: int, allowed: range) -> None:
    if frac not in allowed:
        raise AmacrineError(f"{what} has {frac} fractional bits; allowed are {allowed[0]} to {allowed[-1]}")


def _check_source(name: str, job: Job, n: int, frac: int) -> None:
    source = job.source
    if isinstance(job.layer, QConv):
        if source.n != n:
            raise AmacrineError(f"{name} reads maps of {source.n} elements, but gets {n}")
        shape: tuple[int, ...] = job.layer.shape.weight_shape
    else:
        shape = (len(job.gates) * job.layer.size, n)
    if source.weight.dtype != np.int8 or source.weight.shape != shape or 0 in shape:
        raise AmacrineError(
            f"weights of {name} must be int8 {shape}, not empty, "
            f"not {source.weight.dtype} {source.weight.shape}"
        )
    if source.input_frac != frac:
        raise AmacrineError(f"{name} expects vectors of {source.input_frac} fractional bits but gets {frac}")
    if source.encoder not in (("delta", "threshold") if isinstance(job.layer, QDense | QConv) else ("delta",)):
        raise AmacrineError(
            f"{name} cannot use encoder {source.encoder!r}; a Dense layer's is 'delta' or 'threshold', "
            "a recurrent layer's is 'delta', because its partial sums persist"
        )
    if source.rectify and not isinstance(job.layer, QDense):
        raise AmacrineError(f"{name} rectifies its vector, which only a Dense layer's source can")
    if not 0 <= source.theta < 1 << THETA_BITS:
        limit = (1 << THETA_BITS) - 1
        raise AmacrineError(f"threshold of {name} must be 0 to {limit} LSBs, not {source.theta}")
