"""Rules: which initializer each leaf gets, every way in which asking can be wrong, and the leaf."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from .._base.errors import did_you_mean, listed, noted
from .._base.types import Array, Key, Path, PyTree, Rules, Where
from .casting import checked_as
from .forms import describe, is_literal, is_mask
from .globs import escaped
from .leaves import dtype_of, is_inexact
from .misses import nothing_selected
from .parts import Part, refuse_parts
from .paths import path_hash, show
from .resolve import check_alone, resolve_parts


class Rule(NamedTuple):
    """What is reinitialized, and by what."""

    where: Where
    init: Callable[..., Array]


def is_where(rules: Rules | Where) -> bool:
    """Whether `rules` is a single `where`: a path, a union, a tree of bools, a pattern, ..."""
    if isinstance(rules, Mapping):
        return is_mask(rules)
    if isinstance(rules, list | tuple) and all(isinstance(rule, tuple) for rule in rules):
        union = bool(rules) and all(map(is_literal, rules))
        return union or is_mask(rules)
    return True


def parsed(rules: Rules) -> list[Rule]:
    """`rules` as a list; the first match wins."""
    pairs = pairs_of(rules, "initializer")
    for where, init in pairs:
        _check_initializer(where, init)
    return [Rule(*pair) for pair in pairs]


def pairs_of(rules: Any, what: str) -> list[tuple[Where, Any]]:
    """The pairs (where, `what`) of rules of any kind, in order."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    if not pairs:
        raise ValueError(f"No rules were given; give where -> {what} for at least one leaf.")
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"A rule is a pair (where, {what}), got {pair!r}.")
    return pairs


def refuse_nested(where: Where, given: Any) -> None:
    """Raises for a mapping in the place of what a rule gives."""
    if isinstance(given, Mapping) and given and isinstance(where, str):
        inner = f"{where}/{next(iter(given))}"
        raise TypeError(
            f"The rule for {where!r} has a mapping, but rules do not nest: write "
            f"{{{inner!r}: ...}}."
        )


def no_initializers(rules: Any) -> str:
    """What to say of `rules` that name leaves and nothing that makes them."""
    if rules is None:
        return "reinit needs rules, {where: initializer}, or a single where with init_fn; got None."
    if isinstance(rules, tuple) and len(rules) == 2 and callable(rules[1]):
        return (
            f"One rule is written {{where: initializer}} or [(where, initializer)]; got {rules!r}."
        )
    return (
        f"{describe(rules)} says which leaves, but not what they get: give rules such as "
        f"[({describe(rules)}, flax_inits.normal(0.02))], or init_fn=lambda key: "
        "model.init(key, x)."
    )


def _check_initializer(where: Where, init: Any) -> None:
    has = f"The rule for {describe(where)} has"
    if getattr(init, "is_factory", False):
        name = init.__name__
        raise TypeError(
            f"{has} the factory {name} where an initializer must be: write {name}(...)."
        )
    if callable(init):
        return
    refuse_nested(where, init)
    shown, such_as = repr(init), "flax_inits.normal(0.02)"
    if isinstance(init, int | float):
        such_as = f"flax_inits.constant({init})"
    elif hasattr(init, "dtype"):
        shown, such_as = f"an array of shape {np.shape(init)}", "flax_inits.from_array(x)"
    raise TypeError(
        f"{has} {shown} where an initializer must be: a callable (key, shape, dtype) -> array, "
        f"such as {such_as}."
    )


def assign(
    rules: Sequence[Rule],
    paths: Sequence[Path],
    leaves: Sequence[Any],
    tree: PyTree,
    allow_unmatched: bool = False,
) -> dict[int, Rule]:
    """The rule that each leaf gets, by the leaf's position."""
    for rule in rules:
        refuse_parts(rule.where)
    return assign_parts(rules, paths, leaves, tree, allow_unmatched)[0]


class HasWhere(Protocol):
    """A rule of any kind: it says which leaves it is for."""

    @property
    def where(self) -> Where:
        """Which leaves."""


AnyRule = TypeVar("AnyRule", bound=HasWhere)


def assign_parts(
    rules: Sequence[AnyRule],
    paths: Sequence[Path],
    leaves: Sequence[Any],
    tree: PyTree,
    allow_unmatched: bool = False,
) -> tuple[dict[int, AnyRule], dict[int, Part]]:
    """The same, and for each leaf of which a rule takes a part, this part."""
    takers: dict[int, list[tuple[AnyRule, Part | None]]] = {}
    all_unmatched: list[Where] = []
    for rule in rules:
        found, unmatched = resolve_parts(rule.where, paths, leaves, tree)
        if unmatched and not allow_unmatched:
            raise nothing_selected(unmatched[0], paths, tree)
        all_unmatched += unmatched
        for i, part in found.items():
            takers.setdefault(i, []).append((rule, part))
        if not any(takers[i][0][0] is rule for i in found) and not allow_unmatched:
            raise _shadowed(rule, [takers[i][0][0] for i in found])
    if not takers:
        raise nothing_selected(all_unmatched[0], paths, tree)
    for i, of_leaf in takers.items():
        check_alone(paths[i], [rule.where for rule, _ in of_leaf], [part for _, part in of_leaf])
    won = {i: of_leaf[0] for i, of_leaf in sorted(takers.items())}
    parts = {i: part for i, (_, part) in won.items() if part is not None}
    return {i: rule for i, (rule, _) in won.items()}, parts


def _shadowed(rule: HasWhere, earlier: Sequence[HasWhere]) -> ValueError:
    by = " and ".join(dict.fromkeys(describe(other.where) for other in earlier))
    return ValueError(
        f"The rule for {describe(rule.where)} wins no leaf: what it selects already belongs to the "
        f"rule for {by}, which comes first. The first match wins: put the narrower rule first."
    )


def narrower(
    rule: Rule, rules: Mapping[int, Rule], paths: Sequence[Path], leaves: Sequence[Any]
) -> str:
    """How to write a rule that wins only those of its leaves that initializers make."""
    own = [i for i, other in rules.items() if other is rule]
    fit = [paths[i] for i in own if is_inexact(leaves[i])]
    names = {path[-1] for path in fit if path} - {paths[i][-1] for i in own if paths[i] not in fit}
    if not names or not all(path[-1] in names for path in fit):
        return f", {listed(fit, most=3)}" if fit else ""
    above = escaped(tuple(os.path.commonprefix([paths[i][:-1] for i in own])))
    patterns = [f"{above}/**/{escaped((name,))}".lstrip("/") for name in sorted(names)]
    return f": {listed(patterns)}"


def note(path: Path, rule: Rule) -> str:
    """What an error that comes out of a rule's initializer gets added."""
    return f"while initializing {show(path)!r} by the rule for {describe(rule.where)}"


def by_path(key: Key, path: Path, leaf: Any, rule: Rule, key_path: Path) -> Array:
    """A leaf by its rule: at its stored shape, with the key that `key_path` gives."""
    with noted(note(path, rule)):
        folded = jax.random.fold_in(key, path_hash(key_path))
        return checked_as(rule.init(folded, np.shape(leaf), dtype_of(leaf)), leaf, rule.init)


def draws_slices(init: Any) -> bool:
    """Whether an initializer is `stacked(...)`, or made of it: this layer knows no factories."""
    return getattr(getattr(init, "draw", None), "sliced", False)


def elsewhere_hint(found: Mapping[Path, Any], path: Path) -> str:
    """A sentence on where else a tree may have the leaf that it lacks at `path`."""
    size = max(len(path), 1)
    outer = next((other[:-size] for other in found if other[-size:] == path), ())
    if len(outer) == 1:
        return f" It has {show((*outer, *path))!r}: give its [{outer[0]!r}]."
    if outer:  # Not as an index: what is attributes and what keys does not show in a path.
        return f" It has {show((*outer, *path))!r}: give what it has at {show(outer)!r}."
    if (*path, "value") in found:
        return (
            f" It has {show((*path, 'value'))!r}, one level deeper, as Orbax restores a state: "
            "take jax.tree.map(lambda box: box['value'], tree, is_leaf=lambda node: "
            "isinstance(node, dict) and [*node] == ['value'])."
        )
    return did_you_mean(show(path), map(show, found))
