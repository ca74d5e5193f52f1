"""Which leaves belong to NNX modules of a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..._base.types import Path
from ..._tree.forms import PathTest
from ..classes import Classes, checked, is_below, missing, shown


def of_type(model: Any, cls: Classes) -> PathTest:
    """Selects the leaves at or below modules of a class, by their paths."""
    from flax import nnx

    classes = checked(cls, nnx.Module, "nnx.Module")
    nodes = [(tuple(map(str, path)), node) for path, node in nnx.iter_graph(model)]
    modules = [(path, node) for path, node in nodes if isinstance(node, nnx.Module)]
    found = [(path, node) for path, node in modules if isinstance(node, classes)]
    if not found:
        raise missing(model, classes, [type(node) for _, node in modules])
    # A variable that a module shares with another has the path that it has there, if that is first.
    shared = {id(node): path for path, node in nodes if isinstance(node, nnx.Variable)}
    below = {
        shared[id(node)]
        for _, module in found
        for _, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Variable)
    }
    return OfNNXType(cls, frozenset([*below, *(path for path, _ in found)]))


@dataclasses.dataclass(frozen=True, repr=False)
class OfNNXType(PathTest):
    """Leaves at or below any of these paths."""

    cls: Classes
    starts: frozenset[Path]

    def of_paths(self, paths: Sequence[Path]) -> list[bool]:
        """Whether each leaf is at or below one of the modules."""
        return [is_below(path, self.starts) for path in paths]

    def __repr__(self) -> str:
        return shown(self.cls)
