"""Repeated blocks as one line: `block_{0..47}/mlp/kernel`."""

import itertools
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

_Row = TypeVar("_Row")
_NUMBER = re.compile(r"(\d+)")
MOST = 50
"""Rows that a table lists one by one, which is about what a screen holds."""


def lines(
    rows: Sequence[_Row],
    name: Callable[[_Row], str],
    kind: Callable[[_Row], Hashable],
    most: int = MOST,
) -> list[tuple[str, list[_Row]]]:
    """The lines of a table, with the rows of each; above `most` rows, repeats share a line."""
    if len(rows) <= most:
        return [(name(row), [row]) for row in rows]
    return grouped([(name(row), kind(row), row) for row in rows])


def grouped(rows: Sequence[tuple[str, Hashable, _Row]]) -> list[tuple[str, list[_Row]]]:
    """Rows (name, kind, row) whose names differ in numbers only, if they are of one kind.

    Numbers are taken from left to right, so the six names `a_0/b_0` to `a_2/b_1` become
    `a_{0..2}/b_{0,1}`, and each line stands for exactly the names that it spells. Lines are in
    the order of their first rows.
    """
    lines: list[tuple[list[str], Hashable, list[Any]]] = []
    for name, kind, row in rows:
        # Text and numbers in turn: numbers are at odd indices.
        lines.append((_NUMBER.split(name), kind, [row]))
    for index in range(1, max([len(parts) for parts, _, _ in lines], default=0), 2):
        lines = _merged(lines, index)
    return [("".join(parts), members) for parts, _, members in lines]


def _merged(lines: list[Any], index: int) -> list[Any]:
    """Lines that are equal but for the number at `index` as one."""
    groups: dict[Any, list[Any]] = {}
    for line in lines:
        parts, kind, _ = line
        number = parts[index] if index < len(parts) else ""
        # Numbers with leading zeros are part of the name: 007 is no number of a range.
        plain = number.isdigit() and number == str(int(number))
        own = None if plain else number
        key = (own, tuple(parts[:index]), tuple(parts[index + 1 :]), kind)
        groups.setdefault(key, []).append(line)
    merged = []
    for (own, before, after, kind), group in groups.items():
        if own is not None or len(group) == 1:
            merged.extend(group)
            continue
        numbers = sorted(int(parts[index]) for parts, _, _ in group)
        rows = [row for _, _, rows in group for row in rows]
        merged.append(([*before, _ranges(numbers), *after], kind, rows))
    return merged


def _ranges(numbers: Sequence[int]) -> str:
    """{0..47}, {0,2..46} in steps, or {0..3,8,9} with gaps."""
    parts = []
    while numbers:
        run = _run(numbers)
        step = run[-1] - run[-2] if len(run) > 1 else 0
        # A range is worth its dots from three numbers on, or four if it has to show its step.
        short = len(run) < (3 if step == 1 else 4)
        first = f"{run[0]}" if short or step == 1 else f"{run[0]},{run[1]}"
        parts.append(first if short else f"{first}..{run[-1]}")
        numbers = numbers[1 if short else len(run) :]
    return "{" + ",".join(parts) + "}"


def _run(numbers: Sequence[int]) -> Sequence[int]:
    """The first numbers that are equally far apart."""
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    end = next((i for i, step in enumerate(steps) if step != steps[0]), len(steps))
    return numbers[: end + 1]
