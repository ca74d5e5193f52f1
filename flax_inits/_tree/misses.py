"""What to say of a `where` that selects nothing: why, and what is closest."""

import re
from collections.abc import Sequence

import jax

from .._base.errors import closest, listed
from .._base.types import Path, PyTree, Where
from . import forms, globs
from .forms import describe
from .paths import flatten, show, without_values
from .resolve import AllBut, resolve


def nothing_selected(where: Where, paths: Sequence[Path], tree: PyTree) -> ValueError:
    """The error for a `where` that selects no leaf of a tree, naming what is closest."""
    if paths and (hole := _hole(where, tree)) is not None:
        return ValueError(
            f"{describe(where)} selects no leaf. It matches {show(hole)!r}, which no initializer "
            "can make: it holds None. Give it an array, or leave it out."
        )
    why = _why_nothing(where, paths, tree) if paths else "The tree has no leaves."
    return ValueError(f"{describe(where)} selects no leaf. {why}")


def _hole(where: Where, tree: PyTree) -> Path | None:
    """The first `None` in the tree that `where` selects."""
    if not _reads_paths(where):
        return None
    holes = jax.tree.map(lambda leaf: leaf is None, tree, is_leaf=lambda leaf: leaf is None)
    paths, are_none, _ = flatten(holes)
    empty = [path for path, is_none in zip(paths, are_none, strict=True) if is_none]
    verdicts = resolve(where, empty, empty, None)[0]
    return next((path for path, use in zip(empty, verdicts, strict=True) if use), None)


def _reads_paths(where: Where) -> bool:
    """Whether `where` decides by paths alone, with no function of the user's."""
    if isinstance(where, list):
        return bool(where) and all(map(_reads_paths, where))
    return isinstance(where, str | re.Pattern) or forms.is_literal(where)


def _why_nothing(where: Where, paths: Sequence[Path], tree: PyTree) -> str:
    if list(paths) == [()] and not hasattr(tree, "shape") and not isinstance(tree, _NUMBERS):
        return (
            f"The tree is one {type(tree).__name__}, in which there are no arrays to be seen: give "
            "the params themselves, as model.init(key, x) returns them."
        )
    if isinstance(where, str):
        return globs.explain(where, paths)
    if isinstance(where, AllBut):
        return f"{describe(where.where)} selects them all."
    if forms.is_literal(where):
        return _near(where, paths)
    if isinstance(where, re.Pattern):
        shown = [show(path) for path in paths]
        near = list(filter(where.search, shown)) or closest(where.pattern, shown) or shown
        inner = without_values(paths) != list(paths)
        orbax = " Orbax restores each leaf of an NNX state one level deeper, in 'value'."
        return (
            "It must match the whole path of a leaf; the closest are "
            f"{listed(near, most=3)}.{orbax if inner else ''}"
        )
    if isinstance(where, list):
        return str(nothing_selected(where[0], paths, tree))
    return f"The paths are {listed([show(path) for path in paths])}."


_NUMBERS = (bool, int, float, complex)


def _near(where: Path, paths: Sequence[Path]) -> str:
    """What to write instead of a literal path that no leaf has."""
    glob = show(where)
    if glob and any(map(globs.Glob(glob).selects, paths)):
        return f"In a tuple nothing is a wildcard, and a slash separates nothing: write {glob!r}."
    if all(any(path[:1] == (name,) for path in paths) for name in where) and len(where) > 1:
        return f"A tuple is one path; a union is a list: {list(where)!r}."
    nodes = {show(path[:end]): path[:end] for path in paths for end in range(1, len(path) + 1)}
    deeper = [node for node in nodes.values() if where and node[-len(where) :] == where]
    near = deeper[:3] or [nodes[name] for name in closest(glob, nodes)]
    if near:
        return f"Did you mean {listed(near, 'or')}?"
    return f"The paths are {listed(paths, most=3)}."
