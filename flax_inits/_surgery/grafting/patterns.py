"""What the wildcards of a target's pattern stand for, and the donor's path that they give."""

import fnmatch
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from ..._base.types import Path, Where
from ..._tree.paths import show


class Wild(NamedTuple):
    """A wildcard within a segment: `*`, `?` or `[..]`."""

    glob: str

    @property
    def regex(self) -> str:
        """What it matches, within a segment."""
        if self.glob[0] == "[":
            return rf"(?!\x00){fnmatch.translate(self.glob)[4:-3]}"  # without (?s: and )\Z
        return r"[^\x00]*?" if self.glob == "*" else r"[^\x00]"


class Group(NamedTuple):
    """A reference to a group of the target's regular expression."""

    name: str | int


Segment: TypeAlias = list[str | Wild | Group]
"""The pieces of a segment; `SPAN` stands for any number of segments."""

SPAN: Segment = [Wild("**")]


def parsed(pattern: str, groups: bool = False) -> list[Segment]:
    r"""The segments of a pattern; with `groups`, `\1` and `\g<name>` are references."""
    return [SPAN if part == "**" else _pieces(part, groups) for part in pattern.split("/")]


_TOKEN = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]")
_REFERENCE = re.compile(r"\\(?:(\d+)|g<(\w+)>|(.))")


def _pieces(part: str, groups: bool) -> Segment:
    pieces: Segment = []
    tokens = re.compile(f"{_TOKEN.pattern}|{_REFERENCE.pattern}") if groups else _TOKEN
    end = 0
    for found in tokens.finditer(part):
        pieces += [part[end : found.start()], _piece(found)]
        end = found.end()
    return [piece for piece in [*pieces, part[end:]] if piece != ""]


def _piece(found: re.Match[str]) -> str | Wild | Group:
    text = found[0]
    if text[0] == "\\":
        number, name, plain = found.groups()
        if plain is not None:
            return plain
        name = number if name is None else name
        return Group(int(name) if name.isdigit() else name)
    if text[0] == "[" and len(text) == 3 and text != "[!]":
        return text[1]  # An escape: one character in brackets is itself.
    return Wild("*" if text[0] == "*" else text)


def wilds(segments: list[Segment]) -> list[tuple[Wild, Segment]]:
    """The wildcards within segments, in order, each with its segment."""
    return [
        (piece, segment)
        for segment in segments
        if segment is not SPAN
        for piece in segment
        if isinstance(piece, Wild)
    ]


class Captures(NamedTuple):
    """What a target's pattern found in a path."""

    wilds: tuple[str, ...] = ()
    spans: tuple[Path, ...] = ()
    rest: Path = ()
    """What lies below the node that was matched."""

    match: re.Match[str] | None = None


def captures_of(where: Where) -> Callable[[Path], Captures | None]:
    """The function that finds what a `where` captures in the path of a leaf that it selects."""
    if isinstance(where, str):
        return _by_glob(where)
    if isinstance(where, re.Pattern):
        return lambda path: _by_regex(where, path)
    if isinstance(where, tuple):
        return lambda path: Captures(rest=path[len(where) :])
    # What selects by more than paths has no wildcards: the whole path is one `**`.
    return lambda path: Captures(spans=(path,))


def _by_regex(where: re.Pattern[str], path: Path) -> Captures | None:
    match = where.fullmatch(show(path))
    return None if match is None else Captures(match=match)


def _by_glob(pattern: str) -> Callable[[Path], Captures | None]:
    """Captures by a regular expression over segments, each ended by a null character.

    Wildcards take as little as they can, leftmost first; a final `**` takes all that is left.
    """
    segments = parsed(pattern)
    spans = [segment is SPAN for segment in segments]
    texts, kinds = [], []
    for position, segment in enumerate(segments):
        if segment is SPAN:
            texts.append(r"((?:[^\x00]*\x00)*" + (")" if position == len(segments) - 1 else "?)"))
            kinds.append("span")
            continue
        for piece in segment:
            texts.append(f"({piece.regex})" if isinstance(piece, Wild) else re.escape(str(piece)))
            kinds += ["wild"] if isinstance(piece, Wild) else []
        texts.append(r"\x00")
    regex = re.compile("".join(texts) + (r"\Z" if spans[-1] else ""), re.DOTALL)

    def captures(path: Path) -> Captures | None:
        joined = "".join(f"{segment}\0" for segment in path)
        match = regex.match(joined)
        if match is None:
            return None
        found: dict[str, list[Any]] = {"wild": [], "span": []}
        for kind, text in zip(kinds, match.groups(), strict=True):
            found[kind].append(text if kind == "wild" else tuple(text.split("\0")[:-1]))
        rest = tuple(joined[match.end() :].split("\0")[:-1])
        return Captures(tuple(found["wild"]), tuple(found["span"]), rest)

    return captures


def natural(text: str) -> list[tuple[int, str]]:
    """A key by which `layer_2` comes before `layer_10`."""
    # Text and digits alternate, so that like is compared with like; equal numbers go by length.
    parts = re.split(r"(\d+)", text)
    return [(int(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def natural_path(path: Path) -> list[list[tuple[int, str]]]:
    """The same for paths, segment by segment."""
    return [natural(segment) for segment in path]
