"""What `signal` returns: records, findings, and how they are shown."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

from .._base import tables
from .._base.types import Path
from .verdicts import verdicts


@dataclasses.dataclass(frozen=True, slots=True)
class SignalRow:
    """One activation. Statistics are of its finite elements, and None where there are none."""

    layer: str
    """What tables call it: the path, the step of a scan, the number of a repeated call."""

    path: Path
    role: str
    """"argument" (of the network), "enters" (a module, where plain functions made it), "output"
    (of a module), "recorded" (by name) or "result" (of the network)."""

    steps: tuple[int, ...]
    """The steps of the scans around it, outermost first."""

    site: tuple[Any, ...]
    """Equal for the steps of a scan."""

    enters: bool
    """Whether a module takes it as its input."""

    result: bool
    """Whether the network returns it."""

    shape: tuple[int, ...]
    dtype: str
    mean: Any
    std: float | None
    min: Any
    max: Any
    zeros: float
    nonfinite: float
    dead: float
    """The share of units (the last axis) that are 0 for the whole batch."""

    saturated: float
    """The share beyond ±0.99, if all are within ±1."""

    symmetric: bool
    """Whether all units compute the same."""

    gradient: float
    """The norm of the loss's gradient with respect to it."""

    histogram: tuple[int, ...]
    """Counts in 61 bins over ±3.05; the outermost ones are open."""


_COLUMNS = (
    ("layer", tables.LEFT),
    ("shape", tables.LEFT),
    ("mean", tables.RIGHT),
    ("std", tables.RIGHT),
    ("zeros", tables.RIGHT),
    ("dead", tables.RIGHT),
    ("saturated", tables.RIGHT),
    ("not finite", tables.RIGHT),
    ("gradient", tables.RIGHT),
)


class Signal:
    """Activations and their gradients in the order in which they come about.

    `rows` is plain data; `verdicts` lists what is wrong, and is empty for a healthy network.

    A row has the fields `layer`, `path`, `role`, `steps`, `site`, `enters`, `result`, `shape`,
    `dtype`, `mean`, `std`, `min`, `max`, `zeros`, `nonfinite`, `dead` and `saturated` (shares),
    `symmetric`, `gradient` (a norm) and `histogram`.
    """

    def __init__(self, rows: Sequence[SignalRow]):
        self.rows = tuple(rows)
        self.verdicts = tuple(verdicts(self.rows))

    def __str__(self) -> str:
        return f"{tables.text(*self._table())}\n{self._below()}"

    __repr__ = __str__

    def __rich__(self) -> Any:
        sick = {verdict.layer for verdict in self.verdicts}
        styles = ["bold red" if row.layer in sick else "" for row in self.rows]
        return tables.styled(*self._table(), styles, self._below())

    def _repr_html_(self) -> str:
        lines = "<br>".join(map(html.escape, self._below().splitlines()))
        return f"{tables.html_table(*self._table())}<p>{lines}</p>"

    def plot(self) -> Any:
        """A figure of the activations by depth: their histograms, and both sizes.

        It shows what modules take, what a function records and what the network returns; the
        other rows, such as what a layer puts out before its nonlinearity, are in the table alone.

        Returns:
            A `matplotlib.figure.Figure`, to be saved by `.savefig("signal.png")`.

        Raises:
            ImportError: matplotlib is not installed; it comes with `flax_inits[plot]`.
        """
        from .plots import of_signal

        return of_signal(self)

    def _table(self) -> tuple[list[tuple[str, str]], list[list[str]]]:
        return tables.without_blanks(_COLUMNS, [_cells(row) for row in self.rows])

    def _below(self) -> str:
        return "\n".join(map(str, self.verdicts)) or "Nothing wrong was found."


def _cells(row: SignalRow) -> list[str]:
    return [
        row.layer,
        "×".join(map(str, row.shape)) or "()",
        tables.number(row.mean),
        tables.number(row.std),
        *map(tables.share, (row.zeros, row.dead, row.saturated, row.nonfinite)),
        tables.number(row.gradient),
    ]
