"""What each entry of an optimizer's state becomes when its params are grafted."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._base.types import Path
from .._surgery.grafting.adapter import Adapter, Goal
from .._surgery.grafting.adapters import cast
from .._surgery.grafting.growing import grow
from .._surgery.grafting.planning import Planned, Taken
from .._surgery.grafting.resizing import resize
from .._surgery.grafting.take import take
from .._surgery.grafting.views import Region, View, of_array, whole
from .._tree.leaves import dtype_of
from .._tree.paths import show
from .entries import Entry
from .roles import Held, Roles, role_of


class Following:
    """What follows the params of a plan, and what is lost."""

    def __init__(
        self,
        plan: Planned,
        names: Sequence[Path],
        params: Sequence[Any],
        donor: Sequence[Held],
        staged: bool,
    ):
        self._plan, self._names, self._params, self._staged = plan, names, params, staged
        donor_names = list(plan.donor)
        self._index = {name: i for i, name in enumerate(donor_names)}
        self._roles = Roles(donor, donor_names)
        self.lost: list[Path] = []

    def view(self, own: Held) -> View | None:
        """The new values of an entry; None if it stays, which is noted where that is a loss."""
        entry = own.entry
        moved = [param for param in entry.params if param in self._plan.taken]
        if not moved:
            return None
        if entry.kind == "setting":
            return self._random(own)
        if entry.kind == "own":
            view = self._statistics(own, moved[0])
        else:
            view = self._shared(own, moved)
        if view is None:
            self.lost.append(entry.path)
        elif view.dtype != dtype_of(own.value):
            raise ValueError(
                f"The donor's optimizer state is {view.dtype} where {show(entry.path)!r} is "
                f"{dtype_of(own.value)}: add cast() to the rule, or make both optimizers with one "
                "dtype."
            )
        return view

    def _statistics(self, own: Held, param: int) -> View | None:
        """What belongs to one param, adapted as the param is."""
        taken = self._plan.taken[param]
        role = role_of(own.entry.path, self._names[param])
        if not self._index.keys() >= {*taken.paths}:
            return None  # Of a donor's variable that its optimizer does not train.
        held = {path: self._roles.own(self._index[path], role) for path in taken.paths}
        arrays = {path: one.value for path, one in held.items() if one is not None}
        if len(arrays) < len(held):
            return None
        shape = np.shape(own.value)
        shaped = shape == np.shape(self._params[param]) and all(
            np.shape(array) == np.shape(self._plan.donor[path]) for path, array in arrays.items()
        )
        alike = all(np.shape(array) == shape for array in arrays.values())
        if not shaped and not (_is_plain(taken) and alike):
            return None
        try:
            return _for_statistics(taken).view(arrays, self._goal(own), self._staged)
        except ValueError:  # As where the part that is new cannot be told from the rest.
            return None

    def _shared(self, own: Held, moved: Sequence[int]) -> View | None:
        """What several params share: counts always, statistics only if nothing else changed."""
        paths = [path for i in moved for path in self._plan.taken[i].paths]
        sources = [self._index[path] for path in paths if path in self._index]

        def fits(entry: Entry) -> bool:
            if entry.kind != own.entry.kind or entry.shape != np.shape(own.value):
                return False
            if entry.kind == "count":
                return not entry.params.isdisjoint(sources)
            return len(moved) == len(own.entry.params) and sorted(entry.params) == sources

        if own.entry.kind == "mixed" and not all(_is_plain(self._plan.taken[i]) for i in moved):
            return None
        found = self._roles.shared(own.entry.path, fits)
        return None if found is None else self._copy(found)

    def _random(self, own: Held) -> View | None:
        """Random keys go on as the donor's; hyperparameters are the target's."""
        dtype = dtype_of(own.value)
        if dtype != np.uint32 and not jnp.issubdtype(dtype, jax.dtypes.extended):
            return None
        found = self._roles.shared(own.entry.path, lambda entry: entry.path == own.entry.path)
        if found is None or found.entry.shape != np.shape(own.value):
            return None
        return self._copy(found) if dtype_of(found.value) == dtype else None

    def _copy(self, held: Held) -> View:
        return of_array(held.value, self._staged)

    def _goal(self, own: Held) -> Goal:
        def undrawn(*_: Any) -> View:
            raise AssertionError("statistics are never drawn")

        shape, dtype = tuple(np.shape(own.value)), dtype_of(own.value)
        return Goal(own.entry.path, shape, dtype, lambda: self._copy(own), undrawn)


def _is_plain(taken: Taken) -> bool:
    """Whether a param is the donor's as it was, but for its dtype."""
    adapters = taken.rule.take.adapters
    return len(taken.paths) == 1 and all(isinstance(adapter, cast) for adapter in adapters)


def _for_statistics(taken: Taken) -> Taken:
    """The rule for what an optimizer holds of a param, instead of for the param itself."""
    adapters = map(_for_statistic, taken.rule.take.adapters)
    return taken._replace(rule=taken.rule._replace(take=take(taken.rule.take.source, *adapters)))


def _for_statistic(adapter: Any) -> Any:
    if isinstance(adapter, grow):
        return dataclasses.replace(adapter, init=None)  # What is new is as in a fresh state.
    if isinstance(adapter, cast):
        return cast()
    return _NoneBelowZero(adapter) if isinstance(adapter, resize) else adapter


@dataclasses.dataclass(frozen=True, repr=False)
class _NoneBelowZero(Adapter):
    """Resizes; where the donor has nothing below zero, as a second moment, neither has this."""

    resizes: resize

    def applied(self, view: View, goal: Goal) -> View:
        made = self.resizes.applied(view, goal)

        def read(region: Region) -> Any:
            found, old = made.read(region), view.read(whole(view.shape))
            numpy = jnp if isinstance(found, jax.Array) else np
            raised = numpy.maximum(found, numpy.zeros_like(found))
            return numpy.where((old >= 0).all(), raised, found)

        return made if made is view else View(made.shape, made.dtype, read)
