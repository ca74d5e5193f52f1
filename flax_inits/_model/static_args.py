"""Which arguments of a function are static, as `jax.jit` understands it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._base.errors import listed


class Statics:
    """Tells a function's static arguments from its arrays."""

    def __init__(self, fun: Callable[..., Any], argnums: Any, argnames: Any):
        numbers = {argnums} if isinstance(argnums, int) else set(argnums or ())
        names = {argnames} if isinstance(argnames, str) else set(argnames or ())
        positional, self._rest = _positional(fun) if numbers or names else ([], False)
        self._numbers = numbers | {i for i, name in enumerate(positional) if name in names}
        self._count = len(positional)
        known = {n for n in map(self._counted, self._numbers) if 0 <= n < self._count}
        self._names = names | {positional[n] for n in known}
        self._known = set(positional)

    def _counted(self, number: int, given: int = 0) -> int:
        """A position counted from the front; negative ones count from the end."""
        if number >= 0:
            return number
        return number + (given if self._rest else self._count)

    def split(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, tuple]:
        """The arrays among the arguments, and the static ones as something hashable."""
        numbers = {self._counted(n, len(args)) for n in self._numbers}
        arrays = (
            [None if i in numbers else arg for i, arg in enumerate(args)],
            {name: arg for name, arg in kwargs.items() if name not in self._names},
        )
        # With their types, because 1, 1.0 and True are equal and make different arrays.
        static = (
            tuple((i, type(arg), arg) for i, arg in enumerate(args) if i in numbers),
            tuple((n, type(arg), arg) for n, arg in sorted(kwargs.items()) if n in self._names),
        )
        return arrays, static

    def join(self, arrays: Any, static: tuple) -> tuple[list, dict[str, Any]]:
        """The arguments that were split."""
        args, kwargs = list(arrays[0]), dict(arrays[1])
        for i, _, arg in static[0]:
            args[i] = arg
        kwargs.update((name, arg) for name, _, arg in static[1])
        return args, kwargs

    def advice(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """What to say where a function needs the value of an argument that is traced."""
        numbers = {self._counted(n, len(args)) for n in self._numbers}
        plain = [
            f"static_argnums={i}"
            for i, arg in enumerate(args)
            if i not in numbers and isinstance(arg, _PLAIN)
        ]
        plain += [
            f"static_argnames={name!r}"
            for name, arg in kwargs.items()
            if name not in self._names and isinstance(arg, _PLAIN)
        ]
        idle = [name for name in self._names if name not in kwargs and name not in self._known]
        said = f" (static_argnames {listed(idle)} named no argument)" if idle else ""
        return (
            "Arguments that are not static are traced. If the function branches on one, write "
            f"jit_init(..., {' or '.join(plain) or 'static_argnames=...'}){said}."
        )


_PLAIN = (bool, int, float)
"""Arguments of these types may be meant as choices, not as arrays."""


def _positional(fun: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of positional parameters, and whether any number of others may follow."""
    parameters = inspect.signature(fun).parameters.values()
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    rest = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    return [p.name for p in parameters if p.kind in kinds], rest
