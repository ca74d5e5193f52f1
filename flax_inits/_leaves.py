"""What an existing leaf says about the one that takes its place: dtype, layout, memory."""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, NamedSharding, Sharding

from ._paths import show
from ._types import Array, Path

Device: TypeAlias = Any
"""A `jax.Device`, which is no class to a type checker."""


class Place(NamedTuple):
    """Where a leaf is made: as its sharding says, or uncommitted on one device."""

    sharding: Sharding | None = None
    device: Device | None = None
    """None is the default device."""


def dtype_of(leaf: Any) -> Any:
    """The dtype of a leaf; a Python number has JAX's default."""
    return leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.canonicalize_dtype(type(leaf))


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


def place_of(path: Path, leaf: Any) -> Place:
    """Where a leaf like this one is made."""
    if isinstance(leaf, Tracer):
        return Place()
    if not isinstance(leaf, jax.Array):
        sharding = getattr(leaf, "sharding", None)
        return Place() if sharding is None else Place(_usable(path, np.shape(leaf), sharding))
    if leaf.committed:
        return Place(leaf.sharding)
    (device,) = leaf.sharding.device_set  # also of a deleted array
    return Place(device=None if device == _default_device() else device)


def on_device(device: Device | None) -> contextlib.AbstractContextManager[Any]:
    """While it lasts, uncommitted arrays are made on `device`; None changes nothing."""
    return contextlib.nullcontext() if device is None else jax.default_device(device)


def _default_device() -> Device:
    device = jax.config.jax_default_device
    named = device is None or isinstance(device, str)
    return jax.local_devices(backend=device)[0] if named else device


def _usable(path: Path, shape: tuple, sharding: Sharding) -> Sharding:
    """The sharding of an abstract leaf, on devices, with an equal part on each."""
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        # jax.eval_shape knows the axes of a mesh, not its devices: they are those of set_mesh.
        mesh = jax.sharding.get_mesh()
        if mesh.empty or mesh.abstract_mesh != sharding.mesh:
            raise ValueError(
                f"{show(path)!r} cannot be made with {sharding}, over an abstract mesh: call "
                "under jax.set_mesh(mesh), or give it a sharding over a jax.sharding.Mesh."
            )
        sharding = NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise ValueError(
            f"{show(path)!r} of shape {shape} cannot be made with {sharding}: {error}"
        ) from error
    return sharding


def laid_out(values: Array, leaf: Any) -> Array:
    """Under a trace: `values` sharded as `leaf` is, where sharding is part of the type."""
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, jax.Array) else None
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
        return values
    return jax.sharding.reshard(values, sharding)


def check_leaf(path: Path, leaf: Any, by: str) -> None:
    """Raises unless an initializer can make a leaf like this one."""
    dtype = getattr(leaf, "dtype", None)
    number = isinstance(leaf, float | complex)
    if not number and (dtype is None or not jnp.issubdtype(dtype, jnp.inexact)):
        what = type(leaf).__name__ if dtype is None else f"{dtype} of shape {leaf.shape}"
        raise ValueError(
            f"{by} selects {show(path)!r}, which no initializer can make: it holds {what}. "
            "Narrow the rule to the float leaves: give a longer pattern, such as '**/kernel', or "
            "a callable such as lambda path, leaf: jnp.issubdtype(leaf.dtype, jnp.floating)."
        )
    check_usable(path, leaf, by)


def check_usable(path: Path, leaf: Any, by: str, alive: bool = True) -> None:
    """Raises unless a leaf like this one can be made here: of a dtype in use, and not deleted."""
    if alive and is_concrete(leaf) and leaf.is_deleted():
        raise ValueError(
            f"{by} selects {show(path)!r}, whose array was deleted (donated to another "
            "computation); pass the tree that the computation returned."
        )
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        if not isinstance(leaf, bool | int | float | complex):
            raise ValueError(
                f"{by} selects {show(path)!r}, which is no array: {type(leaf).__name__}."
            )
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


def free(replaced: Iterable[Any], in_use: Iterable[Any]) -> None:
    """Deletes arrays whose memory no array in use shares (tied arrays do)."""
    doomed = [leaf for leaf in replaced if is_concrete(leaf)]
    shared = {pointer for leaf in in_use for pointer in _buffers(leaf)}
    for leaf, buffers in [(leaf, _buffers(leaf)) for leaf in doomed]:
        if shared.isdisjoint(buffers):
            leaf.delete()


def _buffers(leaf: Any) -> set[int]:
    """The addresses of an array's memory on each device."""
    if not is_concrete(leaf) or leaf.is_deleted():
        return set()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        leaf = jax.random.key_data(leaf)
    parts = [shard.data for shard in leaf.addressable_shards]
    return {part.unsafe_buffer_pointer() for part in parts if part.size}
