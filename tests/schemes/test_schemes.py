"""Schemes that couple leaves, each against its formula; what is not chosen stays as it is."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

KEY = jax.random.key(0)


@functools.cache
def mesh(kind=AxisType.Auto):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


def leaves(tree):
    return dict(zip(fi.paths(tree), jax.tree.leaves(tree), strict=True))


def assert_only(chosen, before, after):
    """The trees are alike, and all but the leaves at the paths `chosen` are the same objects."""
    assert jax.tree.structure(before) == jax.tree.structure(after)
    old, new = leaves(before), leaves(after)
    for path, leaf in old.items():
        if path in chosen:
            assert leaf is not new[path]
            assert leaf.dtype == new[path].dtype and leaf.shape == new[path].shape
            assert leaf.sharding == new[path].sharding and leaf.committed == new[path].committed
            assert leaf.weak_type == new[path].weak_type
        else:
            assert leaf is new[path], path


def spread(tree):
    """Each leaf with two axes or more in the dict over the mesh, the others as they are."""

    def place(leaf):
        even = leaf.ndim > 1 and leaf.shape[-1] % 2 == 0 and leaf.shape[-2] % 4 == 0
        spec = P(*[None] * (leaf.ndim - 2), "x", "y") if even else P()
        return jax.device_put(leaf, NamedSharding(mesh(), spec))

    return jax.tree.map(place, tree)


def boxed(tree):
    return jax.tree.map(lambda leaf: nn.Partitioned(leaf, names=(None,) * leaf.ndim), tree)


FORMS = {
    "dict": lambda tree: tree,
    "frozen": freeze,
    "boxed": boxed,
    "sharded": spread,
    "bfloat16": lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def form(request):
    return request.param


# Per-gate chrono.


@functools.cache
def recurrent(cell=nn.LSTMCell):
    model = nn.Sequential([nn.RNN(cell(64)), nn.RNN(cell(32))])
    return model.init(KEY, jnp.ones((1, 5, 3)))["params"]


def biases(*nodes):
    return {(node, "cell", f"h{gate}", "bias") for node in nodes for gate in "ifgo"}


@pytest.mark.slow
def test_chrono_gates(form):
    params = form(jax.tree.map(lambda leaf: leaf + 1, recurrent()))
    new = fi.chrono_gates(KEY, params, 100)
    assert_only(biases("layers_0", "layers_1"), params, new)
    for node in ("layers_0", "layers_1"):
        i, f, g, o = (leaves(new)[node, "cell", f"h{gate}", "bias"] for gate in "ifgo")
        assert (i == -f).all() and not g.any() and not o.any()
        assert (f >= 0).all() and (f <= math.log(99)).all()


def test_chrono_gates_have_the_distribution_of_chrono():
    tall = {gate: {"bias": jnp.ones(20_000)} for gate in ("hi", "hf", "hg", "ho")}
    steps = np.sort(np.exp(fi.chrono_gates(KEY, tall, 50)["hf"]["bias"]))
    uniform = 1 + 48 * (np.arange(20_000) + 0.5) / 20_000
    # Kolmogorov's distance times √n is above 2.7 once in a million.
    assert np.abs(steps - uniform).max() / 48 < 2.7 / math.sqrt(20_000)


@pytest.mark.slow
def test_chrono_gates_of_the_optimized_cell_draw_the_same():
    one, other = (
        fi.chrono_gates(KEY, recurrent(c), 9.0) for c in (nn.LSTMCell, nn.OptimizedLSTMCell)
    )
    bias = ("layers_0", "cell", "hf", "bias")
    np.testing.assert_array_equal(leaves(one)[bias], leaves(other)[bias])


@pytest.mark.slow
def test_chrono_gates_choose_cells():
    new = fi.chrono_gates(KEY, recurrent(), 9.0, where="layers_1")
    assert_only(biases("layers_1"), recurrent(), new)
    both = fi.chrono_gates(KEY, recurrent(), 9.0)
    np.testing.assert_array_equal(
        new["layers_1"]["cell"]["hf"]["bias"], both["layers_1"]["cell"]["hf"]["bias"]
    )
    assert (
        both["layers_0"]["cell"]["hf"]["bias"][:32] != both["layers_1"]["cell"]["hf"]["bias"]
    ).any()


def test_chrono_gates_by_other_names_and_under_jit():
    params = {name: {"bias": jnp.ones(4)} for name in ("in", "forget", "cell", "out")}
    gates = tuple(params)
    new = fi.chrono_gates(KEY, params, 9.0, gates=gates)
    jitted = jax.jit(lambda key, params: fi.chrono_gates(key, params, 9.0, gates=gates))(
        KEY, params
    )
    assert (new["in"]["bias"] == -new["forget"]["bias"]).all()
    np.testing.assert_allclose(new["in"]["bias"], jitted["in"]["bias"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_max": 2}, "chrono needs t_max > 2, got t_max=2"),
        (
            {"where": "**/hf"},
            r"selects a part of an LSTM cell, but not 'layers_0/cell/hi/bias'.*select",
        ),
        ({"where": "**/kernel"}, "selects no part of an LSTM cell, which holds 'hi/bias'"),
        ({"where": "layer_0"}, r"'layer_0' selects no leaf\. Did you mean 'layers_0'"),
        ({"gates": ("f", "i")}, r"needs four names for gates, of i, f, g and o; got \('f', 'i'\)"),
        ({"gates": "ifgo"}, "needs four names for gates"),
    ],
)
def test_chrono_gates_reject(options, message):
    with pytest.raises(ValueError, match=message):
        fi.chrono_gates(KEY, recurrent(), **{"t_max": 9.0, **options})


# The gamma of linear recurrences.


def lru(shape=(16,)):
    return {
        "lru": {
            "nu_log": fi.lru_nu_log(0.9, 0.999)(KEY, shape),
            "theta_log": fi.lru_theta_log()(KEY, shape),
            "gamma_log": jnp.zeros(shape),
        },
        "head": {"kernel": jnp.ones((4, 2))},
    }


def test_lru_gamma(form):
    params = form(lru())
    new = fi.lru_gamma(KEY, params)
    assert_only({("lru", "gamma_log")}, params, new)
    nu, gamma = (np.float64(leaves(new)["lru", f"{name}_log"]) for name in ("nu", "gamma"))
    expected = np.log(1 - np.exp(-2 * np.exp(nu))) / 2
    coarse = jax.tree.leaves(params)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(gamma, expected, rtol=2**-8 if coarse else 1e-5)


def test_lru_gamma_near_the_unit_circle():
    """1 - |λ|² = 2ν for small ν, where |λ|² itself rounds to 1."""
    params = {"nu_log": jnp.log(jnp.array([1e-12])), "gamma_log": jnp.zeros(1)}
    assert float(fi.lru_gamma(KEY, params)["gamma_log"][0]) == pytest.approx(math.log(2e-12) / 2)


def test_lru_gamma_keeps_the_variance_of_the_inputs():
    """x_t = λ x_{t-1} + γ u_t with unit white noise u has variance 1."""
    new = fi.lru_gamma(KEY, lru())["lru"]
    radius, gamma = jnp.exp(-jnp.exp(new["nu_log"])), jnp.exp(new["gamma_log"])
    np.testing.assert_allclose(gamma**2 / (1 - radius**2), 1, rtol=1e-4)


def test_lru_gamma_rejects():
    with pytest.raises(ValueError, match="not 'lru/nu_log', which lru_gamma would have to change"):
        fi.lru_gamma(KEY, lru(), where="**/gamma_log")
    with pytest.raises(ValueError, match="selects no part of a recurrence"):
        fi.lru_gamma(KEY, lru(), nu="nu")
    uneven = lru() | {"lru": {"nu_log": jnp.zeros(3), "gamma_log": jnp.zeros(4)}}
    with pytest.raises(ValueError, match=r"'lru/nu_log' has \(3,\) and 'lru/gamma_log' has \(4,\)"):
        fi.lru_gamma(KEY, uneven)
    with pytest.raises(ValueError, match="follows from 'lru/nu_log', which is abstract"):
        fi.lru_gamma(KEY, jax.eval_shape(lru))
    counts = {"nu_log": jnp.zeros(3), "gamma_log": jnp.zeros(3, int)}
    with pytest.raises(ValueError, match="'gamma_log' holds int32, which cannot hold float32"):
        fi.lru_gamma(KEY, counts)
    counts["nu_log"].delete()
    with pytest.raises(ValueError, match="array of 'nu_log' was deleted"):
        fi.lru_gamma(KEY, counts)
    with pytest.raises(TypeError, match="key must be one PRNG key"):
        fi.lru_gamma(0, lru())


# DeepNorm.


@pytest.mark.parametrize(
    ("arguments", "alpha", "beta"),
    [
        ({"n": 8}, 2, 8**-0.5),
        ({"n": 200}, 400**0.25, 1600**-0.25),
        ({"n": 2, "decoder": 16}, 0.81 * 2**0.5, 0.87 * 2**-0.5),  # 2⁴ · 16 = 2⁸
        ({"n": 27, "encoder": 5}, 3, 324**-0.25),
    ],
)
def test_deepnorm_gains(arguments, alpha, beta):
    assert fi.deepnorm_gains(**arguments) == pytest.approx((alpha, beta))


def test_deepnorm_gains_reject():
    with pytest.raises(ValueError, match="n >= 1, got n=0"):
        fi.deepnorm_gains(0)
    with pytest.raises(ValueError, match="one stack: give decoder for the gains of an encoder"):
        fi.deepnorm_gains(2, encoder=2, decoder=2)
    with pytest.raises(ValueError, match="encoder >= 1"):
        fi.deepnorm_gains(2, encoder=0)


class Block(nn.Module):
    alpha: float = 1.0

    @nn.compact
    def __call__(self, x, _=None):
        x = nn.LayerNorm()(self.alpha * x + nn.MultiHeadDotProductAttention(num_heads=4)(x))
        inner = nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(x)))
        return nn.LayerNorm()(self.alpha * x + inner), None


def _scanned():
    return nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)


class Transformer(nn.Module):
    scanned: bool = False
    width: int = 64

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(32, self.width)(tokens)
        if self.scanned:
            x, _ = _scanned()(name="blocks")(x, None)
        else:
            for i in range(2):
                x, _ = Block(name=f"blocks_{i}")(x)
        return nn.Dense(32, name="head")(x)


TOKENS = jax.random.randint(KEY, (8, 16), 0, 32)


def transformer(scanned=False):
    def init_fn(key):
        return Transformer(scanned).init(key, TOKENS)["params"]

    return init_fn


@pytest.mark.slow
@pytest.mark.parametrize("scanned", [False, True])
def test_deepnorm_of_a_transformer(scanned):
    """All kernels are square but those of the feed-forward; fans are those of the flat kernels."""
    init_fn, where = transformer(scanned), "blocks*/**/kernel"
    params = jax.jit(init_fn)(KEY)
    new = fi.deepnorm(jax.random.key(1), params, 2, where=where, init_fn=init_fn)
    chosen = {path for path, use in leaves(fi.select(params, where)).items() if use}
    assert len(chosen) == (6 if scanned else 12)
    assert_only(chosen, params, new)
    for path in chosen:
        fans = 64 + 256 if "Dense" in path[-2] else 64 + 64
        gain = 1 if path[-2] in ("query", "key") else 0.5
        kernel, expected = np.asarray(leaves(new)[path]), gain * math.sqrt(2 / fans)
        # Of n normals the std is off by σ / √(2n); once in a million by 4.9 times that.
        assert kernel.std() == pytest.approx(expected, rel=4.9 / math.sqrt(2 * kernel.size))


@pytest.mark.sampled(3)
def test_deepnorm_by_stored_shape(form):
    params = form(
        {n: {"kernel": jnp.ones((256, 256)), "bias": jnp.ones(4)} for n in ("key", "out")}
    )
    new = fi.deepnorm(KEY, params, 2, where="*/kernel", decoder=3)
    assert_only({("key", "kernel"), ("out", "kernel")}, params, new)
    beta = 0.87 * (2**4 * 3) ** (-1 / 16)
    for name, gain in (("key", 1), ("out", beta)):
        kernel = np.asarray(leaves(new)[name, "kernel"], np.float32)
        assert 16 * kernel.std() == pytest.approx(gain, rel=0.014)


def test_deepnorm_rejects():
    params = jax.eval_shape(transformer(), KEY)
    with pytest.raises(ValueError, match="cannot tell the fans of a kernel of shape") as error:
        fi.deepnorm(KEY, params, 3, where="blocks*/**/kernel")
    assert "init_fn=lambda key" in str(error.value) and "query" in str(error.value.__notes__)
    with pytest.raises(ValueError, match="selects none of the kernels that 'head/kernel' does"):
        fi.deepnorm(KEY, params, 3, where="head/kernel")
    with pytest.raises(ValueError, match="query.* wins no leaf: what it selects already belongs"):
        fi.deepnorm(KEY, params, 3, where="**/query/kernel")
    with pytest.raises(ValueError, match="selects no leaf"):
        fi.deepnorm(KEY, params, 3, where="blocks*/**/kernel", unscaled="**/q/kernel")
    with pytest.raises(ValueError, match="selects no leaf"):
        fi.deepnorm(KEY, params, 3, where="layers*/**/kernel")


# LSUV.


class ConvNet(nn.Module):
    """VGG's pattern, with batch statistics and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        for features in (8, 16):
            x = nn.Conv(features, (3, 3))(x)
            x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)) if features == 16 else nn.relu(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.relu(nn.Dense(32)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


IMAGES = 3 * jax.random.normal(KEY, (16, 8, 8, 3)) + 1


def outputs(model, variables, x, **kwargs):
    """The output of each module, by path; whatever shares a name comes as a tuple."""
    kwargs = {"capture_intermediates": True, "mutable": ["intermediates"], **kwargs}
    run = jax.jit(lambda variables, x: model.apply(variables, x, **kwargs)[1]["intermediates"])
    return leaves(run(variables, x))


def assert_fits(model, variables, x, layers, std=1.0, tol=0.1, **kwargs):
    found = {p[:-2]: v for p, v in outputs(model, variables, x, **kwargs).items() if len(p) > 2}
    for layer in layers:
        variance = float(np.asarray(found[layer], np.float64).var())
        assert variance == pytest.approx(std**2, rel=tol), layer


CONV_LAYERS = [("Conv_0",), ("Conv_1",)] + [("Dense_0",), ("Dense_1",)]


@functools.cache
def conv_variables():
    return jax.jit(ConvNet().init)(jax.random.key(5), IMAGES)


def kernels_of(layers):
    return {("params", *layer, "kernel") for layer in layers}


@pytest.mark.slow
@pytest.mark.parametrize("form", [freeze, boxed, spread, FORMS["bfloat16"]])
@jax.numpy_dtype_promotion("standard")  # Flax's BatchNorm makes float32 of bfloat16.
def test_lsuv_of_a_conv_net(form):
    model, variables = ConvNet(), form(conv_variables())
    new = fi.lsuv(KEY, model, variables, IMAGES)
    assert_only(kernels_of(CONV_LAYERS), variables, new)
    coarse = jax.tree.leaves(variables)[0].dtype == jnp.bfloat16
    assert_fits(model, new, IMAGES, CONV_LAYERS, tol=0.11 if coarse else 0.1)


@pytest.mark.slow
def test_lsuv_is_no_accident():
    with pytest.raises(AssertionError):
        assert_fits(ConvNet(), conv_variables(), IMAGES, CONV_LAYERS)


@functools.cache
def mlp(bias=0.0):
    """A small model, its variables and a batch."""
    dense = functools.partial(nn.Dense, bias_init=nn.initializers.normal(bias))
    model, x = nn.Sequential([dense(16), nn.relu, dense(8)]), 3 * jax.random.normal(KEY, (64, 32))
    return model, jax.jit(model.init)(KEY, x), x


MLP_LAYERS = [("layers_0",), ("layers_2",)]


@pytest.mark.slow
def test_lsuv_scales_orthogonal_kernels_no_more_than_it_must():
    model, variables, x = mlp()
    exact = fi.lsuv(KEY, model, variables, x, target_std=0.5, tol=1e-4)
    assert_fits(model, exact, x, MLP_LAYERS, std=0.5, tol=1.1e-4)
    # Within this tolerance the orthogonal start is good as it is.
    loose = fi.lsuv(KEY, model, variables, x, tol=1e4)
    for layer, size in (("layers_0", 16), ("layers_2", 8)):
        start, scaled = (np.asarray(new["params"][layer]["kernel"]) for new in (loose, exact))
        np.testing.assert_allclose(start.T @ start, np.eye(size), atol=1e-5)
        np.testing.assert_allclose(scaled, start * (scaled[0, 0] / start[0, 0]), rtol=1e-4)


@pytest.mark.slow
def test_lsuv_with_biases_takes_more_steps():
    model, variables, x = mlp(bias=0.5)
    with pytest.raises(ValueError, match=r"after 1 steps, where 1 is asked for.*allow more steps"):
        fi.lsuv(KEY, model, variables, x, tol=1e-3, max_iter=1)
    new = fi.lsuv(KEY, model, variables, x, tol=1e-3)
    assert_only(kernels_of(MLP_LAYERS), variables, new)
    assert_fits(model, new, x, MLP_LAYERS, tol=2e-3)


@pytest.mark.slow
def test_lsuv_in_training_mode():
    model, variables, rngs = ConvNet(), conv_variables(), {"dropout": jax.random.key(7)}
    new = fi.lsuv(KEY, model, variables, IMAGES, rngs=rngs, train=True)
    assert_only(kernels_of(CONV_LAYERS), variables, new)
    mutable = ["intermediates", "batch_stats"]
    assert_fits(model, new, IMAGES, CONV_LAYERS[:2], train=True, rngs=rngs, mutable=mutable)


@pytest.mark.slow
def test_lsuv_of_a_transformer():
    """Each layer of a scan has its own scale, though one traced body serves all."""
    model = Transformer(scanned=True)
    variables = jax.jit(model.init)(KEY, TOKENS)
    new = fi.lsuv(KEY, model, variables, TOKENS)
    chosen = {path for path in leaves(variables) if path[-1] == "kernel"}
    assert len(chosen) == 7
    assert_only(chosen, variables, new)
    # The same model unrolled puts out each layer by itself.
    params = dict(new["params"])
    stacked = params.pop("blocks")
    params |= {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(2)}
    layers = [path[:-1] for path in leaves(params) if path[-1] == "kernel"]
    assert len(layers) == 13
    assert_fits(Transformer(), {"params": params}, TOKENS, layers)


class Shared(nn.Module):
    wrapped: bool = False

    @nn.compact
    def __call__(self, x):
        layer = (nn.remat(nn.Dense) if self.wrapped else nn.Dense)(8, name="layer")
        return nn.Dense(3, name="last")(layer(nn.relu(layer(x))))


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_lsuv_scales_a_shared_layer_at_its_first_call(wrapped):
    model, x = Shared(wrapped), jax.random.normal(KEY, (64, 8))
    new = fi.lsuv(KEY, model, model.init(KEY, x), x, tol=1e-4)
    values = outputs(Shared(), new, x)
    assert float(values["layer", "__call__", "0"].std()) == pytest.approx(1, rel=1e-3)
    assert float(values["layer", "__call__", "1"].std()) != pytest.approx(1, rel=0.1)
    assert float(values["last", "__call__", "0"].std()) == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
def test_lsuv_through_lifted_transforms():
    """A kept trace of nn.jit, or of the model itself, would leave layers as they are."""
    split = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    x = 5 * jax.random.normal(KEY, (4, 32, 8))
    model = nn.Sequential([nn.jit(nn.Dense)(8), nn.relu, nn.vmap(nn.Dense, **split)(8)])
    variables = model.init(KEY, x)
    model.apply(variables, x)
    new = fi.lsuv(KEY, model, variables, x)
    assert_fits(model, new, x, [("layers_0",)])
    np.testing.assert_allclose(model.apply(new, x).var((1, 2)), 1, rtol=0.1)


@pytest.mark.slow
def test_lsuv_on_a_mesh_with_explicit_axes():
    """Shardings are types there, and what is scaled keeps its own."""
    model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(8)])
    x = jax.random.normal(KEY, (64, 8))
    with jax.set_mesh(mesh(AxisType.Explicit)):
        variables = model.init(KEY, x)
        place = NamedSharding(mesh(AxisType.Explicit), P(None, "y"))
        variables["params"]["layers_0"]["kernel"] = jax.device_put(
            variables["params"]["layers_0"]["kernel"], place
        )
        new = fi.lsuv(KEY, model, variables, x)
        assert_only(kernels_of([("layers_0",), ("layers_2",)]), variables, new)
        assert float(model.apply(new, x).var()) == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_lsuv_under_jit():
    model, variables, x = mlp()
    run = jax.jit(lambda key, variables, x: fi.lsuv(key, model, variables, x))
    assert_fits(model, run(KEY, variables, x), x, MLP_LAYERS)


def test_lsuv_runs_the_model_once():
    """A layer is traced for the survey, for its weights, and for its output before and after."""
    calls = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(type(x))
            return nn.Dense(8)(x)

    model, x = nn.Sequential([Counting(), nn.relu, Counting()]), jax.random.normal(KEY, (64, 8))
    variables = model.init(KEY, x)
    calls.clear()
    fi.lsuv(KEY, model, variables, x, max_iter=1000)
    assert len(calls) <= 8  # two modules; survey, twice the init function, and the run


def test_lsuv_takes_several_inputs():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x, y, *, scale):
            return nn.Dense(8)(x) + scale * nn.Dense(8)(y)

    x, y = jax.random.normal(KEY, (2, 64, 8))
    variables = Sum().init(KEY, x, y, scale=2)
    new = fi.lsuv(KEY, Sum(), variables, (x, y), scale=2)
    assert_only(kernels_of([("Dense_0",), ("Dense_1",)]), variables, new)
    assert float(Sum().apply(new, x, y, scale=2).var()) == pytest.approx(5, rel=0.2)


class Idle(nn.Module):
    def setup(self):
        self.used, self.unused = nn.Dense(4), nn.Dense(4)

    def __call__(self, x):
        return self.used(x) if not self.is_initializing() else self.used(x) + self.unused(x)


class Owner(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(0.1), (8, 8))
        return nn.Dense(8)(x @ kernel)


def dead(key, shape, dtype):
    return jnp.full(shape, -100.0, dtype)


RNN = nn.RNN(nn.LSTMCell(4))
X = jax.random.normal(KEY, (4, 8, 8))
STEPS = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
REJECTED = {
    "nothing": (nn.Dense(4), {"where": "params/**/weights"}, "selects no leaf"),
    "no param": (
        nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)]),
        {"where": "**/mean"},
        r"selects 'batch_stats/layers_1/mean', which is no param. Begin the pattern with 'params/'",
    ),
    "idle": (Idle(), {}, "selects weights of 'unused', which this call of the model does not run"),
    "nested": (Owner(), {}, "weights of 'Dense_0' and of 'the model itself', which holds it"),
    "no array": (
        nn.RNN(nn.OptimizedLSTMCell(4)),
        {},
        "a DenseParams that returns tuple, not an array",
    ),
    "shared by scan": (RNN, {}, r"could not put scaled weights back.*a scan share \(nn\.RNN"),
    "shared by vmap": (STEPS(4), {}, "could not put scaled weights back.*slices of a vmap"),
    "normalized": (nn.WeightNorm(nn.Dense(4)), {}, "those of nn.WeightNorm are normalized"),
    "dead": (
        nn.Sequential([nn.Dense(4, bias_init=dead), nn.relu, nn.Dense(4)]),
        {"tol": 1e9},
        "The output of 'layers_2' is the same everywhere.*dead units before it",
    ),
    "bias": (
        nn.Dense(2, bias_init=lambda *_: jnp.array([-9.0, 9.0])),
        {},
        "The output of 'the model itself' has standard deviation .* after 10 steps",
    ),
    "NaN": (
        nn.Sequential([nn.Dense(4, bias_init=nn.initializers.constant(jnp.nan)), nn.Dense(4)]),
        {},
        "The output of 'layers_0' is not finite on this batch",
    ),
    "bad std": (nn.Dense(4), {"target_std": 0}, "lsuv needs target_std > 0, got target_std=0"),
    "bad tol": (nn.Dense(4), {"tol": -1}, "lsuv needs tol > 0"),
    "bad count": (nn.Dense(4), {"max_iter": 0}, "lsuv needs max_iter >= 1"),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("model", "options", "message"), REJECTED.values(), ids=REJECTED)
def test_lsuv_rejects(model, options, message):
    variables = model.init(KEY, X)
    with pytest.raises(ValueError, match=message):
        fi.lsuv(KEY, model, variables, X, **options)


def test_lsuv_rejects_what_is_no_model_or_no_variables():
    model, variables = nn.Dense(4), nn.Dense(4).init(KEY, X)
    with pytest.raises(
        TypeError, match="lsuv needs a Linen module, an instance of nn.Module, or an nnx"
    ):
        fi.lsuv(KEY, nn.Dense, variables, X)
    with pytest.raises(TypeError, match=r"got a dict with keys 'params' \(the model comes before"):
        fi.lsuv(KEY, variables, model, X)
    with pytest.raises(ValueError, match=r"as model.init returns them.*got \['kernel', 'bias'\]"):
        fi.lsuv(KEY, model, variables["params"], X)
    with pytest.raises(ValueError, match="'params/bias' is abstract: give arrays"):
        fi.lsuv(KEY, model, jax.eval_shape(lambda: variables), X)


def test_lsuv_passes_the_models_own_errors_on():
    variables = nn.Dense(4).init(KEY, X)
    with pytest.raises(Exception, match="(?i)shape") as error:
        fi.lsuv(KEY, nn.Dense(4), variables, X[..., :5])
    assert any("lsuv" in note for note in error.value.__notes__)
    with pytest.raises(Exception, match="a list is one input: give several as a tuple"):
        fi.lsuv(KEY, nn.Dense(4), variables, [X])
