"""The rules of a narrow model, with the σ that its leaves have in the wide one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._base.errors import listed
from .._base.types import Array, Path, Rules, Where
from .._tree.forms import Among, describe
from .._tree.paths import show
from .._tree.rules import Rule, assign, is_where, parsed
from ..initializers.combinators.values import scaled
from .mup_rows import MupRow


def scaled_rules(rules: Rules, rows: Sequence[MupRow]) -> list[tuple[Where, Callable[..., Array]]]:
    """Rules for the leaves that `rules` choose, each initializer times the factor of its rows."""
    if is_where(rules):
        plain = rules is None or isinstance(rules, tuple)
        raise TypeError(
            "mup.rules needs rules, where -> initializer, such as "
            "{'**/kernel': flax_inits.normal(0.1)}; "
            f"got {repr(rules) if plain else describe(rules)}."
        )
    structs = [jax.ShapeDtypeStruct(row.shape, jnp.float32) for row in rows]
    chosen = assign(parsed(rules), [row.path for row in rows], structs, None)
    _check_complete([row for i, row in enumerate(rows) if i not in chosen])
    found: dict[Any, tuple[Rule, MupRow, list[Path]]] = {}
    for i, rule in chosen.items():
        row = rows[i]
        found.setdefault((id(rule), row.stddev), (rule, row, []))[2].append(row.path)
    return [(_among(paths, rule.where), _scaled(rule, row)) for rule, row, paths in found.values()]


def _check_complete(left: Sequence[MupRow]) -> None:
    """Raises if a matrix that grows is among the rows without a rule."""
    paths = [show(row.path) for row in left if len(row.shape) > 1 and row.role != "fixed"]
    if paths:
        raise ValueError(
            f"mup.rules has no rule for {listed(paths)}, which the width changes: their σ must "
            "be known. Give each an initializer with the σ of the base model."
        )


def _among(paths: list[Path], where: Where) -> Among:
    named = listed(sorted(map(show, paths)), most=2)
    return Among(frozenset(paths), f"{describe(where)} ({named})")


def _scaled(rule: Rule, row: MupRow) -> Callable[..., Array]:
    """The rule's initializer times the row's factor; raises if it shrinks by itself."""
    if row.stddev == 1:
        return rule.init
    if _shrinks(rule.init, row.shape[:-2]):
        raise ValueError(
            f"The rule for {describe(rule.where)} has {rule.init!r}, which shrinks with the fan-in "
            "by itself, so that mup would shrink it twice. Give an initializer with a σ of its "
            "own: the σ of the base model, such as flax_inits.normal(0.02)."
        )
    return scaled(rule.init, row.stddev)


def _shrinks(init: Callable[..., Array], outer: tuple[int, ...]) -> bool:
    """Whether σ falls with the fan-in; not so of what has a shape of its own (a mask, blocks)."""
    try:
        few, many = (
            float(jnp.std(init(jax.random.key(0), (*outer, fan_in, 16), jnp.float32)))
            for fan_in in (64, 1024)
        )
    except (TypeError, ValueError):
        return False
    return many < few / 2
