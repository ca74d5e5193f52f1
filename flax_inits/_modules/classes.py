"""Classes of modules as users name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from .._base.errors import listed
from .._base.types import Path

Classes: TypeAlias = type | tuple[type, ...]


def checked(cls: Any, base: type, name: str) -> tuple[type, ...]:
    """One class of modules, or a tuple of them, as a tuple; raises for anything else."""
    classes = cls if isinstance(cls, tuple) else (cls,)
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, base)):
            module = isinstance(kind, base)
            given = f"a module: give the class {type(kind).__name__}" if module else repr(kind)
            raise TypeError(
                f"of_type selects by a subclass of {name}, or a tuple of them; got {given}."
            )
    if not classes:
        raise ValueError("of_type got an empty tuple of classes, which would select nothing.")
    return classes


def is_below(path: Path, starts: frozenset[Path]) -> bool:
    """Whether one of `starts` is the beginning of a path, or all of it."""
    return any(path[:length] in starts for length in range(len(path) + 1))


def missing(model: Any, classes: Iterable[type], known: Iterable[type]) -> ValueError:
    """The error for a model without a module of these classes."""
    wanted = listed([kind.__name__ for kind in classes], "or")
    has = list(dict.fromkeys(kind.__name__ for kind in known))
    return ValueError(
        f"{type(model).__name__} has no module of class {wanted}; it has {listed(has)}."
    )


def shown(cls: Classes) -> str:
    """How a selection by these classes is written."""
    if isinstance(cls, tuple):
        return f"of_type(model, ({', '.join(kind.__name__ for kind in cls)}))"
    return f"of_type(model, {cls.__name__})"
