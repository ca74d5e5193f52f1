"""Which entry of another optimizer's state corresponds to an entry: by what it is to its param."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from .._base.types import Path
from .entries import Entry

Role: TypeAlias = tuple[Path, Path]
"""What comes before and after the param's own path in the path of an entry."""


class Held(NamedTuple):
    """An entry with the value that a state holds for it."""

    entry: Entry
    value: Any


class Roles:
    """The entries of a state, found by owner and role."""

    def __init__(self, held: Sequence[Held], names: Sequence[Path]):
        self._names = names
        # By the whole role or path first, then by its name alone: what wraps it may differ.
        self._own: tuple[dict[tuple[int, Role], list[Held]], ...] = ({}, {})
        self._shared: tuple[dict[Path, list[Held]], ...] = ({}, {})
        for one in held:
            if one.entry.kind == "own":
                (owner,) = one.entry.params
                exact = role_of(one.entry.path, names[owner])
                for known, role in zip(self._own, (exact, loosely(exact)), strict=True):
                    known.setdefault((owner, role), []).append(one)
            else:
                paths = (one.entry.path, one.entry.path[-1:])
                for known, path in zip(self._shared, paths, strict=True):
                    known.setdefault(path, []).append(one)

    def own(self, owner: int, role: Role) -> Held | None:
        """The entry of a param in a role; wrapped in another way, by the role's name alone."""
        exact, loose = self._own
        return _only(exact.get((owner, role))) or _only(loose.get((owner, loosely(role))))

    def shared(self, path: Path, fits: Callable[[Entry], bool]) -> Held | None:
        """An entry that several params share, at the same path or else of the same name."""
        for known, key in zip(self._shared, (path, path[-1:]), strict=True):
            found = [one for one in known.get(key, []) if fits(one.entry)]
            if found:
                return _only(found)
        return None


def _only(found: list[Held] | None) -> Held | None:
    return found[0] if found and len(found) == 1 else None


def role_of(path: Path, param: Path) -> Role:
    """The path of an entry without the path of its param."""
    for start in range(len(path) - len(param), -1, -1):
        if path[start : start + len(param)] == param:
            return path[:start], path[start + len(param) :]
    return path, ()


def loosely(role: Role) -> Role:
    """The role without the wrappers around it: `0/mu` in a chain is `mu` in a partition."""
    before, after = role
    names = [segment for segment in before if not segment.isdigit()]
    return tuple(names[-1:]), after
