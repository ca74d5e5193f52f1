"""What a leaf is called, and which leaves are meant."""

from __future__ import annotations

import abc
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.core import Tracer

from .._base.errors import closest, listed
from .._base.types import Path, PyTree, Where
from . import globs
from .boxes import leaf_paths

_FORMS = (
    "a glob string, a compiled regular expression, a callable (path, leaf) -> bool, a tree of "
    "bools, of_type(...), or a list of these"
)


def paths(tree: PyTree) -> list[Path]:
    """The path of every leaf, in JAX's order: the keys from the root, as strings.

    Args:
        tree: any pytree. What a box (`nn.Partitioned`, `nnx.Variable`, ...) adds to a key path is
            left out, so boxed and unboxed, dict and FrozenDict trees have equal paths.

    Returns:
        One tuple of strings per leaf.

    Raises:
        ValueError: a container holds itself.

    >>> import flax_inits, jax.numpy as jnp
    >>> flax_inits.paths({"head": {"bias": jnp.zeros(2)}, "blocks": [jnp.ones(3)]})
    [('blocks', '0'), ('head', 'bias')]
    """
    return leaf_paths(tree)


def flatten(tree: PyTree) -> tuple[list[Path], list[Any], Any]:
    """Paths, leaves and treedef; `treedef.unflatten` rebuilds containers and boxes exactly."""
    names = paths(tree)
    leaves, treedef = jax.tree.flatten(tree)
    return names, leaves, treedef


def select(tree: PyTree, where: Where) -> PyTree:
    """Which leaves of `tree` are meant by `where`: a tree of bools, as `optax.masked` takes it.

    To train these leaves alone, give them as labels: `optax.partition({True: optax.adam(1e-3),
    False: optax.set_to_zero()}, select(params, where))`. `optax.masked` by itself passes on the
    gradients of all other leaves as they are, and they would be added to the params.

    Args:
        tree: any pytree.
        where: a glob string, anchored at the root (`"head"`, `"**/bias"`, `"block_[0-3]/*"`): `*`,
            `?` and `[..]` stay within a segment, `**` spans any number of them, and what matches
            a node selects all below it; or a compiled regular expression that matches the whole
            joined path of a leaf; or a callable `(path, leaf) -> bool`; or a tree of bools; or
            `of_type(...)`; or a list of these, for their union.

    Returns:
        A tree of the same structure, containers and boxes included.

    Raises:
        ValueError: something in `where` selects no leaf (the message names the closest paths),
            is empty, or is a tree of another structure.
        TypeError: `where` is nothing of the above, or a callable returned no bool.

    >>> import flax_inits, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    >>> flax_inits.select(params, "head")
    {'body': {'bias': False}, 'head': {'bias': True}}
    """
    names, leaves, treedef = flatten(tree)
    chosen, unmatched = resolve(where, names, leaves, tree)
    if unmatched:
        raise nothing_selected(unmatched[0], names)
    return treedef.unflatten(chosen)


def show(path: Path) -> str:
    """A path as messages and tables print it."""
    return "/".join(path)


def path_hash(path: Path) -> int:
    """32 bits that depend on the path alone: the same in every process and on every machine."""
    digest = hashlib.sha1(usedforsecurity=False)
    for segment in path:
        encoded = segment.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest()[:4], "big")


def describe(where: Where) -> str:
    """`where` as messages print it."""
    if isinstance(where, list):
        return f"[{', '.join(map(describe, where))}]"
    if isinstance(where, (str, re.Pattern)):
        return repr(where)
    if callable(where):
        return getattr(where, "__qualname__", None) or repr(where)
    return "a tree of bools"


class PathTest(abc.ABC):
    """A `where` that decides from the paths of a whole tree at once."""

    @abc.abstractmethod
    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each of a tree's leaves is selected."""


def resolve(
    where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    """Whether `where` selects each leaf, and the parts of `where` that select none at all."""
    if isinstance(where, list) and not _is_mask_of(where, paths):
        return _union(where, paths, leaves, tree)
    if isinstance(where, str):
        chosen = list(globs.Glob(where).selected(paths))
    elif isinstance(where, re.Pattern):
        chosen = _by_regex(where, paths)
    elif isinstance(where, PathTest):
        chosen = where.of_paths(paths)
    elif _is_function(where):
        chosen = _by_callable(where, paths, leaves)
    else:
        chosen = _by_mask(where, paths)
    return chosen, [] if any(chosen) else [where]


def nothing_selected(where: Where, paths: Sequence[Path]) -> ValueError:
    """The error for a `where` that selects none of these paths, naming the closest."""
    why = _why_nothing(where, paths) if paths else "The tree has no leaves."
    return ValueError(f"{describe(where)} selects no leaf. {why}")


def _why_nothing(where: Where, paths: Sequence[Path]) -> str:
    if isinstance(where, str):
        return globs.explain(where, paths)
    if isinstance(where, re.Pattern):
        shown = [show(path) for path in paths]
        near = list(filter(where.search, shown)) or closest(where.pattern, shown) or shown
        return f"It must match the whole path of a leaf; the closest are {listed(near, most=3)}."
    if isinstance(where, list):
        return str(nothing_selected(where[0], paths))
    return f"The paths are {listed([show(path) for path in paths])}."


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


def _is_function(where: Where) -> bool:
    leaf = isinstance(where, jax.tree_util.Partial) or jax.tree_util.all_leaves([where])
    return leaf and callable(where)


def _by_regex(where: re.Pattern, paths: Sequence[Path]) -> list[bool]:
    if not isinstance(where.pattern, str):
        raise TypeError(f"A regular expression over paths is made from str, got {where!r}.")
    return [where.fullmatch(show(path)) is not None for path in paths]


def _by_callable(where: Any, paths: Sequence[Path], leaves: Sequence[Any]) -> list[bool]:
    if isinstance(where, (type, nn.Module)):
        kind = where if isinstance(where, type) else type(where)
        what = "the class" if kind is where else "a module of class"
        raise TypeError(
            f"where is {what} {kind.__qualname__}; to select by the type of module, write "
            f"of_type(model, {kind.__qualname__}, *inputs)."
        )
    chosen = []
    for path, leaf in zip(paths, leaves, strict=True):
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


def _union(
    where: list[Where], paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree
) -> tuple[list[bool], list[Where]]:
    if not where:
        raise ValueError("where is an empty list, which would select nothing.")
    parts = [resolve(part, paths, leaves, tree) for part in where]
    chosen = [any(verdicts) for verdicts in zip(*(chosen for chosen, _ in parts), strict=True)]
    return chosen, [unmatched for _, unmatched_parts in parts for unmatched in unmatched_parts]


def _is_mask_of(where: list[Any], names: Sequence[Path]) -> bool:
    """A list is a union, unless it is a tree of bools over a tree that is itself a list."""
    leaves = jax.tree.leaves(where)
    return all(_as_bool(leaf) is not None for leaf in leaves) and paths(where) == list(names)


def _by_mask(where: PyTree, names: Sequence[Path]) -> list[bool]:
    ours, values, _ = flatten(where)
    if where is None or ours == [()] != list(names):
        raise TypeError(f"where must be {_FORMS}; got {_shown(where)}.")
    for path, value in zip(ours, values, strict=True):
        if _as_bool(value) is None:
            raise TypeError(
                f"where is a {type(where).__name__} and so taken for a tree of bools, but its "
                f"leaf {show(path)!r} is {_shown(value)}. It must be {_FORMS}: a union is a "
                "list, and one path is a string such as 'a/b'."
            )
    verdicts = [bool(value) for value in values]
    if ours == list(names):
        return verdicts
    by_path = dict(zip(ours, verdicts, strict=True))
    if len(by_path) != len(verdicts) or by_path.keys() != set(names) or len(by_path) != len(names):
        raise ValueError(_another_structure(by_path, names))
    return [by_path[path] for path in names]


def _another_structure(mask: dict[Path, bool], names: Sequence[Path]) -> str:
    known = set(names)
    lacks = [show(path) for path in names if path not in mask]
    adds = [show(path) for path in mask if path not in known]
    found = [f"lacks {listed(lacks, most=3)}"] if lacks else []
    found += [f"has {listed(adds, most=3)} besides"] if adds else []
    return (
        f"The tree of bools has another structure than the tree: it {' and '.join(found)}. "
        "Make it with select(tree, ...) or jax.tree.map over the tree."
    )
