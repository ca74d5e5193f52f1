"""What is in a tree of arrays, and what changed since another one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._base.types import Path, PyTree
from .._tree.leaves import check_alive, dtype_of
from .._tree.paths import flatten, show
from .statistics import Difference, Statistics, differences, has_values, of_leaves
from .summary_table import Summary, SummaryRow


def summary(params: PyTree, other: PyTree = None) -> Summary:
    """A table of a tree's leaves: what they are, what is in them, and what changed.

    Statistics are of the finite elements, computed where the leaves live: of a sharded tree, only
    a few numbers per leaf reach the host. Leaves of equal shape, dtype and sharding share a
    program.

    Args:
        params: any pytree of arrays. Of abstract leaves (`jax.ShapeDtypeStruct`) and under `jit`,
            shapes are shown and statistics left blank.
        other: a tree to compare with, such as the params before a reset. Leaves are matched by
            path; containers and boxes may differ.

    Returns:
        A `Summary`. It prints as a table (above 200 leaves, one line stands for all repeats of a
        block), colored by rich, as HTML in a notebook; `.rows` are the records, one per leaf, and
        `.plot()` is a matplotlib figure (with `flax_inits[plot]`). With `other`, a row's `change`
        is "same object", "equal" (in every value; NaN equals NaN), "changed", "added", "removed",
        "other shape" or "other dtype", and `distance` is the norm of the difference over that of
        the other tree's leaf.

    Raises:
        TypeError: a leaf is no array and no number.
        ValueError: a leaf's array was deleted.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"body": jnp.array([1.0, 3.0]), "head": {"bias": jnp.zeros(3)}}
    >>> new = flax_inits.reinit(jax.random.key(0), params, {"head": flax_inits.ones()})
    >>> print(flax_inits.summary(new, params))
    path      shape dtype   mean std min max change      elements distance largest
    ─...
    body      2     float32    2   1   1   3 same object
    head/bias 3     float32    1   0   1   1 changed         100%      inf       1
    2 leaves, 5 elements, 20 B, 1 same object, 1 changed
    """
    paths, leaves = _checked(params, "params")
    rows = [_row(*facts) for facts in zip(paths, leaves, of_leaves(leaves), strict=True)]
    if other is None:
        return Summary(rows)
    before = dict(zip(*_checked(other, "other"), strict=True))
    changes = _changes(leaves, [before.get(path) for path in paths])
    rows = [dataclasses.replace(row, **change) for row, change in zip(rows, changes, strict=True)]
    present = set(paths)
    gone = [_row(path, leaf, None) for path, leaf in before.items() if path not in present]
    return Summary(rows + [dataclasses.replace(row, change="removed") for row in gone])


def _checked(tree: PyTree, name: str) -> tuple[list[Path], list[Any]]:
    """The paths and leaves of a tree that can be summed up."""
    paths, leaves, _ = flatten(tree)
    leaf: Any
    for path, leaf in zip(paths, leaves, strict=True):
        number = isinstance(leaf, bool | int | float | complex)
        if not number and not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            where = f"its leaf {show(path)!r} is" if path else "it is"
            hint = "; give its variables, as model.init(key, x) returns them"
            raise TypeError(
                f"summary needs {name} to be a tree of arrays, but {where} of type "
                f"{type(leaf).__name__}{hint if isinstance(leaf, nn.Module) else ''}."
            )
        check_alive(path, leaf, give=f"summary the {name}")
    return paths, leaves


def _row(path: Path, leaf: Any, found: Statistics | None) -> SummaryRow:
    shape, dtype = tuple(np.shape(leaf)), dtype_of(leaf)
    count = math.prod(shape)
    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    known: dict[str, Any] = found._asdict() if found else dict.fromkeys(Statistics._fields)
    return SummaryRow(path, shape, str(dtype), sharding, count, count * dtype.itemsize, **known)


_UNKNOWN = Difference(None, None, None)


def _changes(leaves: Sequence[Any], others: Sequence[Any]) -> list[dict[str, Any]]:
    """For each leaf, the fields of its row that say how it differs from the other one."""
    compared = [i for i, pair in enumerate(zip(leaves, others, strict=True)) if _comparable(*pair)]
    found = dict(zip(compared, differences((leaves[i], others[i]) for i in compared), strict=True))
    changes = []
    for i, (new, old) in enumerate(zip(leaves, others, strict=True)):
        difference = found.get(i, _UNKNOWN)
        if new is old and has_values(new):
            difference = Difference(0.0, 0.0, 0.0)
        kind = _kind(new, old, difference.changed)
        changes.append({"change": kind, **difference._asdict()})
    return changes


def _comparable(new: Any, old: Any) -> bool:
    """Whether the difference of two leaves means something, and they are not one object."""
    if old is None or new is old or np.shape(new) != np.shape(old):
        return False
    numbers = not any(jnp.issubdtype(dtype_of(leaf), jax.dtypes.extended) for leaf in (new, old))
    alike = numbers or dtype_of(new) == dtype_of(old)
    return alike and has_values(new) and has_values(old)


def _kind(new: Any, old: Any, changed: float | None) -> str | None:
    if old is None:
        return "added"
    if new is old:
        return "same object"
    if np.shape(new) != np.shape(old):
        return "other shape"
    if dtype_of(new) != dtype_of(old):
        return "other dtype"
    if changed is None:  # Nothing to compare, or nothing known.
        return "equal" if np.size(new) == 0 else None
    return "changed" if changed else "equal"
