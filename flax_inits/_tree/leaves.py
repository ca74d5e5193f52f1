"""What an existing leaf says about the one that takes its place, and whether one can."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._base.types import Path
from .paths import show


def dtype_of(leaf: Any) -> Any:
    """The dtype of a leaf; a Python number has JAX's default."""
    return leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.canonicalize_dtype(type(leaf))


def at_least_float32(dtype: Any) -> Any:
    """The dtype in which to compute what is cast to `dtype` last."""
    # Not by jnp.promote_types, which strict promotion forbids.
    wide = jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4
    return dtype if wide else np.dtype(np.float32)


def is_weak(leaf: Any) -> bool:
    """Whether a leaf's dtype gives way in promotion, as that of a Python number does."""
    number = isinstance(leaf, int | float | complex) and not isinstance(leaf, bool)
    return getattr(leaf, "weak_type", number and not hasattr(leaf, "dtype"))


def struct_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """The leaf's shape, dtype and weak type."""
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf), weak_type=is_weak(leaf))


def is_concrete(leaf: Any) -> bool:
    """Whether a leaf is an array on some device, not a tracer."""
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is of floats, real or complex: what initializers make."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float | complex)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def check_leaf(path: Path, leaf: Any, by: str, narrower: str = "") -> None:
    """Raises unless an initializer can make a leaf like this one; `narrower` says what to write."""
    if not is_inexact(leaf):
        dtype = getattr(leaf, "dtype", None)
        what = type(leaf).__name__ if dtype is None else f"{dtype} of shape {leaf.shape}"
        if leaf is ...:
            what = "..., a placeholder of Orbax for an array that was not restored"
        raise ValueError(
            f"{by} selects {show(path)!r}, which no initializer can make: it holds {what}. "
            f"Narrow the rule to leaves of floats{narrower}."
        )
    check_usable(path, leaf, by)


def check_alive(
    path: Path, leaf: Any, before: str = "The array of", after: str = "", give: str = "the tree"
) -> None:
    """Raises if the leaf's array was deleted: its path is named between `before` and `after`."""
    if is_concrete(leaf) and leaf.is_deleted():
        raise ValueError(
            f"{before} {show(path)!r}{after} was deleted (donated to another computation); pass "
            f"{give} that the computation returned."
        )


def check_usable(path: Path, leaf: Any, by: str, alive: bool = True) -> None:
    """Raises unless a leaf like this one can be made here: of a dtype in use, and not deleted."""
    if alive:
        check_alive(path, leaf, f"{by} selects", ", whose array")
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        if not isinstance(leaf, bool | int | float | complex):
            what = "a placeholder of Orbax, not restored" if leaf is ... else type(leaf).__name__
            raise ValueError(f"{by} selects {show(path)!r}, which is no array: {what}.")
    elif not jnp.issubdtype(dtype, jax.dtypes.extended) and not _makes(dtype):
        raise ValueError(
            f"{by} selects {show(path)!r}, which holds {dtype}: JAX makes 64-bit leaves only "
            "after jax.config.update('jax_enable_x64', True). Set it, or cast the leaf first."
        )


@functools.lru_cache
def _canonical(dtype: Any, x64: bool) -> Any:
    return jax.dtypes.canonicalize_dtype(dtype)


def _makes(dtype: Any) -> bool:
    return _canonical(dtype, jax.config.jax_enable_x64) == dtype
