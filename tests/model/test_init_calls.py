"""How `jit_init` is called: static arguments, errors, threads, and what is compiled when."""

import os
import subprocess
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit, assert_same
from compiles import count_compiles
from flax import nnx

import flax_inits

KEY = jax.random.key(7)


def make(key, shape, name="x", *, scale=1):
    return {name: jax.random.normal(key, shape) * scale}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "args, kwargs, static",
    [
        (((3, 4),), {}, {"static_argnums": 1}),
        (((3, 4),), {"scale": 2.0}, {"static_argnums": (1, 2), "static_argnames": "name"}),
        (((3, 4), "y"), {}, {"static_argnums": (1, 2)}),
        (((3, 4), "y"), {"scale": 3}, {"static_argnames": ("shape", "name", "scale")}),
        ((), {"shape": (3,), "name": "z"}, {"static_argnames": ["shape", "name"]}),
        ((), {"shape": (3,), "name": "z"}, {"static_argnums": [1, 2]}),
        (((3, 4), "y"), {}, {"static_argnums": (-1, -2)}),
    ],
)
def test_static_arguments(args, kwargs, static):
    assert_as_jit(make, KEY, *args, jit=static, **kwargs)


def test_static_arguments_of_any_number():
    def first(key, *rest):
        return jax.random.normal(key, rest[-1])

    assert_as_jit(first, KEY, (3,), jit={"static_argnums": -1})
    assert_as_jit(first, KEY, (2,), (3,), jit={"static_argnums": (1, 2)})


def test_static_arguments_are_inferred_only_where_jit_infers_them():
    traced = []

    def scaled(key, scale):
        traced.append(isinstance(scale, jax.core.Tracer))
        return jax.random.normal(key, (3,)) * scale

    # With both given, JAX infers no position from a name.
    assert_as_jit(scaled, KEY, 3.0, jit={"static_argnums": (), "static_argnames": "scale"})
    assert len(traced) > 1 and all(traced)


@pytest.mark.parametrize(
    "static, said",
    [
        ({}, "write jit_init(..., static_argnums=2 or static_argnames='train')."),
        ({"static_argnums": 2}, "write jit_init(..., static_argnames='train')."),
        ({"static_argnames": "size"}, "(static_argnames 'size' named no argument)."),
    ],
)
def test_a_choice_that_is_traced_is_advised(static, said):
    def chooses(key, *rest, **options):
        return jax.random.normal(key, (3 if options["train"] else 4,))

    with pytest.raises(jax.errors.ConcretizationTypeError) as caught:
        flax_inits.jit_init(chooses, **static)(KEY, KEY, 5, train=True)
    assert caught.value.__notes__[-1].endswith(said)


class Wide(nnx.Module):
    def __init__(self, rngs, size=3):
        self.kernel = nnx.Param(jnp.ones((2, size)))


def test_a_size_that_is_traced_is_advised():
    with pytest.raises(TypeError, match="concrete") as caught:
        flax_inits.jit_init(Wide)(nnx.Rngs(0), size=4)
    call, advice = caught.value.__notes__[-2:]
    assert call == "while jit_init(Wide) traced the call (Rngs(...), size=4)"
    assert "a shape depends on one, write jit_init(..., static_argnames='size')." in advice


def test_a_module_in_the_place_of_its_class():
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    with pytest.raises(Exception) as caught:
        flax_inits.jit_init(model)(nnx.Rngs(0))
    assert (
        "was given a module, which it calls: to make one, give its class."
        in caught.value.__notes__[-1]
    )


def test_equal_static_arguments_of_other_types_are_others():
    def fill(key, value):
        return jnp.full(2, value)

    init = flax_inits.jit_init(fill, static_argnums=1)
    for value in (1, 1.0, True, 0.0, False, 0):
        assert_same(init(KEY, value), jax.jit(fill, static_argnums=1)(KEY, value))


def test_static_names_of_a_linen_model():
    class Dropped(nn.Module):
        def setup(self):
            self.encoder, self.drop = nn.Dense(5), nn.Dropout(0.5)

        def __call__(self, x, train):
            return self.drop(self.encoder(x), deterministic=not train)

        def encode(self, x):
            return self.encoder(x)

    keys, x = {"params": KEY, "dropout": jax.random.key(1)}, jnp.ones((2, 4))
    assert_as_jit(Dropped().init, keys, x, train=True, jit={"static_argnames": "train"})
    static = {"static_argnames": ("train", "method")}
    assert_as_jit(Dropped().init, keys, x, method="encode", jit=static)
    assert_as_jit(Dropped().init_with_output, keys, x, train=True, jit=static)


def raises_own(key):
    raise ZeroDivisionError("mine")


def branches(key):
    return 1 if jax.random.normal(key) > 0 else 0


def leaves_jax(key):
    return np.asarray(jax.random.normal(key))


def mismatched(key):
    return jax.random.normal(key, (3, 4)) @ jnp.ones((3, 4))


def returns_text(key):
    return "text"


@pytest.mark.parametrize("fun", [raises_own, branches, leaves_jax, mismatched, returns_text])
def test_errors_are_those_of_jit(fun):
    with pytest.raises(Exception) as expected:
        jax.jit(fun)(KEY)
    with pytest.raises(expected.type) as caught:
        flax_inits.jit_init(fun)(KEY)
    assert str(caught.value) == str(expected.value)
    with pytest.raises(expected.type):
        flax_inits.jit_init(fun).plan(KEY)


@pytest.mark.parametrize("args", [(), (KEY, KEY), ("no key",), (object(),)])
def test_so_are_errors_of_calling(args):
    fun = leaf_alone
    with pytest.raises(TypeError) as expected:
        jax.jit(fun)(*args)
    with pytest.raises(TypeError) as caught:
        flax_inits.jit_init(fun)(*args)
    assert str(caught.value).splitlines()[0] == str(expected.value).splitlines()[0]


def leaf_alone(key):
    return jax.random.normal(key, (3,))


@pytest.mark.parametrize(
    "static", [{"static_argnums": 5}, {"static_argnames": "typo"}, {"static_argnums": "x"}]
)
def test_static_arguments_that_are_none(static):
    with pytest.raises((TypeError, ValueError)) as expected:
        jax.jit(leaf_alone, **static)
    with pytest.raises(expected.type) as caught:
        flax_inits.jit_init(leaf_alone, **static)
    assert str(caught.value) == str(expected.value)


def test_static_arguments_must_be_hashable():
    with pytest.raises((TypeError, ValueError), match="unhashable type: 'list'"):
        flax_inits.jit_init(make, static_argnums=1)(KEY, [3, 4])


def test_a_failed_call_leaves_nothing_behind():
    fails = [True]

    def fun(key):
        if fails[0]:
            raise RuntimeError("once")
        return jax.random.normal(key, (3,))

    init = flax_inits.jit_init(fun)
    with pytest.raises(RuntimeError, match="once"):
        init(KEY)
    fails[0] = False
    assert_same(init(KEY), jax.jit(fun)(KEY))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), x)
        return x + nn.Dense(x.shape[-1], bias_init=nn.initializers.normal(0.02))(y)


class Deep(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = Block()(x)
        return nn.Dense(5)(x)


X = jnp.ones((2, 3, 24))


@pytest.mark.slow
def test_compilations_do_not_grow_with_depth_nor_repeat():
    found = []
    for depth in (2, 7):
        with count_compiles() as count:
            jax.block_until_ready(flax_inits.jit_init(Deep(depth).init)(KEY, X))
        found.append(count.programs)
    assert found[1] == 0  # Equal recipes are kept for the life of the process.
    assert flax_inits.jit_init(Deep(2).init).plan(KEY, X).programs <= 4
    assert (
        flax_inits.jit_init(Deep(7).init).plan(KEY, X).programs
        == flax_inits.jit_init(Deep(2).init).plan(KEY, X).programs
    )


@pytest.mark.parametrize(
    "fun",
    [
        lambda key: [jax.random.normal(q, (7,)) * 0.123 for q in jax.random.split(key, 3)],
        lambda key: (lambda w: (w, w.mean()))(jax.random.normal(key, (7, 9))),
        lambda key: {"keys": jax.random.split(key, 3), "w": jnp.linalg.qr(jnp.ones((3, 3)))[0]},
        lambda key: jax.lax.scan(
            lambda c, k: (c + jax.random.normal(k), c), 0.0, jax.random.split(key, 4)
        ),
    ],
)
def test_a_second_initializer_of_the_same_compiles_nothing(fun):
    jax.block_until_ready(flax_inits.jit_init(fun)(KEY))
    keys = jax.random.key(11), jax.random.key(12)
    with count_compiles() as count:
        jax.block_until_ready(
            [flax_inits.jit_init(fun)(keys[0]), flax_inits.jit_init(fun)(keys[1])]
        )
    assert count.programs == 0


@pytest.mark.usefixtures("standard_promotion")  # as in the threads: it is part of what is compiled
def test_threads_share_what_they_compile():
    def fun(key):
        return {
            "w": jax.random.normal(key, (11, 13)) * 0.7131,
            "q": jnp.linalg.qr(jnp.ones((2, 2))),
        }

    init, made = flax_inits.jit_init(fun), {}
    expected = {i: jax.jit(fun)(jax.random.key(i)) for i in range(6)}

    def call(i):
        made[i] = init(jax.random.key(i))

    with count_compiles() as count:
        threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(made) == list(range(6))
    for i, tree in made.items():
        assert_same(tree, expected[i])
    assert count.programs <= init.plan(KEY).programs


SCRIPT = """
import sys, jax, jax.numpy as jnp, flax.linen as nn
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import flax_inits
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
init = flax_inits.jit_init(nn.Sequential([nn.Dense(8), nn.Dense(9)]).init)
made = init(jax.random.key(0), jnp.ones((2, 7)))
print(sum(leaf.sum() for leaf in jax.tree.leaves(made)))
print(events.count("/jax/compilation_cache/cache_hits"))
print(events.count("/jax/compilation_cache/cache_misses"))
"""


@pytest.mark.slow
def test_the_persistent_cache_of_jax(tmp_path):
    found = []
    for _ in range(2):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
        found.append(run.stdout.split())
    (total, _, misses), (total_again, hits, misses_again) = found
    assert total == total_again
    assert int(misses) > 0 and int(misses_again) == 0 and int(hits) == int(misses)
