"""Repeated blocks as one line: `block_{0..47}/mlp/kernel`."""

import re
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

_Row = TypeVar("_Row")
_NUMBER = re.compile(r"(\d+)")


def grouped(rows: Sequence[tuple[str, Hashable, _Row]]) -> list[tuple[str, list[_Row]]]:
    """Rows (name, kind, row) whose names differ in numbers only, if they are of one kind.

    Numbers are taken from left to right, so the six names `a_0/b_0` to `a_2/b_1` become
    `a_{0..2}/b_{0,1}`, and each line stands for exactly the names that it spells. Lines are in
    the order of their first rows.
    """
    lines: list[tuple[list[str], Hashable, list[Any]]] = []
    for name, kind, row in rows:
        # Text and numbers in turn: numbers are at the odd places.
        lines.append((_NUMBER.split(name), kind, [row]))
    for place in range(1, max([len(parts) for parts, _, _ in lines], default=0), 2):
        lines = _merged(lines, place)
    return [("".join(parts), members) for parts, _, members in lines]


def _merged(lines: list[Any], place: int) -> list[Any]:
    """Lines that are equal but for the number at `place` as one."""
    groups: dict[Any, list[Any]] = {}
    for line in lines:
        parts, kind, _ = line
        number = parts[place] if place < len(parts) else ""
        # Numbers with leading zeros are part of the name: 007 is no number of a range.
        plain = number.isdigit() and number == str(int(number))
        own = None if plain else number
        key = (own, tuple(parts[:place]), tuple(parts[place + 1 :]), kind)
        groups.setdefault(key, []).append(line)
    merged = []
    for (own, before, after, kind), group in groups.items():
        if own is not None or len(group) == 1:
            merged.extend(group)
            continue
        numbers = sorted(int(parts[place]) for parts, _, _ in group)
        rows = [row for _, _, rows in group for row in rows]
        merged.append(([*before, _ranges(numbers), *after], kind, rows))
    return merged


def _ranges(numbers: Sequence[int]) -> str:
    """{0..47}, or {0..3,8,9} with gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return "{" + ",".join(shown) + "}"
