"""Adapters of one array: a part of it, copies of it, another layout, another dtype."""

import dataclasses
import math

import numpy as np

from ..._base import checks
from ..._base.types import DType
from ..._tree.casting import can_cast
from .adapter import Adapter, Goal, Misfit
from .views import View, computed, converted, part, repeated, transposed


@dataclasses.dataclass(frozen=True, repr=False)
class cut(Adapter):
    """Takes a part of the donor's array along one axis.

    Args:
        axis: the axis that becomes shorter.
        start: the first entry that is taken.
        size: how many; None takes as many as the target has.

    Raises:
        ValueError: `start` or `size` is negative, or the donor has fewer (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import cut, take
    >>> donor = {"emb": np.arange(6.0, dtype="float32")}
    >>> flax_inits.graft({"emb": np.zeros(4, "float32")}, donor, {"emb": take("emb", cut(axis=0))})
    {'emb': Array([0., 1., 2., 3.], dtype=float32)}
    """

    axis: int
    start: int = 0
    size: int | None = None

    def __post_init__(self) -> None:
        checks.integer("cut", "axis", self.axis)
        checks.integer("cut", "start", self.start, least=0)
        if self.size is not None:
            checks.integer("cut", "size", self.size, least=0)

    def applied(self, view: View, goal: Goal) -> View:
        """The part of the array."""
        axis = self.axis_in(self.axis, view.shape)
        size = self.target_size(axis, view, goal) if self.size is None else self.size
        if self.start + size > view.shape[axis]:
            grow = "" if self.start else f" Did you mean grow(axis={self.axis})?"
            raise Misfit(
                f"{self!r}: {size} entries from {self.start} are more than the "
                f"{view.shape[axis]} along axis {axis} of {view.shape}.{grow}"
            )
        return part(view, axis, self.start, self.start + size)


@dataclasses.dataclass(frozen=True, repr=False)
class tile(Adapter):
    """Inserts an axis, as long as the target's, along which all slices are the same.

    Args:
        axis: where the new axis is in the target.

    Raises:
        ValueError: anything but `cast` follows (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import take, tile
    >>> experts = {"up": np.zeros((3, 2), "float32")}
    >>> donor = {"up": np.array([1, 2], "float32")}
    >>> flax_inits.graft(experts, donor, {"up": take("up", tile(axis=0))})["up"].tolist()
    [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    """

    axis: int

    def __post_init__(self) -> None:
        checks.integer("tile", "axis", self.axis)

    def applied(self, view: View, goal: Goal) -> View:
        """The array as every slice."""
        if not goal.last:
            raise ValueError(
                f"{self!r} is as long as the target's axis, which is known only where nothing but "
                "cast follows: put it last."
            )
        if len(goal.shape) != len(view.shape) + 1:
            raise Misfit(f"{self!r} adds one axis, but makes {goal.shape} of {view.shape}.")
        axis = self.axis_in(self.axis, goal.shape)
        return repeated(view, axis, goal.shape[axis])


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class transpose(Adapter):
    """Puts the axes in another order: `transpose(1, 0)` for a PyTorch linear layer.

    Args:
        *axes: for each axis of the result, the donor's axis that it is; none reverses them all.

    Raises:
        ValueError: an axis is named twice, or they are not as many as the array has (then from
            `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import take, transpose
    >>> donor = {"head.weight": np.array([[1, 2]], "float32")}
    >>> rules = {"head/kernel": take("head.weight", transpose(1, 0))}
    >>> params = {"head": {"kernel": np.zeros((2, 1), "float32")}}
    >>> flax_inits.graft(params, donor, rules)["head"]["kernel"].tolist()
    [[1.0], [2.0]]
    """

    axes: tuple[int, ...]

    def __init__(self, *axes: int):
        for axis in axes:
            checks.integer("transpose", "every axis", axis)
        if len(set(axes)) < len(axes):
            raise ValueError(f"transpose needs distinct axes, got {axes}.")
        object.__setattr__(self, "axes", axes)

    def __repr__(self) -> str:
        return f"transpose({', '.join(map(repr, self.axes))})"

    def applied(self, view: View, goal: Goal) -> View:
        """The array with its axes in this order."""
        rank = len(view.shape)
        axes = [self.axis_in(axis, view.shape) for axis in self.axes] or range(rank)[::-1]
        if sorted(axes) != list(range(rank)):
            raise Misfit(f"{self!r} does not name each axis of an array of shape {view.shape}.")
        return transposed(view, axes)


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class reshape(Adapter):
    """Reads the same elements, last axis fastest, in another shape.

    Args:
        *shape: the sizes of the result; one may be -1.

    Raises:
        ValueError: a size is below -1, or -1 comes twice; the array has another number of
            elements (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import reshape, take
    >>> donor = {"query": np.zeros((8, 8), "float32")}
    >>> params = {"query": np.ones((8, 2, 4), "float32")}
    >>> flax_inits.graft(params, donor, {"query": take("query", reshape(8, 2, 4))})["query"].shape
    (8, 2, 4)
    """

    shape: tuple[int, ...]

    def __init__(self, *shape: int):
        for size in shape:
            checks.integer("reshape", "every size", size, least=-1)
        if shape.count(-1) > 1:
            raise ValueError(f"reshape can infer one size, got {shape}.")
        object.__setattr__(self, "shape", shape)

    def __repr__(self) -> str:
        return f"reshape({', '.join(map(repr, self.shape))})"

    def applied(self, view: View, goal: Goal) -> View:
        """The elements in this shape."""
        total, known = math.prod(view.shape), math.prod(size for size in self.shape if size >= 0)
        rest = total // known if known else 0
        shape = tuple(rest if size == -1 else size for size in self.shape)
        if math.prod(shape) != total:
            raise Misfit(f"{self!r} has not as many elements as an array of shape {view.shape}.")
        # Read as the host or the trace holds it: of a NumPy array in memory or on disk, no copy.
        inner = view._replace(raw=None)
        return computed(inner, lambda array: array.reshape(shape), shape, view.dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class cast(Adapter):
    """Converts to another dtype: floats to floats, integers to floats, not back.

    Args:
        dtype: the dtype; None is the target's.

    Raises:
        TypeError: `dtype` is no dtype.

    >>> import flax_inits, jax.numpy as jnp, numpy as np
    >>> from flax_inits import cast, take
    >>> donor = {"bias": jnp.ones(2, "bfloat16")}
    >>> flax_inits.graft({"bias": np.zeros(2, "float32")}, donor, {"bias": take("bias", cast())})
    {'bias': Array([1., 1.], dtype=float32)}
    """

    dtype: DType = None

    def __post_init__(self) -> None:
        if self.dtype is not None:
            object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __repr__(self) -> str:
        return "cast()" if self.dtype is None else f"cast({self.dtype.name!r})"

    def applied(self, view: View, goal: Goal) -> View:
        """The array in the dtype."""
        dtype = np.dtype(goal.dtype if self.dtype is None else self.dtype)
        if not can_cast(view.dtype, dtype):
            raise ValueError(f"{self!r} would make {dtype} of {view.dtype}, which loses values.")
        return view if dtype == view.dtype else converted(view, dtype)
