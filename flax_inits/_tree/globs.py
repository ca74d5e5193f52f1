"""Glob patterns over path segments, and what to suggest when one selects nothing."""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Sequence

from .._base.errors import closest, listed
from .._base.types import Path

_MAGIC = re.compile(r"[*?\[]")


class Glob:
    """A compiled pattern, matched segment by segment.

    A state is the set of positions in the pattern up to which the path so far can have matched.
    What follows a state is remembered, so time is linear in the tree, whatever the pattern.
    """

    def __init__(self, pattern: str):
        if not pattern:
            raise ValueError(
                "The pattern is empty and would select nothing; '**' selects every leaf."
            )
        self._parts = pattern.split("/")
        self._accepted = frozenset([len(self._parts)])
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._start = self._closed({0})

    def selects(self, path: Sequence[str]) -> bool:
        """Whether the pattern matches the path or a node above it."""
        return functools.reduce(self._step, path, self._start) == self._accepted

    def _step(self, state: frozenset[int], segment: str) -> frozenset[int]:
        if state == self._accepted:  # What matches a node selects all below it.
            return state
        known = self._steps.get((state, segment))
        if known is None:
            known = self._steps[state, segment] = self._closed(
                position + (part != "**")
                for position, part in ((position, self._parts[position]) for position in state)
                if part == "**" or _segment_test(part)(segment)
            )
        return known

    def _closed(self, positions: Iterable[int]) -> frozenset[int]:
        """Adds what `**` reaches by spanning no segment; to accept is to forget all else."""
        reached = set(positions)
        for position, part in enumerate(self._parts):
            if part == "**" and position in reached:
                reached.add(position + 1)
        return self._accepted if self._accepted <= reached else frozenset(reached)


@functools.lru_cache(maxsize=4096)
def _segment_test(part: str) -> Callable[[str], object]:
    # fnmatch.translate is case-sensitive everywhere; fnmatch.fnmatch is not.
    return re.compile(fnmatch.translate(part)).match if _MAGIC.search(part) else part.__eq__


def explain(pattern: str, paths: Sequence[Path]) -> str:
    """Why `pattern` selects none of `paths`, and what to write instead."""
    if list(paths) == [()]:
        return "The tree is one leaf, whose path is empty; '**' selects it."
    slashed = _inner_slash(pattern, paths)
    if slashed:
        return (
            f"A slash in a pattern separates segments, but in {'/'.join(slashed)!r} one is part "
            f"of a key. Did you mean {escaped(slashed)!r}?"
        )
    if nodes := _topmost(deeper := f"**/{pattern}", paths):
        return (
            "Patterns are anchored at the root of the tree, and what matches is deeper. "
            f"Did you mean {deeper!r}, which is {listed(nodes, most=3)}?"
        )
    for syntax, meant in _OTHER_SYNTAX:
        if re.search(syntax, pattern):
            return meant.format(rest=pattern[1:])
    found = _alternatives(pattern, paths)
    if found:
        return f"Did you mean {listed(found, 'or')}?"
    return f"The paths begin with {listed(list(dict.fromkeys(p[0] for p in paths if p)))}."


_OTHER_SYNTAX = (
    (r"^!", "A pattern has no 'not': write all_but({rest!r})."),
    (r"\.\*|\\|\(|\$$", "For a regular expression give re.compile(...), matched by fullmatch."),
    (r"[,{|]", "A pattern has no 'or': give a list of patterns, which is their union."),
)
"""What people write who expect another language of patterns, and what it is called here."""


def _topmost(pattern: str, paths: Iterable[Path]) -> list[str]:
    """The nodes that `pattern` matches, none below another."""
    glob = Glob(pattern)
    ways = ([path[:end] for end in range(len(path) + 1)] for path in paths)
    found = (next(filter(glob.selects, way), None) for way in ways)
    return list(dict.fromkeys("/".join(node) for node in found if node is not None))


def escaped(path: Path) -> str:
    """A pattern that matches exactly this path, but for slashes inside its segments."""
    literal = [re.sub(r"([*?\[])", r"[\1]", segment) for segment in path]
    return "/".join(segment.replace("/", "?") for segment in literal)


def _any(pattern: str, paths: Iterable[Path]) -> bool:
    return any(map(Glob(pattern).selects, paths))


def _inner_slash(pattern: str, paths: Iterable[Path]) -> Path | None:
    glob = Glob(pattern)
    slashed = (path for path in paths if any("/" in segment for segment in path))
    return next((path for path in slashed if glob.selects("/".join(path).split("/"))), None)


def _alternatives(pattern: str, paths: Sequence[Path]) -> list[str]:
    """Patterns close to `pattern` that do select something, best first."""
    trimmed = pattern.strip("/")
    tries = [trimmed, pattern.replace("[", "[[]"), pattern.replace(".", "/")]
    found = _at_any_depth(tries, paths) or _at_any_depth(_respelled(pattern, paths), paths)
    shorter = trimmed.partition("/")[2]
    if not found and shorter and _any(shorter, paths):
        found = [shorter]
    if not found and len(pattern) <= 500:  # what follows takes quadratic time
        nodes = (path[:end] for path in paths for end in range(1, len(path) + 1))
        found = _siblings(pattern, paths) or _closest(pattern, nodes)
    return list(dict.fromkeys(found))


def _at_any_depth(patterns: Iterable[str], paths: Sequence[Path]) -> list[str]:
    """Those patterns that select anything, at the root or else below: as they do."""
    versions = ((pattern, f"**/{pattern}") for pattern in patterns if pattern)
    found = (next((version for version in two if _any(version, paths)), None) for two in versions)
    return [version for version in found if version is not None]


def _respelled(pattern: str, paths: Iterable[Path]) -> list[str]:
    """`pattern` with each unknown name replaced by a known one that looks like it."""
    names = dict.fromkeys(segment for path in paths for segment in path)
    versions = [""]
    for part in pattern.split("/"):
        options = [part] if _MAGIC.search(part) or part in names else closest(part, names)
        versions = [
            f"{version}/{option if option == part else escaped((option,))}"
            for option in options
            for version in versions
        ][:3]
    return [version[1:] for version in versions]


def _siblings(pattern: str, paths: Sequence[Path]) -> list[str]:
    """Where the pattern is right down to some node: what there is below it."""
    parts = pattern.split("/")
    for depth in range(len(parts) - 1, 0, -1):
        glob = Glob("/".join(parts[:depth]))
        nodes = [path[: depth + 1] for path in paths if glob.selects(path)]
        if nodes and "**" not in parts:
            return _closest(pattern, nodes)
    return []


def _closest(pattern: str, nodes: Iterable[Path]) -> list[str]:
    names = {"/".join(node): node for node in nodes}
    return [escaped(names[name]) for name in closest(pattern, names)]
