"""The adapter for grids of positions: another resolution, another patch size."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from ..._base import checks
from ..._tree.leaves import at_least_float32
from .adapter import Adapter, Goal, Misfit
from .views import View, computed, concatenated, part, replaced

_METHODS = "nearest linear bilinear trilinear cubic bicubic lanczos3 lanczos5".split()


@dataclasses.dataclass(frozen=True, repr=False)
class resize(Adapter):
    """Interpolates a grid of positions to the target's size, by `jax.image.resize`.

    Args:
        axes: the axes of the grid, as `(0, 1)`; or the one axis along which a grid is flattened,
            row by row.
        method: as for `jax.image.resize`, such as "bilinear" or "bicubic".
        prefix: how many entries at the start of the flattened axis are no positions (class and
            register tokens); they are kept. It is never guessed.
        grid: the shape of a flattened grid, `(h, w)`, or `(length,)` for positions in a row; two
            of them, `((h, w), (H, W))`, say the target's as well. None is for squares.

    Raises:
        ValueError: `method` is unknown; `prefix` or `grid` come with several axes; a flattened
            grid is no square and `grid` does not say its shape (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import resize, take
    >>> params = {"pos": np.zeros((1, 1 + 16, 8), "float32")}
    >>> donor = {"pos": np.ones((1, 1 + 4, 8), "float32")}
    >>> rules = {"pos": take("pos", resize(axes=1, method="bilinear", prefix=1))}
    >>> flax_inits.graft(params, donor, rules)["pos"].shape
    (1, 17, 8)
    """

    axes: int | tuple[int, ...]
    method: str
    prefix: int = 0
    grid: Any = None

    def __post_init__(self) -> None:
        axes = checks.axes("resize", "axes", self.axes)
        object.__setattr__(self, "axes", axes[0] if len(axes) == 1 else axes)
        checks.one_of("resize", "method", self.method, _METHODS)
        checks.integer("resize", "prefix", self.prefix, least=0)
        if len(axes) > 1 and (self.prefix or self.grid is not None):
            raise ValueError(
                f"resize: prefix and grid are for a grid flattened along one axis, got axes={axes}."
            )
        if self.grid is not None:
            object.__setattr__(self, "grid", _frozen(self.grid))

    def applied(self, view: View, goal: Goal) -> View:
        """The array with its grid in the target's size."""
        if isinstance(self.axes, tuple):
            return self._resized(self.axes, view, goal)
        axis = self.axis_in(self.axes, view.shape)
        size = self.target_size(axis, view, goal)
        old, new = self._grids(view.shape[axis] - self.prefix, size - self.prefix)
        if old == new:
            return view
        tail = part(view, axis, self.prefix, view.shape[axis])

        def interpolated(array: Any) -> Any:
            gridded = array.reshape(replaced(view.shape, axis, *old))
            made = self._interpolate(gridded, replaced(view.shape, axis, *new))
            return made.reshape(flat)

        flat = replaced(view.shape, axis, math.prod(new))
        made = computed(tail, interpolated, flat, view.dtype)
        return concatenated([part(view, axis, 0, self.prefix), made], axis) if self.prefix else made

    def _resized(self, axes: tuple[int, ...], view: View, goal: Goal) -> View:
        shape = list(view.shape)
        for axis in axes:
            axis = self.axis_in(axis, view.shape)
            shape[axis] = self.target_size(axis, view, goal)
        if tuple(shape) == view.shape:
            return view
        inner = view._replace(raw=None)
        return computed(inner, lambda array: self._interpolate(array, shape), shape, view.dtype)

    def _interpolate(self, array: Any, shape: Any) -> Any:
        wide = array.astype(at_least_float32(array.dtype))
        with jax.numpy_dtype_promotion("standard"):
            made = jax.image.resize(wide, shape, self.method)
        made = made.astype(array.dtype)
        return made if isinstance(array, jax.Array) else np.asarray(made)

    def _grids(self, old: int, new: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the donor's and of the target's flattened grid."""
        given = self.grid
        first, second = given if given and isinstance(given[0], tuple) else (given, None)
        if first is None:
            first = _square(old)
        if second is None:
            second = (new,) if first and len(first) == 1 else _square(new)
        for name, found, count in (("donor", first, old), ("target", second, new)):
            if found is None:
                raise Misfit(
                    f"{self!r}: the {count} positions of the {name} are no square. Say which grid "
                    f"they are, grid=(h, w) or grid=((h, w), (H, W)), or how many class tokens "
                    f"are not among them, prefix={self.prefix + 1}."
                )
            if math.prod(found) != count:
                raise Misfit(f"{self!r}: {found} is no grid of the {name}'s {count} positions.")
        return first, second  # type: ignore[return-value]


def _square(count: int) -> tuple[int, int] | None:
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None


def _frozen(grid: Any) -> tuple:
    """`grid` as tuples of integers, hashable whatever sequence was given."""
    items = tuple(grid) if isinstance(grid, tuple | list) else (grid,)
    if any(isinstance(item, tuple | list) for item in items):
        if len(items) != 2:
            raise ValueError(f"resize needs grid=((h, w), (H, W)) or grid=(h, w), got {grid!r}.")
        return tuple(map(_frozen, items))
    for item in items:
        checks.integer("resize", "every size of grid", item, least=1)
    return items
