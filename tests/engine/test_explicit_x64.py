"""Explicit 64-bit dtypes without x64: as JAX itself treats them in each of its modes."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_inits

KEY = jax.random.key(0)
MADE = {
    "normal": lambda key: jax.random.normal(key, (5,), jnp.float64) * 2,
    "uniform": lambda key: jax.random.uniform(key, (5,), "float64"),
    "zeros": lambda key: jnp.zeros(3, jnp.float64),
    "integers": lambda key: jnp.full(3, 7, jnp.int64),
    "bits": lambda key: jax.random.bits(key, (5,), "uint64"),
    "cast": lambda key: jax.random.normal(key, (5,)).astype(jnp.float64) + 1,
    "inside of a scan": lambda key: jax.lax.scan(
        lambda carry, key: (carry, jax.random.normal(key, (), jnp.float64).astype(jnp.float32)),
        0,
        jax.random.split(key, 3),
    )[1],
}


@pytest.fixture(params=["allow", "warn", "error"])
def mode(request):
    before = jax.config.jax_explicit_x64_dtypes.name.lower()
    jax.config.update("jax_explicit_x64_dtypes", request.param)
    yield request.param
    jax.config.update("jax_explicit_x64_dtypes", before)


def outcome(fun, key):
    """The dtype and the bytes of what is made, or the type of the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = fun(key)
        except (TypeError, ValueError) as error:
            return type(error).__name__, b""
    return str(made.dtype), np.asarray(made).tobytes()


@pytest.mark.sampled(4)
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", MADE)
def test_as_jit(mode, name):
    expected = outcome(jax.jit(MADE[name]), KEY)
    assert outcome(flax_inits.jit_init(MADE[name]), KEY) == expected
    assert outcome(jax.jit(MADE[name]), flax_inits.fused_key(KEY)) == expected


def test_the_plan_says_so(mode):
    (row,) = flax_inits.jit_init(lambda key: jnp.zeros(3, jnp.float32)).plan(KEY).rows
    assert row.recipe == "zeros"
    if mode == "allow":
        (row,) = flax_inits.jit_init(MADE["zeros"]).plan(KEY).rows
        assert row.recipe == ("the whole function: it makes 64-bit values without jax_enable_x64")


def test_factories(mode):
    if mode == "warn":
        with pytest.warns(UserWarning, match="makes float32 where float64 was asked for"):
            assert flax_inits.normal(1.0)(KEY, (3,), jnp.float64).dtype == jnp.float32
        return
    with pytest.raises(ValueError, match=r"normal\(1.0\) makes float64 only with jax_enable_x64"):
        flax_inits.normal(1.0)(KEY, (3,), jnp.float64)
