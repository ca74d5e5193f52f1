"""The table that `summary` returns: records, and how they are shown."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jax.sharding import NamedSharding, Sharding

from .._base import repeats, tables
from .._base.pickling import reduce_row
from .._base.tables import Column, Report, Table
from .._base.types import Path
from .._tree.paths import show

MOST_LEAVES = 200
"""Leaves that are listed one by one: values differ, where a plan only repeats itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class SummaryRow:
    """One leaf. Statistics are of its finite elements, and None where there are none to read."""

    __reduce__ = reduce_row

    path: Path
    shape: tuple[int, ...]
    dtype: str
    sharding: Sharding | None
    """None for what is on the host or abstract without one."""

    count: int
    bytes: int
    mean: Any
    std: float | None
    min: Any
    """None for complex numbers, too, which have no order; so is `max`."""

    max: Any
    zeros: float | None
    """The share of elements that are 0."""

    nonfinite: float | None
    """The share of elements that are NaN or infinite."""

    change: str | None = None
    """Against the other tree: "same object", "equal", "changed", "added", "removed", "other
    shape", "other dtype"; None if there is no other tree, or no values to compare."""

    changed: float | None = None
    """The share of elements that differ."""

    distance: float | None = None
    """The norm of the difference over that of the other tree's leaf."""

    largest: float | None = None
    """The largest difference of two elements."""


_COLUMNS = (
    Column("path", wraps=True),
    *map(Column, ("shape", "dtype", "sharding")),
    *(Column(t, tables.RIGHT) for t in ("mean", "std", "min", "max", "zeros", "not finite")),
    Column("change"),
    *(Column(title, tables.RIGHT) for title in ("elements", "distance", "largest")),
)
_STYLES = {
    "changed": "yellow",
    "added": "green",
    "removed": "red",
    "other shape": "magenta",
    "other dtype": "magenta",
}


class Summary(Report):
    """A tree's leaves in a table. Prints well; `rows` is plain data, one record per leaf.

    A row has the fields `path`, `shape`, `dtype`, `sharding`, `count`, `bytes`, `mean`, `std`,
    `min`, `max`, `zeros` and `nonfinite` (shares of the elements); and against another tree
    `change`, `changed` (a share), `distance` and `largest`.
    """

    def __init__(self, rows: Sequence[SummaryRow]):
        self.rows = tuple(rows)

    @property
    def bytes(self) -> int:
        """Bytes of all leaves together, without those that were removed."""
        return sum(row.bytes for row in self._present())

    @property
    def count(self) -> int:
        """Elements of all leaves together, without those that were removed."""
        return sum(row.count for row in self._present())

    def plot(self) -> Any:
        """A figure of each leaf's range, mean and standard deviation.

        Returns:
            A `matplotlib.figure.Figure`, to be saved by `.savefig("summary.png")`.

        Raises:
            ImportError: matplotlib is not installed; it comes with `flax_inits[plot]`.
        """
        from .plots import of_summary

        return of_summary(self)

    def lines(self) -> list[tuple[str, SummaryRow]]:
        """The lines of the table; above 200 rows, one line stands for all repeats of a leaf."""
        lines = repeats.lines(self.rows, lambda row: show(row.path), _kind, MOST_LEAVES)
        return [(name, _pooled(rows)) for name, rows in lines]

    def _table(self) -> Table:
        lines = self.lines()
        styles = [_style(row) for _, row in lines]
        return Table(_COLUMNS, [_cells(*line) for line in lines], self._total(), styles)

    def _present(self) -> list[SummaryRow]:
        return [row for row in self.rows if row.change != "removed"]

    def _total(self) -> str:
        total = (
            f"{len(self._present()):,} leaves, {self.count:,} elements, {tables.size(self.bytes)}"
        )
        changes = collections.Counter(row.change for row in self.rows if row.change)
        return ", ".join([total, *(f"{count:,} {change}" for change, count in changes.items())])


def _kind(row: SummaryRow) -> tuple[Any, ...]:
    """What rows of one line have in common."""
    return len(row.path), row.shape, row.dtype, _sharding(row), row.change, bool(row.nonfinite)


def _pooled(rows: Sequence[SummaryRow]) -> SummaryRow:
    """One record for leaves of one kind: the moments of all their elements, and the extremes."""
    first = rows[0]
    known = [row for row in rows if row.mean is not None]
    if len(rows) == 1 or not known:
        return first
    mean = sum(row.mean for row in known) / len(known)
    std = math.hypot(*(x for row in known for x in (row.std or 0, abs(row.mean - mean))))
    return dataclasses.replace(
        first,
        mean=mean,
        std=std / math.sqrt(len(known)),
        min=_over(min, [row.min for row in known]),
        max=_over(max, [row.max for row in known]),
        zeros=_average([row.zeros for row in known]),
        nonfinite=_average([row.nonfinite for row in rows]),
        changed=_average([row.changed for row in rows]),
        distance=_over(max, [row.distance for row in rows]),
        largest=_over(max, [row.largest for row in rows]),
    )


def _over(choose: Any, values: Sequence[Any]) -> Any:
    return None if None in values else choose(values)


def _average(values: Sequence[Any]) -> float | None:
    return None if None in values else sum(values) / len(values)


def _cells(name: str, row: SummaryRow) -> list[str]:
    return [
        name,
        tables.shape(row.shape),
        row.dtype,
        _sharding(row),
        *map(tables.number, (row.mean, row.std, row.min, row.max)),
        tables.share(row.zeros),
        tables.share(row.nonfinite),
        row.change or "",
        tables.share(row.changed),
        *(tables.number(value) if row.changed else "" for value in (row.distance, row.largest)),
    ]


def _sharding(row: SummaryRow) -> str:
    """The sharding in short; nothing for what is on one device."""
    if isinstance(row.sharding, NamedSharding):
        return str(row.sharding.spec).removeprefix("PartitionSpec").removeprefix("P")
    if row.sharding is None or len(row.sharding.device_set) == 1:
        return ""
    return str(row.sharding)


def _style(row: SummaryRow) -> str:
    return "bold red" if row.nonfinite else _STYLES.get(row.change or "", "")
