"""Reinit across devices: new leaves are made where the old ones live, and nothing is retraced."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import label
from compiles import count_compiles
from flax import jax_utils
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

KEY = jax.random.key(3)
XAVIER = nn.initializers.xavier_uniform()
DEVICES = np.array(jax.devices())


def mesh(shape, names, kind):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


LINE = mesh((8,), ("x",), AxisType.Auto)
GRID = mesh((4, 2), ("x", "y"), AxisType.Auto)
TYPED = mesh((4, 2), ("x", "y"), AxisType.Explicit)
SHARDINGS = {
    "line": NamedSharding(LINE, P("x")),
    "replicated": NamedSharding(LINE, P()),
    "grid": NamedSharding(GRID, P("x", "y")),
    "typed": NamedSharding(TYPED, P("x", "y")),
    "device": SingleDeviceSharding(DEVICES[3]),
    "few": NamedSharding(Mesh(DEVICES[2:4], ("x",)), P("x")),
}
RULES = {"**": nn.initializers.normal(0.02)}


def params():
    return {"w": jnp.arange(128.0).reshape(16, 8), "v": jnp.arange(128.0).reshape(16, 8) * -1}


def init_fn(key):
    return {"w": XAVIER(key, (16, 8)), "v": jax.random.normal(key, (16, 8))}


def sharded(sharding):
    return {"w": jax.device_put(params()["w"], sharding), "v": params()["v"]}


def assert_alike(leaf, other):
    """Where it lives, to whom it is committed, and what tracing sees."""
    assert leaf.sharding == other.sharding and leaf.committed == other.committed
    assert jax.typeof(leaf) == jax.typeof(other)


def assert_same_bits(one, other):
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(params=SHARDINGS.values(), ids=SHARDINGS.keys())
def placed(request):
    return sharded(request.param)


class TestPlaces:
    @pytest.mark.sampled(4)
    @pytest.mark.parametrize("init", [XAVIER, fi.normal(0.1), nn.initializers.zeros], ids=label)
    def test_rules(self, placed, init):
        after = fi.reinit(KEY, placed, {"**": init}, donate=True)
        assert placed["w"].is_deleted()
        for name, plain in fi.reinit(KEY, params(), {"**": init}).items():
            assert_alike(after[name], placed[name])
            assert_same_bits(after[name], plain)

    @pytest.mark.sampled(3)
    def test_init_fn(self, placed):
        after, wanted = fi.reinit(KEY, placed, "**", init_fn=init_fn), jax.jit(init_fn)(KEY)
        for name, leaf in placed.items():
            assert_alike(after[name], leaf)
            assert_same_bits(after[name], wanted[name])

    def test_an_initializer_that_cannot_be_traced(self, placed):
        def init(key, shape, dtype):
            return np.full(shape, np.asarray(jax.random.key_data(key))[0], dtype)

        after = fi.reinit(KEY, placed, {"**": init})
        for name, plain in fi.reinit(KEY, params(), {"**": init}).items():
            assert_alike(after[name], placed[name])
            assert_same_bits(after[name], plain)

    def test_a_training_step_is_not_retraced_and_a_second_reset_compiles_nothing(self, placed):
        one, two = jax.random.split(KEY)
        step = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf * 2, params["w"]))
        step(placed)
        after = fi.reinit(one, placed, {"w": nn.initializers.xavier_uniform()})
        with count_compiles() as count:
            step(after)
            fi.reinit(two, after, {"w": nn.initializers.xavier_uniform()})
        assert count.programs == 0 and step._cache_size() == 1

    def test_uncommitted_leaves_stay_on_their_device(self):
        with jax.default_device(DEVICES[5]):
            away = params()
        mixed = {"w": away["w"], "v": params()["v"]}
        runs = (
            fi.reinit(KEY, mixed, {"**": XAVIER}),
            fi.reinit(KEY, mixed, {"**": nn.initializers.orthogonal()}),
            fi.reinit(KEY, mixed, "**", init_fn=init_fn),
        )
        for after in runs:
            assert_alike(after["w"], mixed["w"])
            assert_alike(after["v"], mixed["v"])
        assert_same_bits(runs[2]["w"], jax.jit(init_fn)(KEY)["w"])

    def test_leaves_that_share_a_draw_on_different_devices(self):
        def tied(key):
            draw = jax.random.normal(key, (64,))
            return {"w": draw, "v": draw}

        leaf = jnp.zeros(64)
        placed = {
            "w": jax.device_put(leaf, SHARDINGS["line"]),
            "v": jax.device_put(leaf, DEVICES[2]),
        }
        after = fi.reinit(KEY, placed, "**", init_fn=tied)
        assert_same_bits(after["w"], after["v"])
        for name in "wv":
            assert_alike(after[name], placed[name])

    def test_a_key_on_another_device(self):
        after = fi.reinit(jax.device_put(KEY, DEVICES[6]), params(), {"w": XAVIER})
        assert_same_bits(after["w"], fi.reinit(KEY, params(), {"w": XAVIER})["w"])
        assert_alike(after["w"], params()["w"])


class TestMeshInUse:
    """Under `jax.set_mesh`, a leaf still stays where it lives."""

    @pytest.mark.sampled(4)
    @pytest.mark.parametrize("used", [LINE, TYPED], ids=["auto", "explicit"])
    def test_values_and_places(self, used, placed):
        plain = fi.reinit(KEY, params(), {"**": XAVIER})
        snapshot = {"w": np.asarray(plain["w"])}
        with jax.set_mesh(used):
            after = fi.reinit(KEY, placed, {"**": XAVIER})
            made = fi.reinit(KEY, placed, "**", init_fn=init_fn)
            copied = fi.graft(placed, snapshot, "w")
        for name, leaf in placed.items():
            assert_alike(after[name], leaf)
            assert_alike(made[name], leaf)
            assert_same_bits(after[name], plain[name])
        assert_alike(copied["w"], placed["w"])
        assert_same_bits(copied["w"], plain["w"])

    def test_an_initializer_that_names_the_axes_of_the_mesh(self):
        def init(key, shape, dtype):
            return jax.sharding.reshard(XAVIER(key, shape, dtype), P("x"))

        with jax.set_mesh(TYPED):
            for leaf in (params()["w"], jax.device_put(params()["w"], SHARDINGS["typed"])):
                after = fi.reinit(KEY, {"w": leaf}, {"w": init})
                assert_alike(after["w"], leaf)
                np.testing.assert_allclose(
                    after["w"], fi.reinit(KEY, params(), {"w": XAVIER})["w"], rtol=1e-6
                )

    def test_types_hold_their_sharding_under_jit(self):
        placed = sharded(SHARDINGS["typed"])
        with jax.set_mesh(TYPED):
            runs = (
                jax.jit(lambda key, params: fi.reinit(key, params, {"w": XAVIER}))(KEY, placed),
                jax.jit(lambda key: fi.reinit(key, placed, {"w": XAVIER}))(KEY),
                jax.jit(lambda params: fi.reinit(KEY, params, "w", init_fn=init_fn))(placed),
                jax.jit(lambda params: fi.graft(params, init_fn(KEY), "w"))(placed),
            )
        for after in runs:
            assert jax.typeof(after["w"]) == jax.typeof(placed["w"])
        wanted = fi.reinit(KEY, params(), {"w": XAVIER})["w"]
        np.testing.assert_allclose(runs[0]["w"], wanted, rtol=1e-6)

    def test_under_jit_without_a_mesh_in_use(self):
        after = jax.jit(lambda params: fi.reinit(KEY, params, {"w": XAVIER}))(
            sharded(SHARDINGS["typed"])
        )
        assert_same_bits(after["w"], fi.reinit(KEY, params(), {"w": XAVIER})["w"])


class TestUnderJit:
    def test_shardings_are_those_of_the_outer_program(self):
        placed, wanted = sharded(SHARDINGS["line"]), fi.reinit(KEY, params(), RULES)
        run = jax.jit(
            lambda key, params: fi.reinit(key, params, RULES),
            out_shardings=jax.tree.map(lambda leaf: NamedSharding(GRID, P("x", "y")), placed),
        )
        after = run(KEY, placed)
        assert after["w"].sharding == SHARDINGS["grid"]
        assert_same_bits(after["w"], wanted["w"])


class TestAbstract:
    def test_shardings_of_abstract_leaves(self):
        shapes = jax.eval_shape(params)
        shapes["w"] = shapes["w"].update(sharding=SHARDINGS["grid"])
        plain = fi.reinit(KEY, params(), RULES)
        for after in (
            fi.reinit(KEY, shapes, RULES),
            fi.reinit(KEY, shapes, "**", init_fn=lambda key: plain),
        ):
            assert after["w"].sharding == SHARDINGS["grid"] and not after["v"].committed
            assert_same_bits(after["w"], plain["w"])

    def test_an_uneven_split_names_the_leaf(self):
        shapes = {"a": {"w": jax.ShapeDtypeStruct((9, 8), "float32", sharding=SHARDINGS["line"])}}
        match = r"'a/w' of shape \(9, 8\) cannot be made with NamedSharding.*8"
        with pytest.raises(ValueError, match=match):
            fi.reinit(KEY, shapes, {"a": fi.zeros()})
        with pytest.raises(ValueError, match=match):
            fi.reinit(KEY, shapes, "a", init_fn=lambda key: {"a": {"w": jnp.ones((9, 8))}})

    def test_what_eval_shape_knows_of_a_mesh(self):
        with jax.set_mesh(TYPED):
            shapes = jax.eval_shape(lambda: {"w": jnp.zeros((16, 8), out_sharding=P("x", "y"))})
            after = fi.reinit(KEY, shapes, {"w": XAVIER})
        assert after["w"].sharding == SHARDINGS["typed"]
        with pytest.raises(ValueError, match=r"'w' cannot be made.*abstract mesh.*jax.set_mesh"):
            fi.reinit(KEY, shapes, {"w": XAVIER})


class TestDonation:
    def test_a_shard_that_is_kept_keeps_the_whole(self):
        whole = jax.device_put(params()["w"], SHARDINGS["line"])
        part = whole.addressable_shards[3].data
        fi.reinit(KEY, {"w": whole, "part": part}, {"w": XAVIER}, donate=True)
        assert not whole.is_deleted() and (part == part).all()

    def test_a_replica_that_shares_memory(self):
        one = params()["w"]
        all_ = jax.device_put(one, SHARDINGS["replicated"])
        fi.reinit(KEY, {"all": all_, "one": one}, {"all": XAVIER}, donate=True)
        assert (one == params()["w"]).all()


class TestPmap:
    """Params with a leading device axis: the trap is an error, not a silent divergence."""

    @pytest.fixture(params=["replicate", "step", "named step"])
    def replicas(self, request):
        kernel = jax.random.normal(KEY, (3, 4))
        with warnings.catch_warnings():  # flax calls what jax deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            params = jax_utils.replicate({"kernel": kernel, "bias": jnp.zeros(4)})
        step = {"step": jax.pmap(double), "named step": jax.pmap(double, axis_name="batch")}
        return step.get(request.param, lambda params: params)(params)

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("init", [XAVIER, fi.normal(1.0)], ids=label)
    def test_a_plain_initializer_would_make_replicas_diverge(self, replicas, init):
        match = r"holds one copy for each device of pmap.*Use replicated\("
        with pytest.raises(ValueError, match=match):
            fi.reinit(KEY, replicas, {"**": init}, donate=True)
        assert not replicas["kernel"].is_deleted()

    @pytest.mark.sampled(3)
    def test_replicated_stacked_and_constants_are_right(self, replicas):
        rules = {"kernel": fi.replicated(XAVIER), "bias": nn.initializers.ones}
        after = fi.reinit(KEY, replicas, rules)
        assert_alike(after["kernel"], replicas["kernel"])
        kernel = np.asarray(after["kernel"])
        assert (kernel == kernel[:1]).all() and (np.asarray(after["bias"]) == 1).all()
        assert np.abs(kernel).max() > (6 / (8 * 7)) ** 0.5  # the fans are those of one replica
        other = np.asarray(fi.reinit(KEY, replicas, {"kernel": fi.stacked(XAVIER)})["kernel"])
        assert not (other[0] == other[1]).any()
        halved = fi.reinit(KEY, replicas, {"kernel": fi.scaled(fi.stacked(XAVIER), 0.5)})["kernel"]
        np.testing.assert_array_equal(halved, other / 2)

    def test_beside_keys(self):
        make = jax.pmap(lambda key: {"key": key, "w": jax.random.normal(key, (3,))})
        replicas = make(jnp.broadcast_to(KEY, 8))
        with pytest.raises(ValueError, match="'w' holds one copy for each device of pmap"):
            fi.reinit(KEY, replicas, {"w": fi.normal(1.0)})
        others = make(jax.random.split(KEY, 8))
        assert fi.reinit(KEY, others, {"w": fi.normal(1.0)})["w"].shape == (8, 3)

    def test_inside_pmap(self, replicas):
        run = jax.pmap(lambda params: fi.reinit(KEY, params, {"kernel": XAVIER}))
        kernel = np.asarray(run(replicas)["kernel"])
        assert kernel.shape == (8, 3, 4) and (kernel == kernel[:1]).all()

    @pytest.mark.parametrize(
        "leaf",
        [np.ones((8, 4)), np.arange(32.0).reshape(8, 4)],
        ids=["constant", "rows that differ"],
    )
    def test_a_kernel_with_as_many_rows_as_devices_is_no_replica(self, leaf):
        params = {"w": jax.device_put(leaf.astype(np.float32), SHARDINGS["line"])}
        assert fi.reinit(KEY, params, {"w": XAVIER})["w"].sharding == SHARDINGS["line"]


def double(params):
    return jax.tree.map(lambda leaf: leaf * 2, params)
