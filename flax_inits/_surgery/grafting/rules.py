"""Rules of a graft: what of the target is taken from where in the donor."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..._base.errors import noted
from ..._base.types import Path, Where
from ..._tree.forms import describe
from ..._tree.parts import At
from ..._tree.rules import is_where, pairs_of, refuse_nested
from .adapter import Adapter
from .joining import Join, unstack
from .patterns import captures_of
from .sources import Wanted, binding
from .take import take


class GraftRule(NamedTuple):
    """What is taken, and from where."""

    where: Where
    take: take
    alone: bool = False
    """Whether it is a single `where`, which takes equal paths, and no rule of a mapping."""

    def finder(self) -> Callable[..., tuple[Wanted, ...]]:
        """The function from the path of a leaf, and its others, to what each source means."""
        joins = sum(isinstance(adapter, Join) for adapter in self.take.adapters)
        several = joins > isinstance(self.take.source, tuple)
        where = self.where.where if isinstance(self.where, At) else self.where
        captures = captures_of(where)
        bindings = [binding(where, source, several, self.unstacks) for source in self.take.sources]

        def find(path: Path, others: Iterable[Path] = ()) -> tuple[Wanted, ...]:
            # `where` selects the leaf by one of its paths.
            found = next(f for f in map(captures, (path, *others)) if f is not None)
            return tuple(bound(path, found) for bound in bindings)

        return find

    @property
    def unstacks(self) -> bool:
        """Whether leaves of the target are counted."""
        return any(isinstance(adapter, unstack) for adapter in self.take.adapters)


def parsed_rules(rules_or_where: Any) -> list[GraftRule]:
    """The rules in order; a single `where` is one rule that takes equal paths.

    A list of pairs is rules as those of `reinit` are: unless all of them may be paths.
    """
    given = rules_or_where
    if is_where(given):
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], take):
            raise TypeError(f"One rule is written {{where: source}}; got {given!r}.")
        if given is None or isinstance(given, take | Adapter):
            raise TypeError(
                "graft needs rules, {where: source}, or a single where for equal paths; got "
                f"{given!r}."
            )
        return [GraftRule(given, take(_same_path), alone=True)]
    return [GraftRule(where, _take(where, source)) for where, source in pairs_of(given, "source")]


def as_mapping(rules: Sequence[GraftRule]) -> str:
    """What to write instead of a list of pairs that was taken for a union of paths; or ""."""
    union = rules[0].where
    if not rules[0].alone or not isinstance(union, list):
        return ""
    if not all(isinstance(item, tuple) and len(item) == 2 for item in union):
        return ""
    return f" In a list, these are paths; rules for them are a mapping, {dict(union)!r}."


def _same_path(path: Path) -> Path:
    return path


def _take(where: Where, source: Any) -> take:
    if isinstance(source, take):
        return source
    if isinstance(source, str) or (callable(source) and not isinstance(source, type)):
        with noted(f"while the rule for {describe(where)} was read"):
            return take(source)
    has = f"The rule for {describe(where)} has {source!r} where a source must be"
    if isinstance(source, Adapter):
        raise TypeError(f"{has}: write take(source, {source!r}).")
    if isinstance(source, list | tuple):
        raise TypeError(f"{has}: several are joined by take({source!r}, concatenate(axis=...)).")
    refuse_nested(where, source)
    raise TypeError(
        f"{has}: a pattern over the donor's paths, a function from the target's path to the "
        "donor's, or take(...)."
    )
