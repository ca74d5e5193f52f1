"""What a graft would do: for each leaf its rule and its sources, and all that can be wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._base.errors import listed, noted
from ..._base.types import Path, PyTree, Where
from ..._tree.forms import describe
from ..._tree.misses import nothing_selected
from ..._tree.modules import other_paths
from ..._tree.parts import Part
from ..._tree.paths import flatten, show
from ..._tree.resolve import resolve, resolve_parts
from ..._tree.rules import assign_parts
from .adapter import Goal, Misfit
from .donors import check_array, donor_leaves, is_state
from .fit import Missing, check_dtype, check_shape, missing
from .patterns import natural_path
from .rules import GraftRule, as_mapping, parsed_rules
from .sources import Donor, Wanted
from .take import chained
from .views import View, of_array


class Taken(NamedTuple):
    """Where a leaf comes from."""

    rule: GraftRule
    sources: tuple[tuple[Path, ...], ...]
    """A row for each leaf that a wildcard of the source matches, with one path for each source."""

    index: tuple[int, int] | None = None
    """For `unstack`: which of how many."""

    @property
    def paths(self) -> list[Path]:
        """All of its sources, in the order in which they are joined."""
        return [path for row in self.sources for path in row]

    def view(self, leaves: Mapping[Path, Any], goal: Goal, staged: bool = False) -> View:
        """The leaf, made of the donor's leaves; raises where they do not fit together."""
        rows = [[of_array(leaves[path], staged) for path in row] for row in self.sources]
        take = self.rule.take
        listed = isinstance(take.source, tuple)
        return chained(take.adapters, rows, listed, goal._replace(index=self.index))


class Kept(NamedTuple):
    """Why a leaf that a rule selects stays as it is."""

    rule: GraftRule
    why: str
    misfit: str
    sources: tuple[Path, ...]


class Planned(NamedTuple):
    """What a graft would do with each leaf of the target and of the donor."""

    taken: dict[int, Taken]
    kept: dict[int, Kept]
    parts: dict[int, Part]
    """The slices of a leaf that are taken, where it is not taken whole."""

    donor: dict[Path, Any]
    unused: list[Path]
    """What nobody takes and no `drop` names."""

    dropped: list[Path]
    state: list[Path]
    """Random keys and counters that nobody takes, which is no error."""


class Options(NamedTuple):
    """How strict a graft is."""

    unused: str = "error"
    mismatch: str = "error"
    drop: Where | None = None

    def check(self) -> None:
        """Raises for values that there are not."""
        for name, other in (("unused", "ignore"), ("mismatch", "keep")):
            if (value := getattr(self, name)) not in ("error", other):
                raise ValueError(f"{name} must be 'error' or {other!r}, got {value!r}.")


def planned(
    params: PyTree,
    donor: PyTree,
    rules_or_where: Any,
    options: Options,
    goal_of: Callable[[Path, Any], Goal],
) -> Planned:
    """Decides where each leaf comes from, and raises for all that is wrong; reads no values."""
    options.check()
    names, leaves, _ = flatten(params)
    rules = parsed_rules(rules_or_where)
    given = Donor(donor_leaves(donor, names))
    try:
        winners, parts = assign_parts(rules, names, leaves, params)
    except ValueError as error:
        if meant := as_mapping(rules):
            raise ValueError(f"{error}{meant}") from None
        raise
    others = other_paths(params, names)
    taken: dict[int, Taken] = {}
    kept: dict[int, Kept] = {}
    for rule in rules:
        won = [i for i, winner in winners.items() if winner is rule]
        # Slices are counted over all that a rule selects, or one that an earlier rule has would
        # move those behind it.
        counted = resolve_parts(rule.where, names, leaves, params)[0] if rule.unstacks else won
        found = _Found(rule, names, {i: others.get(i, []) for i in counted}, given)
        for i in won:
            try:
                one = found.taken(i)
                with noted(note(names[i], rule)):
                    view = one.view(given.leaves, goal_of(names[i], leaves[i]))
                check_shape(rule, names[i], one.paths, view, leaves[i])
            except Misfit as misfit:
                if options.mismatch == "error":
                    keep = "" if rule.alone else " mismatch='keep' leaves such leaves as they are."
                    raise ValueError(_placed(misfit, names[i], rule) + keep) from None
                kept[i] = found.kept(i, misfit)
                continue
            check_dtype(rule, names[i], one.paths, view, leaves[i])
            taken[i] = one
    if not taken:
        why = next(iter(kept.values())).misfit
        raise ValueError(f"No leaf of the donor fits, so nothing would be taken. {why}")
    return _with_leftovers(Planned(taken, kept, parts, given.leaves, [], [], []), rules, options)


def _placed(misfit: Misfit, path: Path, rule: GraftRule) -> str:
    """What does not fit, and where that is."""
    text = str(misfit)
    if text.startswith("The donor"):
        return text
    return f"{show(path)!r}, by the rule for {describe(rule.where)}: {text}"


def note(path: Path, rule: GraftRule) -> str:
    """What an error that comes out of a rule's adapters gets added."""
    return f"while {show(path)!r} was taken by the rule for {describe(rule.where)}"


class _Found:
    """What a rule finds in the donor for the leaves that it selects."""

    def __init__(
        self,
        rule: GraftRule,
        names: Sequence[Path],
        selected: Mapping[int, Sequence[Path]],
        donor: Donor,
    ):
        self._rule, self._names, self._donor = rule, names, donor
        find = rule.finder()
        self._wanted: dict[int, tuple[Wanted, ...]] = {
            i: find(names[i], others) for i, others in selected.items()
        }
        # Leaves that are made of the same sources are the slices of them, in natural order.
        together: dict[tuple[Wanted, ...], list[int]] = {}
        for i in sorted(selected, key=lambda i: natural_path(names[i])):
            together.setdefault(self._wanted[i], []).append(i)
        self._index = {
            i: (rank, len(group)) for group in together.values() for rank, i in enumerate(group)
        }

    def taken(self, i: int) -> Taken:
        """Where a leaf comes from; raises a Misfit where the donor lacks it."""
        columns = []
        for wanted in self._wanted[i]:
            columns.append(paths := wanted.paths(self._donor))
            if not paths:
                raise missing(self._rule, self._names[i], wanted, self._donor.leaves)
            for path in paths:
                check_array(path, self._donor.leaves[path])
        if len({len(paths) for paths in columns}) > 1:
            counts = [
                f"{len(paths)} leaves at {str(wanted)!r}"
                for wanted, paths in zip(self._wanted[i], columns, strict=True)
            ]
            raise Misfit(f"The sources are not equally many: {listed(counts)}.".replace('"', ""))
        rows = tuple(zip(*columns, strict=True))
        return Taken(self._rule, rows, self._index[i] if self._rule.unstacks else None)

    def kept(self, i: int, misfit: Misfit) -> Kept:
        """Why a leaf stays, with those of its sources that there are."""
        sources = [path for wanted in self._wanted[i] for path in wanted.paths(self._donor)]
        why = "no source" if isinstance(misfit, Missing) else "other shape"
        text = _placed(misfit, self._names[i], self._rule)
        return Kept(self._rule, why, text, tuple(sources))


def _with_leftovers(plan: Planned, rules: Sequence[GraftRule], options: Options) -> Planned:
    """The plan with what is left of the donor; raises where that is an error."""
    names, leaves = list(plan.donor), list(plan.donor.values())
    dropped = [False] * len(names)
    if options.drop is not None and options.drop != []:
        dropped, unmatched = resolve(options.drop, names, leaves, plan.donor)
        if unmatched:
            raise ValueError(f"In drop, {nothing_selected(unmatched[0], names, plan.donor)}")
    used = {path: one.rule for one in plan.taken.values() for path in one.paths}
    kept = {path for one in plan.kept.values() for path in one.sources}
    for path, leaf, drop in zip(names, leaves, dropped, strict=True):
        if drop and path in used:
            raise ValueError(
                f"drop names {show(path)!r} of the donor, which the rule for "
                f"{describe(used[path].where)} takes: leave it out of one of them."
            )
        if path not in used and path not in kept:
            group = plan.dropped if drop else plan.state if is_state(leaf) else plan.unused
            group.append(path)
    if plan.unused and options.unused == "error" and not rules[0].alone:
        shown = listed([show(path) for path in plan.unused])
        raise ValueError(
            f"No rule takes {shown} of the donor. Name what is not wanted by "
            f"drop={show(plan.unused[0])!r} (a pattern or a list of them), or say unused='ignore'."
        )
    return plan
