"""Whose each leaf of an optimizer's state is.

Every param is wrapped in a node with one child, `tx.init` is evaluated abstractly, and the nodes
that come out in the state are the labels. Where a mask reads whole key paths, the nodes are in its
way: then the key paths of the state are compared with those of the params.
"""

from typing import Any

import jax
from jax.tree_util import tree_flatten_with_path

from .._base.errors import listed
from .._base.types import PyTree
from .._tree.paths import paths, show


def owners_of(tx: Any, params: PyTree, state: PyTree) -> list[int | None]:
    """The position of the param that each leaf of `tx.init(params)` belongs to, if it is one."""
    return _by_tags(tx, params, state) or _by_alignment(params, state)


class _EchoKey:
    """A node's key that shows nothing and otherwise answers as the key of the param does.

    A mask that reads `path[-1].key` or `keystr(path)` sees what it sees without the node.
    """

    def __init__(self, entry: Any) -> None:
        self._entry = entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __str__(self) -> str:
        return ""


@jax.tree_util.register_pytree_with_keys_class
class _Tag:
    """A param, or what an optimizer made of it."""

    def __init__(self, value: Any, label: tuple[int, Any]) -> None:
        self.value, self.label = value, label

    def tree_flatten_with_keys(self) -> tuple:
        return ((_EchoKey(self.label[1]), self.value),), self.label

    @classmethod
    def tree_unflatten(cls, label: tuple[int, Any], children: tuple) -> "_Tag":
        (value,) = children
        return cls(value, label)


def _is_tag(node: Any) -> bool:
    return isinstance(node, _Tag)


def _by_tags(tx: Any, params: PyTree, state: PyTree) -> list[int | None] | None:
    """The param of each leaf; None if the nodes change what the optimizer does."""
    keyed, treedef = tree_flatten_with_path(params)
    tags = [_Tag(leaf, (i, keys[-1] if keys else None)) for i, (keys, leaf) in enumerate(keyed)]
    try:
        tagged = jax.eval_shape(tx.init, treedef.unflatten(tags))
    except Exception:  # Whatever init does with the nodes, it works on arrays: `state` is proof.
        return None
    nodes = jax.tree.leaves(tagged, is_leaf=_is_tag)
    labels = []
    for node in nodes:
        label = node.label[0] if _is_tag(node) else None
        labels += [label] * len(jax.tree.leaves(node))
    bare = jax.tree.map(lambda n: n.value if _is_tag(n) else n, tagged, is_leaf=_is_tag)
    return labels if _alike(bare, state) else None


def _alike(tree: PyTree, other: PyTree) -> bool:
    shapes = [[leaf.shape for leaf in jax.tree.leaves(t)] for t in (tree, other)]
    return jax.tree.structure(tree) == jax.tree.structure(other) and shapes[0] == shapes[1]


def _by_alignment(params: PyTree, state: PyTree) -> list[int | None]:
    """Labels by key paths: below some node of the state, every path begins as a param's does."""
    owners = {keys: i for i, (keys, _) in enumerate(tree_flatten_with_path(params)[0])}
    whole = [keys for keys, _ in tree_flatten_with_path(state)[0]]
    labels: list[int | None] = [None] * len(whole)

    def owner(rest: tuple) -> int | None:
        return next((owners[rest[:n]] for n in range(1, len(rest) + 1) if rest[:n] in owners), None)

    def label(members: list[int], depth: int) -> None:
        found = [owner(whole[i][depth:]) for i in members]
        if None not in found:
            for i, which in zip(members, found, strict=True):
                labels[i] = which
            return
        below: dict[Any, list[int]] = {}
        for i in members:
            if len(whole[i]) > depth:
                below.setdefault(whole[i][depth], []).append(i)
        for group in below.values():
            label(group, depth + 1)

    label(list(range(len(whole))), 0)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    if shapes - {()} and all(which is None for which in labels):
        raise ValueError(
            "No leaf of the optimizer's state could be attributed to a param; it holds "
            f"{listed([show(name) for name in paths(state)])}. Its init or one of its masks "
            "depends on more than the params' structure: give masks as trees of bools."
        )
    return labels
