"""Bad input gets a clear error of ours, inputs stay as they are, and size costs in proportion."""

import re
import sys
import threading
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import label
from flax import nnx

import flax_inits as fi

KEY = jax.random.key(0)
X = jnp.ones((1, 3))
MODEL = nn.Dense(4)
TX = optax.adam(1e-3)
EMPTY_RULES = "No rules were given"
NO_KEY = "key must be one PRNG key"
NO_WHERE = "where must be a glob string, a compiled regular expression, a callable"
WHICH_NOT_WHAT = "says which leaves, but not what they get"


def params():
    return {"head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "body": {"w": jnp.ones(2)}}


def deleted():
    array = jnp.ones(2)
    array.delete()
    return array


def endless():
    tree = {"head": jnp.ones(2)}
    tree["again"] = [tree]
    return tree


class Unhashable:
    __hash__ = None

    def __call__(self, key, shape, dtype=None):
        return jnp.full(shape, 7, dtype)


def raising(key, shape, dtype=None):
    raise RuntimeError("the user's own")


def a_where_that_raises(path, leaf):
    raise RuntimeError("the user's own")


def model_params(key):
    return {"head": MODEL.init(key, X)["params"]}


ZEROS = {"head": fi.zeros()}
NORMAL = fi.normal(1.0)
HOSTILE = [
    # reinit: keys, trees, rules, initializers, init functions
    (lambda p: fi.reinit(0, p, ZEROS), TypeError, f"{NO_KEY}.*got int: 0"),
    (lambda p: fi.reinit(None, p, ZEROS), TypeError, f"{NO_KEY}.*NoneType"),
    (lambda p: fi.reinit(jnp.ones(2), p, ZEROS), TypeError, f"{NO_KEY}.*float32"),
    (lambda p: fi.reinit(jax.random.split(KEY), p, ZEROS), ValueError, r"keys of shape \(2,\)"),
    (lambda p: fi.reinit(p, KEY, ZEROS), TypeError, f"{NO_KEY}.*a dict with keys .*comes first"),
    (lambda p: fi.reinit(KEY, None, ZEROS), ValueError, "The tree has no leaves"),
    (lambda p: fi.reinit(KEY, {}, ZEROS), ValueError, "The tree has no leaves"),
    (lambda p: fi.reinit(KEY, "params", ZEROS), ValueError, "The tree is one str, in which"),
    (lambda p: fi.reinit(KEY, MODEL, ZEROS), ValueError, "The tree is one Dense, in which"),
    (
        lambda p: fi.reinit(KEY, endless(), ZEROS),
        ValueError,
        "never ends: a dict in it holds itself",
    ),
    (lambda p: fi.reinit(KEY, {"head": deleted()}, ZEROS), ValueError, "was deleted"),
    (lambda p: fi.reinit(KEY, {"head": 3}, ZEROS), ValueError, "it holds int. Narrow"),
    (lambda p: fi.reinit(KEY, {"head": KEY}, ZEROS), ValueError, "no initializer can make"),
    (lambda p: fi.reinit(KEY, {"head": "x"}, ZEROS), ValueError, "no initializer can make"),
    (lambda p: fi.reinit(KEY, p, None), TypeError, "needs rules, {where: initializer}"),
    (lambda p: fi.reinit(KEY, p, {}), ValueError, EMPTY_RULES),
    (lambda p: fi.reinit(KEY, p, []), ValueError, EMPTY_RULES),
    (lambda p: fi.reinit(KEY, p, "head"), TypeError, WHICH_NOT_WHAT),
    (lambda p: fi.reinit(KEY, p, 5), TypeError, WHICH_NOT_WHAT),
    (lambda p: fi.reinit(KEY, p, fi.zeros()), TypeError, WHICH_NOT_WHAT),
    (lambda p: fi.reinit(KEY, p, [("head",)]), TypeError, WHICH_NOT_WHAT),
    (lambda p: fi.reinit(KEY, p, [(fi.zeros(),)]), ValueError, "A rule is a pair"),
    (lambda p: fi.reinit(KEY, p, {"head": fi.zeros}), TypeError, r"the factory zeros.*zeros\("),
    (lambda p: fi.reinit(KEY, p, {"head": 0.0}), TypeError, r"such as flax_inits.constant\(0.0\)"),
    (
        lambda p: fi.reinit(KEY, p, {"head": "zeros"}),
        TypeError,
        "'zeros' where an initializer must",
    ),
    (lambda p: fi.reinit(KEY, p, {3: fi.zeros()}), TypeError, rf"{NO_WHERE}.*got 3 \(int\)"),
    (lambda p: fi.reinit(KEY, p, {b"head": fi.zeros()}), TypeError, rf"{NO_WHERE}.*\(bytes\)"),
    (lambda p: fi.reinit(KEY, p, {"": fi.zeros()}), ValueError, "The pattern is empty"),
    (lambda p: fi.reinit(KEY, p, {"/": fi.zeros()}), ValueError, "The pattern is empty"),
    (lambda p: fi.reinit(KEY, p, {"[": fi.zeros()}), ValueError, r"'\[' selects no leaf"),
    (lambda p: fi.reinit(KEY, p, {"/head": fi.zeros()}), ValueError, "Did you mean 'head'"),
    (lambda p: fi.reinit(KEY, p, {"head": raising}), RuntimeError, "the user's own"),
    (lambda p: fi.reinit(KEY, p, {"head": lambda *a: None}), ValueError, "one array, got None"),
    (
        lambda p: fi.reinit(KEY, p, {"head": lambda *a: jnp.ones(9)}),
        ValueError,
        r"shape \(9,\) where",
    ),
    (lambda p: fi.reinit(KEY, p, "head", init_fn=3), TypeError, "init_fn must be a callable"),
    (lambda p: fi.reinit(KEY, p, "head", init_fn=lambda k: None), ValueError, "makes no leaf at"),
    (lambda p: fi.reinit(KEY, p, "body", init_fn=model_params), ValueError, "no leaf at 'body/w'"),
    (
        lambda p: fi.reinit(KEY, p, {"head": True}, init_fn=lambda k: p),
        ValueError,
        "tree of bools has",
    ),
    (lambda p: fi.reinit(KEY, p, a_where_that_raises, init_fn=model_params), RuntimeError, "own"),
    (
        lambda p: fi.reinit(KEY, p, lambda *_: None, init_fn=model_params),
        TypeError,
        "return a bool",
    ),
    # selection
    (lambda p: fi.paths(endless()), ValueError, "never ends"),
    (lambda p: fi.select(endless(), "**"), ValueError, "never ends"),
    (
        lambda p: fi.paths([nnx.Linear(2, 2, rngs=nnx.Rngs(0)), endless()]),
        ValueError,
        "never ends",
    ),
    (lambda p: fi.select(p, None), TypeError, NO_WHERE),
    (lambda p: fi.select(p, []), ValueError, "an empty list"),
    (lambda p: fi.select({}, "**"), ValueError, "The tree has no leaves"),
    (
        lambda p: fi.select(p, fi.of_type(p, nn.Dense, X)),
        TypeError,
        "of_type needs a model: a Linen module",
    ),
    (lambda p: fi.select(p, fi.of_type(MODEL, "Dense", X)), TypeError, "a subclass of nn.Module"),
    (
        lambda p: fi.select(p, fi.of_type(MODEL, nn.Conv, X)),
        ValueError,
        "no module of class 'Conv'",
    ),
    (lambda p: fi.select(p, fi.of_type(MODEL, nn.Dense)), TypeError, "missing 1 required"),
    # graft
    (lambda p: fi.graft(p, None, "head"), ValueError, "The donor has no leaf at 'head/bias'"),
    (lambda p: fi.graft({"a": jnp.ones(2)}, {"a": deleted()}, "a"), ValueError, "was deleted"),
    (
        lambda p: fi.graft({"a": jnp.ones(2)}, {"a": jnp.ones(3)}, "a"),
        ValueError,
        r"has shape \(3,\)",
    ),
    (
        lambda p: fi.graft({"a": jnp.ones(2)}, {"a": np.ones(2, int)}, "a"),
        ValueError,
        "is int64, but",
    ),
    # optimizer states
    (lambda p: fi.reset_optimizer("adam", TX.init(p), p, "head"), TypeError, "tx must be an optax"),
    (
        lambda p: fi.reset_optimizer(TX, None, p, "head"),
        ValueError,
        "is not a state of this optimizer",
    ),
    (
        lambda p: fi.reset_optimizer(TX, p, p, "head"),
        ValueError,
        "is not a state of this optimizer",
    ),
    (lambda p: fi.reset_optimizer(TX, TX.init(p), p, "hed"), ValueError, "Did you mean 'head'"),
    (
        lambda p: fi.reset_optimizer(TX, TX.init(p), p, "head", counts="no"),
        ValueError,
        "counts must",
    ),
    (lambda p: fi.reinit_state(KEY, p, ZEROS), TypeError, "state must have params, opt_state, tx"),
    # jit_init
    (lambda p: fi.jit_init(3), TypeError, "needs a function that makes parameters, got 3"),
    (lambda p: fi.jit_init(raising)(KEY, X), RuntimeError, "the user's own"),
    (lambda p: fi.jit_init(MODEL.init)(), TypeError, "missing 1 required positional argument"),
    (lambda p: fi.jit_init(lambda k: {"a": "x"})(KEY), TypeError, "not a valid JAX type"),
    (lambda p: fi.jit_init(MODEL.init, rules="params")(KEY, X), TypeError, WHICH_NOT_WHAT),
    (lambda p: fi.jit_init(MODEL.init, rules={"bias": NORMAL})(KEY, X), ValueError, r"'\*\*/bias'"),
    (
        lambda p: fi.jit_init(MODEL.init, out_shardings="x")(KEY, X),
        TypeError,
        "gives 'x' for 'params",
    ),
    (
        lambda p: fi.jit_init(MODEL.init, out_shardings={"head": None})(KEY, X),
        ValueError,
        "out_shardings must be a tree of shardings, or a prefix.*It lacks 'params'",
    ),
    # factories
    (lambda p: NORMAL(KEY, (float("nan"),)), TypeError, "a sequence of integers"),
    (lambda p: NORMAL(KEY, "33"), TypeError, "a sequence of integers"),
    (lambda p: NORMAL(KEY, (-1,)), ValueError, "negative sizes"),
    (lambda p: NORMAL(KEY, (3,), "float33"), TypeError, "float33"),
    (lambda p: NORMAL(KEY, (3,), object), TypeError, "inexact dtypes, got dtype='object'"),
    (lambda p: NORMAL(KEY, (3,), None, "x"), ValueError, "out_sharding=x needs a mesh"),
    (lambda p: fi.fused_key(3), TypeError, f"{NO_KEY}.*got int: 3"),
]


@pytest.mark.parametrize("call, error, message", HOSTILE, ids=label)
def test_bad_input_is_refused_and_left_alone(call, error, message):
    given = params()
    leaves, treedef = jax.tree.flatten(given)
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        call(given)
    after, treedef_after = jax.tree.flatten(given)
    assert treedef == treedef_after
    assert all(one is other for one, other in zip(leaves, after, strict=True))
    assert all((leaf == 1).all() for leaf in after)


def test_a_note_says_where_a_users_own_error_came_from():
    with pytest.raises(RuntimeError) as caught:
        fi.reinit(KEY, params(), {"head": raising})
    assert "while initializing 'head/bias' by the rule for 'head'" in caught.value.__notes__


def test_what_cannot_be_hashed_and_what_prints_are_called_like_any_other(capsys):
    def printing(key, shape, dtype=None):
        print("drawing")
        return jnp.ones(shape, dtype)

    made = fi.reinit(KEY, params(), {"head": Unhashable(), "body": printing})
    assert (made["head"]["kernel"] == 7).all() and (made["body"]["w"] == 1).all()
    assert "drawing" in capsys.readouterr().out


@pytest.mark.parametrize("depth", [400, 1000])
def test_trees_may_be_deep(depth):
    deep = {"w": jnp.ones(3)}
    for _ in range(depth):
        deep = {"x": deep}
    if depth > 940 and sys.version_info < (3, 12):
        with pytest.raises(ValueError, match="nested more than 940 deep"):
            fi.paths(deep)
        return
    made = fi.reinit(KEY, deep, {"**/w": fi.zeros()})
    assert len(fi.paths(made)[0]) == depth + 1 and not jax.tree.leaves(made)[0].any()


@pytest.mark.slow
def test_wide_trees_take_time_in_proportion():
    def seconds(count):
        leaf, chosen = np.zeros(2, np.float32), jnp.zeros(2)
        blocks = {f"block_{i}": {"kernel": leaf, "bias": leaf} for i in range(count // 2)}
        tree = {**blocks, "head": {"kernel": chosen}}
        fi.reinit(KEY, tree, {"head": fi.ones()})
        start = time.process_time()
        made = fi.reinit(KEY, tree, {"head": fi.ones()})
        assert made["block_7"]["bias"] is leaf and made["head"]["kernel"].all()
        return time.process_time() - start

    small, large = seconds(10_000), seconds(100_000)
    assert large < 40 * small  # a quadratic step would take a hundred times as long


def test_an_interrupt_leaves_inputs_usable_and_no_threads():
    given = params()
    before = threading.active_count()

    def interrupted(key, shape, dtype=None):
        raise KeyboardInterrupt

    for donate in (False, True):
        with pytest.raises(KeyboardInterrupt):
            fi.reinit(KEY, given, {"body": fi.ones(), "head": interrupted}, donate=donate)
    with pytest.raises(KeyboardInterrupt):
        fi.jit_init(lambda key: {"a": NORMAL(key, (3,)), "b": interrupted(key, (3,))})(KEY)
    assert threading.active_count() == before
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(given))
    assert not fi.reinit(KEY, given, ZEROS)["head"]["kernel"].any()
