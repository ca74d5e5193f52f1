"""What a leaf is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from .._base.types import Path, PyTree
from . import modules
from .boxes import leaf_paths


def paths(tree: PyTree) -> list[Path]:
    """The path of every leaf, in JAX's order: the keys from the root, as strings.

    Args:
        tree: any pytree. What a box (`nn.Partitioned`, `nnx.Variable`, ...) adds to a key path is
            left out, so boxed and unboxed, dict and FrozenDict trees have equal paths. A variable
            that several attributes of an `nnx.Module` share is listed once, as `nnx.split` does.

    Returns:
        One tuple of strings per leaf. Each is a `where` that selects this leaf alone.

    Raises:
        ValueError: a container holds itself; two leaves have one path (keys `1` and `"1"`).

    >>> import flax_inits, jax.numpy as jnp
    >>> flax_inits.paths({"head": {"bias": jnp.zeros(2)}, "blocks": [jnp.ones(3)]})
    [('blocks', '0'), ('head', 'bias')]
    """
    return leaf_paths(modules.opened(tree)[0])


def flatten(tree: PyTree) -> tuple[list[Path], list[Any], Any]:
    """Paths, leaves and treedef; `treedef.unflatten` rebuilds containers, boxes and modules."""
    tree, way = modules.opened(tree)
    names = leaf_paths(tree)
    leaves, treedef = jax.tree.flatten(tree)
    modules.check_values(leaves)
    return names, leaves, treedef if way.close is None else _OfModules(treedef, way)


class _OfModules(NamedTuple):
    """The structure of a tree with NNX modules in it."""

    opened: Any
    way: modules.Way

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        """The tree with these leaves, in new modules."""
        return self.way(self.opened.unflatten(leaves))


def without_values(names: Sequence[Path]) -> list[Path]:
    """Paths without the level `value` that Orbax gives each leaf of a state, if all have it."""
    if names and all(path[-1:] == ("value",) for path in names):
        return [path[:-1] for path in names]
    return list(names)


def show(path: Path) -> str:
    """A path as messages and tables print it."""
    return "/".join(path)


def path_hash(path: Path) -> int:
    """32 bits that depend on the path alone: the same in every process and on every machine."""
    digest = hashlib.sha1(usedforsecurity=False)
    for segment in path:
        encoded = segment.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest()[:4], "big")
