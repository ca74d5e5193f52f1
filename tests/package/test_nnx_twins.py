"""Every public function that takes params or a model does with an NNX module what it does else."""

import inspect
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from flax.traverse_util import unflatten_dict

import flax_inits as fi
from flax_inits._tree.paths import flatten

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (6, 4))
NORMAL = fi.normal(0.1)
TX = optax.adam(0.1)


class Net(nnx.Module):
    """With statistics and random streams, which are no params."""

    def __init__(self, rngs):
        self.body = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.query = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.query(nnx.relu(self.norm(self.body(x))))))


class Recurrence(nnx.Module):
    def __init__(self):
        self.nu_log, self.gamma_log = nnx.Param(jnp.arange(-2.0, 1)), nnx.Param(jnp.ones(3))


MODEL = nnx.jit(lambda: Net(nnx.Rngs(0)))()
FRESH = nnx.jit(lambda: Net(nnx.Rngs(9)))()
LSTM = nnx.LSTMCell(2, 3, rngs=nnx.Rngs(0))


def by_path(found):
    """Leaves by path, of a report its rows, of a list its entries."""
    if isinstance(found, list):
        return dict.fromkeys(found)
    if hasattr(found, "rows"):
        return {row.path: repr(row) for row in found.rows}
    return dict(zip(*flatten(found)[:2], strict=True))


def params(model):
    """The params of a module as a pure dict, which stands for those of another system."""
    state = nnx.state(model, nnx.Param)
    return unflatten_dict(dict(zip(fi.paths(state), jax.tree.leaves(state), strict=True)))


def optimizer(model):
    return nnx.Optimizer(model, TX, wrt=nnx.Param)


def reset(tree):
    if isinstance(tree, nnx.Module):
        state = optimizer(tree).opt_state
        return fi.reset_optimizer(TX, state, tree, "head")[0].mu
    return fi.reset_optimizer(TX, TX.init(tree), tree, "head")[0].mu


def reinit_state(tree):
    rules = {"head/kernel": NORMAL}
    if isinstance(tree, nnx.Module):
        tree = nnx.clone(tree)
        fi.reinit_state(KEY, optimizer(tree), rules, model=tree)
        return tree
    state = TrainState.create(apply_fn=None, params=tree, tx=TX)
    return fi.reinit_state(KEY, state, rules).params


def apply(params, x, record):
    """What `Net` computes, in plain functions."""

    def linear(name, x):
        bias = jnp.broadcast_to(params[name]["bias"], x.shape)
        return record(name, x @ params[name]["kernel"] + bias)

    scale, bias = (jnp.broadcast_to(params["norm"][name], x.shape) for name in ("scale", "bias"))
    x = record("norm", linear("body", x) / jnp.sqrt(1 + 1e-5) * scale + bias)
    return linear("head", linear("query", nnx.relu(x)))


def signal(tree):
    report = fi.signal(*((tree, X) if isinstance(tree, nnx.Module) else (apply, tree, X)))
    named = [row for row in report.rows if row.role in ("output", "recorded") and not row.same_as]
    return {row.layer: np.round((row.std, row.gradient), 4) for row in named}


def recycle(tree):
    layers = {"body": {"kernel": "body/kernel", "bias": "body/bias", "feeds": "query/kernel"}}
    return fi.recycle(KEY, tree, {"body": jnp.arange(4) < 2}, layers)


def jit_init(tree):
    return fi.jit_init(lambda: tree)()


def of_modules(tree):
    return fi.select(tree, fi.of_type(MODEL, nnx.Linear))


def grafted(tree):
    """Rules of which one draws: rows that the donor lacks."""
    body = params(FRESH)["body"]
    donor = {"enc": {"kernel": body["kernel"][:2]}, "head": body["bias"]}
    grown = fi.take("enc/kernel", fi.grow(axis=0, init=NORMAL))
    rules = {"body/kernel": grown, "head/bias": "head"}
    return fi.graft(tree, donor, rules, key=KEY)


def planned(tree):
    plan = fi.graft_plan(tree, {"enc": params(FRESH)["body"]}, {"body": "enc"})
    return [repr(row) for row in plan.rows if row.path[0] == "body"]


def grafted_optimizer(tree):
    whole = isinstance(tree, nnx.Module)
    state = optimizer(tree).opt_state if whole else TX.init(tree)
    tree = nnx.state(tree, nnx.Param) if whole else tree
    donor = jax.tree.map(jnp.ones_like, tree)
    return fi.graft_optimizer(TX, state, tree, TX.init(donor), donor, "head")[0].mu


# From a module, or params that are equal to its own.
TWINS = {
    "paths": (MODEL, fi.paths),
    "select": (MODEL, lambda tree: fi.select(tree, "head")),
    "of_type": (MODEL, of_modules),
    "reinit": (MODEL, lambda tree: fi.reinit(KEY, tree, {"head/kernel": NORMAL})),
    "graft": (MODEL, grafted),
    "graft_plan": (MODEL, planned),
    "jit_init": (MODEL, jit_init),
    "summary": (MODEL, lambda tree: fi.summary(tree, tree)),
    "signal": (MODEL, signal),
    "reset_optimizer": (MODEL, reset),
    "reinit_state": (MODEL, reinit_state),
    "graft_optimizer": (MODEL, grafted_optimizer),
    "deepnorm": (MODEL, lambda tree: fi.deepnorm(KEY, tree, 2, where="[qh]*/kernel")),
    "chrono_gates": (LSTM, lambda tree: fi.chrono_gates(KEY, tree, 50)),
    "lru_gamma": (Recurrence(), lambda tree: fi.lru_gamma(KEY, tree)),
    "mup": (MODEL, lambda tree: fi.mup(lambda key: tree, lambda key: tree)),
    "shrink_perturb": (
        MODEL,
        lambda tree: fi.shrink_perturb(KEY, tree, lambda key: FRESH, shrink=0.5, perturb=0.5),
    ),
    "recycle": (MODEL, recycle),
}
ELSEWHERE = {
    "dormant": "takes activations; tests/schemes/test_nnx_schemes.py has those of nnx.capture",
    "lsuv": "runs modules alone; tests/schemes/test_nnx_schemes.py compares it with Linen's",
    "labels": "returns a function of params; tests/tree/test_labels.py gives it nnx.Optimizer's",
}
TREES = {"params", "tree", "model", "state", "opt_state", "variables", "activations", "fun"}
TREES |= {"base", "donor"}


def is_factory(function):
    return Path(fi.__file__).parent / "initializers" in Path(inspect.getfile(function)).parents


def taken():
    """The public functions that take a tree or a model."""
    for name in fi.__all__:
        function = getattr(fi, name)
        # Initializers of initializers have arguments of such names too, but no trees.
        if isinstance(function, types.FunctionType) and not is_factory(function):
            if TREES & {*inspect.signature(function).parameters} or name == "labels":
                yield name


def test_every_function_has_a_twin_or_a_reason():
    assert set(taken()) == TWINS.keys() | ELSEWHERE.keys()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", TWINS)
def test_a_module_is_treated_as_its_params(name):
    model, call = TWINS[name]
    before = by_path(model)
    own, other = by_path(call(model)), by_path(call(params(model)))
    assert other and other.keys() <= own.keys()
    for path in other:
        np.testing.assert_array_equal(own[path], other[path], err_msg=str(path))
    after = by_path(model)
    assert all(after[path] is leaf for path, leaf in before.items())


def takes_key(name):
    return "key" in inspect.signature(getattr(fi, name)).parameters


@pytest.mark.parametrize("name", [*filter(takes_key, TWINS)])
def test_streams_are_keys(name, monkeypatch):
    """One key is drawn, whatever becomes of it; `lru_gamma` draws nothing."""
    model, call = TWINS[name]
    monkeypatch.setitem(globals(), "KEY", rngs := nnx.Rngs(3))
    own = by_path(call(model))
    monkeypatch.setitem(globals(), "KEY", nnx.Rngs(3).params())
    for path, leaf in by_path(call(params(model))).items():
        np.testing.assert_array_equal(own[path], leaf, err_msg=str(path))
    assert int(rngs["default"].count[...]) == (name != "lru_gamma")
