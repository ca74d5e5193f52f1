"""Shrink and perturb: params pulled towards a freshly initialized model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .._base.jax_state import tracing
from .._base.types import Array, Key, PyTree, Where
from .._surgery.reinit import reinit
from .._tree.casting import checked_as
from .._tree.leaves import at_least_float32, dtype_of
from .._tree.paths import flatten
from .._tree.places import jitted_at, place_of


def shrink_perturb(
    key: Key,
    params: PyTree,
    init_fn: Callable[[Key], PyTree],
    *,
    where: Where = None,
    shrink: float | Array,
    perturb: float | Array,
) -> PyTree:
    """Shrinks params and adds a freshly initialized model: new = shrink * old + perturb * fresh.

    The noise is a model with the initializers that made the old one, not a Gaussian. Ash & Adams
    take `shrink=0.4, perturb=0.1`; the encoder of BBF 0.5 and 0.5. Both start a new optimizer
    afterwards: `tx.init(params)`, or `reset_optimizer` for a part.

    Args:
        key: one PRNG key.
        params: any pytree.
        init_fn: `key -> tree` with the chosen paths in it, as for `reinit`.
        where: which leaves (see `select`); None is every float leaf.
        shrink: what is left of the old values, from 0 to 1.
        perturb: the share of the fresh values, at least 0.

    Returns:
        A tree of the same structure, boxes, dtypes and shardings; sums are taken in at least
        float32. Leaves that are not chosen are the same objects.

    Raises:
        ValueError: `shrink` or `perturb` is out of range; and as `reinit` does.

    Reference: Ash & Adams, "On warm-starting neural network training", 2020.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"body": 8 * jnp.ones(2), "head": 8 * jnp.ones(2)}
    >>> fresh = lambda key: {"head": jnp.ones(2)}
    >>> flax_inits.shrink_perturb(
    ...     jax.random.key(0), params, fresh, where="head", shrink=0.5, perturb=0.25)["head"]
    Array([4.25, 4.25], dtype=float32)
    """
    _check_factor("shrink", shrink, 1.0)
    _check_factor("perturb", perturb, math.inf)
    names, leaves, treedef = flatten(params)
    if where is None:
        where = treedef.unflatten([jnp.issubdtype(dtype_of(leaf), jnp.inexact) for leaf in leaves])
    fresh = jax.tree.leaves(reinit(key, params, where, init_fn=init_fn))
    inline = tracing() or any(isinstance(x, Tracer) for x in (shrink, perturb, *leaves))
    mixed = list(leaves)
    for i, (old, new) in enumerate(zip(leaves, fresh, strict=True)):
        if new is not old:
            mix = _mixed if inline else jitted_at(_mixed, place_of(names[i], old))
            mixed[i] = mix(shrink, perturb, old, new)
    return treedef.unflatten(mixed)


def _check_factor(name: str, value: Any, most: float) -> None:
    if isinstance(value, Tracer):
        return
    if jnp.shape(value) != () or not 0 <= float(value) <= most or math.isinf(float(value)):
        allowed = f"from 0 to {most:g}" if most < math.inf else "of at least 0"
        raise ValueError(f"{name} must be one number {allowed}, got {value!r}.")


def _mixed(shrink: Any, perturb: Any, old: Any, new: Array) -> Array:
    wide = at_least_float32(dtype_of(old))
    kept, added = jnp.asarray(shrink, wide), jnp.asarray(perturb, wide)
    return checked_as(
        kept * jnp.asarray(old, wide) + added * new.astype(wide), old, "shrink_perturb"
    )
