"""Parts of leaves: slices along one axis, chosen by `at`, and put into a leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.core import Tracer

from .._base import checks
from .._base.errors import brief
from .._base.types import Array, Path, Where
from .forms import Selector, as_value, describe, hashed
from .paths import show
from .places import laid_out, run_at_leaf


class Part(NamedTuple):
    """Some slices of one leaf along one axis."""

    axis: int
    chosen: np.ndarray
    """Whether each slice is one of them: bools, as many as the axis is long."""


def at(where: Where, index: int | slice | Sequence[int] | Sequence[bool], axis: int = 0) -> At:
    """Selects slices of leaves along one axis, for use as a `where`: some rows of an embedding.

    The slices get the values that the whole leaf would get at their places; all else in the leaf
    stays bit for bit. The leaf is taken whole: no other rule may select it. `reinit`,
    `reinit_state`, `reset_optimizer` and `graft` take parts of leaves, also inside a list.

    Args:
        where: the leaves, as `select` takes it.
        index: along the axis of the stored leaf, an integer, a slice, a sequence of integers, or
            one bool for each slice. Negative ones count from the end.
        axis: which axis of the stored leaf; negative ones count from the end.

    Returns:
        A `where`: equal to another one of equal arguments, and hashable if what it was built of
        is, or each of a list.

    Raises:
        ValueError: the index selects nothing; when it is used, the index or the axis is out of
            range, a leaf is abstract, or something else selects the leaf, too.
        TypeError: the index is nothing of the above, or `where` is itself a part.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"embedding": jnp.ones((4, 2)), "head": jnp.ones(2)}
    >>> rules = {flax_inits.at("embedding", [0, -1]): flax_inits.zeros()}
    >>> flax_inits.reinit(jax.random.key(0), params, rules)["embedding"][:, 0]
    Array([0., 1., 1., 0.], dtype=float32)
    """
    refuse_parts(where)
    return At(as_value(where), _normalised(index), checks.integer("at", "axis", axis))


class At(Selector):
    """What `at` makes."""

    def __init__(self, where: Where, index: Any, axis: int):
        self.where, self.index, self.axis = where, index, axis

    def part(self, path: Path, leaf: Any) -> Part:
        """The slices of this leaf."""
        shape, here = np.shape(leaf), f"{self!r} selects {show(path)!r}"
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"{here}, which is abstract: it has no values to keep. Select it whole, by "
                f"{describe(self.where)}."
            )
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{here} of shape {shape}, which has no axis {self.axis}.")
        axis = self.axis % len(shape)
        chosen = np.zeros(shape[axis], bool)
        if not _fits(self.index, len(chosen)):
            raise ValueError(
                f"{here} of shape {shape}: the index does not fit its axis {axis} of size "
                f"{len(chosen)}. Nothing is clamped: give integers from {-len(chosen)} to "
                f"{len(chosen) - 1}, a slice between such bounds, or {len(chosen)} bools."
            )
        chosen[self.index if not isinstance(self.index, tuple) else list(self.index)] = True
        if not chosen.any():
            raise ValueError(f"{here} of shape {shape}, but no slice along its axis {axis}.")
        return Part(axis, chosen)

    def _value(self) -> tuple:
        index = self.index
        if isinstance(index, slice):  # It has no hash before Python 3.12.
            return self.where, "slice", (index.start, index.stop, index.step), self.axis
        # The integers 0 and 1 equal False and True.
        return self.where, _are_bools(index), index, self.axis

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, At) else NotImplemented

    def __hash__(self) -> int:
        where, *index = self._value()
        return hash((hashed(where), *index))

    def __repr__(self) -> str:
        axis = f", axis={self.axis}" if self.axis else ""
        return f"at({describe(self.where)}, {self.index!r}{axis})"

    def __reduce__(self) -> tuple:
        return at, (self.where, self.index, self.axis)


def part_in(where: Where) -> At | None:
    """The first part of a leaf in `where`, which may be a list."""
    if isinstance(where, list):
        return next((part for part in map(part_in, where) if part is not None), None)
    return where if isinstance(where, At) else None


def refuse_parts(where: Where) -> None:
    """Raises if there is a part of a leaf in `where`."""
    if (part := part_in(where)) is not None:
        raise TypeError(
            f"{part!r} is a part of a leaf. Parts are for reinit, reinit_state, reset_optimizer "
            f"and graft; here, select the whole leaf: {describe(part.where)}."
        )


def _are_bools(index: Any) -> bool:
    return isinstance(index, tuple) and isinstance(index[0], bool)


def _normalised(index: Any) -> int | slice | tuple[int, ...] | tuple[bool, ...]:
    if isinstance(index, slice):
        if index.step == 0:
            raise ValueError(f"at needs a slice whose step is not zero, got {index!r}.")
        ends = (index.start, index.stop, index.step)
        return slice(*(None if end is None else _integer(end, index) for end in ends))
    if isinstance(index, Tracer | str | bytes):
        raise _no_index(index)
    items = np.asarray(index).tolist() if hasattr(index, "dtype") else index
    if not isinstance(items, Sequence):
        return _integer(items, index)
    if not items:
        raise ValueError("at got an empty index, which would select nothing.")
    if all(isinstance(item, bool | np.bool_) for item in items):
        return tuple(map(bool, items))
    return tuple(_integer(item, index) for item in items)


def _integer(value: Any, index: Any) -> int:
    found = checks.index(value)
    if found is None or getattr(value, "dtype", None) == np.bool_:
        raise _no_index(index)
    return found


def _no_index(index: Any) -> TypeError:
    return TypeError(
        "at needs an index that is known when it is built: an integer, a slice, a sequence of "
        f"integers, or one of bools; got {brief(index)}."
    )


def _fits(index: Any, size: int) -> bool:
    if isinstance(index, slice):
        return all(end is None or -size <= end <= size for end in (index.start, index.stop))
    if _are_bools(index):
        return len(index) == size
    return all(-size <= i < size for i in (index if isinstance(index, tuple) else (index,)))


def spliced(old: Any, new: Any, part: Part) -> Array:
    """`old` with the slices of `part` taken from `new`, a leaf like it; where `old` lives."""
    return run_at_leaf(_spliced, (), old, part.axis)(old, new, part.chosen)


def _spliced(axis: int, old: Any, new: Any, chosen: Any) -> Array:
    # The bools are an argument, so that another index compiles nothing.
    mask = lax.broadcast_in_dim(jax.numpy.asarray(chosen), np.shape(old), (axis,))
    return lax.select(laid_out(mask, old), laid_out(new, old), jax.numpy.asarray(old))
