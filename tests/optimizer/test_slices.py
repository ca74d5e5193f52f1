"""Some slices of a param: entries of its shape are reset there, and nowhere else."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi
from flax_inits import at

KEY = jax.random.key(0)
ROWS = [1, 3]


def tree():
    emb = jnp.arange(12.0).reshape(4, 3)
    return {"emb": emb, "head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}


def trained(tx, params):
    """A state in which all that is of floats is neither zero nor one."""
    state = tx.init(params)
    return jax.tree.map(lambda x: x + 7.5 if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


def check(old, new, fresh):
    np.testing.assert_array_equal(new[np.array(ROWS)], fresh[np.array(ROWS)])
    np.testing.assert_array_equal(np.delete(new, ROWS, 0), np.delete(old, ROWS, 0))


@pytest.mark.parametrize(
    "tx, entry",
    [
        (optax.adam(0.1), lambda state: [state[0].mu, state[0].nu]),
        (optax.sgd(0.1, momentum=0.9), lambda state: [state[0].trace]),
        (optax.adagrad(0.1), lambda state: [state[0].sum_of_squares]),
        (
            optax.partition(
                {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, fi.labels({"emb": "a", "**": "b"})
            ),
            lambda state: [state.inner_states["a"].inner_state[0].mu],
        ),
        (optax.contrib.schedule_free_sgd(0.1), lambda state: [state.z]),
        (optax.MultiSteps(optax.sgd(0.1), 2), lambda state: [state.acc_grads]),
    ],
    ids=["adam", "momentum", "adagrad", "partition", "schedule_free", "multi_steps"],
)
def test_entries_of_the_params_shape(tx, entry):
    params = tree()
    state, fresh = trained(tx, params), tx.init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = fi.reset_optimizer(tx, state, params, at("emb", ROWS))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for one, other, initial in zip(*map(entry, (state, new, fresh)), strict=True):
        check(one["emb"], other["emb"], initial["emb"])
    olds, news = jax.tree.leaves(state), jax.tree.leaves(new)
    assert sum(a is not b for a, b in zip(olds, news, strict=True)) == len(
        [leaf for leaf in olds if leaf.shape == (4, 3)]
    )


def test_statistics_that_have_no_slices():
    params, tx = tree(), optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9)
    state = trained(tx, params)
    left = r"'0/v_row/emb' and '0/v_col/emb' of the optimizer state cannot be split by param or sl"
    with pytest.warns(fi.OptimizerStateWarning, match=left):
        new = fi.reset_optimizer(tx, state, params, [at("emb", ROWS), "head"])
    assert new[0].v_row["emb"] is state[0].v_row["emb"]
    emas = [next(x.ema["emb"] for x in s if hasattr(x, "ema")) for s in (state, new)]
    check(*emas, jnp.zeros((4, 3)))
    assert not new[0].v_row["head"]["kernel"].any()
    with pytest.raises(ValueError, match=left):
        fi.reset_optimizer(tx, state, params, at("emb", ROWS), strict=True)


def test_placeholders_are_no_statistics():
    params, tx = tree(), optax.adafactor(0.1)  # factors nothing as small as this
    new = fi.reset_optimizer(tx, trained(tx, params), params, at("emb", ROWS), strict=True)
    check(trained(tx, params)[0].v["emb"], new[0].v["emb"], tx.init(params)[0].v["emb"])


def test_mixed_statistics_and_counts():
    params = tree()
    flat = optax.flatten(optax.adam(0.1))
    state = trained(flat, params)
    with pytest.warns(fi.OptimizerStateWarning, match="cannot be split by param or slice"):
        new = fi.reset_optimizer(flat, state, params, [at("emb", ROWS), "head"])
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (state, new)), strict=True))
    tx = optax.adam(0.1)
    match = r"counts='reset' needs .* but 'emb' shares '0/count' with 'emb \(chosen in part\)'"
    with pytest.raises(ValueError, match=match):
        where = [at("emb", ROWS), "head"]
        fi.reset_optimizer(tx, tx.init(params), params, where, counts="reset")


def test_sharded_boxed_and_replicated():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    emb = jax.device_put(tree()["emb"], NamedSharding(mesh, P("x")))
    params, tx = {"emb": nn.Partitioned(emb, ("x", None))}, optax.sgd(0.1, momentum=0.9)
    state = trained(tx, params)
    new = fi.reset_optimizer(tx, state, params, at("emb", ROWS))
    old, made = state[0].trace["emb"].value, new[0].trace["emb"].value
    check(old, made, jnp.zeros((4, 3)))
    assert made.sharding == old.sharding
    stack = jax.tree.map(lambda x: jnp.stack([x] * 8), tree())
    copies = jax.vmap(tx.init)(stack)
    copies = jax.tree.map(lambda x: x + 1.5, copies)
    new = fi.reset_optimizer(tx, copies, stack, at("emb", ROWS, axis=1))
    for one in new[0].trace["emb"]:
        check(copies[0].trace["emb"][0], one, jnp.zeros((4, 3)))


def test_under_jit():
    params, tx = tree(), optax.adam(0.1)
    state = trained(tx, params)
    run = jax.jit(lambda state: fi.reset_optimizer(tx, state, params, at("emb", ROWS)))
    check(state[0].mu["emb"], run(state)[0].mu["emb"], jnp.zeros((4, 3)))


class EmaState(TrainState):
    ema: object = None


def test_reinit_state():
    params, tx = tree(), optax.adam(0.1)
    state = EmaState.create(apply_fn=None, params=params, tx=tx)
    ema = jax.tree.map(lambda x: x * 0 + 3, params)
    state = state.replace(opt_state=trained(tx, params), ema=ema)
    rules = {at("emb", ROWS): fi.normal(1.0), "head/bias": fi.zeros()}
    new = fi.reinit_state(KEY, state, rules, extra={"ema": None})
    expected = fi.reinit(KEY, params, rules)
    jax.tree.map(np.testing.assert_array_equal, new.params, expected)
    check(state.opt_state[0].nu["emb"], new.opt_state[0].nu["emb"], jnp.zeros((4, 3)))
    assert not new.opt_state[0].nu["head"]["bias"].any()
    assert new.opt_state[0].nu["head"]["kernel"] is state.opt_state[0].nu["head"]["kernel"]
    check(ema["emb"], new.ema["emb"], expected["emb"])
    assert not new.ema["head"]["bias"].any() and (new.ema["head"]["kernel"] == 3).all()
    assert new.ema["emb"] is not new.params["emb"]


def test_reinit_state_of_nnx():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    nnx.update(optimizer, jax.tree.map(lambda x: x + 2, nnx.state(optimizer)))
    before = jnp.array(model.kernel[...])
    fi.reinit_state(KEY, optimizer, {at("kernel", ROWS): fi.zeros()}, model=model)
    check(before, model.kernel[...], jnp.zeros((4, 3)))
    trace = nnx.to_pure_dict(nnx.state(optimizer))["opt_state"][0]["trace"]
    check(jnp.full((4, 3), 2.0), trace["kernel"], jnp.zeros((4, 3)))
    assert (trace["bias"] == 2).all()


def test_a_graft_of_slices():
    donor = jax.tree.map(lambda x: x * 0 - 5, tree())
    new = fi.graft(tree(), donor, at("emb", ROWS))
    check(tree()["emb"], new["emb"], donor["emb"])


def test_a_module_with_the_params():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.emb = nnx.BatchNorm(3, rngs=rngs), nnx.Embed(4, 3, rngs=rngs)

    model, tx = Model(nnx.Rngs(0)), optax.sgd(0.1, momentum=0.9)
    state = trained(tx, nnx.state(model, nnx.Param))
    new = fi.reset_optimizer(tx, state, model, ["norm", at("emb/embedding", ROWS)])
    old, made = (nnx.to_pure_dict(s[0].trace) for s in (state, new))
    check(old["emb"]["embedding"], made["emb"]["embedding"], jnp.zeros((4, 3)))
    assert not made["norm"]["scale"].any()
    with pytest.raises(ValueError, match="'norm/mean' selects no nnx.Param"):
        fi.reset_optimizer(tx, state, model, "norm/mean")
