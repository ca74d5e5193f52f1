"""The records that `signal` makes: one for each value, and for each module that returns one."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from .._base.types import Path
from .._tree.paths import show
from .recorder import Point
from .statistics import statistics
from .taps import TapSite


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

    same_as: str | None = None
    """The `layer` of the row whose value this is, if the module returns it as it is."""


_SCALARS = ("dead", "saturated", "symmetric", "gradient")
_TITLES = {"argument": ("input",), "result": ("output",)}


def rows_of(
    sites: Sequence[TapSite], points: Sequence[Point], measured: Sequence[tuple[Any, Any]]
) -> list[SignalRow]:
    """The records of all values, each followed by those of the modules that return it as it is."""
    rows, calls = [], collections.Counter()
    for site, point in zip(sites, points, strict=True):
        row = SignalRow(
            **_names(point.path, point.role, site.steps, calls),
            **_facts(site, *measured[site.tap]),
            enters=point.enters,
            result=point.result,
        )
        rows.append(row)
        for path in point.returned_by:
            names = _names(path, "output", site.steps, calls)
            rows.append(dataclasses.replace(row, **names, same_as=row.layer))
    return rows


def _facts(site: TapSite, struct: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row that were measured, in its step of a scan."""
    found = {name: array[site.steps] for name, array in found.items()}
    size = math.prod(struct.shape)
    return {
        "steps": site.steps,
        "shape": struct.shape,
        "dtype": str(struct.dtype),
        **statistics(found["numbers"], found["extremes"], size, struct.dtype)._asdict(),
        **{name: found[name].item() for name in _SCALARS},
        "histogram": tuple(found["histogram"].tolist()),
    }


def _names(
    path: Path, role: str, steps: tuple[int, ...], calls: collections.Counter
) -> dict[str, Any]:
    """The fields of a row that say what it is of; `calls` counts how often each came about."""
    calls[path, role, steps] += 1
    call = calls[path, role, steps]
    arrow = "→ " if role == "enters" else ""
    name = show((*_TITLES.get(role, ()), *path))
    shown = "".join(f"[{step}]" for step in steps)
    again = f" ({call})" if call > 1 else ""
    layer = f"{arrow}{name}{shown}{again}"
    return {"layer": layer, "path": path, "role": role, "site": (path, role, call)}
