"""Tables: aligned text, colors by rich, HTML for notebooks; and how numbers are shown in them."""

import dataclasses
import html
import io
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

LEFT, RIGHT = "left", "right"


class Column(NamedTuple):
    """How a column of a table is headed and laid out."""

    title: str
    side: str = LEFT
    wraps: bool = False
    """Whether long cells take several lines where the table would be too wide."""


@dataclasses.dataclass(frozen=True)
class Table:
    """What a report shows: cells by line and column, and text below. No cell is ever cut."""

    columns: Sequence[Column]
    lines: Sequence[Sequence[str]]
    below: str = ""
    styles: Sequence[str] = ()
    """A style of rich for each line; () for none."""

    width: int = 1_000_000
    """The most columns that its text takes; a terminal has its own."""

    def text(self) -> str:
        """Aligned text."""
        from rich.console import Console

        out = io.StringIO()
        console = Console(file=out, width=self.width, color_system=None, force_jupyter=False)
        console.print(self._drawn())
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, *self.below.splitlines()])

    def rich(self) -> Any:
        """The same for rich to print, which knows the terminal's width and colors."""
        from rich.console import Group
        from rich.text import Text

        return Group(self._drawn(), *map(Text, self.below.splitlines()))

    def html(self) -> str:
        """The same for notebooks."""
        columns, lines = self._used()

        def row(cells: Sequence[str], tag: str) -> str:
            return "".join(
                f'<{tag} style="text-align:{column.side}">{html.escape(cell)}</{tag}>'
                for cell, column in zip(cells, columns, strict=True)
            )

        head = row([column.title for column in columns], "th")
        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in lines)
        below = "<br>".join(map(html.escape, self.below.splitlines()))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{below}</p>"

    def _drawn(self) -> Any:
        from rich import box, table
        from rich.text import Text

        columns, lines = self._used()
        drawn = table.Table(
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True
        )
        for title, side, wraps in columns:
            # With overflow="ignore", rich would not align.
            drawn.add_column(title, justify=side, no_wrap=not wraps, overflow="fold")  # type: ignore[arg-type]
        for cells, style in zip(lines, self.styles or [""] * len(lines), strict=True):
            drawn.add_row(*map(Text, cells), style=style)  # A str is read for styles and emoji.
        return drawn

    def _used(self) -> tuple[list[Column], list[list[str]]]:
        """The columns in which some line has anything to say, and the lines' cells in them."""
        used = [any(cells) for cells in zip(*self.lines, strict=True)] or [True] * len(self.columns)
        lines = [list(compress(line, used)) for line in self.lines]
        return list(compress(self.columns, used)), lines


class Report:
    """What prints as the table that its method `_table` makes."""

    __slots__ = ()

    def _table(self) -> Table:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._table().text()

    def __repr__(self) -> str:
        return str(self)

    def __rich__(self) -> Any:
        return self._table().rich()

    def _repr_html_(self) -> str:
        return self._table().html()


def shape(sizes: Sequence[int]) -> str:
    """A shape: 3×4."""
    return "×".join(map(str, sizes)) or "()"


def number(value: Any) -> str:
    """A number to three digits; whole numbers up to a million in full; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, int) and abs(value) < 1e6:
        return str(value)
    return f"{value or 0:.3g}"  # no -0


def share(value: float | None) -> str:
    """A share as a percentage; nothing for none at all, which is never rounded to, nor is all."""
    if not value:
        return ""
    if value < 0.0005 or 0.9995 <= value < 1:
        return "<0.1%" if value < 0.5 else ">99.9%"
    return f"{value:.1%}".replace(".0%", "%")


def size(count: float) -> str:
    """Bytes as people read them: 1.5 GiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
