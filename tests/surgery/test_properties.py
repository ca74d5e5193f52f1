"""Of any tree: structure, kept leaves and inputs stay; values depend on key and path alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from as_jit import assert_same
from flax import nnx, struct
from flax.core import FrozenDict, freeze
from flax.traverse_util import unflatten_dict
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import flax_inits as fi

KEY = jax.random.key(5)


@struct.dataclass
class Layer:
    kernel: object
    rest: object


NAMES = st.sampled_from(["a", "b", "Dense_1", "Dense_10", "x/y", "e[0]", "*", "ß", " ", "0"])
FLOATS = st.sampled_from([(), (3,), (2, 3), (0, 2)]).map(lambda shape: jnp.ones(shape))
OTHERS = st.sampled_from([3, 2.5, True, KEY, jnp.arange(3)])
BOXED = FLOATS.map(lambda x: nn.Partitioned(x, names=(None,) * x.ndim)) | FLOATS.map(nnx.Param)


def containers(inner):
    return (
        st.dictionaries(NAMES, inner, max_size=3)
        | st.dictionaries(NAMES, inner, max_size=2).map(freeze)
        | st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Layer, inner, inner)
    )


def trees(leaves):
    return st.dictionaries(
        NAMES, st.recursive(leaves, containers, max_leaves=8), min_size=1, max_size=3
    )


ANY = trees(FLOATS | BOXED | OTHERS | st.none())
PARAMS = trees(FLOATS | st.none())


def is_float(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)


def choose(data, tree):
    """Some of the tree's float leaves, as a `where`, with all paths."""
    names, leaves = fi.paths(tree), jax.tree.leaves(tree)
    floats = sorted(n for n, leaf in zip(names, leaves, strict=True) if is_float(leaf))
    assume(floats)
    chosen = data.draw(st.sets(st.sampled_from(floats), min_size=1))
    return names, leaves, chosen, lambda path, leaf: path in chosen


def unboxed(tree):
    """The same leaves under the same paths, in plain dicts."""
    return unflatten_dict(dict(zip(fi.paths(tree), jax.tree.leaves(tree), strict=True)))


@pytest.mark.slow
@given(ANY, st.data())
@settings(max_examples=30)
def test_reinit(tree, data):
    names, leaves, chosen, where = choose(data, tree)
    before = jax.tree.structure(tree)
    made = fi.reinit(KEY, tree, [(where, fi.uniform(5.0, 6.0))])
    assert jax.tree.structure(made) == before == jax.tree.structure(tree)
    assert all(x is y for x, y in zip(leaves, jax.tree.leaves(tree), strict=True))
    fresh = {}
    for name, old, new in zip(names, leaves, jax.tree.leaves(made), strict=True):
        if name in chosen:
            assert new.shape == old.shape and (new >= 5).all()
            fresh[name] = np.asarray(new)
        else:
            assert new is old
    # Neither the other leaves nor the containers have a part in the values.
    for name, values in fresh.items():
        leaf = jnp.ones(values.shape)
        for segment in reversed(name):
            leaf = {segment: leaf}
        (again,) = jax.tree.leaves(fi.reinit(KEY, leaf, {"**": fi.uniform(5.0, 6.0)}))
        np.testing.assert_array_equal(again, values)


@given(ANY, st.data())
@settings(max_examples=30)
def test_graft(tree, data):
    names, leaves, chosen, where = choose(data, tree)
    donor = jax.tree.map(lambda leaf: leaf + 1 if is_float(leaf) else leaf, tree)
    made = fi.graft(tree, donor, where)
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    assert all(x is y for x, y in zip(leaves, jax.tree.leaves(tree), strict=True))
    for name, old, new in zip(names, leaves, jax.tree.leaves(made), strict=True):
        assert (new == old + 1).all() if name in chosen else new is old


@given(ANY, st.data())
@settings(max_examples=30)
def test_select_is_monotone_and_complements(tree, data):
    names, _, chosen, where = choose(data, tree)
    mask = fi.select(tree, where)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    assert [n for n, flag in zip(names, jax.tree.leaves(mask), strict=True) if flag] == [
        n for n in names if n in chosen
    ]
    more = fi.select(tree, [mask, lambda path, leaf: path not in chosen or path in chosen])
    assert all(jax.tree.leaves(more))


@given(ANY, st.data())
@settings(max_examples=30)
def test_literal_paths_and_all_but(tree, data):
    names, _, chosen, _ = choose(data, tree)
    assert jax.tree.leaves(fi.select(tree, list(chosen))) == [name in chosen for name in names]
    if len(chosen) < len(names):
        others = jax.tree.leaves(fi.select(tree, fi.all_but(list(chosen))))
        assert others == [name not in chosen for name in names]


@given(ANY, st.data())
@settings(max_examples=15)
def test_slices(tree, data):
    names, leaves = fi.paths(tree), jax.tree.leaves(tree)
    able = [n for n, leaf in zip(names, leaves, strict=True) if is_float(leaf) and leaf.size > 1]
    assume(able)
    path = data.draw(st.sampled_from(able))
    old = leaves[names.index(path)]
    axis = data.draw(st.integers(-old.ndim, old.ndim - 1))
    rows = data.draw(st.sets(st.integers(0, old.shape[axis] - 1), min_size=1))
    made = fi.reinit(KEY, tree, {fi.at(path, sorted(rows), axis): fi.uniform(5.0, 6.0)})
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    whole = jax.tree.leaves(fi.reinit(KEY, tree, {path: fi.uniform(5.0, 6.0)}))
    for name, one, new, full in zip(names, leaves, jax.tree.leaves(made), whole, strict=True):
        if name != path:
            assert new is one
            continue
        for row in range(old.shape[axis]):
            source = full if row in rows else old
            np.testing.assert_array_equal(new.take(row, axis), source.take(row, axis))


@given(PARAMS, st.data())
@settings(max_examples=15)
def test_reset_optimizer(tree, data):
    names, leaves, chosen, where = choose(data, tree)
    tx = optax.sgd(0.1, momentum=0.9)
    state = jax.tree.map(lambda x: x + 1, tx.init(tree))
    made = fi.reset_optimizer(tx, state, tree, where)
    assert jax.tree.structure(made) == jax.tree.structure(state)
    old, new = (jax.tree.leaves(s[0].trace) for s in (state, made))
    for name, kept, value in zip(names, old, new, strict=True):
        assert not value.any() if name in chosen else value is kept


@pytest.mark.slow
@given(trees(st.sampled_from(["normal", "uniform", "zeros"]) | st.none()), st.data())
@settings(max_examples=8)
def test_jit_init(recipe, data):
    assume(jax.tree.leaves(recipe))
    shape = data.draw(st.sampled_from([(3,), (2, 7), (2, 3, 4)]))

    def init(key):
        leaves, treedef = jax.tree.flatten(recipe)
        keys = jax.random.split(key, len(leaves))
        made = [getattr(jax.nn.initializers, name) for name in leaves]
        made = [f if name == "zeros" else f() for f, name in zip(made, leaves, strict=True)]
        return treedef.unflatten([f(k, shape) for f, k in zip(made, keys, strict=True)])

    assert_same(fi.jit_init(init)(KEY), jax.jit(init)(KEY))


@pytest.mark.parametrize("wrap", [dict, freeze, lambda tree: Layer(tree, None), lambda t: [t]])
def test_containers_have_no_part_in_values(wrap):
    tree = {"kernel": jnp.ones((3, 4)), "x": FrozenDict(a=jnp.ones(2))}
    made = fi.reinit(KEY, wrap(tree), {"**": fi.normal(1.0)})
    names = fi.paths(wrap(tree))
    plain = fi.reinit(KEY, unboxed(wrap(tree)), {"**": fi.normal(1.0)})
    values = dict(zip(fi.paths(plain), jax.tree.leaves(plain), strict=True))
    for name, leaf in zip(names, jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(leaf, values[name])
