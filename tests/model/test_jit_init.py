"""`jit_init` gives what `jax.jit` gives, bit for bit, and compiles each distinct leaf once."""

import threading
import types
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import count_compiles
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits
from flax_inits._engine import jobs, scans

KEY = jax.random.key(3)
X = jnp.ones((2, 4, 8))


class Block(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), x)
        y = nn.Dense(self.width, bias_init=nn.initializers.normal(0.1))(nn.gelu(y))
        return x + y, None


class Stack(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x, _ = Block()(x)
        return nn.Dense(3, kernel_init=nn.initializers.orthogonal())(x)


class Scanned(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        return blocks()(x, None)[0]


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.vmap(
            nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2
        )
        return nn.BatchNorm(use_running_average=False)(dense(5)(x))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(16, kernel_init=init, dtype=x.dtype, param_dtype=jnp.bfloat16)(x)


def _unit(x):
    return x / jnp.linalg.norm(x, axis=0, keepdims=True)


def _step(key, i, total):
    return total + jax.random.normal(jax.random.fold_in(key, i), (4,))


def _draw(key, scale=4.0):
    return scale * jax.random.normal(key, (6,))


def _odd_cond(key, positive):
    return jax.lax.cond(positive, _draw, lambda key: jnp.zeros(6), key)


def split_by_hand(key):
    """What plain JAX code does with keys."""
    first, second, *rest = jax.random.split(key, 5)
    many = jax.random.split(jax.random.fold_in(second, 7), (2, 3))
    return {
        "first": jax.random.normal(first, (3, 5)),
        "indexed": [jax.random.truncated_normal(many[i, 1], -2, 2, (4, 4)) for i in range(2)],
        "batched": jax.vmap(lambda key: jax.random.uniform(key, (1025,)))(many[0]),
        "rest": tuple(jax.random.normal(key, (2,), jnp.bfloat16) for key in rest),
    }


def as_jit(fun, *args, **options):
    """Checks a call against `jax.jit`, down to weak types and shardings; returns the result."""
    expected = jax.jit(fun)(*args)
    made = flax_inits.jit_init(fun, **options)(*args)
    assert_same(made, expected)
    return made


def assert_same(made, expected):
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for path, leaf in jax.tree.leaves_with_path(expected):
        got = dict(jax.tree.leaves_with_path(made))[path]
        assert (got.dtype, got.shape) == (leaf.dtype, leaf.shape)
        assert getattr(got, "weak_type", None) == getattr(leaf, "weak_type", None)
        assert got.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), path
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            got, leaf = jax.random.key_data(got), jax.random.key_data(leaf)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(leaf), err_msg=str(path))


MODELS = {
    "stack": (Stack(2), X),
    "scanned": (Scanned(3), X),
    "experts": (Experts(), jnp.ones((2, 4, 8))),
    "boxed": (Boxed(), X),
    "lstm": (nn.RNN(nn.LSTMCell(6)), X),
    "conv": (nn.Sequential([nn.Conv(4, (3, 3)), nn.GroupNorm(2)]), jnp.ones((1, 5, 5, 3))),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", MODELS)
def test_models_are_those_of_jit(name):
    model, x = MODELS[name]
    as_jit(model.init, KEY, x)


@pytest.mark.slow
@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")])
def test_keys_of_every_kind(key):
    as_jit(Stack(1).init, key, X)
    as_jit(split_by_hand, key)


@pytest.mark.slow
def test_plain_jax_and_fused_keys():
    as_jit(split_by_hand, KEY)
    as_jit(split_by_hand, flax_inits.fused_key(KEY))


@pytest.mark.slow
def test_the_other_layout_of_bits():
    jax.config.update("jax_threefry_partitionable", False)
    try:
        as_jit(split_by_hand, KEY)
    finally:
        jax.config.update("jax_threefry_partitionable", True)


@pytest.mark.slow
def test_several_streams_methods_and_outputs():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, scale=1.0):
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(scale * x))

        def other(self, x):
            return self(x, 2.0)

    keys = {"params": KEY, "dropout": jax.random.key(4)}
    as_jit(Dropped().init, keys, X)
    as_jit(partial(Dropped().init, method="other"), keys, X)
    as_jit(Dropped().init_with_output, keys, X)


def test_nnx():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(3, 4, rngs=rngs), nnx.Conv(2, 3, (3, 3), rngs=rngs)

    as_jit(lambda key: nnx.split(Model(rngs=nnx.Rngs(key)))[1], KEY)


def odd_init(key, x):
    closed_over = np.linspace(0, 1, 4, dtype=np.float32)
    tied = jax.random.normal(key, (3, 3))
    folded = partial(jax.random.fold_in, key)
    return {
        "tied": [tied, tied],
        "from_x": x.mean((0, 1)) + jax.random.uniform(folded(1), x.shape[2:]),
        "argument": x,
        "closed over": jnp.asarray(closed_over),
        "scaled": jax.random.normal(folded(2), (4,)) * closed_over,
        "integer": jnp.arange(3),
        "weak": jnp.asarray(2.0),
        "key": folded(3),
        "empty": jax.random.normal(key, (0, 3)),
        "scalar": jax.random.normal(key),
        "none": None,
        "unit": _unit(jax.random.normal(folded(4), (5, 5))),
        "loop": jax.lax.fori_loop(0, 3, partial(_step, folded(5)), jnp.zeros(4)),
        "cond": _odd_cond(folded(6), x.sum() > 0),
        "gamma": jax.random.gamma(folded(7), 2.0, (4,)),
        "affine": 0.5 + 0.02 * jax.random.normal(folded(8), (40,)),
        "both": jax.random.normal(key, (9,)) * jax.random.uniform(folded(9), (9,)),
        "qr": jnp.linalg.qr(jax.random.normal(folded(10), (4, 4))),
    }


@pytest.mark.slow
def test_odd_leaves():
    made = as_jit(odd_init, KEY, X)
    tied = made["tied"]
    assert tied[0].unsafe_buffer_pointer() != tied[1].unsafe_buffer_pointer()
    assert made["argument"] is not X


def test_donating_the_result_keeps_what_the_function_closes_over():
    kept = jnp.arange(4.0)
    made = flax_inits.jit_init(lambda key: {"a": kept, "b": jax.random.normal(key, (3,))})(KEY)
    jax.jit(lambda tree: jax.tree.map(jnp.sin, tree), donate_argnums=0)(made)
    assert not kept.is_deleted()


@pytest.mark.sampled(6)
@pytest.mark.parametrize("shape", [(64, 3), (16, 4), (9, 5), (64, 3, 1), (3, 64), (64, 16)])
def test_short_last_axes(shape):
    # XLA rounds logarithms along a short axis otherwise once bits are fused into them.
    as_jit(lambda key: nn.initializers.lecun_normal()(key, shape), KEY)
    as_jit(lambda key: jax.random.normal(key, shape) * 0.02, KEY)


def test_two_draws_in_a_leaf():
    def noisy(key):
        other = jax.random.fold_in(key, 1)
        return jax.random.normal(key, (32, 32)) + 0.1 * jax.random.normal(other, (32, 32))

    as_jit(noisy, KEY)
    as_jit(lambda key: jax.random.maxwell(key, (32, 32)), KEY)


def test_constants_are_cast_as_xla_casts():
    as_jit(lambda key: jnp.full((3,), 1e10).astype(jnp.int32), KEY)
    as_jit(lambda key: jnp.full((3,), -3.0).astype(jnp.uint8), KEY)


def test_effects_run_as_they_stand(capfd):
    def loud(key):
        jax.debug.print("made")
        return jax.random.normal(key, (3,))

    as_jit(loud, KEY)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("made") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("faults_expected")
def test_without_what_has_no_stability_promise(monkeypatch):
    def gone(*args, **kwargs):
        raise AttributeError("gone")

    monkeypatch.setattr(scans, "partial_eval", types.SimpleNamespace(dce_jaxpr=gone))
    as_jit(Scanned(2).init, KEY, X)
    monkeypatch.setattr(jobs, "plan", gone)
    init = flax_inits.jit_init(Stack(1).init)
    assert {row.recipe for row in init.plan(KEY, X).rows} == {
        "the whole function: AttributeError in the engine"
    }
    as_jit(Stack(1).init, KEY, X)


def test_exact_shapes_are_the_pool_s_values(monkeypatch):
    pooled = flax_inits.jit_init(split_by_hand)(KEY)
    monkeypatch.setattr(jobs, "LARGEST_POOLED", 0)
    exact = flax_inits.jit_init(split_by_hand)
    assert exact.plan(KEY).programs > flax_inits.jit_init(odd_init).plan(KEY, X).programs / 10
    assert_same(exact(KEY), pooled)


@pytest.mark.slow
def test_depth_costs_no_compilation():
    with count_compiles() as shallow:
        flax_inits.jit_init(Stack(2).init)(KEY, jnp.ones((2, 4, 8)))
    with count_compiles() as deep:
        flax_inits.jit_init(Stack(6).init)(KEY, jnp.ones((2, 4, 8)))
    assert deep.programs == 0, shallow
    plans = [flax_inits.jit_init(Stack(depth).init).plan(KEY, X) for depth in (2, 6)]
    assert plans[0].programs == plans[1].programs


def test_a_second_model_compiles_nothing():
    flax_inits.jit_init(Stack(1).init)(KEY, X)
    key = jax.random.key(9)  # It may be the first one that is made under the tests' settings.
    with count_compiles() as again:
        flax_inits.jit_init(Stack(1).init)(key, X)
    assert again.programs == 0


def test_static_arguments():
    def make(key, width, *, kind="normal"):
        return {kind: getattr(jax.random, kind)(key, (width, 2))}

    init = flax_inits.jit_init(make, static_argnums=1, static_argnames="kind")
    for width, kind in ((3, "normal"), (4, "uniform")):
        made = init(KEY, width, kind=kind)
        expected = jax.jit(make, static_argnums=1, static_argnames="kind")(KEY, width, kind=kind)
        assert_same(made, expected)
    by_name = flax_inits.jit_init(make, static_argnames=("width", "kind"))
    assert_same(by_name(KEY, 3), by_name(KEY, width=3))


def test_the_user_s_errors_are_the_user_s():
    def broken(key):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine"):
        flax_inits.jit_init(broken)(KEY)
    with pytest.raises(TypeError, match=r"jit_init needs a function that makes parameters, got 3"):
        flax_inits.jit_init(3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_inline_under_transformations():
    init = flax_inits.jit_init(Stack(1).init)
    expected = jax.jit(Stack(1).init)(KEY, X)
    chex.assert_trees_all_equal(jax.jit(init)(KEY, X), expected)
    shapes = jax.eval_shape(init, KEY, X)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)
    keys = jax.random.split(KEY, 2)
    chex.assert_trees_all_equal(
        jax.jit(jax.vmap(init, (0, None)))(keys, X),
        jax.jit(jax.vmap(Stack(1).init, (0, None)))(keys, X),
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape, axes", [((8,), ("a",)), ((4, 2), ("a", "b"))])
def test_sharded_from_birth(shape, axes):
    mesh = jax.make_mesh(shape, axes, axis_types=(jax.sharding.AxisType.Auto,) * len(axes))
    model, x = nn.Sequential([nn.Dense(16), nn.Dense(32)]), jnp.ones((2, 8))
    single = jax.jit(model.init)(KEY, x)

    def sharded(tree):
        return jax.tree.map(lambda leaf: NamedSharding(mesh, P(*axes[: leaf.ndim])), tree)

    init = flax_inits.jit_init(model.init, out_shardings=sharded)
    made = init(KEY, x)
    assert jax.tree.map(lambda leaf: leaf.sharding, made) == sharded(single)
    chex.assert_trees_all_equal(jax.device_get(made), jax.device_get(single))
    for paths, compiled in init.lower(KEY, x).compile().programs:
        text = compiled.as_text()
        assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all")), paths
    row = init.plan(KEY, x).rows[1]
    assert row.bytes_per_device == row.bytes // 8


def test_boxes_tell_their_shardings():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    init = flax_inits.jit_init(Boxed().init, out_shardings=lambda t: nn.get_sharding(t, mesh))
    made = init(KEY, X)
    kernel = made["params"]["Dense_0"]["kernel"]
    assert isinstance(kernel, nn.Partitioned)
    assert kernel.value.sharding == NamedSharding(mesh, P(None, "model"))
    chex.assert_trees_all_equal(
        jax.device_get(nn.unbox(made)), jax.device_get(nn.unbox(jax.jit(Boxed().init)(KEY, X)))
    )


def test_uneven_shards_name_the_leaf():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    init = flax_inits.jit_init(nn.Dense(6).init, out_shardings=NamedSharding(mesh, P("a")))
    with pytest.raises(ValueError, match=r"'params/bias' of shape \(6,\) cannot be made with"):
        init(KEY, X)


def test_out_shardings_of_another_tree():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    wrong = {"params": {"weights": NamedSharding(mesh, P())}}
    with pytest.raises(ValueError, match="out_shardings must be a tree of shardings, or a prefix"):
        flax_inits.jit_init(nn.Dense(6).init, out_shardings=wrong)(KEY, X)


def test_a_committed_key_decides_the_device():
    device = jax.devices()[3]
    as_jit(nn.Dense(3).init, jax.device_put(KEY, device), jax.device_put(X, device))


def test_the_plan_is_data_and_prints():
    init = flax_inits.jit_init(Stack(1).init)
    with count_compiles() as compiled:
        plan = init.plan(
            jax.ShapeDtypeStruct((), KEY.dtype), jax.ShapeDtypeStruct(X.shape, X.dtype)
        )
    assert compiled.programs == 0
    rows = {"/".join(row.path): row for row in plan.rows}
    kernel = rows["params/Block_0/MultiHeadDotProductAttention_0/query/kernel"]
    assert (kernel.shape, kernel.dtype, kernel.bytes) == ((8, 2, 4), "float32", 256)
    assert kernel.recipe == "truncated_normal" and kernel.source == "model"
    key = rows["params/Block_0/MultiHeadDotProductAttention_0/key/kernel"]
    assert kernel.program == key.program != rows["params/Dense_0/kernel"].program
    assert rows["params/Block_0/LayerNorm_0/scale"].recipe == "ones"
    assert rows["params/Block_0/LayerNorm_0/scale"].program is None
    assert "orthogonal" in rows["params/Dense_0/kernel"].recipe or "qr" in str(plan)
    assert plan.bytes == sum(row.bytes for row in plan.rows)
    assert "params/Dense_0/kernel" in str(plan) and f"{plan.programs} programs" in str(plan)
    assert "<table>" in plan._repr_html_()


def test_rules_reach_into_the_model():
    init = flax_inits.jit_init(
        Stack(1).init, rules={"params/**/kernel": flax_inits.orthogonal(), "params/**/bias": _ones}
    )
    made = init(KEY, X)
    assert (made["params"]["Dense_0"]["bias"] == 1).all()
    query = made["params"]["Block_0"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    flat = query.reshape(8, 8)
    np.testing.assert_allclose(flat.T @ flat, np.eye(8), atol=1e-5)
    sources = {row.source for row in init.plan(KEY, X).rows}
    assert sources == {"model", "rule, through the module"}
    with pytest.raises(ValueError, match="selects no leaf"):
        flax_inits.jit_init(Stack(1).init, rules={"Dense_0": _ones})(KEY, X)


def _ones(key, shape, dtype):
    return jnp.ones(shape, dtype)


@pytest.mark.slow
def test_from_several_threads():
    init, made = flax_inits.jit_init(Stack(2).init), {}

    def make(i):
        made[i] = init(jax.random.key(i), X)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert_same(made[i], jax.jit(Stack(2).init)(jax.random.key(i), X))


def test_progress_is_shown_where_asked(capsys, monkeypatch):
    monkeypatch.setattr("flax_inits._model.progress._PATIENCE", 0.0)
    flax_inits.jit_init(Stack(1).init, progress=False)(KEY, X)
    assert capsys.readouterr().err == ""
    flax_inits.jit_init(Stack(1).init, progress=True)(KEY, X)
    assert "leaves" in capsys.readouterr().err
