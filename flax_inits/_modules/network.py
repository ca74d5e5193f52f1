"""A model as those see it who run it: a tree with its params, and what it makes of inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .._base.types import Key, Path, PyTree
from .._tree.modules import is_module
from .linen import network as linen
from .nnx import network as nnx


class Network(Protocol):
    """A model, of whichever system: Linen's tree is its variables, that of NNX the module."""

    name: str
    """Of what is called."""

    above: Path
    """Where the params begin in the tree."""

    def taken(self, args: tuple) -> tuple[PyTree, tuple]:
        """The tree and the inputs, from what a user gave after the model."""
        ...

    def outputs(self, tree: PyTree, *args: Any, **kwargs: Any) -> Any:
        """What it returns; how the tree changes is dropped."""
        ...

    def after(
        self, tree: PyTree, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None
    ) -> PyTree:
        """The tree after a call, whatever changes in it."""
        ...

    def maker(
        self, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None
    ) -> Callable[[Key], PyTree] | None:
        """What makes a new tree from a key, if that is known."""
        ...

    def check(self, caller: str, tree: PyTree) -> None:
        """Raises unless the tree can be one of this model."""
        ...

    def explained(self, caller: str, tree: PyTree) -> AbstractContextManager[None]:
        """Lets errors of the network say that the tree cannot be one of it."""
        ...


def network_of(model: Any) -> Network | None:
    """The network of a Linen module, an NNX module or a bound method of one; None of others."""
    if is_module(model) or (inspect.ismethod(model) and is_module(model.__self__)):
        return nnx.NNXNetwork(model)
    return linen.network_of(model)
