"""Which params each leaf of an optimizer's state belongs to.

No optimizer is known by name: `_optimizer_labels` finds the owner of each leaf, and what has
several is told apart by its shape and dtype.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._base.errors import listed
from .._base.types import Path, PyTree
from .._tree.leaves import dtype_of, is_weak
from .._tree.paths import flatten, paths, show
from .labels import labels_of


class Entry(NamedTuple):
    """One leaf of an optimizer's state."""

    path: Path
    index: int
    """Its position in `tx.init(params)`."""

    shape: tuple[int, ...]
    params: frozenset[int]
    """The positions of the params that it belongs to."""

    kind: str
    """'own': an entry of one param. 'count': a scalar that several share. 'mixed': statistics of
    several in one array. 'setting': what training does not accumulate, random keys included."""


def entries(tx: Any, params: PyTree) -> tuple[Entry, ...]:
    """The leaves of `tx.init(params)`, in its order, with the params that each belongs to."""
    leaves, treedef = jax.tree.flatten(params)
    structs = tuple((np.shape(leaf), dtype_of(leaf), bool(is_weak(leaf))) for leaf in leaves)
    try:
        hash(tx)
    except TypeError:
        return _entries(tx, treedef, structs)
    return _known_entries(tx, treedef, structs)


def _entries(tx: Any, treedef: Any, structs: tuple) -> tuple[Entry, ...]:
    params = treedef.unflatten(
        [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in structs]
    )
    state = jax.eval_shape(tx.init, params)
    names, leaves, _ = flatten(state)
    labels = labels_of(tx, params, state)
    everyone = frozenset(range(len(structs)))
    found = []
    for index, (name, leaf, label) in enumerate(zip(names, leaves, labels, strict=True)):
        if label is not None:
            found.append(Entry(name, index, leaf.shape, frozenset([label]), "own"))
            continue
        node = name[:-1]
        beside = {
            other
            for path, other in zip(names, labels, strict=True)
            if other is not None and path[: len(node)] == node
        }
        owners = frozenset(beside) or everyone
        found.append(Entry(name, index, leaf.shape, owners, _kind(name, leaf)))
    return _without_constants(tx, params, state, found)


_known_entries = functools.lru_cache(maxsize=64)(_entries)


def _kind(name: Path, leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or "hyperparams" in name:
        return "setting"
    if leaf.shape == ():
        return "count"
    return "mixed" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "setting"


def _without_constants(
    tx: Any, params: PyTree, state: PyTree, found: list[Entry]
) -> tuple[Entry, ...]:
    """Arrays that `tx.update` hands on as they are, such as Muon's coefficients, are settings."""
    if not any(entry.kind == "mixed" for entry in found):
        return tuple(found)
    try:
        with jax.numpy_dtype_promotion("standard"):  # Adam's update needs it.
            traced = jax.make_jaxpr(lambda g, s, p: tx.update(g, s, p)[1])(params, state, params)
    except Exception:  # Some updates want more arguments; then nothing is known to be constant.
        return tuple(found)
    first = len(jax.tree.leaves(params))
    given = traced.jaxpr.invars[first : first + len(found)]
    made = traced.jaxpr.outvars
    return tuple(
        entry._replace(kind="setting") if entry.kind == "mixed" and old is new else entry
        for entry, old, new in zip(found, given, made, strict=True)
    )


def aligned(entries: Sequence[Entry], opt_state: PyTree) -> list[Entry]:
    """The entries in the order of the real state's leaves, which must be of this optimizer."""
    names, leaves = paths(opt_state), jax.tree.leaves(opt_state)
    expected = [entry.path for entry in entries]
    if names != expected:
        by_path = dict(zip(expected, entries, strict=True))
        if sorted(names) != sorted(expected) or len(by_path) != len(names):
            raise _of_another(names, expected)
        entries = [by_path[name] for name in names]
    for entry, name, leaf in zip(entries, names, leaves, strict=True):
        if entry.shape != np.shape(leaf):
            raise ValueError(
                f"opt_state holds {show(name)!r} with shape {np.shape(leaf)}, but tx.init(params) "
                f"makes it with shape {entry.shape}: it is the state of another optimizer, "
                "or of other params."
            )
    return list(entries)


def _of_another(names: Sequence[Path], expected: Sequence[Path]) -> ValueError:
    missing = [show(name) for name in expected if name not in set(names)]
    extra = [show(name) for name in names if name not in set(expected)]
    lacks = f" It lacks {listed(missing, most=3)}." if missing else ""
    has = f" It has {listed(extra, most=3)} beyond them." if extra else ""
    return ValueError(
        f"opt_state is not a state of this optimizer for these params.{lacks}{has} Give the tx and "
        "the structure of params that opt_state was made with."
    )
