"""Which adapter would make a donor's array fit."""

from collections.abc import Sequence
from itertools import permutations


def adapter_for(given: Sequence[int], wanted: Sequence[int]) -> str:
    """The call of an adapter that makes a shape of another; "" if no single one can."""
    given, wanted = tuple(given), tuple(wanted)
    if len(given) == len(wanted):
        turned = _transposed(given, wanted)
        return turned or _resized(given, wanted)
    for axis in range(max(len(given), len(wanted))):
        if len(wanted) == len(given) + 1 and (*wanted[:axis], *wanted[axis + 1 :]) == given:
            return f"tile(axis={axis})"
        if len(given) == len(wanted) + 1 and (*given[:axis], *given[axis + 1 :]) == wanted:
            return f"unstack(axis={axis})"
    return _reshaped(given, wanted)


def _transposed(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if sorted(given) != sorted(wanted) or len(given) > 6:
        return ""
    reverse = tuple(range(len(given)))[::-1]
    for axes in (reverse, *permutations(range(len(given)))):
        if tuple(given[axis] for axis in axes) == wanted:
            return f"transpose({', '.join(map(str, axes))})"
    return ""


def _reshaped(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    product = [1, 1]
    for i, shape in enumerate((given, wanted)):
        for size in shape:
            product[i] *= size
    return f"reshape({', '.join(map(str, wanted))})" if product[0] == product[1] else ""


def _resized(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """One axis that is longer or shorter; several differ too much for one guess."""
    differ = [axis for axis, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b]
    if len(differ) != 1:
        return _reshaped(given, wanted)
    (axis,) = differ
    if given[axis] < wanted[axis]:
        return f"grow(axis={axis}, init=...)"
    return f"cut(axis={axis})"
