"""A table of all initializers, read off the factories themselves."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .._base.tables import Column, Report, Table

_FAMILIES = ("general", "structured", "architectures", "combinators")
"""In the order in which a reader meets them."""


class CatalogueEntry(NamedTuple):
    """One initializer of the catalogue."""

    name: str
    """What to import from `flax_inits`."""

    family: str
    """The folder that it lives in, beside this file."""

    summary: str
    """The first line of its docstring."""

    reference: str
    """Where it comes from; empty where it needs no source."""


class Catalogue(Report, tuple[CatalogueEntry, ...]):
    """Entries that print as a table, in a terminal, a notebook and Markdown."""

    __slots__ = ()

    def _table(self) -> Table:
        whole, text = CatalogueEntry._fields[:2], CatalogueEntry._fields[2:]
        columns = [*map(Column, whole), *(Column(title, wraps=True) for title in text)]
        return Table(columns, self, width=120)

    def markdown(self) -> str:
        """The table in Markdown, with the references as links where they hold one address."""
        rows = [CatalogueEntry._fields, ("---",) * len(CatalogueEntry._fields)]
        for name, family, summary, reference in self:
            rows.append((f"`{name}`", family, summary, _linked(reference)))
        cells = ([cell.replace("|", r"\|") for cell in row] for row in rows)
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    def _repr_markdown_(self) -> str:
        return self.markdown()


def catalogue() -> Catalogue:
    """A table of all initializers: name, family, what each does, and its reference.

    It is read off the factories, so that one cannot be missing. Families are "general" (for any
    layer), "structured" (elements depend on each other), "architectures" (for one architecture)
    and "combinators" (made of initializers).

    Returns:
        A tuple of entries with the fields `name`, `family`, `summary` and `reference`, which prints
        as a table; `.markdown()` gives it for a page.

    >>> import flax_inits
    >>> table = flax_inits.catalogue()
    >>> next(entry.reference for entry in table if entry.name == "hippo_legs")[:24]
    'Gu et al. 2020, HiPPO, h'
    >>> {entry.family for entry in table if entry.name in ("orthogonal", "delta_orthogonal")}
    {'structured'}
    """
    names = vars(importlib.import_module(__name__.partition(".")[0]))
    found = {value for value in names.values() if getattr(value, "is_factory", False)}
    return Catalogue(sorted(map(_entry, found), key=_order))


def _order(entry: CatalogueEntry) -> tuple[int, str]:
    families = (*_FAMILIES, entry.family)
    return families.index(entry.family), entry.name


def _entry(factory: Callable[..., Any]) -> CatalogueEntry:
    text = inspect.getdoc(factory) or ""
    # Not `__module__`, which is what the user imports from.
    family = inspect.unwrap(factory).__globals__["__package__"].rpartition(".")[2]
    reference = re.search(r"^References?:(.*?)(?=\n\s*\n|\n\S|\Z)", text, re.DOTALL | re.MULTILINE)
    source = " ".join(reference[1].split()) if reference else ""
    return CatalogueEntry(factory.__name__, family, text.partition("\n")[0], source)


def _linked(reference: str) -> str:
    """`reference` as a Markdown link, if it is some words and one address."""
    found = re.fullmatch(r"([^:]*?),? (https?://\S+)", reference)
    return f"[{found[1]}]({found[2]})" if found else reference
