"""Bounds in floating point: which values of a dtype lie within an interval."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.types import Array


def is_narrow(dtype: np.dtype) -> bool:
    """Whether `dtype` is a float of fewer than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def round_inwards(lower: float, upper: float, dtype: np.dtype) -> tuple[float, float]:
    """The smallest and largest values of `dtype` within [lower, upper]; infinities stay.

    Raises:
        ValueError: no value of `dtype` lies there, or a bound is beyond its range.
    """
    limit = float(jnp.finfo(dtype).max)
    if any(np.isfinite(bound) and abs(bound) > limit for bound in (lower, upper)):
        raise ValueError(
            f"values within [{lower}, {upper}] do not fit {dtype.name}, whose largest number is "
            f"{limit:g}; use a wider dtype or closer bounds."
        )
    least = lower if np.isinf(lower) else _at_least(lower, dtype)
    most = upper if np.isinf(upper) else -_at_least(-upper, dtype)
    if least > most:
        raise ValueError(
            f"no {dtype.name} number lies within [{lower}, {upper}]; use a wider dtype."
        )
    return least, most


def _at_least(bound: float, dtype: np.dtype) -> float:
    """The smallest number of `dtype` that is not below `bound`."""
    if is_narrow(dtype):
        numbers = _numbers(dtype)
        return float(numbers[np.searchsorted(numbers, bound)])
    rounded = np.asarray(bound, dtype)
    if float(rounded) < bound:
        rounded = np.nextafter(rounded, np.asarray(np.inf, dtype))
    return float(rounded)


@functools.lru_cache
def _numbers(dtype: np.dtype) -> np.ndarray:
    """All finite numbers of a 16- or 8-bit dtype in order (some lack `nextafter` and inf)."""
    bits = jnp.finfo(dtype).bits
    patterns = np.arange(2**bits, dtype=f"uint{bits}").view(dtype)
    with np.errstate(invalid="ignore"):
        numbers = patterns.astype(np.float64)
    return np.unique(numbers[np.isfinite(numbers)])


def clip(values: Array, lower: Any, upper: Any) -> Array:
    """`values` within [lower, upper], where these are finite."""
    if np.isfinite(lower):
        values = jnp.maximum(values, lower)
    if np.isfinite(upper):
        values = jnp.minimum(values, upper)
    return values
