"""Grafting: leaves of a tree from another tree, at equal paths or by rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._base.errors import noted
from .._base.jax_state import tracing
from .._base.types import Key, Path, PyTree, Where
from .._tree.forms import describe
from .._tree.leaves import check_alive, check_usable
from .._tree.modules import drawn_key
from .._tree.parts import spliced
from .._tree.paths import flatten, show
from .grafting.filling import filled, goals
from .grafting.growing import grow
from .grafting.planning import Options, Taken, note, planned

GraftRules = Mapping[Any, Any] | Sequence[tuple[Any, Any]]
"""What is taken from where: where -> a pattern over the donor's paths, or `take(...)`."""

_LOG = logging.getLogger("flax_inits")


def graft(
    params: PyTree,
    donor: PyTree,
    rules_or_where: GraftRules | Where,
    *,
    key: Key | None = None,
    unused: str = "error",
    mismatch: str = "error",
    drop: Where | None = None,
) -> PyTree:
    r"""Takes leaves from another tree: a checkpoint of this model or another, or a snapshot.

    A single `where` copies leaves at equal paths. Rules say from where each leaf is taken, and what
    is done to it on the way; the target decides container, box, sharding, shape and dtype. In a
    source, the k-th wildcard within a segment stands for what the k-th one of the target's pattern
    matched, and the k-th `**` for the k-th `**`, which takes as few segments as it can; what lies
    below a matched node is appended (`{"head": "cls"}` renames a subtree). Only `stack` and
    `concatenate` may have one wildcard more in the source, `unstack` one more in the target. With a
    regular expression, the source refers to its groups: `r"h/\1/\2"`. Renaming is not repeated:
    what one rule gives, no other sees.

    Args:
        params: any pytree, or an NNX module, of which a new one comes back, around the same kept
            arrays; leaves may be abstract (`jax.ShapeDtypeStruct`).
        donor: any tree or mapping of arrays of JAX or NumPy, or of slices of safetensors (those
            and memory-mapped ones are read as they are needed). The slashes in the names of a flat
            one separate segments; dotted names are one segment. The level `value` of an Orbax
            restore is left out.
        rules_or_where: a mapping from `where` (see `select`) to a source, of which the first match
            wins: a pattern over the donor's paths, a function from the target's path to the
            donor's, or `take(source, *adapters)`; or, where a `where` is a list, pairs of these
            in a list (of strings alone they would be paths). Or a single `where`.
        key: for `grow` with an initializer; or an `nnx.Rngs`, of which one is drawn.
        unused: "error" if rules leave something of the donor, or "ignore". Random keys and integer
            scalars never count, nor does anything where a single `where` is given.
        mismatch: "error", or "keep" to leave leaves that the donor lacks, or has in another shape,
            as they are; a line in the log of "flax_inits" lists them.
        drop: which leaves of the donor nobody is to take (a `where` over its paths); None or an
            empty list names none.

    Returns:
        A tree of the structure, containers, boxes and shardings of `params`. Grafted leaves are
        copies: donating them leaves the donor intact. Kept leaves are the same objects.

    Raises:
        ValueError: before anything is copied: a rule wins no leaf; the donor lacks a source, or
            has another shape or dtype (the message names an adapter that fits); leaves of the donor
            are left; nothing would be taken; an array was deleted.
        TypeError: the donor is the name of a file, or a rule has no source.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> flax_inits.graft(params, {"head": {"bias": jnp.zeros(2)}}, "head")["head"]
    {'bias': Array([0., 0.], dtype=float32)}
    >>> donor = {"encoder.bias": jnp.zeros(2), "cls.bias": jnp.zeros(3)}
    >>> new = flax_inits.graft(params, donor, {"body/*": "encoder.*"}, drop="cls.*")
    >>> new["body"]["bias"]
    Array([0., 0.], dtype=float32)
    """
    key, advance = (None, lambda: None) if key is None else drawn_key(key)
    names, leaves, treedef = flatten(params)
    # Under a trace, what is not traced itself is staged as well: it may be too large to unroll.
    staged = tracing() or any(isinstance(x, Tracer) for x in jax.tree.leaves((leaves, donor)))
    goal_of = goals(key, staged)
    plan = planned(params, donor, rules_or_where, Options(unused, mismatch, drop), goal_of)
    for i, taken in plan.taken.items():
        _check(names[i], leaves[i], taken, plan.donor, key)
        if i in plan.parts or any(adapter.init is None for adapter in _growing(taken)):
            check_alive(names[i], leaves[i])
    if plan.kept:
        whys = ", ".join(f"{show(names[i])} ({kept.why})" for i, kept in plan.kept.items())
        _LOG.warning("graft left %d leaves as they are: %s", len(plan.kept), whys)
    new = {}
    while plan.taken:  # One leaf at a time: what was computed for it goes with its plan.
        i = next(iter(plan.taken))
        taken = plan.taken.pop(i)
        with noted(note(names[i], taken.rule)):
            view = taken.view(plan.donor, goal_of(names[i], leaves[i]), staged)
            new[i] = filled(view, names[i], leaves[i], staged)
        if i in plan.parts:
            new[i] = spliced(leaves[i], new[i], plan.parts[i])
    advance()
    return treedef.unflatten([new.get(i, leaf) for i, leaf in enumerate(leaves)])


def _check(path: Path, leaf: Any, taken: Taken, donor: Mapping[Path, Any], key: Key | None) -> None:
    """Raises for what only matters when values are read."""
    by = describe(taken.rule.where)
    check_usable(path, leaf, by, alive=False)
    for source in taken.paths:
        array = donor[source]
        if isinstance(array, jax.Array):
            check_alive(source, array, f"In the donor, {by} selects", ", whose array")
        elif not hasattr(array, "__array__") and not isinstance(array, int | float | complex):
            raise ValueError(f"The donor's {show(source)!r} is abstract: it has no values to copy.")
    for adapter in _growing(taken):
        if key is None and adapter.draws:
            raise ValueError(f"{adapter!r} draws values for {show(path)!r}: give graft a key.")


def _growing(taken: Taken) -> list[grow]:
    return [adapter for adapter in taken.rule.take.adapters if isinstance(adapter, grow)]
