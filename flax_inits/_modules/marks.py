"""Marks on values inside of a traced function, and which of its outputs are marked values.

A mark is an identity with a number in the function's jaxpr. An output is a marked value if only
its layout changed on the way: it may have been reshaped, cast, stacked by `vmap` or a scan, or
have come out of an inner `jit`. It is derived from all marked values that it is computed from.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from .._base.types import PyTree

Marks: TypeAlias = frozenset[int]

_LAYOUT = frozenset(
    "name reshape transpose squeeze broadcast_in_dim convert_element_type copy copy_p device_put "
    "sharding_constraint reshard mesh_cast".split()
)
"""Primitives whose output holds the values of their input."""


def mark(value: PyTree, prefix: str, number: int) -> PyTree:
    """`value` itself, with a mark on each of its arrays."""

    def marked(leaf: Any) -> Any:
        return checkpoint_name(leaf, f"{prefix} {number}") if hasattr(leaf, "dtype") else leaf

    return jax.tree.map(marked, value)


def marks_of(jaxpr: Any, prefix: str, *, derived: bool = False) -> list[Marks]:
    """For each output of a jaxpr, which of the values marked with `prefix` it is.

    Args:
        jaxpr: of the traced function.
        prefix: of the marks that count.
        derived: give instead all that each output is derived from.
    """
    return _Walk(prefix, derived).through(jaxpr, [frozenset()] * len(jaxpr.invars))


class _Walk:
    """Follows marks forward through the equations of a jaxpr and of those within it."""

    def __init__(self, prefix: str, derived: bool):
        self._prefix, self._derived = prefix, derived
        # Models repeat their parts: each inner jaxpr is searched once.
        self._has_marks = functools.cache(self._search)

    def through(self, jaxpr: Any, given: Sequence[Marks]) -> list[Marks]:
        known = dict(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Marks:
            return frozenset() if isinstance(atom, Literal) else known.get(atom, frozenset())

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            known.update(zip(equation.outvars, self._outputs(equation, inputs), strict=False))
        return [read(atom) for atom in jaxpr.outvars]

    def _outputs(self, equation: Any, inputs: list[Marks]) -> list[Marks]:
        if number := self._number(equation):
            return [inputs[0] | number]
        if equation.primitive.name in _LAYOUT:
            return inputs
        around: Marks = frozenset().union(*inputs) if self._derived else frozenset()
        found = [around] * len(equation.outvars)
        for inner in _within(equation):
            # Operands that the body does not see, such as the index of a cond, come first.
            count = len(inner.invars)
            fits = len(inner.outvars) == len(found) and count <= len(inputs)
            given = inputs[len(inputs) - count :]
            if fits and (self._has_marks(inner) or (any(given) and not self._derived)):
                made = self.through(inner, given)
                found = [one | other for one, other in zip(found, made, strict=True)]
        return found

    def _number(self, equation: Any) -> Marks:
        if equation.primitive.name == "name":
            prefix, _, number = equation.params["name"].rpartition(" ")
            if prefix == self._prefix:
                return frozenset([int(number)])
        return frozenset()

    def _search(self, jaxpr: Any) -> bool:
        return any(
            self._number(equation) or any(map(self._has_marks, _within(equation)))
            for equation in jaxpr.eqns
        )


def _within(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
