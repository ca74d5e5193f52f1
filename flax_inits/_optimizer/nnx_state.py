"""What an NNX optimizer trains of a model, and new values for both, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .._base.errors import did_you_mean, noted
from .._base.types import Key, Path, PyTree, Where
from .._surgery.grafting.planning import Planned
from .._tree.forms import describe
from .._tree.modules import is_module, is_variable_type, opened
from .._tree.parts import Part
from .._tree.paths import paths
from .further import Advice, Changed, by_extra, statistics

_ADVICE = Advice("the whole model, lambda key: Model(nnx.Rngs(key))", "nnx.BatchStat")
_OWN = ("step", "tx", "opt_state", "wrt", "model")
"""Attributes of an `nnx.Optimizer` itself."""


def of_module(
    params: PyTree, chosen: Mapping[int, Part | None], where: Where
) -> tuple[PyTree, Mapping[int, Part | None]]:
    """The params of an NNX module, with what `where` chose of them; any other tree as it is."""
    if not is_module(params):
        return params, chosen
    names, trained = paths(params), params_of(params)
    parts = {names[i]: part for i, part in chosen.items()}
    found = {i: parts[path] for i, path in enumerate(paths(trained)) if path in parts}
    if not found:
        raise ValueError(f"{describe(where)} selects no nnx.Param, which are what is trained.")
    return trained, found


def trained_of(plan: Planned, params: PyTree, donor: PyTree) -> tuple[Planned, PyTree, PyTree]:
    """A graft between NNX modules as their optimizers see it: of the params alone."""
    if is_module(donor):
        donor = params_of(donor)
        plan = plan._replace(donor={path: plan.donor[path] for path in paths(donor)})
    if is_module(params):
        names, params = paths(params), params_of(params)
        position = {path: i for i, path in enumerate(paths(params))}
        taken, parts = (
            {position[names[i]]: of for i, of in found.items() if names[i] in position}
            for found in (plan.taken, plan.parts)
        )
        if not taken:
            raise ValueError("The rules take no nnx.Param, which are what is trained.")
        plan = plan._replace(taken=taken, parts=parts)
    return plan, params, donor


def params_of(model: Any) -> PyTree:
    """The params of an NNX module, which are what is trained."""
    from flax import nnx

    return nnx.state(model, nnx.Param)


def renew_in_place(
    key: Key,
    optimizer: Any,
    model: Any,
    extra: Mapping[Any, Any],
    init_fn: Any,
    both: Callable[[PyTree, PyTree, Any], tuple[PyTree, PyTree, Changed]],
) -> None:
    """Gives an optimizer, its model and further trees what `both` makes of them, or nothing."""
    from flax import nnx

    if model is None:
        model = vars(optimizer).get("model")
    if model is None:
        raise TypeError(
            "An nnx.Optimizer does not hold its model: call reinit_state(key, optimizer, rules, "
            "model=model)."
        )
    further = [_further(optimizer, model, name) for name in extra]
    wrt = optimizer.wrt
    params = nnx.state(model, wrt)
    with noted(f"among what the optimizer trains: wrt={getattr(wrt, '__name__', wrt)}"):
        new, opt_state, changed = both(params, optimizer.opt_state, optimizer.tx)
    known = paths(nnx.state(model, nnx.Any(nnx.Param, wrt)))
    asked = nnx.Any(*filter(is_variable_type, extra))
    stats = nnx.state(model, nnx.All(nnx.BatchStat, nnx.Not(asked)))

    def made(stale: list[Path]) -> Callable[[Key], PyTree] | None:
        return init_fn if callable(init_fn) and {*stale} <= _makes(init_fn, key) else None

    fresh = statistics(key, stats, known, changed, made, _ADVICE)
    # What `extra` gives comes last: a module in it may hold some of these statistics.
    updates = [(model, new), (optimizer.opt_state, nnx.state(opt_state)), (model, fresh)]
    for number, ((name, how), (node, tree)) in enumerate(zip(extra.items(), further, strict=True)):
        label = getattr(name, "__name__", name if isinstance(name, str) else str(number))
        updates.append((node, by_extra(key, label, tree, how, new, changed)))
    _update(updates)


def _further(optimizer: Any, model: Any, name: Any) -> tuple[Any, Any]:
    """A further tree: what holds it, and its state."""
    from flax import nnx

    if is_variable_type(name):
        return model, nnx.state(model, name)
    if isinstance(name, nnx.Pytree):
        return name, nnx.state(name)
    others = [other for other in vars(optimizer) if other not in _OWN and other[0] != "_"]
    if name not in others:
        hint = did_you_mean(name, others) if isinstance(name, str) else ""
        raise ValueError(
            f"extra names {name!r}, which is no further tree of {type(optimizer).__name__}.{hint} "
            "Name an attribute of the optimizer, a class of variables of the model, such as "
            "nnx.BatchStat, or give the module itself: extra={ema_model: None}."
        )
    node = getattr(optimizer, name)
    return node, nnx.state(node)


def _makes(init_fn: Callable[[Key], PyTree], key: Key) -> set[Path]:
    return set(paths(jax.eval_shape(lambda key: opened(init_fn(key))[0], key)))


def _update(updates: list[tuple[Any, Any]]) -> None:
    """Updates each node by its state; if one cannot be, all are as before."""
    from flax import nnx

    # A state may hold the variables themselves; `map` makes others of them.
    before = [(node, jax.tree.map(lambda leaf: leaf, nnx.state(node))) for node, _ in updates]
    try:
        for node, state in updates:
            nnx.update(node, state)
    except BaseException:
        for node, state in before:
            nnx.update(node, state)
        raise
