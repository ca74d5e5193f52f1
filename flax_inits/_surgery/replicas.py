"""The silent trap of `pmap`: params with a leading axis over devices, one copy on each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._base.types import Array, Path
from .._tree.forms import describe
from .._tree.leaves import is_concrete
from .._tree.parts import Part
from .._tree.paths import show
from .._tree.rules import Rule, draws_slices


def check_replicas(
    paths: Sequence[Path],
    leaves: Sequence[Any],
    rules: Mapping[int, Rule],
    new: Mapping[int, Array],
    parts: Mapping[int, Part],
) -> None:
    """Raises if leaves that were equal on all devices of `pmap` would no longer be."""
    if not any(_per_device(leaves[i]) for i in rules) or not _are_replicas(leaves):
        return
    for i, rule in rules.items():
        if i in parts and parts[i].axis == 0:
            raise ValueError(
                f"{describe(rule.where)} takes some of the copies of {show(paths[i])!r} that pmap "
                "holds, one for each device, so that they would differ: axis 0 is the one over "
                "devices; count it in, and give the axis that you mean."
            )
        if not (draws_slices(rule.init) or _equal_on_all(new[i])):
            raise ValueError(
                f"{show(paths[i])!r} holds one copy for each device of pmap, which the rule for "
                f"{describe(rule.where)} would make differ (and with the fans of the whole stack). "
                f"Use replicated({rule.init!r}) for equal copies, stacked(...) for one draw each."
            )


def copies_of(leaf: Any, shape: tuple[int, ...]) -> bool:
    """Whether a leaf has one slice of this shape for each device of `pmap`."""
    return _per_device(leaf) and leaf.shape[1:] == shape


def _are_replicas(leaves: Sequence[Any]) -> bool:
    """Whether every array has one slice per device, all alike, which is not so by chance.

    A leaf of shape (devices, n) sharded over a mesh looks the same as one that `pmap` replicated,
    but its rows differ, unless it is constant; and seldom do all leaves of a tree have that shape.
    """
    arrays = [leaf for leaf in leaves if is_concrete(leaf) and not leaf.is_deleted()]
    if not all(map(_per_device, arrays)) or not all(map(_equal_on_all, arrays)):
        return False
    return any(_named_by_pmap(array) or not _is_constant(array) for array in arrays)


def _per_device(leaf: Any) -> bool:
    if not is_concrete(leaf) or not isinstance(leaf.sharding, NamedSharding) or not leaf.ndim:
        return False
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    axes = [axis for axis in spec if axis is not None]
    return (
        len(mesh.axis_names) == 1
        and mesh.size == leaf.shape[0] > 1
        and axes in ([mesh.axis_names[0]], [mesh.axis_names])
        and spec[0] is not None
    )


def _named_by_pmap(array: Array) -> bool:
    assert isinstance(array.sharding, NamedSharding)
    return str(array.sharding.mesh.axis_names[0]).startswith(("_", "<"))


def _slices(array: Array) -> Iterator[np.ndarray]:
    """The first and the last device's values, as bytes: NaN equals NaN."""
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        array = jax.random.key_data(array)
    for shard in (array.addressable_shards[0], array.addressable_shards[-1]):
        yield np.asarray(shard.data)


def _equal_on_all(array: Array) -> bool:
    first, last = _slices(array)
    return first.tobytes() == last.tobytes()


def _is_constant(array: Array) -> bool:
    values = next(_slices(array)).reshape(-1)
    return not values.size or bool(np.all(values == values[0]))
