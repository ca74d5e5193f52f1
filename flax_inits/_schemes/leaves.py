"""What schemes share: which leaves are meant, and leaves that are computed put in their places."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from .._base.types import Path, PyTree, Where
from .._surgery.graft import graft
from .._tree.casting import can_cast
from .._tree.forms import Among, describe
from .._tree.leaves import dtype_of
from .._tree.paths import flatten, show
from .._tree.selection import selected


def chosen_paths(tree: PyTree, where: Where) -> list[Path]:
    """The paths that `where` selects; raises where a part of it selects none."""
    paths, leaves, _ = flatten(tree)
    uses = selected(where, paths, leaves, tree)
    return [path for path, use in zip(paths, uses, strict=True) if use]


def with_leaves(tree: PyTree, values: Mapping[Path, Any]) -> PyTree:
    """`tree` with these values, in the dtypes and shardings of the leaves that they replace."""
    leaves, donor = dict(zip(*flatten(tree)[:2], strict=True)), {}
    for path, value in values.items():
        given, wanted = dtype_of(value), dtype_of(leaves[path])
        if not can_cast(given, wanted):
            raise ValueError(f"{show(path)!r} holds {wanted}, which cannot hold {given}.")
        donor[path] = jnp.asarray(value, wanted)
    return graft(tree, donor, Among(frozenset(donor), "the computed leaves"))


def among(paths: Iterable[Path], where: Where) -> Among:
    """A `where` for these paths, which messages show as the one that the user gave."""
    return Among(frozenset(paths), describe(where))
