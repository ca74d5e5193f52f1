"""Keys and shapes to random values: the only module that draws."""

import jax
import numpy as np

from ._types import Array, DType, Key, Shape


def check_key(key: Key) -> None:
    """Raises unless `key` is one PRNG key, typed or legacy."""
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(
            f"key must be one PRNG key such as jax.random.key(0), got {type(key).__name__}: {key!r}."
        )
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        if key.shape:
            raise ValueError(
                f"key must be one PRNG key, got an array of keys of shape {key.shape}; "
                "use jax.vmap to draw with several keys."
            )
    elif np.dtype(dtype) != np.uint32 or key.ndim != 1:
        raise TypeError(
            "key must be one PRNG key such as jax.random.key(0), got an array of "
            f"dtype {dtype} and shape {key.shape}."
        )


def uniform(key: Key, shape: Shape, dtype: DType, minval: float, maxval: float) -> Array:
    """Draws U[minval, maxval)."""
    return jax.random.uniform(key, shape, dtype, minval, maxval)


def normal(key: Key, shape: Shape, dtype: DType) -> Array:
    """Draws N(0, 1)."""
    return jax.random.normal(key, shape, dtype)


def truncated_normal(key: Key, shape: Shape, dtype: DType, lower: float, upper: float) -> Array:
    """Draws N(0, 1) conditioned on the open interval (lower, upper)."""
    return jax.random.truncated_normal(key, lower, upper, shape, dtype)
