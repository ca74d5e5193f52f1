"""Whether a donor's array fits the leaf that it is for, and what to say if not."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._base.errors import did_you_mean
from ..._base.types import Path
from ..._tree import globs
from ..._tree.casting import can_cast
from ..._tree.forms import describe
from ..._tree.globs import escaped
from ..._tree.leaves import dtype_of
from ..._tree.paths import show
from ..._tree.rules import elsewhere_hint
from .adapter import Misfit
from .advice import adapters_for, resize_for
from .patterns import parsed, wilds
from .rules import GraftRule
from .sources import Wanted
from .take import shown
from .views import View


class Missing(Misfit):
    """The donor lacks a leaf."""


def missing(rule: GraftRule, path: Path, wanted: Wanted, donor: Mapping[Path, Any]) -> Missing:
    """The error for a leaf whose source the donor does not have, naming the closest paths."""
    source = str(wanted)
    use = "selects" if source == show(path) else f"takes for {show(path)!r}"
    lacks = f"The donor has no leaf at {source!r}, which {describe(rule.where)} {use}."
    if wanted.wild is not None:
        return Missing(f"{lacks} {globs.explain(source, list(donor))}")
    return Missing(lacks + _elsewhere(donor, wanted.segments))


def _elsewhere(donor: Mapping[Path, Any], path: Path) -> str:
    """A sentence on where the donor may hold the leaf instead."""
    if path and all(len(other) == 1 for other in donor):
        dotted = ".".join(path)
        if (dotted,) in donor:
            return f" Its names are joined by dots, which no slash matches: it has {dotted!r}."
        if near := did_you_mean(dotted, (name for (name,) in donor if "." in name)):
            return near
    outer, inner = show(path[:1]), path[1:]
    if inner in donor:
        return f" The donor has no outer {outer!r}: give {{{outer!r}: donor}}."
    above = next((path[:end] for end in range(1, len(path)) if path[:end] in donor), None)
    if above is not None:
        return f" It has a leaf at {show(above)!r}: name leaves on both sides of the rule."
    below = [other for other in donor if other[: len(path)] == path]
    if below:
        return f" There are leaves below it, such as {show(below[0])!r}: end both sides in '**'."
    return elsewhere_hint(donor, path)


def check_shape(rule: GraftRule, path: Path, sources: list[Path], view: View, leaf: Any) -> None:
    """Raises a Misfit unless what the rule makes has the leaf's shape."""
    shape = tuple(np.shape(leaf))
    if view.shape == shape:
        return
    text = _unlike(rule, path, sources, f"has shape {view.shape}", f"shape {shape}")
    fits = _fitting(rule, path, sources, view.shape, shape)
    if rule.alone:
        others = [f", as by lambda path, leaf: {segment!r} not in path" for segment in path[-2:]]
        text += f"; select only leaves of equal shape{''.join(others[:1])}"
    raise Misfit(f"{text}.{fits}")


def _fitting(
    rule: GraftRule,
    path: Path,
    sources: list[Path],
    given: tuple[int, ...],
    wanted: tuple[int, ...],
) -> str:
    """A sentence with the rule that would fit; or ""."""
    call = adapters_for(given, wanted)
    if not call:
        return ""
    if "unstack" in call and _has_index(rule):
        each = f"{repr(rule.take)[:-1]}, {call[call.index('unstack') :]})"
        return f" {{{describe(rule.where)}: {each}}} takes a slice for each leaf."
    grid = resize_for(given, wanted)
    grid = grid and f", or {grid} in its place, for a grid of positions"
    return f" {_with(rule, path, sources, call)} makes it fit{grid}."


def _has_index(rule: GraftRule) -> bool:
    """Whether the target's pattern has the one wildcard more by which slices are counted."""
    where, source = rule.where, rule.take.source
    if not isinstance(where, str) or not isinstance(source, str):
        return False
    return len(wilds(parsed(where))) == len(wilds(parsed(source))) + 1


def check_dtype(rule: GraftRule, path: Path, sources: list[Path], view: View, leaf: Any) -> None:
    """Raises unless what the rule makes has the leaf's dtype."""
    dtype = dtype_of(leaf)
    if view.dtype == dtype:
        return
    text = _unlike(rule, path, sources, f"is {view.dtype}", str(dtype))
    if not can_cast(view.dtype, dtype):
        raise ValueError(f"{text}, which cannot hold it.")
    rule_text = _with(rule, path, sources, "cast()")
    if rule.alone:
        first = f"cast the donor first: jax.tree.map(lambda x: x.astype('{dtype}'), donor)"
        raise ValueError(f"{text}; {first}, or give the rule {rule_text}.")
    raise ValueError(f"{text}; {rule_text} converts it.")


def _with(rule: GraftRule, path: Path, sources: list[Path], call: str) -> str:
    """The rule for this leaf with one more adapter."""
    if len(sources) > 1:
        return f"{{{describe(rule.where)}: {repr(rule.take)[:-1]}, {call})}}"
    adapters = ", ".join([*map(shown, rule.take.adapters), call])
    return f"{{{escaped(path)!r}: take({escaped(sources[0])!r}, {adapters})}}"


def _unlike(rule: GraftRule, path: Path, sources: list[Path], given: str, wanted: str) -> str:
    """What the donor gives after all adapters, and what the tree holds instead."""
    source = show(sources[0])
    more = f" (with {len(sources) - 1} more)" if len(sources) > 1 else ""
    adapters = ", ".join(map(shown, rule.take.adapters))
    after = f" after {adapters}" if adapters else ""
    place = "there" if show(path) == source else f"at {show(path)!r}"
    return f"The donor's {source!r} {given}{more}{after}, but the tree holds {wanted} {place}"
