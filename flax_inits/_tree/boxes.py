"""Leaves and their key paths, without what a box around a leaf adds to them."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.core
from jax.tree_util import DictKey, keystr, tree_flatten_with_path

from .._base.types import Path, PyTree


def leaf_paths(tree: PyTree) -> list[Path]:
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    _check_ends(tree)
    return list(_walk(tree, _box_test(), within=None))


# Before Python 3.12, what C++ visits counts as if Python had called it.
_DEEPEST = sys.getrecursionlimit() - 60 if sys.version_info < (3, 12) else sys.maxsize


def _check_ends(tree: PyTree) -> None:
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
    """Paths below `node`; if it is the box `within`, its own key comes first and is dropped."""
    own = 0 if within is None else 1
    for keys, leaf in tree_flatten_with_path(
        node, is_leaf=lambda inner: inner is not within and is_box(inner)
    )[0]:
        path = tuple([str(k.key) if type(k) is DictKey else _segment(k) for k in keys[own:]])
        if is_box(leaf):
            for inner in _walk(leaf, is_box, within=leaf):
                yield path + inner
        else:
            yield path


def _box_test() -> Callable[[Any], bool]:
    # Importing flax.nnx takes 400 ms; while nobody has, none of its variables can be about.
    variable = getattr(sys.modules.get("flax.nnx"), "Variable", None)
    boxes = (flax.core.meta.AxisMetadata, *([variable] if variable else []))
    known: dict[type, bool] = {}

    def is_box(node: Any) -> bool:
        kind = type(node)
        if kind not in known:
            known[kind] = issubclass(kind, boxes)
        return known[kind]

    return is_box


def _segment(key: Any) -> str:
    return keystr((key,), simple=True)
