"""The adapter that makes an array longer: more words, classes or positions."""

import dataclasses
from typing import Any

from ..._base import checks
from .adapter import Adapter, Goal, Misfit
from .views import View, averaged, concatenated, part, replaced


@dataclasses.dataclass(frozen=True, repr=False)
class grow(Adapter):
    """Makes the donor's array longer along one axis; what it held comes first, and stays.

    The new part holds the target's own values, or those that `init` draws, or the mean of the old
    entries. It never makes an array shorter: that is `cut`.

    Args:
        axis: the axis that becomes longer.
        init: an initializer, which is called with the whole shape and the key of the leaf's path:
            the new part is as `reinit(key, params, {target: init})` makes it there. None keeps
            the target's own values, "mean" takes the mean of the old entries along the axis.
        size: the new size; None is the target's.

    Raises:
        ValueError: `init` is another string; the array is longer already, or the target's own
            values are asked for and it is abstract (then from `graft`).
        TypeError: `init` is not callable.

    >>> import flax_inits, numpy as np
    >>> from flax_inits import grow, take
    >>> params, donor = {"emb": np.zeros(3, "float32")}, {"emb": np.ones(2, "float32")}
    >>> flax_inits.graft(params, donor, {"emb": take("emb", grow(axis=0))})
    {'emb': Array([1., 1., 0.], dtype=float32)}
    """

    axis: int
    init: Any = None
    size: int | None = None

    def __post_init__(self) -> None:
        checks.integer("grow", "axis", self.axis)
        if self.size is not None:
            checks.integer("grow", "size", self.size, least=0)
        if getattr(self.init, "is_factory", False):
            name = self.init.__name__
            raise TypeError(f"grow needs an initializer, got the factory {name}: write {name}().")
        elif self.init not in (None, "mean") and not callable(self.init):
            error = ValueError if isinstance(self.init, str) else TypeError
            raise error(f"grow needs an initializer, 'mean' or None for init, got {self.init!r}.")

    @property
    def draws(self) -> bool:
        """Whether it takes a key."""
        return callable(self.init)

    def applied(self, view: View, goal: Goal) -> View:
        """The array, and the new part behind it."""
        axis = self.axis_in(self.axis, view.shape)
        size = self.target_size(axis, view, goal) if self.size is None else self.size
        old = view.shape[axis]
        if size < old:
            raise Misfit(
                f"{self!r} never shrinks, but axis {axis} of {view.shape} is longer than {size}; "
                f"use cut(axis={self.axis})."
            )
        if size == old:
            return view
        return concatenated([view, self._new(view, goal, axis, size)], axis)

    def _new(self, view: View, goal: Goal, axis: int, size: int) -> View:
        old = view.shape[axis]
        if self.init == "mean":
            if not old:
                raise Misfit(
                    f"{self!r} takes the mean of old entries, of which {view.shape} has none."
                )
            return averaged(view, axis, size - old)
        shape = replaced(view.shape, axis, size)
        if self.init is not None:
            return part(goal.draw(self.init, shape, view.dtype), axis, old, size)
        if goal.own is None:
            raise ValueError(
                f"{self!r} keeps the target's own values in the new part, but the target is "
                "abstract and has none: give grow an init, or 'mean'."
            )
        if not goal.grows:
            raise ValueError(
                f"{self!r} keeps the target's own values, which are known only where nothing but "
                "grow and cast follow; put it last, or give it an init."
            )
        fits = len(shape) == len(goal.shape)
        if not fits or any(a > b for a, b in zip(shape, goal.shape, strict=True)):
            raise Misfit(f"{self!r} makes {shape}, but the target has shape {goal.shape}.")
        own = part(goal.own(), axis, old, size)
        for other, width in enumerate(shape):
            own = own if other == axis else part(own, other, 0, width)
        return own
