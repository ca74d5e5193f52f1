"""Constants, plain distributions and samplers, against jax, SciPy and their formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flax_inits as fi
from flax_inits.initializers.general.truncated import moments
from flax_inits.initializers.general.uniform_normal import ceiling

KEY = jax.random.key(3)
SHAPE = (64, 100)
FALSE_ALARM = 1e-6


def jitted(function):
    return jax.jit(function)(KEY)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("bounds", [(-0.05, 0.05), (0.0, 1.0), (-3.0, 7.1), (-1e-3, 2e4)])
def test_uniform_is_that_of_jax(bounds):
    low, high = bounds
    expected = jitted(lambda key: jax.random.uniform(key, SHAPE, minval=low, maxval=high))
    chex.assert_trees_all_equal(fi.uniform(low, high)(KEY, SHAPE), expected)


def test_uniform_never_reaches_its_upper_end():
    shape = (2**22,)
    there = jitted(lambda key: jax.random.uniform(key, shape, minval=9.0, maxval=10.0))
    here = fi.uniform(9.0, 10.0)(KEY, shape)
    assert there.max() == 10 and here.max() == np.nextafter(np.float32(10), np.float32(0))
    chex.assert_trees_all_equal(here, jnp.minimum(there, here.max()))


def test_the_upper_end_is_guarded_only_where_a_draw_rounds_to_it():
    single = np.dtype(np.float32)
    assert ceiling(-10.0, 10.0, single) == np.inf
    assert ceiling(0.0, 1.0, single) == np.inf
    assert ceiling(9.0, 10.0, single) == np.nextafter(np.float32(10), np.float32(0))
    assert ceiling(9.0, 10.0, np.dtype(np.float64)) == np.nextafter(10.0, 0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("stddev", [0.02, 1.0, 1e-6, 1 / 3])
def test_normal_is_that_of_jax(stddev):
    expected = jitted(lambda key: jax.random.normal(key, SHAPE) * stddev)
    chex.assert_trees_all_equal(fi.normal(stddev)(KEY, SHAPE), expected)


def test_normal_of_no_spread_has_no_negative_zeros():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.complex64):
        for stddev in (0.0, 1e-60):
            values = np.asarray(fi.normal(stddev)(KEY, SHAPE, dtype))
            assert not np.signbit(values.real).any() and not values.any()


def test_complex_normal_shares_the_variance():
    values = np.asarray(fi.normal(2.0, mean=1.0)(KEY, (100_000,), jnp.complex64))
    for part, mean in ((values.real, 1), (values.imag, 0)):
        assert stats.kstest(part, stats.norm(mean, np.sqrt(2)).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize("stddev", [0.02, 1.0, 1 / 3])
def test_truncated_normal_is_that_of_jax(stddev):
    theirs = jax.nn.initializers.truncated_normal(stddev)
    expected = jitted(lambda key: theirs(key, SHAPE, jnp.float32))
    chex.assert_trees_all_equal(fi.truncated_normal(stddev)(KEY, SHAPE), expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "lower, upper", [(5.25, 10.0), (1.0001, 3.0), (-np.inf, -8.0), (11.0, 12.0), (100.0, 101.0)]
)
def test_truncated_normal_in_the_tails(lower, upper):
    values = np.asarray(fi.truncated_normal(1.0, lower=lower, upper=upper)(KEY, (100_000,)))
    values = values.astype(np.float64)
    assert lower <= values.min() and values.max() <= upper
    for end in (values.min(), values.max()):
        assert np.mean(values == end) < 1e-2
    assert stats.kstest(values, stats.truncnorm(lower, upper).cdf).pvalue > FALSE_ALARM


def test_absolute_bounds_hold_in_every_dtype():
    init = fi.truncated_normal(0.2, 0.1, -0.3, 0.1000001, bounds="absolute")
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn):
        values = np.asarray(init(KEY, (10_000,), dtype), np.float64)
        assert -0.3 <= values.min() and values.max() <= 0.1000001


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"lower": -1.0, "upper": 3.0},
        {"lower": 0.0, "upper": np.inf},
        {"lower": -0.7, "upper": 0.4, "bounds": "absolute"},
        {"lower": 0.0, "upper": np.inf, "bounds": "absolute"},
        {"mean": 3.0, "lower": 0.0, "upper": 1.0, "bounds": "absolute"},
    ],
)
def test_corrected_standard_deviation(arguments):
    init = fi.truncated_normal(0.25, **arguments, correct_std=True)
    values = np.asarray(init(KEY, (400_000,)), np.float64)
    kurtosis = stats.kurtosis(values, fisher=False)
    error = values.std() * np.sqrt((kurtosis - 1) / 4 / values.size)
    assert abs(values.std() - 0.25) < 4.9 * error


@pytest.mark.parametrize("lower, upper", [(-2, 2), (0, np.inf), (-1, 3), (5.25, 10), (-7, -6)])
def test_moments_agree_with_scipy(lower, upper):
    law = stats.truncnorm(lower, upper)
    with np.errstate(all="ignore"):
        mean, variance = law.stats("mv")
    np.testing.assert_allclose(moments(lower, upper)[1:], (mean, np.sqrt(variance)), 1e-8, 1e-12)


def test_truncated_normal_of_no_spread_is_zero():
    for init in (fi.truncated_normal(0.0), fi.truncated_normal(0, 0, 0, 1, bounds="absolute")):
        chex.assert_trees_all_equal(init(KEY, (3,)), jnp.zeros(3))


def test_constants_are_exact_or_rejected():
    assert fi.constant(3)(KEY, (2,), jnp.int8).tolist() == [3, 3]
    assert fi.constant(1.0)(KEY, (), bool).dtype == jnp.bool_
    assert fi.constant(1 - 2j)(KEY, (), jnp.complex64) == 1 - 2j
    assert fi.constant(np.array([2 + 0j, 3]))(KEY, (2,), jnp.int8).tolist() == [2, 3]
    assert fi.constant([True, False])(KEY, (2,), jnp.int32).tolist() == [1, 0]
    assert np.isnan(fi.constant(np.nan)(KEY, ()))
    chex.assert_trees_all_equal(fi.constant(0.1)(KEY, ()), jnp.float32(0.1))
    rejected = [(0.5, "int32"), (300, "int8"), (-1, "uint8"), (2, "bool"), (1j, "float32")]
    for value, name in [*rejected, (1e6, "float16"), (np.inf, "float8_e4m3fn"), (np.nan, "int32")]:
        with pytest.raises(
            ValueError, match=rf"constant cannot hold .* in {name} without changing"
        ):
            fi.constant(value)(KEY, (), name)


def test_arrays_fill_the_trailing_axes():
    init = fi.constant(np.arange(6.0).reshape(2, 3))
    chex.assert_shape(init(KEY, (4, 0, 2, 3)), (4, 0, 2, 3))
    chex.assert_trees_all_equal(init(KEY, (5, 2, 3))[4], jnp.arange(6.0).reshape(2, 3))
    for shape in ((3, 2), (3,), (), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\), which must be the trailing axes"):
            init(KEY, shape)


def test_from_array_never_broadcasts():
    init = fi.from_array(np.ones((2, 3)))
    for shape in ((3,), (1, 2, 3), (3, 2)):
        with pytest.raises(ValueError, match=r"holds an array of shape \(2, 3\), asked for"):
            init(KEY, shape)
    chex.assert_trees_all_equal(fi.from_array(7)(KEY, ()), jnp.float32(7))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "sampler, parameters",
    [
        (jax.random.laplace, {}),
        (jax.random.truncated_normal, {"lower": -1.0, "upper": 2.0}),
        (jax.random.pareto, {"b": 2.0}),
        (jax.random.exponential, {}),
        (jax.random.lognormal, {"sigma": 0.5}),
    ],
)
def test_samplers_are_called_by_name(sampler, parameters):
    expected = jitted(lambda key: sampler(key, shape=(5, 2), dtype=jnp.float32, **parameters))
    init = fi.from_sampler(sampler, **parameters)
    chex.assert_trees_all_close(init(KEY, (5, 2)), expected, rtol=1e-6)


def test_samplers_of_integers_are_cast():
    signs = fi.from_sampler(jax.random.rademacher)
    assert set(np.asarray(signs(KEY, (99,), jnp.bfloat16), float)) == {-1, 1}
    draws = fi.from_sampler(jax.random.randint, minval=2, maxval=5)
    assert set(np.asarray(draws(KEY, (99,)))) == {2, 3, 4} and draws(KEY, (9,)).dtype == jnp.float32
    assert draws(KEY, (9,), jnp.int8).dtype == jnp.int8
    coin = fi.from_sampler(jax.random.bernoulli, p=0.5)
    assert coin(KEY, (9,), bool).dtype == jnp.bool_


def test_samplers_are_given_a_dtype_if_they_need_one_or_do_not_say():
    def sampler(key, *, shape, dtype):
        return jax.random.normal(key, shape, dtype)

    sampler.__signature__ = "none that Python can read"  # type: ignore[attr-defined]
    draws = fi.from_sampler(sampler)(KEY, (4,), jnp.bfloat16)
    want = fi.from_sampler(jax.random.normal)(KEY, (4,), jnp.bfloat16)
    chex.assert_trees_all_equal(draws, want)
    del sampler.__signature__  # type: ignore[attr-defined]
    chex.assert_trees_all_equal(fi.from_sampler(sampler)(KEY, (4,), jnp.bfloat16), want)


def test_samplers_that_do_not_fit_are_rejected():
    for name in ("int32", "complex64"):
        with pytest.raises(ValueError, match=f"`laplace` must be a float dtype, got {name}"):
            fi.from_sampler(jax.random.laplace)(KEY, (3,), name)
    with pytest.raises(TypeError, match="lambda.* returned float32 values, which int32 cannot"):
        fi.from_sampler(lambda key, shape: jax.random.beta(key, 2, 3, shape))(KEY, (3,), "int32")
    pair = fi.from_sampler(jax.random.multivariate_normal, mean=np.zeros(2), cov=np.eye(2))
    with pytest.raises(ValueError, match=r"returned shape \(3, 2\) where \(3,\) was asked for"):
        pair(KEY, (3,))
    with pytest.raises(TypeError, match="must return an array of shape"):
        fi.from_sampler(lambda key, shape: None)(KEY, (3,))
