"""Which arguments of a function are static, as `jax.jit` understands it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._base.errors import listed


class Statics:
    """Tells a function's static arguments from its arrays."""

    def __init__(
        self,
        fun: Callable[..., Any],
        argnums: int | Sequence[int] | None,
        argnames: str | Iterable[str] | None,
    ):
        names = argnames if isinstance(argnames, str | None) else tuple(argnames)
        self._fun, self._names = fun, (names,) if isinstance(names, str) else names or ()
        self._options: dict[str, Any] = {"static_argnums": argnums, "static_argnames": names}
        self._traced = functools.lru_cache(maxsize=32)(self._ask)

    def jitted(self, function: Callable[..., Any]) -> Any:
        """Jits the user's function, or one that takes the same arguments, with the static ones."""
        if function is not self._fun:
            # By `__wrapped__`, JAX finds out which position has which name.
            functools.update_wrapper(function, self._fun, updated=())
        return jax.jit(function, **self._options)

    def _ask(self, count: int, names: frozenset[str]) -> tuple[Any, Any]:
        """Finds the positions and names that are traced in such a call; the others are static."""
        # JAX has no function that tells; so let one return what has arrived as a tracer. Its rules
        # have many cases (negative positions, names of positions, only one of the two given).
        asked = self.jitted(
            lambda *args, **kwargs: (_tracers(enumerate(args)), _tracers(kwargs.items()))
        )
        return asked.eval_shape(*[0] * count, **dict.fromkeys(names, 0))

    def split(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, tuple]:
        """Splits the arguments into the arrays, and the static ones as something hashable."""
        positions, names = self._traced(len(args), frozenset(kwargs))
        arrays = (
            [arg if i in positions else None for i, arg in enumerate(args)],
            {name: arg for name, arg in kwargs.items() if name in names},
        )
        # With their types, because 1, 1.0 and True are equal and make different arrays.
        static = (
            tuple((i, type(arg), arg) for i, arg in enumerate(args) if i not in positions),
            tuple((n, type(arg), arg) for n, arg in sorted(kwargs.items()) if n not in names),
        )
        return arrays, static

    def join(self, arrays: Any, static: tuple) -> tuple[tuple, dict[str, Any]]:
        """Joins the arguments that were split."""
        args, kwargs = list(arrays[0]), dict(arrays[1])
        for i, _, arg in static[0]:
            args[i] = arg
        kwargs.update((name, arg) for name, _, arg in static[1])
        return tuple(args), kwargs

    def advice(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Says what to do where a function needs the value of an argument that is traced."""
        positions, names = self._traced(len(args), frozenset(kwargs))
        plain = [f"static_argnums={i}" for i in sorted(positions) if isinstance(args[i], _PLAIN)]
        plain += [
            f"static_argnames={name!r}"
            for name in sorted(names)
            if isinstance(kwargs[name], _PLAIN)
        ]
        known = {*kwargs, *(inspect.signature(self._fun).parameters if self._names else ())}
        unknown = [name for name in self._names if name not in known]
        said = f" (static_argnames {listed(unknown)} named no argument)" if unknown else ""
        return (
            "Arguments that are not static are traced. If a branch or a shape depends on one, "
            f"write jit_init(..., {' or '.join(plain) or 'static_argnames=...'}){said}."
        )


def _tracers(arguments: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {name: value for name, value in arguments if isinstance(value, Tracer)}


_PLAIN = (bool, int, float)
"""Arguments of these types may be meant as choices, not as arrays."""
