"""Values that the user gave: read, cast without changing them, spread over leading axes."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.types import Array
from .component import ANY


def numbers(factory: str, value: Any) -> np.ndarray:
    """`value` as an array of numbers or bools."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{factory} needs rows of equal length, got {value!r}.") from None
    if array.dtype == object and all(isinstance(item, int) for item in array.flat):
        try:
            array = array.astype(float)  # integers beyond 64 bits
        except OverflowError:
            raise ValueError(f"{factory} needs numbers within float64, got {value!r}.") from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in ANY):
        raise TypeError(f"{factory} needs a number or an array of numbers, got {value!r}.")
    return array


def cast(factory: str, value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`value` as `dtype`: floats rounded to nearest, integers and bools exact, else an error."""
    if np.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        _require(factory, value, dtype, not np.any(np.imag(value)))
        value = np.real(value)
    with np.errstate(invalid="ignore", over="ignore"):
        result = value.astype(dtype)
        if jnp.issubdtype(dtype, jnp.inexact):
            _require(factory, value, dtype, np.all(_finite(value) == _finite(result)))
        else:
            _require(factory, value, dtype, _in_range(value, dtype) and np.all(result == value))
    return result


def _finite(value: np.ndarray) -> np.ndarray:
    """Where values are finite; infinity and NaN are told apart by sign."""
    wide = value.astype(np.complex128)
    return np.isfinite(wide) + 2 * np.isnan(wide)


def _in_range(value: np.ndarray, dtype: np.dtype) -> bool:
    """Whether casting wraps no integer around and is defined for each float."""
    if not value.size or dtype == np.bool_:
        return True
    low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return bool(np.all(np.isfinite(value))) and low <= value.min() <= value.max() <= high


def _require(factory: str, value: np.ndarray, dtype: np.dtype, fits: Any) -> None:
    if not fits:
        what = f"{value}" if not value.shape else f"an array of {value.dtype.name}"
        raise ValueError(
            f"{factory} cannot hold {what} in {dtype.name} without changing it; use another dtype."
        )


def fill(factory: str, value: np.ndarray, shape: tuple, dtype: np.dtype) -> Array:
    """`value` in every slice of `shape` over the leading axes that it lacks."""
    require_trailing(factory, value, shape)
    return jnp.broadcast_to(jnp.asarray(cast(factory, value, dtype)), shape)


def require_trailing(factory: str, value: np.ndarray, shape: tuple) -> None:
    """Raises unless `shape` ends in the shape of `value`."""
    lead = len(shape) - value.ndim
    if lead < 0 or shape[lead:] != value.shape:
        raise ValueError(
            f"{factory} holds an array of shape {value.shape}, which must be the trailing axes "
            f"of the shape, got {shape}."
        )
