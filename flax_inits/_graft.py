"""Grafting: chosen leaves of a tree from another tree."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._call import tracing
from ._leaves import at, check_usable, copied, dtype_of, laid_out, place_of
from ._paths import describe, flatten, nothing_selected, resolve, show
from ._rules import cast, missing
from ._types import Path, PyTree, Where


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

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> flax_inits.graft(params, {"head": {"bias": jnp.zeros(2)}}, "head")["head"]
    {'bias': Array([0., 0.], dtype=float32)}
    """
    paths, leaves, treedef = flatten(params)
    chosen, idle = resolve(where, paths, leaves, params)
    if idle:
        raise nothing_selected(idle[0], paths)
    given = dict(zip(*flatten(donor)[:2], strict=True))
    for path, leaf, use in zip(paths, leaves, chosen, strict=True):
        if use:
            _check(path, leaf, given, describe(where))
            check_usable(path, leaf, describe(where), alive=False)
            check_usable(path, given[path], "The donor, of which " + describe(where))
    grafted = [
        _grafted(path, given[path], leaf) if use else leaf
        for path, leaf, use in zip(paths, leaves, chosen, strict=True)
    ]
    return treedef.unflatten(grafted)


def _check(path: Path, leaf: Any, given: dict[Path, Any], by: str) -> None:
    name = show(path)
    if path not in given:
        raise ValueError(
            f"The donor has no leaf at {name!r}, which {by} selects.{missing(given, path)}"
        )
    donated, shape = given[path], np.shape(leaf)
    if np.shape(donated) != shape:
        raise ValueError(
            f"The donor's {name!r} has shape {np.shape(donated)}, but the tree holds shape "
            f"{shape} there; select only leaves of equal shape."
        )
    if isinstance(donated, jax.ShapeDtypeStruct):
        raise ValueError(f"The donor's {name!r} is abstract: it has no values to copy.")
    if dtype_of(donated) != dtype_of(leaf):
        raise ValueError(
            f"The donor's {name!r} is {dtype_of(donated)}, but the tree holds {dtype_of(leaf)} "
            "there; cast the donor first, for example by jax.tree.map."
        )


def _grafted(path: Path, donated: Any, leaf: Any) -> Any:
    if isinstance(donated, Tracer) or tracing():
        return laid_out(cast(donated, leaf), leaf)
    place = place_of(path, leaf)
    with at(place):
        return cast(copied(donated, place), leaf)
