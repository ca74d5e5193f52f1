"""Optimizer state: chosen params' entries as in a fresh state, everything else as it was."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax

from .._base.errors import listed, outside
from .._base.types import Path, PyTree, Where
from .._tree.paths import flatten, show
from .._tree.selection import selected
from .entries import Entry
from .fresh import fresh
from .matching import matched
from .nnx_state import of_module


class OptimizerStateWarning(UserWarning):
    """Statistics of chosen params were left as they were, or fresh ones: they cannot be split."""


def reset_optimizer(
    tx: Any,
    opt_state: PyTree,
    params: PyTree,
    where: Where,
    *,
    counts: str = "keep",
    strict: bool = False,
) -> PyTree:
    """Gives chosen params' entries of an optimizer state the values of `tx.init(params)`.

    Without this, a reinitialized layer takes its next steps with the moments of the old weights.
    The entries are found for any optax transformation, in masks, partitions, `MultiSteps` and
    other wrappers too. Values come from `tx.init`, since they need not be zero.

    Scalars that several params share are kept: step counts, and what some optimizers estimate of
    all params at once (Prodigy's distance, a plateau's best loss). With Adam, this means that fresh
    moments meet a kept count, and so lack their bias correction: if the gradient is constant, the
    steps reach 6.6 times the learning rate. Lower it for some steps, or give the layer an optimizer
    of its own by `optax.partition` and say `counts="reset"`.

    Args:
        tx: the `optax.GradientTransformation`, or anything with its `init`.
        opt_state: its state; containers, boxes, dtypes and shardings are kept.
        params: the *new* params, or the `nnx.Module` with them: Schedule-Free and Prodigy hold
            copies of these.
        where: which leaves of `params` (see `select`).
        counts: "keep", or "reset" for the shared scalars too, which is possible where all the
            params that share them are chosen. Hyperparameters and random keys are never reset.
        strict: raise where otherwise an `OptimizerStateWarning` says what was left.

    Returns:
        A state of the same structure. All that does not belong to the chosen params are the same
        objects. Arrays that mix statistics of several params (as `optax.flatten` makes) are fresh
        if all of these are chosen; else they are left, with an `OptimizerStateWarning`.

    Raises:
        ValueError: `where` selects nothing; `opt_state` is not a state of `tx` for such params;
            `counts="reset"` for params that share every count with others; with `strict`, an array
            mixes chosen and other params.
        TypeError: `tx` has no `init`.

    >>> import flax_inits, jax.numpy as jnp, optax
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = optax.adam(0.1)
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> new = flax_inits.reset_optimizer(tx, state, params, "head")
    >>> new[0].mu["head"]
    Array([0., 0.], dtype=float32)
    >>> new[0].mu["body"] is state[0].mu["body"], int(new[0].count)
    (True, 1)
    """
    check_optimizer(tx)
    if counts not in ("keep", "reset"):
        raise ValueError(f"counts must be 'keep' or 'reset', got {counts!r}.")
    params, where = of_module(params, where)
    names, leaves, _ = flatten(params)
    chosen = frozenset(i for i, use in enumerate(selected(where, names, leaves, params)) if use)
    tx, found = matched(tx, opt_state, params)
    wanted = [i for i, entry in enumerate(found) if entry.kind == "own" and entry.params <= chosen]
    left = [e for e in found if e.kind == "mixed" and chosen & e.params and not e.params <= chosen]
    report([entry.path for entry in left], strict)
    wanted += [i for i, e in enumerate(found) if e.kind == "mixed" and e.params <= chosen]
    if counts == "reset":
        wanted += _counts(found, chosen, names)
    state, treedef = jax.tree.flatten(opt_state)
    for place, new in fresh(tx, params, found, state, sorted(wanted)).items():
        state[place] = new
    return treedef.unflatten(state)


def check_optimizer(tx: Any) -> None:
    """Raises unless `tx` can make a state."""
    if not callable(getattr(tx, "init", None)):
        raise TypeError(f"tx must be an optax.GradientTransformation, got {tx!r}, without init.")


def report(left: Sequence[Path], strict: bool) -> None:
    """Says which leaves of a state were left, though they hold statistics of chosen params."""
    if not left:
        return
    named = listed([show(path) for path in left])
    text = (
        f"{named} of the optimizer state cannot be split by param, and hold statistics of the "
        "chosen params and of others."
    )
    if strict:
        raise ValueError(
            f"{text} Choose all params, use an optimizer that keeps its state per param, or leave "
            "them as they are with strict=False."
        )
    warnings.warn(f"{text} They were left as they are.", OptimizerStateWarning, outside())


def _counts(found: Sequence[Entry], chosen: frozenset[int], names: Sequence[Path]) -> list[int]:
    """The shared scalars to reset: those of groups of which all params are chosen."""
    shared = [(i, entry) for i, entry in enumerate(found) if entry.kind == "count"]
    whole = [i for i, entry in shared if entry.params <= chosen]
    covered = frozenset().union(*(found[i].params for i in whole))
    for param in sorted(chosen - covered):
        blocked = [entry for _, entry in shared if param in entry.params]
        if blocked:
            others = [show(names[i]) for i in sorted(blocked[0].params - chosen)]
            raise ValueError(
                f"counts='reset' needs all params that share a count, but {show(names[param])!r} "
                f"shares {show(blocked[0].path)!r} with {listed(others)}. Choose these as well, "
                "give the chosen params an optimizer of their own by optax.partition, or say "
                "counts='keep'."
            )
    return whole
