"""Constants and the plain distributions."""

from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import _bits
from .._types import Array, DType, Key
from ._base import Draw, initializer
from ._checks import non_negative, number
from ._rounding import clip


@initializer
def uniform(minval: float, maxval: float, dtype: DType = None):
    """Uniform over [minval, maxval).

    >>> import flax_inits, jax
    >>> flax_inits.uniform(-0.05, 0.05)
    uniform(-0.05, 0.05)
    """
    low, high = number("uniform", "minval", minval), number("uniform", "maxval", maxval)
    if not low < high:
        raise ValueError(f"uniform needs minval < maxval, got minval={minval}, {maxval=}.")

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        values = _bits.uniform(key, shape, dtype, low, high)
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
    """Gaussian."""
    non_negative("normal", "stddev", stddev)
    number("normal", "mean", mean)
    return Draw(lambda key, shape, dtype: _bits.normal(key, shape, dtype) * stddev + mean)
