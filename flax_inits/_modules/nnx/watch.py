"""Watching NNX modules make their variables, and changing what they make them with.

NNX modules take initializers as arguments (`kernel_init`, `a_initializer`) and call them while
they are constructed, with the shape before it is reshaped, stacked or scanned. While a watch is
on, these arguments are wrapped: the innermost `__init__` that takes an initializer tells the run
of each call of it, and a call that makes a target calls the rule's initializer instead.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from ..run import Run, StandIn
from .hook import Construction, constructions

_SUFFIX = re.compile(r"_?init(ializer)?(_fn)?$")
"""Of arguments that are initializers."""


def watching(run: Run) -> AbstractContextManager[None]:
    """Lets NNX modules tell `run` of what they make in this block, in this thread."""
    return constructions(_Watch(run).construct)


class _Call(NamedTuple):
    """A call of an initializer: the how manieth `__init__`, its argument, and which call of it."""

    construction: int
    argument: str
    number: int

    @property
    def param(self) -> str:
        """The name that the variable should have."""
        return _SUFFIX.sub("", self.argument)


class _Watch:
    """What of a run concerns NNX."""

    def __init__(self, run: Run):
        self.run = run
        self._constructions = itertools.count()

    def construct(
        self, construction: Construction, init: Any, args: tuple, kwargs: dict[str, Any]
    ) -> None:
        """Runs the `__init__` of a module, its initializers wrapped."""
        self.run.keeps_shapes = False
        number = next(self._constructions)
        try:
            bound = construction.signature.bind(*args, **kwargs)
        except TypeError:
            return init(*args, **kwargs)  # which says what is wrong
        bound.apply_defaults()
        further = [p.name for p in bound.signature.parameters.values() if p.kind == p.VAR_KEYWORD]
        for given in (bound.arguments, *(bound.arguments[name] for name in further)):
            for name, value in given.items():
                if _is_initializer(name, value):
                    given[name] = self._wrapped(value, (number, name), construction.token)
        init(*bound.args, **bound.kwargs)
        _unwrap_attributes(args[0])

    def _wrapped(self, value: Any, argument: tuple[int, str], token: object) -> "_Initializer":
        # Only the innermost `__init__` counts: the others hand the same one to several modules.
        while isinstance(value, _Initializer) and value.token is not token:
            value = value.original
        return _Initializer(self.run, argument, token, value)


class _Initializer(StandIn):
    """Stands for a module's initializer while the module is constructed."""

    def __init__(
        self, run: Run, argument: tuple[int, str], token: object, original: Callable[..., Any]
    ):
        self.token, self.original = token, original
        self._run, self._argument, self._calls = run, argument, itertools.count()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        source = _Call(*self._argument, next(self._calls))
        # Filled by the latest call of `array`: a rule makes what is in the box, not the box.
        box: list[Any] = []

        def array(*args: Any, **kwargs: Any) -> Any:
            made = self.original(*args, **kwargs)
            box[:] = [made] if _is_box(made) else []
            return made.raw_value if box else made

        made = None
        if source in self._run.targets:
            made = self._run.made_by_rule(source, array, args, kwargs)
        if made is None:
            made = array(*args, **kwargs)
        made = self._run.marked(source, made)
        return dataclasses.replace(box[0], raw_value=made) if box else made

    # Modules compare their static attributes, and may look into them.
    def __eq__(self, other: object) -> bool:
        return self.original == (other.original if isinstance(other, _Initializer) else other)

    def __hash__(self) -> int:
        return hash(self.original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _is_initializer(name: str, value: Any) -> bool:
    return _SUFFIX.search(name) is not None and callable(value) and not isinstance(value, type)


def _is_box(made: Any) -> bool:
    """Whether an initializer made a `nnx.VariableMetadata`, which is no pytree."""
    from flax import nnx

    return isinstance(made, nnx.VariableMetadata)


def _unwrap_attributes(module: Any) -> None:
    """Gives a module the initializers that it was meant to keep."""
    for name, value in vars(module).items():
        while isinstance(value, _Initializer):
            value = value.original
            object.__setattr__(module, name, value)
