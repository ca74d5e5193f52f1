"""What an NNX optimizer trains of a model."""

from __future__ import annotations

from collections.abc import Mapping

from .._base.types import PyTree, Where
from .._tree.forms import describe
from .._tree.modules import is_module
from .._tree.parts import Part
from .._tree.paths import paths


def of_module(
    params: PyTree, chosen: Mapping[int, Part | None], where: Where
) -> tuple[PyTree, Mapping[int, Part | None]]:
    """The params of an NNX module, with what `where` chose of them; any other tree as it is."""
    if not is_module(params):
        return params, chosen
    from flax import nnx

    names, trained = paths(params), nnx.state(params, nnx.Param)
    parts = {names[i]: part for i, part in chosen.items()}
    found = {i: parts[path] for i, path in enumerate(paths(trained)) if path in parts}
    if not found:
        raise ValueError(f"{describe(where)} selects no nnx.Param, which are what is trained.")
    return trained, found
