"""Shrink and perturb: params pulled towards a freshly initialized model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from .._base import checks
from .._base.errors import noted_of_state
from .._base.types import Array, Key, Path, PyTree, Where
from .._optimizer.nnx_state import params_of
from .._optimizer.reset import check_counts, check_optimizer
from .._optimizer.train_state import is_train_state, with_params
from .._surgery.reinit import renewed
from .._tree.casting import checked_as
from .._tree.forms import Among
from .._tree.leaves import at_least_float32, dtype_of, is_inexact
from .._tree.modules import is_module
from .._tree.parts import refuse_parts
from .._tree.paths import flatten, paths
from .._tree.places import run_at_leaf


def shrink_perturb(
    key: Key,
    params: PyTree,
    init_fn: Callable[[Key], PyTree],
    *,
    where: Where = None,
    shrink: float | Array,
    perturb: float | Array,
    counts: str = "keep",
) -> PyTree:
    """Shrinks params and adds a freshly initialized model: new = shrink * old + perturb * fresh.

    The noise is a model with the initializers that made the old one, not a Gaussian. Ash & Adams
    take `shrink=0.4, perturb=0.1`; the encoder of BBF 0.5 and 0.5. Both start a new optimizer
    afterwards: `tx.init(params)`, or `reset_optimizer` for a part. Of a training state, this
    resets the optimizer's state as well.

    Args:
        key: one PRNG key.
        params: any pytree, or an NNX module, of which a new one comes back; or a
            `flax.training.train_state.TrainState`, or anything with `params`, `opt_state`, `tx` and
            `replace`.
        init_fn: `key -> tree` with the chosen paths in it, as for `reinit`.
        where: which leaves of the params (see `select`); None is every float leaf, of an NNX
            module of its `nnx.Param`s.
        shrink: what is left of the old values, from 0 to 1.
        perturb: the share of the fresh values, at least 0.
        counts: of a training state, as for `reset_optimizer`.

    Returns:
        A tree of the same structure, boxes, dtypes and shardings; sums are taken in at least
        float32. Leaves that are not chosen are the same objects. Of a training state, a new one,
        in which only the params and the optimizer's state differ.

    Raises:
        ValueError: `shrink` or `perturb` is out of range; and as `reinit` does.
        TypeError: one of them is no number; and as `reinit` does.

    Reference: Ash & Adams, "On warm-starting neural network training", 2020.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"body": 8 * jnp.ones(2), "head": 8 * jnp.ones(2)}
    >>> fresh = lambda key: {"head": jnp.ones(2)}
    >>> flax_inits.shrink_perturb(
    ...     jax.random.key(0), params, fresh, where="head", shrink=0.5, perturb=0.25)["head"]
    Array([4.25, 4.25], dtype=float32)
    """
    checks.factor("shrink", shrink, "from 0 to 1", most=1.0)
    checks.factor("perturb", perturb, "of at least 0", most=sys.float_info.max)
    refuse_parts(where)
    check_counts(counts)
    if not is_train_state(params):
        with noted_of_state(params, "of an nnx.Optimizer, give the model"):
            return _blended(key, params, init_fn, where, shrink, perturb)[0]
    check_optimizer(params.tx)
    blended, chosen = _blended(key, params.params, init_fn, where, shrink, perturb)
    return with_params(params, blended, dict.fromkeys(chosen), counts)


def _blended(
    key: Key, params: PyTree, init_fn: Any, where: Where, shrink: Any, perturb: Any
) -> tuple[PyTree, list[Path]]:
    """The params, and the paths of those that are new."""
    names, leaves, treedef = flatten(params)
    if where is None:
        trained = set(paths(params_of(params)) if is_module(params) else names)
        floats = [name for name, leaf in zip(names, leaves, strict=True) if is_inexact(leaf)]
        where = Among(frozenset(trained.intersection(floats)), "None, the params")
    tree, chosen = renewed(key, params, where, init_fn)
    fresh = flatten(tree)[1]
    mixed = list(leaves)
    for i in chosen:
        mix = run_at_leaf(_mixed, names[i], leaves[i])
        mixed[i] = mix(shrink, perturb, leaves[i], fresh[i])
    return treedef.unflatten(mixed), [names[i] for i in chosen]


def _mixed(shrink: Any, perturb: Any, old: Any, new: Array) -> Array:
    wide = at_least_float32(dtype_of(old))
    kept, added = jnp.asarray(shrink, wide), jnp.asarray(perturb, wide)
    return checked_as(
        kept * jnp.asarray(old, wide) + added * new.astype(wide), old, "shrink_perturb"
    )
