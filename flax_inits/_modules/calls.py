"""Calls of modules, of whichever system, handed to a function that may run them otherwise."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .._tree.modules import is_module
from .linen import calls as linen
from .nnx import calls as nnx
from .run import Run, knows_nnx

Layer: TypeAlias = linen.LinenLayer | nnx.NNXLayer
"""A module while it is called; both have the same methods."""

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
        if knows_nnx():
            stack.enter_context(nnx.watching(handler))
            for root in filter(is_module, roots):
                stack.enter_context(nnx.placed(root))
        yield
