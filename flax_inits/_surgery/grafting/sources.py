"""Which leaves of the donor a target leaf is made of."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..._base.errors import noted
from ..._base.types import Path, Where
from ..._tree.forms import describe
from ..._tree.paths import show
from .patterns import SPAN, Captures, Group, Segment, Wild, natural, parsed, wilds


class Donor:
    """The donor's leaves, found by path or by a path with one wildcard in it."""

    def __init__(self, leaves: Mapping[Path, Any]):
        self.leaves = dict(leaves)
        self._by_name = {show(path): path for path in leaves}
        # By the position of the wildcard: all else of the path -> the segments there. Matching
        # takes time linear in the donor, however many leaves ask.
        self._around: dict[int, dict[tuple[Path, Path], list[str]]] = {}

    def found(self, path: Path) -> Path | None:
        """The path of a leaf, also where slashes are part of the donor's keys."""
        return path if path in self.leaves else self._by_name.get(show(path))

    def matching(self, before: Path, wild: re.Pattern[str], after: Path) -> list[Path]:
        """The leaves that differ in one segment, which matches; in natural order."""
        at = len(before)
        if at not in self._around:
            around = self._around.setdefault(at, {})
            for path in self.leaves:
                if len(path) > at:
                    around.setdefault((path[:at], path[at + 1 :]), []).append(path[at])
        segments = self._around[at].get((before, after), [])
        texts = {segment: match[1] for segment in segments if (match := wild.fullmatch(segment))}
        ordered = sorted(texts, key=lambda segment: natural(texts[segment]))
        return [(*before, segment, *after) for segment in ordered]


class Wanted(NamedTuple):
    """A path of the donor, or several that differ in what a wildcard stands for."""

    segments: Path
    """In one of them, `_HOLE` stands for the wildcard if there is one."""

    wild: Wild | None = None

    def paths(self, donor: Donor) -> list[Path]:
        """The leaves of the donor that are meant."""
        if self.wild is None:
            found = donor.found(self.segments)
            return [] if found is None else [found]
        at = next(i for i, segment in enumerate(self.segments) if _HOLE in segment)
        prefix, _, suffix = self.segments[at].partition(_HOLE)
        regex = f"{re.escape(prefix)}({self.wild.regex}){re.escape(suffix)}"
        before, after = self.segments[:at], self.segments[at + 1 :]
        return donor.matching(before, re.compile(regex, re.DOTALL), after)

    def __str__(self) -> str:
        return show(self.segments).replace(_HOLE, self.wild.glob if self.wild else "")


_HOLE = "\0"
"""No name has this character in it."""


def binding(
    where: Where, source: Any, joins: bool, unstacks: bool
) -> Callable[[Path, Captures], Wanted]:
    """The function from a target's path, and what was captured in it, to the donor's paths.

    `joins` allows the source one wildcard more than the target has, `unstacks` the target one
    more than the source.
    """
    if not isinstance(source, str):
        return lambda path, captures: Wanted(_called(source, path))
    segments = parsed(source, groups=isinstance(where, re.Pattern))
    ours = parsed(where) if isinstance(where, str) else []
    spans = ours.count(SPAN) if isinstance(where, str | re.Pattern | tuple) else 1
    if segments.count(SPAN) > spans:
        raise ValueError(
            f"The source {source!r} has more '**' than {describe(where)} has to stand for them."
        )
    theirs = wilds(segments)
    mine = wilds(ours)
    extra, skipped = None, None
    if joins and len(theirs) == len(mine) + 1:
        extra = _odd_one(theirs, mine, where, source)
    elif unstacks and len(mine) == len(theirs) + 1:
        skipped = _odd_one(mine, theirs, where, source)
    elif len(theirs) > len(mine):
        only = " Only stack and concatenate take several leaves of the donor at once: "
        only = "" if joins else f"{only}take({source!r}, stack(axis=0))."
        raise ValueError(
            f"The source {source!r} has {len(theirs)} wildcards within segments, but "
            f"{describe(where)} has {len(mine)} to stand for them.{only}"
        )
    _check_groups(where, segments, source)

    def wanted(path: Path, captures: Captures) -> Wanted:
        texts = list(captures.wilds)
        if skipped is not None:
            del texts[skipped]
        if extra is not None:
            texts.insert(extra, _HOLE)
        filled = (*_filled(segments, texts, captures), *captures.rest)
        return Wanted(filled, None if extra is None else theirs[extra][0])

    return wanted


def _called(source: Callable[[Path], Any], path: Path) -> tuple[str, ...]:
    with noted(f"while {describe(source)} was asked for the donor's path of {show(path)!r}"):
        found = source(path)
    if isinstance(found, str):
        return tuple(found.split("/"))
    if not isinstance(found, tuple | list):
        raise TypeError(
            f"{describe(source)} must return the donor's path, a tuple of strings, for "
            f"{show(path)!r}, got {found!r}."
        )
    return tuple(map(str, found))


def _odd_one(
    more: Sequence[tuple[Wild, Segment]],
    fewer: Sequence[tuple[Wild, Segment]],
    where: Where,
    source: str,
) -> int:
    """Which of the wildcards has no counterpart: all others stand in equal segments."""
    if not fewer:
        return 0
    rest = [segment for _, segment in fewer]
    odd = [at for at in range(len(more)) if [s for i, (_, s) in enumerate(more) if i != at] == rest]
    if len(odd) != 1:
        raise ValueError(
            f"It is unclear which wildcard of {describe(where)} and {source!r} has no counterpart "
            r"in the other: write a regular expression, {re.compile(r'a_(\d+)/b/(.*)'): "
            r"take(r'a_\1/b_*/\2', ...)}."
        )
    return odd[0]


def _check_groups(where: Where, segments: list[Segment], source: str) -> None:
    groups = {piece.name for segment in segments for piece in segment if isinstance(piece, Group)}
    if not groups or not isinstance(where, re.Pattern):
        return
    known = {*range(where.groups + 1), *where.groupindex}
    if unknown := groups - known:
        raise ValueError(
            f"The source {source!r} refers to the group {sorted(map(str, unknown))[0]!r}, which "
            f"{describe(where)} does not have."
        )


def _filled(segments: list[Segment], texts: Sequence[str], captures: Captures) -> list[str]:
    """The segments of a source with what its wildcards and groups stand for."""
    left, spans = iter(texts), iter(captures.spans)
    filled: list[str] = []
    for segment in segments:
        if segment is SPAN:
            filled += next(spans)
            continue
        text = ""
        for piece in segment:
            if isinstance(piece, Wild):
                text += next(left)
            elif isinstance(piece, Group):
                assert captures.match is not None  # Only rules by regular expressions have groups.
                text += captures.match[piece.name] or ""
            else:
                text += piece
        # A group of a regular expression may hold slashes, which separate segments.
        filled += [text] if captures.match is None else filter(None, text.split("/"))
    return filled
