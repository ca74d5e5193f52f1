"""Optimizer state: chosen params' entries as in a fresh state, everything else as it was."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._base.errors import brief, listed, outside
from .._base.types import Path, PyTree, Where
from .._tree.parts import Part, spliced
from .._tree.paths import flatten, show
from .._tree.selection import selected_parts
from .entries import Entry, accumulated
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
        where: which leaves of `params` (see `select`); with `at`, some slices of a leaf, and of
            the entries of its shape.
        counts: "keep", or "reset" for the shared scalars too, which is possible where all the
            params that share them are chosen. Hyperparameters and random keys are never reset.
        strict: raise where otherwise an `OptimizerStateWarning` says what was left.

    Returns:
        A state of the same structure. All that does not belong to the chosen params are the same
        objects. Arrays that mix statistics of several params (as `optax.flatten` makes), or of
        several slices (as Adafactor's do), are fresh if all of these are chosen; else they are
        left, with an `OptimizerStateWarning`.

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
    names, leaves, _ = flatten(params)
    chosen = selected_parts(where, names, leaves, params)
    params, chosen = of_module(params, chosen, where)
    return reset_chosen(tx, opt_state, params, chosen, counts, strict)


def reset_chosen(
    tx: Any,
    opt_state: PyTree,
    params: PyTree,
    chosen: Mapping[int, Part | None],
    counts: str,
    strict: bool,
) -> PyTree:
    """`reset_optimizer` for params by position: of some a part, of others (None) the whole."""
    check_counts(counts)
    names, leaves, _ = flatten(params)
    whole = frozenset(i for i, part in chosen.items() if part is None)
    tx, found = matched(tx, opt_state, params)
    state, treedef = jax.tree.flatten(opt_state)
    ours = [i for i, e in enumerate(found) if e.kind in ("own", "mixed") and e.params & {*chosen}]
    wanted = [i for i in ours if found[i].params <= whole]
    parts = {i: _part(found[i], state[i], leaves, chosen) for i in ours if i not in wanted}
    left = [found[i] for i, part in parts.items() if part is None]
    warn_of_left([entry.path for entry in accumulated(tx, params, left)], strict)
    if counts == "reset":
        wanted += _counts(found, whole, names, frozenset(chosen))
    wanted += [i for i, part in parts.items() if part is not None]
    for i, new in fresh(tx, params, found, state, sorted(wanted)).items():
        part = parts.get(i)
        state[i] = new if part is None else spliced(state[i], new, part)
    return treedef.unflatten(state)


def _part(
    entry: Entry, leaf: Any, params: Sequence[Any], chosen: Mapping[int, Part | None]
) -> Part | None:
    """The slices of a state's leaf that are those of its param, if they are."""
    param = min(entry.params)
    like_its_param = entry.kind == "own" and np.shape(leaf) == np.shape(params[param])
    return chosen[param] if like_its_param else None


def check_optimizer(tx: Any) -> None:
    """Raises unless `tx` can make a state."""
    if not callable(getattr(tx, "init", None)):
        found = f"{brief(tx)}, without init"
        if hasattr(tx, "tx"):
            found = f"{type(tx).__name__}: give its tx"
        raise TypeError(f"tx must be an optax.GradientTransformation, got {found}.")


def check_counts(counts: str) -> None:
    """Raises unless `counts` is one of the two words."""
    if counts not in ("keep", "reset"):
        raise ValueError(f"counts must be 'keep' or 'reset', got {counts!r}.")


def warn_of_left(left: Sequence[Path], strict: bool) -> None:
    """Says which leaves of a state were left, though they hold statistics of chosen params."""
    if not left:
        return
    named = listed([show(path) for path in left])
    text = (
        f"{named} of the optimizer state cannot be split by param or slice, and hold statistics of "
        "what is chosen and of others."
    )
    if strict:
        raise ValueError(
            f"{text} Choose all of them, use an optimizer that keeps its state per param, or leave "
            "them as they are with strict=False."
        )
    warnings.warn(f"{text} They were left as they are.", OptimizerStateWarning, outside())


def _counts(
    found: Sequence[Entry], chosen: frozenset[int], names: Sequence[Path], meant: frozenset[int]
) -> list[int]:
    """The shared scalars to reset: those of groups of which all params are chosen, and whole."""
    shared = [(i, entry) for i, entry in enumerate(found) if entry.kind == "count"]
    groups = [i for i, entry in shared if entry.params <= chosen]
    covered = frozenset().union(*(found[i].params for i in groups))
    for param in sorted(meant - covered):
        blocked = [entry for _, entry in shared if param in entry.params]
        if blocked:
            others = [
                show(names[i]) + (" (chosen in part)" if i in meant else "")
                for i in sorted(blocked[0].params - chosen)
            ]
            raise ValueError(
                f"counts='reset' needs all params that share a count, but {show(names[param])!r} "
                f"shares {show(blocked[0].path)!r} with {listed(others)}. Choose these as well, "
                "give the chosen params an optimizer of their own by optax.partition, or say "
                "counts='keep'."
            )
    return groups
