"""Copies of the arrays that a traced function closes over.

A jaxpr holds NumPy arrays by reference. What is signed must be what is compiled later, and what is
returned at each call, also when the array has been changed in place since, or donated.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .graph import Constant, Value, order
from .jaxpr import CLOSED_JAXPR, inner_jaxprs, opened, with_constants


class Copies:
    """One copy of each array, read-only, for all that is made of one trace."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    def freeze(self, outputs: Sequence[Value]) -> None:
        """Lets the nodes that `outputs` need hold copies."""
        nodes = order(outputs)
        for value in {*outputs, *(value for node in nodes for value in node.inputs)}:
            if isinstance(value, Constant):
                value.value = self._copy(value.value)
        for node in nodes:
            if any(map(_holds_arrays, inner_jaxprs(node.params))):
                node.params = {name: self._frozen(item) for name, item in node.params.items()}

    def _frozen(self, param: Any) -> Any:
        """Copies what the jaxprs in a parameter hold."""
        if isinstance(param, tuple):
            # A named tuple (of dimension numbers, say) holds no jaxprs.
            return tuple(map(self._frozen, param)) if type(param) is tuple else param
        if not isinstance(param, CLOSED_JAXPR) or not _holds_arrays(param):
            return param
        body, constants = opened(param)
        equations = [
            equation.replace(
                params={name: self._frozen(item) for name, item in equation.params.items()}
            )
            for equation in body.eqns
        ]
        return with_constants(param, equations, list(map(self._copy, constants)))

    def _copy(self, value: Any) -> Any:
        if not hasattr(value, "__array__") and not isinstance(value, jax.Array):
            return value
        if id(value) not in self._known:
            # Kept together with the original: an array that is freed gives its identity to
            # another one, which would then be taken for it.
            self._known[id(value)] = value, _copied(value)
        return self._known[id(value)][1]


def _copied(value: Any) -> Any:
    extended = jax.numpy.issubdtype(value.dtype, jax.dtypes.extended)
    spread = isinstance(value, jax.Array) and len(value.sharding.device_set) > 1
    # NumPy knows no keys, no weak types and no shardings. Nobody can change an array of JAX, but
    # anybody can donate it, so these are copied as well.
    if extended or spread or getattr(value, "weak_type", False):
        return value.copy() if isinstance(value, jax.Array) else value
    copy = np.array(value)
    copy.flags.writeable = False
    return copy


def _holds_arrays(closed: Any) -> bool:
    body, constants = opened(closed)
    return bool(constants) or any(
        _holds_arrays(inner) for equation in body.eqns for inner in inner_jaxprs(equation.params)
    )
