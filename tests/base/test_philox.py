"""What CPU devices draw with keys "rbg" and "unsafe_rbg", element by element and on the host."""

import jax
import numpy as np
import pytest
from jax import lax

from flax_inits._base import bits, philox

MASK = 0xFFFFFFFF
KEYS = {
    "small": (1, 2, 3, 4),
    "large": (0x9E3779B9, 0xFFFFFFFF, 0xDEADBEEF, 0x80000001),
    "carries": (7, 8, 0xFFFFFFFE, 5),
    "carries_twice": (7, 8, 0xFFFFFFFE, 0xFFFFFFFF),
    "carries_through": (0xFFFFFFFF, 8, 0xFFFFFFFF, 0xFFFFFFFF),
    "wraps": (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF),
}


def words(name):
    return np.array(KEYS[name], np.uint32)


def drawn(key, size, bit_width=32):
    """What XLA draws."""
    with jax.enable_x64(bit_width == 64):
        draw = jax.jit(lambda key: lax.rng_bit_generator(key, (size,), dtype=f"uint{bit_width}")[1])
        return np.asarray(draw(key))


@pytest.mark.parametrize("bit_width", [8, 16, 32, 64])
@pytest.mark.parametrize("name", KEYS)
def test_each_element_by_itself(name, bit_width):
    key, index = words(name), np.random.default_rng(0).permutation(61).astype(np.uint32)
    low = index.reshape(1, -1)
    with jax.enable_x64(bit_width == 64):
        ours = jax.jit(bits.bits_at, static_argnums=2)(key[None], (low * 0, low), bit_width)
        assert np.array_equal(ours[0], drawn(key, 61, bit_width)[index])


@pytest.mark.parametrize("index", [1 << 32, (1 << 34) + 3, (1 << 40) - 1])
@pytest.mark.parametrize("name", KEYS)
def test_indices_of_more_than_32_bits(name, index):
    # Nobody can draw that many: but the state says where a draw goes on.
    counter = [np.full((1, 4), word, np.uint32) for word in divmod(index, 1 << 32)]
    (ours,) = jax.jit(bits.bits_at, static_argnums=2)(words(name)[None], counter, 32)
    assert ours.tolist() == [philox.block(KEYS[name], index // 4)[index % 4]] * 4


@pytest.mark.parametrize("name", KEYS)
def test_blocks_on_the_host(name):
    expected = drawn(words(name), 40).reshape(10, 4).tolist()
    assert [philox.block(KEYS[name], number) for number in range(10)] == expected


@pytest.mark.parametrize("data", [0, 1, 77, MASK])
@pytest.mark.parametrize("name", KEYS)
def test_keys_on_the_host(name, data):
    key = jax.random.wrap_key_data(words(name), impl="unsafe_rbg")
    folded = jax.random.key_data(jax.random.fold_in(key, np.uint32(data)))
    assert philox.fold_in_words(KEYS[name], data) == folded.tolist()
    split = jax.random.key_data(jax.random.split(key, 5))
    assert philox.split_words(KEYS[name], 5) == split.tolist()
