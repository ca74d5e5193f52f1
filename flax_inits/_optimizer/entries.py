"""Which params each leaf of a fresh optimizer state belongs to.

No optimizer is known by name: `owners` finds the owner of each leaf, and what has several is told
apart by its shape and dtype, and by what `tx.init` and `tx.update` do with it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._base.cache import cached
from .._base.types import Path, PyTree
from .._engine.graph import Input, Output, Value, order
from .._engine.jaxpr import opened
from .._engine.trace import Traced, trace
from .._engine.trace import flatten as graph_of
from .._tree.leaves import struct_of
from .._tree.paths import flatten
from .owners import owners_of


class Entry(NamedTuple):
    """One leaf of an optimizer's state."""

    path: Path
    index: int
    """Its position in `tx.init(params)`; -1 if it came with training."""

    shape: tuple[int, ...]
    params: frozenset[int]
    """The positions of the params that it belongs to."""

    kind: str
    """'own': an entry of one param. 'count': a scalar that several share. 'mixed': statistics of
    several in one array. 'setting': what training does not accumulate, random keys included.
    'grown': what `tx.update` added, and no fresh state has."""


def entries(tx: Any, params: PyTree) -> tuple[Entry, ...]:
    """The leaves of `tx.init(params)`, in its order, with the params that each belongs to."""
    leaves, treedef = jax.tree.flatten(params)
    return _entries(tx, treedef, tuple(map(struct_of, leaves)))


@cached(64)
def _entries(tx: Any, treedef: Any, structs: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[Entry, ...]:
    params = treedef.unflatten(structs)
    traced = trace(tx.init, params)
    names, leaves, _ = flatten(traced.shape)
    owners = owners_of(tx, params, traced.shape)
    everyone = frozenset(range(len(structs)))
    found = []
    for index, (name, leaf, owner) in enumerate(zip(names, leaves, owners, strict=True)):
        if owner is not None:
            found.append(Entry(name, index, leaf.shape, frozenset([owner]), "own"))
            continue
        node = name[:-1]
        beside = {
            other
            for path, other in zip(names, owners, strict=True)
            if other is not None and path[: len(node)] == node
        }
        shared_by = frozenset(beside) or everyone
        found.append(Entry(name, index, leaf.shape, shared_by, _kind(name, leaf)))
    return _without_settings(tx, params, traced, found)


def _kind(name: Path, leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or "hyperparams" in name:
        return "setting"
    return "count" if leaf.shape == () else "mixed"


def _without_settings(
    tx: Any, params: PyTree, init: Traced, found: Sequence[Entry]
) -> tuple[Entry, ...]:
    """Arrays that are neither made of the params nor statistics: random keys, Muon's coefficients.

    Not being changed by updates is not enough: Prodigy's first params are not, and are params.
    """
    unsure = [e for e in found if e.kind == "mixed" and not _reads_inputs(init.outputs[e.index])]
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(init.shape)]
    settings = {e for e in unsure if not jnp.issubdtype(dtypes[e.index], jnp.inexact)}
    update = traced_update(tx, params, init.shape) if settings < set(unsure) else None
    if update is not None:
        first = len(jax.tree.leaves(params))
        settings |= {e for e in unsure if _is_handed_on(update.outputs[e.index], first + e.index)}
    return tuple(e._replace(kind="setting") if e in settings else e for e in found)


def traced_update(tx: Any, params: PyTree, state: PyTree) -> Traced | None:
    """`tx.update` as a graph from (gradients, state, params) to the state; None if it cannot be."""

    def value(tree: PyTree) -> Any:
        return sum(jnp.sum(leaf).real for leaf in jax.tree.leaves(tree))

    def update(grads: PyTree, state: PyTree, params: PyTree, **extra: Any) -> PyTree:
        return tx.update(grads, state, params, **extra)[1]

    def search(grads: PyTree, state: PyTree, params: PyTree) -> PyTree:
        extra = {"value_fn": value, "obj_fn": value}
        return update(grads, state, params, value=value(params), grad=grads, **extra)

    def per_example(grads: PyTree, state: PyTree, params: PyTree) -> PyTree:
        return update(jax.tree.map(lambda leaf: leaf[None], grads), state, params)

    # What an update wants besides gradients is its own affair; these are what optax's want.
    for function in (update, search, per_example):
        try:
            with jax.numpy_dtype_promotion("standard"):  # Adam's update needs it.
                return trace(function, params, state, params)
        except Exception:
            continue
    return None


def accumulated(tx: Any, params: PyTree, found: Sequence[Entry]) -> list[Entry]:
    """Those of these entries that hold statistics, and no constants, as far as can be told.

    Where Adafactor does not factor, it keeps an array of one zero for rows, and one for columns.
    """
    if not found:
        return []
    structs = jax.tree.map(struct_of, params)
    update = traced_update(tx, structs, jax.eval_shape(tx.init, structs))
    return [e for e in found if update is None or _reads_inputs(update.outputs[e.index])]


def _reads_inputs(value: Value) -> bool:
    """Whether a value is made of inputs, and not of their shapes alone."""
    nodes = order([value], lambda _: False)
    return any(isinstance(v, Input) for v in (value, *(v for n in nodes for v in n.inputs)))


def _is_handed_on(value: Value, index: int) -> bool:
    """Whether a value is an input as it came, whatever is selected (`MultiSteps` skips steps)."""
    return all(isinstance(v, Input) and v.index == index for v in _selected(value))


def _selected(value: Value) -> Iterator[Value]:
    """The values among which `value` is selected."""
    if not isinstance(value, Output) or value.node.primitive.name not in ("select_n", "cond"):
        yield value
        return
    cases = value.node.inputs[1:]
    if value.node.primitive.name == "cond":
        branches = [opened(branch) for branch in value.node.params["branches"]]
        cases = [graph_of(*branch, cases)[value.index] for branch in branches]
    for case in cases:
        yield from _selected(case)
