"""What only Linen modules know: which leaves belong to modules of a class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from ..._base.errors import listed, noted
from ..._base.types import Path
from ..._tree.forms import PathTest
from ..._tree.paths import paths
from ..arguments import of_arrays
from .tracing import all_but, scope_of


def of_type(model: nn.Module, cls: type | tuple[type, ...], *args: Any, **kwargs: Any) -> PathTest:
    """Selects every leaf at or below a module of class `cls`, for use as a `where`.

    Args:
        model: a Linen module. It is traced, never run.
        cls: a subclass of `nn.Module`, or a tuple of them; subclasses of these count, too.
        *args: what `model.init` takes after the key: arrays, or `jax.ShapeDtypeStruct`s.
        **kwargs: likewise, `method=` included.

    Returns:
        A hashable `where`, good for `variables` and `variables["params"]` alike.

    Raises:
        TypeError: `model` is no Linen module, or `cls` no class of them.
        ValueError: the model has no module of that class (the message names those it has).

    >>> import flax_inits, flax.linen as nn, jax, jax.numpy as jnp
    >>> model, x = nn.Sequential([nn.Dense(2), nn.LayerNorm()]), jnp.ones((1, 3))
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> flax_inits.select(params, flax_inits.of_type(model, nn.LayerNorm, x))
    {'layers_0': {'bias': False, 'kernel': False}, 'layers_1': {'bias': True, 'scale': True}}
    """
    classes = _checked(model, cls)
    note = f"while {type(model).__name__}.init was traced by of_type with the inputs given to it"
    with noted(note):
        found, variables = _traced(model, args, kwargs)
    modules = frozenset(path for path, kind in found if issubclass(kind, classes))
    if not modules:
        known = list(dict.fromkeys(kind.__name__ for _, kind in found))
        wanted = listed([kind.__name__ for kind in classes], "or")
        raise ValueError(
            f"{type(model).__name__} has no module of class {wanted}; it has {listed(known)}."
        )
    return _OfType(cls, modules, frozenset(paths(variables)))


@dataclasses.dataclass(frozen=True, repr=False)
class _OfType(PathTest):
    """Leaves by the paths of the modules above them."""

    cls: type | tuple[type, ...]
    modules: frozenset[Path]
    variables: frozenset[Path]

    def __call__(self, path: Path, leaf: Any = None) -> bool:
        return self.of_paths([path])[0]

    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each leaf is at or below one of the modules.

        The tree is either all variables, whose paths start with a collection, or the params
        alone. A module may well be called "params", so no single path can tell; the leaves
        that the model makes can. Where they cannot (another tree of the same modules), a path
        may be read either way.
        """
        whole = sum(path in self.variables for path in paths)
        alone = sum(path in self._params for path in paths)
        return [
            (alone >= whole and self._below(path))
            or (whole >= alone and path[:1] in self._collections and self._below(path[1:]))
            for path in paths
        ]

    def _below(self, path: Path) -> bool:
        return any(path[:length] in self.modules for length in self._lengths)

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(module) for module in self.modules})

    @functools.cached_property
    def _collections(self) -> set[Path]:
        return {path[:1] for path in self.variables}

    @functools.cached_property
    def _params(self) -> set[Path]:
        return {path[1:] for path in self.variables if path[0] == "params"}

    def __repr__(self) -> str:
        if isinstance(self.cls, tuple):
            return f"of_type(model, ({', '.join(kind.__name__ for kind in self.cls)}))"
        return f"of_type(model, {self.cls.__name__})"


def _checked(model: Any, cls: Any) -> tuple[type, ...]:
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else repr(model)
        raise TypeError(f"of_type needs a Linen module, an instance of nn.Module; got {given}.")
    classes = cls if isinstance(cls, tuple) else (cls,)
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            module = isinstance(kind, nn.Module)
            given = f"a module: give the class {type(kind).__name__}" if module else repr(kind)
            raise TypeError(
                f"of_type selects by a subclass of nn.Module, or a tuple of them; got {given}."
            )
    if not classes:
        raise ValueError("of_type got an empty tuple of classes, which would select nothing.")
    return classes


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
            key, mutable = jax.random.key(0), all_but("intermediates")
            return model.init(key, *args, **{"mutable": mutable, **kwargs})

    variables = jax.eval_shape(*of_arrays(init, args, kwargs))
    return list(found), variables
