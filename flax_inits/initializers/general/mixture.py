"""Mixtures of initializers, the default one included."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.checks import number
from ..._base.types import Array, DType, Key
from ..._tree.leaves import at_least_float32
from .._build.component import component
from .._build.configured import Draw, initializer
from .._build.given_values import cast
from .._build.rounding import clip, is_narrow, round_inwards
from .constants import constant

TOLERANCE = 1e-6
"""How far from 1 the weights' sum may be: the error of a few float32 roundings."""


@initializer
def mixture(
    components: Sequence[Any] | None = None,
    weights: Sequence[float] | None = None,
    dtype: DType = None,
):
    """Each value from one component, chosen at random.

        w ~ components[i]  with probability weights[i]

    With no arguments:

        w ~ U(5, 10) with probability 1/4, 0 with probability 1/2, U(-10, -5) with probability 1/4

    The default's values are those of `u = jax.random.uniform(key, shape, minval=-10, maxval=10);
    jnp.where(jnp.abs(u) >= 5, u, 0)` under `jit`. Components that are all uniforms, constants and
    mixtures of these cost one draw in total, by the inverse of their distribution function (in
    float32 it resolves probabilities of 2**-23); others are drawn each and chosen from.

    Args:
        components: initializers, or numbers for values that occur as they are.
        weights: their probabilities: positive, and summing to 1 within 1e-6; None is equal ones.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    Raises:
        TypeError: a component is neither an initializer nor a number, or a weight is no number.
        ValueError: there are no components, weights are not positive or do not sum to 1, or there
            is not one for each component.

    >>> import flax_inits, jax
    >>> init = flax_inits.mixture([flax_inits.normal(0.02), 0.0], weights=[0.1, 0.9])
    >>> init
    mixture((normal(0.02), 0.0), (0.1, 0.9))
    >>> init(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        the mixture that this package was started for.
    """
    if components is None:
        if weights is not None:
            raise ValueError("mixture needs components for its weights, got none.")
        pieces = ((0.25, -10.0, -5.0), (0.5, 0.0, 0.0), (0.25, 5.0, 10.0))
        return Draw(_default, -10.0, 10.0, pieces=pieces)
    draws = _checked_components(components)
    shares = _checked_weights(weights, len(draws))
    if all(draw.pieces for draw in draws):
        pieces = tuple(
            (share * weight, low, high)
            for share, draw in zip(shares, draws, strict=True)
            for weight, low, high in draw.pieces
        )
        sample = functools.partial(_by_inversion, pieces)
        return Draw(sample, *_ends(draws), widen=False, pieces=pieces)
    sample = functools.partial(_by_choice, draws, shares)
    return Draw(sample, *_ends(draws), kinds=(jnp.inexact,), widen=False)


def _ends(draws: tuple[Draw, ...]) -> tuple[float, float]:
    return min(draw.lower for draw in draws), max(draw.upper for draw in draws)


def _default(key: Key, shape: tuple, dtype: np.dtype) -> Array:
    values = bits.uniform(key, shape, dtype, -10.0, 10.0)
    return jnp.where(jnp.abs(values) >= 5, values, 0)


def _checked_components(components: Any) -> tuple[Draw, ...]:
    if not isinstance(components, tuple):
        raise TypeError(
            f"mixture needs a list of initializers and numbers as components, got {components!r}."
        )
    if not components:
        raise ValueError("mixture needs at least one component, got an empty list.")
    return tuple(
        component("mixture", f"components[{i}]", item) if callable(item) else _point(i, item)
        for i, item in enumerate(components)
    )


def _point(index: int, value: Any) -> Draw:
    name = f"components[{index}]"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"mixture needs an initializer or a number as {name}, got {value!r}.")
    return constant(number("mixture", name, value)).draw


def _checked_weights(weights: Any, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    if isinstance(weights, np.ndarray):
        weights = tuple(weights.tolist())
    if not isinstance(weights, tuple) or len(weights) != count:
        raise ValueError(f"mixture needs one weight per component, {count}, got {weights!r}.")
    for index, weight in enumerate(weights):
        if number("mixture", f"weights[{index}]", weight) <= 0:
            raise ValueError(f"mixture needs positive weights, got weights[{index}]={weight}.")
    total = math.fsum(weights)
    if abs(total - 1) > TOLERANCE:
        raise ValueError(
            f"mixture needs weights that sum to 1, got {weights!r}, which sum to {total:.9g}; "
            "divide them by their sum."
        )
    return tuple(float(weight) for weight in weights)


def _by_inversion(pieces: tuple, key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """One uniform draw: its place among the cumulative weights is both piece and value."""
    u = bits.uniform(key, shape, at_least_float32(dtype), 0.0, 1.0)
    ends = list(itertools.accumulate(weight for weight, _, _ in pieces))
    result = None
    for (weight, low, high), end in reversed(list(zip(pieces, ends, strict=True))):
        values = _piece(u - (end - weight), weight, low, high, dtype)
        result = values if result is None else jnp.where(u < end, values, result)
    return jnp.broadcast_to(jnp.asarray(result, dtype), shape)


def _piece(offset: Array, weight: float, low: float, high: float, dtype: np.dtype) -> Any:
    """The values of one piece where the draw is `offset` into its share `weight`."""
    if low == high:
        return cast("mixture", np.asarray(low), dtype).astype(offset.dtype)
    if is_narrow(dtype):
        least, most = round_inwards(low, high, dtype)
    else:
        # Half-open, as `uniform` is: the ends round to nearest, the upper one stays out.
        least, top = np.asarray(low, dtype), np.asarray(high, dtype)
        most = np.nextafter(top, np.asarray(-np.inf, dtype))
    return clip(offset * ((high - low) / weight) + low, least, most)


def _by_choice(draws: tuple, shares: tuple, key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """A draw of every component, and one more that chooses."""
    choosing, *keys = jax.random.split(key, len(draws) + 1)
    wide = np.dtype(np.float64 if dtype in (np.float64, np.complex128) else np.float32)
    u = bits.uniform(choosing, shape, wide, 0.0, 1.0)
    values = [draw.sample(key, shape, dtype) for draw, key in zip(draws, keys, strict=True)]
    result = values[-1]
    for value, end in reversed(list(zip(values, itertools.accumulate(shares), strict=True))[:-1]):
        result = jnp.where(u < end, value, result)
    return jnp.broadcast_to(result, shape)
