"""Uniforms and normals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.checks import number, ordered, spread
from ..._base.types import Array, DType, Key
from .._build.configured import Draw, initializer
from .._build.rounding import clip


@initializer
def uniform(minval: float, maxval: float, dtype: DType = None):
    """Uniform over an interval of your choice.

        w ~ U[minval, maxval)

    After rounding to 16 or 8 bits, `maxval` itself can occur; no value is ever outside.

    Args:
        minval: the lower end.
        maxval: the upper end, above `minval`.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer. Its values are those of `jax.random.uniform(key, shape, dtype, minval,
        maxval)`, except where that one rounds up to `maxval`.

    Raises:
        TypeError: an end is no number.
        ValueError: an end is not finite, or they are not in order.

    >>> import flax_inits, jax
    >>> init = flax_inits.uniform(-0.05, 0.05)
    >>> init
    uniform(-0.05, 0.05)
    >>> init(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        `torch.nn.init.uniform_`; `jax.nn.initializers.uniform` has only [0, scale).
    """
    low, high = number("uniform", "minval", minval), number("uniform", "maxval", maxval)
    ordered("uniform", "minval", minval, "maxval", maxval)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        values = bits.uniform(key, shape, dtype, low, high)
        return clip(values, -np.inf, ceiling(low, high, dtype))

    return Draw(sample, low, high, pieces=((1.0, low, high),))


def ceiling(minval: float, maxval: float, dtype: np.dtype) -> Any:
    """The number below `maxval` if scaling a draw of [0, 1) can round up to it, else infinity."""
    low, high = np.asarray(minval, dtype), np.asarray(maxval, dtype)
    with np.errstate(over="ignore"):
        width = high - low
    if not (low < high and np.isfinite(width)):
        raise ValueError(
            f"uniform needs minval < maxval a finite way apart in {dtype.name}, "
            f"got minval={minval}, maxval={maxval}."
        )
    below = np.nextafter(high, np.asarray(-np.inf, dtype))
    # The largest draw is 1 - eps; XLA may or may not round its product before the sum.
    unit = 1 - jnp.finfo(dtype).eps
    products = (Fraction(float(width)) * Fraction(float(unit)), Fraction(float(width * unit)))
    half_way = (Fraction(float(below)) + Fraction(float(high))) / 2
    return below if max(products) + Fraction(float(low)) >= half_way else np.inf


@initializer
def normal(stddev: float, mean: float = 0.0, dtype: DType = None):
    """Gaussian, not truncated.

        w ~ N(mean, stddev^2)

    Complex dtypes are circular: real and imaginary part have half of the variance each.

    Args:
        stddev: the standard deviation, which comes first, unlike in torch; 0 gives zeros.
        mean: the mean.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    Raises:
        TypeError: an argument is no number.
        ValueError: `stddev` is negative, or 0 with a mean, or an argument is not finite.

    >>> import flax_inits, jax
    >>> flax_inits.normal(0.02, mean=1.0)(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        `torch.nn.init.normal_`; `jax.nn.initializers.normal` has no mean.
    """
    scale, centre = spread("normal", stddev, mean)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        if not np.asarray(scale, dtype):  # negative draws times 0 would be -0
            return jnp.full(shape, centre, dtype)
        values = bits.normal(key, shape, dtype) * scale
        return values + centre if centre else values

    return Draw(sample, kinds=(jnp.inexact,))
