"""A donor's leaves and what is to be done to them on the way, and the view that comes of it."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..._base.errors import noted
from .adapter import Adapter, Goal
from .adapters import cast
from .growing import grow
from .joining import Join
from .views import View, computed


@dataclasses.dataclass(frozen=True, repr=False, init=False)
class take:
    """What a leaf is made of, for the rules of `graft`: leaves of the donor, adapted in turn.

    Args:
        source: a pattern over the donor's paths, or a function from the target's path to the
            donor's; or a list of these, which `stack` or `concatenate` joins in this order.
        *adapters: `grow`, `cut`, `tile`, `stack`, `unstack`, `concatenate`, `transpose`,
            `reshape`, `resize`, `cast`, or any function array -> array (it gets the array as the
            donor holds it); applied from left to right.

    Raises:
        ValueError: there is no source; several sources and nothing that joins them.
        TypeError: a source or an adapter is of another type.

    >>> from flax_inits import concatenate, take, transpose
    >>> take(["q.weight", "k.weight"], transpose(1, 0), concatenate(axis=-1))
    take(['q.weight', 'k.weight'], transpose(1, 0), concatenate(axis=-1))
    """

    source: Any
    adapters: tuple[Any, ...]

    def __init__(self, source: Any, *adapters: Any):
        sources = source if isinstance(source, list | tuple) else [source]
        for one in sources:
            if not isinstance(one, str) and not callable(one):
                raise TypeError(
                    "take needs a pattern over the donor's paths, a function of the target's "
                    f"path, or a list of these, got {one!r}."
                )
            if callable(one) and not _takes_a_path(one):
                raise TypeError(
                    f"take needs functions of the target's path alone, got {one!r}. What makes new "
                    "values, as initializers do, belongs into reinit, or grow(axis=..., init=...)."
                )
        for adapter in adapters:
            _check_adapter(adapter)
        joins = any(isinstance(adapter, Join) for adapter in adapters)
        if not sources:
            raise ValueError("take needs a source, got an empty list.")
        if isinstance(source, list | tuple) and not joins:
            raise ValueError(
                f"take has {len(sources)} sources in a list and nothing that joins them: add "
                "concatenate(axis=...) or stack(axis=...)."
            )
        object.__setattr__(self, "source", tuple(source) if isinstance(source, list) else source)
        object.__setattr__(self, "adapters", adapters)

    def __repr__(self) -> str:
        source = list(self.source) if isinstance(self.source, tuple) else self.source
        return f"take({', '.join(map(shown, [source, *self.adapters]))})"

    @property
    def sources(self) -> tuple[Any, ...]:
        """The sources, also where there is but one."""
        return self.source if isinstance(self.source, tuple) else (self.source,)


def _takes_a_path(function: Any) -> bool:
    """Whether a function can be called with one argument, as far as its signature is known."""
    try:
        inspect.signature(function).bind(())
    except TypeError:
        return False
    except ValueError:  # Some of C have no signature.
        return True
    return True


def _check_adapter(adapter: Any) -> None:
    if inspect.isclass(adapter) and issubclass(adapter, Adapter):
        name = adapter.__name__
        raise TypeError(f"take got {name} itself as an adapter: write {name}(...).")
    if not callable(adapter) and not isinstance(adapter, Adapter):
        raise TypeError(
            "take needs adapters such as grow(axis=0), or functions array -> array, after its "
            f"source, got {adapter!r}; several sources are one list."
        )


def shown(value: Any) -> str:
    """A source or an adapter as messages and tables print it."""
    return getattr(value, "__qualname__", None) or repr(value)


def chained(
    adapters: Sequence[Any], arrays: Sequence[Sequence[View]], listed: bool, goal: Goal
) -> View:
    """One view of several arrays.

    `arrays` has a row for each leaf that a wildcard of the source matches, and in it one array for
    each source. What is `listed` in a take is joined first, what is matched by a wildcard second;
    until then each array is adapted by itself.
    """
    rows = [list(row) for row in arrays]
    adapters = _casts_first(adapters)
    for position, adapter in enumerate(adapters):
        left = adapters[position + 1 :]
        then = goal._replace(
            last=all(isinstance(a, cast) for a in left),
            grows=all(isinstance(a, cast | grow) for a in left),
        )
        if isinstance(adapter, Join):
            if listed:
                rows, listed = [[adapter.joined(row)] for row in rows], False
            else:
                rows = [[adapter.joined([row[0] for row in rows])]]
        else:
            rows = [[_adapted(adapter, view, then) for view in row] for row in rows]
    return rows[0][0]


def _casts_first(adapters: Sequence[Any]) -> list[Any]:
    """The adapters with casts before the growing that they follow.

    So what is new is never cast: a table grown in float32 has the target's own float32 rows, or
    those that its initializer draws in float32.
    """
    end = len(adapters)
    while end and isinstance(adapters[end - 1], cast):
        end -= 1
    start = end
    while start and isinstance(adapters[start - 1], grow):
        start -= 1
    return [*adapters[:start], *adapters[end:], *adapters[start:end]]


def _adapted(adapter: Any, view: View, goal: Goal) -> View:
    if isinstance(adapter, Adapter):
        return adapter.applied(view, goal)
    with noted(f"while {shown(adapter)} was tried on {view.dtype}{list(view.shape)}"):
        shape, dtype = _result(adapter, view)
    return computed(view, adapter, shape, dtype)


def _result(function: Callable[[Any], Any], view: View) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of what a function makes of an array, without the array."""
    made: Any = None
    if jax.dtypes.canonicalize_dtype(view.dtype) == view.dtype:
        try:
            # A function of Python's: JAX 0.12 crashes on those of NumPy that are none.
            struct = jax.ShapeDtypeStruct(view.shape, view.dtype)
            made = jax.eval_shape(lambda array: function(array), struct)
        except Exception:  # Functions of NumPy take no tracers; zeros without memory tell as well.
            made = None
    if made is None:
        made = function(np.broadcast_to(np.zeros((), view.dtype), view.shape))
    if not hasattr(made, "shape") or not hasattr(made, "dtype"):
        raise TypeError(f"{shown(function)} must return an array, got {type(made).__name__}.")
    return tuple(made.shape), np.dtype(made.dtype)
