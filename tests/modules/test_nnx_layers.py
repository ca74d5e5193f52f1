"""Every layer of NNX that annotates its variables, on meshes; and the spread that Linen's have."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_same
from cases_nnx import DEFAULT, LAYERS, layer, plain
from flax import nnx
from jax.sharding import AxisType

import flax_inits

KEY = jax.random.key(3)
FAN = nnx.initializers.variance_scaling(2.0, "fan_out", "uniform")


# Those whose chosen leaves have a last axis that two devices can share.
ON_MESHES = (
    "Linear LinearGeneral Einsum Conv ConvTranspose Embed attention LoRALinear LayerNorm BatchNorm "
    "GRUCell LSTMCell"
).split()


def vmapped(make):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: None})
    def stack(rngs):
        return make(rngs)

    return lambda key: nnx.state(stack(nnx.Rngs(key)), nnx.Not(nnx.RngState))


def annotated(name):
    """The layer, with its chosen leaves sharded over their last axis."""
    make, argument, path, default = LAYERS[name]
    shapes = nnx.eval_shape(lambda: nnx.state(make(nnx.Rngs(0))))
    chosen = jax.tree.leaves(flax_inits.select(shapes, path))
    leaves = zip(chosen, jax.tree.leaves(shapes), strict=True)
    (ndim,) = {leaf.ndim for choose, leaf in leaves if choose and leaf.shape[-1] % 2 == 0}
    init = nnx.with_partitioning(default, (None,) * (ndim - 1) + ("model",))
    return lambda rngs: make(rngs, **{argument: init})


@pytest.mark.sampled(24)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("around", [plain, vmapped])
@pytest.mark.parametrize("name", ON_MESHES)
def test_annotated_layers_are_as_by_jit_leaf_by_leaf(name, around, kind):
    """Also where a rule is the layer's own default, which changes no bit."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), (getattr(AxisType, kind),) * 2)
    path, default = LAYERS[name][2:]
    with jax.set_mesh(mesh):
        fun = around(annotated(name))
        wanted = jax.jit(fun)(KEY)
        for rules in (None, {path: default}):
            init = flax_inits.jit_init(fun, rules=rules)
            assert_same(init(KEY), wanted)
            recipes = [row.recipe for row in init.plan(KEY).rows]
            assert not any(recipe.startswith("the whole function") for recipe in recipes)


class Deep(nnx.Module):
    def __init__(self, rngs, depth):
        init = nnx.with_partitioning(DEFAULT, (None, "model"))
        attention = nnx.with_partitioning(DEFAULT, (None, "model", None))
        self.blocks = nnx.List(
            nnx.Dict(
                mlp=nnx.Linear(4, 4, kernel_init=init, rngs=rngs),
                attention=nnx.MultiHeadAttention(
                    2, 4, decode=False, kernel_init=attention, rngs=rngs
                ),
            )
            for _ in range(depth)
        )


def test_programs_do_not_grow_with_depth():
    def programs(depth):
        init = flax_inits.jit_init(lambda key: nnx.state(Deep(nnx.Rngs(key), depth), nnx.Param))
        return len(init.lower(KEY).compile().programs)

    with jax.set_mesh(jax.make_mesh((2, 2), ("data", "model"), (AxisType.Auto,) * 2)):
        assert programs(2) == programs(5)


def linen_stack(cls, *args):
    return nn.vmap(
        cls, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3, in_axes=None
    )(*args)


X, IMAGE = jnp.ones((2, 3, 64)), jnp.ones((1, 8, 8, 16))
# An NNX layer, its Linen twin, the input of that, and the path of a leaf in both.
TWINS = {
    "Linear": (plain(layer(nnx.Linear, 64, 96)), nn.Dense(96), X, "kernel"),
    "Conv": (plain(layer(nnx.Conv, 16, 48, (3, 3))), nn.Conv(48, (3, 3)), IMAGE, "kernel"),
    "Embed": (
        plain(layer(nnx.Embed, 50, 64)),
        nn.Embed(50, 64),
        jnp.ones(2, int),
        "embedding",
    ),
    "attention": (
        plain(layer(nnx.MultiHeadAttention, 4, 64, decode=False)),
        nn.MultiHeadDotProductAttention(4),
        X,
        "query/kernel",
    ),
    "stack": (vmapped(layer(nnx.Linear, 64, 64)), linen_stack(nn.Dense, 64), X, "kernel"),
    "stack of attention": (
        vmapped(layer(nnx.MultiHeadAttention, 4, 64, decode=False)),
        linen_stack(nn.MultiHeadDotProductAttention, 4),
        X,
        "out/kernel",
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", TWINS)
def test_rules_have_the_spread_that_they_have_in_linen(name):
    """The standard deviation of thousands of values, to five of its standard errors and more."""
    own, linen, x, path = TWINS[name]
    found = []
    for fun in (own, lambda key: linen.init(key, x)["params"]):
        made = flax_inits.jit_init(fun, rules={path: FAN})(KEY)
        chosen = jax.tree.leaves(flax_inits.select(made, path))
        pairs = zip(jax.tree.leaves(made), chosen, strict=True)
        found += [leaf for leaf, choose in pairs if choose]
    one, other = found
    assert one.shape == other.shape
    assert one.std() == pytest.approx(other.std(), rel=5 / np.sqrt(one.size))
