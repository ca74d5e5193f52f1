"""Further trees of a training state: what `extra` asks for, and statistics of new modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax

from .._base.errors import listed, noted, outside
from .._base.types import Key, Path, PyTree
from .._surgery.graft import graft
from .._surgery.reinit import reinit
from .._tree.casting import checked_as
from .._tree.forms import Among
from .._tree.parts import Part, spliced
from .._tree.paths import flatten, path_hash, paths, show

Changed: TypeAlias = Mapping[Path, Part | None]
"""The params that are new: in part, or whole, which is None."""


def by_extra(
    key: Key, name: str, tree: PyTree, how: Any, params: PyTree, changed: Changed
) -> PyTree:
    """A tree of `extra`: with copies of the new params, or by rules and a key of its own."""
    if how is None:
        return _followed(tree, params, changed)
    own = jax.random.fold_in(key, path_hash((name,)))
    if isinstance(how, tuple) and len(how) == 2 and callable(how[1]):
        with noted(f"while {name!r} of extra came from init_fn; rules are {{where: initializer}}"):
            return reinit(own, tree, how[0], init_fn=how[1])
    return reinit(own, tree, how)


def _followed(tree: PyTree, params: PyTree, changed: Changed) -> PyTree:
    """`tree` with copies of the params that changed, in its own dtypes."""
    names, leaves, _ = flatten(params)
    new = {name: leaf for name, leaf in zip(names, leaves, strict=True) if name in changed}
    theirs, olds, treedef = flatten(tree)
    cast = [
        checked_as(new[name], old, "the new params") if name in new else old
        for name, old in zip(theirs, olds, strict=True)
    ]
    there = set(theirs)
    if lacking := [name for name in new if name not in there]:
        raise ValueError(
            f"extra={{...: None}} copies the new params, but that tree has no leaf at "
            f"{show(lacking[0])!r}; give it rules of its own."
        )
    copied = graft(tree, treedef.unflatten(cast), Among(frozenset(changed), "the new params"))
    leaves = jax.tree.leaves(copied)
    for i, (name, old) in enumerate(zip(theirs, olds, strict=True)):
        if (part := changed.get(name)) is not None:
            leaves[i] = spliced(old, leaves[i], part)
    return treedef.unflatten(leaves)


def params_alone(init_fn: Any, params: PyTree) -> Any:
    """`init_fn` without the collections beside the params, if it returns whole variables."""
    if not callable(init_fn) or has_params(params):
        return init_fn

    def init_params(key: Key) -> PyTree:
        made = init_fn(key)
        return made["params"] if has_params(made) else made

    return init_params


def has_params(tree: Any) -> TypeGuard[Mapping[str, PyTree]]:
    """Whether a tree is whole variables, with params among its collections."""
    return isinstance(tree, Mapping) and "params" in tree


def statistics_of_state(
    key: Key, tree: PyTree, params: PyTree, changed: Changed, init_fn: Callable | None
) -> PyTree:
    """`batch_stats` with those of new modules fresh, if `init_fn` makes them; else a warning."""

    def made(stale: list[Path]) -> Callable[[Key], PyTree] | None:
        if init_fn is None:
            return None
        fun, variables = init_fn, jax.eval_shape(init_fn, key)
        if not (has_params(variables) and "batch_stats" in variables):
            return None
        return lambda key: fun(key)["batch_stats"]

    return statistics(key, tree, paths(params), changed, made, _ADVICE)


class Advice(NamedTuple):
    """What to do where statistics of new modules would stay."""

    returns: str
    """What an `init_fn` must return to make them, and one that does."""

    field: str
    """What `extra` calls all statistics."""

    def on(self, stale: Sequence[Path]) -> str:
        """What to write to start exactly these again."""
        rules = {path: _START.get(path[-1], "...") for path in stale}
        shown = ", ".join(f"{show(path)!r}: {rule}" for path, rule in [*rules.items()][:_MOST])
        more = ", ..." if len(rules) > _MOST else ""
        return (
            f"Give an init_fn that returns {self.returns}, or say what they get: "
            f"extra={{{self.field}: {{{shown}{more}}}}}."
        )


_START = {"mean": "flax_inits.zeros()", "var": "flax_inits.ones()"}
_MOST = 4
_ADVICE = Advice("all variables, lambda key: model.init(key, x)", "'batch_stats'")


def statistics(
    key: Key,
    tree: PyTree,
    known: list[Path],
    changed: Changed,
    made: Callable[[list[Path]], Callable[[Key], PyTree] | None],
    advice: Advice,
) -> PyTree:
    """Running statistics, with those of new modules fresh by what `made` gives for their paths.

    If that is None, they stay, with a warning that ends with the `advice` on them. `known` are the
    params of the model.
    """
    names, _, treedef = flatten(tree)
    new = {path for path, part in changed.items() if part is None}
    stale = [_is_below_new_module(name, known, new) for name in names]
    chosen = [name for name, is_stale in zip(names, stale, strict=True) if is_stale]
    if not chosen:
        return tree
    if (init_fn := made(chosen)) is not None:
        return reinit(key, tree, treedef.unflatten(stale), init_fn=init_fn)
    warnings.warn(
        f"The statistics {listed([show(name) for name in chosen])} stay as they were, though the "
        f"params of their modules are new. {advice.on(chosen)}",
        stacklevel=outside(),
    )
    return tree


def _is_below_new_module(name: Path, known: list[Path], new: set[Path]) -> bool:
    """Whether all params of the innermost module around a statistic that has any are new."""
    for size in range(len(name) - 1, -1, -1):
        below = [path for path in known if path[:size] == name[:size]]
        if below:
            return new.issuperset(below)
    return False
