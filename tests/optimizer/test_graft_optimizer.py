"""Optimizer states that follow grafted params, for every optimizer that optax exports."""

import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from cases_optimizer import NAMES, boxed, make, new_params
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi
from flax_inits import (
    OptimizerStateWarning,
    cast,
    graft_optimizer,
    grow,
    resize,
    stack,
    take,
    tile,
    transpose,
    unstack,
)
from flax_inits._optimizer.entries import entries

pytestmark = pytest.mark.usefixtures("standard_promotion")


def numbered(state):
    """A state as training might leave it: each leaf holds values of its own."""
    leaves, treedef = jax.tree.flatten(state)
    return treedef.unflatten([_value(leaf, i) for i, leaf in enumerate(leaves)])


def _value(leaf, i):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return jax.random.split(leaf)[0] if leaf.shape == () else leaf
    if leaf.dtype == bool:
        return ~leaf
    return (jnp.arange(leaf.size).reshape(leaf.shape) + i + 1).astype(leaf.dtype)


def is_kept(entry, leaf):
    """Settings stay the target's, but for random keys."""
    random = leaf.dtype == np.uint32 or jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return entry.kind == "setting" and not random


@pytest.mark.sampled(18)
@pytest.mark.parametrize("box", [lambda tree: tree, boxed], ids=["plain", "boxed"])
@pytest.mark.parametrize("name", NAMES)
def test_identity(name, box):
    tx, params = make(name), new_params(0)
    state, donor = tx.init(box(params)), numbered(tx.init(params))
    after = graft_optimizer(tx, state, box(params), donor, params, {"**": "**"})
    assert jax.tree.structure(after) == jax.tree.structure(state)
    found = sorted(entries(tx, params), key=lambda entry: entry.index)
    rows = zip(found, *map(jax.tree.leaves, (after, donor, state)), strict=True)
    for entry, got, theirs, ours in rows:
        want = ours if is_kept(entry, got) else theirs
        assert got.dtype == ours.dtype and bool((got == want).all()), entry


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", NAMES)
def test_renamed_params(name):
    """Another name for a layer, and one layer more, which is fresh."""
    tx, old = make(name), new_params(0)
    params = {"trunk": old["body"], "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
    if name in ("multi_transform", "partition"):
        pytest.skip("has labels by name")
    donor, state = numbered(tx.init(old)), tx.init(params)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = graft_optimizer(tx, state, params, donor, old, {"trunk": "body"})
    found = sorted(entries(tx, params), key=lambda entry: entry.index)
    names = fi.paths(params)
    theirs = {
        path: leaf for path, leaf in zip(fi.paths(donor), jax.tree.leaves(donor), strict=True)
    }
    lost = any(issubclass(w.category, OptimizerStateWarning) for w in caught)
    assert lost == any(entry.kind == "mixed" for entry in found)
    for entry, got, ours in zip(found, *map(jax.tree.leaves, (after, state)), strict=True):
        owners = {names[i][0] for i in entry.params}
        if entry.kind == "own" and owners == {"trunk"}:
            path = tuple("body" if segment == "trunk" else segment for segment in entry.path)
            assert bool((got == theirs[path]).all()), entry
        elif entry.kind == "count":
            assert bool((got == theirs[entry.path]).all()), entry
        elif not is_kept(entry, got) and entry.kind != "setting":
            assert got is ours, entry


def trained(tx, params, steps=3):
    state = tx.init(params)
    for i in range(steps):
        grads = jax.tree.map(lambda p: jnp.sin(p * (i + 1)), params)  # noqa: B023
        _, state = tx.update(grads, state, params)
    return state


def table(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape)


ADAPTED = {
    "transpose": ((4, 3), (3, 4), [transpose(1, 0)], lambda a: a.T),
    "tile": ((4,), (3, 4), [tile(axis=0)], lambda a: np.stack([a] * 3)),
    "function": ((4,), (4,), [lambda a: a[::-1]], lambda a: a[::-1]),
    "resize": ((4, 4), (8, 8), [resize((0, 1), "nearest")], lambda a: a.repeat(2, 0).repeat(2, 1)),
    "drawn": ((2, 3), (5, 3), [grow(0, fi.normal(1))], lambda a: np.pad(a, ((0, 3), (0, 0)))),
    "mean": ((2, 3), (5, 3), [grow(0, "mean")], lambda a: np.pad(a, ((0, 3), (0, 0)))),
    "twice": (
        (2, 2),
        (5, 3),
        [grow(0, "mean", size=5), grow(1)],
        lambda a: np.pad(a, ((0, 3), (0, 1))),
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", ADAPTED)
def test_moments_are_adapted_as_the_param_is(case):
    given, wanted, adapters, want = ADAPTED[case]
    tx, old, params = optax.adam(0.1), {"v": table(*given)}, {"w": table(*wanted)}
    donor = trained(tx, old)
    after = graft_optimizer(tx, tx.init(params), params, donor, old, {"w": take("v", *adapters)})
    assert int(after[0].count) == 3
    np.testing.assert_array_equal(after[0].mu["w"], want(np.asarray(donor[0].mu["v"])))
    np.testing.assert_array_equal(after[0].nu["w"], want(np.asarray(donor[0].nu["v"])))


def test_grown_entries_are_as_in_a_fresh_state():
    """Adagrad's accumulator does not start at zero."""
    tx, old, params = optax.adagrad(0.1, 0.7), {"w": table(2, 3)}, {"w": table(4, 3)}
    rules = {"w": take("w", grow(axis=0, init=fi.normal(9)))}
    after = graft_optimizer(tx, tx.init(params), params, trained(tx, old), old, rules)
    (sums,) = (x for x in jax.tree.leaves(after) if x.shape == (4, 3))
    np.testing.assert_array_equal(sums[2:], np.full((2, 3), 0.7, "f"))
    assert (sums[:2] != 0.7).any()


def test_loops_and_scans():
    tx = optax.adam(0.1)
    loop = {f"layer_{i}": {"w": table(2, 3) + i} for i in range(11)}
    scan = {"layers": {"w": jnp.zeros((11, 2, 3))}}
    donor = trained(tx, loop)
    rules = {"layers/**": take("layer_*/**", stack(axis=0))}
    there = graft_optimizer(tx, tx.init(scan), scan, donor, loop, rules)
    assert (there[0].nu["layers"]["w"][10] == donor[0].nu["layer_10"]["w"]).all()
    rules = {"layer_*/**": take("layers/**", unstack(axis=0))}
    back = graft_optimizer(tx, tx.init(loop), loop, there, scan, rules)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), back, donor))


def test_second_moments_never_fall_below_zero():
    """Bicubic interpolation overshoots beside a peak."""
    tx, old, params = optax.adam(0.1), {"pos": table(4, 4)}, {"pos": table(9, 9)}
    donor = tx.init(old)
    peak = jnp.zeros((4, 4)).at[1, 1].set(1.0)
    donor = (donor[0]._replace(nu={"pos": peak}, mu={"pos": peak - 0.5}), *donor[1:])
    rules = {"pos": take("pos", resize(axes=(0, 1), method="bicubic"))}
    assert jax.image.resize(peak, (9, 9), "bicubic").min() < 0
    after = graft_optimizer(tx, tx.init(params), params, donor, old, rules)
    assert after[0].nu["pos"].min() == 0 and after[0].mu["pos"].min() < -0.5
    traced = jax.jit(lambda d: graft_optimizer(tx, tx.init(params), params, d, old, rules))(donor)
    np.testing.assert_allclose(traced[0].nu["pos"], after[0].nu["pos"], rtol=1e-5, atol=1e-6)


def test_factored_statistics_are_fresh_and_say_so():
    tx = optax.adafactor(0.1, min_dim_size_to_factor=2)
    old, params = {"w": table(4, 3), "b": table(3)}, {"w": table(6, 3), "b": table(3)}
    donor, state = trained(tx, old), tx.init(params)
    rules = {"w": take("w", grow(axis=0)), "b": "b"}
    with pytest.warns(OptimizerStateWarning, match="v_row.*could not follow"):
        after = graft_optimizer(tx, state, params, donor, old, rules)
    for path, got, fresh in zip(
        fi.paths(after), jax.tree.leaves(after), jax.tree.leaves(state), strict=True
    ):
        if "w" in path and "v_row" in path:
            assert got is fresh
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = graft_optimizer(tx, tx.init(old), old, donor, old, "**")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), same, donor))


def test_statistics_in_one_array_are_fresh_and_say_so():
    tx = optax.flatten(optax.adam(0.1))
    old, params = {"a": table(2), "b": table(3)}, {"a": table(2), "b": table(4)}
    state = tx.init(params)
    with pytest.warns(OptimizerStateWarning, match="0/mu' and '0/nu' of the optimizer state could"):
        after = graft_optimizer(tx, state, params, trained(tx, old), old, {"a": "a"})
    assert after[0].mu is state[0].mu


def test_another_wrapper():
    """Trained whole, then with a frozen part, each in its own way of holding Adam's moments."""
    old = {"body": table(3), "cls": table(2)}
    params = {"body": table(3), "head": table(4)}
    plain = optax.adam(0.1)
    labels = {"body": "slow", "head": "fast"}
    parts = optax.partition({"slow": optax.adam(0.01), "fast": optax.adam(0.1)}, labels)
    donor = trained(plain, old)
    rules = {"body": "body"}
    after = graft_optimizer(
        parts, parts.init(params), params, donor, old, rules, donor_tx=plain
    ).inner_states
    slow, fast = after["slow"].inner_state[0], after["fast"].inner_state[0]
    assert (slow.mu["body"] == donor[0].mu["body"]).all()
    assert int(slow.count) == 3 and int(fast.count) == 0
    chained = optax.chain(optax.clip(1.0), plain)
    back = graft_optimizer(
        plain, plain.init(params), params, trained(chained, old), old, rules, donor_tx=chained
    )
    assert int(back[0].count) == 3 and (back[0].mu["body"] != 0).any()


def test_what_the_donors_optimizer_does_not_have():
    tx, params = optax.adam(0.1), {"w": table(3)}
    sgd = optax.sgd(0.1, 0.9)
    with pytest.warns(OptimizerStateWarning, match="'0/count', '0/mu/w' and '0/nu/w' of the"):
        after = graft_optimizer(
            tx, tx.init(params), params, trained(sgd, params), params, "**", donor_tx=sgd
        )
    assert (after[0].mu["w"] == 0).all()


def test_a_state_restored_without_its_classes():
    tx, params = optax.adam(0.1), {"w": table(3)}
    donor = trained(tx, params)
    count, mu, nu = donor[0]
    raw = [{"count": count, "mu": mu, "nu": nu}, {}]
    after = graft_optimizer(tx, tx.init(params), params, raw, params, "**")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), after, donor))


def test_dtypes():
    params = {"w": table(3)}
    half, full = optax.adam(0.1, mu_dtype=jnp.bfloat16), optax.adam(0.1)
    args = (full.init(params), params, trained(half, params), params)
    with pytest.raises(ValueError, match=r"state is bfloat16 where '0/mu/w' is float32: add cast"):
        graft_optimizer(full, *args, "**", donor_tx=half)
    after = graft_optimizer(full, *args, {"w": take("w", cast())}, donor_tx=half)
    assert after[0].mu["w"].dtype == jnp.float32 and (after[0].mu["w"] != 0).any()


def test_hyperparameters_are_the_targets():
    tx = optax.inject_hyperparams(optax.adam)(0.1)
    params = {"w": table(3)}
    donor = trained(tx, params)
    donor.hyperparams["learning_rate"] = jnp.asarray(0.7)
    after = graft_optimizer(tx, tx.init(params), params, donor, params, "**")
    assert after.hyperparams["learning_rate"] == np.float32(0.1) and int(after.count) == 3


def test_sharded_moments():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": jax.device_put(table(16, 2), NamedSharding(mesh, P("x")))}
    tx, old = optax.adam(0.1), {"w": table(12, 2)}
    state = jax.jit(tx.init, out_shardings=None)(params)
    state = jax.tree.map(
        lambda x: jax.device_put(x, params["w"].sharding if x.ndim else NamedSharding(mesh, P())),
        state,
    )
    rules = {"w": take("w", grow(axis=0))}
    after = graft_optimizer(tx, state, params, trained(tx, old), old, rules)
    for got, was in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert got.sharding == was.sharding


def test_parts_of_params():
    tx, params, old = optax.adam(0.1), {"w": table(4, 2)}, {"w": table(4, 2)}
    donor = trained(tx, old)
    after = graft_optimizer(tx, tx.init(params), params, donor, old, fi.at("w", [0, 2]))
    np.testing.assert_array_equal(after[0].mu["w"][::2], donor[0].mu["w"][::2])
    assert (after[0].mu["w"][1::2] == 0).all()


def test_leaves_that_do_not_fit():
    tx, params, old = (
        optax.adam(0.1),
        {"a": table(2), "b": table(2)},
        {"a": table(2), "b": table(3)},
    )
    donor = trained(tx, old)
    with pytest.raises(ValueError, match=re.escape("'b' has shape (3,)")):
        graft_optimizer(tx, tx.init(params), params, donor, old, {"*": "*"})
    after = graft_optimizer(tx, tx.init(params), params, donor, old, {"*": "*"}, mismatch="keep")
    assert (after[0].mu["a"] != 0).any() and (after[0].mu["b"] == 0).all()
    with pytest.raises(ValueError, match="^opt_state is not a state of tx for params.*target's"):
        graft_optimizer(tx, donor[0].mu, params, donor, old, {"a": "a"})
    others = trained(optax.sgd(0.1, 0.9), old)
    with pytest.raises(ValueError, match="^donor_opt_state is not .* donor_tx for .* as donor_tx"):
        graft_optimizer(tx, tx.init(params), params, others, old, {"a": "a"})
    with pytest.raises(ValueError, match=r"^donor_opt_state holds .* donor_tx.init\(donor_p"):
        graft_optimizer(tx, tx.init(params), params, tx.init(params), old, {"a": "a"})
    with pytest.raises(TypeError, match="tx must be an optax.GradientTransformation, got 3"):
        graft_optimizer(3, donor, params, donor, old, {"a": "a"})


def test_nnx_optimizers():
    models = [nnx.Linear(2, size, rngs=nnx.Rngs(size)) for size in (3, 5)]
    old, new = (nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param) for model in models)
    old.update(models[0], jax.tree.map(jnp.ones_like, nnx.state(models[0], nnx.Param)))
    rules = {"**": take("**", grow(axis=-1))}
    args = (new.opt_state, models[1], old.opt_state, models[0], rules)
    with pytest.raises(TypeError, match=r"got Optimizer: give its tx\.$"):
        graft_optimizer(new, *args)
    new.opt_state = graft_optimizer(new.tx, *args)
    assert int(new.opt_state[0].count[...]) == 1
    np.testing.assert_allclose(new.opt_state[0].mu["bias"][...], [0.1] * 3 + [0] * 2, rtol=1e-6)


class Trained(nnx.Module):
    """A module with variables that no optimizer trains, before and after its params."""

    def __init__(self, rngs, classes):
        self.a_norm = nnx.BatchNorm(4, rngs=rngs)
        self.body = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, classes, rngs=rngs)


HYPER = optax.inject_hyperparams(optax.adam)(0.1)


@pytest.mark.parametrize("tx", [optax.adam(0.1), optax.MultiSteps(optax.adam(0.1), 2), HYPER])
def test_of_nnx_modules_only_params_are_followed(tx):
    models = [Trained(nnx.Rngs(size), size) for size in (3, 5)]
    old, new = (nnx.Optimizer(model, tx, wrt=nnx.Param) for model in models)
    for _ in range(2):
        old.update(models[0], jax.tree.map(jnp.ones_like, nnx.state(models[0], nnx.Param)))
    rules = {
        nnx.BatchStat: "**",
        "head/*": take("head/*", grow(axis=-1)),
        "**": "**",
    }
    args = (tx, new.opt_state, models[1], old.opt_state, models[0])
    state, given = graft_optimizer(*args, rules), old.opt_state
    for name in ("mu", "nu"):
        after, before = optax.tree.get(state, name), optax.tree.get(given, name)
        for path in (("body", "kernel"), ("a_norm", "scale")):
            now, then = (tree[path[0]][path[1]][...] for tree in (after, before))
            assert (now == then).all() and (now != 0).all()
        bias = after["head"]["bias"][...]
        assert (bias[:3] == before["head"]["bias"][...]).all() and (bias[3:] == 0).all()
    alone = graft_optimizer(*args, fi.all_but("head"))
    assert not optax.tree.get(alone, "mu")["head"]["kernel"][...].any()
    target = nnx.state(models[1], nnx.Param)
    other = graft_optimizer(tx, new.opt_state, target, given, models[0], fi.all_but("head"))
    chex.assert_trees_all_equal(other, alone)
    with pytest.raises(ValueError, match=r"take no nnx.Param, which are what is trained\.$"):
        graft_optimizer(*args, nnx.BatchStat)


def test_what_the_donor_does_not_train_is_lost():
    old, new = Trained(nnx.Rngs(0), 3), Trained(nnx.Rngs(1), 3)
    tx = optax.adam(0.1)
    state = tx.init(nnx.state(new, nnx.Param))
    args = (tx, state, new, trained(tx, nnx.state(old, nnx.Param)), old)
    rules = {"a_norm/scale": "a_norm/mean", "head": "head"}
    with pytest.warns(OptimizerStateWarning, match="a_norm/scale' .* could not follow"):
        after = graft_optimizer(*args, rules)
    assert int(after[0].count) == 3 and after[0].mu["head"]["kernel"][...].all()
    assert not after[0].mu["a_norm"]["scale"][...].any()
