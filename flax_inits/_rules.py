"""Rules: which initializer each leaf gets, every way in which asking can be wrong, and the leaf."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ._errors import noted
from ._leaves import dtype_of, is_weak
from ._paths import describe, nothing_selected, path_hash, resolve, show
from ._types import Array, Key, Path, PyTree, Rules, Where


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


def note(path: Path, rule: Rule) -> str:
    """What an error that comes out of a rule's initializer gets added."""
    return f"while initializing {show(path)!r} by the rule for {describe(rule.where)}"


def by_path(key: Key, path: Path, leaf: Any, rule: Rule) -> Array:
    """A leaf by its rule: at its stored shape, with the key that its path gives."""
    with noted(note(path, rule)):
        folded = jax.random.fold_in(key, path_hash(path))
        return like(rule.init(folded, np.shape(leaf), dtype_of(leaf)), leaf, rule.init)


def like(values: Any, leaf: Any, source: Any) -> Array:
    """An initializer's result as a leaf: out of its box, checked, in the leaf's dtype."""
    arrays = jax.tree.leaves(values)
    if len(arrays) != 1 or not hasattr(arrays[0], "dtype"):
        raise ValueError(f"{source!r} must return one array, got {values!r}.")
    shape, dtype = np.shape(leaf), dtype_of(leaf)
    if arrays[0].shape != shape:
        raise ValueError(
            f"{source!r} returned shape {arrays[0].shape} where {shape} was asked for; an "
            "initializer returns an array of the shape that it is called with."
        )
    cast = lax.convert_element_type(arrays[0], dtype)
    if not is_weak(leaf):
        return cast
    # No public cast makes a weakly typed array; keeping the type spares the caller a retrace.
    return lax.convert_element_type_p.bind(cast, new_dtype=dtype, weak_type=True, sharding=None)
