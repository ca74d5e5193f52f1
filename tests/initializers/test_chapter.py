"""The text that this project started from, cell by cell, as a Flax user would write it.

Each case is done twice: when a model is built, and afterwards on a tree that exists.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze, unfreeze

import flax_inits

KEY = jax.random.key(0)
X = jnp.ones((2, 20))
SIZES = (256, 10)
CONTAINERS = [dict, FrozenDict]


class Block(nn.Module):
    """The text's network: two dense layers; the initializers are for building."""

    first: dict
    second: dict

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(SIZES[0], name="layers_0", **self.first)(x))
        return nn.Dense(SIZES[1], name="layers_2", **self.second)(x)


def net(first=None, second=None):
    """The network, with other initializers in the first layer and in the second."""
    first = {} if first is None else first
    return Block(first, first if second is None else second)


def build(model):
    return model.init(KEY, X)["params"]


@pytest.fixture(params=CONTAINERS, ids=["dict", "FrozenDict"])
def existing(request):
    """A tree that was made before anyone thought of initializing it otherwise."""
    params = build(net({"bias_init": nn.initializers.normal(1.0)}))
    return freeze(params) if request.param is FrozenDict else params


def reinit(params, rules):
    """`flax_inits.reinit`, with what must hold whatever the rules are."""
    after = flax_inits.reinit(jax.random.key(1), params, rules)
    assert type(after) is type(params)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)
    return after


def assert_gaussian(kernel, stddev):
    """Mean, variance and shape of the bell at a false-alarm rate below 1e-6 each."""
    values = np.asarray(kernel, np.float64).ravel() / stddev
    n = values.size
    assert abs(values.mean()) < 4.9 / np.sqrt(n)
    assert abs(values.var() - 1) < 4.9 * np.sqrt(2 / n)
    within = np.mean(np.abs(values) < 1)
    assert abs(within - 0.6827) < 4.9 * np.sqrt(0.6827 * 0.3173 / n)


def assert_xavier(kernel):
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), filled to its ends."""
    bound = np.sqrt(6 / sum(kernel.shape))
    values = np.asarray(kernel)
    assert 0.99 * bound < np.abs(values).max() <= bound
    assert abs(values.var() / (bound**2 / 3) - 1) < 4.9 * np.sqrt(0.8 / values.size)


# Gaussian weights with a standard deviation of 0.01, zero biases.


def test_gaussian_when_built():
    params = build(net({"kernel_init": flax_inits.normal(0.01), "bias_init": flax_inits.zeros()}))
    assert_gaussian(params["layers_0"]["kernel"], 0.01)
    assert not params["layers_0"]["bias"].any() and not params["layers_2"]["bias"].any()


def test_gaussian_on_a_tree(existing):
    rules = {"**/kernel": flax_inits.normal(0.01), "**/bias": flax_inits.zeros()}
    after = reinit(existing, rules)
    assert existing["layers_0"]["bias"].any()
    assert_gaussian(after["layers_0"]["kernel"], 0.01)
    assert_gaussian(after["layers_2"]["kernel"], 0.01)
    assert not after["layers_0"]["bias"].any() and not after["layers_2"]["bias"].any()


# The constant 1 as every weight, zero biases.


def test_constant_when_built():
    params = build(net({"kernel_init": flax_inits.constant(1.0), "bias_init": flax_inits.zeros()}))
    assert (params["layers_0"]["kernel"] == 1).all() and (params["layers_2"]["kernel"] == 1).all()
    assert not params["layers_0"]["bias"].any()


def test_constant_on_a_tree(existing):
    after = reinit(existing, {"**/kernel": flax_inits.constant(1.0), "**": flax_inits.zeros()})
    for layer in after.values():
        assert (layer["kernel"] == 1).all() and not layer["bias"].any()


# Xavier in the first block, 42 in the second.


def test_other_blocks_other_initializers_when_built():
    first = {"kernel_init": nn.initializers.xavier_uniform()}
    params = build(net(first, {"kernel_init": flax_inits.constant(42.0)}))
    assert_xavier(params["layers_0"]["kernel"])
    assert (params["layers_2"]["kernel"] == 42).all()


@pytest.mark.parametrize(
    "xavier", [nn.initializers.xavier_uniform, flax_inits.glorot_uniform], ids=["jax", "ours"]
)
def test_other_blocks_other_initializers_on_a_tree(existing, xavier):
    after = reinit(existing, {"layers_0/kernel": xavier(), "layers_2": flax_inits.constant(42.0)})
    assert_xavier(after["layers_0"]["kernel"])
    assert not np.array_equal(after["layers_0"]["kernel"], existing["layers_0"]["kernel"])
    assert (after["layers_2"]["kernel"] == 42).all() and (after["layers_2"]["bias"] == 42).all()
    assert after["layers_0"]["bias"] is existing["layers_0"]["bias"]


# The text's own distribution: U(5, 10) or U(-10, -5), a quarter each, else 0.


def by_hand(key, shape):
    data = jax.random.uniform(key, shape, minval=-10, maxval=10)
    return data * (jnp.abs(data) >= 5)


@pytest.mark.usefixtures("standard_promotion")
def test_custom_mixture_is_the_formula():
    values = flax_inits.mixture()(KEY, (300, 40))
    np.testing.assert_array_equal(values, jax.jit(by_hand, static_argnums=1)(KEY, (300, 40)))
    assert not np.signbit(np.asarray(values)[np.asarray(values) == 0]).any()


@pytest.mark.usefixtures("standard_promotion")
def test_custom_mixture_when_built():
    """Equal to the model built with the formula: the same keys reach the same kernels."""

    def formula(key, shape, dtype=jnp.float32):
        return jax.jit(by_hand, static_argnums=1)(key, tuple(shape)).astype(dtype)

    ours = build(net({"kernel_init": flax_inits.mixture()}))
    theirs = build(net({"kernel_init": formula}))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    kernel = np.asarray(ours["layers_0"]["kernel"])
    zeros = np.mean(kernel == 0)
    assert abs(zeros - 0.5) < 4.9 * np.sqrt(0.25 / kernel.size)
    assert set(np.floor(np.abs(kernel[kernel != 0]))) <= {5, 6, 7, 8, 9, 10}


def test_custom_mixture_on_a_tree(existing):
    after = reinit(existing, {"**/kernel": flax_inits.mixture()})
    for name, layer in after.items():
        kernel = np.asarray(layer["kernel"])
        assert ((kernel == 0) | ((np.abs(kernel) >= 5) & (np.abs(kernel) <= 10))).all()
        assert (kernel > 0).any() and (kernel < 0).any() and (kernel == 0).any()
        assert layer["bias"] is existing[name]["bias"]


# Setting values directly: all plus one, then the first entry 42.


def test_setting_values(existing):
    """`unfreeze`, change, and `graft` what changed back: the container stays what it was."""
    changed = unfreeze(existing)
    kernel = existing["layers_0"]["kernel"] + 1
    changed["layers_0"]["kernel"] = kernel.at[0, 0].set(42.0)
    after = flax_inits.graft(existing, changed, "layers_0/kernel")
    assert type(after) is type(existing)
    assert after["layers_0"]["kernel"][0, 0] == 42
    np.testing.assert_array_equal(
        after["layers_0"]["kernel"].ravel()[1:], (existing["layers_0"]["kernel"] + 1).ravel()[1:]
    )
    assert after["layers_2"]["kernel"] is existing["layers_2"]["kernel"]
    assert existing["layers_0"]["kernel"][0, 0] != 42


def test_setting_values_by_an_initializer(existing):
    data = np.asarray(existing["layers_2"]["kernel"]) + 1
    after = reinit(existing, {"layers_2/kernel": flax_inits.from_array(data)})
    np.testing.assert_array_equal(after["layers_2"]["kernel"], data)


# Applying by the type of the module. A wrong type did nothing in the text's framework.


def test_by_module_type(existing):
    where = flax_inits.of_type(net(), nn.Dense, X)
    after = reinit(existing, {where: flax_inits.constant(3.0)})
    assert all((leaf == 3).all() for leaf in jax.tree.leaves(after))


class Normed(nn.Module):
    """A model of two kinds of layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="head")(nn.LayerNorm(name="norm")(x))


def test_by_module_type_spares_other_types():
    params = build(Normed())
    where = flax_inits.of_type(Normed(), nn.LayerNorm, X)
    after = reinit(params, {where: flax_inits.constant(3.0)})
    assert (after["norm"]["scale"] == 3).all() and (after["norm"]["bias"] == 3).all()
    assert after["head"]["kernel"] is params["head"]["kernel"]


def test_a_wrong_type_is_an_error():
    with pytest.raises(ValueError, match="Conv.*it has.*Dense"):
        flax_inits.of_type(net(), nn.Conv, X)
    with pytest.raises(TypeError, match="subclass of nn.Module"):
        flax_inits.of_type(net(), "Dense", X)


def test_a_wrong_name_is_an_error(existing):
    with pytest.raises(ValueError, match="layers_1.*layers_[02]"):
        flax_inits.reinit(KEY, existing, {"layers_1": flax_inits.zeros()})
