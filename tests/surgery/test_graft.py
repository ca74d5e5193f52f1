"""Graft: copies of the chosen leaves, laid out as the target's, and nothing else changed."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

MESH = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
LINE, WHOLE = NamedSharding(MESH, P("x")), NamedSharding(MESH, P())
PLACES = {"default": None, "device": jax.devices()[3], "line": LINE, "whole": WHOLE}


def tree(scale=1.0):
    return {
        "body": {"kernel": jnp.full((8, 8), scale)},
        "head": {"kernel": jnp.arange(32.0).reshape(8, 4) * scale, "bias": jnp.full(4, scale)},
    }


def buffers(leaf):
    return {shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards}


def put(tree, place):
    return jax.tree.map(lambda leaf: leaf if place is None else jax.device_put(leaf, place), tree)


def test_chosen_leaves_are_the_donors_and_the_rest_the_same_objects():
    params, donor = tree(), {"head": tree(3.0)["head"], "other": jnp.ones(2)}
    after = fi.graft(params, donor, "head")
    assert (after["head"]["kernel"] == donor["head"]["kernel"]).all()
    assert (after["head"]["bias"] == 3).all()
    assert after["body"]["kernel"] is params["body"]["kernel"]
    assert (params["head"]["bias"] == 1).all()


@pytest.mark.parametrize("source", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("target", PLACES.values(), ids=PLACES.keys())
def test_a_copy_at_the_targets_place(source, target):
    params = {"w": put(jnp.zeros((8, 4)), target)}
    donor = {"w": put(jnp.arange(32.0).reshape(8, 4), source)}
    after = fi.graft(params, donor, "w")["w"]
    assert after.sharding == params["w"].sharding and after.committed == params["w"].committed
    assert np.asarray(after).tobytes() == np.asarray(donor["w"]).tobytes()
    assert buffers(after).isdisjoint(buffers(donor["w"]))
    jax.jit(lambda leaf: leaf + 1, donate_argnums=0)(after)
    assert after.is_deleted() and (np.asarray(donor["w"]).sum()) == 496


def test_an_uncommitted_target_on_another_device():
    with jax.default_device(jax.devices()[5]):
        params = tree()
        assert params["head"]["bias"].weak_type  # which takes a cast, also there
    for donor in (tree(2.0), put(tree(2.0), WHOLE)):
        after = fi.graft(params, donor, "**")
        for leaf, old in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True):
            assert leaf.devices() == old.devices() and not leaf.committed


def test_numpy_donors_may_change_afterwards():
    donor = {"w": np.zeros((64, 64), np.float32)}
    after = fi.graft({"w": jnp.ones((64, 64))}, donor, "w")
    donor["w"][:] = 7
    assert (after["w"] == 0).all()


def test_rewinding_after_the_params_were_donated():
    params = tree()
    snapshot = fi.graft(params, params, "**")
    jax.jit(lambda params: params, donate_argnums=0)(params)
    for leaf in jax.tree.leaves(params):
        leaf.delete()
    after = fi.graft(params, snapshot, "**")
    assert (after["head"]["kernel"] == snapshot["head"]["kernel"]).all()


@pytest.mark.parametrize("box", [nn.Partitioned, nn.LogicallyPartitioned])
def test_boxed_and_unboxed(box):
    boxed = jax.tree.map(lambda leaf: box(leaf, ("a", "b")[: leaf.ndim]), tree())
    donor = jax.tree.map(lambda leaf: box(leaf, (None,) * leaf.ndim), tree(2.0))
    for source in (donor, tree(2.0), freeze(tree(2.0))):
        after = fi.graft(boxed, source, "head")
        assert jax.tree.structure(after) == jax.tree.structure(boxed)
        assert after["head"]["kernel"].names == ("a", "b")
        assert (after["head"]["bias"].value == 2).all()
    assert (fi.graft(tree(), donor, "head/bias")["head"]["bias"] == 2).all()


def test_containers_and_lists():
    params = freeze({"a": [jnp.ones(2), None], "b": {}})
    after = fi.graft(params, {"a": {"0": np.zeros(2, np.float32)}}, "a/0")
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert (after["a"][0] == 0).all()
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    after = fi.graft(state, {"bias": np.ones(2, np.float32)}, "bias")
    assert type(after) is type(state) and (after["bias"][...] == 1).all()


def test_integers_bools_keys_and_weak_types():
    params = {
        "n": jnp.ones(2, int),
        "b": jnp.ones(2, bool),
        "k": jax.random.key(0),
        "s": jnp.asarray(2.0),
        "f": 1.5,
        "h": jnp.ones(2, jnp.bfloat16),
    }
    donor = {
        "n": np.array([5, 6], np.int32),
        "b": np.zeros(2, bool),
        "k": jax.device_put(jax.random.key(7), jax.devices()[2]),
        "s": np.float32(4),
        "f": jnp.ones(()),
        "h": jnp.zeros(2, jnp.bfloat16),
    }
    after = fi.graft(params, donor, "**")
    for name, leaf in donor.items():
        assert (after[name] == leaf).all() and after[name].dtype == leaf.dtype
    assert after["s"].weak_type and after["f"].weak_type and not after["h"].weak_type
    assert after["k"].devices() == params["k"].devices() and not after["k"].committed


def test_abstract_targets():
    shapes = jax.eval_shape(tree)
    shapes["head"]["kernel"] = shapes["head"]["kernel"].update(sharding=LINE)
    after = fi.graft(shapes, tree(2.0), "head")
    assert after["head"]["kernel"].sharding == LINE and (after["head"]["bias"] == 2).all()
    assert after["body"]["kernel"] is shapes["body"]["kernel"]


def test_under_jit_vmap_and_grad():
    params = tree()
    after = jax.jit(lambda params, donor: fi.graft(params, donor, "head"))(params, tree(2.0))
    assert (after["head"]["bias"] == 2).all() and (after["body"]["kernel"] == 1).all()
    after = jax.jit(lambda params: fi.graft(params, tree(2.0), "head"))(params)
    assert (after["head"]["bias"] == 2).all()
    after = jax.vmap(lambda bias: fi.graft(params, {"head": {"bias": bias}}, "head/bias"))(
        jnp.arange(12.0).reshape(3, 4)
    )
    assert (after["head"]["bias"] == jnp.arange(12.0).reshape(3, 4)).all()

    def loss(params, donor):
        return sum(map(jnp.sum, jax.tree.leaves(fi.graft(params, donor, "head"))))

    to_params, to_donor = jax.grad(loss, (0, 1))(params, tree(2.0))
    assert (to_params["head"]["bias"] == 0).all() and (to_params["body"]["kernel"] == 1).all()
    assert (to_donor["head"]["bias"] == 1).all() and (to_donor["body"]["kernel"] == 0).all()
    shapes = jax.eval_shape(lambda: fi.graft(tree(), tree(), "head"))
    assert shapes["head"]["kernel"].shape == (8, 4)


def deleted():
    leaf = jnp.ones(4)
    leaf.delete()
    return leaf


@pytest.mark.parametrize(
    "donor, match",
    [
        (
            {"head": {"bias": jnp.ones(5)}},
            r"'head/bias' has shape \(5,\), but the tree holds.*\(4,\)",
        ),
        (
            {"head": {"bias": jnp.ones((1, 4))}},
            r"has shape \(1, 4\).*as by lambda path, leaf: 'head' not in path\.",
        ),
        (
            {"head": {"bias": jnp.ones(4, jnp.bfloat16)}},
            r"is bfloat16.*first: jax.tree.map\(lambda x: x.astype\('float32'\), donor\), or give",
        ),
        ({"head": {"bias": np.ones(4)}}, "'head/bias' is float64, but the tree holds float32"),
        ({"head": {"bias": jax.ShapeDtypeStruct((4,), "float32")}}, "'head/bias' is abstract"),
        ({"head": {"bias": deleted()}}, "^In the donor, 'head/bias' selects 'head/bias', whose"),
        ({"head": {"bios": jnp.ones(4)}}, "no leaf at 'head/bias', which 'head/bias' selects. Did"),
        ({"params": tree()}, r"no leaf at 'head/bias'.*It has 'params/head/bias': give its"),
        ({"head.bias": jnp.ones(4)}, "joined by dots, which no slash matches: it has 'head.bias'"),
        ({"head.bios": jnp.ones(4)}, "selects. Did you mean 'head.bios'"),
        ({"bias": jnp.ones(4)}, r"The donor has no outer 'head': give {'head': donor}\."),
        ({}, "no leaf at 'head/bias', which 'head/bias' selects.$"),
    ],
)
def test_what_does_not_fit(donor, match):
    with pytest.raises(ValueError, match=match):
        fi.graft(tree(), donor, "head/bias")


@pytest.mark.parametrize("donor", ["ckpt/1", pathlib.Path("ckpt/1")])
def test_the_name_of_a_file(donor):
    with pytest.raises(TypeError, match="must be a tree, got the path 'ckpt/1': restore what is"):
        fi.graft(tree(), donor, "head")


def test_a_lone_array_of_another_shape():
    with pytest.raises(ValueError, match=r"'' has shape \(3,\).* leaves of equal shape\. {''"):
        fi.graft(jnp.ones(2), jnp.ones(3), "**")


def test_nothing_selected():
    with pytest.raises(ValueError, match=r"'haed' selects no leaf.*'head'"):
        fi.graft(tree(), tree(), "haed")
    with pytest.raises(ValueError, match="'tail' selects no leaf"):
        fi.graft(tree(), tree(), ["head", "tail"])
