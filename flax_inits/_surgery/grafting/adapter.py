"""What all adapters share: what they aim at, and how they say that something does not fit."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ..._base.types import Path
from .views import View


class Misfit(ValueError):
    """A donor's array cannot become the target's leaf: its shape is another."""


class Goal(NamedTuple):
    """The leaf that is to be filled."""

    path: Path
    shape: tuple[int, ...]
    dtype: Any
    own: Callable[[], View] | None
    """Gives the target's own values; None where the leaf is abstract."""

    draw: Callable[[Any, tuple[int, ...], Any], View]
    """(initializer, shape, dtype) -> the values that `reinit` would give the leaf."""

    index: tuple[int, int] | None = None
    """For `unstack`: which of how many leaves this is."""

    last: bool = True
    """Whether nothing but casts follow, so that the size of the leaf is known."""

    grows: bool = True
    """Whether nothing but casts and growing follow, so that the leaf's own values are in place."""


class Adapter:
    """A change of an array on its way from donor to target: a value, printed as its call."""

    def __repr__(self) -> str:
        fields = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        given = [f"{f.name}={value!r}" for f, value in fields if value != f.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def applied(self, view: View, goal: Goal) -> View:
        """What becomes of one array."""
        raise NotImplementedError

    def axis_in(self, axis: int, shape: tuple[int, ...]) -> int:
        """The axis counted from the front; raises where an array of this shape has none."""
        if not -len(shape) <= axis < len(shape):
            raise Misfit(f"{self!r}: an array of shape {shape} has no axis {axis}.")
        return axis % len(shape)

    def target_size(self, axis: int, view: View, goal: Goal) -> int:
        """The target's size along an axis that the array has too."""
        if not goal.last:
            give = "give it a size, or " if hasattr(self, "size") else ""
            raise ValueError(
                f"{self!r} takes the size of the target, which is known only where nothing but "
                f"cast follows; {give}put it last."
            )
        if len(goal.shape) != len(view.shape):
            raise Misfit(
                f"{self!r} keeps the number of axes, but makes {goal.shape} of {view.shape}."
            )
        return goal.shape[axis]
