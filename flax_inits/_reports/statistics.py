"""Statistics of arrays, computed where they live: a few numbers per leaf reach the host."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from .._base.bits import is_key_dtype
from .._tree.leaves import dtype_of, is_concrete
from .._tree.places import jitted_at, place_of


class Statistics(NamedTuple):
    """Of the finite elements; those of which there is none are None."""

    mean: Any
    std: float | None
    min: Any
    max: Any
    zeros: float
    nonfinite: float


class Difference(NamedTuple):
    """How far an array is from an older one; None where that cannot be told."""

    changed: float | None
    """The share of elements that differ; NaN is equal to NaN."""

    distance: float | None
    """The norm of the difference over that of the older array."""

    largest: float | None
    """The largest difference of two elements."""


def has_values(leaf: Any) -> bool:
    """Whether a leaf has elements that can be read, on some devices or in this process."""
    known = isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex)
    return (known or is_concrete(leaf)) and np.size(leaf) > 0


def of_leaves(leaves: Sequence[Any]) -> list[Statistics | None]:
    """The statistics of each leaf; None for what holds no numbers.

    A leaf is read by one program, compiled once per shape, dtype and sharding. All programs are
    under way before the first result is waited for.
    """
    started = [
        _run(moments, leaf) if has_values(leaf) and _is_number(leaf) else None for leaf in leaves
    ]
    found = jax.device_get(started)
    return [
        None if parts is None else statistics(parts[0], parts[1], np.size(leaf), dtype_of(leaf))
        for parts, leaf in zip(found, leaves, strict=True)
    ]


def differences(pairs: Iterable[tuple[Any, Any]]) -> list[Difference]:
    """How far the first of each pair is from the second, which has the same shape."""
    started = [_run(_difference, *_alike(new, old)) for new, old in pairs]
    found = []
    for changed, largest, norm, of_old in jax.device_get(started):
        with np.errstate(all="ignore"):
            distance = norm / of_old if norm else norm
        found.append(Difference(float(changed), float(distance), float(largest)))
    return found


def _is_number(leaf: Any) -> bool:
    dtype = dtype_of(leaf)
    return jnp.issubdtype(dtype, np.number) or dtype == np.bool_


def _run(compute: Callable[..., Any], leaf: Any, *others: Any) -> Any:
    """`compute` on the leaf's devices; by NumPy for what is on the host."""
    if not is_concrete(leaf):
        with np.errstate(all="ignore"):
            return compute(*(np.asarray(part, dtype_of(part)) for part in (leaf, *others)), xp=np)
    everywhere = None
    if isinstance(leaf.sharding, NamedSharding):
        # Each of several processes can read only what all devices have.
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    place = place_of((), leaf)._replace(sharding=everywhere)
    return jitted_at(compute, place)(leaf, *others)


def _alike(new: Any, old: Any) -> tuple[Any, Any]:
    """Both where the first one is, as numbers; what is on the host goes to the other's devices."""
    if is_concrete(old) and not is_concrete(new):
        new = jax.device_put(new, old.sharding)
    elif is_concrete(new) and getattr(old, "sharding", None) != new.sharding:
        old = jax.device_put(old, new.sharding)
    if is_key_dtype(dtype_of(new)):
        return jax.random.key_data(new), jax.random.key_data(old)
    return new, old


def moments(values: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """[mean, imaginary mean, std, zeros, nonfinite] with the last two as counts; [min, max].

    Values are divided by their largest size first, so that no square leaves the range of floats,
    and the deviations are from the mean itself, so that they do not cancel.
    """
    planes = _planes(values, xp)
    finite = functools.reduce(xp.logical_and, map(xp.isfinite, planes))
    zero = functools.reduce(xp.logical_and, [plane == 0 for plane in planes])
    wide = planes[0].dtype
    nonfinite = xp.sum(~finite, dtype=wide)
    count = xp.maximum(values.size - nonfinite, 1)
    means, stds = [], []
    for plane in planes:
        plane, scale = _scaled(xp.where(finite, plane, 0), xp)
        mean = xp.sum(plane) / count
        deviation = xp.where(finite, plane - mean, 0)
        means.append(mean * scale)
        stds.append(xp.sqrt(xp.sum(deviation * deviation) / count) * scale)
    std = functools.reduce(xp.hypot, stds)
    numbers = xp.stack([means[0], means[-1], std, xp.sum(zero, dtype=wide), nonfinite])
    return numbers, _extremes(values, planes[0], finite, xp)


def statistics(numbers: Any, extremes: Any, size: int, dtype: Any) -> Statistics:
    """What `moments` computed, as Python's numbers."""
    real, imaginary, std, zeros, nonfinite = numbers.tolist()
    mean, low, high = real, *extremes.tolist()
    if nonfinite == size:
        mean = std = low = high = None
    elif jnp.issubdtype(dtype, np.complexfloating):  # which have no order
        mean, low, high = complex(real, imaginary), None, None
    return Statistics(mean, std, low, high, zeros / size, nonfinite / size)


def _extremes(values: Any, plane: Any, finite: Any, xp: Any) -> Any:
    if jnp.issubdtype(values.dtype, np.integer):  # A float would round them.
        values = values.astype(np.int32) if values.dtype.itemsize < 4 else values
        return xp.stack([xp.min(values), xp.max(values)])
    low, high = xp.where(finite, plane, np.inf), xp.where(finite, plane, -np.inf)
    return xp.stack([xp.min(low), xp.max(high)])


def _difference(new: Any, old: Any, xp: Any = jnp) -> tuple[Any, Any, Any, Any]:
    """The share of elements that differ, the largest difference, its norm, that of `old`."""
    both = list(zip(_planes(new, xp), _planes(old, xp), strict=True))
    same = functools.reduce(
        xp.logical_and, [(a == b) | (xp.isnan(a) & xp.isnan(b)) for a, b in both]
    )
    if new.dtype == old.dtype:  # which also tells integers apart that round to the same float
        same = same & ((new == old) | (new != new))
    parts = [largest_and_norm(xp.where(same, 0, a - b), xp) for a, b in both]
    of_old = functools.reduce(xp.hypot, [largest_and_norm(b, xp)[1] for _, b in both])
    largest = functools.reduce(xp.hypot, [part[0] for part in parts])
    norm = functools.reduce(xp.hypot, [part[1] for part in parts])
    changed = xp.sum(~same, dtype=norm.dtype) / new.size
    return changed, largest, norm, of_old


def largest_and_norm(plane: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """The largest size of a real plane and its norm, whatever the dtype's range."""
    plane, scale = _scaled(plane, xp)
    return scale * xp.max(xp.abs(plane)), scale * xp.sqrt(xp.sum(plane * plane))


def _scaled(plane: Any, xp: Any) -> tuple[Any, Any]:
    """`plane` within [-1, 1], and what it was divided by."""
    largest = xp.max(xp.abs(plane))
    scale = xp.where(largest > 0, largest, 1).astype(plane.dtype)
    return plane / scale, scale


def _planes(values: Any, xp: Any) -> list[Any]:
    """The real and the imaginary part, or the values alone, in at least 32 bits."""
    if jnp.issubdtype(values.dtype, np.complexfloating):
        return [values.real, values.imag]
    wide = np.float64 if values.dtype in _LONG else np.float32
    return [values.astype(wide)]


_LONG = (np.float64, np.int64, np.uint64)
