"""Leaves as planned: read from the donor and put where the target's leaves live."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import SingleDeviceSharding

from ..._base.types import Array, Key, Path
from ..._tree.casting import cast
from ..._tree.leaves import dtype_of, is_concrete
from ..._tree.places import Placement, copied, laid_out, place_of, placed_at
from ..reinit import reinit
from .adapter import Goal
from .views import Region, View, of_array, region_at, whole


def goals(key: Key | None, staged: bool) -> Callable[[Path, Any], Goal]:
    """The function that says what a leaf of the target asks for."""

    def goal_of(path: Path, leaf: Any) -> Goal:
        def draw(init: Any, shape: tuple[int, ...], dtype: Any) -> View:
            like = (tuple(np.shape(leaf)), dtype_of(leaf)) == (shape, dtype)
            struct = leaf if like else jax.ShapeDtypeStruct(shape, dtype)
            return _drawn(key, path, struct, init, staged)

        abstract = isinstance(leaf, jax.ShapeDtypeStruct)
        own = None if abstract else lambda: of_array(leaf, staged)
        return Goal(path, tuple(np.shape(leaf)), dtype_of(leaf), own, draw)

    return goal_of


def _drawn(key: Any, path: Path, leaf: Any, init: Any, staged: bool) -> View:
    """What `reinit` makes of a leaf, made when it is first read."""
    made: list[View] = []

    def read(region: Region) -> Any:
        if not made:
            tree = leaf
            for segment in reversed(path):
                tree = {segment: tree}
            (values,) = jax.tree.leaves(reinit(key, tree, {"**": init}))
            made.append(of_array(values, staged))
        return made[0].read(region)

    return View(tuple(np.shape(leaf)), dtype_of(leaf), read)


def filled(view: View, path: Path, leaf: Any, staged: bool) -> Any:
    """The new leaf, in memory of its own, with the old one's place, dtype and weak type."""
    if staged or isinstance(view.raw, Tracer):
        values = view.read(whole(view.shape)) if view.raw is None else view.raw
        return laid_out(cast(values, leaf), leaf)
    place = place_of(path, leaf)
    with placed_at(place):
        if is_concrete(view.raw):
            return cast(copied(view.raw, place), leaf)
        return cast(_put(view, place), leaf)


def _put(view: View, place: Placement) -> Array:
    """A view in the memory of devices, each of which reads its own region only."""
    if place.sharding is None:
        return jax.device_put(_owned(view, whole(view.shape)))
    parts, read = [], None
    memory = place.sharding.memory_kind
    for device, index in place.sharding.addressable_devices_indices_map(view.shape).items():
        region = region_at(index or (), view.shape)
        if read is None or read[0] != region:  # Replicas come one after the other.
            read = region, _owned(view, region)
        parts.append(jax.device_put(read[1], SingleDeviceSharding(device, memory_kind=memory)))
    return jax.make_array_from_single_device_arrays(view.shape, place.sharding, parts)


def _owned(view: View, region: Region) -> np.ndarray:
    """A region in memory that nobody else writes: JAX on CPUs takes it over as it is."""
    array = np.asarray(view.read(region))
    return array if array.flags.owndata else np.array(array)
