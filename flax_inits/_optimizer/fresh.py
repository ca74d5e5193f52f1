"""Leaves of a fresh optimizer state, made like the ones that they replace."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._base.jax_state import configuration, tracing
from .._base.types import Array, PyTree
from .._tree.casting import checked_as
from .._tree.leaves import check_alive, struct_of
from .._tree.paths import flatten
from .._tree.places import Placement, copied, laid_out, place_of, placed_at
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
    slots, structs = [found[i].index for i in wanted], list(map(struct_of, olds))
    if tracing() or any(isinstance(x, Tracer) for x in (*leaves, *olds)):
        made = _Make(tx, treedef, tuple(slots), tuple(structs))(leaves)
        return dict(zip(wanted, map(laid_out, made, olds), strict=True))
    places = [place_of(*pair) for pair in zip(paths, olds, strict=True)]
    inputs = [place_of(*pair) for pair in zip(names, leaves, strict=True)]
    apart = len(_device_sets([*inputs, *places])) > 1
    new = {}
    for group in _groups(places):
        there = [places[n] for n in group]
        make = _Make(tx, treedef, *(tuple(facts[n] for n in group) for facts in (slots, structs)))
        with placed_at(there[0]):
            if apart:
                values = list(map(_moved, make(leaves), there))
            else:
                values = make.program(tuple(place.sharding for place in there))(leaves)
        new.update(zip([wanted[n] for n in group], values, strict=True))
    return new


def _groups(places: Sequence[Placement]) -> list[list[int]]:
    """The positions of places, by what has to be in force while their leaves are made (`at`)."""
    groups: dict[Any, list[int]] = {}
    for n, place in enumerate(places):
        groups.setdefault((place.device, getattr(place.sharding, "mesh", None)), []).append(n)
    return list(groups.values())


def _moved(values: Array, place: Placement) -> Array:
    return (
        copied(values, place) if place.sharding is None else jax.device_put(values, place.sharding)
    )


def _device_sets(places: Sequence[Placement]) -> set[frozenset]:
    return {frozenset(place.sharding.device_set) for place in places if place.sharding is not None}


class _Make:
    """Some leaves of `tx.init(params)`, as a function of the params' leaves."""

    def __init__(self, *facts: Any) -> None:
        self.facts = facts

    def __call__(self, leaves: Sequence[Any]) -> list[Array]:
        tx, treedef, slots, structs = self.facts
        made = jax.tree.leaves(tx.init(treedef.unflatten(leaves)))
        # A copy: what is a param itself in the state (Prodigy's start) must not share its memory,
        # or a training step could not donate both.
        return [
            jnp.copy(checked_as(made[slot], struct, tx))
            for slot, struct in zip(slots, structs, strict=True)
        ]

    def program(self, shardings: tuple) -> Any:
        try:
            hash(self.facts)
        except TypeError:
            return jax.jit(self, out_shardings=list(shardings))
        return _program(self.facts, shardings, configuration())


@functools.lru_cache(maxsize=64)
def _program(facts: tuple, shardings: tuple, configuration: tuple) -> Any:
    return jax.jit(_Make(*facts), out_shardings=list(shardings))
