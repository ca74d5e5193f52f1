"""NNX modules as networks."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..._base.types import Key, Path, PyTree


class NNXNetwork:
    """An NNX module, which is its own tree, and one of its methods.

    Calls change a module (its statistics, its `nnx.Rngs`), so only copies are to be called.
    """

    above: Path = ()
    """Where the params begin in the tree."""

    def __init__(self, model: Any):
        is_method = inspect.ismethod(model)
        self._module = model.__self__ if is_method else model
        self._method = model.__name__ if is_method else "__call__"
        self.name = f"{type(self._module).__name__}.{self._method}"

    def taken(self, args: tuple) -> tuple[PyTree, tuple]:
        """All that is given are inputs."""
        return self._module, args

    def outputs(self, tree: PyTree, /, *args: Any, **kwargs: Any) -> Any:
        """What the method returns."""
        return getattr(tree, self._method)(*args, **kwargs)

    def after(
        self, tree: PyTree, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None
    ) -> PyTree:
        """The module, which the call has changed."""
        given = {} if rngs is None else {"rngs": rngs}
        self.outputs(tree, *inputs, **given, **kwargs)
        return tree

    def maker(self, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None) -> None:
        """There is none: modules have forgotten how they were made."""

    def check(self, caller: str, tree: PyTree) -> None:
        """It is a module, whatever it holds."""

    def explained(self, caller: str, tree: PyTree) -> contextlib.AbstractContextManager[None]:
        """Nothing can be given wrongly."""
        return contextlib.nullcontext()
