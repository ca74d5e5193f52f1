"""What schemes share: which leaves are meant, and leaves that are computed put in their places."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from .._base.types import Path, PyTree, Where
from .._surgery.graft import graft
from .._tree.leaves import dtype_of
from .._tree.selection import describe, flatten, nothing_selected, resolve


def chosen_paths(tree: PyTree, where: Where) -> list[Path]:
    """The paths that `where` selects; raises where a part of it selects none."""
    paths, leaves, _ = flatten(tree)
    chosen, unmatched = resolve(where, paths, leaves, tree)
    if unmatched:
        raise nothing_selected(unmatched[0], paths)
    return [path for path, use in zip(paths, chosen, strict=True) if use]


def with_leaves(tree: PyTree, values: Mapping[Path, Any]) -> PyTree:
    """`tree` with these values, in the dtypes and shardings of the leaves that they replace."""
    paths, leaves, treedef = flatten(tree)
    donor = [
        jnp.asarray(values[path], dtype_of(leaf)) if path in values else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return graft(tree, treedef.unflatten(donor), lambda path, leaf: path in values)


def among(paths: Iterable[Path], where: Where) -> Callable[[Path, Any], bool]:
    """A `where` for these paths, which messages show as the one that the user gave."""
    chosen = set(paths)

    def is_chosen(path: Path, leaf: Any) -> bool:
        return path in chosen

    is_chosen.__qualname__ = describe(where)
    return is_chosen
