"""Which leaves of a tree are meant by a `where`; an error if a part of it means none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._base.types import Path, PyTree, Where
from .misses import nothing_selected
from .modules import opened
from .parts import Part
from .paths import flatten
from .resolve import resolve, resolve_parts


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
            - a class of NNX variables (`nnx.BatchStat`): the leaves in variables of this class;
            - a list of these, for their union.

    Returns:
        A tree of the same structure, containers and boxes included; for an `nnx.Module`, as its
        `nnx.state` has.

    Raises:
        ValueError: something in `where` selects no leaf (the message names the closest paths),
            is empty, or is a tree of another structure.
        TypeError: `where` is nothing of the above, or a callable returned no bool.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    >>> flax_inits.select(params, "head")
    {'body': {'bias': False}, 'head': {'bias': True}}
    """
    names, leaves, treedef = flatten(opened(tree)[0])
    return treedef.unflatten(selected(where, names, leaves, tree))


def selected(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> list[bool]:
    """Whether `where` selects each leaf; raises where a part of it selects none."""
    verdicts, unmatched = resolve(where, paths, leaves, tree)
    if unmatched:
        raise nothing_selected(unmatched[0], paths, tree)
    return verdicts


def selected_parts(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> dict[int, Part | None]:
    """The leaves that `where` selects, by position: in part, or whole, which is None."""
    found, unmatched = resolve_parts(where, paths, leaves, tree)
    if unmatched:
        raise nothing_selected(unmatched[0], paths, tree)
    return found
