"""What an init function made for the chosen leaves, and what to say where it does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._base.types import Array, Path, PyTree
from .._tree.casting import can_cast, cast
from .._tree.leaves import dtype_of
from .._tree.paths import flatten, show
from .._tree.rules import elsewhere_hint
from .replicas import copies_of


def picked(
    made: PyTree, paths: Sequence[Path], leaves: Sequence[Any], chosen: Sequence[int]
) -> list[Array]:
    """The leaves at the chosen paths of `made`, each like the leaf that it replaces."""
    found = dict(zip(*flatten(made)[:2], strict=True))
    for i in chosen:
        if paths[i] not in found:
            raise ValueError(
                f"init_fn makes no leaf at {show(paths[i])!r}, which is selected."
                f"{elsewhere_hint(found, paths[i])}"
            )
        if np.shape(found[paths[i]]) != np.shape(leaves[i]):
            raise ValueError(_other_shape(found, paths, leaves, chosen, i))
    return [_picked(found[paths[i]], paths[i], leaves[i]) for i in chosen]


def _picked(made: Any, path: Path, leaf: Any) -> Array:
    if not can_cast(dtype_of(made), dtype_of(leaf)):
        raise ValueError(
            f"init_fn makes {show(path)!r} as {dtype_of(made)}, but the tree holds "
            f"{dtype_of(leaf)} there, which cannot hold it."
        )
    return cast(made, leaf)


def _other_shape(
    found: Mapping[Path, Any],
    paths: Sequence[Path],
    leaves: Sequence[Any],
    chosen: Sequence[int],
    i: int,
) -> str:
    """What to do about a leaf that `init_fn` makes with another shape."""
    path, made = paths[i], np.shape(found[paths[i]])
    shape, node = np.shape(leaves[i]), path[:-1] or path
    said = f"init_fn makes {show(path)!r} with shape {made}, but the tree holds shape {shape} there"
    if copies_of(leaves[i], made):
        return (
            f"{said}: one copy for each device of pmap. Make as many: init_fn=lambda key: "
            f"jax.tree.map(lambda x: jnp.broadcast_to(x, ({shape[0]}, *x.shape)), init_fn(key))."
        )
    if all(paths[other][: len(node)] == node for other in chosen):
        return (
            f"{said}, and a leaf keeps its shape. To take the new one, take a new tree and all "
            f"else from the old one: graft(init_fn(key), params, all_but({node!r}))."
        )
    out = f"all_but({node!r})" if len(chosen) == len(paths) else f"{node!r} not among them"
    return f"{said}. Select only leaves of equal shape: {out}."
