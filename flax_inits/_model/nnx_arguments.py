"""NNX objects among the arguments, above all `nnx.Rngs`, which a call changes as `nnx.jit` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax

from .._base.errors import listed
from .._base.types import Array, PyTree
from .._tree.paths import flatten, show


def nnx_objects(arguments: PyTree) -> list[Any]:
    """The NNX objects among some arguments, in order."""
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        return []
    kinds = (nnx.Pytree, nnx.Variable)
    leaves = jax.tree.leaves(arguments, is_leaf=lambda node: isinstance(node, kinds))
    found = [leaf for leaf in leaves if isinstance(leaf, kinds)]
    if found and (twice := nnx.find_duplicates(found)):
        names = [" and ".join(show(tuple(map(str, path))) for path in group) for group in twice]
        raise ValueError(
            "Among the arguments, NNX objects share what a call would change, and their copies "
            f"would part: {listed(names, most=3)} (counted from the first NNX object). Pass each "
            "object once, or wrap what you pass in a function of a key."
        )
    return found


def changes(objects: list[Any], run: Callable[[], object]) -> list[dict[int, Array]]:
    """What `run` changes in each object: the new values of its variables, by their positions."""
    before = [_values(node) for node in objects]
    run()
    found = []
    for node, old in zip(objects, before, strict=True):
        new = _values(node)
        if len(new) != len(old):
            raise ValueError(
                f"The function adds variables to an argument, or takes some away, a "
                f"{type(node).__name__}. Return what it makes instead."
            )
        pairs = enumerate(zip(new, old, strict=True))
        found.append({i: value for i, (value, was) in pairs if value is not was})
    return found


def change(objects: list[Any], by: list[dict[int, Array]]) -> None:
    """Gives the objects their new values; what is not in `by` stays the same array."""
    from flax import nnx

    for node, new in zip(objects, by, strict=True):
        if isinstance(node, nnx.Variable):
            if new:
                node.set_value(new[0])
            continue
        _, leaves, treedef = flatten(nnx.state(node))
        kept = [new.get(i, leaf) for i, leaf in enumerate(leaves)]
        nnx.update(node, treedef.unflatten(kept))


def _values(node: Any) -> list[Any]:
    from flax import nnx

    return jax.tree.leaves(node if isinstance(node, nnx.Variable) else nnx.state(node))
