"""What only Linen modules know: which leaves belong to modules of a class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from ..._base.errors import brief, noted
from ..._base.types import Path
from ..._tree.forms import PathTest
from ..._tree.paths import paths
from ..arguments import of_arrays
from ..classes import Classes, checked, is_below, missing, shown
from .tracing import all_collections_but, scope_of


def of_type(model: Any, cls: Classes, args: tuple, kwargs: dict[str, Any]) -> PathTest:
    """Selects the leaves at or below modules of a class that `model.init` runs."""
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else brief(model)
        raise TypeError(
            "of_type needs a model: a Linen module, which is an instance of nn.Module, or an "
            f"nnx.Module; got {given}."
        )
    classes = checked(cls, nn.Module, "nn.Module")
    note = f"while {type(model).__name__}.init was traced by of_type with the inputs given to it"
    with noted(note):
        found, variables = _traced(model, args, kwargs)
    modules = frozenset(path for path, kind in found if issubclass(kind, classes))
    if not modules:
        raise missing(model, classes, [kind for _, kind in found])
    return OfType(cls, modules, frozenset(paths(variables)))


@dataclasses.dataclass(frozen=True, repr=False)
class OfType(PathTest):
    """Leaves by the paths of the modules above them."""

    cls: Classes
    modules: frozenset[Path]
    variables: frozenset[Path]

    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each leaf is at or below one of the modules.

        The tree is either all variables, whose paths start with a collection, or the params
        alone. A module may well be called "params", so no single path can tell; the leaves
        that the model makes can. Where they cannot (another tree of the same modules), a path
        may be read either way.
        """
        whole = sum(path in self.variables for path in paths)
        alone = sum(path in self._params for path in paths)
        below = functools.partial(is_below, starts=self.modules)
        return [
            (alone >= whole and below(path))
            or (whole >= alone and path[:1] in self._collections and below(path[1:]))
            for path in paths
        ]

    @functools.cached_property
    def _collections(self) -> set[Path]:
        return {path[:1] for path in self.variables}

    @functools.cached_property
    def _params(self) -> set[Path]:
        return {path[1:] for path in self.variables if path[0] == "params"}

    def __repr__(self) -> str:
        return shown(self.cls)


def _traced(
    model: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[list[tuple[Path, type]], Any]:
    """The path and class of every module that `model.init` runs, and the abstract variables."""
    found: dict[tuple[Path, type], None] = {}

    def record(method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if scope := scope_of(context.module):
            found[scope.path, type(context.module)] = None
        return method(*args, **kwargs)

    def init(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(record):
            key, mutable = jax.random.key(0), all_collections_but("intermediates")
            return model.init(key, *args, **{"mutable": mutable, **kwargs})

    variables = jax.eval_shape(*of_arrays(init, args, kwargs))
    return list(found), variables
