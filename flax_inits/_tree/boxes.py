"""Leaves and their key paths, without what a box around a leaf adds to them."""

import collections
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.core
from jax.tree_util import DictKey, keystr, tree_flatten_with_path

from .._base.imported import imported
from .._base.types import Path, PyTree


def leaf_paths(tree: PyTree) -> list[Path]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    found = list(_walk(tree, _box_test(), within=None))
    if len(set(found)) < len(found):
        raise _ambiguous(tree, found)
    return found


def _ambiguous(tree: PyTree, found: list[Path]) -> ValueError:
    """The error for leaves that no `where` can tell apart."""
    shared = next(path for path, count in collections.Counter(found).items() if count > 1)
    keyed = zip(found, tree_flatten_with_path(tree)[0], strict=True)
    one, other, *_ = [f"tree{keystr(keys)}" for path, (keys, _) in keyed if path == shared]
    return ValueError(
        f"Two leaves have one path, {'/'.join(shared)!r}: {one} and {other}. Rename a key: the "
        "keys of a path are strings, so that 1 and '1' are the same."
    )


# Before Python 3.12, what C++ visits counts as if Python had called it.
_DEEPEST = sys.getrecursionlimit() - 60 if sys.version_info < (3, 12) else sys.maxsize


def check_ends(tree: PyTree) -> None:
    """Raises where JAX would crash: a container that holds itself, or that is nested too deep."""
    above: set[int] = set()
    stack = [(0, iter((tree,)))]
    while stack:
        if len(stack) > _DEEPEST:
            raise ValueError(
                f"The tree is nested more than {_DEEPEST} deep, which this Python cannot follow."
            )
        own, children = stack[-1]
        for child in children:
            if not isinstance(child, dict | list | tuple):
                continue
            if id(child) in above:
                kind = type(child).__name__
                raise ValueError(f"The tree never ends: a {kind} in it holds itself.")
            above.add(id(child))
            stack.append((id(child), iter(child.values() if isinstance(child, dict) else child)))
            break
        else:
            stack.pop()
            above.discard(own)


def _walk(node: Any, is_box: Callable[[Any], bool], within: Any) -> Iterator[Path]:
    """Paths below `node`; if it is the box `within`, the key of its value is dropped."""
    keyed = tree_flatten_with_path(
        node, is_leaf=lambda inner: inner is not within and is_box(inner)
    )[0]
    # A box may hold more than its value, as a quantised one does: that keeps its key.
    several = within is not None and len({keys[0] for keys, _ in keyed}) > 1
    for keys, leaf in keyed:
        drop = within is not None and not (several and _segment(keys[0]) != "value")
        path = tuple([str(k.key) if type(k) is DictKey else _segment(k) for k in keys[drop:]])
        if is_box(leaf):
            for inner in _walk(leaf, is_box, within=leaf):
                yield path + inner
        else:
            yield path


def _box_test() -> Callable[[Any], bool]:
    boxes = (flax.core.meta.AxisMetadata, imported("flax.nnx", "Variable"))
    known: dict[type, bool] = {}

    def is_box(node: Any) -> bool:
        kind = type(node)
        if kind not in known:
            known[kind] = issubclass(kind, boxes)
        return known[kind]

    return is_box


def _segment(key: Any) -> str:
    return keystr((key,), simple=True)


def key_paths(tree: PyTree, paths: list[Path]) -> list[Path]:
    """The paths that give leaves their keys: their own, but for lookahead the fast twin's.

    Lookahead starts from slow params that equal the fast ones.
    """
    pair = imported("optax", "LookaheadParams")
    if not pair or not any("slow" in path for path in paths):
        return paths
    found = list(paths)
    nodes = tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, pair))[0]
    pairs = [keys for keys, node in nodes if isinstance(node, pair)]
    for keys in pairs:
        above = (*map(_segment, keys), "slow")
        for i, path in enumerate(paths):
            if path[: len(above)] == above:
                found[i] = (*above[:-1], "fast", *path[len(above) :])
    return found
