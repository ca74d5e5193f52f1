"""Variance scaling, its aliases and PyTorch's forms: fans, gains, and others' traps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import flax_inits as fi

KEY = jax.random.key(3)
# A normal sample of n values has a standard deviation within 4.9 / √(2n) of the true one, but
# once in a million keys; lighter tails vary less.
QUANTILE = 4.9


def assert_std(values, expected):
    tolerance = QUANTILE / np.sqrt(2 * values.size)
    assert np.std(np.asarray(values)) / expected == pytest.approx(1, abs=tolerance)


# The fans


def test_a_stacked_kernel_needs_its_batch_axis():
    shape = (8, 128, 128)
    assert_std(fi.lecun_normal(batch_axis=0)(KEY, shape), 128**-0.5)
    assert_std(fi.stacked(fi.lecun_normal())(KEY, shape), 128**-0.5)
    # Without, the stack counts as a convolution's window: .354 of the right standard deviation.
    assert_std(fi.lecun_normal()(KEY, shape), 0.35355 * 128**-0.5)


def test_attention_kernels_have_two_axes_of_outputs():
    query, out = (256, 8, 32), (8, 32, 256)
    assert_std(fi.lecun_normal(in_axis=0, out_axis=(1, 2))(KEY, query), 256**-0.5)
    assert_std(fi.lecun_normal(in_axis=(0, 1), out_axis=2)(KEY, out), 256**-0.5)
    assert_std(fi.glorot_normal(in_axis=0, out_axis=(1, 2))(KEY, query), 256**-0.5)


def test_batched_dense_general_and_einsum_kernels():
    einsum = fi.he_normal(in_axis=1, out_axis=2, batch_axis=0)
    assert_std(einsum(KEY, (16, 64, 128)), (2 / 64) ** 0.5)
    batched = fi.torch_linear(in_axis=(-3, -2), out_axis=-1, batch_axis=(0, 1))
    assert_std(batched(KEY, (2, 3, 4, 16, 128)), (1 / 64 / 3) ** 0.5)


def test_depthwise_fan_out_counts_one_group():
    shape = (3, 3, 1, 256)
    grouped = fi.variance_scaling(2.0, "fan_out", "normal", groups=256)
    assert_std(grouped(KEY, shape), (2 / 9) ** 0.5)
    assert_std(fi.kaiming_normal(mode="fan_out", groups=256)(KEY, shape), (2 / 9) ** 0.5)
    assert_std(fi.variance_scaling(2.0, "fan_out", "normal")(KEY, shape), (2 / 9) ** 0.5 / 16)


def test_embedding_axes_may_coincide():
    embed = fi.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    assert_std(embed(KEY, (1000, 64)), 64**-0.5)
    both = nn.Embed(1000, 64, embedding_init=embed).init(KEY, jnp.zeros(3, int))
    assert_std(both["params"]["embedding"], 64**-0.5)


def test_explicit_fans_take_any_rank():
    init = fi.variance_scaling(1.0, "fan_avg", "normal", fan_in=30, fan_out=70.0)
    assert_std(init(KEY, (5000,)), 50**-0.5)
    assert fi.torch_bias(7)(KEY, ()).shape == ()


BY_FANS = [
    *(fi.lecun_normal(), fi.lecun_uniform(), fi.he_normal(), fi.he_uniform()),
    *(fi.glorot_normal(), fi.glorot_uniform(), fi.xavier_normal(), fi.xavier_uniform()),
    *(fi.kaiming_normal(), fi.kaiming_uniform(), fi.torch_linear(), fi.mitchell(), fi.siren()),
]


@pytest.mark.parametrize(
    "init, shape, message",
    [
        (
            fi.variance_scaling(1, "fan_in", "normal"),
            (5,),
            r"variance_scaling cannot tell the fans of shape \(5,\).* a fan to variance_scaling. A "
            r"bias needs a rule of its own, such as zeros\(\).",
        ),
        *((init, (), f"^{init.__name__} cannot tell the fans") for init in BY_FANS),
        (fi.he_normal(in_axis=3), (4, 5), "in_axis=3 is no axis of a shape with 2 axes"),
        (fi.he_normal(out_axis=(0, -2)), (4, 5), "names an axis twice"),
        (fi.he_normal(batch_axis=0), (4, 5), r"batch_axis=\(0,\) overlaps in_axis=\(-2,\)"),
        (
            fi.glorot_normal(groups=3),
            (4, 8),
            "groups = 3 must divide axis -1 .* got 8 in",
        ),
    ],
)
def test_shapes_without_these_axes_are_rejected(init, shape, message):
    with pytest.raises(ValueError, match=message):
        init(KEY, shape)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 3, 0, 4)])
def test_zero_sizes_divide_by_nothing(mode, shape):
    for distribution in ("normal", "truncated_normal", "uniform"):
        assert fi.variance_scaling(1.0, mode, distribution)(KEY, shape).shape == shape


def test_a_zero_scale_makes_no_negative_zeros():
    values = fi.variance_scaling(0.0, "fan_in", "normal")(KEY, (64, 64))
    assert not values.any() and not jnp.signbit(values).any()


# Dtypes


@pytest.mark.sampled(3)
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_complex_values_have_the_stated_variance(distribution):
    init = fi.variance_scaling(2.0, "fan_in", distribution)
    values = np.asarray(init(KEY, (100, 4000), np.complex64)).ravel()
    squares = np.abs(values) ** 2 * 50
    error = QUANTILE / np.sqrt(squares.size)
    assert np.mean(squares) == pytest.approx(1, abs=error * np.std(squares))
    # Circular: real and imaginary parts share the variance and are uncorrelated.
    assert abs(np.mean(values**2) * 50) < 2 * error * np.std(squares)
    limit = {"normal": np.inf, "truncated_normal": 2 / 0.96195984, "uniform": 2**0.5}[distribution]
    assert np.sqrt(squares.max()) <= limit * (1 + 1e-6)


@pytest.mark.slow
def test_complex_values_honour_out_sharding():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    for distribution in ("normal", "truncated_normal", "uniform"):
        init = fi.variance_scaling(1.0, "fan_in", distribution, dtype=np.complex64)
        values = init(KEY, (16, 8), out_sharding=sharding)
        assert values.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_array_equal(values, init(KEY, (16, 8)))


def test_narrow_dtypes_are_sound():
    float8 = fi.lecun_normal()(KEY, (256, 256), jnp.float8_e4m3fn).astype(jnp.float32)
    assert bool(jnp.isfinite(float8).all())
    assert float(float8.std()) == pytest.approx(1 / 16, rel=0.02)
    narrow = fi.torch_linear()(KEY, (1000, 100), jnp.bfloat16)
    assert float(jnp.abs(narrow.astype(jnp.float32)).max()) <= 1000**-0.5


# Gains


def test_gains_by_name():
    linear = ["linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))]
    assert {fi.calculate_gain(name) for name in linear} == {1.0}
    assert fi.calculate_gain("tanh") == 5 / 3
    assert fi.calculate_gain("relu") == 2**0.5
    assert fi.calculate_gain("selu") == 0.75
    assert fi.calculate_gain("leaky_relu") == (2 / (1 + 0.01**2)) ** 0.5
    assert fi.calculate_gain("leaky_relu", 1) == 1


def test_gains_of_functions_agree_with_their_integrals():
    assert fi.calculate_gain(jax.nn.relu) == pytest.approx(2**0.5, rel=1e-6)
    slope = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
    assert fi.calculate_gain(slope) == pytest.approx((2 / 1.04) ** 0.5, rel=1e-6)
    assert fi.calculate_gain(jnp.sin) == pytest.approx((2 / (1 - np.exp(-2))) ** 0.5, rel=1e-6)
    assert fi.calculate_gain(np.square) == pytest.approx(3**-0.5, rel=1e-6)
    # selu was built to keep the second moment at 1 by itself.
    assert fi.calculate_gain(jax.nn.selu) == pytest.approx(1, rel=1e-6)
    inside = jax.jit(lambda x: x * fi.calculate_gain(jnp.tanh))(1.0)
    assert float(inside) == pytest.approx(fi.calculate_gain(jnp.tanh))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: fi.calculate_gain("rleu"),
            ValueError,
            "='rleu'. Did you mean .*'relu'",
        ),
        (lambda: fi.calculate_gain("relu", 0.1), ValueError, "param only with 'leaky_relu'"),
        (lambda: fi.calculate_gain(jnp.tanh, 0.1), ValueError, "bind it first"),
        (lambda: fi.calculate_gain("leaky_relu", "0.1"), TypeError, "a number for param"),
        (lambda: fi.calculate_gain(2.0), TypeError, "a name or a function, got 2.0"),
        (lambda: fi.calculate_gain(jnp.zeros_like), ValueError, "elementwise function with 0 <"),
        (lambda: fi.calculate_gain(jnp.sum), ValueError, "elementwise function"),
    ],
)
def test_gains_that_do_not_exist(call, error, message):
    with pytest.raises(error, match=message):
        call()


ACTIVATIONS = [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_the_gain_is_a_fixed_point_of_depth(function):
    # The second moment of infinitely wide layers: q -> gain² E[f(√q z)²], iterated 50 times.
    gain, nodes = fi.calculate_gain(function), np.linspace(-10, 10, 20001)
    weights = np.exp(-(nodes**2) / 2) * (nodes[1] - nodes[0]) / np.sqrt(2 * np.pi)
    moment = 1.0
    with jax.enable_x64(True):
        for _ in range(50):
            values = np.asarray(function(jnp.asarray(np.sqrt(moment) * nodes)))
            moment = gain**2 * float(weights @ values**2)
    assert moment == pytest.approx(1, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_fifty_layers_keep_the_second_moment(function):
    width, depth = 512, 50
    gain = fi.calculate_gain(function)
    init = fi.kaiming_normal(nonlinearity=function)

    def layer(state, key):
        # gelu's and silu's fixed point repels: what a finite layer adds by chance would grow. So
        # each example enters each layer with the right moment, and the product of all 50 changes
        # is what is tested.
        hidden, drift = state
        hidden = function(hidden @ init(key, (width, width)))
        change = gain**2 * jnp.mean(hidden**2, axis=1, keepdims=True)
        return (hidden / jnp.sqrt(change), drift + jnp.log(change)), None

    start = function(jax.random.normal(KEY, (256, width)))
    start = start / gain / jnp.sqrt(jnp.mean(start**2, axis=1, keepdims=True))
    (_, drift), _ = jax.lax.scan(layer, (start, jnp.zeros((256, 1))), jax.random.split(KEY, depth))
    draws = np.asarray(function(jax.random.normal(KEY, (100000,)))) ** 2 * gain**2
    # Examples grow alike with depth, so count the neurons of one example only.
    error = QUANTILE * np.sqrt(depth * np.var(draws) / width)
    bias = depth * np.var(draws) / width / 2
    assert abs(float(drift.mean()) + bias) < error + bias
    assert error + 2 * bias < 0.2 * depth  # a gain that is 11 % off would show


# In modules


def test_as_initializers_of_modules():
    x = jnp.ones((2, 300))
    linen = nn.Dense(200, kernel_init=fi.he_normal(), bias_init=fi.torch_bias(300))
    params = linen.init(KEY, x)["params"]
    assert_std(params["kernel"], (2 / 300) ** 0.5)
    assert 0 < float(jnp.abs(params["bias"]).max()) <= 300**-0.5
    layer = nnx.Linear(300, 200, kernel_init=fi.he_normal(), rngs=nnx.Rngs(0))
    assert_std(layer.kernel[...], (2 / 300) ** 0.5)
    conv = nn.Conv(64, (3, 3), kernel_init=fi.kaiming_normal(nonlinearity="relu"))
    kernel = conv.init(KEY, jnp.ones((1, 8, 8, 32)))["params"]["kernel"]
    assert_std(kernel, (2 / 288) ** 0.5)


def test_equal_modules_trace_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def start(module, key):
        traces.append(module)
        return module.init(key, jnp.ones((1, 4)))

    for _ in range(3):
        start(nn.Dense(4, kernel_init=fi.xavier_normal(gain=fi.calculate_gain("tanh"))), KEY)
    assert len(traces) == 1
