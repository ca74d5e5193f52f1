"""Leaves of a fresh optimizer state, made like the ones that they replace."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._base.jax_state import tracing
from .._base.types import Array, PyTree
from .._tree.casting import checked_as
from .._tree.leaves import check_alive, struct_of
from .._tree.paths import flatten
from .._tree.places import Placement, copied, jitted_at, laid_out, place_of, placed_at
from .entries import Entry


def fresh(
    tx: Any, params: PyTree, found: Sequence[Entry], state: Sequence[Any], wanted: Sequence[int]
) -> dict[int, Array]:
    """The wanted leaves of `tx.init(params)`, each like the leaf that it replaces."""
    names, leaves, treedef = flatten(params)
    olds = [state[i] for i in wanted]
    paths = [found[i].path for i in wanted]
    for name, leaf in zip(names, leaves, strict=True):
        check_alive(name, leaf, after=" in params")
    for path, old in zip(paths, olds, strict=True):
        check_alive(path, old, after=" in opt_state")
    if not wanted:
        return {}
    items = [(found[i].index, struct_of(old)) for i, old in zip(wanted, olds, strict=True)]
    if tracing() or any(isinstance(x, Tracer) for x in (*leaves, *olds)):
        made = _made(tx, treedef, items, leaves)
        return dict(zip(wanted, map(laid_out, made, olds), strict=True))
    places = [place_of(*pair) for pair in zip(paths, olds, strict=True)]
    inputs = [place_of(*pair) for pair in zip(names, leaves, strict=True)]
    shardings = [place.sharding for place in (*inputs, *places) if place.sharding is not None]
    apart = len({frozenset(sharding.device_set) for sharding in shardings}) > 1
    new = {}
    for group in _groups(places):
        facts = tx, treedef, tuple(items[n] for n in group)
        there = tuple(places[n] for n in group)
        if apart:
            with placed_at(there[0]):
                values = list(map(_moved, _made(*facts, leaves), there))
        else:
            values = jitted_at(_made, there, *facts)(leaves)
        new.update(zip([wanted[n] for n in group], values, strict=True))
    return new


def _made(
    tx: Any, treedef: Any, items: Sequence[tuple[int, jax.ShapeDtypeStruct]], leaves: Sequence[Any]
) -> list[Array]:
    """Some leaves of `tx.init(params)`, by position, as a function of the params' leaves."""
    made = jax.tree.leaves(tx.init(treedef.unflatten(leaves)))
    # A copy: what is a param itself in the state (Prodigy's start) must not share its memory,
    # or a training step could not donate both.
    return [jnp.copy(checked_as(made[index], struct, tx)) for index, struct in items]


def _groups(places: Sequence[Placement]) -> list[list[int]]:
    """The positions of places, by what is in force while their leaves are made (`placed_at`)."""
    groups: dict[Any, list[int]] = {}
    for n, place in enumerate(places):
        groups.setdefault((place.device, getattr(place.sharding, "mesh", None)), []).append(n)
    return list(groups.values())


def _moved(values: Array, place: Placement) -> Array:
    return (
        copied(values, place) if place.sharding is None else jax.device_put(values, place.sharding)
    )
