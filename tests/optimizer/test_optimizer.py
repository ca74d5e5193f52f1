"""Optimizer state by param: every optimizer that optax exports, wrappers, counts, layouts."""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from cases_optimizer import (
    COUPLED,
    EXPORTED,
    NAMES,
    OTHERS,
    TABLE,
    boxed,
    make,
    new_params,
    replicate,
    update_of,
    value,
)
from compiles import count_compiles
from flax.core import FrozenDict, freeze
from flax.training.train_state import TrainState
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr

import flax_inits
from flax_inits import OptimizerStateWarning, reset_optimizer
from flax_inits._optimizer.entries import entries
from flax_inits._optimizer.matching import matched

# Compiled in CI only: what these do, others that contain them or are like them show as well.
TWINS = """adamaxw adamw nadam nadamw dowg momo multi_transform named_chain noisy_sgd
inject_stateful_hyperparams schedule_free_adamw dpsgd conditionally_transform
optimistic_adam""".split()
RUN = [
    pytest.param(n, marks=pytest.mark.slow if n in TWINS or n.startswith("scale_by_") else ())
    for n in NAMES
]


def test_every_optimizer_of_this_optax_was_looked_at():
    unknown = EXPORTED.keys() - TABLE - OTHERS
    assert not unknown, f"new in optax {optax.__version__}: add {sorted(unknown)} to the cases"


def contains(path, part):
    return any(path[i : i + len(part)] == part for i in range(len(path)))


# Statistics that are no single param's, by optimizer: all others' leaves have an owner, or are
# scalars, settings and random keys.
MIXED = {
    "flatten": 2,
    "lbfgs": 1,
    "scale_by_lbfgs": 1,
    "mechanize": 4,
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", NAMES)
def test_each_leaf_has_its_owner(name):
    """Labelled leaves lie at a path in which the param's occurs; all others are accounted for."""
    plain_tree = new_params()
    expected = None
    for params in (plain_tree, freeze(plain_tree), boxed(plain_tree)):
        found = entries(make(name), params)
        names = flax_inits.paths(params)
        for entry in found:
            if entry.kind == "own":
                (owner,) = entry.params
                assert contains(entry.path, names[owner]), entry
            else:
                assert entry.kind == "mixed" or entry.shape == () or entry.kind == "setting", entry
                assert not any(contains(entry.path, path) for path in names), entry
        facts = [(e.path, e.params, e.kind) for e in found]
        expected = expected or facts
        assert facts == expected
        assert sum(e.kind == "mixed" for e in found) == MIXED.get(name, 0)


by_standard = jax.numpy_dtype_promotion("standard")
"""optax needs it: Adam takes a float to the power of an integer, Prodigy mixes dtypes."""


@functools.cache
def trained(name):
    """What a step, resets and another step make, in one program to compile only once.

    Which leaves are the same objects is seen while it is traced.
    """
    tx, how = make(name), update_of(name)

    @by_standard
    def update(state, params):
        return how(tx, jax.grad(value)(params), state, params)

    def run(old, other):
        state = tx.init(old)
        updates, state = update(state, old)
        params = {**optax.apply_updates(old, updates), "count": other["count"]}
        found = matched(tx, state, params)[1]
        reset = reset_optimizer(tx, state, params, "count")
        alone = fresh_but_for_shared(found, state, tx.init(params))
        # A coupled one's steps depend on all params by design: there is no truth for a part.
        states = [] if name in COUPLED else [state, reset, alone]
        everything = reset_optimizer(tx, state, params, "**", counts="reset", strict=True)
        return {
            "identity": [same_objects(state, reset), same_objects(state, everything)],
            "reset": [jax.tree.leaves(tree) for tree in (state, reset, everything)],
            "fresh": [fresh_leaf(entry, tx.init(params)) for entry in found],
            "updates": [update(tree, params)[0] for tree in states],
        }

    def fresh_leaf(entry, init):
        return None if entry.kind == "grown" else jax.tree.leaves(init)[entry.index]

    def fresh_but_for_shared(found, state, init):
        leaves = [
            fresh_leaf(entry, init) if entry.kind == "own" else old
            for entry, old in zip(found, jax.tree.leaves(state), strict=True)
        ]
        return jax.tree.structure(state).unflatten(leaves)

    def after_a_step():
        return matched(
            tx, jax.eval_shape(lambda p: update(tx.init(p), p)[1], new_params()), new_params()
        )[1]

    rank = "allow" if "distance" in name else "raise"  # This one relies on rank promotion.
    with jax.numpy_rank_promotion(rank), warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizerStateWarning)
        compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
        return after_a_step(), compiled(new_params(), new_params(1))


def same_objects(tree, other):
    return jax.tree.leaves(jax.tree.map(lambda a, b: jnp.bool_(a is b), tree, other))


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("name", RUN)
def test_worked_truth(name):
    """The next update of reset params is a fresh optimizer's, but for what all params share."""
    found, results = trained(name)
    chosen = {i for i, path in enumerate(flax_inits.paths(new_params())) if path[0] == "count"}
    for entry, same, old, new, init in zip(
        found, results["identity"][0], *results["reset"][:2], results["fresh"], strict=True
    ):
        if entry.kind == "own" and entry.params <= chosen:
            np.testing.assert_array_equal(new, init)
            assert new.dtype == old.dtype and not same
        else:
            assert same, entry
    if results["updates"]:
        kept, reset, alone = results["updates"]
        jax.tree.map(np.testing.assert_array_equal, reset["count"], alone["count"])
        jax.tree.map(np.testing.assert_array_equal, reset["body"], kept["body"])


@pytest.mark.sampled(27, rest="thorough")
@pytest.mark.parametrize("name", RUN)
def test_all_of_it_is_a_fresh_state(name):
    """With every param chosen and counts reset, only settings and random keys are left."""
    found, results = trained(name)
    for entry, same, new, init in zip(
        found, results["identity"][1], results["reset"][2], results["fresh"], strict=True
    ):
        if entry.kind in ("setting", "grown"):
            assert same, entry
        else:
            np.testing.assert_array_equal(new, init)


# Wrappers, masks, and names that mislead.


@by_standard
def state_after(tx, params, steps=2):
    state = tx.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda leaf, step=step: jnp.full_like(leaf, step + 1.0), params)
        _, state = tx.update(grads, state, params)
    return state


def changed(old, new):
    """The paths of the leaves that a reset replaced, which must all be at their initial values."""
    pairs = zip(flax_inits.paths(old), jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return {"/".join(path) for path, a, b in pairs if a is not b}


SMALL = {"Dense_1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "Dense_10": jnp.ones(2)}


def test_one_layer_of_adam():
    tx = optax.adam(0.1)
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, "Dense_1")
    assert changed(state, new) == {
        f"0/{moment}/Dense_1/{leaf}" for moment in ("mu", "nu") for leaf in ("bias", "kernel")
    }
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert not new[0].mu["Dense_1"]["kernel"].any() and new[0].count is state[0].count


def test_accumulated_gradients_are_reset_too():
    tx = optax.MultiSteps(optax.adam(0.1), 4)
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, "Dense_10")
    assert "acc_grads/Dense_10" in changed(state, new)
    assert not new.acc_grads["Dense_10"].any() and state.acc_grads["Dense_10"].all()
    assert new.mini_step is state.mini_step


def last_key(tree):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)


def whole_path(tree):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: [entry.key for entry in path] == ["Dense_1", "kernel"], tree
    )


def joined_path(tree):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: keystr(path) == "['Dense_1']['kernel']", tree
    )


@pytest.mark.parametrize("mask", [last_key, whole_path, joined_path])
@pytest.mark.parametrize("inner", [optax.adam, optax.sm3])
def test_masks_that_read_key_paths(mask, inner):
    """The nodes that carry the labels must not change what such a mask selects."""
    tx = optax.chain(optax.masked(inner(0.1), mask), optax.trace(0.9))
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, "Dense_1/kernel")
    replaced = changed(state, new)
    assert all("Dense_1/kernel" in path for path in replaced)
    expected = {"/".join(p) for p in flax_inits.paths(state) if "kernel" in p}
    assert replaced == expected and "1/trace/Dense_1/kernel" in replaced
    if mask is whole_path:
        other = reset_optimizer(tx, state, SMALL, "Dense_10")
        assert changed(state, other) == {"1/trace/Dense_10"}


def test_prefix_labels_nested_masks_and_injected_hyperparams():
    inner = optax.masked(optax.masked(optax.adam(0.1), {"Dense_1": last_key}), True)
    inner = {"kernel": True, "bias": False}
    tx = optax.inject_hyperparams(
        lambda rate: optax.partition(
            {
                "a": optax.masked(optax.adam(rate), {"Dense_1": inner, "Dense_10": True}),
                "b": optax.adagrad(rate),
            },
            {"Dense_1": "a", "Dense_10": "b"},
        )
    )(0.1)
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, ["Dense_1", "Dense_10"])
    root = "inner_state/inner_states"
    assert changed(state, new) == {
        f"{root}/a/inner_state/inner_state/0/mu/Dense_1/kernel",
        f"{root}/a/inner_state/inner_state/0/nu/Dense_1/kernel",
        f"{root}/b/inner_state/0/sum_of_squares/Dense_10",
    }
    # Fresh is not zero: Adagrad starts at 0.1.
    np.testing.assert_array_equal(
        new.inner_state.inner_states["b"].inner_state[0].sum_of_squares["Dense_10"],
        np.full(2, 0.1, np.float32),
    )


def test_states_that_hold_params_hold_the_new_ones():
    tx = optax.contrib.prodigy(0.1)
    state = state_after(tx, SMALL)
    params = {**SMALL, "Dense_10": jnp.full(2, 7.0)}
    new = reset_optimizer(tx, state, params, "Dense_10")
    np.testing.assert_array_equal(new.params0["Dense_10"], params["Dense_10"])
    assert new.params0["Dense_1"]["bias"] is state.params0["Dense_1"]["bias"]
    # Memory of its own, so that a training step may donate both.
    pointers = {t["Dense_10"].unsafe_buffer_pointer() for t in (new.params0, params)}
    assert len(pointers) == 2


def test_the_moments_of_lookahead_are_those_of_the_fast_params():
    tx = optax.lookahead(optax.adam(0.1), 3, 0.5)
    params = optax.LookaheadParams.init_synced(SMALL)
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(params))
    new = reset_optimizer(tx, state, params, "*/Dense_10")
    assert changed(state, new) == {"fast_state/0/mu/Dense_10", "fast_state/0/nu/Dense_10"}
    found = entries(tx, params)
    owners = {e.path: e.params for e in found if e.kind == "own"}
    names = [flax_inits.paths(params)[next(iter(owner))] for owner in owners.values()]
    assert all(contains(path, name[1:]) for path, name in zip(owners, names, strict=True))


def test_a_state_of_plain_containers():
    """As a checkpoint gives it back without a target: dicts instead of tuples, NumPy arrays."""
    tx = optax.adam(0.1)
    state = jax.device_get(state_after(tx, SMALL))
    plain = {"0": {"count": state[0].count, "mu": state[0].mu, "nu": state[0].nu}, "1": {}}
    new = reset_optimizer(tx, plain, SMALL, "Dense_10")
    assert changed(plain, new) == {"0/mu/Dense_10", "0/nu/Dense_10"}
    assert type(new) is dict and not new["0"]["nu"]["Dense_10"].any()


def test_state_of_a_frozen_tree_and_params_of_a_dict():
    tx = optax.adam(0.1)
    state = state_after(tx, freeze(SMALL))
    new = reset_optimizer(tx, state, SMALL, "Dense_1/kernel")
    assert type(new[0].mu) is FrozenDict
    assert changed(state, new) == {"0/mu/Dense_1/kernel", "0/nu/Dense_1/kernel"}


def test_list_params_empty_nodes_and_none():
    tx = optax.chain(optax.adam(0.1), optax.trace(0.9))
    params = [jnp.ones(2), {"a": None, "b": {}, "c": jnp.ones(3)}]
    state = state_after(tx, params)
    new = reset_optimizer(tx, state, params, "1")
    assert changed(state, new) == {"0/0/mu/1/c", "0/0/nu/1/c", "1/trace/1/c"}
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_an_init_that_looks_into_the_params():
    """Where nodes around params break init, key paths say whose a leaf is."""

    def init(params):
        assert params["Dense_10"].shape == (2,)
        return {"steps": jnp.zeros([], int), "moments": jax.tree.map(jnp.zeros_like, params)}

    tx = optax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(SMALL))
    new = reset_optimizer(tx, state, SMALL, "Dense_10", strict=True)
    assert changed(state, new) == {"moments/Dense_10"}


def test_an_optimizer_that_cannot_be_hashed():
    class Unhashable(list):
        def __call__(self, params):
            return jax.tree.map(jnp.zeros_like, params)

    tx = optax.GradientTransformation(Unhashable(), lambda u, s, p=None: (u, s))
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(SMALL))
    assert changed(state, reset_optimizer(tx, state, SMALL, "Dense_10")) == {"Dense_10"}


def test_a_state_that_says_nothing_of_its_params():
    def init(params):
        assert params["Dense_10"].shape == (2,)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])

    tx = optax.GradientTransformation(init, lambda u, s, p=None: (u, s))
    with pytest.raises(ValueError, match="No leaf of the optimizer's state could be attributed"):
        reset_optimizer(tx, tx.init(SMALL), SMALL, "Dense_10")


KEYS = st.sampled_from(["a", "b", "count", "mu", "0", "inner_state"])
TREES = st.recursive(
    st.just(None) | st.sampled_from([(), (2,), (2, 3)]).map(lambda shape: ("leaf", shape)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.slow
@given(TREES)
def test_owners_in_any_tree(spec):
    """With Adam in a mask, moments come in the order of the params, whatever these are called."""
    params = jax.tree.map(
        lambda leaf: None if leaf is None else jax.ShapeDtypeStruct(leaf[1], jnp.float32),
        spec,
        is_leaf=lambda node: node is None or isinstance(node, tuple),
    )
    tx = optax.chain(optax.masked(optax.adam(0.1), lambda tree: jax.tree.map(lambda _: True, tree)))
    owned = [next(iter(e.params)) for e in entries(tx, params) if e.kind == "own"]
    assert owned == 2 * list(range(len(jax.tree.leaves(params))))


# Counts, and what belongs to several.


def test_the_documented_overshoot():
    """Fresh moments under an old count: steps of up to 6.6 times the learning rate, at t = 12."""
    tx, params = optax.scale_by_adam(), {"head": jnp.ones(())}
    grads = {"head": jnp.ones(())}
    state = tx.init(params)._replace(count=jnp.asarray(50_000, jnp.int32))

    @by_standard
    def step(state, _):
        updates, state = tx.update(grads, state)
        return state, updates["head"]

    steps = jax.lax.scan(step, reset_optimizer(tx, state, params, "head"), length=30)[1]
    assert round(float(steps.max()), 1) == 6.6 and int(steps.argmax()) == 11
    np.testing.assert_allclose(steps[:2], [3.162, 4.250], rtol=1e-3)
    restarted = reset_optimizer(tx, state, params, "head", counts="reset")
    steps = jax.lax.scan(step, restarted, length=30)[1]
    np.testing.assert_allclose(steps, 1, rtol=1e-4)


LABELS = {"Dense_1": "body", "Dense_10": "head"}


def test_counts_of_a_group_that_is_chosen_as_a_whole():
    parts = {"body": optax.adam(0.1), "head": optax.adam(optax.linear_schedule(0.1, 0, 9))}
    tx = optax.partition(parts, LABELS)
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, "Dense_10", counts="reset")
    head = "inner_states/head/inner_state"
    # The schedule's count has no param beside it, so it is taken for everyone's, and kept.
    assert changed(state, new) == {
        f"{head}/0/count",
        f"{head}/0/mu/Dense_10",
        f"{head}/0/nu/Dense_10",
    }
    assert int(new.inner_states["head"].inner_state[0].count) == 0


def test_counts_of_a_group_that_is_not():
    tx = optax.adam(0.1)
    with pytest.raises(ValueError) as error:
        reset_optimizer(tx, tx.init(SMALL), SMALL, "Dense_10", counts="reset")
    assert str(error.value) == (
        "counts='reset' needs all params that share a count, but 'Dense_10' shares '0/count' with "
        "'Dense_1/bias' and 'Dense_1/kernel'. Choose these as well, give the chosen params an "
        "optimizer of their own by optax.partition, or say counts='keep'."
    )


def test_mixed_statistics_are_reported():
    tx = optax.flatten(optax.adam(0.1))
    state = state_after(tx, SMALL)
    with pytest.warns(
        OptimizerStateWarning, match=r"^'0/mu' and '0/nu' of the optimizer state"
    ) as w:
        new = reset_optimizer(tx, state, SMALL, "Dense_1")
    assert w[0].filename == __file__
    assert not changed(state, new)
    given = TrainState.create(apply_fn=None, params=SMALL, tx=tx).replace(opt_state=state)
    with pytest.warns(OptimizerStateWarning, match=r"^'0/mu' and '0/nu' of the optim") as w:
        flax_inits.reinit_state(jax.random.key(0), given, {"Dense_1": flax_inits.zeros()})
    assert w[0].filename == __file__
    with pytest.raises(ValueError, match=r"cannot be split by param or slice.*strict=False"):
        reset_optimizer(tx, state, SMALL, "Dense_1", strict=True)
    assert changed(state, reset_optimizer(tx, state, SMALL, "**", strict=True)) == {"0/mu", "0/nu"}


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.MultiSteps(tx, 2)])
def test_constants_are_no_statistics(wrap):
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))}
    tx = wrap(optax.contrib.muon(0.1))
    reset_optimizer(tx, tx.init(params), params, "a", strict=True)


FLAT = {
    "prodigy": (lambda: optax.contrib.prodigy(0.1), "params0"),
    "dog": (optax.contrib.dog, "1/init_params"),
    "dowg": (optax.contrib.dowg, "1/init_params"),
    "cocob": (optax.contrib.cocob, "2/init_particles"),
    "madgrad": (lambda: optax.contrib.madgrad(0.1), "1/x0"),
    "schedule_free": (optax.contrib.schedule_free_sgd, "z"),
}
WRAPPERS = {
    "alone": (lambda tx: tx, ""),
    "chain": (lambda tx: optax.chain(optax.clip(1.0), tx), "1/"),
    "masked": (lambda tx: optax.masked(tx, True), "inner_state/"),
    "MultiSteps": (lambda tx: optax.MultiSteps(tx, 2), "inner_opt_state/"),
    "apply_if_finite": (lambda tx: optax.apply_if_finite(tx, 2), "inner_state/"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", FLAT)
def test_flattened_copies_of_the_old_params_are_reported(name, wrapper):
    """Updates hand them on untouched, so by updates alone they would pass for settings."""
    if not hasattr(optax.contrib, name.replace("schedule_free", "schedule_free_sgd")):
        pytest.skip("not in this optax")
    (factory, path), (wrap, prefix) = FLAT[name], WRAPPERS[wrapper]
    tx = wrap(optax.flatten(factory()))
    state = tx.init(SMALL)
    params = {**SMALL, "Dense_1": jax.tree.map(lambda leaf: 7 * leaf, SMALL["Dense_1"])}
    with pytest.raises(ValueError, match=f"'{prefix}{path}'.*of the optimizer state cannot be"):
        reset_optimizer(tx, state, params, "Dense_1", strict=True)
    new = reset_optimizer(tx, state, params, "**", counts="reset", strict=True)
    jax.tree.map(np.testing.assert_array_equal, new, tx.init(params))


# States that grow.


class Grown(NamedTuple):
    moments: Any
    measures: Any


def growing(measures, made):
    """An optimizer with moments whose updates put `made` where a fresh state has `measures`."""

    def init(params):
        return Grown(jax.tree.map(jnp.zeros_like, params), measures)

    return optax.GradientTransformation(init, lambda u, s, p=None: (u, Grown(u, made)))


@pytest.mark.parametrize("measures", [{}, None, ()])
def test_what_grew_in_training_is_left_alone(measures):
    tx = growing(measures, {"n": jnp.ones(3)})
    state = state_after(tx, SMALL)
    new = reset_optimizer(tx, state, SMALL, "Dense_10")
    assert changed(state, new) == {"moments/Dense_10"}
    everything = reset_optimizer(tx, state, SMALL, "**", counts="reset", strict=True)
    assert everything.measures["n"] is state.measures["n"]
    # Not so what no update of this optimizer makes.
    with pytest.raises(ValueError, match="It has 'measures/other' beyond them"):
        reset_optimizer(tx, state._replace(measures={"other": jnp.ones(3)}), SMALL, "Dense_10")


# One copy of all for each device of `pmap`.


STACKED = {
    "adam": lambda: optax.adam(0.1),
    "partition": lambda: optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}, {"Dense_1": "a", "Dense_10": "b"}
    ),
    "sm3": lambda: optax.sm3(0.1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "flat prodigy": lambda: optax.flatten(optax.contrib.prodigy(0.1)),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1), 2),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", STACKED)
def test_states_that_pmap_replicated(name):
    """As the state of one copy, replicated: for what keeps scalars or looks at ranks, too."""
    tx = STACKED[name]()
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(SMALL))
    expected = replicate(reset_optimizer(tx, state, SMALL, "**", counts="reset"))
    state = replicate(state)
    new = reset_optimizer(tx, state, replicate(SMALL), "**", counts="reset")
    jax.tree.map(np.testing.assert_array_equal, new, expected)
    for leaf, old in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
        assert (leaf.sharding, leaf.dtype) == (old.sharding, old.dtype)


def test_a_part_of_a_replicated_state():
    tx = optax.adam(0.1)
    state = replicate(state_after(tx, SMALL))
    new = reset_optimizer(tx, state, replicate(SMALL), "Dense_10")
    assert changed(state, new) == {"0/mu/Dense_10", "0/nu/Dense_10"}
    with pytest.raises(ValueError, match="'Dense_10' shares '0/count' with 'Dense_1/bias'"):
        reset_optimizer(tx, state, replicate(SMALL), "Dense_10", counts="reset")
    with pytest.raises(ValueError, match=r"'0/count' with shape \(8,\), but .* with shape \(\)"):
        reset_optimizer(tx, state, SMALL, "Dense_10")


def test_an_ensemble_under_jit():
    """States of `vmap` are stacked alike, each with params of its own."""
    tx = optax.contrib.prodigy(0.1)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), SMALL)
    state = jax.vmap(tx.init)(jax.tree.map(jnp.zeros_like, params))
    new = jax.jit(lambda s, p: reset_optimizer(tx, s, p, "Dense_10"))(state, params)
    np.testing.assert_array_equal(new.params0["Dense_10"], params["Dense_10"])
    assert not new.params0["Dense_1"]["bias"].any()


# Layouts, tracing, programs.


def sharded(tree, mesh):
    def put(leaf):
        spec = PartitionSpec(*("x" if size % 8 == 0 else None for size in leaf.shape[:1]))
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


SHARDED = {"body": jnp.ones((8, 2)), "head": jnp.ones((16, 2), jnp.bfloat16)}


@by_standard
def test_sharded_states_cost_no_retrace_of_the_step():
    mesh = Mesh(np.array(jax.devices()), "x")
    params, tx = sharded(SHARDED, mesh), optax.contrib.prodigy(0.1)
    state = sharded(tx.init(params), mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, (params, state))

    @functools.partial(jax.jit, donate_argnums=(0, 1), out_shardings=layout)
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):  # Prodigy itself settles its dtypes in the first two.
        params, state = step(params, jax.tree.map(jnp.copy, state))
    reset_optimizer(tx, state, params, "head")
    with count_compiles() as count:
        new = reset_optimizer(tx, state, params, "head")
        step(params, new)
    assert count.programs == 0


def test_layouts_of_the_new_leaves():
    mesh = Mesh(np.array(jax.devices()), "x")
    params = sharded(SHARDED, mesh)
    tx = optax.adam(0.1, mu_dtype=jnp.bfloat16)
    state = jax.tree.map(lambda leaf: leaf + 1, sharded(tx.init(params), mesh))
    new = reset_optimizer(tx, state, params, "head")
    for old, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert (leaf.sharding, leaf.dtype, leaf.weak_type) == (
            old.sharding,
            old.dtype,
            old.weak_type,
        )


def test_params_and_states_on_several_devices():
    """Each stage of a pipeline has devices of its own."""
    one, two = jax.devices()[:2]
    params = {"a": jax.device_put(jnp.ones(2), one), "b": jax.device_put(jnp.ones(2), two)}
    tx = optax.adam(0.1)
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(params))
    state = (
        state[0]._replace(nu=jax.tree.map(lambda p: jax.device_put(p, p.sharding), params)),
        *state[1:],
    )
    new = reset_optimizer(tx, state, params, "*")
    assert new[0].nu["a"].devices() == {one} and new[0].nu["b"].devices() == {two}
    assert not new[0].nu["b"].any()


def test_under_jit_and_scan():
    tx = optax.adam(0.1)
    state = state_after(tx, SMALL)
    eager = reset_optimizer(tx, state, SMALL, "Dense_1")

    def body(state, now):
        reset = reset_optimizer(tx, state, SMALL, "Dense_1")
        return jax.tree.map(lambda new, old: jnp.where(now, new, old), reset, state), state[0].count

    scanned, _ = jax.jit(lambda s: jax.lax.scan(body, s, jnp.array([False, True])))(state)
    jax.tree.map(np.testing.assert_array_equal, scanned, eager)
    none, _ = jax.jit(lambda s: jax.lax.scan(body, s, jnp.array([False, False])))(state)
    jax.tree.map(np.testing.assert_array_equal, none, state)


# Errors.


def test_errors():
    tx = optax.adam(0.1)
    state = tx.init(SMALL)
    with pytest.raises(ValueError, match="'Dense_2' selects no leaf.*'Dense_1"):
        reset_optimizer(tx, state, SMALL, "Dense_2")
    with pytest.raises(ValueError, match="counts must be 'keep' or 'reset', got 'zero'"):
        reset_optimizer(tx, state, SMALL, "Dense_1", counts="zero")
    with pytest.raises(TypeError, match="tx must be an optax.GradientTransformation, got 0.1"):
        reset_optimizer(0.1, state, SMALL, "Dense_1")
    with pytest.raises(ValueError, match="not a state of this.*lacks '0/count', '0/mu/Dense_1"):
        reset_optimizer(tx, optax.sgd(0.1).init(SMALL), SMALL, "Dense_1")
    with pytest.raises(ValueError, match=r"It has '0/trace/Dense_1/bias'.* beyond"):
        reset_optimizer(optax.sgd(0.1), optax.sgd(0.1, 0.9).init(SMALL), SMALL, "Dense_1")
    other = {**SMALL, "Dense_10": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"'0/mu/Dense_10' with shape \(2,\).* it with shape \(3,"):
        reset_optimizer(tx, state, other, "Dense_1")


# What the errors advise.


def test_a_layer_of_another_size():
    tx = optax.adam(0.1)
    old = {"body": jnp.ones((2, 3)), "head": {"kernel": jnp.ones((3, 4))}}
    state = state_after(tx, old)
    params = {**old, "head": {"kernel": jnp.ones((3, 7))}}
    with pytest.raises(ValueError) as error:
        reset_optimizer(tx, state, params, "head")
    advice = "graft(tx.init(params), opt_state, lambda path, leaf: 'head' not in path)"
    assert str(error.value).endswith(f" keep what it shares with the old one: {advice}.")
    names = {"graft": flax_inits.graft, "tx": tx, "params": params, "opt_state": state}
    new = eval(advice, names)
    assert new[0].count == 2 and not new[0].mu["head"]["kernel"].any()
    np.testing.assert_array_equal(new[0].nu["body"], state[0].nu["body"])
    reset_optimizer(tx, new, params, "body")


def test_from_a_frozen_body_to_training_all():
    """The error names where the other state has the leaf; what it says to give is taken."""
    labels = {"body": "frozen", "head": "trained"}
    params = {"body": jnp.ones(2), "head": jnp.ones(3)}
    parts = {"frozen": optax.set_to_zero(), "trained": optax.adam(0.1)}
    frozen = state_after(optax.partition(parts, labels), params)
    state = optax.adam(0.1).init(params)
    moments = ["0/mu/head", "0/nu/head", "0/count"]
    with pytest.raises(ValueError, match="no leaf at '0/count'.* has at 'inner_states/trained/in"):
        flax_inits.graft(state, frozen, moments)
    inner = frozen.inner_states["trained"].inner_state
    new = flax_inits.graft(state, inner, moments)
    np.testing.assert_array_equal(new[0].mu["head"], inner[0].mu["head"])
    assert new[0].count == 2 and not new[0].mu["body"].any()


# Parts of leaves.


def test_the_moments_of_a_part_of_a_param():
    tx = optax.chain(optax.adam(0.1), optax.sm3(0.1))
    params = {"e": jnp.ones((4, 3)), "f": jnp.ones(2)}
    state = jax.tree.map(lambda leaf: leaf + 1, state_after(tx, params))
    where = [flax_inits.at("e", [0, -1]), "f"]
    with pytest.warns(OptimizerStateWarning, match="'1/0/mu/e/0' and '1/0/mu/e/1' of the optim"):
        new = reset_optimizer(tx, state, params, where)
    assert (np.asarray(new[0][0].mu["e"]) == 0).all(1).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(new[0][0].nu["e"][1:3], state[0][0].nu["e"][1:3])
    assert not new[0][0].mu["f"].any() and new[1][0].mu["e"] is not None
    with pytest.raises(ValueError, match="'1/0/mu/e/0' and .* cannot be split by param or slice"):
        reset_optimizer(tx, state, params, where, strict=True)
    with pytest.raises(ValueError, match="counts='reset' needs all params that share a count"):
        reset_optimizer(optax.adam(0.1), state[0], params, where, counts="reset")
    held = optax.contrib.prodigy(0.1)
    old = held.init(jax.tree.map(lambda leaf: 9 * leaf, params))
    jitted = jax.jit(lambda s, p: reset_optimizer(held, s, p, flax_inits.at("e", 1, axis=1)))
    np.testing.assert_array_equal(jitted(old, params).params0["e"][0], [9, 1, 9])


def test_further_trees_that_are_no_mapping():
    state = TrainState.create(apply_fn=None, params=SMALL, tx=optax.sgd(0.1))
    with pytest.raises(TypeError, match="extra must be a mapping from fields.*got 'batch_stats'"):
        flax_inits.reinit_state(
            jax.random.key(0), state, {"**": flax_inits.zeros()}, extra="batch_stats"
        )


def test_deleted_arrays():
    tx = optax.adam(0.1)
    state = state_after(tx, SMALL)
    gone = jax.tree.map(jnp.copy, SMALL)
    gone["Dense_10"].delete()
    with pytest.raises(ValueError, match=r"'Dense_10' in params was deleted \(donated"):
        reset_optimizer(tx, state, gone, "Dense_1")
    state[0].nu["Dense_10"].delete()
    with pytest.raises(ValueError, match="'0/nu/Dense_10' in opt_state was deleted"):
        reset_optimizer(tx, state, SMALL, "Dense_10")
    reset_optimizer(tx, state, SMALL, "Dense_1")  # What is left alone is not looked at.
