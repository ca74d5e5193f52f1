"""Tables: aligned text, rich for terminals, HTML for notebooks; and how numbers are shown."""

import html
import io
from collections.abc import Sequence
from typing import Any

LEFT, RIGHT = "left", "right"


def text(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """An aligned table. `columns` are (title, LEFT or RIGHT); no cell is ever cut."""
    from rich import box, table

    drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, side in columns:
        drawn.add_column(title, justify=side, no_wrap=True, overflow="ignore")  # type: ignore[arg-type]
    return plain(drawn, rows, width=1_000_000)


def plain(table: Any, rows: Sequence[Sequence[str]], width: int) -> str:
    """A rich table with these rows as text of at most `width` columns."""
    from rich.console import Console
    from rich.text import Text

    for row in rows:
        table.add_row(*map(Text, row))  # In a str, rich would look for styles and emoji.
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def styled(
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str],
    below: str,
) -> Any:
    """The same for rich, with a style for each row; names are folded where they are too long."""
    from rich import box, console, table
    from rich.text import Text

    drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, (title, side) in enumerate(columns):
        drawn.add_column(title, justify=side, no_wrap=i > 0, overflow="fold")  # type: ignore[arg-type]
    for row, style in zip(rows, styles, strict=True):
        drawn.add_row(*map(Text, row), style=style)
    return console.Group(drawn, Text(below))


def without_blanks(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The table without the columns in which no row has anything to say."""
    used = [i for i in range(len(columns)) if not rows or any(row[i] for row in rows)]
    return [columns[i] for i in used], [[row[i] for i in used] for row in rows]


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


def html_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """The same as an HTML table."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>'
            for cell, (_, side) in zip(cells, columns, strict=True)
        )

    head = line([title for title, _ in columns], "th")
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def size(count: float) -> str:
    """Bytes as people read them: 1.5 GiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"
