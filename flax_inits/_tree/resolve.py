"""What a `where` of any form selects, and which parts of it select nothing."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

from .._base.types import Path, PyTree, Where
from . import forms, globs, modules
from .forms import PathTest, describe
from .parts import At, Part, part_in, refuse_parts
from .paths import show


@dataclasses.dataclass(frozen=True, repr=False)
class AllBut(forms.Selector):
    """What `all_but` makes."""

    where: Where

    def __hash__(self) -> int:
        return hash((AllBut, forms.hashed(self.where)))

    def __repr__(self) -> str:
        return f"all_but({describe(self.where)})"

    def __reduce__(self) -> tuple:
        return all_but, (self.where,)


def all_but(where: Where) -> AllBut:
    """Selects every leaf that `where` does not, for use as a `where`.

    Args:
        where: what to leave out, as `select` takes it.

    Returns:
        A `where`: equal to another one of an equal `where`, and hashable if that is, or each of a
        list.

    Raises:
        ValueError: when it is used, `where` selects nothing, or everything.
        TypeError: `where` is a part of a leaf, `at(...)`.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    >>> flax_inits.select(params, flax_inits.all_but("head"))
    {'body': {'bias': True}, 'head': {'bias': False}}
    """
    refuse_parts(where)
    return AllBut(forms.as_value(where))


def resolve(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    """Whether `where` selects each leaf, and the parts of `where` that select none at all."""
    refuse_parts(where)
    if isinstance(where, list) and not forms.is_mask_of(where, paths):
        return _union(where, paths, leaves, tree)
    if isinstance(where, AllBut):
        return _complement(where, paths, leaves, tree)
    if modules.is_variable_type(where):
        verdicts = modules.by_variable_type(where, tree)
    else:  # One leaf of several paths is selected by any of them; a mask has the first.
        others = {} if _is_mask(where) else modules.other_paths(tree, paths)
        owners = [*range(len(paths)), *(i for i, more in others.items() for _ in more)]
        named = [*paths, *(path for more in others.values() for path in more)]
        found = _verdicts(where, named, [leaves[i] for i in owners])
        chosen = set(itertools.compress(owners, found))
        verdicts = [i in chosen for i in range(len(paths))]
    return verdicts, [] if any(verdicts) else [where]


def _is_mask(where: Where) -> bool:
    asked = isinstance(where, str | re.Pattern | PathTest) or forms.is_literal(where)
    return not asked and not forms.is_function(where)


def _verdicts(where: Where, paths: Sequence[Path], leaves: Sequence[Any]) -> list[bool]:
    if isinstance(where, str):
        return list(map(globs.Glob(where).selects, paths))
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


def resolve_parts(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[dict[int, Part | None], list[Where]]:
    """As `resolve`, for a `where` that may have parts of leaves in it."""
    if isinstance(where, list) and part_in(where) is not None:
        return _union_of_parts(where, paths, leaves, tree)
    whole = where.where if isinstance(where, At) else where
    verdicts, unmatched = resolve(whole, paths, leaves, tree)
    found = [i for i, use in enumerate(verdicts) if use]
    if isinstance(where, At):
        return {i: where.part(paths[i], leaves[i]) for i in found}, unmatched
    return dict.fromkeys(found), unmatched


def _union_of_parts(
    where: list[Where], paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[dict[int, Part | None], list[Where]]:
    found: dict[int, Part | None] = {}
    by: dict[int, Where] = {}
    all_unmatched: list[Where] = []
    for item in where:
        more, unmatched = resolve_parts(item, paths, leaves, tree)
        for i, part in more.items():
            check_alone(paths[i], [by[i], item] if i in by else [], [found.get(i), part])
            by[i] = item
        found |= more
        all_unmatched += unmatched
    return dict(sorted(found.items())), all_unmatched


def check_alone(path: Path, wheres: Sequence[Where], parts: Sequence[Part | None]) -> None:
    """Raises if more than one `where` selects a leaf that one of them takes in part."""
    if len(wheres) > 1 and any(part is not None for part in parts):
        raise ValueError(
            f"{' and '.join(map(describe, wheres))} all select {show(path)!r}, but a leaf "
            "that at(...) takes in part is taken whole. Give one index for all of it, or leave it "
            "out of the others."
        )
