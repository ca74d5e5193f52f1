"""Calls of modules, of whichever system, handed to a function that may run them otherwise."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from .._base.types import Array, Path
from .._tree.modules import is_module
from .linen import calls as linen
from .nnx import calls as nnx
from .run import Run


class Layer(Protocol):
    """A module while it is called."""

    path: Path
    """Where it is in the outermost module; () is that one."""

    kind: type

    def alone(
        self, names: Sequence[str], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Array]]:
        """The module's weights of these names, and its call as a pure function of them."""
        ...

    def left(self, name: str) -> bool:
        """Whether something of that name was left in it."""
        ...

    def leave(self, weights: Mapping[str, Any], name: str, value: Array) -> None:
        """Gives it weights, and a further array, which comes out of the network beside them."""
        ...


Handler: TypeAlias = Callable[[Layer, Callable[..., Any], tuple, dict[str, Any]], Any]
"""Given a module that is called, the call, and its arguments: what the call returns."""


@contextlib.contextmanager
def watching(handler: Handler, *roots: Any) -> Iterator[None]:
    """Lets `handler` run every `__call__` of a module in this block, in this thread.

    Paths of NNX modules begin at the one of `roots` that holds them; if none does, at the
    outermost that is called. Those of Linen begin at the bound one.
    """
    with contextlib.ExitStack() as stack:
        # NNX keeps traces of functions that it transforms; a kept one would call no module.
        stack.enter_context(Run().distinct())
        stack.enter_context(linen.watching(handler))
        if "flax.nnx" in sys.modules:
            stack.enter_context(nnx.watching(handler))
            for root in filter(is_module, roots):
                stack.enter_context(nnx.placed(root))
        yield
