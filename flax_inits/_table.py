"""Plain tables: aligned text for terminals, HTML for notebooks."""

import html
import io
from collections.abc import Sequence

LEFT, RIGHT = "left", "right"


def text(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """An aligned table. `columns` are (title, LEFT or RIGHT); no cell is ever cut."""
    from rich import box, console, table

    drawn = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, side in columns:
        drawn.add_column(title, justify=side, no_wrap=True, overflow="ignore")  # type: ignore[arg-type]
    for row in rows:
        drawn.add_row(*(cell.replace("[", r"\[") for cell in row))
    width = 4 * len(columns) + sum(
        max([len(title), *(len(row[i]) for row in rows)]) for i, (title, _) in enumerate(columns)
    )
    out = io.StringIO()
    console.Console(file=out, width=width, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


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
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
