"""Which values of a running network are recorded, and what they are called."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.core.tracers import current_trace

from .._base.types import Array, Path
from .._modules.calls import Layer
from .._tree.modules import is_module
from .._tree.paths import paths
from .taps import tap

_runs = itertools.count()


@dataclasses.dataclass
class Point:
    """One recorded value: what it is, and what becomes of it."""

    path: Path
    role: str
    """"argument", "enters" (a module, of what plain functions made), "output" (of a module),
    "recorded" (by name) or "result"."""

    enters: bool = False
    """Whether a module takes it as its input."""

    result: bool = False
    """Whether the network returns it."""

    returned_by: list[Path] = dataclasses.field(default_factory=list)
    """Modules that return it as it is, though a module within or before them made it."""


class Recorder:
    """Taps values in the order in which they come about, each value once."""

    def __init__(self):
        self.prefix = f"flax_inits.signal {next(_runs)}:"
        self._points: list[Point] = []
        # Both sides of a tap, by identity; they are kept alive, lest another value gets their id.
        # A tap within a scan is no stand-in for the value outside, so its trace counts, too.
        self._known: dict[int, tuple[Any, Array, Array, Point]] = {}

    def point(self, name: str) -> Point:
        """The point that a tap belongs to."""
        return self._points[int(name.removeprefix(self.prefix))]

    def arguments(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The network's inputs; by name, arrays alone count, as much else is given so."""
        names = [()] if len(args) == 1 else [(str(i),) for i in range(len(args))]
        inputs = tuple(
            given if is_module(given) else self._all(given, name, "argument")
            for given, name in zip(args, names, strict=True)
        )
        named = {
            name: self._one(given, (name,), "argument")[0] if _is_activation(given) else given
            for name, given in kwargs.items()
        }
        return inputs, named

    def record(self, name: str, value: Any) -> Any:
        """Records a value, or a tree of them, and returns it, to be used from there on."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"record(name, value) takes a name of type str, got {name!r}.")
        return self._all(value, tuple(name.split("/")), "recorded")

    def result(self, outputs: Any) -> Any:
        """What the network returns."""
        return self._all(outputs, (), "result")

    def intercept(
        self, layer: Layer, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """Records what modules take and return; for `watching`."""
        if not layer.path:
            return call(*args, **kwargs)
        if args:
            args = (self._entering(args[0], layer.path), *args[1:])
        elif name := next((n for n in kwargs if _is_activation(kwargs[n])), ""):
            kwargs = kwargs | {name: self._entering(kwargs[name], layer.path)}
        return self._all(call(*args, **kwargs), layer.path, "output")

    def _entering(self, value: Any, path: Path) -> Any:
        """What a module takes as its input."""
        if not _is_activation(value):
            return value
        tapped, point = self._one(value, path, "enters")
        point.enters = True
        return tapped

    def _all(self, values: Any, path: Path, role: str) -> Any:
        leaves, treedef = jax.tree.flatten(values)
        names = paths(values)
        return treedef.unflatten(
            [
                self._one(leaf, path + name, role)[0] if _is_activation(leaf) else leaf
                for name, leaf in zip(names, leaves, strict=True)
            ]
        )

    def _one(self, value: Array, path: Path, role: str) -> tuple[Array, Point]:
        trace = current_trace()
        known = id(value) in self._known and self._known[id(value)][0] == trace
        if not known or role == "recorded":
            point = Point(path, role)
            tapped = tap(value, f"{self.prefix}{len(self._points)}")
            self._points.append(point)
            self._known[id(value)] = self._known[id(tapped)] = trace, value, tapped, point
        _, _, tapped, point = self._known[id(value)]
        point.result |= role == "result"
        if role == "output" and (path, role) != (point.path, point.role):
            if path not in point.returned_by:
                point.returned_by.append(path)
        return tapped, point


def _is_activation(value: Any) -> bool:
    array = isinstance(value, jax.Array) and value.size > 0
    return array and jnp.issubdtype(value.dtype, jnp.inexact)
