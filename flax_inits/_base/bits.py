"""Keys and shapes to random values: the only source of randomness.

A fused key draws the same bits as the threefry key that it wraps, through `threefry`; jax.random's
own samplers on top of it then make the same values of them, in one fused loop.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import random as extend_random

from . import philox
from .errors import brief
from .threefry import counter as counter
from .threefry import counter_bits as counter_bits
from .threefry import fold_in_words as fold_in_words
from .threefry import split_words as split_words
from .types import Array, DType, Key, Shape

_THREEFRY = extend_random.threefry_prng_impl


def check_key(key: Key) -> None:
    """Raises unless `key` is one PRNG key, typed or legacy."""
    dtype = getattr(key, "dtype", None)
    if dtype is None:
        raise TypeError(f"key must be one PRNG key such as jax.random.key(0), got {_what(key)}.")
    typed = _is_typed(key)
    legacy = _legacy_shape(jax.config.jax_default_prng_impl)
    if not typed and (np.dtype(dtype) != np.uint32 or key.shape[-1:] != legacy):
        raise TypeError(
            "key must be one PRNG key such as jax.random.key(0), got an array of "
            f"dtype {dtype} and shape {key.shape}."
        )
    batch = key.shape if typed else key.shape[:-1]
    if batch:
        raise ValueError(
            f"key must be one PRNG key, got an array of keys of shape {batch}; "
            "use jax.vmap to draw with several keys."
        )


def _what(key: object) -> str:
    if isinstance(key, Mapping):
        return f"{brief(key)}; the key comes first"
    shown, name = brief(key), type(key).__name__
    if shown.startswith(f"{name}("):
        return f"{shown}; the key comes first"
    return f"{name}: {shown}"


def _is_typed(key: Key) -> bool:
    return is_key_dtype(key.dtype)


@functools.cache
def _legacy_shape(impl: str) -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl))).shape


def is_threefry(key: Key) -> bool:
    """Whether `key` draws the stream of threefry2x32: typed, legacy or fused."""
    if _is_typed(key):
        return jax.random.key_impl(key) in ("threefry2x32", _FUSED)
    return jax.config.jax_default_prng_impl == "threefry2x32"


def fused_key(key: Key) -> Key:
    """Wraps a threefry key so that every draw with it is one fused loop over the same bits.

    Element i of a draw is Threefry-2x32 of the counter i, in both cases. JAX computes it by a loop
    over arrays of the output's size; a fused key by one loop over the elements, without
    temporaries. Bits are equal. So are the values that samplers make of them, except where XLA
    rounds what it fuses with the bits otherwise in the last place: under `jit`, with a short last
    axis or several draws in one program (`normal(key, (100, 4)) * 0.02` differs by 2e-7 relative).

    Its `split` and `fold_in` are those of threefry and give fused keys. The one sampler that
    refuses it, as any key but threefry's own, is `jax.random.poisson`.

    Args:
      key: a PRNG key, typed or legacy. A fused key, or a key of any PRNG implementation but
        threefry2x32, is returned as it is.

    Returns:
      A typed PRNG key.

    Raises:
      TypeError: `key` is no PRNG key.
      ValueError: `key` is an array of keys; use `jax.vmap`.

    Example:
      >>> import flax_inits, jax
      >>> key = jax.random.key(0)
      >>> draw = jax.jit(lambda key: jax.random.bits(key, (4, 4)))
      >>> bool((draw(flax_inits.fused_key(key)) == draw(key)).all())
      True

    Reference: Salmon et al., Parallel random numbers: as easy as 1, 2, 3. SC 2011.
    """
    check_key(key)
    return fused_keys(key)


def fused_keys(keys: Key) -> Key:
    """Wraps typed keys of any shape, or one legacy key, as `fused_key` does."""
    if not is_threefry(keys) or (_is_typed(keys) and jax.random.key_impl(keys) == _FUSED):
        return keys
    data = jax.random.key_data(keys) if _is_typed(keys) else keys
    return jax.random.wrap_key_data(data, impl=_FUSED)


def key_words(key: Key) -> tuple[int, int]:
    """Reads the two words of a concrete threefry key, as Python integers."""
    high, low = np.asarray(jax.random.key_data(key) if _is_typed(key) else key)
    return int(high), int(low)


def _random_bits(data: Array, bit_width: int, shape: Shape) -> Array:
    # The old stream pairs element i with element i + n / 2, so no element can be drawn alone.
    if not jax.config.jax_threefry_partitionable:
        return _THREEFRY.random_bits(data, bit_width, shape)
    return _fused_bits(data, bit_width, tuple(shape))


# A pickled key names the function that draws its bits; so this one has a public address.
vars(fused_key)["random_bits"] = _random_bits
_random_bits.__module__, _random_bits.__qualname__ = "flax_inits", "fused_key.random_bits"


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fused_bits(data: Array, bit_width: int, shape: tuple) -> Array:
    k0, k1 = (lax.index_in_dim(data, word, keepdims=False) for word in (0, 1))
    return words_to_bits(*counter_bits(k0, k1, *counter(shape)), bit_width)


def words_to_bits(x0: Array, x1: Array, bit_width: int) -> Array:
    """Takes the bits that JAX does: 64 of both words of a block, else the low ones of their xor."""
    # Both words are mixed even for 8 bits: what JAX throws away is not drawn for another element.
    dtype = np.dtype(f"uint{bit_width}")
    if bit_width != 64:
        return lax.convert_element_type(lax.bitwise_xor(x0, x1), dtype)
    high, low = lax.convert_element_type(x0, dtype), lax.convert_element_type(x1, dtype)
    return lax.bitwise_or(lax.shift_left(high, lax.full_like(high, 32)), low)


def bits_at(key: Array, counter: tuple[Array, Array], bit_width: int) -> Array:
    """Computes bits of a draw on CPU devices, each from its own key and index.

    Args:
      key: the words of keys, uint32 of shape (n, 2) for threefry and (n, 4) for "rbg".
      counter: the index of each element in its draw, in two words, the high one first: arrays that
        broadcast to one shape of n rows.
      bit_width: 8, 16, 32 or 64.
    """
    if key.shape[1] == 2:
        return words_to_bits(*counter_bits(key[:, 0:1], key[:, 1:2], *counter), bit_width)
    shape = lax.broadcast_shapes(*map(np.shape, counter))
    words = [lax.broadcast_in_dim(key[:, i], shape, (0,)) for i in range(4)]
    high, low = (lax.broadcast_in_dim(word, shape, (0, 1)) for word in counter)
    if bit_width < 64:
        drawn = philox.word_at(words, high, low)
        return lax.convert_element_type(drawn, np.dtype(f"uint{bit_width}"))
    one = np.uint32(1)
    high = lax.bitwise_or(lax.shift_left(high, one), lax.shift_right_logical(low, np.uint32(31)))
    low = lax.shift_left(low, one)
    first, second = (
        philox.word_at(words, high, lax.bitwise_or(low, i)) for i in (np.uint32(0), one)
    )
    return words_to_bits(second, first, 64)


# All but the bits is threefry's own, so a fused key splits and folds into the same words. The name
# and the tag are what JAX tells implementations apart by.
_FUSED = extend_random.define_prng_impl(
    key_shape=_THREEFRY.key_shape,
    seed=_THREEFRY.seed,
    split=_THREEFRY.split,
    random_bits=_random_bits,
    fold_in=_THREEFRY.fold_in,
    name="fused_threefry2x32",
    tag="ffry",
)


def uniform(key: Key, shape: Shape, dtype: DType, minval: float, maxval: float) -> Array:
    """Draws U[minval, maxval)."""
    return jax.random.uniform(fused_key(key), shape, dtype, minval, maxval)


def normal(key: Key, shape: Shape, dtype: DType) -> Array:
    """Draws N(0, 1)."""
    return jax.random.normal(fused_key(key), shape, dtype)


def truncated_normal(key: Key, shape: Shape, dtype: DType, lower: float, upper: float) -> Array:
    """Draws N(0, 1) conditioned on the open interval (lower, upper)."""
    return jax.random.truncated_normal(fused_key(key), lower, upper, shape, dtype)


@functools.cache
def is_key_dtype(dtype: Any) -> bool:
    """Whether `dtype` is that of typed PRNG keys."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)
