"""Arrays that are described first and read later, part by part.

A sharded leaf is filled shard by shard: each asks for its region, and what was stacked,
concatenated or grown reads of its sources only what lies there. Memory-mapped arrays stay on disk
until then, and abstract arrays can be planned with.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._tree.leaves import at_least_float32, dtype_of, is_concrete

Region: TypeAlias = tuple[slice, ...]
"""A block of an array: for each axis a slice with a start and a stop."""


class View(NamedTuple):
    """An array that is made of others, and how to read a region of it."""

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[Region], Any]
    raw: Any = None
    """The array itself, where nothing was changed yet."""


def whole(shape: Sequence[int]) -> Region:
    """The region that is all of an array."""
    return tuple(slice(0, size) for size in shape)


def region_at(index: Sequence[slice], shape: Sequence[int]) -> Region:
    """The region that JAX gives a device as slices, which may have no ends."""
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


def of_array(array: Any, staged: bool = False) -> View:
    """An array as it is; `staged` ones are read by JAX, all others into the host's memory."""
    if isinstance(array, bool | int | float | complex):
        array = np.asarray(array, dtype_of(array))
    shape = tuple(array.shape)
    # What NumPy does not know, such as PRNG keys, can only be copied as it is.
    extended = jnp.issubdtype(array.dtype, jax.dtypes.extended)

    def read(region: Region) -> Any:
        if staged:
            return jnp.asarray(array)[region]
        if extended:
            raise ValueError(
                "Random keys can be copied as they are, but adapted only under jax.jit; else graft "
                "their jax.random.key_data."
            )
        return _from_shards(array, region) if is_concrete(array) else np.asarray(array[region])

    raw = array if isinstance(array, np.ndarray | jax.Array) else None
    return View(shape, array.dtype if extended else np.dtype(array.dtype), read, raw)


def _from_shards(array: Any, region: Region) -> Any:
    """A region of a JAX array, without gathering the array on any device."""
    shards = {str(shard.index): shard for shard in array.addressable_shards}.values()
    whole_one = next((shard for shard in shards if shard.data.shape == array.shape), None)
    if whole_one is not None:
        return np.asarray(whole_one.data)[region]
    out = np.empty(_sizes(region), array.dtype)
    read = 0
    for shard in shards:
        held = region_at(shard.index, array.shape)
        common = [
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(held, region, strict=True)
        ]
        if all(part.start < part.stop for part in common):
            part = np.asarray(shard.data)[_relative(common, held)]
            out[_relative(common, region)] = part
            read += part.size
    if read < out.size:
        raise ValueError(
            "Part of a donor's array is on devices of other processes; call graft under jax.jit, "
            "or give a donor with the target's shardings."
        )
    return out


def _relative(inner: Sequence[slice], outer: Sequence[slice]) -> Region:
    """A region as seen from the start of another that holds it."""
    return tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )


def _sizes(region: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in region)


def _numpy_of(array: Any) -> Any:
    """The module that computes with `array`: NumPy, or JAX where arrays are staged."""
    return jnp if isinstance(array, jax.Array) else np


def replaced(items: Sequence[Any], at: int, *new: Any) -> tuple[Any, ...]:
    """`items` with the one at a position replaced by none, one or several others."""
    return (*items[:at], *new, *items[at + 1 :])


def part(view: View, axis: int, start: int, stop: int) -> View:
    """What lies from `start` to `stop` along an axis."""

    def read(region: Region) -> Any:
        inner = region[axis]
        moved = slice(inner.start + start, inner.stop + start)
        return view.read(replaced(region, axis, moved))

    return View(replaced(view.shape, axis, stop - start), view.dtype, read)


def concatenated(views: Sequence[View], axis: int) -> View:
    """Several views, one after the other along an axis."""
    ends = np.cumsum([view.shape[axis] for view in views]).tolist()

    def read(region: Region) -> Any:
        wanted, parts = region[axis], []
        for view, end in zip(views, ends, strict=True):
            first = end - view.shape[axis]
            start, stop = max(wanted.start, first), min(wanted.stop, end)
            if start < stop:
                inside = slice(start - first, stop - first)
                parts.append(view.read(replaced(region, axis, inside)))
        if not parts:
            return np.empty(_sizes(region), views[0].dtype)
        return parts[0] if len(parts) == 1 else _numpy_of(parts[0]).concatenate(parts, axis)

    return View(replaced(views[0].shape, axis, ends[-1]), views[0].dtype, read)


def stacked(views: Sequence[View], axis: int) -> View:
    """Several views, each a slice along a new axis."""
    return concatenated([repeated(view, axis, 1) for view in views], axis)


def slice_of(view: View, axis: int, index: int) -> View:
    """One slice along an axis, which is gone then."""

    def read(region: Region) -> Any:
        found = view.read((*region[:axis], slice(index, index + 1), *region[axis:]))
        return found.squeeze(axis)

    return View(replaced(view.shape, axis), view.dtype, read)


def repeated(view: View, axis: int, size: int) -> View:
    """The view as every slice along a new axis."""

    def read(region: Region) -> Any:
        found = view.read(replaced(region, axis))
        numpy = _numpy_of(found)
        return numpy.broadcast_to(numpy.expand_dims(found, axis), _sizes(region))

    return View((*view.shape[:axis], size, *view.shape[axis:]), view.dtype, read)


def transposed(view: View, axes: Sequence[int]) -> View:
    """The view with its axes in another order."""

    def read(region: Region) -> Any:
        inner = [slice(0)] * len(axes)
        for position, axis in enumerate(axes):
            inner[axis] = region[position]
        return view.read(tuple(inner)).transpose(axes)

    return View(tuple(view.shape[axis] for axis in axes), view.dtype, read)


def converted(view: View, dtype: Any) -> View:
    """The view in another dtype."""
    return View(view.shape, np.dtype(dtype), lambda region: view.read(region).astype(dtype))


def averaged(view: View, axis: int, size: int) -> View:
    """The mean along an axis, `size` times."""

    def mean(array: Any) -> Any:
        wide = array.astype(at_least_float32(array.dtype))
        return wide.mean(axis, keepdims=True).astype(array.dtype)

    one = computed(view, mean, replaced(view.shape, axis, 1), view.dtype)

    def read(region: Region) -> Any:
        found = one.read(replaced(region, axis, slice(0, 1)))
        return _numpy_of(found).broadcast_to(found, _sizes(region))

    return View(replaced(view.shape, axis, size), view.dtype, read)


def computed(view: View, function: Callable[[Any], Any], shape: Sequence[int], dtype: Any) -> View:
    """What a function makes of the whole array, which is computed once, when it is first read."""
    made: list[View] = []

    def read(region: Region) -> Any:
        if not made:
            array = view.read(whole(view.shape)) if view.raw is None else view.raw
            result = of_array(found := function(array), staged=isinstance(found, Tracer))
            if (result.shape, result.dtype) != (tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"{function!r} returned {result.dtype}{list(result.shape)} where "
                    f"{np.dtype(dtype)}{list(shape)} was planned."
                )
            made.append(result)
        return made[0].read(region)

    return View(tuple(shape), np.dtype(dtype), read)
