"""What is measured of each activation, within one compiled pass over the network."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._base.types import Array
from .statistics import largest_and_norm, moments
from .taps import Tapped

EDGES = np.linspace(-3.05, 3.05, 62)
"""The bins of all histograms; the one in the middle is around 0. What is beyond the outermost
edges is counted in the outermost bins."""

SATURATED = 0.99
"""The size above which the output of tanh or of a sigmoid counts as saturated."""

_EQUAL = 1e-5
"""Units that differ by less than this share of the largest activation compute the same."""


def measure(tapped: Tapped, args: Any, total: Any) -> list[tuple[Any, dict[str, Any]]]:
    """For each tap, its shape and dtype in one step, and its measures with the steps in front.

    `total(outputs)` is the number whose gradients are taken. Activations of equal shape and dtype
    are measured by one loop and taken apart on the host, or deep networks would compile for long.
    """
    shapes = jax.eval_shape(lambda args: tapped(args)[1], args)
    depths = {site.tap: len(site.steps) for site in tapped.sites()}
    groups: dict[jax.ShapeDtypeStruct, list[int]] = {}
    for tap, shape in enumerate(shapes):
        in_one_step = jax.ShapeDtypeStruct(shape.shape[depths[tap] :], shape.dtype)
        groups.setdefault(in_one_step, []).append(tap)

    @jax.jit
    def run(args: Any) -> list[dict[str, Array]]:
        def forward(moves: list[Array]) -> tuple[Array, list[Array]]:
            outputs, values = tapped(args, moves)
            return total(outputs), values

        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
        gradients, values = jax.grad(forward, has_aux=True)(zeros)
        return [
            jax.lax.map(_measured, [_stack(arrays, struct, taps) for arrays in (values, gradients)])
            for struct, taps in groups.items()
        ]

    return _apart(shapes, groups, jax.device_get(run(args)))


def _stack(arrays: Sequence[Array], struct: Any, taps: Sequence[int]) -> Array:
    """The arrays at the taps in a row, those of each step of a scan by themselves."""
    return jnp.concatenate([arrays[tap].reshape(-1, *struct.shape) for tap in taps])


def _apart(shapes: Any, groups: Any, measured: Any) -> list[tuple[Any, Any]]:
    """For each tap its shape and dtype in one step, and its part of the measures of its group."""
    found: list[Any] = [None] * len(shapes)
    for (struct, taps), measures in zip(groups.items(), measured, strict=True):
        start = 0
        for tap in taps:
            steps = shapes[tap].shape[: shapes[tap].ndim - struct.ndim]
            part = slice(start, start + math.prod(steps))
            own = {k: v[part].reshape((*steps, *v.shape[1:])) for k, v in measures.items()}
            found[tap], start = (struct, own), part.stop
    return found


def _measured(pair: Sequence[Array]) -> dict[str, Array]:
    """The measures of one activation and its gradient; the last axis is taken for the units."""
    values, gradient = pair
    numbers, extremes = moments(values)
    sizes = jnp.abs(values).astype(numbers.dtype)
    largest = jnp.max(sizes)
    samples = tuple(range(values.ndim - 1))
    units = values.shape[-1] if values.ndim else 1
    apart = jnp.abs(values - values[..., :1]).astype(sizes.dtype) if values.ndim else sizes
    bounded = largest <= 1
    return {
        "numbers": numbers,
        "extremes": extremes,
        "dead": jnp.mean(jnp.all(values == 0, axis=samples), dtype=numbers.dtype),
        "saturated": jnp.where(bounded, jnp.mean(sizes > SATURATED, dtype=numbers.dtype), 0),
        "symmetric": (units > 1)
        & (largest > 0)
        & (jnp.max(apart) <= _EQUAL * largest)
        & jnp.isfinite(largest),
        "gradient": largest_and_norm(jnp.abs(gradient).astype(numbers.dtype))[1],
        "histogram": _histogram(values),
    }


def _histogram(values: Array) -> Array:
    """Counts in the bins of `EDGES`, without NaN."""
    values = values.real.astype(jnp.float32).reshape(-1)
    last, width = len(EDGES) - 2, EDGES[1] - EDGES[0]
    bins = jnp.clip(jnp.floor((values - EDGES[0]) / width), 0, last)
    known = ~jnp.isnan(bins)
    bins = jnp.where(known, bins, 0).astype(jnp.int32)
    return jnp.zeros(last + 1, jnp.int32).at[bins].add(known.astype(jnp.int32))
