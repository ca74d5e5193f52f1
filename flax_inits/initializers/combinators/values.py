"""Initializers whose values are another's, changed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.checks import interval, number
from ..._base.types import Array, DType, Key
from .._build.component import component
from .._build.configured import Draw, initializer
from .._build.given_values import require_trailing
from .._build.rounding import clip, round_inwards


@initializer
def scaled(init: Callable[..., Array], factor: float, dtype: DType = None):
    """Another initializer's values times a number.

        w = factor * init(key, shape)

    Args:
        init: any initializer.
        factor: what to multiply by; 0 gives zeros.
        dtype: the dtype where a call gives none; None is that of `init`.

    Returns:
        An initializer.

    Raises:
        TypeError: `init` is no initializer, or `factor` is no number.
        ValueError: `factor` is not finite, or when called: `init` returns another shape.

    >>> import flax_inits, jax
    >>> flax_inits.scaled(flax_inits.ones(), 0.5)(jax.random.key(0), (2,))
    Array([0.5, 0.5], dtype=float32)

    Reference:
        GPT-2's residual layers.
    """
    return times("scaled", "init", init, number("scaled", "factor", factor))


def times(factory: str, name: str, init: Any, factor: float) -> Draw:
    """`scaled` for `factory`, whose name, with that of its argument, errors bear."""
    draw = component(factory, name, init)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        values = draw.sample(key, shape, dtype)
        return values * factor if factor else jnp.zeros(shape, dtype)

    def image(low: float, high: float) -> tuple[float, float]:
        ends = (low * factor, high * factor) if factor else (0.0, 0.0)
        return min(ends), max(ends)

    pieces = tuple((share, *image(low, high)) for share, low, high in draw.pieces)
    return Draw(
        sample,
        *image(draw.lower, draw.upper),
        kinds=(jnp.inexact,),
        dtype=draw.dtype,
        pieces=pieces,
        sliced=draw.sliced,
    )


@initializer
def clipped(init: Callable[..., Array], lower: float, upper: float, dtype: DType = None):
    """Another initializer's values, moved to the ends of an interval where they are outside.

        w = min(max(init(key, shape), lower), upper)

    Args:
        init: any initializer.
        lower: the least value; may be minus infinity.
        upper: the largest value; may be infinity.
        dtype: the dtype where a call gives none; None is that of `init`.

    Returns:
        An initializer. `truncated_normal` redraws instead, without mass at the ends.

    Raises:
        TypeError: `init` is no initializer, or an end is no number.
        ValueError: the ends are not in order, or when called: `init` returns another shape.

    >>> import flax_inits, jax
    >>> init = flax_inits.clipped(flax_inits.normal(1.0), -2.0, 2.0)
    >>> init(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        `jax.numpy.clip`.
    """
    draw = component("clipped", "init", init)
    interval("clipped", lower, upper)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        return clip(draw.sample(key, shape, dtype), *round_inwards(lower, upper, dtype))

    least, most = (float(min(max(end, lower), upper)) for end in (draw.lower, draw.upper))
    return Draw(sample, least, most, dtype=draw.dtype, sliced=draw.sliced)


@initializer
def masked(init: Callable[..., Array], mask: Any, dtype: DType = None):
    """Another initializer's values where a mask is true, zeros elsewhere.

        w = init(key, shape) where mask, else 0

    Args:
        init: any initializer.
        mask: an array of bools, whose shape is the trailing axes of the shape asked for.
        dtype: the dtype where a call gives none; None is that of `init`.

    Returns:
        An initializer.

    Raises:
        TypeError: `init` is no initializer, or `mask` holds anything but bools.
        ValueError: when called: the shape does not end in that of `mask`, or `init` returns another
            shape.

    >>> import flax_inits, jax
    >>> init = flax_inits.masked(flax_inits.ones(), [[True, False], [True, True]])
    >>> init(jax.random.key(0), (2, 2))
    Array([[1., 0.],
           [1., 1.]], dtype=float32)

    Reference:
        fixed sparse connectivity, as in MADE.
    """
    draw = component("masked", "init", init)
    chosen = np.asarray(mask)
    if chosen.dtype != np.bool_:
        raise TypeError(f"masked needs a mask of bools, got one of {chosen.dtype.name}: {mask!r}.")

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        require_trailing("masked", chosen, shape)
        values = draw.sample(key, shape, dtype)
        return jnp.where(jnp.broadcast_to(chosen, shape), values, jnp.zeros((), dtype))

    lower, upper = min(draw.lower, 0.0), max(draw.upper, 0.0)
    return draw._replace(sample=sample, lower=lower, upper=upper, widen=False, pieces=())
