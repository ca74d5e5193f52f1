"""New values in parts of arrays: where a layer's masks say, in params and their statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._base.types import Array
from .._tree.casting import checked_as
from .._tree.leaves import at_least_float32
from .._tree.places import laid_out
from .layers import Edit


def edited(
    edits: Sequence[Edit],
    old: Any,
    values: Mapping[str, Array],
    masks: Mapping[str, Array],
    norm_factor: Any,
) -> Array:
    """A param with new values where the masks say so; later edits win."""
    new = jnp.asarray(old)
    for edit in edits:
        chosen = _along(masks[edit.layer], edit, new.ndim)
        if edit.value is not None:
            value = jnp.full((), edit.value, new.dtype)
        else:
            value = jnp.asarray(values[edit.role], new.dtype)
            if edit.role == "incoming" and norm_factor is not None:
                value = _rescaled(value, new, masks[edit.layer], norm_factor)
        new = jnp.where(chosen, value, new)
    return checked_as(new, old, "recycle")


def _rescaled(fresh: Array, old: Array, mask: Array, factor: Any) -> Array:
    """Fresh columns with `factor` times the mean norm of the columns that stay."""
    wide = at_least_float32(fresh.dtype)

    def norms(kernel: Array) -> Array:
        squares = jnp.square(jnp.abs(kernel.astype(wide)))
        return jnp.sqrt(squares.sum(axis=tuple(range(kernel.ndim - 1)), keepdims=True))

    live = ~mask.reshape((1,) * (old.ndim - 1) + (-1,))
    drawn, present = norms(fresh), norms(old)
    count = live.sum(dtype=present.dtype)
    mean = jnp.where(live, present, 0).sum() / jnp.maximum(count, 1)
    scale = jnp.where((drawn > 0) & live.any(), mean * factor / jnp.where(drawn > 0, drawn, 1), 1)
    return (fresh.astype(wide) * scale.astype(wide)).astype(fresh.dtype)


def blended(
    edits: Sequence[Edit], param: tuple, old: Any, fresh: Array, masks: Mapping[str, Array]
) -> Array:
    """A statistic of a param of shape `param`, fresh where the param is new."""
    new = _fitted(_touched(edits, masks, param), param, jnp.shape(old))
    new = laid_out(jnp.broadcast_to(new, jnp.shape(old)), old)
    return checked_as(jnp.where(new, fresh, old), old, "recycle")


def _along(mask: Array, edit: Edit, ndim: int) -> Array:
    """A layer's mask, repeated along the edit's axis and ready to broadcast.

    Flattened features are tiled, [c0 c1 c2 c0 c1 c2 ...], as channels are the last axis.
    """
    tiled = jnp.tile(mask, edit.repeats)
    return tiled.reshape([-1 if axis == edit.axis else 1 for axis in range(-ndim, 0)])


def _touched(edits: Sequence[Edit], masks: Mapping[str, Array], shape: tuple) -> Array:
    """Which elements of a param are new."""
    everything = jnp.zeros(shape, bool)
    for edit in edits:
        everything |= _along(masks[edit.layer], edit, len(shape))
    return everything


def lost_axes(param: tuple, shape: tuple) -> tuple[int, ...] | None:
    """The axes of a param that a statistic of it has summed up; None if that is not clear.

    () if the statistic has an entry for each of the param's; further axes may come first.
    """
    ndim = len(param)
    if shape[len(shape) - ndim :] == param and len(shape) >= ndim:
        return ()
    if len(shape) == ndim:
        lost = tuple(axis for axis in range(ndim) if shape[axis] != param[axis])
        return lost if all(shape[axis] == 1 for axis in lost) else None
    removed = [axis for axis in range(ndim) if param[:axis] + param[axis + 1 :] == shape]
    return (removed[0],) if len(removed) == 1 else None


def _fitted(new: Array, param: tuple, shape: tuple) -> Array:
    """Which entries of a statistic are new: those of which all elements are."""
    lost = lost_axes(param, shape)
    assert lost is not None
    if not lost:
        return new
    return jax.lax.reduce_and(new, lost).reshape(
        shape if len(shape) != len(param) else [1 if a in lost else n for a, n in enumerate(param)]
    )
