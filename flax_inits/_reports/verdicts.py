"""What is wrong with a network's signal, and where it begins."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .._base import tables

SMALL, LARGE = 1e-3, 1e3
"""Activations vanish or explode beyond these, against inputs of size 1 (or their own size, if
that is smaller, or larger)."""

GRADIENT = 1e4
"""Gradients vanish or explode if they change by this factor between the output and a layer."""

MOST_DEAD, MOST_SATURATED = 0.9, 0.3
"""Shares from which a layer counts as dead, as saturated. A deep ReLU network sends all inputs
the same way, so that up to half of its units are silent on a batch and yet nothing is wrong."""


class Verdict(NamedTuple):
    """One finding."""

    kind: str
    """"vanishing", "exploding", "dead", "symmetric", "saturated" or "nan"."""

    layer: str
    """Where it begins: seen from the input, or for gradients from the output. Sizes count from
    where they leave what is healthy; the text names the layer where they began to, if earlier."""

    quantity: str
    """"activations" or "gradients"."""

    text: str

    def __str__(self) -> str:
        return self.text


def verdicts(rows: Sequence[Any]) -> list[Verdict]:
    """All findings about the rows of a signal.

    Inputs are taken as they are. The last layer and what follows may well be zero, constant or
    saturated, so only NaN and infinity are looked for there. Of a value that several modules
    return, the one that made it is told.
    """
    rows = [row for row in rows if row.same_as is None]
    head = _head(rows)
    found = [*_not_finite(rows), *_activations(rows, head)]
    if all(not row.nonfinite for row in rows):
        found += _gradients(rows, head)
    # Activations that have vanished are 0 in the end, which is no symptom of its own.
    vanished = any((v.kind, v.quantity) == ("vanishing", "activations") for v in found)
    return found + [v for v in _units(rows, head) if not (vanished and v.kind == "dead")]


def _head(rows: Sequence[Any]) -> int:
    """The row of the last layer's output."""
    last = [i for i, row in enumerate(rows) if row.role == "output"][-1:]
    result = [i for i, row in enumerate(rows) if row.result][:1]
    return min([*last, *result, len(rows)])


def _size(row: Any) -> float:
    """The root mean square."""
    return math.hypot(abs(row.mean or 0), row.std or 0)


def _not_finite(rows: Sequence[Any]) -> Iterator[Verdict]:
    for i, row in enumerate(rows):
        if row.nonfinite:
            text = f"{tables.share(row.nonfinite)} of the activations"
            yield _verdict("nan", _layer(rows, i), "activations", text)
            return
    for i, row in reversed(list(enumerate(rows))):
        if not math.isfinite(row.gradient):
            yield _verdict("nan", _layer(rows, i), "gradients", "in the gradients")
            return


def _activations(rows: Sequence[Any], head: int) -> Iterator[Verdict]:
    inputs = [_size(row) for row in rows if row.role == "argument"] or [1.0]
    body = [i for i in range(head) if rows[i].role != "argument"]
    healthy = min(1.0, *inputs), max(1.0, *inputs)
    small, large = SMALL * healthy[0], LARGE * healthy[1]
    # A network vanishes if nothing behind some layer is of any size; a branch may well be 0.
    begin = _last_run(body, lambda i: _size(rows[i]) < small)
    if begin is not None and _size(rows[begin]) > 0:
        layer = _layer(rows, begin)
        text = f"size {_size(rows[begin]):.2g} at {layer}"
        if begin != body[-1]:
            text += f", {_size(rows[body[-1]]):.2g} before the last layer"
        sizes = _sizes_before(rows, body, begin)
        text += _since(
            rows, sizes, begin, "less than a quarter of the largest", _below(healthy, sizes)
        )
        yield _verdict("vanishing", layer, "activations", text)
    for i, row in enumerate(rows):
        if row.role != "argument" and _size(row) > large:
            layer, most = _layer(rows, i), max(_size(row) for row in rows[i:])
            text = f"size {_size(row):.2g} at {layer}, {most:.2g} at most"
            sizes = _sizes_before(rows, body, i)
            text += _since(
                rows, sizes, i, "more than four times the smallest", _above(healthy, sizes)
            )
            yield _verdict("exploding", layer, "activations", text)
            return


def _gradients(rows: Sequence[Any], head: int) -> Iterator[Verdict]:
    last = max([row.gradient for row in rows[head:]], default=0)
    # What has no gradient at all does not lead to the output, or leads through a layer of zeros.
    body = [i for i in range(head) if rows[i].gradient > 0]
    if not body or not last:
        return
    begin = _last_run(body[::-1], lambda i: rows[i].gradient < last / GRADIENT)
    if begin is not None:
        text = f"norm {last:.2g} at the end, {_gradient(rows, begin)}"
        if begin != body[0]:
            text += f", {_gradient(rows, body[0])}"
        back = {i: rows[i].gradient for i in body[::-1] if i >= begin}
        text += _since(
            rows, back, begin, "less than a quarter of the end's", lambda size: size < last / 4
        )
        yield _verdict("vanishing", _layer(rows, begin), "gradients", text)
    for i in body[::-1]:
        if rows[i].gradient > last * GRADIENT:
            most = max(rows[j].gradient for j in body if j <= i)
            text = f"norm {last:.2g} at the end, {_gradient(rows, i)}, {most:.2g} at most"
            back = {j: rows[j].gradient for j in body[::-1] if j >= i}
            text += _since(
                rows, back, i, "more than four times the end's", lambda size: size > last * 4
            )
            yield _verdict("exploding", _layer(rows, i), "gradients", text)
            return


def _sizes_before(rows: Sequence[Any], body: Sequence[int], begin: int) -> dict[int, float]:
    """The sizes of what layers put out until `begin`, in order."""
    made = [i for i in body if i < begin and rows[i].role in ("output", "recorded")]
    return {i: _size(rows[i]) for i in (*made, begin)}


def _below(inputs: tuple[float, float], sizes: Mapping[int, float]) -> Callable[[float], bool]:
    most = max(inputs[0], *sizes.values())
    return lambda size: size < most / 4


def _above(inputs: tuple[float, float], sizes: Mapping[int, float]) -> Callable[[float], bool]:
    least = min([inputs[1], *filter(None, sizes.values())])
    return lambda size: size > least * 4


def _since(
    rows: Sequence[Any],
    sizes: Mapping[int, float],
    begin: int,
    what: str,
    holds: Callable[[float], bool],
) -> str:
    """Where it started that a size has left what is healthy, if that was in an earlier layer.

    A size that changes a little in each layer leaves it many layers behind the one to repair.
    """
    first = _last_run([*sizes], lambda i: holds(sizes[i]))
    if first is None or _layer(rows, first) == _layer(rows, begin):
        return ""
    return f"; {what} since {_layer(rows, first)}"


def _gradient(rows: Sequence[Any], index: int) -> str:
    """How large the gradient is in a row, and which one that is."""
    where = "the input" if rows[index].role == "argument" else _layer(rows, index)
    return f"{rows[index].gradient:.2g} at {where}"


def _units(rows: Sequence[Any], head: int) -> Iterator[Verdict]:
    """Findings about single units, in what layers take after the first one."""
    first = next((i for i, row in enumerate(rows) if row.role in ("output", "recorded")), head)
    body = [i for i in range(first, head) if rows[i].enters or rows[i].role == "recorded"]
    tests: dict[str, tuple[Callable[[Any], bool], Callable[[Any], str]]] = {
        "dead": (
            lambda row: row.dead >= MOST_DEAD,
            lambda row: f"{row.dead:.0%} of the units are 0 for the whole batch",
        ),
        "symmetric": (lambda row: row.symmetric, lambda row: "all units compute the same"),
        "saturated": (
            lambda row: row.saturated >= MOST_SATURATED,
            lambda row: f"{row.saturated:.0%} of the activations are close to ±1",
        ),
    }
    for kind, (holds, told) in tests.items():
        for i in body:
            # A state that starts with zeros is no symptom: it must hold for all later steps.
            same = [rows[j] for j in body if j >= i and rows[j].site == rows[i].site]
            if all(map(holds, same)):
                yield _verdict(kind, _layer(rows, i), "activations", told(rows[i]))
                break


def _last_run(positions: Sequence[int], holds: Callable[[int], bool]) -> int | None:
    """The first position from which on `holds` is true of all."""
    run = list(itertools.takewhile(holds, reversed(positions)))
    return run[-1] if run else None


def _layer(rows: Sequence[Any], index: int) -> str:
    """The layer whose output a row shows; plain functions belong to the layer before them."""
    if rows[index].role == "enters":
        before = [row for row in rows[:index] if row.role == "output"]
        if before:
            return before[-1].layer
    return rows[index].layer


def _verdict(kind: str, layer: str, quantity: str, text: str) -> Verdict:
    of_units = kind in ("dead", "symmetric", "saturated")
    what = "NaN or infinity" if kind == "nan" else f"{kind} {'units' if of_units else quantity}"
    direction = "back" if quantity == "gradients" else "on"
    return Verdict(kind, layer, quantity, f"{what} from {layer} {direction}: {text}")
