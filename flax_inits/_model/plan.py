"""What `jit_init` would do, as a table."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .._base import repeats, tables
from .._base.pickling import reduce_row
from .._base.tables import Column, Report, Table
from .._base.types import Path
from .._engine.fallback import Whole
from .._engine.graph import Input, Node, Value, order
from .._engine.host import HostComputable
from .._engine.recipe import Job
from .._engine.trace import Traced
from .._tree.paths import show


class PlanRow(NamedTuple):
    """One leaf of a plan."""

    __reduce__ = reduce_row

    path: Path
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sharding: Sharding | None
    bytes_per_device: int
    recipe: str
    """What makes it, by name where that can be told."""

    program: int | None
    """Leaves with equal numbers share a compiled program; None needs none."""

    source: str
    """"model", or for a leaf that a rule has won, how the rule is applied: through the module that
    owns the leaf (with the shape and key that it initializes), or at the stored shape."""


_COLUMNS = (
    Column("path", wraps=True),
    Column("shape"),
    Column("dtype"),
    Column("leaves", tables.RIGHT),
    Column("size", tables.RIGHT),
    Column("per device", tables.RIGHT),
    Column("sharding"),
    Column("recipe"),
    Column("program", tables.RIGHT),
    Column("source"),
)


class Plan(Report):
    """What would be made, from what, and where. Prints as a table; `rows` is plain data.

    The table has a line for all repeats of a block, with their number and their size together, if
    there are more than 50 leaves.
    """

    def __init__(self, rows: Sequence[PlanRow]):
        self.rows = tuple(rows)

    @classmethod
    def of(
        cls,
        traced: Traced,
        paths: Sequence[Path],
        shardings: Sequence[Sharding | None],
        jobs: Sequence[Job] | Whole,
        ruled: dict[Path, str],
    ) -> "Plan":
        """Makes the plan of a traced function; `Whole` if it is compiled as it stands."""
        programs: dict[Any, int] = {}
        names = functools.cache(name_of)  # of recipes that layers share
        found: dict[int, tuple[str, int | None]] = {}
        for job in () if isinstance(jobs, Whole) else jobs:
            number = None
            if job.recipe.shared_by is not None:
                number = programs.setdefault(job.recipe.shared_by, len(programs) + 1)
            for position, value in zip(job.positions, job.recipe.outputs, strict=True):
                found[position] = names(value), number
        whole = f"the whole function: {jobs.reason}" if isinstance(jobs, Whole) else ""
        structs = jax.tree.leaves(traced.shape)
        rows = []
        for i, (path, struct) in enumerate(zip(paths, structs, strict=True)):
            recipe, program = found.get(i, (whole, 1))
            source = ruled.get(path, "model")
            rows.append(_row(path, struct, shardings[i], recipe, program, source))
        return cls(rows)

    @property
    def bytes(self) -> int:
        """Bytes of all leaves together."""
        return sum(row.bytes for row in self.rows)

    @property
    def bytes_per_device(self) -> int:
        """Bytes that one device holds of all leaves together."""
        return sum(row.bytes_per_device for row in self.rows)

    @property
    def programs(self) -> int:
        """How many programs are compiled."""
        return len({row.program for row in self.rows} - {None})

    def _table(self) -> Table:
        lines = repeats.lines(self.rows, lambda row: show(row.path), lambda row: row[1:])
        parts = [f"{len(self.rows)} leaves", tables.size(self.bytes)]
        sharded = self.bytes_per_device != self.bytes
        if sharded:
            parts.append(f"{tables.size(self.bytes_per_device)} per device")
        parts.append(f"{self.programs} program{'s' * (self.programs != 1)}")
        return Table(_COLUMNS, [_cells(*line, sharded) for line in lines], ", ".join(parts))


def _row(
    path: Path, struct: Any, sharding: Sharding | None, recipe: str, program: Any, source: str
) -> PlanRow:
    shape = tuple(struct.shape)
    size = int(np.prod(shape)) * struct.dtype.itemsize
    local = shape if sharding is None else sharding.shard_shape(shape)
    per_device = int(np.prod(local)) * struct.dtype.itemsize
    return PlanRow(
        path, shape, str(struct.dtype), size, sharding, per_device, recipe, program, source
    )


def _cells(name: str, rows: Sequence[PlanRow], sharded: bool) -> list[str]:
    first = rows[0]
    spec = "" if first.sharding is None else str(getattr(first.sharding, "spec", first.sharding))
    return [
        name,
        tables.shape(first.shape),
        first.dtype,
        str(len(rows)) if len(rows) > 1 else "",
        tables.size(sum(row.bytes for row in rows)),
        tables.size(sum(row.bytes_per_device for row in rows)) if sharded else "",
        spec.removeprefix("PartitionSpec").removeprefix("P"),
        first.recipe,
        tables.number(first.program),
        first.source,
    ]


_TELLING = frozenset({"qr", "householder_product", "scan", "while", "cond", "dot_general", "eigh"})
"""Primitives worth a name of their own in a plan."""


def name_of(value: Value) -> str:
    """Names what makes a leaf, as far as its program tells."""
    fill = HostComputable().fill(value)
    if fill is not None:
        return {0: "zeros", 1: "ones"}.get(fill.item(), f"constant({fill.item():g})")
    if isinstance(value, Input):
        return "argument"
    nodes = order([value])
    names = list(dict.fromkeys(name for node in nodes if (name := _name(node))))
    if names == ["uniform"] and any(node.primitive.name == "erf_inv" for node in nodes):
        return "normal"  # Some versions of JAX draw normals by a jitted uniform.
    return " → ".join(names) or "computed"


def _name(node: Node) -> str:
    name = node.primitive.name
    if name == "random_bits" or "name" in node.params:
        return (node.origin or name).lstrip("_")
    return name if name in _TELLING else ""
