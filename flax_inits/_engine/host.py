"""Values that the host computes: keys of leaves, and scalars.

A model folds, splits and slices its key into one key per leaf. Compiled, that is a program per
chain; on the host it is some hundred integer operations, and what remains of a leaf's recipe no
longer depends on where in the model it stands.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._base.bits import is_key_dtype
from . import scalars
from .evaluate import bind
from .graph import Constant, Input, Node, Output, Value, order, unknown
from .jaxpr import inner_jaxprs
from .key_words import OF_DATA, OF_KEYS, KeyWords, impl_of, to_host, words_of

_LARGEST = 1 << 16
"""Elements in the largest array that is computed on the host on the way to a key."""


class HostComputable:
    """Which values of a graph the host can compute; decided once per node."""

    def __init__(self) -> None:
        self._computable: dict[Node, bool] = {}
        self._scalars: dict[Node, Any] = {}
        self._results: dict[Hashable, Any] = {}
        """Of operations on scalars, which layer after layer repeats."""
        self._rounded: set[Node] = set()

    def is_key(self, value: Value) -> bool:
        """Whether `value` is a key, or several, which depend on nothing but keys and integers."""
        return is_key_dtype(value.aval.dtype) and self.computable(value)

    def computable(self, value: Value) -> bool:
        """Whether the host can compute `value`: small integers and keys all the way."""
        if not isinstance(value, Output):
            return _small(value.aval)
        known = self._computable
        for node in unknown(value, known):
            known[node] = _simple(node) and all(
                known[v.node] if isinstance(v, Output) else _small(v.aval) for v in node.inputs
            )
        return known[value.node]

    def known_scalar(self, value: Value) -> Any:
        """Computes the scalar that `value` is, or is filled with; None if XLA could differ."""
        if not isinstance(value, Output):
            return _constant_scalar(value)
        known = self._scalars
        for node in unknown(value, known):
            known[node] = self._node_scalar(node)
        return known[value.node]

    def _node_scalar(self, node: Node) -> Any:
        single = len(node.avals) == 1 and not _is_extended(node.avals[0])
        inputs = [
            self._scalars[v.node] if isinstance(v, Output) else _constant_scalar(v)
            for v in node.inputs
        ]
        if not single or not inputs or any(scalar is None for scalar in inputs):
            return None
        # XLA merges (x * a) * b to x * (a * b) while x is in or out of a call: see `rounding`.
        rounded = any(isinstance(v, Output) and v.node in self._rounded for v in node.inputs)
        if node.crosses_call and scalars.rounds(node):
            if rounded:
                return None
            rounded = True
        if rounded:
            self._rounded.add(node)
        operands = tuple((scalar.dtype, scalar.tobytes()) for scalar in inputs)
        # The parameters are those of one equation, or of one that is traced again from a cache;
        # the node in the table keeps them alive.
        key = (node.primitive, id(node.params), node.avals[0].dtype, node.crosses_call, operands)
        if key not in self._results:
            self._results[key] = scalars.computed(node, inputs)
        return self._results[key]

    def fill(self, value: Value) -> Any:
        """Computes the scalar that fills a leaf; None if that takes a program."""
        # NumPy makes no weakly typed arrays.
        strong = getattr(value.aval, "weak_type", True) is False
        scalar = self.known_scalar(value) if strong else None
        return None if scalar is None else np.asarray(scalar, value.aval.dtype)


def _simple(node: Node) -> bool:
    return (
        node.name not in ("random_bits", "random_gamma")
        and not inner_jaxprs(node.params)
        and all(map(_small, node.avals))
    )


def _small(aval: Any) -> bool:
    # Integers only: with floats, the host and XLA could round in two ways, and so choose two keys.
    exact = is_key_dtype(aval.dtype) or jnp.issubdtype(aval.dtype, jnp.integer)
    return (exact or aval.dtype == bool) and aval.size <= _LARGEST


def _is_extended(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jax.dtypes.extended)


def _constant_scalar(value: Value) -> Any:
    if not isinstance(value, Constant) or value.aval.size != 1 or _is_extended(value.aval):
        return None
    return np.asarray(value.value, value.aval.dtype).reshape(())[()]


class HostEvaluator:
    """Computes what the host can compute, for given arguments; each node once."""

    def __init__(self, arguments: Sequence[Any]):
        self._arguments = arguments
        self._known: dict[Value, Any] = {}

    def key_words(self, value: Value) -> np.ndarray:
        """Computes the uint32 words of a key, or of several."""
        for node in order([value], self._known.__contains__):
            for index, result in enumerate(_computed(node, [self._read(v) for v in node.inputs])):
                self._known[Output(node, index)] = result
        return words_of(self._read(value))

    def argument(self, value: Value) -> Any:
        """Gives what a program takes for `value`: the words of keys, and arrays as they are."""
        if isinstance(value, Input) and not is_key_dtype(value.aval.dtype):
            return self._arguments[value.index]
        return self.key_words(value)

    def _read(self, value: Value) -> Any:
        if value not in self._known and isinstance(value, Constant):
            self._known[value] = to_host(value.value)
        elif value not in self._known and isinstance(value, Input):
            self._known[value] = to_host(self._arguments[value.index])
        return self._known[value]


def _computed(node: Node, inputs: list[Any]) -> Sequence[Any]:
    """Computes one node: what threefry needs in NumPy, anything else by JAX itself."""
    steps = OF_KEYS if inputs and isinstance(inputs[0], KeyWords) else OF_DATA
    if node.name in steps:
        with node.context.manager:
            result = steps[node.name](node, *inputs)
        if result is not None:
            return [result]
    dtypes = [value.aval.dtype for value in node.inputs]
    arguments = [
        jax.random.wrap_key_data(jnp.asarray(value.words), impl=impl_of(dtype))
        if isinstance(value, KeyWords)
        else value
        for value, dtype in zip(inputs, dtypes, strict=True)
    ]
    return [to_host(result) for result in bind(node, arguments)]
