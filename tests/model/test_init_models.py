"""`jit_init` of whole models: Linen's transforms and collections, NNX, and split by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from as_jit import assert_as_jit
from flax import nnx

KEY = jax.random.key(7)
X = jnp.ones((2, 3, 8))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), x)
        y = nn.Dense(8, bias_init=nn.initializers.normal(0.02))(nn.gelu(y))
        gain = self.param("gain", nn.initializers.constant(0.5), (8,), jnp.bfloat16)
        return x + y * gain[None, None].astype(x.dtype), None


class Carried(nn.Module):
    """A body whose params depend on what flows through the layers."""

    @nn.compact
    def __call__(self, x, _=None):
        scale = self.param("scale", lambda key: 1 / (x.std() + 0.1))
        steps = self.variable("stats", "steps", lambda: jnp.zeros((), jnp.int32))
        y = nn.Dense(8)(x) * scale
        return y, steps.value


def scanned(body, length=3, **options):
    axes = {"params": 0, "stats": 0}
    rngs = {"params": True}
    return nn.scan(body, variable_axes=axes, split_rngs=rngs, length=length, **options)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return scanned(Block, 2)()(x, None)


class Step(nn.Module):
    @nn.compact
    def __call__(self, carry, x):
        return carry, nn.Dense(4)(x)


class Broadcast(nn.Module):
    @nn.compact
    def __call__(self, x):
        axes = {"split_rngs": {"params": False}, "in_axes": 1, "out_axes": 1}
        return nn.scan(Step, variable_broadcast="params", **axes)()(0.0, x)


class Of(nn.Module):
    """A model of one transformed module."""

    module: type
    args: tuple = (None,)

    @nn.compact
    def __call__(self, x):
        return self.module()(x, *self.args)


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.vmap(
            nn.Dense,
            variable_axes={"params": 1},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=3,
        )
        return dense(5, kernel_init=nn.initializers.he_uniform())(x)


class Shared(nn.Module):
    """Every expert has the same values."""

    @nn.compact
    def __call__(self, x):
        dense = nn.vmap(
            nn.Dense, variable_axes={"params": 0}, split_rngs={"params": False}, axis_size=2
        )
        return dense(5)(x)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.WeightNorm(nn.Dense(6))(x)
        x = nn.SpectralNorm(nn.Dense(6))(x, update_stats=True)
        return nn.BatchNorm(use_running_average=False)(x)


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        x = nn.Dense(16, kernel_init=init)(x)
        init = nn.with_partitioning(nn.initializers.orthogonal(), ("data", None))
        return nn.Dense(4, kernel_init=init)(x)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        noise = self.variable("noise", "table", jax.random.normal, self.make_rng("noise"), (4, 3))
        x = nn.Dropout(0.3, deterministic=False)(nn.Dense(8)(x))
        self.sow("intermediates", "hidden", x)
        return x.sum() + noise.value.sum()


class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 8, embedding_init=nn.initializers.normal(0.02))
        return embed.attend(nn.RMSNorm()(embed(tokens)))


MODELS = {
    "block": Of(Block),
    "remat": Of(nn.remat(Block)),
    "jit": Of(nn.jit(Block)),
    "scan": Of(scanned(Block)),
    "scan of remat": Of(scanned(nn.remat(Block, prevent_cse=False))),
    "reversed scan": Of(scanned(Block, reverse=True)),
    "unrolled scan": Of(scanned(Block, unroll=3)),
    "nested scans": Of(scanned(Inner)),
    "carried scan": Of(scanned(Carried)),
    "broadcast": Broadcast(),
    "experts": Experts(),
    "shared": Shared(),
    "norms": Normed(),
    "boxed": Boxed(),
    "lstm": nn.RNN(nn.OptimizedLSTMCell(6), reverse=True),
    "gru": nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.GRUCell(5))),
    "convolutions": nn.Sequential([nn.ConvTranspose(4, (3,)), nn.GroupNorm(2), nn.Conv(3, (2,))]),
}


@pytest.mark.sampled(15, rest="thorough")
@pytest.mark.parametrize("name", MODELS)
def test_linen(name):
    assert_as_jit(MODELS[name].init, KEY, X)


def test_tied_embeddings():
    assert_as_jit(Tied().init, KEY, jnp.zeros((2, 3), jnp.int32))


@pytest.mark.slow
def test_streams_collections_and_outputs():
    streams = {"params": KEY, "noise": jax.random.PRNGKey(5), "dropout": jax.random.key(6)}
    model = Noisy()
    assert_as_jit(model.init, streams, X)
    assert_as_jit(model.init_with_output, streams, X)
    assert_as_jit(functools.partial(model.init, mutable=["params", "noise"]), streams, X)
    stream = {**streams, "noise": jax.random.key(3, impl="rbg")}
    assert_as_jit(model.init, stream, X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["legacy", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", ["scan", "experts", "norms"])
def test_linen_with_other_keys(name, kind):
    key = jax.random.PRNGKey(4) if kind == "legacy" else jax.random.key(4, impl=kind)
    assert_as_jit(MODELS[name].init, key, X)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_linen_in_double_precision():
    with jax.enable_x64(True):
        assert_as_jit(Of(scanned(Block)).init, jax.random.key(7), jnp.ones((2, 3, 8)))


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


def test_nnx():
    assert_as_jit(lambda key: nnx.split(Perceptron(nnx.Rngs(key)))[1], KEY)
    assert_as_jit(lambda key: nnx.split(Perceptron(nnx.Rngs(key, dropout=3)))[1], KEY)


class Splitter:
    """Names params and splits one key for each, as Haiku does."""

    def __init__(self, key):
        self.key, self.params = key, {}

    def linear(self, name, x, size):
        self.key, key = jax.random.split(self.key)
        std = x.shape[-1] ** -0.5
        w = std * jax.random.truncated_normal(key, -2.0, 2.0, (x.shape[-1], size))
        self.params[name] = {"w": w, "b": jnp.zeros(size)}
        return jax.nn.relu(x @ w)


@pytest.mark.slow
def test_split_by_hand():
    def init(key, x):
        net = Splitter(key)
        for i, size in enumerate((32, 48, 17)):
            x = net.linear(f"linear_{i}", x, size)
        return net.params

    assert_as_jit(init, KEY, jnp.ones((2, 24)))
    assert_as_jit(init, jax.random.PRNGKey(0), jnp.ones((2, 24)))


@pytest.mark.slow
def test_layer_sequential_unit_variance():
    def init(key, x):
        params = []
        for size in (8, 8, 4):
            key, mine = jax.random.split(key)
            w = jax.nn.initializers.orthogonal()(mine, (x.shape[-1], size))
            w = w / (x @ w).std()
            x = jnp.tanh(x @ w)
            params.append(w)
        return params

    assert_as_jit(init, KEY, jax.random.normal(jax.random.key(1), (16, 8)))
