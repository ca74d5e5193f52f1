"""Checks of arguments that many factories share, and the sentences they raise."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.core import Tracer
from jax.export import is_symbolic_dim

from .errors import did_you_mean, listed


def number(factory: str, name: str, value: Any) -> float:
    """`value` as a finite float."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or np.ndim(value):
        raise TypeError(f"{factory} needs a number for {name}, got {value!r}.")
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{factory} needs a finite {name}, got {name}={value!r}.")
    return result


def factor(name: str, value: Any, allowed: str, most: float = math.inf) -> None:
    """Raises unless `value` is one number from 0 to `most`, which is `allowed`, or traced."""
    if isinstance(value, Tracer):
        return
    error = ValueError if hasattr(value, "__float__") else TypeError
    if error is TypeError or np.ndim(value) or not 0 <= float(value) <= most:
        raise error(f"{name} must be one number {allowed}, got {value!r}.")


def positive(factory: str, name: str, value: Any) -> float:
    """`value` as a finite float above zero."""
    result = number(factory, name, value)
    if result <= 0:
        raise ValueError(f"{factory} needs {name} > 0, got {name}={value!r}.")
    return result


def non_negative(factory: str, name: str, value: Any) -> float:
    """`value` as a finite float, zero included."""
    result = number(factory, name, value)
    if result < 0:
        raise ValueError(f"{factory} needs {name} >= 0, got {name}={value!r}.")
    return result


def ordered(factory: str, low: str, least: Any, high: str, most: Any) -> None:
    """Raises unless `least` is below `most`, the arguments of these names."""
    if not least < most:
        raise ValueError(f"{factory} needs {low} < {high}, got {low}={least!r}, {high}={most!r}.")


def interval(factory: str, lower: Any, upper: Any) -> None:
    """Raises unless both are numbers, in this order; they may be infinite."""
    for name, value in (("lower", lower), ("upper", upper)):
        if not (isinstance(value, float) and math.isinf(value)):
            number(factory, name, value)
    ordered(factory, "lower", lower, "upper", upper)


def spread(factory: str, stddev: Any, mean: Any) -> tuple[float, float]:
    """Both as floats; raises where they look swapped: no spread around a mean."""
    scale, centre = non_negative(factory, "stddev", stddev), number(factory, "mean", mean)
    if centre and not scale:
        raise ValueError(
            f"{factory} needs stddev > 0 with a mean, got stddev={stddev!r}, mean={mean!r}; stddev "
            f"comes first, and constant({mean!r}) is a constant."
        )
    return scale, centre


def index(value: Any) -> int | None:
    """`value` as an integer; None if it is none, as a bool or a traced value."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integer(factory: str, name: str, value: Any, least: int | None = None) -> int:
    """`value` as an integer, of at least `least`."""
    if (result := index(value)) is None:
        raise TypeError(f"{factory} needs an integer for {name}, got {value!r}.")
    if least is not None and result < least:
        raise ValueError(f"{factory} needs {name} >= {least}, got {name}={value!r}.")
    return result


def count(factory: str, name: str, value: Any, least: int = 1) -> int:
    """`value` as an integer of at least `least`."""
    return integer(factory, name, value, least)


def one_of(factory: str, name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raises unless `value` is one of the strings `allowed`."""
    if value not in tuple(allowed):
        known = listed([*allowed], "or", most=len(allowed))
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise ValueError(f"{factory} needs {name} to be {known}, got {name}={value!r}.{hint}")


def initializer_like(factory: str, name: str, value: Any) -> None:
    """Raises unless `value` can be called as an initializer."""
    if not callable(value):
        raise TypeError(
            f"{factory} needs an initializer for {name}, callable as (key, shape, dtype), "
            f"got {value!r}."
        )
    if getattr(value, "is_factory", False):
        raise TypeError(
            f"{factory} needs an initializer for {name}, got the factory {value.__name__}; "
            f"call it first: {value.__name__}(...)."
        )


def axes(factory: str, name: str, value: Any) -> tuple[int, ...]:
    """`value`, one axis or several, as a tuple of distinct integers."""
    items = value if isinstance(value, Sequence) else (value,)
    result = tuple(axis for item in items if (axis := index(item)) is not None)
    if len(result) < len(items):
        raise TypeError(
            f"{factory} needs {name} to be an integer or a tuple of them, got {value!r}."
        )
    if len(set(result)) < len(result):
        raise ValueError(f"{factory} needs distinct axes, got {name}={value!r}.")
    return result


def rank(factory: str, shape: Sequence[Any], least: int, meaning: str, hint: str = "") -> None:
    """Raises unless `shape` has `least` axes, whose roles are `meaning`."""
    if len(shape) < least:
        raise ValueError(
            f"{factory} needs a shape {meaning} of {least} axes or more, got {tuple(shape)}."
            + (f" {hint}" if hint else "")
        )


def divides(factory: str, what: str, divisor: int, shape: Sequence[Any], axis: int) -> None:
    """Raises unless `divisor`, which is `what`, divides the size of `axis`."""
    size = shape[axis]
    if not is_symbolic_dim(size) and size % divisor:
        raise ValueError(
            f"{factory}: {what} = {divisor} must divide axis {axis} of the shape, "
            f"got {size} in {tuple(shape)}."
        )


def wrapped(factory: str, name: str, chosen: Sequence[int], ndim: int) -> tuple[int, ...]:
    """The axes `chosen`, counted from the front; raises where `ndim` axes do not have them."""
    for axis in chosen:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{factory}: {name}={axis} is no axis of a shape with {ndim} axes; "
                f"give the {name} that this kernel has."
            )
    result = tuple(axis % ndim for axis in chosen)
    if len(set(result)) < len(result):
        raise ValueError(f"{factory}: {name}={tuple(chosen)} names an axis twice in {ndim} axes.")
    return result


def known(factory: str, sizes: Sequence[Any]) -> None:
    """Raises where a size is symbolic, for what is computed from the sizes beforehand."""
    if any(is_symbolic_dim(size) for size in sizes):
        raise ValueError(
            f"{factory} needs to know these sizes, got the symbolic {tuple(sizes)}; "
            "export it with numbers there."
        )


def is_empty(shape: Sequence[Any]) -> bool:
    """Whether an axis is known to have size zero."""
    return any(not is_symbolic_dim(size) and size == 0 for size in shape)
