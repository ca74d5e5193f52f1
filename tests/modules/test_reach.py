"""Rules that reach into Linen models, against the same models built with those initializers."""

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

import flax_inits
from flax_inits._modules.arguments import of_arrays
from flax_inits._modules.reach import STORED, THROUGH, with_rules
from flax_inits._tree.paths import flatten, path_hash, show

KEY = jax.random.key(3)
X = jnp.linspace(-1.0, 1.0, 24).reshape(3, 8)
IMAGES = jnp.linspace(-1.0, 1.0, 2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
STEPS = jnp.linspace(-1.0, 1.0, 2 * 5 * 4).reshape(2, 5, 4)

# One depends on the shape that it is called with, one is of this package, one draws nothing.
FAN = nn.initializers.variance_scaling(2.0, "fan_out", "uniform")
WIDE = flax_inits.uniform(-0.3, 0.3)
FILL = nn.initializers.constant(0.5)


def jitted(fun):
    """Compiled without optimisations: both sides alike, and many times faster here."""
    return jax.jit(fun, compiler_options={"xla_backend_optimization_level": 0})


def applied(fun, rules, *args, **kwargs):
    return jitted(with_rules(fun, rules))(*args, **kwargs)


def assert_same(got, want):
    chex.assert_trees_all_equal_structs(got, want)
    chex.assert_trees_all_equal_dtypes(got, want)
    chex.assert_trees_all_equal(got, want)


def told(reached, *args, **kwargs):
    """How a call makes each chosen leaf; arguments may be abstract."""
    how = {}

    def run(*args, **kwargs):
        tree, found = reached.made(args, kwargs)
        how.update(found)
        return tree

    jax.eval_shape(*of_arrays(run, args, kwargs))
    return how


def explained(fun, rules, *args, **kwargs):
    how = told(with_rules(fun, rules), *args, **kwargs)
    return {show(path): verdict for path, verdict in how.items()}


class Block(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(x.shape[-1], kernel_init=self.kernel_init)(nn.LayerNorm()(x)), None


class Lifted(nn.Module):
    """Blocks under a transformation, equal ones, so that something could mix them up."""

    transform: Callable[..., Any]
    inits: tuple

    @nn.compact
    def __call__(self, x):
        for kernel_init in self.inits:
            x, _ = self.transform(Block)(kernel_init=kernel_init)(x, None)
        return x


class Chain(nn.Module):
    layer: Callable[..., nn.Module]
    inits: tuple

    @nn.compact
    def __call__(self, x):
        for kernel_init in self.inits:
            x = self.layer(kernel_init=kernel_init)(x)
        return x


class JittedCall(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], kernel_init=self.kernel_init)(x)


class Setup(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    table_init: Callable[..., Any] = nn.initializers.normal(1.0)

    def setup(self):
        self.first = nn.Dense(4, kernel_init=self.kernel_init)
        self.rest = [nn.Dense(4, kernel_init=self.kernel_init), nn.LayerNorm()]
        self.table = self.param("table", self.table_init, (7, 4))
        self.embed = nn.Embed(5, 4)

    def __call__(self, x):
        return self.again(self.again(x)[:, :4] @ jnp.ones((4, 8)))

    def again(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x @ self.table.T @ self.table @ self.embed.embedding.T


class Convention(nn.Module):
    """A user's own module, whose method calls itself."""

    features: int = 4
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    gate_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        if x.shape[-1] == self.features:
            return x
        init = self.kernel_init
        kernel = self.param("kernel", lambda key, shape: init(key, shape), (8, self.features))
        gate = self.param("gate", self.gate_init, (self.features,), jnp.bfloat16)
        return self(x @ kernel * gate[None])


class Shared(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.inner(self.inner(x))


class LoRA(nn.Module):
    inner: nn.Module
    kernel_init: Callable[..., Any] = nn.initializers.ones

    def setup(self):
        nn.share_scope(self, self.inner)

    @nn.compact
    def __call__(self, x):
        down = self.param("down", nn.initializers.normal(), (x.shape[-1], 2))
        return self.inner(x) + (x @ down).sum()


class Adapted(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        return LoRA(nn.Dense(8, kernel_init=self.kernel_init))(x)


class Mapped(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        mapped = nn.map_variables(nn.Dense, "params", lambda tree: tree, init=True)
        return mapped(4, kernel_init=self.kernel_init)(x)


def boxed(init, *names):
    return nn.with_partitioning(init, names)


def logical(init, *names):
    return nn.with_logical_partitioning(init, names)


def cell(kind, **inits):
    return nn.RNN(kind(4, **inits))


PER_LAYER = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
AXIS = {"metadata_params": {"partition_name": "layer"}}
scan = functools.partial(nn.scan, length=3, **PER_LAYER, **AXIS)
DENSE = {"params/kernel": FAN, "params/bias": WIDE}
BUILT = {"kernel_init": FAN, "bias_init": WIDE}
NORM = {"params/scale": WIDE, "params/bias": WIDE}
NORMED = {"scale_init": WIDE, "bias_init": WIDE}
RECURRENT = {"params/cell/i*/kernel": FAN, "params/cell/h*/kernel": WIDE, "params/**/bias": WIDE}
RECURRED = {"kernel_init": FAN, "recurrent_kernel_init": WIDE, "bias_init": WIDE}
ATTENTION = {"params/**/kernel": FAN, "params/**/bias": WIDE}
ONE = {"params/Dense_0/kernel": FAN}
heads = functools.partial(nn.MultiHeadDotProductAttention, num_heads=2)

# name: the model as a function of initializers, some of those, the rules that stand for them,
# and the inputs.
CASES = {
    "Dense": (functools.partial(nn.Dense, 5), BUILT, DENSE, X),
    "DenseGeneral": (functools.partial(nn.DenseGeneral, (2, 3), axis=(-1, -2)), BUILT, DENSE, X),
    "DenseGeneral, batched": (
        functools.partial(nn.DenseGeneral, 4, batch_dims=(0,)),
        BUILT,
        DENSE,
        STEPS,
    ),
    "Einsum": (functools.partial(nn.Einsum, (8, 2, 3), "bi,ihk->bhk"), BUILT, DENSE, X),
    "Conv": (functools.partial(nn.Conv, 4, (3, 3)), BUILT, DENSE, IMAGES),
    "ConvTranspose": (functools.partial(nn.ConvTranspose, 4, (3, 3)), BUILT, DENSE, IMAGES),
    "ConvLocal": (functools.partial(nn.ConvLocal, 4, (3, 3)), BUILT, DENSE, IMAGES),
    "Embed": (
        functools.partial(nn.Embed, 11, 4),
        {"embedding_init": FAN},
        {"params/embedding": FAN},
        jnp.array([1, 2]),
    ),
    "attention": (heads, BUILT, ATTENTION, X[None]),
    "attention, output": (heads, {"out_kernel_init": FAN}, {"params/out/kernel": FAN}, X[None]),
    "LayerNorm": (nn.LayerNorm, NORMED, NORM, X),
    "RMSNorm": (nn.RMSNorm, {"scale_init": WIDE}, {"params/scale": WIDE}, X),
    "GroupNorm": (functools.partial(nn.GroupNorm, num_groups=2), NORMED, NORM, X),
    "InstanceNorm": (nn.InstanceNorm, NORMED, NORM, IMAGES),
    "BatchNorm": (functools.partial(nn.BatchNorm, use_running_average=False), NORMED, NORM, X),
    "WeightNorm": (
        functools.partial(nn.WeightNorm, nn.Dense(4)),
        {"scale_init": WIDE},
        {"params/*scale": WIDE},
        X,
    ),
    "below WeightNorm": (
        lambda **inits: nn.WeightNorm(nn.Dense(4, **inits)),
        BUILT,
        {"params/layer_instance/kernel": FAN, "params/layer_instance/bias": WIDE},
        X,
    ),
    "LSTMCell": (functools.partial(cell, nn.LSTMCell), RECURRED, RECURRENT, STEPS),
    "OptimizedLSTMCell": (
        functools.partial(cell, nn.OptimizedLSTMCell),
        RECURRED,
        RECURRENT,
        STEPS,
    ),
    "GRUCell": (functools.partial(cell, nn.GRUCell), RECURRED, RECURRENT, STEPS),
    "SimpleCell": (
        functools.partial(cell, nn.SimpleCell),
        RECURRED,
        {"params/cell/i/kernel": FAN, "params/cell/h/kernel": WIDE, "params/**/bias": WIDE},
        STEPS,
    ),
    "MGUCell": (
        functools.partial(cell, nn.MGUCell),
        {"kernel_init": FAN, "forget_bias_init": WIDE},
        {"params/cell/i*/kernel": FAN, "params/cell/if/bias": WIDE},
        STEPS,
    ),
    "scan": (lambda **inits: scan(Block)(**inits), {"kernel_init": FAN}, ONE, X),
    "scan of remat": (lambda **inits: scan(nn.remat(Block))(**inits), {"kernel_init": FAN}, ONE, X),
    "vmap": (functools.partial(nn.vmap(nn.Dense, **PER_LAYER), 4), BUILT, DENSE, X),
    "remat": (functools.partial(nn.remat(nn.Dense), 4), BUILT, DENSE, X),
    "jit": (functools.partial(nn.jit(nn.Dense), 4), BUILT, DENSE, X),
    "jit of a method": (JittedCall, {"kernel_init": FAN}, ONE, X),
    "map_variables": (Mapped, {"kernel_init": FAN}, {"params/**/kernel": FAN}, X),
    "setup": (
        Setup,
        {"kernel_init": FAN, "table_init": FAN},
        {"params/*/kernel": FAN, "params/table": FAN},
        X,
    ),
    "own convention": (
        Convention,
        {"kernel_init": FAN, "gate_init": WIDE},
        {"params/kernel": FAN, "params/gate": WIDE},
        X,
    ),
    "called twice": (
        lambda **inits: Shared(nn.Dense(8, **inits)),
        BUILT,
        {"params/inner/kernel": FAN, "params/inner/bias": WIDE},
        X,
    ),
    "share_scope": (Adapted, {"kernel_init": FAN}, {"params/Dense_0/kernel": FAN}, X),
    "Sequential": (
        lambda **inits: nn.Sequential([nn.Dense(8), nn.Dense(8, **inits)]),
        BUILT,
        {"params/layers_1/kernel": FAN, "params/layers_1/bias": WIDE},
        X,
    ),
}


@pytest.mark.sampled(30, rest="thorough")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("standard_promotion")
def test_a_rule_is_the_model_built_with_its_initializer(name):
    build, inits, rules, inputs = CASES[name]
    got = applied(build().init, rules, KEY, inputs)
    assert_same(got, jitted(build(**inits).init)(KEY, inputs))
    assert set(explained(build().init, rules, KEY, inputs).values()) == {THROUGH}


@pytest.mark.usefixtures("standard_promotion")
def test_a_weight_that_is_normalized_before_it_is_kept_is_reached():
    test_a_rule_is_the_model_built_with_its_initializer("below WeightNorm")


def test_statistics_of_the_kernel_follow():
    def normalized(**inits):
        norm = nn.SpectralNorm(nn.Dense(4, **inits))
        return functools.partial(norm.init, update_stats=True)

    got = applied(normalized(), {"params/**/kernel": FAN}, KEY, X)
    assert_same(got, jitted(normalized(kernel_init=FAN))(KEY, X))


BOXES = {
    "Dense": (lambda init, box: nn.Dense(4, kernel_init=box(init, "in", "out")), X),
    "attention": (lambda init, box: heads(kernel_init=box(init, "in", None)), X[None]),
    "scan": (lambda init, box: scan(Block)(kernel_init=box(init, "in", "out")), X),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("box", [boxed, logical])
@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_kept(name, box):
    build, inputs = BOXES[name]
    got = applied(build(FILL, box).init, {"params/**/kernel": FAN}, KEY, inputs)
    assert_same(got, jitted(build(FAN, box).init)(KEY, inputs))
    nodes = jax.tree.leaves(got, is_leaf=lambda node: isinstance(node, nn.meta.AxisMetadata))
    assert any(isinstance(node, nn.meta.AxisMetadata) for node in nodes)


def test_a_box_of_the_rule_is_not_added():
    got = applied(nn.Dense(4).init, {"params/kernel": boxed(FAN, "in", "out")}, KEY, X)
    assert_same(got, jitted(nn.Dense(4, kernel_init=FAN).init)(KEY, X))


TRANSFORMS = {
    "plain": lambda block: block,
    "remat": nn.remat,
    "jit": nn.jit,
    "scan": scan,
    "jit of scan": lambda block: nn.jit(scan(block)),
    "scan of jit": lambda block: scan(nn.jit(block)),
}


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_rule_stops_at_its_module(name, chosen):
    """Equal siblings keep their own; `nn.jit` would take the trace of one for the other."""
    plain = Lifted(TRANSFORMS[name], (FILL,) * 2)
    blocks = sorted(jax.eval_shape(plain.init, KEY, X)["params"])
    built = Lifted(TRANSFORMS[name], tuple(FAN if i == chosen else FILL for i in range(2)))
    got = applied(plain.init, {f"params/{blocks[chosen]}/Dense_0/kernel": FAN}, KEY, X)
    assert_same(got, jitted(built.init)(KEY, X))


def in_sequence(layer, inits):
    return nn.Sequential([layer(kernel_init=init) for init in inits])


class Parts(nn.Module):
    parts: Any

    def __call__(self, x):
        for part in self.parts:
            x = part["layer"](x)
        return x


def in_dicts(layer, inits):
    return Parts([{"layer": layer(kernel_init=init)} for init in inits])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("chain", [Chain, in_sequence, in_dicts])
@pytest.mark.parametrize("layer", [JittedCall, nn.jit(functools.partial(nn.Dense, 8))])
@pytest.mark.parametrize("chosen", [0, 1])
def test_equal_siblings_under_jit_are_told_apart(chain, layer, chosen):
    plain = chain(layer, (FILL, FILL))
    siblings = sorted(jax.eval_shape(plain.init, KEY, X)["params"])
    got = applied(plain.init, {f"params/{siblings[chosen]}/**/kernel": FAN}, KEY, X)
    built = chain(layer, (FAN, FILL) if chosen == 0 else (FILL, FAN))
    assert_same(got, jitted(built.init)(KEY, X))


@pytest.mark.parametrize("kept", [nn.jit(nn.Dense)(4), JittedCall()])
def test_traces_that_are_kept_neither_hide_modules_nor_keep_rules(kept):
    rules = {"params/**/kernel": FAN}
    before = kept.init(KEY, X)
    for _ in range(2):
        assert set(explained(kept.init, rules, KEY, X).values()) == {THROUGH}
    chex.assert_trees_all_equal(kept.init(KEY, X), before)


def test_a_jitted_function_is_reached_and_left_clean():
    init = jax.jit(nn.Dense(4).init)
    before = init(KEY, X)
    want = jitted(nn.Dense(4, kernel_init=FAN).init)(KEY, X)
    for _ in range(2):
        got = applied(lambda key, x: {"model": init(key, x)}, {"model/**/kernel": FAN}, KEY, X)
        assert_same(got, {"model": want})
    chex.assert_trees_all_equal(init(KEY, X), before)


class Spread(nn.Module):
    """Uses its initializer twice, and gives it to a submodule."""

    kernel_init: Callable[..., Any] = FILL

    @nn.compact
    def __call__(self, x):
        x = x @ self.param("kernel", self.kernel_init, (8, 8))
        x = x @ self.param("second", self.kernel_init, (8, 8))
        return nn.Dense(4, kernel_init=self.kernel_init)(x)


class Apart(nn.Module):
    """`Spread` with an initializer for each use."""

    kernel_init: Callable[..., Any] = FILL
    child_init: Callable[..., Any] = FILL

    @nn.compact
    def __call__(self, x):
        x = x @ self.param("kernel", self.kernel_init, (8, 8))
        x = x @ self.param("second", FILL, (8, 8))
        return nn.Dense(4, kernel_init=self.child_init)(x)


@pytest.mark.parametrize(
    ("pattern", "inits"),
    [
        ("params/kernel", {"kernel_init": FAN}),
        ("params/Dense_0/kernel", {"child_init": FAN}),
        ("params/**/kernel", {"kernel_init": FAN, "child_init": FAN}),
    ],
)
def test_what_else_a_module_does_with_its_initializer_stays(pattern, inits):
    got = applied(Spread(name=None).init, {pattern: FAN}, KEY, X)
    assert_same(got, jitted(Apart(**inits).init)(KEY, X))


class OrDefault(nn.Module):
    kernel_init: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init or boxed(FILL, "a", "b"), (8, 4))


class Constant(nn.Module):
    kernel_init = staticmethod(flax_inits.ones())

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init, (8, 4))


class Method(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init, (8, 4), jnp.float32)

    def kernel_init(self, key, shape, dtype):
        return FILL(key, shape, dtype)


class OfKeyAlone(nn.Module):
    """Its initializer knows the shape already."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init)

    def kernel_init(self, key):
        return jnp.ones((8, 4))


class Property(nn.Module):
    @property
    def kernel_init(self):
        return FILL

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", self.kernel_init, (8, 4))


class InSetup(nn.Module):
    def setup(self):
        self.kernel_init = FILL
        self.kernel = self.param("kernel", self.kernel_init, (8, 4))

    def __call__(self, x):
        return x @ self.kernel


class AgainInSetup(InSetup):
    """Its setup hides an attribute of the class."""

    kernel_init = WIDE


KINDS = [OrDefault, Constant, Method, OfKeyAlone, Property, InSetup, AgainInSetup]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_an_initializer_may_be_any_kind_of_attribute(kind):
    got = applied(kind().init, {"params/kernel": FAN}, KEY, X)
    want = jitted(OrDefault(FAN).init)(KEY, X)
    chex.assert_trees_all_equal(nn.meta.unbox(got), want)
    chex.assert_trees_all_equal_structs(got, jax.eval_shape(kind().init, KEY, X))
    assert explained(kind().init, {"params/kernel": FAN}, KEY, X) == {"params/kernel": THROUGH}


class Model(nn.Module):
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = nn.Dense(8, kernel_init=self.kernel_init)(x)
        x = nn.BatchNorm(use_running_average=False)(x)
        return x, self.sow("intermediates", "last", x)


def ensemble(model):
    return lambda key, x: jax.vmap(lambda key: model.init(key, x))(jax.random.split(key, 3))


def in_loop(model):
    return lambda key, x: jax.lax.map(lambda key: model.init(key, x), jax.random.split(key, 3))


def in_half(model):
    def fun(key, x):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.init(key, x))

    return fun


def renamed(model):
    return lambda key, x: dict(enumerate(jax.tree.leaves(model.init(key, x)["params"])))


def two_models(model, other):
    def fun(key, x):
        first, second = jax.random.split(key)
        return {"b": model.init(second, x), "a": other.init(first, x)}

    return fun


# What a function may make of a model's variables, and where the kernel of Dense_1 then is.
KERNEL = "params/Dense_1/kernel"
FUNCTIONS = {
    "init_with_output": (lambda model: model.init_with_output, f"1/{KERNEL}"),
    "params": (lambda model: lambda k, x: model.init(k, x)["params"], "Dense_1/kernel"),
    "part": (lambda model: lambda k, x: model.init(k, x)["params"]["Dense_1"], "kernel"),
    "jitted": (lambda model: jax.jit(model.init), KERNEL),
    "vmap": (ensemble, KERNEL),
    "loop": (in_loop, KERNEL),
    "cast": (in_half, KERNEL),
    "renamed": (renamed, "5"),
    "lazy": (lambda model: model.lazy_init, KERNEL),
    "one of two": (lambda model: two_models(model, Model()), f"b/{KERNEL}"),
    "one of two kinds": (lambda model: two_models(model, nn.Dense(3)), f"b/{KERNEL}"),
    "nn.init": (lambda model: nn.init(lambda bound, x: bound(x), model), KERNEL),
}


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_model_is_found_in_whatever_the_function_returns(name):
    function, path = FUNCTIONS[name]
    got = applied(function(Model()), {path: FAN}, KEY, X)
    assert_same(got, jitted(function(Model(FAN)))(KEY, X))
    assert explained(function(Model()), {path: FAN}, KEY, X) == {path: THROUGH}


def test_a_part_out_of_a_jitted_model_is_reached():
    def fun(model):
        return lambda key, x: jax.jit(model.init)(key, x)["params"]["Dense_1"]

    rules = {"kernel": FAN}
    assert explained(fun(Model()), rules, KEY, X) == {"kernel": THROUGH}
    got = applied(fun(Model()), rules, KEY, X)
    assert_same(got["kernel"], jitted(fun(Model(FAN)))(KEY, X)["kernel"])


def test_copies_and_what_is_derived_follow():
    def state(**inits):
        def fun(key, x):
            params = nn.Dense(4, **inits).init(key, x)["params"]
            return {"params": params, "slow": params, "norm": jnp.linalg.norm(params["kernel"])}

        return fun

    got = applied(state(), {"params/kernel": FAN}, KEY, X)
    assert_same(got, jitted(state(kernel_init=FAN))(KEY, X))
    both = {"params/kernel": FAN, "slow/kernel": WIDE}
    how = {"params/kernel": THROUGH, "slow/kernel": STORED}
    assert explained(state(), both, KEY, X) == how


def test_params_that_are_one_array_are_told_apart_by_path():
    table = jnp.ones((8,))

    class Constants(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.LayerNorm(scale_init=lambda key, shape, dtype: table)(x)
            return x

    rules = {"params/LayerNorm_1/scale": WIDE}
    got = jitted(with_rules(Constants().init, rules))(KEY, X)["params"]
    assert explained(Constants().init, rules, KEY, X) == {"params/LayerNorm_1/scale": THROUGH}
    np.testing.assert_array_equal(got["LayerNorm_0"]["scale"], table)
    assert not np.array_equal(got["LayerNorm_1"]["scale"], table)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("factor", [1, 2])
def test_two_models_of_one_structure_are_not_confused(factor):
    """Doubled, no leaf is the value that a module made; what it is derived from tells."""

    def fun(**inits):
        models = two_models(nn.Dense(4), nn.Dense(4, **inits))
        return lambda key, x: jax.tree.map(lambda leaf: leaf * factor, models(key, x))

    rules = {"a/**/kernel": FAN}
    assert explained(fun(), rules, KEY, X) == {"a/params/kernel": THROUGH}
    assert_same(applied(fun(), rules, KEY, X), jitted(fun(kernel_init=FAN))(KEY, X))


class Nested(nn.Module):
    """Holds the params of another model as one of its own, as a hypernetwork does."""

    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        inner = nn.Dense(8, kernel_init=self.kernel_init, parent=None)
        weights = self.param("inner", lambda key: inner.init(key, x)["params"])
        return inner.apply({"params": weights}, nn.Dense(8)(x))


@pytest.mark.slow
def test_models_within_models_are_reached():
    got = applied(Nested().init, {"params/inner/kernel": FAN}, KEY, X)
    assert_same(got, jitted(Nested(FAN).init)(KEY, X))
    plain = applied(Nested().init, {"params/Dense_0/kernel": FAN}, KEY, X)
    chex.assert_trees_all_equal(
        plain["params"]["inner"], jitted(Nested().init)(KEY, X)["params"]["inner"]
    )


def stored(init, key, path, leaf):
    def draw(key):
        return init(jax.random.fold_in(key, path_hash(path)), leaf.shape, leaf.dtype)

    return jitted(draw)(key)


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        bare = self.param("bare", nn.initializers.normal(), (8, 4))
        count = self.variable("state", "count", jnp.zeros, (), jnp.int32)
        return nn.BatchNorm(use_running_average=False)(x @ bare) + count.value.astype(x.dtype)


class Picks(nn.Module):
    """Its initializer makes more than the param."""

    def kernel_init(self, key):
        return jax.random.normal(key, (8, 4)), jnp.ones(4)

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", lambda key: self.kernel_init(key)[0])


def test_an_initializer_of_more_than_the_param_is_left_alone():
    got = applied(Picks().init, {"params/kernel": WIDE}, KEY, X)["params"]["kernel"]
    np.testing.assert_array_equal(got, stored(WIDE, KEY, ("params", "kernel"), got))
    assert explained(Picks().init, {"params/kernel": WIDE}, KEY, X) == {"params/kernel": STORED}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("path", ["params/bare", "batch_stats/BatchNorm_0/mean"])
def test_other_leaves_are_made_at_their_stored_shape(path):
    got, plain = applied(Bare().init, {path: WIDE}, KEY, X), jitted(Bare().init)(KEY, X)
    chex.assert_trees_all_equal_structs(got, plain)
    for name, leaf, before in zip(*flatten(got)[:2], jax.tree.leaves(plain), strict=True):
        want = stored(WIDE, KEY, name, leaf) if show(name) == path else before
        np.testing.assert_array_equal(leaf, want)
    assert explained(Bare().init, {path: WIDE}, KEY, X) == {path: STORED}


@pytest.mark.parametrize("key", [KEY, jax.random.PRNGKey(1), jax.random.key(1, impl="rbg")])
def test_leaves_of_plain_functions_are_made_at_their_stored_shape(key):
    def fun(x, key):
        return {"w": [jax.random.normal(key, (3, 4)), x]}

    got = applied(fun, {"w/0": FAN}, X, key)
    np.testing.assert_array_equal(got["w"][0], stored(FAN, key, ("w", "0"), got["w"][0]))
    np.testing.assert_array_equal(got["w"][1], X)


FIRST, SECOND = jax.random.split(KEY)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((FIRST, X), {}),
        (({"dropout": SECOND, "params": FIRST}, X), {}),
        (({"a": FIRST, "b": SECOND}, X), {}),
        ((), {"x": X, "rngs": {"dropout": SECOND, "params": FIRST}}),
        ((X, [FIRST, SECOND]), {}),
    ],
)
def test_the_key_of_stored_shapes(args, kwargs):
    got = applied(lambda *args, **kwargs: {"w": X}, {"w": WIDE}, *args, **kwargs)["w"]
    np.testing.assert_array_equal(got, stored(WIDE, FIRST, ("w",), X))


class Switched(nn.Module):
    kernel_init: Callable[..., Any] = FILL

    @nn.compact
    def other(self, x, train, mode="no"):
        assert train is True and mode == "yes"
        return nn.Dense(4, kernel_init=self.kernel_init)(x)


def test_static_arguments_and_methods_pass():
    static = {"train": True, "mode": "yes"}
    reached = with_rules(Switched().init, ONE)
    got = jitted(lambda key, x: reached(key, x, method="other", **static))(KEY, X)
    built = functools.partial(Switched(FAN).init, method="other", **static)
    assert_same(got, jitted(built)(KEY, X))
    how = told(reached, KEY, X, True, method=Switched.other, mode="yes")
    assert how == {("params", "Dense_0", "kernel"): THROUGH}


def test_inline_under_vmap_and_jit():
    keys = jax.random.split(KEY, 3)
    reached, built = with_rules(nn.Dense(4).init, DENSE), nn.Dense(4, **BUILT).init
    got = jitted(jax.vmap(reached, in_axes=(0, None)))(keys, X)
    assert_same(got, jitted(jax.vmap(built, in_axes=(0, None)))(keys, X))
    eager = jax.vmap(with_rules(nn.LayerNorm().init, {"params/scale": FILL}), in_axes=(0, None))
    np.testing.assert_array_equal(eager(keys, X)["params"]["scale"], np.full((3, 8), 0.5))


def test_rules_within_rules():
    inner = with_rules(nn.Dense(4).init, {"params/kernel": FAN})
    got = applied(inner, {"params/bias": WIDE}, KEY, X)
    assert_same(got, jitted(nn.Dense(4, **BUILT).init)(KEY, X))
    outermost = applied(inner, {"params/kernel": WIDE}, KEY, X)
    assert_same(outermost, jitted(nn.Dense(4, kernel_init=WIDE).init)(KEY, X))


@pytest.mark.usefixtures("standard_promotion")
def test_initializers_are_called_as_the_module_calls_them():
    given = []

    def noting(key, *args, **kwargs):
        given.append((args, kwargs))
        return jnp.zeros(*args, **kwargs)

    applied(heads(param_dtype=jnp.bfloat16).init, {"params/query/kernel": noting}, KEY, X[None])
    assert given == [(((8, 8), jnp.bfloat16), {})]


@pytest.mark.parametrize("path", ["params/kernel", "params/bias"])
@pytest.mark.usefixtures("standard_promotion")
def test_leaves_keep_the_dtype_of_the_model(path):
    def in_float32(key, shape, dtype):
        return jax.random.normal(key, shape, jnp.float32)

    got = applied(nn.Dense(4, param_dtype=jnp.bfloat16).init, {path: in_float32}, KEY, X)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}


def draws(fun, *args):
    """The shapes that are drawn by what is left of `fun` without its dead code."""
    closed = jax.make_jaxpr(fun)(*args)
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))

    def found(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "random_bits":
                yield equation.params["shape"]
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from found(inner)

    return sorted(found(live))


EMPTY = {"params/**/kernel": nn.initializers.zeros}
DRAWS = {
    "Dense": (nn.Dense(4), EMPTY, X, [(8, 4)], []),
    "attention": (heads(), {"params/query/kernel": FILL}, X[None], [(8, 8)] * 4, [(8, 8)] * 3),
    "scan": (scan(Block)(), EMPTY, X, [(8, 8)], []),
    "remat": (nn.remat(nn.Dense)(4), EMPTY, X, [(8, 4)], []),
    "jit": (nn.jit(nn.Dense)(4), EMPTY, X, [(8, 4)], []),
    "box": (nn.Dense(4, kernel_init=boxed(FAN, "a", "b")), EMPTY, X, [(8, 4)], []),
    "stored": (Bare(), {"params/bare": nn.initializers.zeros}, X, [(8, 4)], []),
}


@pytest.mark.parametrize("name", DRAWS)
def test_nothing_is_computed_for_what_was_replaced(name):
    model, rules, inputs, before, after = DRAWS[name]
    assert draws(lambda key: model.init(key, inputs)["params"], KEY) == before
    assert draws(lambda key: with_rules(model.init, rules)(key, inputs)["params"], KEY) == after


class Failing(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        self.inner(x)
        raise RuntimeError("in the model")


def attributes(model):
    inner = getattr(model, "inner", model)
    return dict(vars(model)), dict(vars(inner)), dict(vars(type(inner)))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("model", [Shared(nn.Dense(8)), nn.Dense(8), Setup(), Method()])
def test_modules_are_as_they_were(model):
    before = attributes(model)
    applied(model.init, {"params/**/kernel": FAN}, KEY, X)
    assert attributes(model) == before


def broken(key, shape, dtype):
    raise RuntimeError("in the rule")


@pytest.mark.parametrize(
    ("model", "init", "where"),
    [(Failing(nn.Dense(8)), FAN, "model"), (Shared(nn.Dense(8)), broken, "rule")],
)
def test_modules_are_as_they_were_after_an_exception(model, init, where):
    before = attributes(model)
    plain = jitted(model.inner.init)(KEY, X)
    with pytest.raises(RuntimeError, match=f"in the {where}"):
        with_rules(model.init, {"**/kernel": init})(KEY, X)
    assert attributes(model) == before
    chex.assert_trees_all_equal(jitted(model.inner.init)(KEY, X), plain)


def test_bound_modules_that_make_nothing_are_left_alone():
    teacher = nn.Dense(8)
    bound = teacher.bind(teacher.init(jax.random.key(9), X))
    seen = []

    class Student(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", FILL, (8, 8))
            target = bound(x)
            assert bound.scope is not None
            seen.append((set(vars(bound)), dict(bound.scope.flags)))
            return x @ kernel - target

    assert explained(Student().init, {"params/kernel": FAN}, KEY, X) == {"params/kernel": STORED}
    assert seen and not any("param" in names or flags for names, flags in seen)


@pytest.mark.slow
def test_threads_do_not_meet():
    model = Shared(nn.Dense(8))
    inits = [flax_inits.uniform(-0.1 * n, 0.1 * n) for n in range(1, 5)]
    results: dict[int, Any] = {}
    barrier = threading.Barrier(len(inits))

    def work(n):
        barrier.wait()
        for _ in range(2):
            results[n] = applied(model.init, {"params/inner/kernel": inits[n]}, KEY, X)

    before = attributes(model)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(inits))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert attributes(model) == before
    for n, init in enumerate(inits):
        built = Shared(nn.Dense(8, kernel_init=init))
        assert_same(results[n], jitted(built.init)(KEY, X))


def test_a_typo_is_named():
    rules = {"params/kernal": FAN, "params/bias": WIDE}
    with pytest.raises(ValueError, match="'params/kernal' selects no leaf.*'params/kernel'"):
        with_rules(nn.Dense(4).init, rules)(KEY, X)


def test_rules_are_checked_at_once():
    with pytest.raises(TypeError, match="'params/kernel' says which leaves, but not what they get"):
        with_rules(nn.Dense(4).init, "params/kernel")  # type: ignore
    with pytest.raises(ValueError, match="No rules were given"):
        with_rules(nn.Dense(4).init, {})
    with pytest.raises(TypeError, match="where an initializer must be"):
        with_rules(nn.Dense(4).init, {"params/kernel": 0.5})  # type: ignore


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"'state/\*' selects 'state/count', which no initializer"):
        applied(Bare().init, {"state/*": FAN}, KEY, X)


@pytest.mark.parametrize("path", ["params/BatchNorm_0/scale", "params/bare"])
def test_another_shape_is_refused_with_the_path(path):
    def turned(key, shape, dtype):
        return jnp.zeros((*shape, 2), dtype)

    with pytest.raises(ValueError, match="turned.* returned shape .* was asked for") as error:
        applied(Bare().init, {path: turned}, KEY, X)
    assert f"while initializing {path!r} by the rule for {path!r}" in error.value.__notes__


def test_a_key_is_needed_at_stored_shapes_only():
    with pytest.raises(ValueError, match="'params/bare'.*Pass the key as an argument"):
        with_rules(lambda: Bare().init(KEY, X), {"params/bare": FAN})()
    with pytest.raises(ValueError, match="an array of keys of shape"):
        with_rules(lambda keys: {"w": X}, {"w": FAN})(jax.random.split(KEY, 2))
    got = jitted(with_rules(lambda: nn.Dense(4).init(KEY, X), DENSE))()
    assert_same(got, jitted(lambda: nn.Dense(4, **BUILT).init(KEY, X))())


class Copying(nn.Module):
    kernel_init: Callable[..., Any] = FILL

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", copy.deepcopy(self.kernel_init), (8, 4))


def test_an_initializer_may_be_copied():
    got = applied(Copying().init, {"params/kernel": FAN}, KEY, X)
    assert_same(got, jitted(Copying(kernel_init=FAN).init)(KEY, X))


class OddNames(nn.Module):
    """Arguments that bear names of the watch's own code."""

    @nn.compact
    def __call__(self, x):
        def constant(key, call, module, original):
            return jnp.full((8,), call + module + original, x.dtype)

        gain = self.param("gain", constant, call=1, module=2, original=3)
        shift = self.param(name="shift", init_fn=FILL, shape=(8,))
        return nn.Dense(4)(x * gain[None] + shift[None])


def test_names_of_arguments_are_the_users():
    got = applied(OddNames().init, {"params/Dense_0/kernel": FAN}, KEY, X)["params"]
    assert (got["gain"] == 6).all() and (got["shift"] == 0.5).all()


class Asking(nn.Module):
    bias_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        bias = self.param("bias", self.bias_init, (8,))
        if self.bias_init is not nn.initializers.zeros:
            bias = bias * self.param("gain", FILL, (8,))
        return x + bias[None]


def test_a_model_that_changes_with_its_initializer_is_refused():
    with pytest.raises(ValueError, match="makes other leaves than without.*params/gain"):
        applied(Asking().init, {"params/bias": WIDE}, KEY, X)


def test_abstract_arguments_tell_how_leaves_are_made():
    reached = with_rules(nn.Dense(4).init, {"params/*": FILL})
    abstract = jax.ShapeDtypeStruct((2, 8), jnp.float32)
    how = {("params", "bias"): THROUGH, ("params", "kernel"): THROUGH}
    assert told(reached, KEY, abstract) == how
