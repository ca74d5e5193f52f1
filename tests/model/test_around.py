"""Transformations, threads and processes around `jit_init`: as around `jax.jit`."""

import gc
import multiprocessing
import os
import threading
import weakref

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_same
from jax import export
from jax.sharding import AxisType, PartitionSpec

import flax_inits

KEY, KEYS, X = jax.random.key(0), jax.random.split(jax.random.key(1), 8), jnp.ones((2, 3))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(8)(x)))


THEIRS = Net().init
OURS = flax_inits.jit_init(THEIRS)


def loss(init):
    """Reads the params that `init` makes from an input, so that there is something to derive."""

    def total(x):
        scale = jnp.mean(x)
        return sum(jnp.sum(leaf * scale) for leaf in jax.tree.leaves(init(KEY, x)))

    return total


def sharded(init):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))

    def each(keys):
        return jax.tree.map(lambda leaf: leaf[None], init(keys[0], X))

    spec = PartitionSpec("d")
    return jax.jit(jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec))(KEYS)


def branched(init):
    return jax.lax.cond(X.sum() > 0, lambda key: init(key, X), lambda key: init(key, -X), KEY)


AROUND = {
    "vmap": lambda init: jax.vmap(init, (0, None))(KEYS, X),
    "jit of vmap": lambda init: jax.jit(jax.vmap(init, (0, None)))(KEYS, X),
    "pmap": lambda init: jax.pmap(init, in_axes=(0, None))(KEYS, X),
    "shard_map": sharded,
    "grad": lambda init: jax.grad(loss(init))(X),
    "jvp": lambda init: jax.jvp(loss(init), (X,), (X,)),
    "checkpoint": lambda init: jax.grad(jax.checkpoint(loss(init)))(X),
    "scan": lambda init: jax.lax.scan(lambda carry, key: (carry, init(key, X)), 0, KEYS)[1],
    "cond": branched,
    "export": lambda init: export.export(jax.jit(init))(KEY, X).call(KEY, X),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", AROUND)
def test_transformations_around(name):
    if name == "shard_map":
        chex.assert_devices_available(8, "cpu")
    assert_same(AROUND[name](OURS), AROUND[name](THEIRS))


def test_leaves_may_be_donated():
    made = OURS(KEY, X)
    jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(made)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(made))
    assert_same(OURS(KEY, X), jax.jit(THEIRS)(KEY, X))


@pytest.mark.slow
def test_threads_with_configurations_of_their_own():
    made = {}

    def work(number):
        x64, plain = bool(number & 1), bool(number & 2)
        with jax.enable_x64(x64), jax.threefry_partitionable(not plain):
            made[number] = OURS(KEY, X), jax.jit(THEIRS)(KEY, X)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    for ours, theirs in made.values():
        assert_same(ours, theirs)


@pytest.mark.slow
def test_many_closures_are_let_go():
    """As many programs as there are values, but what they close over goes with them."""
    alive = []
    for number in range(200):
        table = jnp.full(300, number, jnp.float32)
        alive.append(weakref.ref(table))
        made = flax_inits.jit_init(lambda key, table=table: {"a": table, "b": jnp.sin(1.0)})(KEY)
        assert float(made["a"][7]) == number
        del table, made
    gc.collect()
    assert sum(ref() is not None for ref in alive) < 100


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_again_after_a_trace(enabled):
    while_tracing = []

    def fun(key):
        while_tracing.append(gc.isenabled())
        raise ZeroDivisionError

    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            flax_inits.jit_init(fun)(KEY)
        assert (while_tracing, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_that_leaves_jax_alone_ends_well():
    OURS(KEY, X)
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def first_value(queue):
    """What a spawned process makes."""
    queue.put(float(np.asarray(OURS(KEY, X)["params"]["Dense_0"]["kernel"])[0, 0]))


@pytest.mark.slow
def test_a_process_spawned_after_use_makes_the_same():
    here = float(OURS(KEY, X)["params"]["Dense_0"]["kernel"][0, 0])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=first_value, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == here
    process.join()


@pytest.mark.slow
def test_a_leaf_above_what_is_pooled():
    draw = lambda key: jax.random.uniform(key, ((1 << 25) + 7,))  # noqa: E731
    assert np.array_equal(flax_inits.jit_init(draw)(KEY), jax.jit(draw)(KEY))
