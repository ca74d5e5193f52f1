"""Values in the dtype and weak type of the leaf that they replace."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._base.types import Array
from .leaves import dtype_of, is_weak
from .paths import flatten


def checked_as(values: Any, leaf: Any, source: Any) -> Array:
    """What an initializer made as a leaf: out of its box, checked, in the leaf's dtype."""
    array = _unboxed(values, source)
    shape, dtype = np.shape(leaf), dtype_of(leaf)
    if np.shape(array) != shape:
        raise ValueError(
            f"{source!r} returned shape {np.shape(array)} where {shape} was asked for; an "
            "initializer returns an array of the shape that it is called with."
        )
    if not can_cast(dtype_of(array), dtype):
        raise ValueError(
            f"{source!r} returned {dtype_of(array)} where {dtype} was asked for, which cannot "
            "hold it."
        )
    return cast(array, leaf)


def _unboxed(values: Any, source: Any) -> Any:
    names, arrays, _ = flatten(values)
    # What nnx.with_partitioning makes is a box but no pytree.
    array = getattr(arrays[0], "raw_value", arrays[0]) if names == [()] else None
    if isinstance(array, bool | int | float | complex) or hasattr(array, "dtype"):
        return array
    hint = " Is it a factory, to be called once more?" if callable(array) else ""
    raise ValueError(f"{source!r} must return one array, got {values!r}.{hint}")


_KINDS = (jnp.complexfloating, jnp.floating, jnp.integer, jnp.bool_)


def can_cast(given: Any, wanted: Any) -> bool:
    """Whether a leaf of one dtype can take values of another: floats take integers, not back."""
    if given == wanted:
        return True
    ranks = [
        [i for i, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind)]
        for dtype in (given, wanted)
    ]
    return all(ranks) and ranks[1][0] <= min(1, ranks[0][0])


def cast(values: Any, leaf: Any) -> Array:
    """`values` in a leaf's dtype, weakly typed where the leaf is."""
    dtype, weak = dtype_of(leaf), is_weak(leaf)
    if isinstance(values, jax.Array) and (values.dtype, is_weak(values)) == (dtype, weak):
        return values
    strong = lax.convert_element_type(values, dtype)
    if not weak:
        return strong
    # No public cast makes a weakly typed array; keeping the type spares the caller a retrace.
    return lax.convert_element_type_p.bind(strong, new_dtype=dtype, weak_type=True, sharding=None)
