"""Keys as NumPy words, and what models do with keys, in NumPy."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from .._base import bits, philox
from .._base.bits import is_key_dtype
from .graph import Node
from .placement import on_cpu
from .releases import is_examined

_FEW = 1 << 10
"""Keys up to which Python is faster than compiling a program."""


class KeyWords:
    """Keys as NumPy words, uint32: of threefry (..., 2), of "rbg" and "unsafe_rbg" (..., 4)."""

    __slots__ = ("words",)

    def __init__(self, words: np.ndarray):
        self.words = words


def to_host(value: Any) -> Any:
    """Takes keys that NumPy splits as words, others as they are, integers as NumPy arrays."""
    if not is_key_dtype(getattr(value, "dtype", np.dtype(int))):
        return value if isinstance(value, KeyWords) else np.asarray(value)
    return KeyWords(words_of(value)) if _in_numpy(value.dtype) else value


def words_of(keys: Any) -> np.ndarray:
    """Reads the uint32 words of keys of any implementation."""
    return keys.words if isinstance(keys, KeyWords) else np.asarray(jax.random.key_data(keys))


@functools.cache
def impl_of(dtype: Any) -> Any:
    """Finds the PRNG implementation of a key dtype, for `jax.random.wrap_key_data`."""
    return _asked(dtype, jax.random.key_impl)


@functools.cache
def is_threefry_dtype(dtype: Any) -> bool:
    """Whether keys of this dtype draw the stream of threefry2x32."""
    return _asked(dtype, bits.is_threefry)


@functools.cache
def is_rbg_dtype(dtype: Any) -> bool:
    """Whether keys of this dtype draw by `lax.rng_bit_generator`."""
    return impl_of(dtype) in ("rbg", "unsafe_rbg")


def _in_numpy(dtype: Any) -> bool:
    # Keys "rbg" are split as two of threefry, on all devices; "unsafe_rbg" by what a device draws.
    known = is_threefry_dtype(dtype) or impl_of(dtype) == "rbg"
    return known or (_is_unsafe(dtype) and on_cpu(None) and is_examined())


def _is_unsafe(dtype: Any) -> bool:
    return impl_of(dtype) == "unsafe_rbg"


@functools.cache
def words_in(dtype: Any) -> int:
    """Counts the words of a key."""
    return _asked(dtype, lambda key: jax.random.key_data(key).shape[-1])


def _asked(dtype: Any, ask: Callable[[Any], Any]) -> Any:
    # No public function takes a key dtype, but all take a traced key.
    answers = []
    key = jax.ShapeDtypeStruct((), dtype)
    jax.eval_shape(lambda key: answers.append(ask(key)), key)
    return answers[0]


def _wrap(node: Node, data: np.ndarray) -> KeyWords | None:
    return KeyWords(data) if _in_numpy(node.avals[0].dtype) else None


def _fold_in(node: Node, keys: KeyWords, data: np.ndarray) -> KeyWords | None:
    shape = (*node.avals[0].shape, keys.words.shape[-1])
    if _is_unsafe(node.avals[0].dtype):
        # Several are folded at once, by draws that depend on each other.
        if len(shape) > 1:
            return None
        return KeyWords(np.array(philox.fold_in_words(keys.words.tolist(), int(data)), np.uint32))
    if len(shape) == 1:  # of one key, as nearly always
        halves, fold = keys.words.reshape(-1, 2).tolist(), int(data)
        folded = [bits.fold_in_words(tuple(half), fold) for half in halves]
        return KeyWords(np.array(folded, np.uint32).reshape(shape))
    words = np.broadcast_to(keys.words, shape).reshape(-1, 2).tolist()
    folds = np.broadcast_to(np.expand_dims(data, -1), (*shape[:-1], shape[-1] // 2))
    folds = folds.reshape(-1).tolist()
    folded = [bits.fold_in_words(tuple(w), d) for w, d in zip(words, folds, strict=True)]
    return KeyWords(np.array(folded, np.uint32).reshape(shape))


def _split(node: Node, keys: KeyWords) -> KeyWords | None:
    # Which keys come out depends on jax_threefry_partitionable (jax#13341), and so on the context
    # that the node was traced in, under which this is called.
    if keys.words.ndim != 1:
        return None
    shape, size = node.params["shape"], int(np.prod(node.params["shape"]))
    if _is_unsafe(node.avals[0].dtype):
        if size > _FEW:
            return None
        split = philox.split_words(keys.words.tolist(), size)
        return KeyWords(np.array(split, np.uint32).reshape(*shape, 4))
    halves = keys.words.reshape(-1, 2).tolist()
    split = [bits.split_words(tuple(half), size) for half in halves]
    return KeyWords(np.array(split, np.uint32).swapaxes(0, 1).reshape(*shape, keys.words.size))


def _slice(node: Node, keys: KeyWords) -> KeyWords:
    params = node.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return KeyWords(keys.words[tuple(slice(*bounds) for bounds in ranges)])


def _reshape(node: Node, keys: KeyWords) -> KeyWords:
    return KeyWords(keys.words.reshape(*node.avals[0].shape, keys.words.shape[-1]))


OF_DATA: Mapping[str, Callable[..., Any]] = {"random_wrap": _wrap}
"""How NumPy does the primitives that make keys of arrays; None hands over to JAX."""

OF_KEYS: Mapping[str, Callable[..., Any]] = {
    "random_unwrap": lambda node, keys: keys.words,
    "random_clone": lambda node, keys: keys,
    "random_fold_in": _fold_in,
    "random_split": _split,
    "slice": _slice,
    "squeeze": _reshape,
    "reshape": _reshape,
}
"""How NumPy does what every model does with keys; None hands over to JAX."""
