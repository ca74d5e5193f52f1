"""Glob patterns over path segments, and what to suggest when one selects nothing."""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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

    def selected(self, paths: Iterable[Path]) -> Iterator[bool]:
        """For each path, whether the pattern matches it or a node above it.

        Neighbours share most of their path, so each starts where it parts from the one before.
        """
        previous: Path = ()
        states = [self._start]
        for path in paths:
            del states[_shared(path, previous) + 1 :]
            for segment in path[len(states) - 1 :]:
                states.append(self._step(states[-1], segment))
            previous = path
            yield states[-1] == self._accepted

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


def _shared(path: Path, other: Path) -> int:
    """How many segments both begin with."""
    for position, (ours, theirs) in enumerate(zip(path, other, strict=False)):
        if ours != theirs:
            return position
    return min(len(path), len(other))


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
    glob, nodes = Glob(pattern), {}
    for path in paths:
        prefixes = [path[:end] for end in range(len(path) + 1)]
        hits = [any(glob.selected([prefix])) for prefix in prefixes]
        if any(hits):
            nodes["/".join(prefixes[hits.index(True)])] = None
    return list(nodes)


def escaped(path: Path) -> str:
    """A pattern that matches exactly this path, but for slashes inside its segments."""
    literal = [re.sub(r"([*?\[])", r"[\1]", segment) for segment in path]
    return "/".join(segment.replace("/", "?") for segment in literal)


def _any(pattern: str, paths: Iterable[Path]) -> bool:
    return any(Glob(pattern).selected(paths))


def _inner_slash(pattern: str, paths: Iterable[Path]) -> Path | None:
    glob = Glob(pattern)
    for path in paths:
        if any("/" in segment for segment in path):
            if any(glob.selected([tuple("/".join(path).split("/"))])):
                return path
    return None


def _alternatives(pattern: str, paths: Sequence[Path], most: int = 3) -> list[str]:
    """Patterns close to `pattern` that do select something, best first."""
    trimmed = pattern.strip("/")
    tries = [trimmed, pattern.replace("[", "[[]"), pattern.replace(".", "/")]
    found = [known for attempt in tries if (known := _at_any_depth(attempt, paths))]
    if not found:
        respelled = map(_at_any_depth, _respelled(pattern, paths), [paths] * most)
        found = [known for known in respelled if known]
    shorter = trimmed.partition("/")[2]
    if not found and shorter and _any(shorter, paths):
        found = [shorter]
    if not found and len(pattern) <= 500:  # what follows takes quadratic time
        found = _siblings(pattern, paths) or _nodes(pattern, paths)
    return list(dict.fromkeys(found))


def _at_any_depth(pattern: str, paths: Sequence[Path]) -> str | None:
    """`pattern`, at the root or else below, if it selects anything."""
    candidates = (pattern, f"**/{pattern}") if pattern else ()
    return next((candidate for candidate in candidates if _any(candidate, paths)), None)


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
        hits = list(Glob("/".join(parts[:depth])).selected(paths))
        if any(hits) and "**" not in parts:
            nodes = (path[: depth + 1] for path, hit in zip(paths, hits, strict=True) if hit)
            return _closest(pattern, nodes)
    return []


def _nodes(pattern: str, paths: Iterable[Path]) -> list[str]:
    return _closest(pattern, (path[:end] for path in paths for end in range(1, len(path) + 1)))


def _closest(pattern: str, nodes: Iterable[Path]) -> list[str]:
    names = {"/".join(node): node for node in nodes}
    return [escaped(names[name]) for name in closest(pattern, names)]
