"""Calls of Linen modules."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.core
import flax.linen as nn

from ..._base.types import Array, Path
from ..run import within
from .tracing import scope_of


def watching(handler: Callable[..., Any]) -> AbstractContextManager[None]:
    """Lets `handler` run every `__call__` of a Linen module in this block, in this thread."""

    def intercept(method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        scope = scope_of(context.module)
        if scope is None or context.method_name != "__call__":
            return method(*args, **kwargs)
        return handler(LinenLayer(context.module, scope), method, args, kwargs)

    return nn.intercept_methods(intercept)


class LinenLayer:
    """A Linen module while it is called."""

    def __init__(self, module: nn.Module, scope: flax.core.Scope):
        self._module, self._scope = module, scope
        self.path: Path = (*within.get(), *scope.path)
        self.kind = type(module)

    def alone(
        self, names: Sequence[str], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Array]]:
        """The module's params of these names, and its call as a pure function of them."""
        variables = self._module.variables
        copy = self._module.clone(parent=None, name=None)
        rngs = {name: self._module.make_rng(name) for name in self._scope.rngs}

        def call(params: dict[str, Any]) -> Array:
            given = {**variables, "params": {**variables["params"], **params}}
            everything = flax.core.DenyList(())
            return copy.apply(given, *args, rngs=rngs, mutable=everything, **kwargs)[0]

        return {name: variables["params"][name] for name in names}, call

    def left(self, name: str) -> bool:
        """Whether there is such a param."""
        return self._module.has_variable("params", name)

    def leave(self, weights: Mapping[str, Any], name: str, value: Array) -> None:
        """Puts params; lifted transforms bring the further one out as they do the weights."""
        for param, values in {**weights, name: value}.items():
            self._module.put_variable("params", param, values)
