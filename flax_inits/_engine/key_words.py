"""Threefry keys as NumPy words, and what models do with keys, in NumPy."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from .._base import bits
from .._base.bits import is_key_dtype
from .graph import Node


class KeyWords:
    """Threefry keys as NumPy words: shape (..., 2), uint32."""

    __slots__ = ("words",)

    def __init__(self, words: np.ndarray):
        self.words = words


def to_host(value: Any) -> Any:
    """Takes threefry keys as words, other keys as they are, integers as NumPy arrays."""
    if not is_key_dtype(getattr(value, "dtype", np.dtype(int))):
        return value if isinstance(value, KeyWords) else np.asarray(value)
    return KeyWords(words_of(value)) if bits.is_threefry(value) else value


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


def _asked(dtype: Any, ask: Callable[[Any], Any]) -> Any:
    # No public function takes a key dtype, but all take a traced key.
    answers = []
    key = jax.ShapeDtypeStruct((), dtype)
    jax.eval_shape(lambda key: answers.append(ask(key)), key)
    return answers[0]


def _wrap(node: Node, data: np.ndarray) -> KeyWords | None:
    return KeyWords(data) if is_threefry_dtype(node.avals[0].dtype) else None


def _fold_in(node: Node, keys: KeyWords, data: np.ndarray) -> KeyWords | None:
    shape = node.avals[0].shape
    words = np.broadcast_to(keys.words, (*shape, 2)).reshape(-1, 2).tolist()
    folds = np.broadcast_to(data, shape).reshape(-1).tolist()
    folded = [bits.fold_in_words(tuple(w), d) for w, d in zip(words, folds, strict=True)]
    return KeyWords(np.array(folded, np.uint32).reshape(*shape, 2))


def _split(node: Node, keys: KeyWords) -> KeyWords | None:
    # Which keys come out depends on jax_threefry_partitionable (jax#13341), and so on the context
    # that the node was traced in, under which this is called.
    if keys.words.ndim != 1:
        return None
    shape = node.params["shape"]
    split = bits.split_words(tuple(keys.words.tolist()), int(np.prod(shape)))
    return KeyWords(np.array(split, np.uint32).reshape(*shape, 2))


def _slice(node: Node, keys: KeyWords) -> KeyWords:
    params = node.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return KeyWords(keys.words[tuple(slice(*bounds) for bounds in ranges)])


def _reshape(node: Node, keys: KeyWords) -> KeyWords:
    return KeyWords(keys.words.reshape(*node.avals[0].shape, 2))


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
