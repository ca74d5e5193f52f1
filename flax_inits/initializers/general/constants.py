"""Values that are given, not drawn."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.types import Array, DType, Key
from .._build.arguments import frozen
from .._build.component import ANY
from .._build.configured import Draw, initializer
from .._build.given_values import cast, fill, numbers


@initializer
def constant(value: Any, dtype: DType = None):
    """The same value everywhere, or the same array in every slice.

        w[..., i, j] = value[i, j]

    Args:
        value: a number, or an array whose shape is the trailing axes of the shape asked for.
            Integer, bool and complex dtypes are made too, if they can hold it exactly.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    Raises:
        TypeError: `value` holds no numbers.
        ValueError: when called: the dtype cannot hold `value`, or the shape does not end in its.

    >>> import flax_inits, jax
    >>> flax_inits.constant([0.0, 42.0])(jax.random.key(0), (2, 2))
    Array([[ 0., 42.],
           [ 0., 42.]], dtype=float32)

    Reference:
        `jax.nn.initializers.constant`, which has no equality.
    """
    array = numbers("constant", value)
    return Draw(
        lambda key, shape, dtype: fill("constant", array, shape, dtype),
        kinds=ANY,
        widen=False,
        pieces=_point(array),
    )


@initializer
def zeros(dtype: DType = None):
    """Zeros: `constant(0)`.

        w = 0

    Args:
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    >>> import flax_inits, jax
    >>> flax_inits.zeros()(jax.random.key(0), (2,))
    Array([0., 0.], dtype=float32)

    Reference:
        `jax.nn.initializers.zeros`.
    """
    return constant(0).draw


@initializer
def ones(dtype: DType = None):
    """Ones: `constant(1)`.

        w = 1

    Args:
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    >>> import flax_inits, jax
    >>> flax_inits.ones()(jax.random.key(0), (2,))
    Array([1., 1.], dtype=float32)

    Reference:
        `jax.nn.initializers.ones`.
    """
    return constant(1).draw


def _point(array: np.ndarray) -> tuple:
    """A real finite number as a point mass, for `mixture`."""
    if array.shape or jnp.issubdtype(array.dtype, jnp.complexfloating) or not np.isfinite(array):
        return ()
    return ((1.0, float(array), float(array)),)


@partial(initializer, freeze=partial(frozen, scalars=False))
def from_array(x: Any, dtype: DType = None):
    """A given array, as it is: nothing is drawn and nothing broadcast.

        w = x

    Args:
        x: an array, or nested lists of numbers.
        dtype: the dtype where a call gives none; None is the dtype of `x`.

    Returns:
        An initializer.

    Raises:
        TypeError: `x` holds no numbers.
        ValueError: when called: the dtype cannot hold `x`, or the shape is not that of `x`.

    >>> import flax_inits, jax
    >>> flax_inits.from_array([[1.0, 2.0]])(jax.random.key(0), (1, 2))
    Array([[1., 2.]], dtype=float32)

    Reference:
        MXNet's `Load`, Paddle's `Assign`.
    """
    array = numbers("from_array", x)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        if shape != array.shape:
            raise ValueError(
                f"from_array holds an array of shape {array.shape}, asked for {shape}."
            )
        return jnp.asarray(cast("from_array", array, dtype))

    own = array.dtype if isinstance(x, np.ndarray) else None
    return Draw(sample, kinds=ANY, widen=False, dtype=own)
