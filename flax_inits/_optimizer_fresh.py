"""Leaves of a fresh optimizer state, made like the ones that they replace."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Sharding

from ._call import configuration, tracing
from ._leaves import is_concrete, laid_out, place_of, struct_of
from ._optimizer_owners import Entry
from ._paths import flatten, show
from ._rules import like
from ._types import Array, Path, PyTree


def fresh(
    tx: Any, params: PyTree, found: Sequence[Entry], state: Sequence[Any], wanted: Sequence[int]
) -> dict[int, Array]:
    """The wanted leaves of `tx.init(params)`, each like the leaf that it replaces."""
    names, leaves, treedef = flatten(params)
    olds = [state[i] for i in wanted]
    paths = [found[i].path for i in wanted]
    check_alive(names, leaves, "params")
    check_alive(paths, olds, "opt_state")
    if not wanted:
        return {}
    structs = tuple((s.shape, s.dtype, bool(s.weak_type)) for s in map(struct_of, olds))
    make = _Make(tx, treedef, tuple(found[i].place for i in wanted), structs)
    if tracing() or any(isinstance(x, Tracer) for x in (*leaves, *olds)):
        made = map(laid_out, make(leaves), olds)
        return dict(zip(wanted, made, strict=True))
    shardings = tuple(place_of(*pair).sharding for pair in zip(paths, olds, strict=True))
    inputs = [place_of(*pair).sharding for pair in zip(names, leaves, strict=True)]
    if len(_device_sets([*inputs, *shardings])) > 1:
        pairs = zip(make(leaves), shardings, strict=True)
        return dict(zip(wanted, [jax.device_put(*pair) for pair in pairs], strict=True))
    return dict(zip(wanted, make.program(shardings)(leaves), strict=True))


def check_alive(paths: Sequence[Path], leaves: Sequence[Any], tree: str) -> None:
    """Raises if an array was deleted."""
    for path, leaf in zip(paths, leaves, strict=True):
        if is_concrete(leaf) and leaf.is_deleted():
            raise ValueError(
                f"The array of {show(path)!r} in {tree} was deleted (donated to another "
                "computation); pass the tree that the computation returned."
            )


def _device_sets(shardings: Sequence[Sharding | None]) -> set[frozenset]:
    return {frozenset(sharding.device_set) for sharding in shardings if sharding is not None}


class _Make:
    """Some leaves of `tx.init(params)`, as a function of the params' leaves."""

    def __init__(self, *facts: Any) -> None:
        self.facts = facts

    def __call__(self, leaves: Sequence[Any]) -> list[Array]:
        tx, treedef, wanted, structs = self.facts
        made = jax.tree.leaves(tx.init(treedef.unflatten(leaves)))
        # A copy: what is a param itself in the state (Prodigy's start) must not share its memory,
        # or a training step could not donate both.
        return [
            jnp.copy(like(made[place], jax.ShapeDtypeStruct(shape, dtype, weak_type=weak), tx))
            for place, (shape, dtype, weak) in zip(wanted, structs, strict=True)
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
