"""Linen modules as networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.errors
import flax.linen as nn

from ..._base.types import Key, Path, PyTree
from .tracing import all_collections_but

_NOT_VARIABLES = (
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ApplyScopeInvalidVariablesTypeError,
)
"""What Flax raises where a tree of params stands for variables."""


def network_of(model: Any) -> LinenNetwork | None:
    """The network of a Linen module; None of anything else."""
    return LinenNetwork(model) if isinstance(model, nn.Module) else None


class LinenNetwork:
    """A Linen module, whose tree is its variables."""

    above: Path = ("params",)
    """Where the params begin in the tree."""

    def __init__(self, model: nn.Module):
        self._model = model
        self.name = f"{type(model).__name__}.apply"

    def taken(self, args: tuple) -> tuple[PyTree, tuple]:
        """The tree and the inputs: the variables come first."""
        if not args:
            raise TypeError(f"{self.name} needs variables, and inputs after them; got neither.")
        return args[0], args[1:]

    def outputs(self, tree: PyTree, /, *args: Any, **kwargs: Any) -> Any:
        """What `apply` returns; how the tree changes is dropped."""
        mutable = all_collections_but("params")
        return self._model.apply(tree, *args, **{**kwargs, "mutable": mutable})[0]

    def after(
        self, tree: PyTree, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None
    ) -> PyTree:
        """The variables after a call, whatever changes in them."""
        others, mutable = _others(rngs), all_collections_but("intermediates")
        return self._model.apply(tree, *inputs, rngs=others, mutable=mutable, **kwargs)[1]

    def maker(
        self, inputs: tuple, kwargs: dict[str, Any], rngs: Mapping[str, Key] | None
    ) -> Callable[[Key], PyTree]:
        """What makes new variables from a key: its `init`."""
        others = _others(rngs)
        return lambda key: self._model.init({**others, "params": key}, *inputs, **kwargs)

    def check(self, caller: str, tree: PyTree) -> None:
        """Raises for what is no variables."""
        if not isinstance(tree, Mapping) or "params" not in tree:
            has = [*tree] if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(
                f"{caller} needs variables as model.init returns them, {{'params': ..., ...}}; "
                f"got {has} at the top. They come before the inputs."
            )

    @contextlib.contextmanager
    def explained(self, caller: str, tree: PyTree) -> Iterator[None]:
        """Lets errors say so where the tree is no variables; a model may have no params."""
        if not isinstance(tree, Mapping):
            self.check(caller, tree)
        try:
            yield
        except _NOT_VARIABLES:
            self.check(caller, tree)
            raise


def _others(rngs: Mapping[str, Key] | None) -> dict[str, Key]:
    return {name: key for name, key in (rngs or {}).items() if name != "params"}
