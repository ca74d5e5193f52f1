"""Optimizer state that follows grafted params."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .._base.errors import listed, outside
from .._base.jax_state import tracing
from .._base.types import PyTree, Where
from .._surgery.graft import GraftRules
from .._surgery.grafting.filling import filled, goals
from .._surgery.grafting.planning import Options, planned
from .._tree.leaves import check_alive
from .._tree.parts import spliced
from .._tree.paths import flatten, show
from .following import Following
from .matching import Named, matched
from .nnx_state import trained_of
from .reset import OptimizerStateWarning, check_optimizer
from .roles import Held


def graft_optimizer(
    tx: Any,
    opt_state: PyTree,
    params: PyTree,
    donor_opt_state: PyTree,
    donor_params: PyTree,
    rules: GraftRules | Where,
    *,
    donor_tx: Any = None,
    mismatch: str = "error",
) -> PyTree:
    """Lets the statistics of an optimizer follow params that `graft` takes by the same rules.

    What has the shape of a param (moments, accumulators) is taken and adapted as the param is, by
    functions too.
    What is new by `grow` is as in `tx.init(params)`, whatever its `init` is for the params, and
    `resize` makes nothing negative that was not. Step counts, and what else several params share,
    are the donor's, if any of these params is; hyperparameters stay those of `opt_state`.

    Args:
        tx: the `optax.GradientTransformation` of the target.
        opt_state: its fresh state, `tx.init(params)`.
        params: the target's params, or the `nnx.Module` with them; only their shapes are used.
        donor_opt_state: the donor's state. Restored without its classes, as dicts and lists, it
            will do, too.
        donor_params: the donor's params, in the structure that `donor_opt_state` was made with, or
            the `nnx.Module` with them.
        rules: as for `graft`; leaves of the donor that nobody takes are no error here, and rules
            for what is not trained (`nnx.BatchStat`) may stay.
        donor_tx: the donor's optimizer, where it differs: partitioned otherwise, wrapped, or
            without some of the statistics.
        mismatch: as for `graft`.

    Returns:
        A state of the structure, dtypes and shardings of `opt_state`. What cannot follow (factored
        statistics under an adapter, arrays that mix several params, what the donor's optimizer
        does not have) stays as in `opt_state`, with an `OptimizerStateWarning` that lists it.

    Raises:
        ValueError: as `graft` does; a state is not one of its optimizer for its params; a dtype
            differs and no `cast` is in the rule.
        TypeError: an optimizer has no `init`.

    >>> import flax_inits, jax.numpy as jnp, optax
    >>> tx, old, new = optax.adam(0.1), {"cls": jnp.ones(2)}, {"head": jnp.ones(3)}
    >>> _, state = tx.update(old, tx.init(old), old)
    >>> rules = {"head": flax_inits.take("cls", flax_inits.grow(axis=0))}
    >>> after = flax_inits.graft_optimizer(tx, tx.init(new), new, state, old, rules)
    >>> after[0].mu["head"].round(3), int(after[0].count)
    (Array([0.1, 0.1, 0. ], dtype=float32), 1)
    """
    donor_tx = tx if donor_tx is None else donor_tx
    for optimizer in (tx, donor_tx):
        check_optimizer(optimizer)
    options = Options("ignore", mismatch)
    plan = planned(params, donor_params, rules, options, goals(None, staged=True))
    plan, params, donor_params = trained_of(plan, params, donor_params)
    state, treedef = jax.tree.flatten(opt_state)
    own = _held(tx, params, opt_state, _OURS)
    given = _held(donor_tx, donor_params, donor_opt_state, _THEIRS)
    staged = tracing() or any(isinstance(one.value, Tracer) for one in (*own, *given))
    follow = Following(plan, *flatten(params)[:2], given, staged)
    views = {i: view for i, one in enumerate(own) if (view := follow.view(one)) is not None}
    if follow.lost:
        warnings.warn(
            f"{listed([show(path) for path in follow.lost])} of the optimizer state could not "
            "follow the grafted params. They are as in opt_state: fresh, if that is tx.init("
            "params).",
            OptimizerStateWarning,
            outside(),
        )
    for i in list(views):
        entry, old = own[i]
        state[i] = filled(views.pop(i), entry.path, old, staged)
        (owner, *others) = entry.params
        if not others and owner in plan.parts and np.shape(old):
            state[i] = spliced(old, state[i], plan.parts[owner])
    return treedef.unflatten(state)


_OURS = Named(advice="It is the target's, as tx.init(params) makes it.")
_THEIRS = Named(
    *("donor_opt_state", "donor_tx", "donor_params"),
    advice="Where the donor was trained by another optimizer than tx, give that as donor_tx.",
)


def _held(tx: Any, params: PyTree, opt_state: PyTree, named: Named) -> list[Held]:
    """The entries of a state, in its order, with their values."""
    found, leaves = matched(tx, opt_state, params, named)[1], jax.tree.leaves(opt_state)
    for entry, leaf in zip(found, leaves, strict=True):
        check_alive(entry.path, leaf, give=named.state)
    return [Held(entry, leaf) for entry, leaf in zip(found, leaves, strict=True)]
