"""Leaves that share a draw, and arrays that a function closes over, are as under `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit, assert_same
from jax import lax
from jax import random as jr

import flax_inits
from flax_inits._engine.jobs import plan
from flax_inits._engine.trace import trace

KEY = jr.key(7)


def reduced(key):
    y = jr.normal(key, (33,))
    return {"dot": y @ y, "unit": y / jnp.sqrt(y @ y), "sum": y.sum()}


def turned(key):
    y = jr.normal(key, (4, 100))
    return {"a": y.T + 1, "b": y}


def three_ways(key):
    y = jr.normal(key, (12, 5))
    return {"a": y * y + 1, "b": jnp.exp(y), "c": y.T * 2 + 1}


def one_key_twice(key):
    return {"a": jr.normal(key, (100, 4)).T + 1, "b": jr.normal(key, (100, 4)) * 0.3 + 1}


def scanned(key):
    def step(carry, key):
        y = jr.normal(key, (12, 5))
        return carry, (y * y + 1, jnp.exp(y))

    return lax.scan(step, 0, jr.split(key, 3))[1]


def halves(key):
    y = jr.normal(key, (10,))
    return y[:5], y[5:]


SHARED = [turned, three_ways, one_key_twice, scanned, halves]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fun", [reduced, *SHARED])
def test_what_shares_a_draw_is_rounded_as_one_program_rounds_it(fun):
    init, jitted = flax_inits.jit_init(fun), jax.jit(fun)
    for seed in range(6):
        assert_same(init(jr.key(seed)), jitted(jr.key(seed)))


@pytest.mark.parametrize("fun", SHARED)
def test_what_shares_a_draw_is_made_together(fun):
    traced = trace(fun, KEY)
    (job,) = plan(traced, {0: None})
    assert job.positions == tuple(range(len(traced.outputs)))


def test_equal_leaves_stand_alone():
    def fun(key):
        y = jr.normal(key, (8, 16))
        return [y, y, jr.normal(key, (8, 16))]

    jobs = plan(trace(fun, KEY), dict.fromkeys(range(3)))
    assert [job.positions for job in jobs] == [(0,), (1,), (2,)]
    assert_as_jit(fun, KEY)


def test_a_chosen_leaf_shares_its_draw_with_one_that_is_not():
    for seed in range(6):
        key = jr.key(seed)
        expected = jax.jit(one_key_twice)(key)
        old = jax.tree.map(jnp.zeros_like, expected)
        for name in old:
            new = flax_inits.reinit(key, old, name, init_fn=one_key_twice)
            np.testing.assert_array_equal(new[name], expected[name])


TABLE = jnp.asarray([0.3, 1.7, 2.9])
BY_TABLE = {
    "indexed": lambda key, table: jr.normal(key, (8,)) * table[1],
    "taken": lambda key, table: jr.normal(key, (8,)) * jnp.take(table, 1),
    "largest": lambda key, table: jr.normal(key, (8,)) * table.max(),
    "product": lambda key, table: jr.normal(key, (8,)) * (table @ table),
    "predicate": lambda key, table: jnp.where(table[1] > 1, jr.normal(key, (8,)), 0.0),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", BY_TABLE)
def test_scalars_of_closed_over_tables(how):
    for table in (TABLE, TABLE * 3, -TABLE):

        def fun(key, table=table):
            return BY_TABLE[how](key, table)

        expected = jax.jit(fun)(KEY)
        assert_same(flax_inits.jit_init(lambda key, fun=fun: fun(key))(KEY), expected)
        made = flax_inits.reinit(KEY, jnp.zeros(8), (), init_fn=fun)
        np.testing.assert_array_equal(made, expected)


def closing_over(table):
    def fun(key):
        keys = jr.split(key, 2)
        return {
            "product": jr.normal(key, (5,)) * table,
            "table": jnp.asarray(table),
            "mapped": lax.map(lambda key: jr.normal(key, (5,)) @ table, keys),
            "called": jax.jit(lambda key: jnp.tanh(jr.normal(key, (5,)) * table))(key),
        }

    return fun


def test_a_table_changed_in_place_is_what_it_was_when_it_was_traced():
    table = np.ones(5, np.float32)
    expected = jax.jit(closing_over(np.ones(5, np.float32)))(KEY)
    init = flax_inits.jit_init(closing_over(table))
    init.plan(KEY)
    table[:] = 100
    assert_same(init(KEY), expected)
    # Nor has what was compiled for ones become a program of hundreds.
    assert_same(flax_inits.jit_init(closing_over(np.ones(5, np.float32)))(KEY), expected)
    changed = jax.jit(closing_over(table))(KEY)
    assert_same(flax_inits.jit_init(closing_over(table))(KEY), changed)


def test_a_table_may_be_donated():
    table = jnp.full(5, 3.0)
    expected = jax.jit(closing_over(table))(KEY)
    init = flax_inits.jit_init(closing_over(table))
    assert_same(init(KEY), expected)
    table.delete()
    assert_same(init(KEY), expected)


def test_complex_constants_that_compare_equal():
    def fun(key):
        return [jnp.full(3, value) for value in (complex(-0.0, 0.0), 0j, complex(0.0, -0.0))]

    made = assert_as_jit(fun, KEY)
    assert len({np.asarray(leaf).tobytes() for leaf in made}) == 3
