"""Surgery: new values for chosen leaves of a tree, everything else as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.core import Tracer

from .._base.errors import BY_KEY_ALONE, noted, noted_of_state
from .._base.jax_state import tracing
from .._base.types import Array, Key, Path, PyTree, Rules, Where
from .._engine.make import compute
from .._modules.reach import WithRules
from .._tree.boxes import key_paths
from .._tree.forms import describe
from .._tree.leaves import check_leaf, check_usable, is_inexact
from .._tree.misses import nothing_selected
from .._tree.modules import drawn_key, is_module
from .._tree.parts import Part, spliced
from .._tree.paths import flatten
from .._tree.places import free, laid_out, place_of
from .._tree.resolve import resolve_parts
from .._tree.rules import Rule, assign_parts, by_path, is_where, narrower, no_initializers, parsed
from .cautions import warn_of_moments, warn_of_stored_shapes, warn_of_ties
from .draw import RuledLeaf, draw
from .picked import picked
from .replicas import check_replicas


def reinit(
    key: Key,
    params: PyTree,
    rules: Rules | Where,
    *,
    init_fn: Callable[[Key], PyTree] | None = None,
    donate: bool = False,
    allow_unmatched: bool = False,
) -> PyTree:
    """Gives chosen leaves new initial values and keeps everything else.

    With rules, a leaf is `init(fold_in(key, h), leaf.shape, leaf.dtype)`, where h depends on the
    leaf's path alone: no value depends on another leaf, on the container or on the process. With
    `init_fn`, a leaf is the one at its path in `jax.jit(init_fn)(key)`, bit for bit, and only the
    chosen leaves are computed. With both, `init_fn` is run with the rules' initializers in place
    of those of its Linen modules, which call them with the shapes and keys that they initialize
    (unstacked in a scan, flattened in attention), as `jit_init` does.

    Args:
        key: one PRNG key, typed or legacy; or an `nnx.Rngs`, of which one is drawn as by
            `rngs.params()`.
        params: any pytree: dict, FrozenDict, `nnx.State`, lists, dataclasses, with or without
            boxes; or an `nnx.Module`: a new one comes back, around the same kept arrays, and
            `nnx.update(module, nnx.state(new))` changes the module itself. Leaves may be abstract
            (`jax.ShapeDtypeStruct`, with or without a sharding).
        rules: a mapping from `where` to initializer, or a list of such pairs; the first match
            wins. Or a single `where` (see `select`; `"**"` is everything), and then `init_fn`
            makes the values. `at` selects parts of leaves. Without `init_fn`, an initializer is
            called with the stored shape: wrap it in `stacked` for a stack of layers (`nn.scan`),
            in `replicated` for what `pmap` replicated, and give `init_fn` too for attention
            kernels, or its fans are not the module's (a warning, where Flax's names show it).
        init_fn: `key -> tree` with the selected paths in it, such as
            `lambda key: model.init(key, x)["params"]`.
        donate: free the buffers of the replaced leaves, except those that a kept leaf shares.
        allow_unmatched: skip rules that win no leaf, as long as some leaf is won.

    Returns:
        A tree of the same structure, containers, boxes, dtypes, weak types and shardings. Kept
        leaves are the same objects. `params` itself is never changed. One array at two chosen
        paths (tied weights) becomes two, with a warning.

    Raises:
        ValueError: a rule selects nothing or is shadowed by an earlier one; a rule selects an
            integer, a PRNG key or `None`; a selected array was deleted; an initializer or `init_fn`
            gives another shape; `init_fn` lacks a selected path; params that `pmap` replicated
            would diverge (use `replicated(init)`).
        TypeError: an initializer is not callable, or `key` is no PRNG key.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> new = flax_inits.reinit(jax.random.key(0), params, {"head": flax_inits.zeros()})
    >>> new["head"]
    {'bias': Array([0., 0.], dtype=float32)}
    >>> new["body"]["bias"] is params["body"]["bias"]
    True
    """
    instead = "reinit_state resets that together with the params, and its paths begin below them"
    with noted_of_state(params, instead):
        return renewed(key, params, rules, init_fn, donate, allow_unmatched)[0]


def renewed(
    key: Key,
    params: PyTree,
    rules: Rules | Where,
    init_fn: Callable[[Key], PyTree] | None = None,
    donate: bool = False,
    allow_unmatched: bool = False,
) -> tuple[PyTree, dict[int, Part | None]]:
    """What `reinit` returns, and the leaves that are new: in part, or whole, which is None."""
    key, advance = drawn_key(key)
    names, leaves, treedef = flatten(params)
    tree = _Tree(params, names, leaves, key_paths(params, names))
    if init_fn is None:
        new, parts = _by_rules(key, tree, rules, allow_unmatched)
    else:
        new, parts = _by_init_fn(key, tree, rules, init_fn, allow_unmatched)
    for i, part in parts.items():
        new[i] = spliced(tree.leaves[i], new[i], part)
    kept = [leaf for i, leaf in enumerate(tree.leaves) if i not in new]
    if donate:
        free((tree.leaves[i] for i in new), (*kept, *new.values()))
    leaves = [new.get(i, leaf) for i, leaf in enumerate(tree.leaves)]
    advance()
    return treedef.unflatten(leaves), {i: parts.get(i) for i in sorted(new)}


class _Tree(NamedTuple):
    """The params with what is read off them once."""

    whole: PyTree
    paths: list[Path]
    leaves: list[Any]
    key_paths: list[Path]


_New: TypeAlias = tuple[dict[int, Array], dict[int, Part]]
"""The values of new leaves, each as a whole, and the part of a leaf that they are for."""


def _by_rules(key: Key, tree: _Tree, rules: Rules | Where, allow_unmatched: bool) -> _New:
    if is_where(rules):
        raise TypeError(no_initializers(rules))
    chosen, parts = _assigned(tree, rules, allow_unmatched)
    warn_of_moments(chosen, tree.paths, tree.whole)
    warn_of_stored_shapes(chosen, tree.paths, tree.leaves, tree.whole)
    ruled_leaves = {
        i: RuledLeaf(tree.paths[i], tree.leaves[i], rule, tree.key_paths[i])
        for i, rule in chosen.items()
    }
    if not tracing() and not isinstance(key, Tracer):
        new = draw(key, ruled_leaves)
        if new is not None:
            check_replicas(tree.paths, tree.leaves, chosen, new, parts)
            return new, parts
    return {i: laid_out(by_path(key, *one), one.leaf) for i, one in ruled_leaves.items()}, parts


def _assigned(
    tree: _Tree, rules: Rules, allow_unmatched: bool
) -> tuple[dict[int, Rule], dict[int, Part]]:
    """The rule of each chosen leaf, which an initializer can make, and what is taken in part."""
    chosen, parts = assign_parts(
        parsed(rules), tree.paths, tree.leaves, tree.whole, allow_unmatched
    )
    for i, rule in chosen.items():
        leaf, by = tree.leaves[i], f"The rule for {describe(rule.where)}"
        fits = "" if is_inexact(leaf) else _narrower(tree, rule, chosen)
        check_leaf(tree.paths[i], leaf, by, fits)
    _warn_of_ties(tree, chosen)
    return chosen, parts


def _narrower(tree: _Tree, rule: Rule, chosen: Mapping[int, Rule]) -> str:
    """How to write a rule that wins only leaves that initializers make."""
    if is_module(tree.whole) and sum(other is rule for other in chosen.values()) == len(tree.paths):
        return ": nnx.Param, the class of the variables that are trained"
    return narrower(rule, chosen, tree.paths, tree.leaves)


def _by_init_fn(
    key: Key,
    tree: _Tree,
    rules: Rules | Where,
    init_fn: Callable[[Key], PyTree],
    allow_unmatched: bool,
) -> _New:
    """The chosen leaves of `init_fn(key)`, and of the others what shares work with them."""
    if not callable(init_fn):
        raise TypeError(f"init_fn must be a callable key -> tree, got {init_fn!r}.")
    # () is the path of a tree of one leaf; without init_fn it is no rules.
    if is_where(rules) or (isinstance(rules, tuple) and not rules):
        found = _chosen(tree, rules, allow_unmatched)
        parts = {i: part for i, part in found.items() if part is not None}
    else:
        found, parts = _assigned(tree, rules, allow_unmatched)
        init_fn = _through_model(tree, found, init_fn)
    chosen = list(found)

    def values(key: Key) -> list[Array]:
        """The chosen leaves, and after them the others, which may share work with them."""
        with noted(BY_KEY_ALONE):
            made = init_fn(key)
        new = picked(made, tree.paths, tree.leaves, chosen)
        own = {tree.paths[i] for i in chosen}
        others = zip(*flatten(made)[:2], strict=True)
        beside = [leaf for path, leaf in others if path not in own and isinstance(leaf, jax.Array)]
        return [*new, *beside]

    if not tracing() and not isinstance(key, Tracer):
        places = {n: place_of(tree.paths[i], tree.leaves[i]) for n, i in enumerate(chosen)}
        made = compute(values, key, places)
        if made is not None:
            return {i: made[n] for n, i in enumerate(chosen)}, parts
    new = zip(chosen, values(key), strict=False)  # without the others
    return {i: laid_out(value, tree.leaves[i]) for i, value in new}, parts


def _chosen(tree: _Tree, where: Where, allow_unmatched: bool) -> dict[int, Part | None]:
    found, unmatched = resolve_parts(where, tree.paths, tree.leaves, tree.whole)
    if unmatched and not (allow_unmatched and found):
        raise nothing_selected(unmatched[0], tree.paths, tree.whole)
    for i in found:
        check_usable(tree.paths[i], tree.leaves[i], describe(where))
    _warn_of_ties(tree, found)
    return found


def _through_model(
    tree: _Tree, chosen: Mapping[int, Rule], init_fn: Callable[[Key], PyTree]
) -> Callable[[Key], PyTree]:
    """`init_fn` whose model itself applies the rules, with the shapes and keys that it has."""
    by_path = {tree.paths[i]: rule for i, rule in chosen.items()}

    def choose(paths: Sequence[Path], leaves: Any, whole: PyTree) -> dict[int, Rule]:
        return {i: by_path[path] for i, path in enumerate(paths) if path in by_path}

    return WithRules(init_fn, choose)


def _warn_of_ties(tree: _Tree, chosen: Iterable[int]) -> None:
    # Twins of lookahead may be one array at first; they are not tied.
    own = [i for i in chosen if tree.paths[i] == tree.key_paths[i]]
    warn_of_ties(own, tree.paths, tree.leaves)
