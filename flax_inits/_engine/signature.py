"""Hashable stand-ins for programs: equal signatures, equal values.

A mistake here must cost a compilation, never a wrong value: numbers are told apart by type and
bits, arrays by dtype, shape and bytes, and what is unknown by identity (and kept alive).
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import numpy as np
from jax.core import Tracer

from .._base.bits import is_key_dtype
from .._base.types import Token
from .graph import Constant, Node, Output, Value, order
from .jaxpr import JAXPRS, opened

_IGNORED = frozenset({"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd"})
"""Parameters that only differentiation uses; they are new closures at every trace."""

_LONGEST = 64
"""Bytes of an array that are kept as they are; of longer ones, a digest."""


class _Identity:
    """An object that equals only itself, kept alive so that its identity is never reused."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Signer:
    """Makes signatures; remembers what it has seen, and keeps that alive."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Token]] = {}

    def graph(
        self, outputs: Sequence[Value], boundary: Callable[[Value], bool], origins: bool = False
    ) -> tuple[Token, list[Value]]:
        """Signs a graph up to its boundary, and lists the boundary in the order found.

        With `origins`, it is also signed which calls its nodes come from.
        """
        # By number and not by name or identity: so two layers, or two traces, get one signature,
        # in which the keys they are given are told apart only by where they are read.
        nodes = order(outputs, boundary)
        numbers = {node: number for number, node in enumerate(nodes)}
        found: dict[Value, int] = {}

        def reference(value: Value) -> Token:
            if isinstance(value, Output) and value.node in numbers and not boundary(value):
                return (numbers[value.node], value.index)
            if isinstance(value, Constant):
                return ("constant", self.token(value.value), value.aval)
            return ("given", found.setdefault(value, len(found)), value.aval)

        body = tuple(
            (node.primitive, self.params(node), tuple(map(reference, node.inputs)), node.context)
            for node in nodes
        )
        calls = tuple((node.origin, node.crosses_call) for node in nodes) if origins else ()
        return (body, tuple(map(reference, outputs)), calls), list(found)

    def params(self, node: Node) -> Token:
        """Signs the parameters of a node; equal equations of one trace share one token."""
        return self._remembered(node.params, self._params)

    def _params(self, params: dict) -> Token:
        return tuple(
            (name, self.token(value)) for name, value in params.items() if name not in _IGNORED
        )

    def token(self, value: Any) -> Token:
        """Makes a stand-in for any one value."""
        # To Python 0.0 equals -0.0, 1.0 equals 1, and NaN differs from NaN; to a program it is the
        # other way round.
        if isinstance(value, float):
            return ("float", struct.pack("<d", value))
        if isinstance(value, complex):
            return ("complex", struct.pack("<dd", value.real, value.imag))
        if hasattr(value, "dtype") and hasattr(value, "__array__"):
            return self._array(value)
        if isinstance(value, tuple | list):
            return (type(value), *map(self.token, value))
        if isinstance(value, dict):
            return ("dict", *((key, self.token(item)) for key, item in value.items()))
        if isinstance(value, JAXPRS):
            return self._remembered(value, self._jaxpr)
        # With its type, since 1 == True, and classes may call objects of others their equals.
        try:
            hash(value)
        except TypeError:
            return _Identity(value)
        return (type(value), value)

    def _array(self, value: Any) -> Token:
        if is_key_dtype(value.dtype):
            data = jax.random.key_data(value)
            return ("keys", str(jax.random.key_impl(value)), self._array(data))
        # Nobody can read the bytes of a tracer, or of what other processes hold.
        if isinstance(value, Tracer) or not getattr(value, "is_fully_addressable", True):
            return _Identity(value)
        host = np.asarray(value)
        weak = bool(getattr(value, "weak_type", False))
        content = host.tobytes()
        if len(content) > _LONGEST:
            content = hashlib.sha256(content).digest()
        return ("array", host.dtype, host.shape, weak, content)

    def _jaxpr(self, closed: Any) -> Token:
        # Never by str(jaxpr): it leaves out arrays, and prints functions by no more than a name.
        jaxpr, constants = opened(closed)
        numbers: dict[Any, int] = {}

        def name(var: Any) -> Token:
            if isinstance(var, jax.extend.core.Literal):
                return ("literal", self.token(var.val), var.aval)
            return (numbers.setdefault(var, len(numbers)), var.aval)

        return (
            tuple(map(self.token, constants)),
            tuple(map(name, (*jaxpr.constvars, *jaxpr.invars))),
            tuple(
                (
                    equation.primitive,
                    tuple(map(name, equation.invars)),
                    tuple(map(name, equation.outvars)),
                    self._remembered(equation.params, self._params),
                    equation.ctx,
                )
                for equation in jaxpr.eqns
            ),
            tuple(map(name, jaxpr.outvars)),
        )

    def _remembered(self, value: Any, make: Callable[[Any], Token]) -> Token:
        # JAX gives equal calls in one trace the same jaxpr, and a deep one is slow to sign. The
        # value is kept with its token, since identities of what is freed are given away again.
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = (value, make(value))
        return known[1]
