"""The mixture: its bits, its law, its general form, and where it must work."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from scipy import stats

import flax_inits as fi

KEY = jax.random.key(5)
SHAPES = [(), (0, 3), (7,), (2, 3, 5, 7)]
DTYPES = ["float32", "bfloat16", "float16", "float64"]
FALSE_ALARM = 1e-6


def reference(key, shape):
    u = jax.random.uniform(key, shape, minval=-10, maxval=10)
    return jnp.where(jnp.abs(u) >= 5, u, 0)


def draws_in(function, *arguments) -> int:
    """How many times the traced function draws random bits."""

    def count(jaxpr) -> int:
        total = 0
        for equation in jaxpr.eqns:
            total += equation.primitive.name in ("random_bits", "threefry2x32")
            for inner in jax.tree.leaves(list(equation.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                total += count(inner) if hasattr(inner, "eqns") else 0
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference_bit_for_bit(shape):
    expected = jax.jit(reference, static_argnums=1)(KEY, shape)
    chex.assert_trees_all_equal(fi.mixture()(KEY, shape), expected)
    chex.assert_trees_all_equal(jax.jit(lambda key: fi.mixture()(key, shape))(KEY), expected)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_dtypes(shape, dtype):
    with jax.enable_x64(dtype == "float64"):
        values = fi.mixture()(KEY, shape, dtype)
        assert (values.shape, values.dtype) == (shape, dtype)
        magnitudes = np.abs(np.asarray(values, np.float64))
    assert np.all((magnitudes == 0) | ((magnitudes >= 5) & (magnitudes <= 10)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_has_no_negative_zero(dtype):
    values = np.asarray(fi.mixture()(KEY, (10_000,), dtype), np.float32)
    assert not np.signbit(values[values == 0]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "init",
    [
        fi.mixture(),
        fi.mixture([fi.uniform(-10, -5), 0, fi.uniform(5, 10)], [0.25, 0.5, 0.25]),
        fi.mixture([fi.uniform(5, 10), 0.0, fi.scaled(fi.uniform(5, 10), -1)], [0.25, 0.5, 0.25]),
    ],
)
def test_law_at_ten_million_draws(init):
    # Three tests of 1e-6 / 3 each: one false alarm in a million.
    values = np.asarray(init(KEY, (10_000_000,)), np.float64)
    low, high = values[values < 0], values[values > 0]
    counts = [low.size, np.sum(values == 0), high.size]
    shares = np.array([0.25, 0.5, 0.25]) * values.size
    assert stats.chisquare(counts, shares).pvalue > FALSE_ALARM / 3
    assert stats.kstest(low, stats.uniform(-10, 5).cdf).pvalue > FALSE_ALARM / 3
    assert stats.kstest(high, stats.uniform(5, 5).cdf).pvalue > FALSE_ALARM / 3


def test_any_weights_of_uniforms_and_points():
    weights = [0.1, 0.25, 0.6, 0.05]
    init = fi.mixture([fi.uniform(0, 1), 2, fi.uniform(3, 7), fi.constant(-1)], weights)
    values = np.asarray(init(KEY, (500_000,)), np.float64)
    groups = [(values >= 0) & (values < 1), values == 2, (values >= 3) & (values < 7), values == -1]
    counts = [group.sum() for group in groups]
    assert sum(counts) == values.size
    assert stats.chisquare(counts, np.array(weights) * values.size).pvalue > FALSE_ALARM
    for group, law in ((groups[0], stats.uniform(0, 1)), (groups[2], stats.uniform(3, 4))):
        assert stats.kstest(values[group], law.cdf).pvalue > FALSE_ALARM


def test_components_of_any_kind():
    init = fi.mixture([fi.normal(0.1), jax.nn.initializers.ones, 3], weights=[0.2, 0.3, 0.5])
    values = np.asarray(init(KEY, (200_000,)), np.float64)
    counts = [np.sum((values != 1) & (values != 3)), np.sum(values == 1), np.sum(values == 3)]
    expected = np.array([0.2, 0.3, 0.5]) * values.size
    assert stats.chisquare(counts, expected).pvalue > FALSE_ALARM
    normal = values[(values != 1) & (values != 3)]
    assert stats.kstest(normal, stats.norm(0, 0.1).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    "init, draws",
    [
        (fi.mixture(), 1),
        (fi.mixture([fi.uniform(5, 10), 0, fi.uniform(-10, -5)], [0.25, 0.5, 0.25]), 1),
        (fi.mixture([fi.uniform(0, 1), fi.zeros(), fi.ones(), fi.constant(4), -2.5]), 1),
        (fi.mixture([fi.mixture(), fi.scaled(fi.uniform(0, 1), 3), 0.0]), 1),
        (fi.mixture([fi.normal(1.0), 0]), 2),
        (fi.mixture([fi.normal(1.0), fi.truncated_normal(1.0), 0]), 3),
    ],
)
def test_number_of_draws(init, draws):
    assert draws_in(lambda key: init(key, (4, 5)), KEY) == draws


def test_one_component_and_nesting():
    only = fi.mixture([fi.uniform(2, 3)])(KEY, (1000,))
    assert 2 <= only.min() and only.max() < 3
    assert fi.mixture([7])(KEY, (2, 2)).tolist() == [[7, 7], [7, 7]]
    nested = fi.mixture([fi.mixture(), fi.mixture([20, -20])], [0.5, 0.5])
    values = np.asarray(nested(KEY, (100_000,)), np.float64)
    counts = [np.sum(values == x) for x in (20, -20, 0)] + [np.sum(np.abs(values) < 20)]
    assert stats.binomtest(int(counts[0]), values.size, 0.25).pvalue > FALSE_ALARM
    assert stats.binomtest(int(counts[2]), values.size, 0.25).pvalue > FALSE_ALARM


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_each_piece_keeps_its_own_bounds(dtype):
    init = fi.mixture([fi.uniform(-9.99, -5.01), fi.uniform(5.01, 9.99)])
    magnitudes = np.abs(np.asarray(init(KEY, (20_000,), dtype), np.float64))
    low, high = (np.float32(5.01), np.float32(9.99)) if dtype == "float32" else (5.01, 9.99)
    assert low <= magnitudes.min() and magnitudes.max() <= high


def test_weights_may_be_off_by_a_rounding_only():
    fi.mixture([0, 1, 2], [0.3333333, 0.3333333, 0.3333334])
    fi.mixture([0, 1], np.array([0.1, 0.9], np.float32))
    with pytest.raises(ValueError, match="which sum to 0.99999;.* divide them by their sum"):
        fi.mixture([0, 1], [0.5, 0.49999])


def test_points_that_a_dtype_cannot_hold_are_rejected():
    with pytest.raises(ValueError, match="mixture cannot hold 1000000.0 in float16"):
        fi.mixture([0, 1e6])(KEY, (2,), jnp.float16)


def test_a_component_of_another_shape_is_rejected():
    with pytest.raises(ValueError, match=r"mixture: .* returned shape \(3,\) where \(2, 3\)"):
        fi.mixture([lambda key, shape, dtype: jnp.zeros(shape[1:], dtype), 0])(KEY, (2, 3))


# Where users put it.


def test_linen_and_nnx():
    dense = nn.Dense(8, kernel_init=fi.mixture())
    eager, compiled = dense.init(KEY, jnp.ones((1, 4))), jax.jit(dense.init)(KEY, jnp.ones((1, 4)))
    chex.assert_trees_all_equal(eager, compiled)
    assert eager["params"]["kernel"].shape == (4, 8)
    linear = nnx.Linear(4, 8, kernel_init=fi.mixture(), rngs=nnx.Rngs(0))
    assert set(np.unique(np.abs(linear.kernel[...]) >= 5)) == {False, True}


def test_nn_scan_draws_each_layer():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(4, kernel_init=fi.mixture())(x), None

    stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    kernel = stack().init(KEY, jnp.ones((1, 4)), None)["params"]["Dense_0"]["kernel"]
    chex.assert_shape(kernel, (3, 4, 4))
    for one, other in itertools.combinations(kernel, 2):
        assert (one != other).any()


def test_vmap_and_pmap_equal_single_draws():
    keys = jax.random.split(KEY, 4)
    expected = jnp.stack([fi.mixture()(key, (3, 5)) for key in keys])
    for transform in (jax.vmap, jax.pmap):
        chex.assert_trees_all_equal(
            np.asarray(transform(lambda key: fi.mixture()(key, (3, 5)))(keys)), np.asarray(expected)
        )


def test_export_with_symbolic_dimensions():
    batch, width = jax.export.symbolic_shape("batch, 2*width")
    draw = jax.jit(lambda key, x: fi.mixture()(key, x.shape))
    like = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    exported = jax.export.export(draw)(jax.random.key_data(KEY), like)
    for shape in ((3, 4), (1, 10)):
        values = exported.call(jax.random.key_data(KEY), jnp.zeros(shape))
        chex.assert_trees_all_equal(values, fi.mixture()(KEY, shape))
