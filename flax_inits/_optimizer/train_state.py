"""Params and optimizer state of a training state, reinitialized together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._base.imported import imported
from .._base.types import Key, Path, PyTree, Rules, Where
from .._surgery.reinit import renewed
from .._tree.modules import drawn_key, is_module
from .._tree.paths import paths
from .further import Changed, by_extra, params_alone, statistics_of_state
from .nnx_state import renew_in_place
from .reset import check_counts, check_optimizer, reset_chosen

_NEEDED = ("params", "opt_state", "tx", "replace")


def reinit_state(
    key: Key,
    state: Any,
    rules: Rules | Where,
    *,
    init_fn: Callable[[Key], PyTree] | None = None,
    extra: Mapping[str, Any] | None = None,
    model: Any = None,
    counts: str = "keep",
    strict: bool = False,
    allow_unmatched: bool = False,
) -> Any:
    """Reinitializes chosen params of a training state, and their optimizer state with them.

    `params = reinit(key, state.params, rules, init_fn=init_fn)`, then `reset_optimizer` for the
    leaves that this replaced. The step is kept, and so is every other field that is not in `extra`.

    Args:
        key: one PRNG key, or an `nnx.Rngs`, of which one is drawn as by `rngs.params()`.
        state: a `flax.training.train_state.TrainState`, or anything with `params`, `opt_state`,
            `tx` and `replace`; or an `nnx.Optimizer`.
        rules: as for `reinit`.
        init_fn: as for `reinit`. If it returns whole variables, `lambda key: model.init(key, x)`,
            statistics (`state.batch_stats`) of modules whose params are all new are fresh, too;
            of NNX, if it returns a whole model, `lambda key: Model(nnx.Rngs(key))`, all
            `nnx.BatchStat` are.
        extra: further trees in the state, by field. `None` gives the same leaves copies of the new
            params (an EMA, a target network). Rules, or a pair `(where, init_fn)`, reinitialize
            what they choose there: `{"batch_stats": {"**/mean": zeros(), "**/var": ones()}}`.
            With an `nnx.Optimizer`, in place of a field: an attribute that it has beside its own,
            a class of variables of the model (`nnx.BatchStat`), or an NNX module itself, as in
            `{ema_model: None}`.
        model: the model of an `nnx.Optimizer`, which does not hold it itself.
        counts: as for `reset_optimizer`.
        strict: as for `reset_optimizer`.
        allow_unmatched: as for `reinit`.

    Returns:
        A new state of the same class; `state` itself is unchanged. Only an `nnx.Optimizer`, its
        model and what `extra` gives are updated in place, as NNX does: all variables stay the
        same objects, and if anything fails, all of them keep their values.

    Warns:
        UserWarning: running statistics of new modules stay, since neither `init_fn` nor `extra`
            says what they get.

    Raises:
        ValueError: as `reinit` and `reset_optimizer` do; a field in `extra` does not exist.
        TypeError: `state` lacks one of the attributes; `extra` is no mapping; an
            `nnx.Optimizer` came without its model.

    >>> import flax_inits, jax, jax.numpy as jnp, optax
    >>> from flax.training.train_state import TrainState
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    >>> state = state.apply_gradients(grads=params)
    >>> new = flax_inits.reinit_state(jax.random.key(0), state, {"head": flax_inits.zeros()})
    >>> new.params["head"], new.opt_state[0].mu["head"], new.step
    (Array([0., 0.], dtype=float32), Array([0., 0.], dtype=float32), 1)
    """

    def both(params: PyTree, opt_state: PyTree, tx: Any) -> tuple[PyTree, PyTree, Changed]:
        check_optimizer(tx)
        check_counts(counts)
        make = params_alone(init_fn, params)
        new, chosen = renewed(key, params, rules, make, allow_unmatched=allow_unmatched)
        names = paths(new)
        changed = {names[i]: part for i, part in chosen.items()}
        return new, _with_fresh(tx, opt_state, new, changed, counts, strict), changed

    _check_extra(extra)
    key, advance = drawn_key(key)
    if isinstance(state, imported("flax.nnx", "Optimizer")):
        renew_in_place(key, state, model, extra or {}, init_fn, both)
        advance()
        return state
    _check_state(state, extra, model)
    params, opt_state, changed = both(state.params, state.opt_state, state.tx)
    further = {
        name: by_extra(key, name, getattr(state, name), how, params, changed)
        for name, how in (extra or {}).items()
    }
    stats = getattr(state, "batch_stats", None)
    if stats is not None and "batch_stats" not in further:
        further["batch_stats"] = statistics_of_state(key, stats, params, changed, init_fn)
    new = state.replace(params=params, opt_state=opt_state, **further)
    advance()
    return new


def is_train_state(tree: Any) -> bool:
    """Whether params, an optimizer and its state come together."""
    return all(hasattr(tree, name) for name in _NEEDED)


def with_params(state: Any, params: PyTree, changed: Changed, counts: str) -> Any:
    """A training state with params of which some are new, and their optimizer state fresh."""
    opt_state = _with_fresh(state.tx, state.opt_state, params, changed, counts, strict=False)
    return state.replace(params=params, opt_state=opt_state)


def _with_fresh(
    tx: Any, opt_state: PyTree, params: PyTree, changed: Changed, counts: str, strict: bool
) -> PyTree:
    """The optimizer state of params that changed, as far as the optimizer sees them, is fresh."""
    trained, above = _trained(params)
    inner = [(*above, *path) for path in paths(trained)]
    found = {i: changed[path] for i, path in enumerate(inner) if path in changed}
    return reset_chosen(tx, opt_state, trained, found, counts, strict) if found else opt_state


def _trained(params: PyTree) -> tuple[PyTree, Path]:
    """What the optimizer sees, and where: TrainState keeps scales of Flax's fp8 layers from it."""
    if isinstance(params, Mapping) and "_overwrite_with_gradient" in params:
        return params["params"], ("params",)
    return params, ()


def _check_extra(extra: Any) -> None:
    if extra is not None and not isinstance(extra, Mapping):
        raise TypeError(
            "extra must be a mapping from fields of the state to what they get, such as "
            "{'batch_stats': {'**/mean': flax_inits.zeros()}} or {'ema_params': None}; "
            f"got {extra!r}."
        )


def _check_state(state: Any, extra: Mapping[str, Any] | None, model: Any) -> None:
    if is_module(state):
        raise TypeError(
            f"state must be the nnx.Optimizer, got the model {type(state).__name__}: call "
            "reinit_state(key, optimizer, rules, model=model), or reinit(key, model, rules) for "
            "the model alone."
        )
    missing = [name for name in _NEEDED if not hasattr(state, name)]
    if missing:
        raise TypeError(
            f"state must have params, opt_state, tx and replace, as a flax TrainState does, but "
            f"{type(state).__name__} has no {' and no '.join(missing)}. Without them, call reinit "
            "and reset_optimizer in turn."
        )
    if model is not None:
        raise TypeError(f"model is for an nnx.Optimizer; {type(state).__name__} has its params.")
    for name in extra or {}:
        if name in ("step", *_NEEDED) or not hasattr(state, name):
            raise ValueError(
                f"extra names {name!r}, which is no further tree of {type(state).__name__}; name "
                "fields such as 'batch_stats' or 'ema_params'."
            )
