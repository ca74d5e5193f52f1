"""Training states: params, moments and further trees, together or not at all."""

import functools
import re
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases_optimizer import replicate
from compiles import count_compiles
from flax import nnx, struct
from flax.core import freeze
from flax.training.train_state import TrainState

import flax_inits
from flax_inits import reinit_state

KEY = jax.random.key(0)
NORMAL = flax_inits.normal(0.1)
by_standard = jax.numpy_dtype_promotion("standard")  # Adam raises a float to an integer's power.
X = jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, name="body")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, name="head")(x)


MODEL = Net()
VARIABLES = MODEL.init(KEY, X)


class FullState(TrainState):
    batch_stats: Any
    ema_params: Any


def trained(tx=None, freezer=lambda tree: tree):
    """A state after one step of gradients that are 1 everywhere."""
    params = freezer(VARIABLES["params"])
    state = FullState.create(
        apply_fn=MODEL.apply,
        params=params,
        tx=optax.adam(0.1) if tx is None else tx,
        batch_stats=jax.tree.map(lambda leaf: leaf + 3, VARIABLES["batch_stats"]),
        ema_params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params),
    )
    with by_standard:
        return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))


def replaced(old, new):
    pairs = zip(flax_inits.paths(old), jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return {"/".join(path) for path, a, b in pairs if a is not b}


def head(prefix):
    return {f"{prefix}/head/bias", f"{prefix}/head/kernel"}


@pytest.mark.parametrize("freezer", [lambda tree: tree, freeze])
def test_params_and_moments_together(freezer):
    state = trained(freezer=freezer)
    rules = {"head/kernel": flax_inits.normal(0.1), "head/bias": flax_inits.zeros()}
    new = reinit_state(KEY, state, rules)
    assert replaced(state, new) == head("params") | head("opt_state/0/mu") | head("opt_state/0/nu")
    assert type(new) is FullState and new.step == 1 and type(new.params) is type(state.params)
    expected = flax_inits.reinit(KEY, state.params, rules)
    jax.tree.map(np.testing.assert_array_equal, new.params, expected)
    assert not any(leaf.any() for leaf in jax.tree.leaves(new.opt_state[0].mu["head"]))
    with by_standard:
        new.apply_gradients(grads=jax.tree.map(jnp.ones_like, new.params))


def test_by_init_fn():
    state = trained()
    new = reinit_state(KEY, state, "head", init_fn=lambda key: MODEL.init(key, X)["params"])
    np.testing.assert_array_equal(
        new.params["head"]["kernel"], jax.jit(MODEL.init)(KEY, X)["params"]["head"]["kernel"]
    )
    assert head("opt_state/0/mu") < replaced(state, new)


def test_further_trees_are_named():
    state = trained()
    stats = {"norm/mean": flax_inits.zeros(), "norm/var": flax_inits.ones()}
    new = reinit_state(
        KEY,
        state,
        {"head": flax_inits.normal(0.1)},
        extra={"ema_params": None, "batch_stats": stats},
    )
    np.testing.assert_array_equal(
        new.ema_params["head"]["kernel"], new.params["head"]["kernel"].astype(jnp.bfloat16)
    )
    assert replaced(state.ema_params, new.ema_params) == {"head/bias", "head/kernel"}
    assert not new.batch_stats["norm"]["mean"].any() and state.batch_stats["norm"]["mean"].all()
    fresh = reinit_state(
        KEY,
        state,
        {"head": flax_inits.normal(0.1)},
        extra={"batch_stats": ("**", lambda key: MODEL.init(key, X)["batch_stats"])},
    )
    np.testing.assert_array_equal(fresh.batch_stats["norm"]["var"], np.ones(4, np.float32))
    assert fresh.ema_params is state.ema_params


def test_copies_have_memory_of_their_own():
    state = trained().replace(ema_params=VARIABLES["params"])
    new = reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, extra={"ema_params": None})
    pointers = {
        tree["head"]["kernel"].unsafe_buffer_pointer() for tree in (new.params, new.ema_params)
    }
    assert len(pointers) == 2


def test_a_tree_of_its_own_gets_values_of_its_own():
    """Two networks of equal structure must not start equal, as an actor and a critic."""
    state = trained().replace(ema_params=VARIABLES["params"])
    rules = {"head/kernel": flax_inits.normal(0.1)}
    new = reinit_state(KEY, state, rules, extra={"ema_params": rules})
    assert (new.params["head"]["kernel"] != new.ema_params["head"]["kernel"]).any()


def test_options_reach_the_optimizer():
    labels = {"body": "rest", "norm": "rest", "head": "head"}
    state = trained(optax.partition({"rest": optax.adam(0.1), "head": optax.adam(0.1)}, labels))
    new = reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, counts="reset")
    counts = {name: int(s.inner_state[0].count) for name, s in new.opt_state.inner_states.items()}
    assert counts == {"rest": 1, "head": 0}
    with pytest.raises(ValueError, match="cannot be split by param or slice"):
        reinit_state(
            KEY,
            trained(optax.flatten(optax.adam(0.1))),
            {"head": flax_inits.normal(0.1)},
            strict=True,
        )
    allowed = {"head": flax_inits.normal(0.1), "tail": flax_inits.normal(0.1)}
    reinit_state(KEY, state, allowed, allow_unmatched=True)


def test_nothing_changes_when_something_fails():
    state = trained()
    before = jax.tree.leaves(state)
    failing = {"norm/nothing": flax_inits.zeros()}
    with pytest.raises(ValueError, match="'norm/nothing' selects no leaf"):
        reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, extra={"batch_stats": failing})
    assert all(a is b for a, b in zip(before, jax.tree.leaves(state), strict=True))
    assert not any(leaf.is_deleted() for leaf in before if isinstance(leaf, jax.Array))


def test_under_jit_and_on_a_mesh():
    state = trained()
    rules = {"head/kernel": flax_inits.normal(0.1)}
    eager = reinit_state(KEY, state, rules)
    jitted = jax.jit(functools.partial(reinit_state, rules=rules))(KEY, state)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(state.replace(step=jnp.asarray(state.step)), everywhere)
    reinit_state(KEY, state, rules)
    with count_compiles() as count:
        new = reinit_state(KEY, state, rules)
    assert count.programs == 0
    assert {leaf.sharding for leaf in jax.tree.leaves(new)} == {everywhere}


def test_other_states():
    @struct.dataclass
    class Own:
        params: Any
        opt_state: Any
        tx: Any = struct.field(pytree_node=False)

    tx, params = optax.adam(0.1), {"head": jnp.ones(2)}
    new = reinit_state(KEY, Own(params, tx.init(params), tx), {"head": flax_inits.zeros()})
    assert type(new) is Own and not new.params["head"].any()
    with pytest.raises(TypeError, match="dict has no params and no opt_state and no tx and no rep"):
        reinit_state(KEY, {"params": params}, {"head": flax_inits.zeros()})


def test_fp8_scales_are_no_params_of_the_optimizer():
    """As TrainState has it: what is overwritten by its gradient is not in the optimizer's state."""
    params = {
        "params": {"body": jnp.ones(2), "head": jnp.ones(2)},
        "_overwrite_with_gradient": {"scale": jnp.ones(1)},
    }
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    new = reinit_state(KEY, state, {"params/head": flax_inits.zeros()})
    assert replaced(state.opt_state, new.opt_state) == {"0/mu/head", "0/nu/head"}
    new = reinit_state(KEY, state, {"_overwrite_with_gradient": flax_inits.zeros()})
    assert new.opt_state is state.opt_state


@pytest.mark.parametrize("name", ["step", "params", "batch_stat"])
def test_extra_names_further_trees(name):
    with pytest.raises(ValueError, match=f"extra names '{name}', which is no further tree of Full"):
        reinit_state(KEY, trained(), {"head": flax_inits.normal(0.1)}, extra={name: None})


def test_extra_without_the_leaves():
    state = trained()
    with pytest.raises(ValueError, match="copies the new params, but that tree has no leaf at"):
        reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, extra={"batch_stats": None})
    with pytest.raises(TypeError, match="missing 1 required positional argument") as raised:
        extra = {"ema_params": ("head", flax_inits.zeros())}
        reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, extra=extra)
    note = "while 'ema_params' of extra came from init_fn; rules are {where: initializer}"
    assert note in raised.value.__notes__
    with pytest.raises(TypeError, match="model is for an nnx.Optimizer; FullState has its params"):
        reinit_state(KEY, state, {"head": flax_inits.normal(0.1)}, model=MODEL)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.body(x)))


def nnx_trained(kind=nnx.Optimizer):
    model = Model(nnx.Rngs(0))
    optimizer = kind(model, optax.adam(0.1), wrt=nnx.Param)
    grads = nnx.grad(lambda model: ((model(X) + 1) ** 2).sum() + model.head.kernel[...].sum())(
        model
    )
    with by_standard:
        optimizer.update(*([model] if kind is nnx.Optimizer else []), grads)
    return model, optimizer, grads


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_nnx_optimizer_and_model_are_updated_in_place():
    model, optimizer, grads = nnx_trained()
    body = model.body.kernel[...]
    kept = optimizer.opt_state[0].mu["body"]["kernel"]
    same = reinit_state(KEY, optimizer, {"head/kernel": flax_inits.zeros()}, model=model)
    assert same is optimizer and int(optimizer.step[...]) == 1
    assert not model.head.kernel[...].any() and model.body.kernel[...] is body
    mu = optimizer.opt_state[0].mu
    assert not mu["head"]["kernel"][...].any() and mu["head"]["bias"][...].any()
    assert mu["body"]["kernel"] is kept and kept[...].any()
    assert int(optimizer.opt_state[0].count[...]) == 1
    with by_standard:
        optimizer.update(model, grads)


def test_nnx_changes_nothing_when_something_fails():
    model, optimizer, _ = nnx_trained()
    before = leaves(nnx.state(model)) + leaves(optimizer.opt_state)
    with pytest.raises(ValueError, match="counts='reset' needs all params that share a count"):
        reinit_state(KEY, optimizer, {"head": flax_inits.zeros()}, model=model, counts="reset")
    after = leaves(nnx.state(model)) + leaves(optimizer.opt_state)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_nnx_model_and_optimizer():
    model, optimizer, _ = nnx_trained(nnx.ModelAndOptimizer)
    reinit_state(KEY, optimizer, {"head/kernel": flax_inits.zeros()})
    assert not model.head.kernel[...].any()
    model, optimizer, _ = nnx_trained()
    with pytest.raises(TypeError, match="does not hold its model: call .*model=model"):
        reinit_state(KEY, optimizer, {"head/kernel": flax_inits.zeros()})
    with pytest.raises(ValueError, match="extra names 'em', .* of Optimizer. Name an attribute of"):
        reinit_state(KEY, optimizer, {"head": flax_inits.zeros()}, model=model, extra={"em": None})


class Averaging(nnx.Optimizer):
    """Holds an average of the params, as an attribute of its own."""

    def __init__(self, model, tx):
        super().__init__(model, tx, wrt=nnx.Param)
        self.ema = nnx.clone(model)


def identities(*nodes):
    """Every Variable, by its id, and its value."""
    graph = [node for root in nodes for _, node in nnx.iter_graph(root)]
    return [(id(node), node[...]) for node in graph if isinstance(node, nnx.Variable)]


def nnx_with_average():
    model = Model(nnx.Rngs(0))
    model.norm.mean[...] += 3
    optimizer = Averaging(model, optax.adam(0.1))
    target = nnx.clone(model)
    return model, optimizer, target, (model, optimizer, target)


def test_nnx_all_follows_in_place():
    """Params, moments, statistics and averages, in Variables that stay the same objects."""
    model, optimizer, target, nodes = nnx_with_average()
    before = identities(*nodes)
    reinit_state(
        KEY,
        optimizer,
        ["norm", "head"],
        init_fn=lambda key: Model(nnx.Rngs(key)),
        model=model,
        extra={"ema": None, target: {"head/kernel": NORMAL}},
    )
    after = identities(*nodes)
    assert [old for old, _ in before] == [new for new, _ in after]
    fresh = nnx.jit(lambda key: Model(nnx.Rngs(key)))(KEY)
    np.testing.assert_array_equal(model.head.kernel[...], fresh.head.kernel[...])
    np.testing.assert_array_equal(optimizer.ema.head.kernel[...], fresh.head.kernel[...])
    assert not model.norm.mean[...].any() and optimizer.ema.norm.mean[...].all()
    assert (target.head.kernel[...] != model.head.kernel[...]).any()
    assert target.norm.mean[...].all()
    pointers = {m.head.kernel[...].unsafe_buffer_pointer() for m in (model, optimizer.ema)}
    assert len(pointers) == 2


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_nnx_a_failure_at_any_update_changes_nothing(monkeypatch, at):
    model, optimizer, target, nodes = nnx_with_average()
    before, update, calls = identities(*nodes), nnx.update, []

    def failing(node, state):
        calls.append(node)
        if len(calls) == at + 1:
            raise RuntimeError("injected")
        update(node, state)

    monkeypatch.setattr(nnx, "update", failing)
    rules, extra = {"head": flax_inits.zeros()}, {"ema": None, target: None}
    with pytest.raises(RuntimeError, match="injected"):
        reinit_state(KEY, optimizer, rules, model=model, extra=extra)
    for (old_id, old), (new_id, new) in zip(before, identities(*nodes), strict=True):
        assert old_id == new_id and old is new


def test_nnx_statistics_of_new_modules():
    def mean_after(rules, **options):
        model, optimizer, *_ = nnx_with_average()
        reinit_state(KEY, optimizer, rules, model=model, **options)
        return float(model.norm.mean[0])

    def whole(key):
        return Model(nnx.Rngs(key))

    assert mean_after("norm", init_fn=whole) == 0
    assert mean_after({"norm": flax_inits.ones()}, init_fn=whole) == 0
    assert mean_after("head", init_fn=whole) == 3
    assert mean_after("norm/bias", init_fn=whole) == 3
    stats = {"**/mean": flax_inits.zeros(), "**/var": flax_inits.ones()}
    assert mean_after({"norm": flax_inits.ones()}, extra={nnx.BatchStat: stats}) == 0
    with pytest.warns(UserWarning, match=r"'norm/mean' and 'norm/var' stay as.*Model\(nnx") as said:
        assert mean_after({"norm": flax_inits.ones()}) == 3
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match=r"extra=\{nnx.BatchStat: \{'norm/mean': .*, 'norm/v"):
        assert mean_after("norm", init_fn=lambda key: nnx.state(whole(key), nnx.Param)) == 3


def test_nnx_extra_for_some_of_the_statistics():
    """What `extra` gives them stays, though the others are looked after without it."""

    class Scale(nnx.BatchStat):
        pass

    model, optimizer, *_ = nnx_with_average()
    model.scale = Scale(jnp.ones(2))
    sevens = {"**": flax_inits.constant(7.0)}
    options = {"model": model, "init_fn": lambda key: Model(nnx.Rngs(key))}
    reinit_state(KEY, optimizer, {"norm": flax_inits.ones()}, extra={Scale: sevens}, **options)
    assert (model.scale[...] == 7).all() and not model.norm.mean[...].any()
    only_mean = {"mean": flax_inits.constant(7.0)}
    reinit_state(KEY, optimizer, "head", extra={model.norm: only_mean}, **options)
    assert (model.norm.mean[...] == 7).all()


def test_nnx_inside_of_jit():
    eager, jitted = nnx_with_average(), nnx_with_average()
    rngs = nnx.Rngs(5)

    def reset(model, optimizer, key):
        init_fn = lambda key: Model(nnx.Rngs(key))  # noqa: E731
        where, extra = ["norm", "head"], {"ema": None}
        reinit_state(key, optimizer, where, init_fn=init_fn, model=model, extra=extra)

    before = identities(*jitted[3])
    nnx.jit(reset)(*jitted[:2], nnx.Rngs(5))
    reset(*eager[:2], rngs)
    after = identities(*jitted[3])
    assert [old for old, _ in before] == [new for new, _ in after]
    for (_, a), (_, b) in zip(identities(*eager[3]), after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(rngs["default"].count[...]) == 1
    with pytest.raises(ValueError, match="selects no leaf"):
        reinit_state(rngs, eager[1], {"tail": NORMAL}, model=eager[0])
    assert int(rngs["default"].count[...]) == 1


@pytest.mark.slow
def test_replicas_train_on_as_one():
    """Equal on all devices of pmap after the reset, and after a step that follows it."""
    params = {"body": jnp.ones((3, 4)), "head": jnp.ones((4, 2))}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))

    def step(state, x):
        grads = jax.grad(lambda p: (jnp.tanh(x @ p["body"]) @ p["head"]).sum())(state.params)
        with by_standard:
            return state.apply_gradients(grads=jax.lax.pmean(grads, "devices"))

    train = jax.pmap(step, "devices")
    batches = jax.random.normal(KEY, (8, 5, 3))
    state = train(replicate(state), batches)
    rules = {"head": flax_inits.replicated(flax_inits.normal(0.1))}
    new = reinit_state(KEY, state, rules)
    assert replaced(state, new) == {"params/head", "opt_state/0/mu/head", "opt_state/0/nu/head"}
    assert not new.opt_state[0].mu["head"].any() and new.params["head"].std() < 0.3
    for tree in (new, train(new, batches)):
        chex.assert_trees_all_equal(
            *[jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in (0, 7)]
        )
    with pytest.raises(ValueError, match=r"one copy for each device of pmap.*Use replicated\("):
        reinit_state(KEY, state, {"head": flax_inits.normal(0.1)})


def stats_after(rules, **options):
    """What becomes of the statistics, which were 3 and 4, of one reset."""
    state = trained()
    new = reinit_state(KEY, state, rules, **options)
    assert new.ema_params is state.ema_params
    return {name: float(leaf[0]) for name, leaf in new.batch_stats["norm"].items()}


def test_statistics_of_new_modules():
    """Fresh where init_fn makes them, else named; those of modules that stay are not touched."""

    def variables(key):
        return MODEL.init(key, X)

    old, fresh = {"mean": 3.0, "var": 4.0}, {"mean": 0.0, "var": 1.0}
    assert stats_after(["norm", "head"], init_fn=variables) == fresh
    assert stats_after("head", init_fn=variables) == old
    assert stats_after("norm/bias", init_fn=variables) == old
    assert stats_after({"norm": flax_inits.ones()}, init_fn=variables) == fresh
    new = reinit_state(KEY, trained(), "**", init_fn=variables)
    jax.tree.map(np.testing.assert_array_equal, new.params, jax.jit(MODEL.init)(KEY, X)["params"])
    with pytest.warns(UserWarning, match="'norm/mean' and 'norm/var' stay as") as said:
        assert stats_after("norm", init_fn=lambda key: variables(key)["params"]) == old
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.warns(UserWarning, match=r"or say what they get: extra=\{'batch_stats'") as said:
        assert stats_after({"norm": flax_inits.ones()}) == old
    advised = eval(re.search(r"extra=(\{.*\})\.$", str(said[0].message)).group(1))
    assert stats_after({"norm": flax_inits.ones()}, extra=advised) == fresh
    stats = {"**/mean": flax_inits.zeros(), "**/var": flax_inits.ones()}
    assert stats_after({"norm": flax_inits.ones()}, extra={"batch_stats": stats}) == fresh


def test_statistics_of_modules_without_params():
    """They belong to the innermost module around them that has some."""
    params = {"block": {"dense": {"kernel": jnp.ones(2)}}, "head": jnp.ones(2)}
    stats = {"block": {"norm": {"mean": jnp.ones(2)}}}
    state = FullState.create(
        apply_fn=None, params=params, tx=optax.sgd(0.1), batch_stats=stats, ema_params=None
    )

    def variables(key):
        return jax.tree.map(jnp.zeros_like, {"params": params, "batch_stats": stats})

    assert reinit_state(KEY, state, "head", init_fn=variables).batch_stats is stats
    new = reinit_state(KEY, state, "block/dense", init_fn=variables)
    assert not new.batch_stats["block"]["norm"]["mean"].any()


def test_a_part_of_a_param_and_its_copies():
    state = trained()
    rules = {flax_inits.at("head/kernel", 0): flax_inits.zeros()}
    new = reinit_state(KEY, state, rules, extra={"ema_params": None})
    for tree in (new.params, new.opt_state[0].mu, new.ema_params):
        np.testing.assert_array_equal(np.asarray(tree["head"]["kernel"] == 0).all(1), [1, 0, 0, 0])
    old = state.ema_params["head"]["kernel"]
    np.testing.assert_array_equal(new.ema_params["head"]["kernel"][1:], old[1:])


def test_lookahead_starts_from_equal_params():
    """A slow leaf has the key of its fast twin, or the two would start apart."""
    params = optax.LookaheadParams.init_synced({"body": jnp.ones(3), "head": jnp.ones((3, 2))})
    tx = optax.lookahead(optax.adam(0.1), 3, 0.5)
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    rules = {"*/head": NORMAL}
    new = reinit_state(KEY, state, rules)
    np.testing.assert_array_equal(new.params.fast["head"], new.params.slow["head"])
    alone = flax_inits.reinit(KEY, {"fast": params.fast}, {"fast/head": NORMAL})
    np.testing.assert_array_equal(new.params.fast["head"], alone["fast"]["head"])
    (pair,) = jax.jit(lambda key: flax_inits.reinit(key, [params], {"0/*/head": NORMAL}))(KEY)
    np.testing.assert_array_equal(pair.fast["head"], pair.slow["head"])
    init = flax_inits.jit_init(
        lambda key: optax.LookaheadParams.init_synced({"head": jax.random.normal(key, (3, 2))}),
        rules={"*/head": NORMAL},
    )
    np.testing.assert_array_equal(init(KEY).fast["head"], new.params.fast["head"])
    np.testing.assert_array_equal(init(KEY).slow["head"], new.params.fast["head"])
    # Whoever has other trees called fast and slow has other trees.
    other = flax_inits.reinit(KEY, jax.tree.map(jnp.copy, params._asdict()), rules)
    assert (other["fast"]["head"] != other["slow"]["head"]).any()


def test_what_a_warning_advises_leaves_other_statistics():
    names = ("first", "second", "third")
    params = {name: {"scale": jnp.ones(2)} for name in names}
    stats = {name: {"mean": jnp.full(2, 3.0), "var": jnp.full(2, 4.0)} for name in names}
    state = FullState.create(
        apply_fn=None, params=params, tx=optax.sgd(0.1), batch_stats=stats, ema_params=None
    )
    with pytest.warns(UserWarning, match="statistics 'second/mean' and 'second/var' stay") as said:
        reinit_state(KEY, state, {"second": flax_inits.ones()})
    advised = eval(re.search(r"extra=(\{.*\})\.$", str(said[0].message)).group(1))
    new = reinit_state(KEY, state, {"second": flax_inits.ones()}, extra=advised)
    assert (new.batch_stats["second"]["mean"] == 0).all()
    assert (new.batch_stats["second"]["var"] == 1).all()
    assert new.batch_stats["first"]["mean"] is stats["first"]["mean"]
    with pytest.warns(UserWarning, match=r"'second/var': flax_inits.ones\(\), \.\.\.\}\}\.$"):
        reinit_state(KEY, state, {"*": flax_inits.ones()})


def test_a_module_in_the_place_of_its_optimizer():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"must be the nnx.Optimizer, got the model Linear: call"):
        reinit_state(KEY, model, {"kernel": flax_inits.ones()})


def test_what_the_optimizer_does_not_train():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.PathContains("bias"))
    with pytest.raises(ValueError, match="'kernel' selects no leaf") as got:
        reinit_state(KEY, optimizer, {"kernel": flax_inits.ones()}, model=model)
    assert "among what the optimizer trains: wrt=PathContains('bias'" in got.value.__notes__[-1]
