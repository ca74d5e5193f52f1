"""Rules that reach into NNX models, against the same models built with those initializers."""

import copy
import functools
import sys
import threading

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases_nnx import DEFAULT, LAYERS, plain
from flax import nnx
from jax.sharding import AxisType

import flax_inits
from flax_inits._modules.reach import STORED, THROUGH, with_rules
from flax_inits._tree.paths import flatten, path_hash, show

KEY = jax.random.key(3)
FAN = nnx.initializers.variance_scaling(2.0, "fan_out", "uniform")
WIDE = flax_inits.uniform(-0.3, 0.3)


def jitted(fun):
    """Compiled without optimisations: both sides alike, and many times faster here."""
    return jax.jit(fun, compiler_options={"xla_backend_optimization_level": 0})


def assert_same(got, want):
    chex.assert_trees_all_equal_structs(got, want)
    for name, one, other in zip(*flatten(got)[:2], jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other, err_msg=show(name))


def explained(fun, rules, *args):
    how = {}

    def run(*args):
        tree, found = with_rules(fun, rules).made(args, {})
        how.update({show(path): verdict for path, verdict in found.items()})
        return tree

    jax.eval_shape(run, *args)
    return how


def vmapped(make, **inits):
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return make(rngs, **inits)

    return lambda key: nnx.state(stack(nnx.Rngs(key)), nnx.Not(nnx.RngState))


def scanned(make, **inits):
    @nnx.split_rngs(splits=3)
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def stack(carry, rngs):
        return carry, make(rngs, **inits)

    return lambda key: nnx.state(stack(0, nnx.Rngs(key))[1], nnx.Not(nnx.RngState))


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("around", [plain, vmapped, scanned])
@pytest.mark.parametrize("name", LAYERS)
def test_a_rule_is_the_model_built_with_its_initializer(name, around):
    make, argument, path, default = LAYERS[name]
    for init in (WIDE, FAN)[: 2 if "kernel" in path else 1]:
        got = jitted(with_rules(around(make), {path: init}))(KEY)
        assert_same(got, jitted(around(make, **{argument: init}))(KEY))
    own = with_rules(around(make), {path: default})
    assert_same(jitted(own)(KEY), jitted(around(make))(KEY))
    assert set(explained(around(make), {path: WIDE}, KEY).values()) == {THROUGH}


class Block(nnx.Module):
    def __init__(self, rngs, kernel_init=DEFAULT):
        self.attention = nnx.MultiHeadAttention(
            2, 8, decode=False, kernel_init=kernel_init, rngs=rngs
        )
        self.linear = nnx.Linear(8, 8, kernel_init=kernel_init, rngs=rngs)


def pure(make, **inits):
    return lambda key: nnx.to_pure_dict(plain(make, **inits)(key))


def split(make, **inits):
    return lambda key: nnx.split(make(nnx.Rngs(key), **inits))


def jit_inside(make, **inits):
    return lambda key: nnx.jit(functools.partial(make, **inits))(nnx.Rngs(key))


def module(make, **inits):
    return lambda key: make(nnx.Rngs(key), **inits)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("returned", [pure, split, jit_inside, module])
def test_the_model_is_found_in_whatever_the_function_returns(returned):
    rules = {"**/linear/kernel": FAN, "**/attention/query/kernel": FAN}
    got = jitted(with_rules(returned(Block), rules))(KEY)
    whole = flatten(jitted(returned(Block, kernel_init=FAN))(KEY))
    want, before = dict(zip(*whole[:2], strict=True)), jitted(returned(Block))(KEY)
    assert jax.tree.structure(got) == jax.tree.structure(before)
    for name, leaf, old in zip(*flatten(got)[:2], jax.tree.leaves(before), strict=True):
        chosen = name[-2:] in (("linear", "kernel"), ("query", "kernel"))
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(leaf, want[name] if chosen else old)


class Subclass(nnx.LinearGeneral):
    """Its own `__init__` knows of no initializer."""

    def __init__(self, rngs):
        super().__init__(4, (2, 3), rngs=rngs)


def test_initializers_of_a_base_class_are_reached():
    rules = {"kernel": DEFAULT}
    assert explained(plain(Subclass), rules, KEY) == {"kernel": THROUGH}
    assert_same(jitted(with_rules(plain(Subclass), rules))(KEY), jitted(plain(Subclass))(KEY))


def annotated(rngs, init=DEFAULT):
    kernel_init = nnx.with_partitioning(init, (None, "model"))
    return nnx.Linear(4, 6, kernel_init=kernel_init, rngs=rngs)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_what_with_partitioning_adds_is_kept(kind):
    boxed = nnx.with_partitioning(FAN, ("model", None))
    with jax.set_mesh(jax.make_mesh((2,), ("model",), (kind,))):
        want = jitted(plain(annotated, init=FAN))(KEY)
        for init in (FAN, boxed):
            got = jitted(with_rules(plain(annotated), {"kernel": init}))(KEY)
            assert_same(got, want)
            assert got["kernel"].get_metadata() == want["kernel"].get_metadata()
            assert got["kernel"][...].sharding == want["kernel"][...].sharding


class Dense(nn.Module):
    init: object = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        heads = nn.MultiHeadDotProductAttention(2, kernel_init=self.init)  # type: ignore
        return heads(nn.Dense(8, kernel_init=self.init)(x))  # type: ignore


X = jnp.ones((1, 3, 4))


def to_nnx(rngs, **inits):
    return nnx.bridge.ToNNX(Dense(**inits), rngs=rngs).lazy_init(X)


def test_linen_modules_within_nnx_are_reached():
    rules = {"**/kernel": FAN}
    with jax.numpy_dtype_promotion("standard"):
        got = jitted(with_rules(plain(to_nnx), rules))(KEY)
        assert_same(got, jitted(plain(to_nnx, init=FAN))(KEY))


def to_linen(**inits):
    class Wrapping(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nnx.bridge.to_linen(nnx.LinearGeneral, 4, (2, 3), **inits)(x)

    return lambda key: Wrapping().init(key, X)


def test_nnx_modules_within_linen_are_reached():
    rules = {"params/**/kernel": FAN}
    with jax.numpy_dtype_promotion("standard"):
        got, want = (
            jitted(with_rules(to_linen(), rules))(KEY),
            jitted(to_linen(kernel_init=FAN))(KEY),
        )
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(one, other)


class Copying(nnx.Module):
    def __init__(self, rngs, kernel_init=DEFAULT):
        self.first = nnx.Param(copy.copy(kernel_init)(rngs.params(), (2, 4)))
        self.kernel = nnx.Param(copy.deepcopy(kernel_init)(rngs.params(), (2, 4)))


def test_an_initializer_may_be_copied():
    got = jitted(with_rules(plain(Copying), {"*": FAN}))(KEY)
    assert_same(got, jitted(plain(functools.partial(Copying, kernel_init=FAN)))(KEY))


class Bare(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(nnx.initializers.normal()(rngs.params(), (2, 4, 4)))
        self.b = nnx.Param(jnp.zeros(4))


def test_what_no_argument_makes_is_drawn_at_its_stored_shape():
    def values(key, leaf):
        return WIDE(jax.random.fold_in(key, path_hash(("b",))), leaf.shape, leaf.dtype)

    got = jitted(with_rules(plain(Bare), {"b": WIDE}))(KEY)
    np.testing.assert_array_equal(got["b"][...], jitted(values)(KEY, got["b"][...]))
    assert explained(plain(Bare), {"b": WIDE}, KEY) == {"b": STORED}


def test_three_axes_at_a_stored_shape_are_one_warning():
    with pytest.warns(UserWarning, match="made 'w', so the rule's initializer was called") as seen:
        with_rules(plain(Bare), {"**": WIDE})(KEY)
    assert len(seen) == 1 and seen[0].filename == __file__
    with_rules(plain(Bare), {"w": flax_inits.stacked(WIDE)})(KEY)


@pytest.mark.parametrize(
    ("rngs", "stream"),
    [
        (lambda: nnx.Rngs(params=0, dropout=1), "params"),
        (lambda: nnx.Rngs(1, carry=0), "default"),
        (lambda: nnx.Rngs(b=0, a=1), "a"),
    ],
)
def test_stored_shapes_take_the_key_of_the_params_stream(rngs, stream):
    got = jitted(with_rules(lambda rngs: {"b": jnp.zeros(4)}, {"b": WIDE}))(rngs())
    key = getattr(rngs(), stream).key[...]
    want = jitted(lambda key: WIDE(jax.random.fold_in(key, path_hash(("b",))), (4,)))(key)
    np.testing.assert_array_equal(got["b"], want)


def inits_of(*classes):
    return [vars(cls).get("__init__") for cls in classes] + [type(nnx.Pytree).__call__]


def test_modules_are_as_they_were():
    before = inits_of(Block, nnx.Linear, nnx.LinearGeneral)
    linear = nnx.LinearGeneral(2, 2, rngs=nnx.Rngs(0))
    got = with_rules(module(lambda rngs: nnx.LinearGeneral(2, 2, rngs=rngs)), {"kernel": FAN})(KEY)
    assert inits_of(Block, nnx.Linear, nnx.LinearGeneral) == before
    assert nnx.graphdef(got) == nnx.graphdef(linear)

    def failing(rngs):
        Block(rngs)
        raise RuntimeError("in the model")

    with pytest.raises(RuntimeError, match="in the model"):
        with_rules(plain(failing), {"**/kernel": FAN})(KEY)
    assert inits_of(Block, nnx.Linear, nnx.LinearGeneral) == before


def test_another_shape_is_refused_with_the_path():
    def turned(key, shape, dtype):
        return jnp.zeros((*shape, 2), dtype)

    with pytest.raises(ValueError, match="turned.* returned shape .* was asked for") as error:
        with_rules(plain(Block), {"linear/kernel": turned})(KEY)
    assert "while initializing 'linear/kernel' by the rule for" in error.value.__notes__[0]


def test_a_function_may_be_the_first_to_import_nnx(monkeypatch):
    def importing(key):
        sys.modules["flax.nnx"] = nnx
        return plain(Block)(key)

    monkeypatch.delitem(sys.modules, "flax.nnx")
    rules = {"attention/*/kernel": FAN}
    assert_same(
        jitted(with_rules(importing, rules))(KEY), jitted(with_rules(plain(Block), rules))(KEY)
    )


def test_wrong_arguments_fail_in_the_words_of_python():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'rngs'"):
        with_rules(lambda key: nnx.state(nnx.Linear(2, 2)), {"kernel": FAN})(KEY)  # type: ignore


@pytest.mark.slow
def test_rules_within_rules():
    inner = with_rules(plain(Block), {"linear/kernel": FAN})
    both = jitted(with_rules(inner, {"attention/*/kernel": FAN}))(KEY)
    assert_same(both, jitted(plain(Block, kernel_init=FAN))(KEY))
    outermost = jitted(with_rules(inner, {"**/kernel": WIDE}))(KEY)
    assert_same(outermost, jitted(plain(Block, kernel_init=WIDE))(KEY))


def test_a_trace_that_is_kept_hides_no_modules():
    make = nnx.jit(Block)
    plain_state = nnx.state(make(nnx.Rngs(KEY)), nnx.Param)

    def fun(key):
        return nnx.state(make(nnx.Rngs(key)), nnx.Param)

    assert set(explained(fun, {"**/kernel": FAN}, KEY).values()) == {THROUGH}
    assert_same(nnx.state(make(nnx.Rngs(KEY)), nnx.Param), plain_state)


@pytest.mark.slow
def test_threads_do_not_meet():
    results, barrier = {}, threading.Barrier(2)

    def work(name, rules):
        barrier.wait()
        for _ in range(3):
            fun = plain(Block) if rules is None else with_rules(plain(Block), rules)
            results[name] = jitted(fun)(KEY)

    rules = {"plain": None, "ruled": {"**/kernel": FAN}}
    threads = [threading.Thread(target=work, args=item) for item in rules.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(results["plain"], jitted(plain(Block))(KEY))
    assert_same(results["ruled"], jitted(plain(Block, kernel_init=FAN))(KEY))


def test_jit_init_and_reinit_reach_in():
    rules = {"**/query/kernel": FAN}
    init = flax_inits.jit_init(plain(Block), rules=rules)
    want = jax.jit(with_rules(plain(Block), rules))(KEY)
    assert_same(init(KEY), want)
    sources = {row.path: row.source for row in init.plan(KEY).rows}
    assert sources["attention", "query", "kernel"] == THROUGH
    old = plain(Block)(jax.random.key(9))
    new = flax_inits.reinit(KEY, old, rules, init_fn=plain(Block))
    np.testing.assert_array_equal(
        new["attention"]["query"]["kernel"][...], want["attention"]["query"]["kernel"][...]
    )
    assert new["linear"]["kernel"][...] is old["linear"]["kernel"][...]
