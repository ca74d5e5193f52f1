"""Random init functions: jit_init makes what jax.jit makes, to the last bit."""

import contextlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_same
from functions import Function
from programs import Program

import flax_inits

# JAX casts constants by NumPy, which warns of what does not fit.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in cast:RuntimeWarning")

KEY = jax.random.key(3)
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
TOGETHER = 25
"""Programs in one init function: as many leaves as a small model has."""

FUNCTIONS = 10
"""Functions in one test; each is compiled by itself."""


def seeds(first, last, step, in_ci):
    """The first seed of each test: those of the first `in_ci` are slow, the others thorough."""
    return [
        pytest.param(seed, marks=pytest.mark.slow if seed < first + in_ci else pytest.mark.thorough)
        for seed in range(first, last, step)
    ]


@pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="one end of the supported versions is enough"
)
@pytest.mark.parametrize("first", seeds(0, 500, TOGETHER, in_ci=250))
@pytest.mark.usefixtures("standard_promotion")
def test_any_program_is_made_as_jit_makes_it(first):
    programs = [Program(seed) for seed in range(first, first + TOGETHER)]
    x, keys = jax.numpy.asarray(X), jax.random.split(KEY, TOGETHER)

    def init(keys, x):
        return [program(key, x) for program, key in zip(programs, keys, strict=True)]

    made, expected = flax_inits.jit_init(init)(keys, x), jax.jit(init)(keys, x)
    for program, key, ours, theirs in zip(programs, keys, made, expected, strict=True):
        try:
            assert_same(ours, theirs)
        except AssertionError:
            # XLA rounds some logarithms by what else it compiles: then the program alone counts.
            alone = jax.jit(program)(key, x)
            with pytest.raises(AssertionError):
                assert_same(alone, theirs)
            assert_same(ours, alone)


def assert_as_whole(function, made, expected):
    """Equal to `jax.jit`, which may round by what stands beside a leaf: then as by itself."""
    for name, leaf in expected.items():
        try:
            assert_same(made[name], leaf)
        except AssertionError as error:
            raise AssertionError(f"{function}, {name}: {error}") from None


def a_mesh_now_and_then(seed):
    """Of five functions one is made under a mesh with Auto axes, and one with Explicit axes."""
    kinds = {1: jax.sharding.AxisType.Auto, 3: jax.sharding.AxisType.Explicit}
    if seed % 5 not in kinds:
        return contextlib.nullcontext()
    return jax.set_mesh(jax.make_mesh((4, 2), ("a", "b"), (kinds[seed % 5],) * 2))


@pytest.mark.parametrize("first", seeds(0, 300, FUNCTIONS, in_ci=30))
@pytest.mark.usefixtures("standard_promotion")
def test_leaves_that_have_much_in_common_are_made_as_jit_makes_them(first):
    x = jnp.asarray(X)
    for seed in range(first, first + FUNCTIONS):
        function = Function(seed)
        with a_mesh_now_and_then(seed):
            expected = jax.jit(function)(KEY, x)
            assert_as_whole(function, flax_inits.jit_init(function)(KEY, x), expected)


@pytest.mark.parametrize("first", seeds(1000, 1060, FUNCTIONS, in_ci=10))
@pytest.mark.usefixtures("standard_promotion")
def test_a_table_is_what_it_was_when_it_was_traced(first):
    x = jnp.asarray(X)
    for seed in range(first, first + FUNCTIONS):
        function, changed = Function(seed), Function(seed)
        function.table = np.array(function.table)
        expected = jax.jit(function)(KEY, x)
        init = flax_inits.jit_init(function)
        init.plan(KEY, x)
        function.table[:] = 100
        assert_as_whole(function, init(KEY, x), expected)
        assert_as_whole(function, flax_inits.jit_init(Function(seed))(KEY, x), expected)
        changed.table = function.table
        made = flax_inits.jit_init(changed)(KEY, x)
        assert_as_whole(changed, made, jax.jit(changed)(KEY, x))
        function.table[:] = 7
        assert_as_whole(function, init(KEY, x), expected)


@pytest.mark.parametrize("first", seeds(2000, 2060, FUNCTIONS, in_ci=10))
@pytest.mark.usefixtures("standard_promotion")
def test_some_leaves_by_init_fn_are_as_with_all_the_others(first):
    x = jnp.asarray(X)
    for seed in range(first, first + FUNCTIONS):
        function, dice = Function(seed), random.Random(seed)
        old = jax.jit(function)(jax.random.key(9), x)
        floating = [name for name, leaf in old.items() if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        chosen = [name for name in floating if dice.random() < 0.5] or floating[:1]
        if not chosen:
            continue

        def init_fn(key, f=function):
            return f(key, x)

        made = flax_inits.reinit(KEY, old, chosen, init_fn=init_fn)
        # It closes over x: XLA folds a constant otherwise than it computes with an argument.
        expected = jax.jit(init_fn)(KEY)
        for name, leaf in old.items():
            if name in chosen:
                assert np.array_equal(made[name], expected[name], equal_nan=True), (seed, name)
            else:
                assert made[name] is leaf
