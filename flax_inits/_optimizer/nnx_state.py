"""What an NNX optimizer trains of a model."""

from __future__ import annotations

from .._base.types import PyTree, Where
from .._tree.forms import Among, describe
from .._tree.modules import is_module
from .._tree.paths import flatten
from .._tree.selection import selected


def of_module(params: PyTree, where: Where) -> tuple[PyTree, Where]:
    """The params of an NNX module, and a `where` over them; any other tree as it is."""
    if not is_module(params):
        return params, where
    from flax import nnx

    names, leaves, _ = flatten(params)
    verdicts = selected(where, names, leaves, params)
    chosen = frozenset(name for name, use in zip(names, verdicts, strict=True) if use)
    return nnx.state(params, nnx.Param), Among(chosen, describe(where))
