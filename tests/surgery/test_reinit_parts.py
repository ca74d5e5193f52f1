"""Reinit of slices: they are those of the whole new leaf, all else is the old leaf's bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import count_compiles
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi
from flax_inits import at

KEY = jax.random.key(3)
XAVIER = nn.initializers.xavier_uniform()


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Embed(12, 8, name="emb")(x)
        x = nn.MultiHeadDotProductAttention(2, name="attn")(x, x)
        cell = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(4, name="head")(cell(name="layers")(x, None)[0])


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(8, name="dense")(x), None


IDS = jnp.arange(5)[None]


def net(key):
    return Net().init(key, IDS)["params"]


@pytest.fixture(scope="module")
def params():
    return jax.jit(net)(jax.random.key(1))


def check(old, new, whole, index, axis=0):
    """`new` is `whole` at these slices, and `old` elsewhere, bit for bit."""
    chosen = np.zeros(old.shape[axis], bool)
    chosen[index] = True
    for part, source in ((chosen, whole), (~chosen, old)):
        one, other = (np.compress(part, np.asarray(x), axis) for x in (new, source))
        assert one.tobytes() == other.tobytes()
    assert new.dtype == old.dtype and new.sharding == old.sharding
    assert new.committed == old.committed and new.weak_type == old.weak_type


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "path, index, axis",
    [
        ("emb/embedding", [2, -1], 0),
        ("head/kernel", 3, 1),
        ("layers/dense/kernel", slice(1, None), 0),
        ("layers/dense/kernel", 5, -1),
        ("attn/query/kernel", [True, False], 1),
    ],
)
@pytest.mark.parametrize("form", ["rules", "init_fn", "list"])
def test_the_slices_of_the_whole_leaf(params, path, index, axis, form):
    init = fi.normal(0.5)
    calls = {
        "rules": lambda where: fi.reinit(KEY, params, {where: init}),
        "init_fn": lambda where: fi.reinit(KEY, params, where, init_fn=net),
        "list": lambda where: fi.reinit(KEY, params, ["head/bias", where], init_fn=net),
    }
    whole, made = calls[form](path), calls[form](at(path, index, axis))
    names, leaves = fi.paths(params), jax.tree.leaves(params)
    for name, old, new, fresh in zip(
        names, leaves, jax.tree.leaves(made), jax.tree.leaves(whole), strict=True
    ):
        if "/".join(name) == path:
            check(old, new, fresh, index, axis)
            assert (new != old).any() and (new != fresh).any()
        else:
            assert new is old or form == "list" and name == ("head", "bias")


def test_by_rules_through_the_model(params):
    init, names = nn.initializers.orthogonal(), ("attn/query/kernel", "layers/dense/kernel")
    whole = fi.reinit(KEY, params, {name: init for name in names}, init_fn=net)
    rules = {at(names[0], [True, False], axis=1): init, at(names[1], 5, axis=-1): init}
    made = fi.reinit(KEY, params, rules, init_fn=net)
    olds, news, fresh = [
        (tree["attn"]["query"]["kernel"], tree["layers"]["dense"]["kernel"])
        for tree in (params, made, whole)
    ]
    check(olds[0], news[0], fresh[0], 0, axis=1)
    check(olds[1], news[1], fresh[1], 5, axis=2)


def test_sharded_boxed_and_on_other_devices():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("x")))
    with jax.default_device(jax.devices()[2]):
        elsewhere = jnp.ones((6, 2))
    tree = {"a": nn.Partitioned(sharded, ("x", None)), "b": elsewhere, "c": nnx.Param(sharded * 2)}
    init = fi.normal(1.0)
    whole = fi.reinit(KEY, tree, {"**": init})
    made = fi.reinit(KEY, tree, {at("**", [0, 5]): init})
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    for old, new, fresh in zip(*map(jax.tree.leaves, (tree, made, whole)), strict=True):
        check(old, new, fresh, [0, 5])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_under_a_mesh_and_under_jit(kind):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
    rules = {at("w", 1, axis=1): fi.normal(1.0)}
    with jax.set_mesh(mesh):
        tree = {"w": jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("x")))}
        whole = fi.reinit(KEY, tree, {"w": fi.normal(1.0)})["w"]
        check(tree["w"], fi.reinit(KEY, tree, rules)["w"], whole, 1, axis=1)
        traced = jax.jit(lambda tree: fi.reinit(KEY, tree, rules))(tree)["w"]
        np.testing.assert_array_equal(traced, fi.reinit(KEY, tree, rules)["w"])


def test_numpy_leaves_weak_types_and_nan():
    old = np.full((4, 2), np.nan, np.float32)
    made = fi.reinit(KEY, {"a": old}, {at("a", 1): fi.zeros()})["a"]
    assert np.isnan(old).all() and np.isnan(np.delete(made, 1, 0)).all() and not made[1].any()
    weak = jnp.asarray([1.0, 2.0]) * 1
    made = fi.reinit(KEY, {"a": weak}, {at("a", 0): fi.zeros()})["a"]
    assert made.weak_type == weak.weak_type and made.tolist() == [0, 2]


def test_donated_the_whole_old_buffer_is_freed():
    tree = {"a": jnp.ones((4, 2)), "b": jnp.ones(2)}
    made = fi.reinit(KEY, tree, {at("a", 1): fi.zeros()}, donate=True)
    assert tree["a"].is_deleted() and not tree["b"].is_deleted()
    assert made["a"].sum() == 6


def test_another_index_compiles_nothing():
    tree = {"a": jnp.ones((7, 3)), "b": jnp.ones((7, 3))}
    fi.reinit(KEY, tree, {at("a", 1): fi.normal(0.7)})
    with count_compiles() as count:
        fi.reinit(KEY, tree, {at("a", [2, 3]): fi.normal(0.7)})
        fi.reinit(KEY, tree, {at("**", slice(1, 3)): fi.normal(0.7)})
    assert count.programs == 0


def test_a_leaf_taken_in_part_has_no_other_rule():
    tree = {"a": jnp.ones((4, 2)), "b": jnp.ones(2)}
    for rules in (
        {at("a", 1): fi.zeros(), "**": fi.ones()},
        {"**": fi.ones(), at("a", 1): fi.zeros()},
        {at("a", 1): fi.zeros(), at("a", 2): fi.ones()},
    ):
        with pytest.raises(ValueError, match=r"all select 'a', but a leaf that at\(...\) takes"):
            fi.reinit(KEY, tree, rules, allow_unmatched=True)
    made = fi.reinit(KEY, tree, {at("a", 1): fi.zeros(), fi.all_but("a"): fi.zeros()})
    assert made["a"].sum() == 6 and made["b"].sum() == 0
    with pytest.raises(ValueError, match="'c' selects no leaf"):
        fi.reinit(KEY, tree, {at("c", 1): fi.zeros()})
    made = fi.reinit(KEY, tree, {at("c", 1): fi.zeros(), "b": fi.zeros()}, allow_unmatched=True)
    assert made["a"] is tree["a"]


def test_copies_of_pmap_stay_equal():
    mesh = jax.make_mesh((8,), ("_device",), axis_types=(AxisType.Auto,))
    copies = jnp.tile(jnp.arange(12.0).reshape(1, 4, 3), (8, 1, 1))
    tree = {"w": jax.device_put(copies, NamedSharding(mesh, P("_device")))}
    made = fi.reinit(KEY, tree, {at("w", 2, axis=1): fi.replicated(fi.normal(1.0))})["w"]
    assert (made == made[:1]).all() and (made[:, :2] == copies[:, :2]).all()
    with pytest.raises(ValueError, match=r"at\('w', 2\) takes some of the copies of 'w' that pmap"):
        fi.reinit(KEY, tree, {at("w", 2): fi.replicated(fi.normal(1.0))})
