"""Recipes are equal by what they compute; what cannot be planned is compiled as it stands."""

import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit, assert_same
from cases import label
from compiles import count_compiles
from jax import lax
from jax import random as jr

import flax_inits
from flax_inits._engine import compile, host, scans, signature
from flax_inits._engine import jobs as planning
from flax_inits._engine import trace as tracing
from flax_inits._engine.programs import Pooled

KEY = jax.random.key(7)
SHAPE = (8, 16)


def normal(key):
    return jr.normal(key, SHAPE)


def jobs(fun, *args):
    args = args or (KEY,)
    traced = tracing.trace(fun, *args)
    return planning.plan(traced, dict.fromkeys(range(len(traced.outputs))))


def recipe(fun, *args):
    (job,) = jobs(fun, *args)
    return job.recipe


token = signature.Signer().token
NAN = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)

DIFFERENT = [
    (1, 1.0),
    (1, True),
    (1.0, True),
    (0.0, -0.0),
    (0, -0.0),
    (np.float32(0.0), np.float32(-0.0)),
    (NAN[0], NAN[1]),
    (np.ones(2, np.float32), np.ones(2, np.int32)),
    (np.zeros(2, np.float32), np.zeros(2, jnp.bfloat16)),
    (np.ones((2, 1)), np.ones((1, 2))),
    (np.ones(2), np.ones(3)),
    (np.arange(3), [0, 1, 2]),
    ((1, 2), [1, 2]),
    ((1, (2, 3)), (1, 2, 3)),
    ({"a": 1}, {"a": 1.0}),
    (jnp.asarray(1.0), jnp.ones(())),
    (None, 0),
    ("1", 1),
    (lambda: 0, lambda: 0),
    (jr.key(0), jr.key(1)),
    (jr.key(0, impl="rbg"), jr.key(0, impl="unsafe_rbg")),
]


@pytest.mark.parametrize("pair", DIFFERENT, ids=label)
def test_tokens_that_differ(pair):
    one, other = map(token, pair)
    assert one != other


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: -0.0,
        lambda: np.arange(6).reshape(2, 3),
        lambda: jnp.arange(3.0),
        lambda: (1, [2.0, {"a": np.ones(2)}]),
        lambda: jr.key(3),
        lambda: jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(1.0),
    ],
)
def test_tokens_that_are_equal(make):
    one, other = signature.Signer().token(make()), signature.Signer().token(make())
    assert one == other and hash(one) == hash(other)


def test_what_is_unknown_is_itself_alone():
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other):
            return True

    value = Unhashable()
    assert token(value) == token(value) != token(Unhashable())
    assert hash(token(value)) == hash(token(value))


SAME_RECIPE = [
    (lambda k: normal(jr.fold_in(k, 3)), lambda k: normal(jr.split(k, 4)[2])),
    (lambda k: 0.1 * normal(k), lambda k: 0.1 * jr.normal(jr.fold_in(k, 1), SHAPE)),
    (lambda k: jnp.linalg.qr(normal(k))[0], lambda k: jnp.linalg.qr(normal(jr.fold_in(k, 1)))[0]),
]
OTHER_RECIPE = [
    (lambda k: normal(k) * 0.1, lambda k: normal(k) * 0.2),
    (lambda k: jnp.maximum(normal(k), 0.0), lambda k: jnp.maximum(normal(k), -0.0)),
    (normal, lambda k: jr.normal(k, (16, 8))),
    (normal, lambda k: jr.normal(k, SHAPE, jnp.bfloat16)),
    (lambda k: normal(k) + np.arange(16.0)[None], lambda k: normal(k) + np.arange(1, 17.0)[None]),
    (lambda k: jnp.zeros(3), lambda k: -jnp.zeros(3)),
    (lambda k: jnp.zeros(3), lambda k: jnp.zeros(3, int)),
    (lambda k: lax.cumsum(normal(k)), lambda k: lax.cumsum(normal(k), reverse=True)),
    (
        lambda k: lax.fori_loop(0, 2, lambda i, w: w + 1, normal(k)),
        lambda k: lax.fori_loop(0, 2, lambda i, w: w + 2, normal(k)),
    ),
]


def beside(*keys):
    """Two draws in a leaf, so that it takes a program which is given two keys."""
    return jnp.concatenate([normal(key) for key in keys])


@jax.jit
def scaled(x, factor):
    return x * factor * 3.0


def of_layers(make):
    return lambda key: [make(jr.fold_in(key, i), i) for i in range(4)]


LAYERS = {
    "two_keys": of_layers(lambda k, i: beside(*jr.split(k)[:: 1 if i % 2 else -1])),
    "one_key_twice": of_layers(lambda k, i: beside(k, k if i % 2 else jr.split(k)[0])),
    "calls": of_layers(lambda k, i: (scaled if i % 2 else scaled.__wrapped__)(normal(k), 0.3)),
    "factors": of_layers(lambda k, i: normal(k) * (0.1, 0.2, 0.1, -0.2)[i]),
    "scans": of_layers(lambda k, i: lax.map(normal, jr.split(k, 2 + i % 2))),
    "given": lambda key: [key, table := jnp.arange(3.0), jnp.zeros(3), table + 1, jr.split(key)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_are_nearly_alike(name):
    assert_as_jit(LAYERS[name], KEY)


def test_what_is_found_for_a_layer_is_not_searched_for_again(monkeypatch):
    searched, search = [], planning._Planner._searched
    monkeypatch.setattr(
        planning._Planner, "_searched", lambda *a: searched.append(a[4]) or search(*a)
    )
    found = jobs(of_layers(lambda k, i: 0.1 * normal(k) if i % 2 else normal(k) + np.eye(8, 16)))
    assert [job.positions for job in found] == [(0,), (1,), (2,), (3,)]
    assert searched == [(0,), (1,)]


@pytest.mark.parametrize("pair", SAME_RECIPE)
def test_recipes_do_not_know_which_key_it_is(pair):
    one, other = map(recipe, pair)
    assert one == other and hash(one) == hash(other) and one.shared_by == other.shared_by


@pytest.mark.sampled(3, rest="thorough")
@pytest.mark.parametrize("pair", OTHER_RECIPE)
def test_recipes_that_differ(pair):
    one, other = map(recipe, pair)
    assert one != other
    for fun in pair:
        assert_as_jit(fun, KEY)  # in one process, so that one could be mistaken for the other


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_closures_that_look_alike():
    def scaled(scale):
        return lambda key: jnp.sin(normal(key) * scale)

    for scale in (1, 1.0, True, 0.0, -0.0, np.float32(2), np.float32(-2)):
        assert_as_jit(scaled(scale), KEY)


def test_a_shared_draw_is_drawn_once():
    def fun(key):
        first, second = jr.split(key)
        w = jnp.sin(normal(first))
        return {
            "w": w,
            "norm": jnp.sqrt((w**2).sum()),
            "alone": normal(second),
            "zero": jnp.zeros(3),
        }

    groups = sorted(job.positions for job in jobs(fun))
    assert groups == [(0,), (1, 2), (3,)]  # by the order of the leaves: alone, norm and w, zero


def test_dead_code_is_no_part_of_a_recipe():
    def fun(key):
        w = normal(key)
        y = jnp.tanh(jnp.ones((4, 8)) @ w)  # the forward pass
        return {"w": w, "b": jnp.zeros_like(y[0])}

    assert {job.recipe for job in jobs(fun)} == {recipe(normal), recipe(lambda k: jnp.zeros(16))}


@pytest.mark.parametrize(("shape", "count"), [((), 2), ((2,), 1), ((5,), 1)])
def test_leaves_that_share_more_than_a_number_are_made_together(shape, count):
    def fun(key):
        *own, common = jr.split(key, 3)
        shared = jr.normal(common, shape)
        return [jr.normal(key, shape or (4,)) * shared for key in own]

    assert len(jobs(fun)) == count


def test_leaves_of_one_scan_without_a_carry_stand_alone():
    def fun(key):
        def step(carry, key):
            return carry + 1, (normal(key), jr.uniform(jr.fold_in(key, 1), (3,)))

        return lax.scan(step, 0, jr.split(key, 4))[1]

    assert [job.positions for job in jobs(fun)] == [(0,), (1,)]
    assert all(isinstance(job.recipe, Pooled) for job in jobs(fun))


def test_a_live_carry_runs_once_for_all_leaves():
    def fun(key):
        def step(carry, key):
            w = normal(key) + carry
            return w.mean(), (w, w.max())

        return lax.scan(step, 0.0, jr.split(key, 4))[1]

    assert [job.positions for job in jobs(fun)] == [(0, 1)]


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("faults_expected")
@pytest.mark.parametrize("broken", ["dce", "plan", "outputs", "match"])
def test_what_fails_is_compiled_as_it_stands(broken, monkeypatch):
    def gone(*args, **kwargs):
        raise AttributeError("gone")

    if broken == "dce":
        monkeypatch.setattr(scans, "partial_eval", types.SimpleNamespace(dce_jaxpr=gone))
    elif broken == "plan":
        monkeypatch.setattr(planning, "plan", gone)
    elif broken == "outputs":
        monkeypatch.setattr(tracing, "flatten", gone)
    else:
        monkeypatch.setattr(planning, "match", gone)

    def fun(key):
        scanned = lax.scan(lambda c, k: (c, (normal(k), c)), 0.0, jr.split(key, 3))[1]
        return {"scanned": scanned, "w": normal(key) * 0.1, "b": jnp.zeros(3)}

    assert_as_jit(fun, KEY, whole=broken != "dce")


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg", "fused"])
@pytest.mark.parametrize("partitionable", [True, False])
def test_keys_of_leaves_are_those_of_jax(impl, partitionable):
    def fun(key):
        grid = jr.split(key, (2, 3))
        return [
            jr.fold_in(key, 7),
            jr.fold_in(key, 2**32 - 1),
            jr.split(key),
            grid[1, ::2],
            grid.T[-1],
            jnp.concatenate([grid[0], grid[1, :1]]),
            jax.vmap(jr.fold_in)(grid[0], jnp.arange(3)),
            jax.vmap(jr.split)(grid[1]),
            jr.clone(key),
            lax.map(lambda k: jr.fold_in(k, 1), grid[0]),
        ]

    key = flax_inits.fused_key(KEY) if impl == "fused" else jr.key(5, impl=impl)
    with jax.threefry_partitionable(partitionable):
        expected = jax.jit(fun)(key)
        traced = tracing.trace(fun, key)
        computable, evaluator = host.HostComputable(), host.HostEvaluator([key])
        for value, wanted in zip(traced.outputs, expected, strict=True):
            if computable.is_key(value):
                words = evaluator.key_words(value)
                np.testing.assert_array_equal(words, jr.key_data(wanted))
        assert sum(map(computable.is_key, traced.outputs)) >= 9
        assert_same(flax_inits.jit_init(fun)(key), expected)


def test_leaves_own_their_memory():
    snapshot = jnp.arange(64.0)

    def fun(key, x):
        return {"closed": snapshot, "x": x, "w": jr.normal(key, (64,)), "b": jnp.zeros(64)}

    x = jnp.ones(64)
    made = flax_inits.jit_init(fun)(KEY, x)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in (*jax.tree.leaves(made), x, snapshot)}
    assert len(pointers) == 6
    before = {name: leaf.unsafe_buffer_pointer() for name, leaf in made.items()}
    after = jax.jit(lambda tree: jax.tree.map(lambda w: w + 1, tree), donate_argnums=0)(made)
    assert all(leaf.is_deleted() for leaf in made.values())
    assert before == {name: leaf.unsafe_buffer_pointer() for name, leaf in after.items()}
    np.testing.assert_array_equal(snapshot, np.arange(64.0))
    np.testing.assert_array_equal(x, np.ones(64))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_broken_compilation_is_no_trap(error, monkeypatch):
    """What a call had begun to compile when it failed is compiled again, never waited for."""
    size = 41 if error is MemoryError else 43
    tried = []

    def fun(key):
        return [jnp.sin(jr.normal(key, (3, size + i))) for i in range(3)]

    def broken(lowered, options):
        tried.append(lowered)
        raise error

    init = flax_inits.jit_init(fun)
    with monkeypatch.context() as patch:
        patch.setattr(compile, "_compiled", broken)
        with pytest.raises(error):
            init(KEY)
    assert len(tried) == len({*map(id, tried)}), "what fails by itself is not tried twice"
    made = []
    thread = threading.Thread(target=lambda: made.append(init(KEY)), daemon=True)
    thread.start()
    thread.join(60)
    assert made, "the second call hangs"
    assert_same(made[0], jax.jit(fun)(KEY))


def test_options_that_a_backend_lacks_are_left_out():
    lowered = jax.jit(lambda: jnp.arange(3)).lower()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile(compiler_options={"gone": True})
    np.testing.assert_array_equal(compile._compiled(lowered, {"gone": True})(), np.arange(3))


def test_a_closed_over_array_is_kept_once():
    big = np.arange(1000, dtype=np.float32)

    def fun(key):
        return [jr.normal(k, (1000,)) * big for k in jr.split(key, 3)]

    made = assert_as_jit(fun, KEY)
    assert len({job.recipe for job in jobs(fun)}) == 1
    with count_compiles() as count:
        jax.block_until_ready(flax_inits.jit_init(lambda key: fun(key))(KEY))
    assert count.programs == 0
    big[0] += 1  # jax.jit would not see it either, but a new function must.
    changed = flax_inits.jit_init(lambda key: fun(key))(KEY)
    assert_same(changed, jax.jit(lambda key: fun(key))(KEY))
    assert (np.asarray(made[0]) != np.asarray(changed[0])).sum() == 1
