"""Names that differ in numbers only share a line that spells them all."""

import itertools

import pytest

from flax_inits._base.repeats import MOST, grouped, lines


def named(rows):
    return [name for name, _ in grouped([(row, "kind", row) for row in rows])]


@pytest.mark.parametrize("numbers, shown", [
    ([0], "a0"),
    ([3, 4], "a{3,4}"),
    ([0, 1, 2], "a{0..2}"),
    ([0, 2, 4], "a{0,2,4}"),
    (range(0, 80, 2), "a{0,2..78}"),
    ([0, 2, *range(6, 50, 2)], "a{0,2,6,8..48}"),
    ([0, 1, 2, 3, 8, 9], "a{0..3,8,9}"),
    ([1, 3, 5, 7, 8, 9], "a{1,3..7,8,9}"),
    ([9, 10, 11, 100], "a{9..11,100}"),
])  # fmt: skip
def test_ranges(numbers, shown):
    assert named([f"a{number}" for number in numbers]) == [shown]


def test_several_numbers():
    names = [f"a_{i}/b_{j}" for i, j in itertools.product(range(3), range(2))]
    assert named(names) == ["a_{0..2}/b_{0,1}"]
    # Each line stands for exactly the names that it spells.
    assert named(names[:-1]) == ["a_{0..2}/b_0", "a_{0,1}/b_1"]
    assert named(["a_007", "a_008", "b_1/c", "b_2/d"]) == ["a_007", "a_008", "b_1/c", "b_2/d"]


def test_kinds_are_kept_apart_and_few_rows_are_listed():
    rows = [f"a{number}" for number in range(MOST + 1)]
    assert lines(rows[:-1], str, len) == [(row, [row]) for row in rows[:-1]]
    assert lines(rows, str, len) == [("a{0..9}", rows[:10]), ("a{10..50}", rows[10:])]
