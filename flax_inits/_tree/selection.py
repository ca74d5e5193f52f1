"""Which leaves of a tree are meant by a `where`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax

from .._base.errors import closest, listed
from .._base.types import Path, PyTree, Where
from . import forms, globs
from .forms import PathTest, describe
from .paths import flatten, show


def select(tree: PyTree, where: Where) -> PyTree:
    """Which leaves of `tree` are meant by `where`: a tree of bools, as `optax.masked` takes it.

    To train these leaves alone, give them as labels: `optax.partition({True: optax.adam(1e-3),
    False: optax.set_to_zero()}, select(params, where))`. `optax.masked` by itself passes on the
    gradients of all other leaves as they are, and they would be added to the params.

    Args:
        tree: any pytree.
        where: one of

            - a glob string, anchored at the root (`"head"`, `"**/bias"`, `"block_[0-3]/*"`): `*`,
              `?` and `[..]` stay within a segment, `**` spans any number of them, and what
              matches a node selects all below it;
            - a path as `paths` returns it, `("head", "bias")`: that node and all below it;
            - a compiled regular expression that matches the whole joined path of a leaf;
            - a callable `(path, leaf) -> bool`;
            - a tree of bools;
            - `of_type(...)` or `all_but(...)`;
            - a list of these, for their union.

    Returns:
        A tree of the same structure, containers and boxes included.

    Raises:
        ValueError: something in `where` selects no leaf (the message names the closest paths),
            is empty, or is a tree of another structure.
        TypeError: `where` is nothing of the above, or a callable returned no bool.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    >>> flax_inits.select(params, "head")
    {'body': {'bias': False}, 'head': {'bias': True}}
    """
    names, leaves, treedef = flatten(tree)
    return treedef.unflatten(selected(where, names, leaves, tree))


@dataclasses.dataclass(frozen=True, repr=False)
class AllBut(forms.Selector):
    """What `all_but` makes."""

    where: Where

    def __repr__(self) -> str:
        return f"all_but({describe(self.where)})"

    def __reduce__(self) -> tuple:
        return all_but, (self.where,)


def all_but(where: Where) -> AllBut:
    """Selects every leaf that `where` does not, for use as a `where`.

    Args:
        where: what to leave out, as `select` takes it.

    Returns:
        A `where`: equal to another one of an equal `where`, and hashable if its `where` is.

    Raises:
        ValueError: when it is used, `where` selects nothing, or everything.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    >>> flax_inits.select(params, flax_inits.all_but("head"))
    {'body': {'bias': True}, 'head': {'bias': False}}
    """
    return AllBut(where)


def selected(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> list[bool]:
    """Whether `where` selects each leaf; raises where a part of it selects none."""
    verdicts, unmatched = resolve(where, paths, leaves, tree)
    if unmatched:
        raise nothing_selected(unmatched[0], paths, tree)
    return verdicts


def resolve(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    """Whether `where` selects each leaf, and the parts of `where` that select none at all."""
    if isinstance(where, list) and not forms.is_mask_of(where, paths):
        return _union(where, paths, leaves, tree)
    if isinstance(where, AllBut):
        return _complement(where, paths, leaves, tree)
    verdicts = _verdicts(where, paths, leaves)
    return verdicts, [] if any(verdicts) else [where]


def _verdicts(where: Where, paths: Sequence[Path], leaves: Sequence[Any]) -> list[bool]:
    if isinstance(where, str):
        return list(globs.Glob(where).selected(paths))
    if forms.is_literal(where):
        return forms.by_literal(where, paths)
    if isinstance(where, re.Pattern):
        return forms.by_regex(where, paths)
    if isinstance(where, PathTest):
        return where.of_paths(paths)
    if forms.is_function(where):
        return forms.by_callable(where, paths, leaves)
    return forms.by_mask(where, paths)


def _union(
    where: list[Where], paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    if not where:
        raise ValueError("where is an empty list, which would select nothing.")
    parts = [resolve(part, paths, leaves, tree) for part in where]
    verdicts = [any(of_leaf) for of_leaf in zip(*(found for found, _ in parts), strict=True)]
    return verdicts, [unmatched for _, unmatched_parts in parts for unmatched in unmatched_parts]


def _complement(
    where: AllBut, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    left_out, unmatched = resolve(where.where, paths, leaves, tree)
    # What leaves out nothing is a mistake, never "all": it selects nothing either.
    verdicts = [any(left_out) and not out for out in left_out]
    return verdicts, unmatched or ([] if any(verdicts) else [where])


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
    if isinstance(where, str):
        return globs.explain(where, paths)
    if isinstance(where, AllBut):
        return f"{describe(where.where)} selects them all."
    if forms.is_literal(where):
        return _near(where, paths)
    if isinstance(where, re.Pattern):
        shown = [show(path) for path in paths]
        near = list(filter(where.search, shown)) or closest(where.pattern, shown) or shown
        return f"It must match the whole path of a leaf; the closest are {listed(near, most=3)}."
    if isinstance(where, list):
        return str(nothing_selected(where[0], paths, tree))
    return f"The paths are {listed([show(path) for path in paths])}."


def _near(where: Path, paths: Sequence[Path]) -> str:
    """What to write instead of a literal path that no leaf has."""
    glob = show(where)
    if glob and any(globs.Glob(glob).selected(paths)):
        return f"In a tuple nothing is a wildcard, and a slash separates nothing: write {glob!r}."
    if all(any(path[:1] == (name,) for path in paths) for name in where) and len(where) > 1:
        return f"A tuple is one path; a union is a list: {list(where)!r}."
    nodes = {show(path[:end]): path[:end] for path in paths for end in range(1, len(path) + 1)}
    deeper = [node for node in nodes.values() if where and node[-len(where) :] == where]
    near = deeper[:3] or [nodes[name] for name in closest(glob, nodes)]
    if near:
        return f"Did you mean {listed(near, 'or')}?"
    return f"The paths are {listed(paths, most=3)}."
