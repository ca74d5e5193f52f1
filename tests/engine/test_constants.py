"""Constants of a function are what XLA makes of them, also in and out of calls."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from as_jit import assert_as_jit

import flax_inits
from flax_inits._engine.programs import Pooled

KEY = jax.random.key(3)


def is_pooled(draw):
    (job,) = flax_inits.jit_init(draw)._planned((KEY,), {})[1].jobs
    return isinstance(job.recipe, Pooled)


def test_constants_in_calls_are_what_xla_makes_of_them():
    """XLA simplifies before it inlines: a constant in a call is divided and merged otherwise."""
    numbers = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)

    def init(key):
        made = {}
        for i, (a, b, c) in enumerate(numbers):
            clipped = jnp.clip(jnp.full((3, 2), a), -9.0, 9.0)
            made[f"quotient {i}"] = clipped / c
            made[f"product {i}"] = jax.jit(lambda x, b=b: x * b)(jnp.full((3, 2), a)) * c
            made[f"exponential {i}"] = jnp.exp(clipped)
            made[f"into {i}"] = jax.jit(lambda x, c=c: x / c)(jnp.full((3, 2), a))
            made[f"out of {i}"] = jax.jit(lambda x: -x)(jnp.full((3, 2), a)) / c
            made[f"factors {i}"] = jax.jit(lambda x: -x)(jnp.full((3, 2), a)) * b * c
            made[f"summands {i}"] = jax.jit(lambda x, b=b, c=c: x + b + c)(jnp.full((3, 2), a))
        return made

    assert_as_jit(init, KEY)


@pytest.mark.parametrize("lower", [-1.761, -1.443, -2.244])
def test_truncated_normals_of_any_bounds(lower):
    assert_as_jit(lambda key: jr.truncated_normal(key, lower, 2.0, (5, 40)), KEY)


@pytest.mark.parametrize("lower, upper", [(-2, 2), (-2, np.inf), (-np.inf, 2)])
def test_the_bounds_of_most_truncated_normals_are_proved_to_be_pooled(lower, upper):
    def draw(key):
        return jr.truncated_normal(key, lower, upper, (5, 40))

    assert_as_jit(draw, KEY)
    assert is_pooled(draw) == (lower == -upper)


@pytest.mark.parametrize("shape", [(700, 100), (3, 3, 8, 16)])
def test_so_are_those_in_double_precision(shape):
    lecun = jax.nn.initializers.lecun_normal()
    with jax.enable_x64(True):
        for draw in (
            lambda key: lecun(key, shape, jnp.float64),
            lambda key: jax.jit(lambda key: lecun(key, shape, jnp.float64))(key) / 3,
        ):
            assert is_pooled(draw)
            assert_as_jit(draw, jr.key(3))
