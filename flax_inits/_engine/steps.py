"""The last steps of a leaf, whose scalars become arguments: one program for each scale and range.

XLA sees more in constants than in arguments: some releases make x * (a * b) of (x * a) * b. So a
scalar may become an argument only where nothing beside it is merged with it, or where it is known
how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from .._base.types import Array
from .graph import RESHAPES, Node, Output, Value
from .releases import is_examined, merges_factors
from .scalars import is_one_number

_BOUNDED = frozenset({"max", "min", "clamp"})
"""What XLA does not merge with a step after it."""

_AFTER = {
    "mul": {"max", "min", "mul"},
    "add": {"max", "min", "mul"},
    "max": {"max", "min", "mul", "add"},
    "min": {"max", "min", "mul", "add"},
}
"""The operations of steps, each with those that may come before it."""


class Step(NamedTuple):
    """One operation on each element of a leaf and a scalar."""

    name: str
    scalar: Any
    scalar_first: bool

    def apply(self, values: Array, scalar: Array) -> Array:
        """Computes the step with a scalar for each value, in the place of its own."""
        operands = (scalar, values) if self.scalar_first else (values, scalar)
        return getattr(lax, self.name)(*operands)


def without_steps(
    value: Output, is_full: Callable[[Value], bool], known_scalar: Callable[[Value], Any]
) -> tuple[Output, tuple[Step, ...]]:
    """Cuts as many steps off the end of a leaf as may have their scalars as arguments."""
    examined = is_examined() and value.aval.dtype in (np.float32, np.float64)
    whole, found = value, (value, ())
    steps: tuple[Step, ...] = ()
    while (last := _last(value, is_full, known_scalar)) is not None:
        value, step = last
        if steps and step.name not in _AFTER[steps[0].name]:
            break
        if not (examined and _is_dropped(step)):
            steps = (step, *steps)
        node = stripped(value).node
        is_factor = [step.name for step in steps] == ["mul"]
        if node.name in _BOUNDED and (examined or is_factor) or examined and _is_draw(node, steps):
            found = value, steps
    merged = _merged(found[1]) if merges_factors() else found[1]
    return (whole, ()) if merged is None else (found[0], merged)


def _last(
    value: Output, is_full: Callable[[Value], bool], known_scalar: Callable[[Value], Any]
) -> tuple[Output, Step] | None:
    """Reads the last operation on `value` as a step, and what it is done to."""
    node = stripped(value).node
    full = [v for v in node.inputs if is_full(v)]
    if node.name not in _AFTER or len(full) != 1:
        return None
    (other,) = [v for v in node.inputs if not is_full(v)]
    scalar = known_scalar(other)
    # A product with -1 is a difference of what is beside it.
    if scalar is None or not is_one_number(scalar) or (node.name == "mul" and scalar == -1):
        return None
    return full[0], Step(node.name, scalar, node.inputs[0] is other)


def _merged(steps: Sequence[Step]) -> tuple[Step, ...] | None:
    """Makes one step of factors in a row, as XLA does; None where it may do something else."""
    found: list[Step] = []
    for step in steps:
        if not found or (step.name, found[-1].name) != ("mul", "mul"):
            found.append(step)
            continue
        with np.errstate(all="ignore"):
            product = np.multiply(found.pop().scalar, step.scalar)
        # It drops a factor of one, and leaves alone what has no product.
        if abs(product) in (0, 1) or not np.isfinite(product) or not is_one_number(product):
            return None
        found.append(Step("mul", product, False))
    return tuple(found)


def _is_dropped(step: Step) -> bool:
    """Whether XLA drops a step with a constant, so that what is beside it meets."""
    return (step.name, step.scalar) in (("mul", 1), ("add", 0))


def _is_draw(node: Node, steps: Sequence[Step]) -> bool:
    """Whether a node is the last of a draw from (-1, 1) or (0, 1) that is not merged with steps."""
    if node.name != "sub":
        return node.name == "erf_inv"
    # From words between 1 and 2: two sums in a row could become one.
    before = node.inputs[0]
    drawn = isinstance(before, Output) and stripped(before).node.name == "bitcast_convert_type"
    return drawn and steps[:1] != () and steps[0].name == "mul"


def stripped(value: Any) -> Output:
    """Looks behind reshapes."""
    while value.node.name in RESHAPES:
        (value,) = value.node.inputs
    return value
