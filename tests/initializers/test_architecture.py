"""Initializers of particular architectures keep what their papers promise."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flax_inits as fi

KEY = jax.random.key(9)
ALARM = 1e-6  # the share of keys with which a right initializer would fail
QUANTILE = 4.9


def assert_std(values, expected):
    tolerance = QUANTILE / np.sqrt(2 * values.size)
    assert np.std(np.asarray(values)) / expected == pytest.approx(1, abs=tolerance)


# Sine networks


@pytest.mark.slow
def test_siren_keeps_its_distribution_through_ten_layers():
    width, w0 = 2048, 30.0
    keys = jax.random.split(KEY, 10)
    hidden = jnp.sin(w0 * jnp.array([0.3, -0.7]) @ fi.siren(first=True)(keys[0], (2, width)))
    for key in keys[1:]:
        # Given its inputs, its neurons are independent, N(0, w0² width · c/(3 width w0²) E[h²]).
        variance = 2 * float(jnp.mean(hidden**2))
        signal = w0 * hidden @ fi.siren(w0)(key, (width, width))
        assert stats.kstest(np.asarray(signal), stats.norm(0, variance**0.5).cdf).pvalue > ALARM
        hidden = jnp.sin(signal)
        # The variance v settles where v = 2 E[sin²] = 1 - exp(-2v): 0.797. That is stable: the
        # slope there is 0.4, and the mean of 2048 squares has a standard error of 0.008.
        assert 0.7 < variance < 1.05
    assert variance == pytest.approx(0.797, abs=4.9 * 2 * 0.008 / (1 - 0.4))


def test_siren_bounds():
    first = np.abs(fi.siren(first=True)(KEY, (4, 20000)))
    assert 0.2499 < first.max() <= 0.25
    later = np.abs(fi.siren(w0=10.0, c=3.0)(KEY, (3, 3, 12, 2000)))
    bound = (3 / 108) ** 0.5 / 10
    assert 0.999 * bound < later.max() <= bound * (1 + 1e-6)


# Depth and width


def test_depth_and_width_scales():
    shape = (400, 300)
    assert_std(fi.small_init(64)(KEY, shape), (2 / 320) ** 0.5)
    assert_std(fi.wang_init(12, 64)(KEY, shape), 2 / 12 / 8)
    base = fi.normal(0.02)
    assert_std(fi.residual_scaled(base, 12)(KEY, shape), 0.02 / 24**0.5)
    assert_std(fi.residual_scaled(base, 12, 3)(KEY, shape), 0.02 / 6)
    assert_std(fi.depth_scaled(base, 0)(KEY, shape), 0.02 / 2**0.5)
    assert_std(fi.depth_scaled(base, 17)(KEY, shape), 0.02 / 6)


def test_depth_scales_take_any_initializer():
    plain = jax.nn.initializers.orthogonal()
    for init, factor in [(fi.residual_scaled(plain, 8), 4), (fi.depth_scaled(plain, 7), 4)]:
        values = init(KEY, (16, 16), jnp.float32)
        np.testing.assert_allclose(values, plain(KEY, (16, 16), jnp.float32) / factor, rtol=1e-6)


def test_depth_scales_are_named_by_their_errors():
    wrong = lambda key, shape, dtype: jnp.ones(3)  # noqa: E731
    for init in (fi.residual_scaled(wrong, 8), fi.depth_scaled(wrong, 7)):
        with pytest.raises(ValueError, match=rf"^{init.__name__}: .* returned shape \(3,\) where"):
            init(KEY, (2,))


@pytest.mark.parametrize("layer, sigma", [(None, 0.1), (0, 0.1 / 2**0.5), (7, 0.1 / 4)])
def test_mitchell_cuts_at_three_sigma_without_making_up_for_it(layer, sigma):
    values = np.asarray(fi.mitchell(layer)(KEY, (100, 3000)))
    assert_std(values, sigma * stats.truncnorm(-3, 3).std())
    assert 2.95 * sigma < np.abs(values).max() <= 3 * sigma * (1 + 1e-6)
    sample = values.ravel()[:20000] / sigma
    assert stats.kstest(sample, stats.truncnorm(-3, 3).cdf).pvalue > ALARM


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "base_shape, shape, factor",
    [
        ((64, 256), (64, 256), 1),  # the base itself
        ((10, 64), (10, 1024), 1),  # input layer
        ((64, 10), (1024, 10), 1),  # output layer
        ((64, 256), (1024, 4096), 1 / 4),  # hidden layer
        ((64, 256), (16, 64), 2),  # narrower than the base
        ((64,), (1024,), 1),  # bias
        ((3, 3, 16, 32), (3, 3, 64, 128), 1 / 2),
        ((1, 64), (1, 128), 1),
    ],
)
def test_mup_shrinks_hidden_matrices_only(base_shape, shape, factor):
    base = fi.normal(0.5)
    values = fi.mup_scaled(base, base_shape)(KEY, shape)
    np.testing.assert_allclose(values, base(KEY, shape) * factor, rtol=1e-6)


def test_mup_axes_of_attention_kernels():
    init = fi.mup_scaled(fi.ones(), (64, 8, 16), in_axis=0, out_axis=1)
    np.testing.assert_allclose(init(KEY, (256, 32, 16)), 0.5)
    with pytest.raises(ValueError, match="differs from .* in the in and out axes only"):
        init(KEY, (256, 8, 64))
    with pytest.raises(ValueError, match=r"a shape of 3 axes, as base_shape=\(64, 8, 16\) has"):
        init(KEY, (256, 512))


# Recurrent cells


def test_lstm_forget_bias_sets_one_gate():
    fused = fi.lstm_forget_bias(2.0)(KEY, (3, 8))
    np.testing.assert_array_equal(fused, [[0, 0, 2, 2, 0, 0, 0, 0]] * 3)
    output = fi.lstm_forget_bias(gate=2, num_gates=3)(KEY, (6,))
    np.testing.assert_array_equal(output, [0, 0, 0, 0, 1, 1])
    with pytest.raises(ValueError, match="num_gates = 4 must divide axis -1"):
        fi.lstm_forget_bias()(KEY, (6,))


def test_cells_with_a_leaf_for_each_gate():
    # The trap: bias_init reaches all four gates. One leaf is one gate, chosen by its path.
    cell = nn.LSTMCell(5, bias_init=nn.initializers.ones)
    params = cell.init(KEY, cell.initialize_carry(KEY, (1, 3)), jnp.ones((1, 3)))["params"]
    assert {gate for gate in params if "bias" in params[gate] and params[gate]["bias"].all()} == {
        "hi", "hf", "hg", "ho",
    }  # fmt: skip
    one = fi.lstm_forget_bias(gate=0, num_gates=1)
    rules = {"*/bias": fi.zeros(), "hf/bias": one}
    params = fi.reinit(KEY, params, [*reversed(rules.items())])
    np.testing.assert_array_equal(params["hf"]["bias"], 1)
    assert not any(params[gate]["bias"].any() for gate in ("hi", "hg", "ho"))


def test_chrono_times_are_spread_up_to_the_longest():
    t_max = 784.0
    i, f, g, o = np.asarray(fi.chrono(t_max)(KEY, (4 * 5000,)), np.float64).reshape(4, -1)
    np.testing.assert_array_equal(i, -f)
    assert not g.any() and not o.any()
    uniform = stats.uniform(1, t_max - 2).cdf
    assert stats.kstest(np.exp(f), uniform).pvalue > ALARM
    # What a cell remembers, 1 / (1 - σ(f)), is that plus one.
    times = 1 / (1 - 1 / (1 + np.exp(-f)))
    np.testing.assert_allclose(times, np.exp(f) + 1, rtol=1e-9)
    assert 2 <= times.min() and times.max() <= t_max * (1 + 1e-6)
    with pytest.raises(ValueError, match="the number of gates = 4 must divide axis -1"):
        fi.chrono(10)(KEY, (6,))


# State spaces


def test_mamba_rates():
    rates = np.exp(np.asarray(fi.mamba_a_log()(KEY, (3, 16)), np.float64))
    np.testing.assert_allclose(rates, np.broadcast_to(np.arange(1, 17), (3, 16)), rtol=1e-6)
    drawn = np.exp(np.asarray(fi.mamba_a_log("uniform", 2.0, 5.0)(KEY, (10000,)), np.float64))
    assert stats.kstest(drawn, stats.uniform(2, 3).cdf).pvalue > ALARM


def test_mamba_steps_are_log_uniform():
    steps = jax.nn.softplus(fi.mamba_dt_bias(1e-3, 0.1)(KEY, (10000,)))
    logs = np.log10(np.asarray(steps, np.float64))
    assert stats.kstest(logs, stats.uniform(-3, 2).cdf).pvalue > ALARM
    floored = jax.nn.softplus(fi.mamba_dt_bias(1e-6, 1e-2, floor=1e-3)(KEY, (1000,)))
    assert float(floored.min()) == pytest.approx(1e-3, rel=1e-3)


def test_hippo_is_the_legendre_transition():
    # Built as its paper derives it: T M T⁻¹ with T = √diag(2n + 1), here in float64.
    n = np.arange(64)
    scale = np.sqrt(2 * n + 1)
    below = np.where(n[:, None] > n, 2 * n + 1, 0) + np.diag(n + 1)
    expected = -(scale[:, None] * below / scale)
    with jax.enable_x64(True):
        np.testing.assert_allclose(fi.hippo_legs()(KEY, (64, 64), np.float64), expected, rtol=1e-14)
    values = np.asarray(fi.hippo_legs()(KEY, (2, 64, 64)), np.float64)
    np.testing.assert_allclose(values, np.stack([expected] * 2), rtol=1e-7)
    np.testing.assert_allclose(np.linalg.eigvals(expected).real.max(), -1)
    with pytest.raises(ValueError, match=r"a square shape \(N, N\), got \(3, 4\)"):
        fi.hippo_legs()(KEY, (3, 4))


@pytest.mark.parametrize("r_min, r_max", [(0.0, 1.0), (0.4, 0.8), (0.9, 0.999), (0.999, 1.0)])
def test_lru_eigenvalues_are_uniform_on_a_ring(r_min, r_max):
    with jax.enable_x64(True):
        nu = fi.lru_nu_log(r_min, r_max)(KEY, (10000,), np.float32)
    squared = np.exp(-2 * np.exp(np.asarray(nu, np.float64)))
    area = (squared - r_min**2) / (r_max**2 - r_min**2)
    assert np.isfinite(nu).all() and stats.kstest(area, "uniform").pvalue > ALARM
    phase = np.exp(np.asarray(fi.lru_theta_log(3.14)(KEY, (10000,)), np.float64))
    assert stats.kstest(phase / 3.14, "uniform").pvalue > ALARM


@pytest.mark.slow
def test_lru_has_no_infinite_parameters():
    # Among 2^23 values of a 23-bit uniform about 60 % occur; 0, with the infinite logarithm, too.
    for init in (fi.lru_theta_log(), fi.lru_nu_log(0.0, 1.0)):
        values = init(KEY, (2**23,))
        assert bool(jnp.isfinite(values).all())
        assert bool(jnp.isfinite(init(KEY, (4096,), jnp.bfloat16)).all())
