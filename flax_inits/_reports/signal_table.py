"""What `signal` returns: records, findings, and how they are shown."""

from collections.abc import Sequence
from typing import Any

from .._base import repeats, tables
from .._base.tables import Column, Report, Table
from .signal_rows import SignalRow
from .verdicts import verdicts

_COLUMNS = (
    Column("layer", wraps=True),
    Column("shape"),
    *(Column(t, tables.RIGHT) for t in ("mean", "std", "zeros", "dead", "saturated")),
    *(Column(title, tables.RIGHT) for title in ("not finite", "gradient")),
)


class Signal(Report):
    """Activations and their gradients in the order in which they come about.

    `rows` is plain data; `verdicts` lists what is wrong, and is empty for a healthy network.

    A row has the fields `layer`, `path`, `role`, `steps`, `site`, `enters`, `result`, `shape`,
    `dtype`, `mean`, `std`, `min`, `max`, `zeros`, `nonfinite`, `dead` and `saturated` (shares),
    `symmetric`, `gradient` (a norm), `histogram` and `same_as`.

    The table shows `→ x` for what enters the module x where plain functions made it, `x = y` where
    x returns what y made (`same_as`), and above 50 rows one line for all repeats of a block, with
    the numbers of its first and last row.
    """

    def __init__(self, rows: Sequence[SignalRow]):
        self.rows = tuple(rows)
        self.verdicts = tuple(verdicts(self.rows))

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

    def _table(self) -> Table:
        sick = {verdict.layer for verdict in self.verdicts}
        lines = repeats.lines(self.rows, _name, lambda row: _kind(row, sick))
        styles = [_style(rows[0], sick) for _, rows in lines]
        below = [*_notes(self.rows, len(lines)), *map(str, self.verdicts)]
        if not self.verdicts:
            below.append("Nothing wrong was found.")
        return Table(_COLUMNS, [_cells(*line) for line in lines], "\n".join(below), styles)


def _notes(rows: Sequence[SignalRow], lines: int) -> list[str]:
    """What the signs in the table mean, as far as it has them."""
    notes = {
        "→ x: what enters x, where plain functions (nn.relu, +) made it.": any(
            row.role == "enters" for row in rows
        ),
        "x = y: x returns what y made.": any(row.same_as for row in rows),
        "a..b: of the first and the last of a line's repeats; .rows has them all.": (
            lines < len(rows)
        ),
    }
    return [note for note, needed in notes.items() if needed]


def _name(row: SignalRow) -> str:
    """The layer, and whose value it returns, without the modules that are around both."""
    if row.same_as is None:
        return row.layer
    own, other = row.layer.split("/"), row.same_as.split("/")
    around = 0
    while own[around : around + 1] == other[around : around + 1] != []:
        around += 1
    return f"{row.layer} = {'/'.join(other[around:])}"


def _kind(row: SignalRow, sick: set[str]) -> tuple[Any, ...]:
    """What rows of one line have in common; where a verdict begins is a line of its own."""
    return row.shape, row.dtype, row.mean is None, row.layer if row.layer in sick else None


def _style(row: SignalRow, sick: set[str]) -> str:
    return "bold red" if row.layer in sick else "dim" if row.same_as else ""


def _cells(name: str, rows: Sequence[SignalRow]) -> list[str]:
    first, last = _numbers(rows[0]), _numbers(rows[-1])
    # Only shares are blank, where there is none.
    none = "0%"
    numbers = [
        a if a == b else f"{a or none}..{b or none}" for a, b in zip(first, last, strict=True)
    ]
    return [name, tables.shape(rows[0].shape), *numbers]


def _numbers(row: SignalRow) -> list[str]:
    # What is 0 but for rounding, as after a LayerNorm, is shown as 0.
    centered = row.mean is not None and abs(row.mean) < 1e-6 * (row.std or 0)
    return [
        "0" if centered else tables.number(row.mean),
        tables.number(row.std),
        *map(tables.share, (row.zeros, row.dead, row.saturated, row.nonfinite)),
        tables.number(row.gradient),
    ]
