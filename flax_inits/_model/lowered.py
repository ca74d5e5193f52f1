"""The programs of a call, lowered or compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._base.pickling import refuse_to_pickle
from .._base.types import Path


class Lowered(NamedTuple):
    """Programs that are lowered, each with the paths of the leaves that it makes."""

    __reduce__ = refuse_to_pickle

    programs: tuple[tuple[tuple[Path, ...], Any], ...]
    """Pairs of leaf paths and `jax.stages.Lowered`."""

    compiler: Callable[[], Sequence[Any]]

    def compile(self) -> Compiled:
        """Compiles every program; a call of the function then finds them."""
        paths = [paths for paths, _ in self.programs]
        return Compiled(tuple(zip(paths, self.compiler(), strict=True)))


class Compiled(NamedTuple):
    """Programs that are compiled: pairs of leaf paths and `jax.stages.Compiled`."""

    __reduce__ = refuse_to_pickle

    programs: tuple[tuple[tuple[Path, ...], Any], ...]
