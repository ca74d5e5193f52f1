"""A table of all initializers, read off the factories themselves."""

from __future__ import annotations

import html
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .._base.tables import plain


class CatalogueEntry(NamedTuple):
    """One initializer of the catalogue."""

    name: str
    """What to import from `flax_inits`."""

    family: str
    """The module that it lives in, as words."""

    summary: str
    """The first line of its docstring."""

    reference: str
    """Where it comes from; empty where it needs no source."""


class Catalogue(tuple[CatalogueEntry, ...]):
    """Entries that print as a table, in a terminal, a notebook and Markdown."""

    __slots__ = ()

    def __str__(self) -> str:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        kept_whole = (True, True, False, False)
        for title, whole in zip(CatalogueEntry._fields, kept_whole, strict=True):
            table.add_column(title, no_wrap=whole, overflow="fold")
        return plain(table, self, width=120)

    __repr__ = __str__

    def markdown(self) -> str:
        """The table in Markdown, with the references as links where they hold one address."""
        rows = [CatalogueEntry._fields, ("---",) * len(CatalogueEntry._fields)]
        for name, family, summary, reference in self:
            rows.append((f"`{name}`", family, summary, _linked(reference)))
        cells = ([cell.replace("|", r"\|") for cell in row] for row in rows)
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{field}</th>" for field in CatalogueEntry._fields)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(field)}</td>' for field in entry)}</tr>"
            for entry in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def catalogue() -> Catalogue:
    """A table of all initializers: name, family, what each does, and its reference.

    It is read off the factories, so that one cannot be missing.

    Returns:
        A tuple of entries with the fields `name`, `family`, `summary` and `reference`, which prints
        as a table; `.markdown()` gives it for a page.

    >>> import flax_inits
    >>> table = flax_inits.catalogue()
    >>> next(entry.reference for entry in table if entry.name == "hippo_legs")[:24]
    'Gu et al. 2020, HiPPO, h'
    >>> {entry.family for entry in table if entry.name in ("orthogonal", "delta_orthogonal")}
    {'orthogonal'}
    """
    names = vars(importlib.import_module(__name__.partition(".")[0]))
    found = {value for value in names.values() if getattr(value, "is_factory", False)}
    return Catalogue(sorted(map(_entry, found), key=lambda entry: (entry.family, entry.name)))


def _entry(factory: Callable[..., Any]) -> CatalogueEntry:
    text = inspect.getdoc(factory) or ""
    family = inspect.unwrap(factory).__module__.rpartition(".")[2].replace("_", " ").strip()
    reference = re.search(r"^References?:(.*?)(?=\n\s*\n|\n\S|\Z)", text, re.DOTALL | re.MULTILINE)
    source = " ".join(reference[1].split()) if reference else ""
    return CatalogueEntry(factory.__name__, family, text.partition("\n")[0], source)


def _linked(reference: str) -> str:
    """`reference` as a Markdown link, if it is some words and one address."""
    found = re.fullmatch(r"([^:]*?),? (https?://\S+)", reference)
    return f"[{found[1]}]({found[2]})" if found else reference
