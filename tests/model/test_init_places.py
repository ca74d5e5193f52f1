"""`jit_init` makes leaves where `jax.jit` would, or where `out_shardings` says."""

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit, assert_same
from jax import lax
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import flax_inits

KEY = jax.random.key(7)
SHAPE = (8, 16)


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))


def normal(key):
    return jax.random.normal(key, SHAPE)


def make(key):
    return {"w": normal(key), "b": jnp.zeros(3), "n": np.ones(2, np.float32), "key": key}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("place", ["first", "fourth", "replicated"])
def test_a_committed_key_decides(place, typed):
    places = {
        "first": jax.devices()[0],
        "fourth": jax.devices()[3],
        "replicated": NamedSharding(mesh_of(), P()),
    }
    key = KEY if typed else jax.random.PRNGKey(3)
    assert_as_jit(make, jax.device_put(key, places[place]))


def test_so_does_a_committed_argument_if_it_is_used():
    x = jax.device_put(jnp.ones(4), jax.devices()[3])
    assert_as_jit(lambda key, x: {**make(key), "x": x, "twice": x * 2}, KEY, x)
    assert_as_jit(lambda key, x: make(key), KEY, x)


def test_the_default_device():
    with jax.default_device(jax.devices()[5]):
        made = assert_as_jit(make, KEY)
    assert made["w"].devices() == {jax.devices()[5]}
    assert_as_jit(make, KEY)


def test_a_committed_array_that_is_closed_over_decides_nothing():
    closed = jax.device_put(jnp.arange(4.0), jax.devices()[3])
    assert_as_jit(lambda key: {"closed": closed, "more": closed + 1, "w": normal(key)}, KEY)


def test_arguments_sharded_over_a_mesh():
    x = jax.device_put(jnp.ones(SHAPE), NamedSharding(mesh_of(), P("a")))
    with_x = assert_as_jit(
        lambda key, x: {**make(key), "x": x, "mean": x.mean(0)}, KEY, x, whole=True
    )
    assert with_x["x"].sharding.spec == P("a")
    assert_as_jit(lambda key, x: make(key), KEY, x)  # unused, so of no effect


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("put", "whole"), [(lax.with_sharding_constraint, False), (jax.device_put, True)]
)
def test_constraints_inside_of_the_function(put, whole):
    sharding = NamedSharding(mesh_of(), P("a"))

    def constrained(key):
        return {**make(key), "sharded": put(normal(key), sharding)}

    def unused(key):
        put(normal(key), sharding).sum()
        return make(key)

    assert_as_jit(constrained, KEY, whole=whole)
    assert_as_jit(unused, KEY)


def test_shard_map_inside_of_the_function():
    def body(key):
        return jax.random.normal(jax.random.fold_in(key, lax.axis_index("a")), (2, 3))

    mapped = jax.shard_map(body, mesh=mesh_of(), in_specs=P(), out_specs=P("a"))
    assert_as_jit(lambda key: {**make(key), "mapped": mapped(key)}, KEY, whole=True)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_under_set_mesh(kind):
    with jax.set_mesh(mesh_of(kind)):
        assert_as_jit(make, KEY)


def test_explicit_axes_of_a_draw():
    def sharded(key):
        return {"w": jax.random.normal(key, SHAPE, out_sharding=P("a")), "b": jnp.zeros(3)}

    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        expected = jax.jit(sharded)(KEY)
        made = flax_inits.jit_init(sharded)(KEY)
    assert_same(made, expected)


def test_the_mesh_is_part_of_what_is_remembered():
    init = flax_inits.jit_init(make)
    alone = init(KEY)
    with jax.set_mesh(mesh_of()):
        spread = init(KEY)
    assert alone["w"].sharding.num_devices == 1 and spread["w"].sharding.num_devices == 8
    assert init(KEY)["w"].sharding == alone["w"].sharding


def assert_placed(out_shardings, fun=make):
    expected = jax.jit(fun, out_shardings=out_shardings)(KEY)
    assert_same(flax_inits.jit_init(fun, out_shardings=out_shardings)(KEY), expected)


@pytest.mark.slow
def test_out_shardings_of_every_form():
    mesh = mesh_of()
    rows, both = NamedSharding(mesh, P("a")), NamedSharding(mesh, P("a", "b"))
    whole = NamedSharding(mesh, P())
    assert_placed(whole)
    assert_placed({"w": both, "b": whole, "n": whole, "key": whole})
    assert_placed({"w": rows, "b": None, "n": whole, "key": None})
    assert_placed(
        [rows, whole], lambda key: [{"p": normal(key), "q": jnp.ones((4, 4))}, jnp.ones(3)]
    )
    assert_placed(SingleDeviceSharding(jax.devices()[2]))
    with jax.set_mesh(mesh):
        assert_placed({"w": P(None, "b"), "b": P(), "n": P("b"), "key": P()})


def test_out_shardings_as_a_function_of_boxes():
    mesh = mesh_of()
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("a", None))
    model = nn.Dense(6, kernel_init=init)
    x = jnp.ones((2, 8))
    made = flax_inits.jit_init(model.init, out_shardings=lambda t: nn.get_sharding(t, mesh))(KEY, x)
    kernel = made["params"]["kernel"]
    assert isinstance(kernel, nn.Partitioned) and kernel.names == ("a", None)
    assert kernel.value.sharding == NamedSharding(mesh, P("a", None))
    expected = jax.jit(model.init)(KEY, x)
    np.testing.assert_array_equal(kernel.value, expected["params"]["kernel"].value)


def test_out_shardings_win_over_constraints():
    sharding = NamedSharding(mesh_of(), P("a"))

    def constrained(key):
        return lax.with_sharding_constraint(normal(key) * 2, NamedSharding(mesh_of(), P("b")))

    assert_placed(sharding, constrained)


def test_memory_kinds_are_kept():
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    for kind in kinds:
        sharding = SingleDeviceSharding(jax.devices()[1], memory_kind=kind)
        try:
            jax.jit(normal, out_shardings=sharding)(KEY)
        except jax.errors.JaxRuntimeError:  # Older versions know one kind of memory on CPU.
            assert kind != "device"
            continue
        assert_placed(sharding, normal)


@pytest.mark.parametrize(
    "out_shardings, error, message",
    [
        (NamedSharding(mesh_of(), P("a")), ValueError, r"'b' of shape \(3,\) cannot be made with"),
        (P("a"), ValueError, r"for 'b', which needs a mesh: call under jax\.set_mesh"),
        ("a", TypeError, r"out_shardings gives 'a' for 'b'; each must be"),
        (mesh_of(), TypeError, r"a mesh for 'b', which is no sharding: give .*NamedSharding\(mesh"),
        (
            {**dict.fromkeys("bnw"), "key": mesh_of()},
            TypeError,
            "a mesh for 'key', which is no sharding",
        ),
        (
            NamedSharding(mesh_of(), P(None, "a")),
            ValueError,
            "device\\): the spec has 2 entries, the leaf 1 axis",
        ),
        (
            {"w": None},
            ValueError,
            r"must be a tree of shardings.* lacks 'b', 'key' and 'n' \(None for a subtree leaves",
        ),
        (
            lambda tree: {**tree, "w": {"v": None}, "u": None},
            ValueError,
            r"returns\. It lacks 'w' \(None.*device\) and has 'u' and 'w/v' besides\.",
        ),
        ([None] * 4, ValueError, r"lacks 'b', .* and 'w' \(None.*\) and has '0', '1', '2' and '3'"),
        (flax.core.freeze(dict.fromkeys(("b", "key", "n", "w"))), ValueError, "FrozenDict"),
    ],
)
def test_misfits(out_shardings, error, message):
    init = flax_inits.jit_init(make, out_shardings=out_shardings)
    with pytest.raises(error, match=message):
        init.plan(KEY)


def test_a_subtree_that_is_missing_is_named_once():
    def nested(key):
        return {"body": {"a": normal(key), "b": jnp.zeros(3)}, "head": jnp.ones(2)}

    init = flax_inits.jit_init(nested, out_shardings={"head": None})
    with pytest.raises(ValueError, match=r"It lacks 'body' \(None"):
        init.plan(KEY)


def test_incompatible_devices_as_jit_says():
    key, x = jax.device_put(KEY, jax.devices()[2]), jax.device_put(jnp.ones(4), jax.devices()[3])
    with pytest.raises(ValueError, match="Received incompatible devices for jitted computation"):
        flax_inits.jit_init(lambda key, x: (normal(key), x))(key, x)


@pytest.mark.parametrize("shape", ["one", "full", "with None"])
def test_an_output_that_holds_none(shape):
    """As a layer without a bias may return it."""

    def init(key):
        return {"kernel": jax.random.normal(key, (8, 4)), "bias": None}

    spread = NamedSharding(jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)), P("x"))
    asked = {
        "one": spread,
        "full": {"kernel": spread, "bias": spread},
        "with None": {"kernel": spread, "bias": None},
    }[shape]
    made = flax_inits.jit_init(init, out_shardings=asked)(jax.random.key(0))
    expected = jax.jit(init, out_shardings=asked)(jax.random.key(0))
    assert made["bias"] is None and made["kernel"].sharding == expected["kernel"].sharding
    np.testing.assert_array_equal(made["kernel"], expected["kernel"])
