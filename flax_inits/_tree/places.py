"""On which devices a leaf lives, and how a new one gets there."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from .._base.bits import is_key_dtype
from .._base.cache import cached
from .._base.jax_state import concrete_mesh, tracing
from .._base.types import Array, Path
from .leaves import dtype_of, is_concrete
from .paths import show

Device: TypeAlias = Any
"""A `jax.Device`, which is no class to a type checker."""


class Placement(NamedTuple):
    """Where a leaf is made: as its sharding says, or uncommitted on one device."""

    sharding: Sharding | None = None
    device: Device | None = None
    """None is the default device."""


def place_of(path: Path, leaf: Any) -> Placement:
    """Where a leaf like this one is made."""
    if isinstance(leaf, Tracer):
        return Placement()
    if not isinstance(leaf, jax.Array):
        sharding = getattr(leaf, "sharding", None)
        return Placement(sharding and _usable(path, np.shape(leaf), sharding))
    if leaf.committed:
        return Placement(leaf.sharding)
    (device,) = leaf.sharding.device_set  # also of a deleted array
    return Placement(device=None if device == _default_device() else device)


_NO_MESH = Mesh(np.empty((), object), ())


@contextlib.contextmanager
def placed_at(place: Placement) -> Iterator[None]:
    """While it lasts, what has no sharding of its own is made where `place` says."""
    with contextlib.ExitStack() as stack:
        mesh = concrete_mesh()
        if mesh is not None and getattr(place.sharding, "mesh", None) != mesh:
            # What is made under a mesh without a sharding is spread over all of it.
            stack.enter_context(jax.set_mesh(_NO_MESH))
        if place.device is not None:
            stack.enter_context(jax.default_device(place.device))
        yield


@cached(1024)
def jitted_at(
    function: Callable[..., Any], place: Placement | tuple[Placement, ...], *facts: Any
) -> Callable[..., Any]:
    """Compiles `function(*facts, ...)` with its result at `place`, once for equal arguments.

    A tuple has the place of each item of a result that is a list; all are on the same devices.
    Facts that have no hash are compiled anew at each call.
    """
    if isinstance(place, Placement):
        first, shardings = place, place.sharding
    else:
        first, shardings = place[0], [item.sharding for item in place]
    jitted = jax.jit(functools.partial(function, *facts), out_shardings=shardings)

    def call(*args: Any) -> Any:
        with placed_at(first):
            return jitted(*args)

    return call


def run_at_leaf(
    function: Callable[..., Any], path: Path, leaf: Any, *facts: Any
) -> Callable[..., Any]:
    """`function(*facts, ...)` with its result where the leaf lives, as `jitted_at` compiles it.

    Where anything is traced, it becomes a part of that trace.
    """

    def call(*args: Any) -> Any:
        if tracing() or any(isinstance(x, Tracer) for x in jax.tree.leaves((leaf, args))):
            return laid_out(function(*facts, *args), leaf)
        return jitted_at(function, place_of(path, leaf), *facts)(*args)

    return call


def within_reach(place: Placement) -> Placement:
    """`place`, or all of the mesh in use if a program traced under it cannot make a leaf there."""
    mesh = concrete_mesh()
    if mesh is None or getattr(place.sharding, "mesh", None) == mesh:
        return place
    elsewhere = place.sharding is not None and place.sharding.device_set != set(mesh.devices.flat)
    if elsewhere or AxisType.Explicit in mesh.axis_types:
        return Placement(NamedSharding(mesh, PartitionSpec()))
    return place


def copied(values: Any, place: Placement) -> Array:
    """`values` at `place`, in memory of their own."""
    if is_concrete(values) and (place.sharding or _uncommitted_at(values, place.device)):
        with placed_at(Placement(values.sharding if values.committed else None)):
            copy = values.copy()
    else:
        with placed_at(place):
            copy = jax.device_put(on_host(values)).copy()
    return copy if place.sharding in (None, copy.sharding) else jax.device_put(copy, place.sharding)


def _uncommitted_at(values: Array, device: Device | None) -> bool:
    return not values.committed and values.device == (device or _default_device())


def on_host(values: Any) -> Any:
    """Copies an array, or keys, to the host, where it is free of the device that it was on."""
    if not is_key_dtype(dtype_of(values)):
        return jax.device_get(values)
    data: Any = jax.device_get(jax.random.key_data(values))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(values))


def _default_device() -> Device:
    device = jax.config.jax_default_device
    named = device is None or isinstance(device, str)
    return jax.local_devices(backend=device)[0] if named else device


def _usable(path: Path, shape: tuple, sharding: Sharding) -> Sharding:
    """The sharding of an abstract leaf, on devices, with an equal part on each."""
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        # jax.eval_shape knows the axes of a mesh, not its devices: they are those of set_mesh.
        mesh = concrete_mesh()
        if mesh is None or mesh.abstract_mesh != sharding.mesh:
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
    # Without jax.set_mesh, JAX knows no devices for a type, and leaves sharding to the compiler.
    known = sharding.mesh == jax.sharding.get_abstract_mesh()
    return jax.sharding.reshard(values, sharding) if known else values


def free(replaced: Iterable[Any], in_use: Iterable[Any]) -> None:
    """Deletes arrays whose memory no array in use shares (tied arrays do)."""
    doomed = [leaf for leaf in replaced if is_concrete(leaf)]
    shared = {pointer for leaf in in_use for pointer in _buffers(leaf)}
    # All addresses before any is deleted: the doomed may share memory with each other.
    buffers = [_buffers(leaf) for leaf in doomed]
    for leaf, pointers in zip(doomed, buffers, strict=True):
        if shared.isdisjoint(pointers):
            leaf.delete()


def _buffers(leaf: Any) -> set[int]:
    """The addresses of an array's memory on each device."""
    if not is_concrete(leaf) or leaf.is_deleted():
        return set()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        leaf = jax.random.key_data(leaf)
    parts = [shard.data for shard in leaf.addressable_shards]
    return {part.unsafe_buffer_pointer() for part in parts}
