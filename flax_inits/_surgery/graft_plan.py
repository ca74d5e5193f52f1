"""What a graft would do, as a table, without reading a value."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._base import tables
from .._base.tables import Column, Report, Table
from .._base.types import Path, PyTree, Where
from .._tree.leaves import dtype_of
from .._tree.paths import flatten, show
from .graft import GraftRules
from .grafting.adapter import Goal
from .grafting.planning import Options, Planned, planned
from .grafting.take import shown
from .grafting.views import View


class GraftRow(NamedTuple):
    """One leaf of the target, or one of the donor that nobody takes."""

    path: Path | None
    """None for a leaf of the donor that nobody takes."""

    sources: tuple[Path, ...]
    """In the order in which they are joined."""

    adapters: tuple[Any, ...]
    source_shape: tuple[int, ...] | None
    """The shape of the first source, before any adapter."""

    shape: tuple[int, ...] | None
    source_dtype: str | None
    dtype: str | None
    use: str
    """"taken"; "stays" (no rule selects it); "kept: no source" or "kept: other shape" (by
    mismatch="keep"); "unused", "dropped" or "not needed" (random keys, counters) in the donor."""


_COLUMNS = tuple(
    map(Column, ("target", "shape", "dtype", "source", "its shape", "its dtype", "adapters", "use"))
)


def graft_plan(
    params: PyTree,
    donor: PyTree,
    rules_or_where: GraftRules | Where,
    *,
    mismatch: str = "error",
    drop: Where | None = None,
) -> GraftPlan:
    """Tells what `graft` would do with each leaf of both trees; reads and computes nothing.

    It raises what `graft` would raise, except for leaves of the donor that nobody takes, which it
    lists. Abstract trees will do on both sides, so that rules can be checked against the metadata
    of a checkpoint that is too large to load.

    Args:
        params: the target, as for `graft`.
        donor: the donor; whatever has a shape and a dtype is a leaf.
        rules_or_where: as for `graft`.
        mismatch: as for `graft`.
        drop: as for `graft`.

    Returns:
        A table that prints; its `rows` are plain records.

    Raises:
        ValueError: as `graft` does, for rules that win nothing, for sources that are not there or
            do not fit.
        TypeError: the donor is the name of a file, or a rule has no source.

    >>> import flax_inits, jax, numpy as np
    >>> params = {"emb": jax.ShapeDtypeStruct((8, 2), "float32")}
    >>> donor = {"wte": jax.ShapeDtypeStruct((6, 2), "float32")}
    >>> rules = {"emb": flax_inits.take("wte", flax_inits.grow(axis=0))}
    >>> plan = flax_inits.graft_plan(params, donor, rules)
    >>> [(row.path, row.sources, row.use) for row in plan.rows]
    [(('emb',), (('wte',),), 'taken')]
    """
    options = Options("ignore", mismatch, drop)
    plan = planned(params, donor, rules_or_where, options, _goal)
    return GraftPlan(list(_rows(plan, *flatten(params)[:2])))


def _goal(path: Path, leaf: Any) -> Goal:
    def unread(*_: Any) -> Any:
        raise AssertionError("a plan reads nothing")

    def drawn(init: Any, shape: tuple[int, ...], dtype: Any) -> View:
        return View(shape, dtype, unread)

    shape, dtype = tuple(np.shape(leaf)), dtype_of(leaf)
    # An abstract tree may stand for a real one, whose own values can be kept.
    return Goal(path, shape, dtype, lambda: View(shape, dtype, unread), drawn)


class GraftPlan(Report):
    """What would be taken from where. Prints as a table; `rows` is plain data."""

    def __init__(self, rows: Sequence[GraftRow]):
        self.rows = tuple(rows)

    def _table(self) -> Table:
        uses = collections.Counter(row.use for row in self.rows)
        total = ", ".join(f"{count} {use}" for use, count in uses.items())
        return Table(_COLUMNS, [_cells(row) for row in self.rows], total)


def _rows(plan: Planned, names: Sequence[Path], leaves: Sequence[Any]) -> Iterator[GraftRow]:
    for i, (path, leaf) in enumerate(zip(names, leaves, strict=True)):
        target = path, tuple(np.shape(leaf)), str(dtype_of(leaf))
        if taken := plan.taken.get(i):
            yield _row(plan, "taken", taken.paths, taken.rule.take.adapters, target)
        elif kept := plan.kept.get(i):
            yield _row(plan, f"kept: {kept.why}", kept.sources, kept.rule.take.adapters, target)
        else:
            yield _row(plan, "stays", [], (), target)
    left = {"unused": plan.unused, "dropped": plan.dropped, "not needed": plan.state}
    for use, sources in left.items():
        for source in sources:
            yield _row(plan, use, [source], (), (None, None, None))


def _row(
    plan: Planned, use: str, sources: Sequence[Path], adapters: tuple[Any, ...], target: tuple
) -> GraftRow:
    first = plan.donor[sources[0]] if sources else None
    given = (None, None) if first is None else (tuple(np.shape(first)), str(dtype_of(first)))
    path, shape, dtype = target
    return GraftRow(path, tuple(sources), adapters, given[0], shape, given[1], dtype, use)


def _cells(row: GraftRow) -> list[str]:
    names = [show(source) for source in row.sources]
    if len(names) > 3:
        names = [f"{_span(names[0], names[-1])} ({len(names)})"]
    return [
        "" if row.path is None else show(row.path),
        _size(row.shape),
        row.dtype or "",
        ", ".join(names),
        _size(row.source_shape),
        row.source_dtype or "",
        ", ".join(map(shown, row.adapters)),
        row.use,
    ]


def _span(first: str, last: str) -> str:
    """Two names with what they have in common written once: `layer_{0 ... 11}/kernel`."""
    start = os.path.commonprefix([first, last]).rstrip("0123456789")
    rest = [name[len(start) :] for name in (first, last)]
    end = os.path.commonprefix([name[::-1] for name in rest]).rstrip("0123456789")[::-1]
    inner = " ... ".join(name[: len(name) - len(end)] for name in rest)
    return f"{start}{{{inner}}}{end}"


def _size(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else tables.shape(shape)
