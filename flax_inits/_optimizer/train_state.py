"""Params and optimizer state of a training state, reinitialized together or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax

from .._base.types import Array, Key, Path, PyTree, Rules, Where
from .._surgery.graft import graft
from .._surgery.reinit import reinit, renewed
from .._tree.casting import checked_as
from .._tree.forms import Among
from .._tree.parts import Part, spliced
from .._tree.paths import flatten, path_hash, paths
from .reset import check_optimizer, reset_chosen

Changed: TypeAlias = Mapping[Path, Part | None]
"""The params that are new: in part, or whole, which is None."""

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
        key: one PRNG key.
        state: a `flax.training.train_state.TrainState`, or anything with `params`, `opt_state`,
            `tx` and `replace`; or an `nnx.Optimizer`.
        rules: as for `reinit`.
        init_fn: as for `reinit`.
        extra: further trees in the state, by field. `None` gives the same leaves copies of the new
            params (an EMA, a target network). Rules, or a pair `(where, init_fn)`, reinitialize
            what they choose there: `{"batch_stats": {"**/mean": zeros(), "**/var": ones()}}`.
        model: the model of an `nnx.Optimizer`, which does not hold it itself.
        counts: as for `reset_optimizer`.
        strict: as for `reset_optimizer`.
        allow_unmatched: as for `reinit`.

    Returns:
        A new state of the same class; `state` itself is unchanged. Only an `nnx.Optimizer` and its
        model are updated in place, as NNX does, after all that can fail.

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
        new, chosen = renewed(key, params, rules, init_fn, allow_unmatched=allow_unmatched)
        names = paths(new)
        changed = {names[i]: part for i, part in chosen.items()}
        trained, above = _trained(new)
        inner = [(*above, *path) for path in paths(trained)]
        if found := {i: changed[path] for i, path in enumerate(inner) if path in changed}:
            opt_state = reset_chosen(tx, opt_state, trained, found, counts, strict)
        return new, opt_state, changed

    if _is_nnx_optimizer(state):
        _update_nnx(state, model, extra, both)
        return state
    _check_state(state, extra, model)
    params, opt_state, changed = both(state.params, state.opt_state, state.tx)
    further = {
        name: _further(key, name, getattr(state, name), how, params, changed)
        for name, how in (extra or {}).items()
    }
    return state.replace(params=params, opt_state=opt_state, **further)


def _trained(params: PyTree) -> tuple[PyTree, Path]:
    """What the optimizer sees, and where: TrainState keeps scales of Flax's fp8 layers from it."""
    if isinstance(params, Mapping) and "_overwrite_with_gradient" in params:
        return params["params"], ("params",)
    return params, ()


def _check_state(state: Any, extra: Mapping[str, Any] | None, model: Any) -> None:
    missing = [name for name in _NEEDED if not hasattr(state, name)]
    if missing:
        raise TypeError(
            f"state must have params, opt_state, tx and replace, as a flax TrainState does, but "
            f"{type(state).__name__} has no {' and no '.join(missing)}. Without them, call reinit "
            "and reset_optimizer in turn."
        )
    if model is not None:
        raise TypeError(f"model is for an nnx.Optimizer; {type(state).__name__} has its params.")
    if extra is not None and not isinstance(extra, Mapping):
        raise TypeError(
            "extra must be a mapping from fields of the state to what they get, such as "
            "{'batch_stats': {'**/mean': flax_inits.zeros()}} or {'ema_params': None}; "
            f"got {extra!r}."
        )
    for name in extra or {}:
        if name in ("step", *_NEEDED) or not hasattr(state, name):
            raise ValueError(
                f"extra names {name!r}, which is no further tree of {type(state).__name__}; name "
                "fields such as 'batch_stats' or 'ema_params'."
            )


def _further(
    key: Key, name: str, tree: PyTree, how: Any, params: PyTree, changed: Changed
) -> PyTree:
    """A tree of `extra`: with copies of the new params, or by rules and a key of its own."""
    if how is None:
        return _followed(tree, params, changed)
    own = jax.random.fold_in(key, path_hash((name,)))
    if isinstance(how, tuple) and len(how) == 2 and callable(how[1]):
        return reinit(own, tree, how[0], init_fn=how[1])
    return reinit(own, tree, how)


def _followed(tree: PyTree, params: PyTree, changed: Changed) -> PyTree:
    """`tree` with copies of the params that changed, in its own dtypes."""
    names, leaves, _ = flatten(params)
    new = {name: leaf for name, leaf in zip(names, leaves, strict=True) if name in changed}
    theirs, olds, treedef = flatten(tree)
    cast: list[Array | Any] = list(olds)
    for i, (name, old) in enumerate(zip(theirs, olds, strict=True)):
        if name in new:
            cast[i] = checked_as(new.pop(name), old, "the new params")
    if new:
        raise ValueError(
            f"extra={{...: None}} copies the new params, but that tree has no leaf at "
            f"{'/'.join(next(iter(new)))!r}; give it rules of its own."
        )
    copied = graft(tree, treedef.unflatten(cast), Among(frozenset(changed), "the new params"))
    leaves = jax.tree.leaves(copied)
    for i, (name, old) in enumerate(zip(theirs, olds, strict=True)):
        if (part := changed.get(name)) is not None:
            leaves[i] = spliced(old, leaves[i], part)
    return treedef.unflatten(leaves)


def _is_nnx_optimizer(state: Any) -> bool:
    kind = getattr(sys.modules.get("flax.nnx"), "Optimizer", None)
    return kind is not None and isinstance(state, kind)


def _update_nnx(
    optimizer: Any, model: Any, extra: Mapping[str, Any] | None, renewed: Callable[..., Any]
) -> None:
    from flax import nnx

    if extra:
        raise ValueError("extra names fields of a TrainState; an nnx.Optimizer has none.")
    if model is None:
        model = vars(optimizer).get("model")
    if model is None:
        raise TypeError(
            "An nnx.Optimizer does not hold its model: call reinit_state(key, optimizer, rules, "
            "model=model)."
        )
    params = nnx.state(model, optimizer.wrt)
    new, opt_state, _ = renewed(params, optimizer.opt_state, optimizer.tx)
    nnx.update(model, new)
    nnx.update(optimizer.opt_state, nnx.state(opt_state))
