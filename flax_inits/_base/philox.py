"""Philox-4x32 as one elementwise loop: what CPU devices draw with keys "rbg" and "unsafe_rbg".

Salmon et al., Parallel random numbers: as easy as 1, 2, 3. SC 2011.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from .types import Array

_FACTORS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def word_at(key: Sequence[Array], high: Array, low: Array) -> Array:
    """Computes word number (high, low) of what `lax.rng_bit_generator` draws on CPU devices.

    `key` has the four words of a key, in order. All are uint32 arrays of one shape.
    """
    # Blocks of four words are counted in 128 bits, from where the key says: its first half is the
    # key of Philox and the upper half of the first count, its second half the lower one.
    with jax.enable_x64(True):
        upper, lower = _joined(key[1], key[0]), _joined(key[3], key[2])
        block = lax.shift_right_logical(_joined(high, low), _like(lower, 2))
        lower = lax.add(lower, block)
        upper = lax.add(upper, lax.convert_element_type(lax.lt(lower, block), np.uint64))
        words = _block(key[:2], (*_parted(lower), *_parted(upper)))
    # Each element computes its block for itself, and takes one word of it.
    odd, second = (lax.ne(lax.bitwise_and(low, _like(low, n)), _like(low, 0)) for n in (1, 2))
    pairs = (lax.select(odd, *reversed(pair)) for pair in (words[2:], words[:2]))
    return lax.select(second, *pairs)


def block(key: Sequence[int], number: int) -> list[int]:
    """Computes the four words of block `number` of a draw, on the host, in Python integers."""
    upper, lower = key[0] | key[1] << 32, key[2] | key[3] << 32
    count = (upper << 64 | lower) + number
    a, b, c, d = (count >> shift & _MASK for shift in (0, 32, 64, 96))
    for i in range(10):
        k0, k1 = ((word + step * i) & _MASK for word, step in zip(key[:2], _WEYL, strict=True))
        (high, low), (other_high, other_low) = (
            divmod(word * factor, 1 << 32) for word, factor in zip((a, c), _FACTORS, strict=True)
        )
        a, b, c, d = other_high ^ b ^ k0, other_low, high ^ d ^ k1, low
    return [a, b, c, d]


def fold_in_words(words: Sequence[int], data: int) -> list[int]:
    """Computes `jax.random.fold_in` on the words of a key "unsafe_rbg", as CPU devices do."""
    drawn = block((0, data, 0, data), 9)
    return [word ^ other for word, other in zip(words, drawn, strict=True)]


def split_words(words: Sequence[int], num: int) -> list[list[int]]:
    """Computes `jax.random.split` on the words of a key "unsafe_rbg", as CPU devices do."""
    return [block(words, 10 * index) for index in range(num)]


def _block(key: Sequence[Array], count: Sequence[Array]) -> Sequence[Array]:
    """Encrypts a count with a key: ten rounds."""
    a, b, c, d = count
    for number in range(10):
        k0, k1 = (
            lax.add(word, _like(word, step * number & _MASK))
            for word, step in zip(key, _WEYL, strict=True)
        )
        (low, high), (other_low, other_high) = (
            _parted(lax.mul(lax.convert_element_type(word, np.uint64), np.uint64(factor)))
            for word, factor in zip((a, c), _FACTORS, strict=True)
        )
        a, b = lax.bitwise_xor(lax.bitwise_xor(other_high, b), k0), other_low
        c, d = lax.bitwise_xor(lax.bitwise_xor(high, d), k1), low
    return a, b, c, d


def _joined(high: Array, low: Array) -> Array:
    high, low = (lax.convert_element_type(word, np.uint64) for word in (high, low))
    return lax.bitwise_or(lax.shift_left(high, _like(high, 32)), low)


def _parted(wide: Array) -> tuple[Array, Array]:
    """Takes 64 bits as two words, the low one first."""
    high = lax.shift_right_logical(wide, _like(wide, 32))
    return lax.convert_element_type(wide, np.uint32), lax.convert_element_type(high, np.uint32)


def _like(x: Array, value: int) -> Any:
    return x.dtype.type(value)
