"""Keys of leaves, derived on the host.

A model folds, splits and slices its key into one key per leaf. Compiled, that is a program per
chain; on the host it is some hundred integer operations, and what remains of a leaf's recipe no
longer depends on where in the model it stands.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._base import bits
from .._base.bits import is_key_dtype
from .graph import Constant, Input, Node, Output, Value, order
from .jaxpr import bind, inner_jaxprs

_LARGEST = 1 << 16
"""Elements in the largest array that is computed on the host on the way to a key."""


class Derivation:
    """Which values of a graph are keys that the host can derive; decided once per node."""

    def __init__(self) -> None:
        self._known: dict[Node, bool] = {}

    def is_key(self, value: Value) -> bool:
        """Whether `value` is a key, or several, which depend on nothing but keys and integers."""
        return is_key_dtype(value.aval.dtype) and self.derivable(value)

    def derivable(self, value: Value) -> bool:
        """Whether the host can compute `value`: small integers and keys all the way."""
        if not isinstance(value, Output):
            return _small(value.aval)
        known = self._known
        for node in order([value], lambda v: isinstance(v, Output) and v.node in known):
            self._known[node] = _simple(node) and all(
                self._known[v.node] if isinstance(v, Output) else _small(v.aval)
                for v in node.inputs
            )
        return self._known[value.node]


def _simple(node: Node) -> bool:
    return (
        node.primitive.name not in ("random_bits", "random_gamma")
        and not inner_jaxprs(node.params)
        and all(map(_small, node.avals))
    )


def _small(aval: Any) -> bool:
    exact = is_key_dtype(aval.dtype) or jnp.issubdtype(aval.dtype, jnp.integer)
    return (exact or aval.dtype == bool) and aval.size <= _LARGEST


class Words:
    """Threefry keys as NumPy words: shape (..., 2), uint32."""

    __slots__ = ("words",)

    def __init__(self, words: np.ndarray):
        self.words = words


class Deriver:
    """Computes derivable values for given arguments; each node once."""

    def __init__(self, arguments: Sequence[Any]):
        self._arguments = arguments
        self._known: dict[Value, Any] = {}

    def key_data(self, value: Value) -> np.ndarray:
        """The uint32 words of a key, or of several."""
        for node in order([value], self._known.__contains__):
            for index, result in enumerate(_derive(node, [self._read(v) for v in node.inputs])):
                self._known[Output(node, index)] = result
        result = self._read(value)
        return result.words if isinstance(result, Words) else np.asarray(_key_data(result))

    def argument(self, value: Value) -> Any:
        """What a program takes for `value`: the words of keys, and arrays as they are."""
        if isinstance(value, Input) and not is_key_dtype(value.aval.dtype):
            return self._arguments[value.index]
        return self.key_data(value)

    def _read(self, value: Value) -> Any:
        if value not in self._known and isinstance(value, Constant):
            self._known[value] = to_host(value.value)
        elif value not in self._known and isinstance(value, Input):
            self._known[value] = to_host(self._arguments[value.index])
        return self._known[value]


def to_host(value: Any) -> Any:
    """Threefry keys as words, other keys as they are, integers as NumPy arrays."""
    if not is_key_dtype(getattr(value, "dtype", np.dtype(int))):
        return value if isinstance(value, Words) else np.asarray(value)
    return Words(np.asarray(_key_data(value))) if bits.is_threefry(value) else value


def _key_data(keys: Any) -> Any:
    return jax.random.key_data(keys)


@functools.cache
def impl_of(dtype: Any) -> Any:
    """The PRNG implementation of a key dtype, for `jax.random.wrap_key_data`."""
    return _probe(dtype, jax.random.key_impl)


@functools.cache
def is_threefry_dtype(dtype: Any) -> bool:
    """Whether keys of this dtype draw the stream of threefry2x32."""
    return _probe(dtype, bits.is_threefry)


def _probe(dtype: Any, ask: Callable[[Any], Any]) -> Any:
    # No public function takes a key dtype, but all take a traced key.
    answers = []
    key = jax.ShapeDtypeStruct((), dtype)
    jax.eval_shape(lambda key: answers.append(ask(key)), key)
    return answers[0]


def _derive(node: Node, inputs: list[Any]) -> Sequence[Any]:
    """One node: what threefry needs in NumPy, anything else by JAX itself."""
    step = _STEPS.get(node.primitive.name)
    if step is not None and (isinstance(inputs[0], Words) or step is _wrap):
        with node.context.manager:
            result = step(node, *inputs)
        if result is not None:
            return [result]
    dtypes = [value.aval.dtype for value in node.inputs]
    arguments = [
        jax.random.wrap_key_data(jnp.asarray(value.words), impl=impl_of(dtype))
        if isinstance(value, Words)
        else value
        for value, dtype in zip(inputs, dtypes, strict=True)
    ]
    return [to_host(result) for result in bind(node, arguments)]


def _wrap(node: Node, data: np.ndarray) -> Words | None:
    return Words(data) if is_threefry_dtype(node.avals[0].dtype) else None


def _fold_in(node: Node, keys: Words, data: np.ndarray) -> Words | None:
    shape = node.avals[0].shape
    words = np.broadcast_to(keys.words, (*shape, 2)).reshape(-1, 2).tolist()
    folds = np.broadcast_to(data, shape).reshape(-1).tolist()
    folded = [bits.fold_in_words(tuple(w), d) for w, d in zip(words, folds, strict=True)]
    return Words(np.array(folded, np.uint32).reshape(*shape, 2))


def _split(node: Node, keys: Words) -> Words | None:
    if keys.words.ndim != 1:
        return None
    shape = node.params["shape"]
    split = bits.split_words(tuple(keys.words.tolist()), int(np.prod(shape)))
    return Words(np.array(split, np.uint32).reshape(*shape, 2))


def _slice(node: Node, keys: Words) -> Words:
    params = node.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return Words(keys.words[tuple(slice(*bounds) for bounds in ranges)])


_STEPS = {
    "random_wrap": _wrap,
    "random_unwrap": lambda node, keys: keys.words,
    "random_clone": lambda node, keys: keys,
    "random_fold_in": _fold_in,
    "random_split": _split,
    "slice": _slice,
    "squeeze": lambda node, keys: Words(keys.words.reshape(*node.avals[0].shape, 2)),
    "reshape": lambda node, keys: Words(keys.words.reshape(*node.avals[0].shape, 2)),
}
"""How NumPy does the primitives that every model uses; None hands over to JAX."""
