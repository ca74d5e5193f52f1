"""Rules: which initializer each leaf gets, and every way in which asking can be wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ._paths import describe, nothing_selected, resolve
from ._types import Array, Path, PyTree, Rules, Where


class Rule(NamedTuple):
    """What is reinitialized, and by what."""

    where: Where
    init: Callable[..., Array]


def is_where(rules: Rules | Where) -> bool:
    """Whether `rules` is a single `where`: a list of non-tuples, a tree of bools, a pattern..."""
    if isinstance(rules, Mapping):
        leaves = jax.tree.leaves(dict(rules), is_leaf=callable)
        return bool(leaves) and all(isinstance(leaf, bool | np.bool_) for leaf in leaves)
    if isinstance(rules, list | tuple):
        return bool(rules) and not all(isinstance(rule, tuple) for rule in rules)
    return True


def parsed(rules: Rules) -> list[Rule]:
    """`rules` as a list; the first match wins."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    if not pairs:
        raise ValueError("No rules were given; give where -> initializer for at least one leaf.")
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"A rule is a pair (where, initializer), got {pair!r}.")
        where, init = pair
        if not callable(init):
            wanted = f"flax_inits.constant({init!r})" if isinstance(init, int | float) else "..."
            raise TypeError(
                f"The rule for {describe(where)} has {init!r} where an initializer must be: a "
                f"callable (key, shape, dtype) -> array, such as {wanted}."
            )
    return [Rule(*pair) for pair in pairs]


def assign(
    rules: Sequence[Rule],
    paths: Sequence[Path],
    leaves: Sequence[Any],
    tree: PyTree,
    allow_unmatched: bool,
) -> dict[int, Rule]:
    """The rule that each leaf gets, by the leaf's position."""
    winners: dict[int, int] = {}
    for number, rule in enumerate(rules):
        chosen, idle = resolve(rule.where, paths, leaves, tree)
        if idle and not allow_unmatched:
            raise nothing_selected(idle[0], paths)
        won = [i for i, use in enumerate(chosen) if use and winners.setdefault(i, number) == number]
        if not won and not allow_unmatched:
            raise _shadowed(rule, [rules[winners[i]] for i, use in enumerate(chosen) if use])
    if not winners:
        raise nothing_selected([rule.where for rule in rules], paths)
    return {i: rules[number] for i, number in sorted(winners.items())}


def _shadowed(rule: Rule, earlier: Sequence[Rule]) -> ValueError:
    by = " and ".join(dict.fromkeys(describe(other.where) for other in earlier))
    return ValueError(
        f"The rule for {describe(rule.where)} wins no leaf: what it selects already belongs to the "
        f"rule for {by}, which comes first. The first match wins: put the narrower rule first."
    )
