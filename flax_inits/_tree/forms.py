"""Each form of `where` by itself: whether it selects a leaf, and how messages print it."""

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.core import Tracer

from .._base.errors import listed
from .._base.types import Path, PyTree, Where
from .paths import flatten, paths, show, without_values

FORMS = (
    "a glob string, a compiled regular expression, a callable (path, leaf) -> bool, a tree of "
    "bools, of_type(...), a path (a tuple of strings), all_but(...), or a list of these"
)


class Selector:
    """A `where` that is an object of this package, and prints as the call that made it."""


class PathTest(Selector, abc.ABC):
    """A `where` that decides from the paths of a whole tree at once."""

    @abc.abstractmethod
    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each of a tree's leaves is selected."""

    def __call__(self, path: Path, leaf: Any = None) -> bool:
        return self.of_paths([path])[0]


@dataclasses.dataclass(frozen=True, repr=False)
class Among(PathTest):
    """These leaves alone."""

    paths: frozenset[Path]
    shown: str
    """What messages say in its place: the `where` that the paths come from."""

    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each path is one of them."""
        return [path in self.paths for path in paths]

    def __repr__(self) -> str:
        return self.shown


def describe(where: Where) -> str:
    """`where` as messages print it."""
    if isinstance(where, list):
        return f"[{', '.join(map(describe, where))}]"
    if is_literal(where) or isinstance(where, (str, re.Pattern, Selector)):
        return repr(where)
    if callable(where):
        return getattr(where, "__qualname__", None) or repr(where)
    return "a tree of bools"


def as_value(where: Where) -> Where:
    """`where` with copies of its lists, so that what was built of it does not change with them."""
    return list(map(as_value, where)) if isinstance(where, list) else where


def hashed(where: Where) -> int:
    """The hash of `where`, also of a union, which is a list."""
    return hash(("union", *map(hashed, where)) if isinstance(where, list) else where)


def is_literal(where: Where) -> bool:
    """Whether `where` is a path as `paths` returns it."""
    return isinstance(where, tuple) and all(isinstance(segment, str) for segment in where)


def by_literal(where: Path, names: Sequence[Path]) -> list[bool]:
    """Whether each path is this one or below it; the empty path is that of a tree of one leaf."""
    return [path[: len(where)] == where if where else not path for path in names]


def by_regex(where: re.Pattern, names: Sequence[Path]) -> list[bool]:
    """Whether all of each joined path matches."""
    if not isinstance(where.pattern, str):
        raise TypeError(f"A regular expression over paths is made from str, got {where!r}.")
    return [where.fullmatch(show(path)) is not None for path in names]


def is_function(where: Where) -> bool:
    """Whether `where` is to be called, and no container that happens to be callable."""
    leaf = isinstance(where, jax.tree_util.Partial) or jax.tree_util.all_leaves([where])
    return leaf and callable(where)


def by_callable(where: Any, names: Sequence[Path], leaves: Sequence[Any]) -> list[bool]:
    """What a function of the user's says of each leaf."""
    if isinstance(where, (type, nn.Module)):
        kind = where if isinstance(where, type) else type(where)
        what = "the class" if kind is where else "a module of class"
        raise TypeError(
            f"where is {what} {kind.__qualname__}; to select by the type of module, write "
            f"of_type(model, {kind.__qualname__}, *inputs)."
        )
    chosen = []
    for path, leaf in zip(names, leaves, strict=True):
        try:
            answer = where(path, leaf)
        except Exception as error:
            error.add_note(f"while {describe(where)} was asked about {show(path)!r}")
            raise
        if (verdict := _as_bool(answer)) is None:
            raise TypeError(
                f"where must return a bool, but {describe(where)} returned "
                f"{_shown(answer)} for {show(path)!r}."
            )
        chosen.append(verdict)
    return chosen


def is_mask(tree: PyTree) -> bool:
    """Whether `tree` is a container of bools and of nothing else."""
    if not isinstance(tree, Mapping | list | tuple):
        return False
    # Not the leaves of a mapping itself: the keys of rules may be patterns that have no order.
    values = [*tree.values()] if isinstance(tree, Mapping) else tree
    found = [_as_bool(leaf) for leaf in jax.tree.leaves(values)]
    return bool(found) and None not in found


def is_mask_of(where: list[Any], names: Sequence[Path]) -> bool:
    """Whether a list is no union, but a tree of bools over a tree that is itself a list."""
    return is_mask(where) and paths(where) == list(names)


def by_mask(where: PyTree, names: Sequence[Path]) -> list[bool]:
    """The bools of a tree of the same paths, in the order of `names`."""
    ours, values, _ = flatten(where)
    if where is None or (ours == [()] and list(names) != [()]):
        raise TypeError(f"where must be {FORMS}; got {_shown(where)}.")
    for path, value in zip(ours, values, strict=True):
        if _as_bool(value) is None:
            raise TypeError(
                f"where is a {type(where).__name__} and so taken for a tree of bools, but its "
                f"leaf {show(path)!r} is {_shown(value)}. It must be {FORMS}.{_meant(where)}"
            )
    # A mask of an NNX state is one of what Orbax restores of it, too, and the other way round.
    by_path, wanted = dict(zip(without_values(ours), values, strict=True)), without_values(names)
    if by_path.keys() != set(wanted):
        raise ValueError(_another_structure(ours, names))
    return [bool(by_path[path]) for path in wanted]


def _meant(where: Any) -> str:
    """What to write instead of a tuple that is no path."""
    if not isinstance(where, tuple):
        return ""
    if all(isinstance(item, str | int) for item in where):
        return f" The segments of a path are strings: write {tuple(map(str, where))!r}."
    return f" A union is a list: write {describe(list(where))}."


def _another_structure(mask: Sequence[Path], names: Sequence[Path]) -> str:
    ours, theirs = set(mask), set(names)
    lacks = [show(path) for path in names if path not in ours]
    adds = [show(path) for path in mask if path not in theirs]
    found = [f"lacks {listed(lacks, most=3)}"] if lacks else []
    found += [f"has {listed(adds, most=3)} besides"] if adds else []
    return (
        f"The tree of bools has another structure than the tree: it {' and '.join(found)}. "
        "Make it with select(tree, ...) or jax.tree.map over the tree."
    )


def _as_bool(value: Any) -> bool | None:
    """A bool of Python, NumPy or JAX as Python's; None for anything else."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer):
        return bool(value) if value.shape == () and value.dtype == np.bool_ else None
    return None


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {value.dtype}{list(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
