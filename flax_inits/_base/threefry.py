"""Threefry-2x32 as one elementwise loop, and the same on the host in Python integers.

Salmon et al., Parallel random numbers: as easy as 1, 2, 3. SC 2011.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .types import Array, Shape

Words = tuple[Any, Any]
"""Two 32-bit words, the high one first: of a key, of a counter or of a block."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_MASK = 0xFFFFFFFF
_ROW = 1 << 31
"""An axis longer than this is counted in rows, since its index has more than 32 bits."""


def counter_bits(k0: Array, k1: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Encrypts the counter (high, low) with the key (k0, k1): twenty rounds of Threefry-2x32.

    All are uint32: scalars, or arrays of one rank whose sizes are equal or 1. Written in `lax` and
    unrolled, so that XLA fuses it with what makes the counter and with what uses the bits.
    """
    # JAX's own is a loop over whole arrays on CPU (until jax#37872) and a kernel of its own
    # on GPU (jax#20328, xla#10415): neither is fused, so bits and counters are
    # arrays of the output's size in memory. In `lax`, which lowers faster than `jnp`.
    shape = lax.broadcast_shapes(*map(np.shape, (k0, k1, high, low)))
    k0, k1, high, low = (_widened(x, shape) for x in (k0, k1, high, low))
    keys = (k0, k1, lax.bitwise_xor(lax.bitwise_xor(k0, k1), np.uint32(_PARITY)))
    x0, x1 = lax.add(high, k0), lax.add(low, k1)
    for step in range(5):
        for distance in _ROTATIONS[step % 2]:
            x0 = lax.add(x0, x1)
            x1 = lax.bitwise_xor(x0, _rotated(x1, distance))
        x0 = lax.add(x0, keys[(step + 1) % 3])
        x1 = lax.add(x1, lax.add(keys[(step + 2) % 3], np.uint32(step + 1)))
    return x0, x1


def _widened(x: Array, shape: Shape) -> Array:
    # Scalars stay scalars: the key schedule is then computed once, outside of the loop.
    if np.shape(x) in ((), tuple(shape)):
        return x
    return lax.broadcast_in_dim(x, shape, range(len(shape)))


def _rotated(x: Array, distance: int) -> Array:
    left = lax.shift_left(x, np.uint32(distance))
    return lax.bitwise_or(left, lax.shift_right_logical(x, np.uint32(32 - distance)))


def counter(shape: Shape, offset: Any = 0, row: int = _ROW) -> Words:
    """Counts elements: the flat index of each plus `offset`, as two words of `shape` (or scalars).

    One iota for each axis, never a reshape of one flat iota: so it partitions over any mesh.
    """
    if _fits_one_word(shape, offset):
        low = np.uint32(offset)
        for axis in range(len(shape)):
            index = lax.broadcasted_iota(np.uint32, shape, axis)
            stride = math.prod(shape[axis + 1 :])
            low = lax.add(lax.mul(index, np.uint32(stride & _MASK)), low)
        return np.uint32(0), low
    # Past 2**32 elements, and where nobody knows how many there are: indices in two words each.
    words = _words_of(offset)
    for axis, stride in enumerate(_strides_in_words(shape)):
        index = _long_iota(shape, axis, row)
        words = _sum(_product(index, stride), words)
    return words


def _fits_one_word(shape: Shape, offset: Any) -> bool:
    known = not any(map(jax.export.is_symbolic_dim, shape))
    return known and offset + math.prod(shape) <= 1 << 32


def _strides_in_words(shape: Shape) -> list[Words]:
    # Products of symbolic sizes would overflow JAX's default integer, which computes them.
    strides = [_words_of(1)]
    for size in shape[:0:-1]:
        strides.append(_product(_words_of(size), strides[-1]))
    return strides[: len(shape)][::-1]


def _words_of(size: Any) -> Words:
    if jax.export.is_symbolic_dim(size):
        # The value of one symbolic axis is an int32 without x64, so it has no high word.
        value = jnp.asarray(size)
        high = lax.shift_right_logical(value, np.asarray(32, value.dtype))
        return lax.convert_element_type(high, np.uint32), lax.convert_element_type(value, np.uint32)
    return np.uint32(size >> 32), np.uint32(size & _MASK)


def _long_iota(shape: Shape, axis: int, row: int) -> Words:
    size = shape[axis]
    if jax.export.is_symbolic_dim(size) or size <= row:
        return np.uint32(0), lax.broadcasted_iota(np.uint32, shape, axis)
    rows = -(-size // row)
    step = _words_of(row)
    index = np.uint32(0), lax.broadcasted_iota(np.uint32, (rows, row), 0)
    column = np.uint32(0), lax.broadcasted_iota(np.uint32, (rows, row), 1)
    words = (
        lax.slice(lax.reshape(word, (rows * row,)), (0,), (size,))
        for word in _sum(_product(index, step), column)
    )
    high, low = (lax.broadcast_in_dim(word, shape, (axis,)) for word in words)
    return high, low


def _sum(x: Words, y: Words) -> Words:
    # The low words have carried if and only if their sum is less than either.
    low = lax.add(x[1], y[1])
    carry = lax.convert_element_type(lax.lt(low, y[1]), np.uint32)
    return lax.add(lax.add(x[0], y[0]), carry), low


def _product(x: Words, y: Words) -> Words:
    """Multiplies modulo 2**64, as counters do."""
    # By halves of the low words: lax has no product of 32 bits that keeps the high word, and 64-bit
    # integers only with jax_enable_x64.
    half, mask = np.uint32(16), np.uint32(0xFFFF)
    (x1, x0), (y1, y0) = (
        (lax.shift_right_logical(w[1], half), lax.bitwise_and(w[1], mask)) for w in (x, y)
    )
    middle = lax.add(lax.mul(x1, y0), lax.shift_right_logical(lax.mul(x0, y0), half))
    other = lax.add(lax.mul(x0, y1), lax.bitwise_and(middle, mask))
    high = lax.add(
        lax.mul(x1, y1),
        lax.add(lax.shift_right_logical(middle, half), lax.shift_right_logical(other, half)),
    )
    crossed = lax.add(lax.mul(x[0], y[1]), lax.mul(x[1], y[0]))
    return lax.add(high, crossed), lax.mul(x[1], y[1])


def block(key: Words, count: Words) -> Words:
    """Encrypts as `counter_bits` does, on the host: `count` by `key`, in Python integers."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x0, x1 = (count[0] + keys[0]) & _MASK, (count[1] + keys[1]) & _MASK
    for step in range(5):
        for distance in _ROTATIONS[step % 2]:
            x0 = (x0 + x1) & _MASK
            x1 = x0 ^ ((x1 << distance | x1 >> (32 - distance)) & _MASK)
        x0 = (x0 + keys[(step + 1) % 3]) & _MASK
        x1 = (x1 + keys[(step + 2) % 3] + step + 1) & _MASK
    return x0, x1


def fold_in_words(words: Words, data: int) -> Words:
    """Computes `jax.random.fold_in` on the words of a key: `data` counts modulo 2**32."""
    return block(words, (0, data & _MASK))


def split_words(words: Words, num: int = 2) -> list[Words]:
    """Computes `jax.random.split` on a key's words, as `jax_threefry_partitionable` says."""
    # With it, key i is fold_in(key, i) (jax#13341). Without, all words come from one draw
    # of 2 * num words, whose counters are halved: word j of the first half is encrypted with word j
    # of the second.
    if jax.config.jax_threefry_partitionable:
        return [block(words, divmod(index, 1 << 32)) for index in range(num)]
    pairs = [block(words, (index, num + index)) for index in range(num)]
    flat = [word for side in zip(*pairs, strict=True) for word in side]
    return list(zip(flat[::2], flat[1::2], strict=True))
