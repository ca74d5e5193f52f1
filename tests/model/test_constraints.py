"""Constraints in a function's own code, read leaf by leaf: the shardings of jax.jit, at speed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits

KEY = jax.random.key(0)
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def mesh_of(kind):
    return jax.make_mesh((2, 2), ("data", "model"), (kind, kind))


class Block(nnx.Module):
    def __init__(self, rngs):
        kernel_init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
        bias_init = nnx.with_partitioning(nnx.initializers.zeros, ("model",))
        self.linear = nnx.Linear(4, 4, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
        self.plain = nnx.Linear(4, 6, use_bias=False, rngs=rngs)


def params(make):
    return lambda key: nnx.state(make(nnx.Rngs(key)), nnx.Param)


def stack(rngs, name=None):
    @nnx.split_rngs(splits=2)
    @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: name})
    def blocks(rngs):
        return Block(rngs)

    return blocks(rngs)


def unboxed(key):
    init = nn.with_partitioning(nn.initializers.normal(), (None, "model"))
    dense = nn.Dense(4, kernel_init=init)
    return nn.meta.unbox(dense.init(key, jnp.ones((1, 4))))


MODELS = {
    "plain": (params(Block), KINDS),
    "vmapped": (params(stack), KINDS),
    "Linen, unboxed": (unboxed, ["auto"]),
}
CASES = [(name, kind) for name, (_, kinds) in MODELS.items() for kind in kinds]


def assert_as_jit(fun, *args):
    init = flax_inits.jit_init(fun)
    got, want = init(*args), jax.jit(fun)(*args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim), (one.sharding, other)
    return {row.recipe.partition(":")[0] for row in init.plan(*args).rows}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_annotated_model_is_made_leaf_by_leaf(name, kind):
    with jax.set_mesh(mesh_of(KINDS[kind])):
        assert "the whole function" not in assert_as_jit(MODELS[name][0], KEY)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
def test_rules_on_annotated_leaves_keep_their_sharding(kind):
    rules = {"linear/*": flax_inits.normal(1.0)}
    with jax.set_mesh(mesh_of(KINDS[kind])):
        init = flax_inits.jit_init(params(Block), rules=rules)
        made, plain = init(KEY), jax.jit(params(Block))(KEY)
        assert not any("whole" in row.recipe for row in init.plan(KEY).rows)
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(plain), strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


@pytest.mark.slow
def test_a_stack_that_is_sharded_over_its_layers():
    """Its keys are split along the sharded axis, too, which other leaves may inherit."""
    for kind in KINDS.values():
        with jax.set_mesh(mesh_of(kind)):
            assert_as_jit(params(lambda rngs: stack(rngs, "data")), KEY)


def spread():
    return NamedSharding(mesh_of(AxisType.Auto), P("model"))


def after(change):
    def fun(key):
        one, two = jax.random.split(key)
        leaf = with_sharding_constraint(jax.random.normal(one, (4,)), spread())
        return {"a": change(leaf), "b": jax.random.normal(two, (6,))}

    return fun


FOLLOWING = {
    "nothing": lambda leaf: leaf,
    "cast": lambda leaf: leaf.astype(jnp.bfloat16),
    "stack": lambda leaf: jnp.broadcast_to(leaf[None], (3, 4)),
    "transpose": lambda leaf: jnp.broadcast_to(leaf[None], (3, 4)).T,
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FOLLOWING)
def test_what_only_lays_out_a_leaf_may_follow_its_constraint(name):
    assert "the whole function" not in assert_as_jit(after(FOLLOWING[name]), KEY)


def shared_after(key):
    leaf = with_sharding_constraint(jax.random.normal(key, (4,)), spread())
    return {"a": leaf, "b": leaf * 2}


def shared_before(key):
    leaf = jax.random.normal(key, (4,))
    return {"a": with_sharding_constraint(leaf, spread()), "b": leaf + 1}


def within_a_scan(key):
    def step(carry, key):
        return carry, with_sharding_constraint(jax.random.normal(key, (4,)), spread())

    return {"a": jax.lax.scan(step, 0, jax.random.split(key, 3))[1], "b": jnp.zeros(4)}


@pytest.mark.parametrize("fun", [shared_after, shared_before, within_a_scan])
def test_what_a_constraint_may_decide_for_others_is_left_to_jit(fun):
    assert assert_as_jit(fun, KEY) == {"the whole function"}
