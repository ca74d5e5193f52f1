"""The fans of a kernel, and draws whose scale follows from the shape."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from ..._base import checks
from ..._base.types import Array, Key
from ..._tree.leaves import at_least_float32
from .complex_draws import real_part
from .configured import Draw
from .rounding import clip, is_narrow, round_inwards

Axes: TypeAlias = int | tuple[int, ...]
"""One axis or several, negative ones from the end."""


def _square_root(value: Any) -> Any:
    known = isinstance(value, int | float)
    return value**0.5 if known else jnp.sqrt(jnp.asarray(value, np.float32))


MODES: dict[str, Callable[[Any, Any], Any]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: _square_root(fan_in * fan_out),
}


class Fans:
    """Which axes of a kernel sum into an output and which receive an input; the rest is spatial."""

    def __init__(
        self,
        factory: str,
        in_axis: Any = -2,
        out_axis: Any = -1,
        batch_axis: Any = (),
        groups: int = 1,
        fan_in: float | None = None,
        fan_out: float | None = None,
    ):
        self.factory = factory
        self.in_axis = checks.axes(factory, "in_axis", in_axis)
        self.out_axis = checks.axes(factory, "out_axis", out_axis)
        self.batch_axis = checks.axes(factory, "batch_axis", batch_axis)
        self.groups = checks.count(factory, "groups", groups)
        self.fan_in = None if fan_in is None else checks.positive(factory, "fan_in", fan_in)
        self.fan_out = None if fan_out is None else checks.positive(factory, "fan_out", fan_out)

    def of(self, mode: str, shape: tuple) -> Any:
        """The fan that `mode` names: a number, or an expression where a size is symbolic."""
        fan_in, fan_out = self.fan_in, self.fan_out
        if fan_in is None and mode != "fan_out":
            fan_in = self._product_without(self._axes(shape)[1], shape)
        if fan_out is None and mode != "fan_in":
            fan_out = self._product_without(self._axes(shape)[0], shape)
            if self.groups > 1:
                checks.divides(self.factory, "groups", self.groups, shape, self.out_axis[-1])
                fan_out = fan_out / self.groups
        return MODES[mode](fan_in, fan_out)

    def _axes(self, shape: tuple) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        ndim = len(shape)
        if ndim < 2 and (self.in_axis, self.out_axis) == ((-2,), (-1,)):
            raise ValueError(
                f"{self.factory} cannot tell the fans of shape {shape}, which has no (in, out) "
                "axes; give the in_axis and out_axis that it has, or a fan to variance_scaling. "
                "A bias needs a rule of its own, such as zeros()."
            )
        inner = checks.wrapped(self.factory, "in_axis", self.in_axis, ndim)
        outer = checks.wrapped(self.factory, "out_axis", self.out_axis, ndim)
        batch = checks.wrapped(self.factory, "batch_axis", self.batch_axis, ndim)
        if set(batch) & {*inner, *outer}:
            raise ValueError(
                f"{self.factory}: batch_axis={self.batch_axis} overlaps in_axis={self.in_axis} or "
                f"out_axis={self.out_axis} in shape {shape}; give axes that differ."
            )
        return inner, outer, batch

    def _product_without(self, left_out: tuple[int, ...], shape: tuple) -> Any:
        # No division by sizes, which may be zero: in_axis == out_axis comes out as in jax.
        skipped = {*left_out, *self._axes(shape)[2]}
        return math.prod(size for axis, size in enumerate(shape) if axis not in skipped)


def root(value: Any, dtype: np.dtype, times: int = 1) -> Any:
    """√(times · value) in `dtype`: a NumPy scalar, or traced where sizes are symbolic."""
    dtype = real_part(dtype)
    if isinstance(value, int | float):
        return np.sqrt(dtype.type(times) * dtype.type(value))
    return jnp.sqrt(times * jnp.asarray(value, dtype))


def scaled_by_shape(
    sample: Callable[[Key, tuple, np.dtype], Array],
    factor: Callable[[tuple, np.dtype], Any],
    reach: float = math.inf,
    kinds: tuple[Any, ...] = (jnp.floating,),
) -> Draw:
    """Draws `sample * factor(shape, dtype)`, where real samples stay within ±`reach`."""

    def draw(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        if checks.is_empty(shape):
            return jnp.zeros(shape, dtype)
        wide = at_least_float32(dtype)
        scale = factor(shape, wide)
        if isinstance(scale, np.floating) and not scale:
            return jnp.zeros(shape, dtype)  # no negative zeros
        values = sample(key, shape, wide) * jnp.asarray(scale, wide)
        if is_narrow(dtype) and isinstance(scale, np.floating | float):
            limit = reach * float(scale)
            values = clip(values, *round_inwards(-limit, limit, dtype))
        return values.astype(dtype)

    return Draw(draw, kinds=kinds, widen=False)
