"""Grafting: chosen leaves of a tree from another tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .._base.jax_state import tracing
from .._base.types import Path, PyTree, Where
from .._tree.casting import cast
from .._tree.forms import describe
from .._tree.leaves import check_usable, dtype_of
from .._tree.paths import flatten, show
from .._tree.places import copied, laid_out, place_of, placed_at
from .._tree.rules import elsewhere_hint
from .._tree.selection import selected


def graft(params: PyTree, donor: PyTree, where: Where) -> PyTree:
    """Copies chosen leaves from another tree: a checkpoint, or a snapshot to rewind to.

    Args:
        params: any pytree; leaves may be abstract (`jax.ShapeDtypeStruct`).
        donor: a tree with the chosen paths in it; the rest may differ, as may its containers,
            boxes and shardings. Leaves may be NumPy arrays.
        where: which leaves of `params` (see `select`).

    Returns:
        A tree of the structure, containers, boxes and shardings of `params`. Grafted leaves are
        copies: donating them leaves the donor intact. Kept leaves are the same objects.

    Raises:
        ValueError: `where` selects nothing; the donor lacks a chosen path, or has another shape or
            dtype there, or its array was deleted.
        TypeError: the donor is the name of a file.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> flax_inits.graft(params, {"head": {"bias": jnp.zeros(2)}}, "head")["head"]
    {'bias': Array([0., 0.], dtype=float32)}
    """
    if isinstance(donor, str | os.PathLike):
        raise TypeError(
            f"The donor must be a tree, got the path {str(donor)!r}: restore what is there first, "
            "for example by orbax.checkpoint or safetensors.flax.load_file."
        )
    paths, leaves, treedef = flatten(params)
    chosen = selected(where, paths, leaves, params)
    given = dict(zip(*flatten(donor)[:2], strict=True))
    for path, leaf, use in zip(paths, leaves, chosen, strict=True):
        if use:
            _check(path, leaf, given, describe(where))
            check_usable(path, leaf, describe(where), alive=False)
            check_usable(path, given[path], "In the donor, " + describe(where))
    grafted = [
        _grafted(path, given[path], leaf) if use else leaf
        for path, leaf, use in zip(paths, leaves, chosen, strict=True)
    ]
    return treedef.unflatten(grafted)


def _check(path: Path, leaf: Any, given: dict[Path, Any], by: str) -> None:
    name = show(path)
    if path not in given:
        raise ValueError(
            f"The donor has no leaf at {name!r}, which {by} selects.{_elsewhere(given, path)}"
        )
    donated, shape, dtype = given[path], np.shape(leaf), dtype_of(leaf)
    if np.shape(donated) != shape:
        others = [f", as by lambda path, leaf: {segment!r} not in path" for segment in path[-2:]]
        raise ValueError(
            f"The donor's {name!r} has shape {np.shape(donated)}, but the tree holds shape {shape} "
            f"there; select only leaves of equal shape{''.join(others[:1])}."
        )
    if isinstance(donated, jax.ShapeDtypeStruct):
        raise ValueError(f"The donor's {name!r} is abstract: it has no values to copy.")
    if dtype_of(donated) != dtype:
        raise ValueError(
            f"The donor's {name!r} is {dtype_of(donated)}, but the tree holds {dtype} there; cast "
            f"the donor first: jax.tree.map(lambda x: x.astype('{dtype}'), donor)."
        )


def _elsewhere(given: Mapping[Path, Any], path: Path) -> str:
    """A sentence on how to give a donor that may hold the leaf in another form."""
    flat = len(path) > 1 and all(len(other) == 1 for other in given)
    forms = [f", sep={sep!r}" for sep in "/." if flat and any(sep in name for name, *_ in given)]
    if (str(path),) in given:  # A tuple is a key of flatten_dict without a sep.
        forms = [""]
    if forms:
        return f" The donor is flat: give flax.traverse_util.unflatten_dict(donor{forms[0]})."
    outer, inner = show(path[:1]), path[1:]
    if inner in given:
        return f" The donor has no outer {outer!r}: give {{{outer!r}: donor}}."
    return elsewhere_hint(given, path)


def _grafted(path: Path, donated: Any, leaf: Any) -> Any:
    if isinstance(donated, Tracer) or tracing():
        return laid_out(cast(donated, leaf), leaf)
    place = place_of(path, leaf)
    with placed_at(place):
        return cast(copied(donated, place), leaf)
