"""What an existing leaf says about the one that takes its place: dtype, layout, memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from ._paths import show
from ._types import Path


def dtype_of(leaf: Any) -> Any:
    """The dtype of a leaf; a Python number has JAX's default."""
    return leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.canonicalize_dtype(type(leaf))


def is_weak(leaf: Any) -> bool:
    """Whether a leaf's dtype gives way in promotion, as that of a Python number does."""
    return getattr(leaf, "weak_type", isinstance(leaf, float | complex))


def sharding_of(leaf: Any) -> Sharding | None:
    """Where a leaf like this one is made; None is the default device, uncommitted."""
    sharding = getattr(leaf, "sharding", None)
    if isinstance(leaf, jax.Array) and not leaf.committed:
        return None
    return sharding


def check_leaf(path: Path, leaf: Any, by: str) -> None:
    """Raises unless an initializer can make a leaf like this one."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and isinstance(leaf, float | complex):
        return
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        what = type(leaf).__name__ if dtype is None else f"{dtype} of shape {leaf.shape}"
        raise ValueError(
            f"{by} selects {show(path)!r}, which no initializer can make: it holds {what}. "
            "Narrow the pattern to the float leaves, for example to "
            f"'**/kernel', or give a callable (path, leaf) -> bool."
        )
    check_leaf_alive(path, leaf, by)


def check_leaf_alive(path: Path, leaf: Any, by: str) -> None:
    """Raises if the leaf's array was deleted."""
    if is_concrete(leaf) and leaf.is_deleted():
        raise ValueError(
            f"{by} has {show(path)!r}, whose array was deleted (donated to another "
            "computation); pass the tree that the computation returned."
        )


def is_concrete(leaf: Any) -> bool:
    """Whether a leaf is an array on some device, not a tracer."""
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)


def free(replaced: list[Any], kept: list[Any]) -> None:
    """Deletes replaced arrays whose memory no kept leaf uses."""
    in_use = {pointer for leaf in kept for pointer in _buffers(leaf)}
    for leaf in replaced:
        if in_use.isdisjoint(_buffers(leaf)):
            if is_concrete(leaf):
                leaf.delete()


def _buffers(leaf: Any) -> set[int]:
    """The addresses of an array's memory on each device; tied arrays share them."""
    if not is_concrete(leaf) or leaf.is_deleted():
        return set()
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
        leaf = jax.random.key_data(leaf)
    return {shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards}
