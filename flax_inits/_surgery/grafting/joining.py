"""Adapters between one array and several: loops become scans, and scans loops."""

import dataclasses

from ..._base import checks
from ..._base.errors import listed
from .adapter import Adapter, Goal, Misfit
from .views import View, concatenated, replaced, slice_of, stacked


class Join(Adapter):
    """A change of several arrays into one."""

    def joined(self, views: list[View]) -> View:
        """The arrays as one; all but the joined axis must be alike."""
        shapes = list(dict.fromkeys(self._common(view.shape) for view in views))
        dtypes = list(dict.fromkeys(view.dtype for view in views))
        if len(shapes) > 1:
            found = listed(list(dict.fromkeys(view.shape for view in views)))
            raise Misfit(f"{self!r} needs arrays of one shape, got {found}.")
        if len(dtypes) > 1:
            # No misfit, which mismatch="keep" would let pass: that is for shapes alone.
            one = f"{self!r} needs arrays of one dtype, got {listed(dtypes)}; cast() first."
            raise ValueError(one)
        return self._join(views)

    def _common(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        raise NotImplementedError

    def _join(self, views: list[View]) -> View:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, repr=False)
class stack(Join):
    """Makes one array of several, each a slice along a new axis: the layers of a scan.

    What a wildcard matches is stacked in natural order (`layer_2` before `layer_10`), what is
    listed in `take([...])` in the order given.

    Args:
        axis: where the new axis is in the result.

    Raises:
        ValueError: the arrays differ in shape or dtype (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import stack, take
    >>> donor = {f"layer_{i}": {"bias": np.full(2, i, "float32")} for i in range(3)}
    >>> params = {"layers": {"bias": np.zeros((3, 2), "float32")}}
    >>> rules = {"layers/**": take("layer_*/**", stack(axis=0))}
    >>> flax_inits.graft(params, donor, rules)["layers"]["bias"].tolist()
    [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    """

    axis: int

    def __post_init__(self) -> None:
        checks.integer("stack", "axis", self.axis)

    def _common(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def _join(self, views: list[View]) -> View:
        return stacked(views, self.axis_in(self.axis, (len(views), *views[0].shape)))


@dataclasses.dataclass(frozen=True, repr=False)
class concatenate(Join):
    """Makes one array of several, one after the other along an axis: a fused query, key, value.

    What a wildcard matches is joined in natural order, what is listed in `take([...])` in the
    order given.

    Args:
        axis: the axis that becomes longer.

    Raises:
        ValueError: the arrays differ in dtype, or in shape elsewhere (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import concatenate, take
    >>> donor = {name: np.full(1, i, "float32") for i, name in enumerate("qkv")}
    >>> rules = {"qkv": take(["q", "k", "v"], concatenate(axis=-1))}
    >>> flax_inits.graft({"qkv": np.zeros(3, "float32")}, donor, rules)["qkv"].tolist()
    [0.0, 1.0, 2.0]
    """

    axis: int

    def __post_init__(self) -> None:
        checks.integer("concatenate", "axis", self.axis)

    def _common(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self.axis_in(self.axis, shape)
        return replaced(shape, axis)

    def _join(self, views: list[View]) -> View:
        return concatenated(views, self.axis_in(self.axis, views[0].shape))


@dataclasses.dataclass(frozen=True, repr=False)
class unstack(Adapter):
    """Takes one slice along an axis for each leaf that a wildcard of the target matches.

    The leaves are counted in natural order (`layer_2` before `layer_10`), and must be as many as
    the slices. The inverse of `stack`.

    Args:
        axis: the axis that is gone in the result.

    Raises:
        ValueError: there are more or fewer leaves than slices (then from `graft`).

    >>> import flax_inits, numpy as np
    >>> from flax_inits import take, unstack
    >>> params = {f"layer_{i}": np.zeros(2, "float32") for i in range(2)}
    >>> donor = {"layers": np.array([[1, 2], [3, 4]], "float32")}
    >>> rules = {"layer_*": take("layers", unstack(axis=0))}
    >>> flax_inits.graft(params, donor, rules)["layer_1"].tolist()
    [3.0, 4.0]
    """

    axis: int

    def __post_init__(self) -> None:
        checks.integer("unstack", "axis", self.axis)

    def applied(self, view: View, goal: Goal) -> View:
        """The slice that belongs to the leaf."""
        axis = self.axis_in(self.axis, view.shape)
        assert goal.index is not None  # Planning counts the leaves of a rule that unstacks.
        index, count = goal.index
        if count != view.shape[axis]:
            few = f"cut(axis={self.axis}, size={count}) before it takes the first ones."
            if count > view.shape[axis]:
                few = f"let the rule win {view.shape[axis]}, and an earlier one, or none, the rest."
            raise Misfit(
                f"{self!r}: the {view.shape[axis]} slices of {view.shape} would go to {count} of "
                "the target's leaves, which must be as many. They are counted by a wildcard that "
                f"the target has and the source has not; {few}"
            )
        return slice_of(view, axis, index)
