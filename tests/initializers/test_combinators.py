"""Initializers made from initializers: ours, jax's, Flax's and users'."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import flax_inits as fi

KEY = jax.random.key(9)


def takes_three(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


def takes_two(key, shape):
    return jax.random.normal(key, shape)


def takes_dtype_by_name(key, shape, *, dtype):
    return jax.random.normal(key, shape, dtype)


def takes_who_knows_what(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


takes_who_knows_what.__signature__ = "none that Python can read"  # type: ignore[attr-defined]


class Callable:
    def __call__(self, key, shape, dtype=None, out_sharding=None):
        return jax.random.normal(key, shape, dtype)


ANY_KIND = [
    fi.normal(1.0),
    takes_three,
    takes_two,
    takes_dtype_by_name,
    takes_who_knows_what,
    Callable(),
    lambda key, shape, dtype=None: jax.random.normal(key, shape, dtype),
    functools.partial(jax.random.normal),
    jax.nn.initializers.normal(1.0),
    nn.initializers.normal(1.0),
]
COMBINED = [
    lambda init: fi.stacked(init),
    lambda init: fi.replicated(init),
    lambda init: fi.scaled(init, 0.5),
    lambda init: fi.clipped(init, -1, 1),
    lambda init: fi.blocks([init, fi.zeros()], axis=-1),
    lambda init: fi.masked(init, np.eye(3, 4, dtype=bool)),
    lambda init: fi.mixture([init, 0]),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "init", ANY_KIND, ids=lambda init: getattr(init, "__name__", type(init).__name__)
)
def test_any_initializer_can_be_combined(init):
    shape = (2, 3, 4)

    def draws(key, dtype):
        return [combine(init)(key, shape, dtype) for combine in COMBINED]

    quick = {"xla_backend_optimization_level": 0}
    for values in jax.jit(draws, static_argnums=1, compiler_options=quick)(KEY, jnp.float32):
        assert values.shape == shape and values.dtype == jnp.float32
        assert np.isfinite(values).all() and values.any()
    for values in jax.eval_shape(lambda: draws(KEY, jnp.bfloat16)):
        assert values.shape == shape and values.dtype == jnp.bfloat16


@pytest.mark.parametrize("combine", COMBINED)
def test_another_shape_is_an_error(combine):
    wrong = combine(lambda key, shape, dtype: jnp.zeros((*shape, 1), dtype))
    with pytest.raises(ValueError, match=r"returned shape \(.*, 1\) where \(.*\) was asked for"):
        wrong(KEY, (2, 3, 4))


@pytest.mark.parametrize("combine", COMBINED)
def test_what_is_no_initializer_is_an_error(combine):
    with pytest.raises(TypeError, match="needs an initializer .*, got 'zeros'"):
        combine("zeros")
    with pytest.raises(TypeError, match="got the factory normal; call it first: normal"):
        combine(fi.normal)
    with pytest.raises(TypeError, match=r"callable as \(key, shape, dtype\), got .* are \(key\)"):
        combine(lambda key: key)
    unfinished = combine(jax.nn.initializers.normal)
    with pytest.raises((TypeError, ValueError)):
        unfinished(KEY, (2, 3, 4))


def test_values_of_another_kind_are_an_error():
    with pytest.raises(TypeError, match="returned complex64 values, which float32 cannot hold"):
        fi.scaled(lambda key, shape, dtype: jnp.zeros(shape, jnp.complex64), 2)(KEY, (2,))
    with pytest.raises(TypeError, match=r"must return an array of shape \(2,\), got int: 3"):
        fi.scaled(lambda key, shape, dtype: 3, 2)(KEY, (2,))


def test_an_error_of_the_users_own_passes_through():
    def broken(key, shape, dtype):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fi.stacked(broken)(KEY, (2, 3))


@pytest.mark.slow
def test_the_default_dtype_is_the_inner_ones():
    for init in (fi.normal(1.0, dtype=jnp.bfloat16), jax.nn.initializers.normal(1.0, jnp.bfloat16)):
        for combine in COMBINED[:4]:
            assert combine(init)(KEY, (2, 3)).dtype == jnp.bfloat16
    assert fi.scaled(fi.normal(1.0, dtype="bfloat16"), 2, dtype="float16").dtype == jnp.float16


# stacked, replicated, blocks


@pytest.mark.slow
def test_stacked_draws_each_slice_with_its_own_key():
    kaiming = jax.nn.initializers.he_normal()
    keys = jax.random.split(KEY, 5)
    expected = jax.jit(lambda keys: jnp.stack([kaiming(key, (3, 4)) for key in keys]))(keys)
    for axis, shape in ((0, (5, 3, 4)), (1, (3, 5, 4)), (-1, (3, 4, 5))):
        values = jnp.moveaxis(fi.stacked(kaiming, axis)(KEY, shape), axis, 0)
        chex.assert_trees_all_close(values, expected, rtol=1e-6)


def test_stacked_over_several_axes_is_row_major():
    init = fi.uniform(0, 1)
    values = fi.stacked(init, axes=(0, -1))(KEY, (2, 4, 3))
    keys = jax.random.split(KEY, 6)
    for i in range(2):
        for j in range(3):
            chex.assert_trees_all_equal(values[i, :, j], init(keys[3 * i + j], (4,)))


def test_stacked_keeps_the_fans_and_orthogonality():
    kernel = fi.stacked(jax.nn.initializers.orthogonal())(KEY, (6, 8, 8))
    for slice_ in kernel:
        chex.assert_trees_all_close(slice_ @ slice_.T, jnp.eye(8), atol=1e-5)
    lecun = np.asarray(fi.stacked(jax.nn.initializers.lecun_normal())(KEY, (8, 128, 128)))
    assert abs(lecun.std() * np.sqrt(128) - 1) < 4.9 / np.sqrt(2 * lecun.size)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_stacked_slices_are_right_for_every_key_implementation(impl):
    key = jax.random.key(0, impl=impl)
    values = fi.stacked(fi.uniform(0, 1))(key, (3, 5))
    for one, sub in zip(values, jax.random.split(key, 3), strict=True):
        chex.assert_trees_all_equal(one, fi.uniform(0, 1)(sub, (5,)))


def test_axes_that_the_shape_lacks():
    for factory in (fi.stacked, fi.replicated):
        with pytest.raises(ValueError, match=r"axes=2 is no axis of a shape with 2 axes"):
            factory(fi.zeros(), axes=2)(KEY, (2, 3))
        with pytest.raises(ValueError, match="names an axis twice"):
            factory(fi.zeros(), axes=(0, -2))(KEY, (2, 3))
        with pytest.raises(ValueError, match="is no axis of a shape with 0 axes"):
            factory(fi.zeros())(KEY, ())


@pytest.mark.slow
def test_replicated_repeats_one_draw():
    init = fi.normal(1.0)
    for axes, shape in ((0, (5, 3, 4)), (-1, (3, 4, 5)), ((0, 2), (2, 3, 5, 4))):
        values = fi.replicated(init, axes)(KEY, shape)
        one = init(KEY, (3, 4))
        moved = jnp.moveaxis(values, (0, 2), (0, 1)) if axes == (0, 2) else values
        if axes == -1:
            moved = jnp.moveaxis(values, -1, 0)
        for slice_ in moved.reshape(-1, 3, 4):
            chex.assert_trees_all_equal(slice_, one)


def test_stacked_and_replicated_of_nothing():
    for factory in (fi.stacked, fi.replicated):
        assert factory(fi.normal(1.0))(KEY, (0, 3)).shape == (0, 3)
        assert factory(fi.normal(1.0))(KEY, (3, 0)).shape == (3, 0)


def test_blocks_have_their_own_keys_shapes_and_fans():
    inits = [jax.nn.initializers.he_normal(), fi.constant(2.0), fi.uniform(0, 1)]
    kernel = fi.blocks(inits, axis=-1, sizes=[4, 1, 3])(KEY, (5, 8))
    keys = jax.random.split(KEY, 3)
    expected = jax.jit(lambda key: inits[0](key, (5, 4)))(keys[0])
    chex.assert_trees_all_close(kernel[:, :4], expected, rtol=1e-6)
    chex.assert_trees_all_equal(kernel[:, 4], jnp.full(5, 2.0))
    chex.assert_trees_all_equal(kernel[:, 5:], fi.uniform(0, 1)(keys[2], (5, 3)))


def test_blocks_that_do_not_fit():
    pair = [fi.zeros(), fi.ones()]
    with pytest.raises(ValueError, match="the number of initializers = 2 must divide axis 0"):
        fi.blocks(pair, axis=0)(KEY, (3, 2))
    with pytest.raises(ValueError, match=r"the sizes \(1, 3\) sum to 4, but axis 1 of the shape"):
        fi.blocks(pair, axis=-1, sizes=[1, 3])(KEY, (3, 5))
    with pytest.raises(ValueError, match="axis=2 is no axis of a shape with 2 axes"):
        fi.blocks(pair, axis=2)(KEY, (3, 5))


# scaled, clipped, masked


def test_scaled_multiplies():
    init = fi.uniform(-1, 1)
    chex.assert_trees_all_equal(fi.scaled(init, -2)(KEY, (9,)), -2 * init(KEY, (9,)))
    zeros = np.asarray(fi.scaled(init, 0)(KEY, (9,)))
    assert not zeros.any() and not np.signbit(zeros).any()
    with pytest.raises(TypeError, match="makes arrays of inexact dtypes"):
        fi.scaled(fi.ones(), 2)(KEY, (9,), jnp.int32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e5m2])
def test_scaled_rounds_once_and_keeps_bounds(dtype):
    init = fi.scaled(fi.uniform(-1, 1), 0.37)
    values = np.asarray(init(KEY, (1000,), dtype), np.float64)
    assert np.abs(values).max() <= 0.37
    wide = init(KEY, (1000,))
    inside = np.abs(np.asarray(wide)) < 0.25
    chex.assert_trees_all_equal(values[inside], np.asarray(wide.astype(dtype), np.float64)[inside])


def test_clipped_moves_values_to_the_ends():
    init = fi.normal(1.0)
    values = fi.clipped(init, -0.5, 0.5)(KEY, (1000,))
    chex.assert_trees_all_equal(values, jnp.clip(init(KEY, (1000,)), -0.5, 0.5))
    open_ended = fi.clipped(init, 0.1, float("inf"))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        assert np.asarray(open_ended(KEY, (1000,), dtype), np.float64).min() >= 0.1


def test_masked_keeps_what_is_true():
    mask = np.arange(6).reshape(2, 3) % 2 == 0
    init = fi.uniform(-2, -1)
    for shape in ((2, 3), (4, 2, 3)):
        values = np.asarray(fi.masked(init, mask)(KEY, shape))
        keep = np.broadcast_to(mask, shape)
        chex.assert_trees_all_equal(values, np.where(keep, np.asarray(init(KEY, shape)), 0.0))
        assert not np.signbit(values[values == 0]).any()
    for shape in ((3, 2), (3,), ()):
        with pytest.raises(ValueError, match=r"must be the trailing axes of the shape, got"):
            fi.masked(init, mask)(KEY, shape)
    narrow = fi.scaled(fi.masked(fi.uniform(1, 2), mask), 2)(KEY, (2, 3), jnp.bfloat16)
    assert (narrow == 0).sum() == 3


def test_they_compose():
    init = fi.stacked(fi.blocks([fi.scaled(fi.mixture(), 0.1), fi.zeros()], axis=-1))
    values = fi.clipped(fi.masked(init, np.ones(6, bool)), -0.75, 0.75)(KEY, (3, 4, 6))
    assert np.abs(values).max() == 0.75 and not values[..., 3:].any()
    assert eval(repr(init), vars(fi)) == init
