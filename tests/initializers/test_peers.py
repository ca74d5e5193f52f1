"""Against other libraries, live: jax always; torch, keras and haiku where installed."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flax_inits as fi

pytestmark = pytest.mark.peers

KEY = jax.random.key(21)
ALARM = 1e-6  # the share of keys with which equal distributions would fail


def library(name: str):
    """A peer, or a skip that says how to have it."""
    reason = f"{name} is not installed: pip install {name} to compare with it"
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip({"dm-haiku": "haiku"}.get(name, name), reason=reason)


def assert_same_distribution(ours, theirs):
    ours, theirs = (np.asarray(x, np.float64).ravel() for x in (ours, theirs))
    assert stats.ks_2samp(ours, theirs).pvalue > ALARM
    for x, y in [(ours, theirs), (ours**2, theirs**2)]:
        error = 4.9 * np.sqrt(np.var(x) / x.size + np.var(y) / y.size)
        assert abs(x.mean() - y.mean()) <= error


# jax


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ["lecun", "he", "glorot"])
@pytest.mark.parametrize("shape", [(37, 50), (3, 3, 5, 20)])
def test_jax_aliases_bit_for_bit(name, shape):
    for kind in ("normal", "uniform"):
        ours = getattr(fi, f"{name}_{kind}")()
        theirs = jax.jit(getattr(jax.nn.initializers, f"{name}_{kind}")(), static_argnums=1)
        np.testing.assert_array_equal(ours(KEY, shape), theirs(KEY, shape))


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_jax_variance_scaling(mode, distribution):
    arguments = (0.7, mode, distribution)
    axes = {"in_axis": 1, "out_axis": (0, 3), "batch_axis": (2,)}
    theirs = jax.jit(jax.nn.initializers.variance_scaling(*arguments, **axes), static_argnums=1)
    ours = fi.variance_scaling(*arguments, **axes)
    np.testing.assert_allclose(ours(KEY, (4, 6, 3, 5)), theirs(KEY, (4, 6, 3, 5)), rtol=3e-7)


@pytest.mark.sampled(4, rest="thorough")
@pytest.mark.parametrize("shape", [(64, 64), (30, 12), (12, 30), (3, 3, 4, 10)])
@pytest.mark.parametrize("column_axis", [-1, 0])
def test_jax_orthogonal_bit_for_bit(shape, column_axis):
    theirs = jax.jit(jax.nn.initializers.orthogonal(1.5, column_axis), static_argnums=1)
    ours = fi.orthogonal(1.5, column_axis)
    np.testing.assert_array_equal(ours(KEY, shape), theirs(KEY, shape))


def test_orthogonal_costs_no_more_than_jax():
    def compiled(init):
        return jax.jit(lambda key: init(key, (256, 256), jnp.float32)).lower(KEY).compile()

    ours, theirs = map(compiled, (fi.orthogonal(), jax.nn.initializers.orthogonal()))
    calls = [re.findall(r'custom_call_target="(\w+)"', each.as_text()) for each in (ours, theirs)]
    assert sorted(calls[0]) == sorted(calls[1])  # the decomposition, and nothing else
    bytes_used = [each.memory_analysis().temp_size_in_bytes for each in (ours, theirs)]
    assert bytes_used[0] <= bytes_used[1]


def test_jax_delta_orthogonal():
    keys = jax.random.split(KEY, 400)
    ours, theirs = (
        jax.vmap(lambda key, init=init: init(key, (4, 3, 6), jnp.float32))(keys)
        for init in (fi.delta_orthogonal(), jax.nn.initializers.delta_orthogonal())
    )
    np.testing.assert_array_equal(ours != 0, theirs != 0)
    for row, column in [(0, 0), (2, 5)]:
        assert_same_distribution(ours[:, 1, row, column], theirs[:, 1, row, column])


# torch


def torch_draw(name, shape, **options):
    """What `torch.nn.init.<name>_` makes of a Flax kernel's shape, in Flax's layout."""
    torch = library("torch")
    torch.manual_seed(0)
    *window, inputs, outputs = shape
    tensor = torch.empty(outputs, inputs, *window)
    getattr(torch.nn.init, f"{name}_")(tensor, **options)
    return tensor.numpy().transpose(*range(2, len(shape)), 1, 0)


@pytest.mark.parametrize("shape", [(300, 200), (3, 5, 40, 100)])
@pytest.mark.parametrize(
    "name, options",
    [
        ("xavier_uniform", {}),
        ("xavier_uniform", {"gain": 0.3}),
        ("xavier_normal", {"gain": 2.0}),
        ("kaiming_uniform", {}),
        ("kaiming_uniform", {"a": 0.5, "mode": "fan_out"}),
        ("kaiming_uniform", {"nonlinearity": "tanh"}),
        ("kaiming_normal", {"nonlinearity": "relu", "mode": "fan_out"}),
        ("kaiming_normal", {"a": 5**0.5}),
    ],
)
def test_torch_fans_and_gains(name, options, shape):
    theirs = torch_draw(name, shape, **options)
    ours = getattr(fi, name)(**options)(KEY, shape)
    assert_same_distribution(ours, theirs)
    if name.endswith("uniform"):  # equal bounds, of which 60,000 values miss at most 1e-3
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)


@pytest.mark.parametrize("groups", [1, 4])
def test_torch_layers_start_as_torch_linear_and_torch_bias(groups):
    torch = library("torch")
    torch.manual_seed(0)
    linear = torch.nn.Linear(100, 3000)
    assert_same_distribution(fi.torch_linear()(KEY, (100, 3000)), linear.weight.detach())
    assert_same_distribution(fi.torch_bias(100)(KEY, (3000,)), linear.bias.detach())
    conv = torch.nn.Conv2d(16, 800, 3, groups=groups)
    shape = (3, 3, 16 // groups, 800)
    assert_same_distribution(fi.torch_linear()(KEY, shape), conv.weight.detach())
    assert_same_distribution(fi.torch_bias(9 * 16 // groups)(KEY, (800,)), conv.bias.detach())


def test_torch_gains_are_equal():
    gain = library("torch").nn.init.calculate_gain
    convolutions = [f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)]
    for name in ("linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu", *convolutions):
        assert fi.calculate_gain(name) == gain(name)
    for slope in (0, 0.2, -1.5, 3):
        assert fi.calculate_gain("leaky_relu", slope) == gain("leaky_relu", slope)


@pytest.mark.parametrize("shape", [(3, 4, 4), (5, 3, 2, 6), (3, 3, 1, 4, 2)])
def test_torch_dirac_and_eye_are_equal(shape):
    np.testing.assert_array_equal(fi.dirac()(KEY, shape), torch_draw("dirac", shape))
    grouped = torch_draw("dirac", shape, groups=2)
    np.testing.assert_array_equal(fi.dirac(groups=2)(KEY, shape), grouped)
    np.testing.assert_array_equal(fi.identity()(KEY, shape[-2:]), torch_draw("eye", shape[-2:]))


def test_torch_dirac_is_not_the_identity_for_even_windows():
    # Their centre, k // 2, is one to the right of where SAME padding has it.
    ours, theirs = fi.dirac()(KEY, (4, 1, 1)), torch_draw("dirac", (4, 1, 1))
    assert (int(ours.argmax()), int(theirs.argmax())) == (1, 2)


def test_torch_orthogonal_has_the_same_entries():
    torch = library("torch")
    torch.manual_seed(0)
    theirs = np.stack([torch_draw_again(torch, (5, 7)) for _ in range(1000)])
    ours = jax.vmap(lambda key: fi.orthogonal()(key, (5, 7)))(jax.random.split(KEY, 1000))
    for row, column in [(0, 0), (4, 6), (2, 3)]:
        assert_same_distribution(ours[:, row, column], theirs[:, row, column])


def torch_draw_again(torch, shape):
    return torch.nn.init.orthogonal_(torch.empty(shape[::-1])).numpy().T


def test_torch_sparse_has_as_many_zeros():
    # torch draws the rows of (out, in): its columns are our axis -1.
    theirs = torch_draw("sparse", (40, 30), sparsity=0.37, std=0.5)
    ours = np.asarray(fi.sparse(0.37, base=fi.normal(0.5), axis=-1)(KEY, (40, 30)))
    np.testing.assert_array_equal((ours == 0).sum(axis=1), (theirs == 0).sum(axis=1))
    assert_same_distribution(ours[ours != 0], theirs[theirs != 0])


# keras


@pytest.mark.parametrize(
    "peer, ours",
    [
        ("GlorotUniform", fi.glorot_uniform()),
        ("GlorotNormal", fi.glorot_normal()),
        ("HeUniform", fi.he_uniform()),
        ("HeNormal", fi.he_normal()),
        ("LecunUniform", fi.lecun_uniform()),
        ("LecunNormal", fi.lecun_normal()),
    ],
)
@pytest.mark.parametrize("shape", [(300, 200), (3, 5, 40, 100)])
def test_keras_scaling(peer, ours, shape):
    theirs = getattr(library("keras").initializers, peer)(seed=0)
    assert_same_distribution(ours(KEY, shape), theirs(shape))


@pytest.mark.parametrize("side", ["real", "imag"])
@pytest.mark.parametrize("window", ["hann", "hamming", None])
@pytest.mark.parametrize("scaling", ["density", "spectrum", None])
@pytest.mark.parametrize("periodic", [False, True])
def test_keras_stft(side, window, scaling, periodic):
    keras = library("keras")
    theirs = keras.initializers.STFT(side, window, scaling, periodic)((24, 1, 17))
    ours = fi.stft(side, window, scaling, periodic)(KEY, (24, 1, 17))
    # theirs computes in float32, with angles of up to 70
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_keras_identity_and_orthogonal():
    keras = library("keras")
    np.testing.assert_array_equal(
        fi.identity(0.5)(KEY, (4, 6)), keras.initializers.Identity(0.5)((4, 6))
    )
    with jax.numpy_rank_promotion("allow"):  # keras needs it
        theirs = np.stack([keras.initializers.Orthogonal(seed=seed)((4, 6)) for seed in range(200)])
    ours = jax.vmap(lambda key: fi.orthogonal()(key, (4, 6)))(jax.random.split(KEY, 200))
    assert_same_distribution(ours[:, 0, 0], theirs[:, 0, 0])


# haiku


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_haiku_variance_scaling(mode, distribution):
    haiku = library("dm-haiku")
    shape = (3, 5, 40, 100)
    peer = haiku.initializers.VarianceScaling(2.0, mode, distribution)
    theirs = haiku.transform(lambda: peer(shape, jnp.float32)).apply({}, jax.random.key(0))
    assert_same_distribution(fi.variance_scaling(2.0, mode, distribution)(KEY, shape), theirs)


def test_haiku_calls():
    haiku = library("dm-haiku")
    init = fi.he_normal()

    def network(x):
        kernel = lambda shape, dtype: init(haiku.next_rng_key(), shape, dtype)  # noqa: E731
        return haiku.Linear(200, w_init=kernel)(x)

    params = haiku.transform(network).init(KEY, jnp.ones((2, 300)))
    weights = params["linear"]["w"]
    assert float(weights.std()) == pytest.approx((2 / 300) ** 0.5, rel=4.9 / np.sqrt(120000))
    identity = haiku.transform(lambda: haiku.initializers.Identity(2.0)((3, 4), jnp.float32))
    np.testing.assert_array_equal(fi.identity(2.0)(KEY, (3, 4)), identity.apply({}, KEY))
