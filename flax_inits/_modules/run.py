"""One run of a function whose modules make params by initializers of their own."""

import contextvars
import functools
import itertools
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import jax

from .._base.errors import noted
from .._base.types import Array, Path, PyTree
from .._tree.casting import checked_as
from .._tree.rules import Rule, note
from .marks import mark, marks_of


def knows_nnx() -> bool:
    """Whether `flax.nnx` is imported, which is slow and of use to its users alone."""
    return "flax.nnx" in sys.modules


class Source(Protocol):
    """A call of a module's initializer, told apart from all others: equal in each run."""

    @property
    def param(self) -> str:
        """The last segment of the path that a module gives what it makes."""
        ...


_serial = itertools.count()
within: contextvars.ContextVar[Path] = contextvars.ContextVar("within", default=())
"""Where the root of modules of another system is, in the module that holds it."""

_context = jax.make_user_context(default_value=None)
"""Belongs to the key of all of JAX's caches: a trace that is kept would run no module."""


class Target(NamedTuple):
    """The output leaf that a param becomes, and the rule that the leaf has."""

    path: Path
    rule: Rule


class StandIn:
    """Stands for an initializer of a module, which may copy it: as of a function, to the same."""

    def __deepcopy__(self, memo: Any = None) -> "StandIn":
        return self

    __copy__ = __deepcopy__


class Run:
    """One run of a function: a survey that marks what modules make, or one with `targets`.

    Each module system tells the run of every call of an initializer. What the call makes goes
    through `marked`; where its source is a target, `made_by_rule` takes its place.
    """

    def __init__(self, targets: Mapping[Source, Target] | None = None):
        self.is_survey = targets is None
        self.targets = targets or {}
        self.reached: set[Source] = set()
        """Targets that a module made by the rule's initializer."""
        self.keeps_shapes = True
        """Whether nothing hints that leaves are stacked which no initializer of a module made."""
        self.token = f"flax_inits run {next(_serial)}"
        """No other run has it."""
        self._sources: list[Source] = []

    def distinct(self) -> AbstractContextManager[None]:
        """While it lasts, JAX finds no trace that was kept before."""
        return _context(self.token)

    def marked(self, source: Source, value: PyTree) -> PyTree:
        """`value`; in a survey it can be found in what the function returns."""
        if not self.is_survey:
            return value
        self._sources.append(source)
        return mark(value, self.token, len(self._sources) - 1)

    def sources(self, jaxpr: Any, derived: bool = False) -> list[list[Source]]:
        """For each output of the traced function, the sources that it is the value of.

        With `derived`, all from which it is computed.
        """
        return [
            list(dict.fromkeys(self._sources[number] for number in sorted(marks)))
            for marks in marks_of(jaxpr, self.token, derived=derived)
        ]

    def made_by_rule(
        self, source: Source, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> PyTree | None:
        """What `original` makes, with the values of the target's rule; None if it is no array."""
        # Abstractly: what counts is the box, and the dtype that the leaf has.
        made = jax.eval_shape(functools.partial(original, *args, **kwargs))
        leaves, treedef = jax.tree.flatten(made)
        if len(leaves) != 1:
            return None
        self.reached.add(source)
        if len(args) == 1 and not kwargs:
            args = (*args, leaves[0].shape, leaves[0].dtype)
        path, rule = self.targets[source]
        with noted(note(path, rule)):
            array: Array = checked_as(rule.init(*args, **kwargs), leaves[0], rule.init)
        return treedef.unflatten([array])
