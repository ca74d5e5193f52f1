"""Which adapters would make a donor's array fit."""

import math
from collections.abc import Iterator, Sequence
from itertools import permutations


def adapters_for(given: Sequence[int], wanted: Sequence[int]) -> str:
    """The calls of adapters, the fewest that make a shape of another; "" if none are known."""
    given, wanted = tuple(given), tuple(wanted)
    for order in _orders(len(given)):
        turned = tuple(given[axis] for axis in order)
        if (calls := _by_one(turned, wanted)) is not None:
            is_turned = order != tuple(range(len(given)))
            return ", ".join(([f"transpose{order}"] if is_turned else []) + calls)
    if math.prod(given) == math.prod(wanted):
        return f"reshape({', '.join(map(str, wanted))})"
    return ", ".join(_by_axes(given, wanted)) if len(given) == len(wanted) else ""


def resize_for(given: Sequence[int], wanted: Sequence[int]) -> str:
    """The call of `resize` for shapes that may be those of grids of positions; or ""."""
    if len(given) != len(wanted) or len(given) < 2:
        return ""
    differ = [axis for axis, size in enumerate(given) if size != wanted[axis]]
    if len(differ) == 1:
        sizes = given[differ[0]], wanted[differ[0]]
        for prefix in (0, 1, 2):
            if all(_is_square(size - prefix) for size in sizes):
                tokens = f", prefix={prefix}" if prefix else ""
                return f"resize(axes={differ[0]}, method='bilinear'{tokens})"
    if len(differ) == 2 and len(given) > 2:
        return f"resize(axes=({differ[0]}, {differ[1]}), method='bilinear')"
    return ""


def _is_square(count: int) -> bool:
    return count > 1 and math.isqrt(count) ** 2 == count


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Orders of axes: as they are, PyTorch's to Flax's (space, in, out), reversed, and the rest."""
    axes = tuple(range(rank))
    yield axes
    yield (*axes[2:], *axes[:2][::-1])
    yield axes[::-1]
    yield from permutations(axes) if rank <= 5 else ()


def _by_one(given: tuple[int, ...], wanted: tuple[int, ...]) -> list[str] | None:
    """What is left to do after the axes are in order: nothing, or one thing."""
    if given == wanted:
        return []
    if len(given) == len(wanted):
        calls = _by_axes(given, wanted)
        return calls if len(calls) == 1 else None
    if _merged(given, wanted) or _merged(wanted, given):
        return [f"reshape({', '.join(map(str, wanted))})"]
    if (axis := _added(given, wanted)) is not None:
        return [f"tile(axis={axis})"]
    if (axis := _added(wanted, given)) is not None:
        return [f"cut(axis={axis}, start=..., size=1)", f"unstack(axis={axis})"]
    return None


def _by_axes(given: tuple[int, ...], wanted: tuple[int, ...]) -> list[str]:
    """One call for each axis that is longer or shorter; all but the last need their size."""
    calls = []
    for axis, (old, new) in enumerate(zip(given, wanted, strict=True)):
        last = given[axis + 1 :] == wanted[axis + 1 :]
        size = "" if last else f", size={new}"
        if old < new:
            calls.append(f"grow(axis={axis}, init=...{size})")
        elif old > new:
            calls.append(f"cut(axis={axis}{size})")
    return calls


def _added(fewer: tuple[int, ...], more: tuple[int, ...]) -> int | None:
    """The axis that one shape has more than the other."""
    if len(more) != len(fewer) + 1:
        return None
    fits = (axis for axis in range(len(more)) if (*more[:axis], *more[axis + 1 :]) == fewer)
    return next(fits, None)


def _merged(fewer: tuple[int, ...], more: tuple[int, ...]) -> bool:
    """Whether each axis of one shape is a run of the other's: heads and their sizes."""
    rest = list(more)
    for size in fewer:
        run = 1
        while rest and (run < size or (rest[0] == 1 and run == size)):
            run *= rest.pop(0)
        if run != size:
            return False
    return not rest
