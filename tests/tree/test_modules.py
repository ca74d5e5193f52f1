"""NNX modules as trees: ties stay, and each variable counts once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_inits
from flax_inits import graft, of_type, paths, reinit, reset_optimizer, select, summary

KEY = jax.random.key(0)


class Model(nnx.Module):
    """Its output layer has the kernel of the embedding, and a second name."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(4, 4, rngs=rngs)
        self.out = nnx.Linear(4, 4, rngs=rngs)
        self.out.kernel = self.embed.embedding
        self.again = self.out
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs)])
        self.scale = nnx.data(jnp.ones(2))


LISTED = [
    ("again", "bias"),
    ("again", "kernel"),
    ("norms", "0", "bias"),
    ("norms", "0", "mean"),
    ("norms", "0", "scale"),
    ("norms", "0", "var"),
    ("scale",),
]


@pytest.fixture
def model():
    return Model(nnx.Rngs(0))


def chosen(tree, where):
    verdicts = jax.tree.leaves(select(tree, where))
    return [path for path, use in zip(paths(tree), verdicts, strict=True) if use]


def assert_tied(model):
    assert model.out is model.again
    assert model.out.kernel is model.embed.embedding


def test_what_is_shared_is_listed_once(model):
    assert paths(model) == LISTED == paths(nnx.state(model))
    assert len(summary(model).rows) == len(LISTED)
    both = {"one": model, "step": 0, "two": model.embed}
    assert paths(both) == [*(("one", *path) for path in LISTED), ("step",)]


@pytest.mark.parametrize(
    "where",
    [
        "again/kernel",
        "embed",
        "out/kernel",
        ("out", "kernel"),
        "*/embedding",
        lambda path, leaf: path == ("embed", "embedding"),
    ],
)
def test_any_of_its_paths_selects_what_is_shared(model, where):
    assert chosen(model, where) == [("again", "kernel")]
    new = reinit(KEY, model, {where: flax_inits.normal(1.0)})
    assert_tied(new)
    listed = reinit(KEY, nnx.state(model), {"again/kernel": flax_inits.normal(1.0)})
    np.testing.assert_array_equal(new.out.kernel[...], listed["again"]["kernel"][...])


def test_a_new_module_around_the_same_kept_arrays_comes_back(model):
    before = nnx.state(model)
    new = reinit(KEY, model, {"norms": flax_inits.ones()})
    assert type(new) is Model and new is not model
    assert_tied(new)
    assert new.out.kernel[...] is model.out.kernel[...] and new.scale is model.scale
    np.testing.assert_array_equal(new.norms[0].mean[...], np.ones(4))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, before, nnx.state(model)))
    variables = [id(model.norms[0].mean), id(model.out.kernel)]
    nnx.update(model, nnx.state(new))
    assert variables == [id(model.norms[0].mean), id(model.out.kernel)]
    np.testing.assert_array_equal(model.norms[0].mean[...], np.ones(4))


def test_masks_fit_the_module_and_its_state(model):
    new = reinit(KEY, model, {"**/bias": flax_inits.ones()}, allow_unmatched=True)
    mask = select(model, "**/bias")
    assert isinstance(mask, nnx.State)
    assert chosen(model, mask) == chosen(nnx.state(model), mask) == chosen(model, "**/bias")
    assert float(new.out.bias[...].sum()) == 4


def test_graft_into_and_from_modules(model):
    donor = Model(nnx.Rngs(1))
    for given in (donor, nnx.state(donor), nnx.to_pure_dict(nnx.state(donor))):
        new = graft(model, given, "out")
        assert_tied(new)
        np.testing.assert_array_equal(new.embed.embedding[...], donor.out.kernel[...])
    mapped = graft(model, {"table": jnp.zeros((4, 4))}, {"embed/embedding": "table"})
    assert_tied(mapped)
    assert not mapped.out.kernel[...].any()


@pytest.mark.usefixtures("standard_promotion")
def test_reset_optimizer_takes_a_module(model):
    tx = optax.adam(0.1)
    params = nnx.state(model, nnx.Param)
    _, state = tx.update(params, tx.init(params), params)
    new = reset_optimizer(tx, state, model, "embed/embedding")
    assert not new[0].mu["again"]["kernel"][...].any()
    assert new[0].mu["again"]["bias"][...] is state[0].mu["again"]["bias"][...]


def test_variable_classes_select():
    class Mine(nnx.Param):
        pass

    class Other(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, rngs=rngs)
            self.mine = Mine(jnp.ones(2))

    model = Other(nnx.Rngs(0))
    for tree in (model, nnx.state(model)):
        assert chosen(tree, nnx.BatchStat) == [("norm", "mean"), ("norm", "var")]
        assert chosen(tree, Mine) == [("mine",)]
        assert chosen(tree, [nnx.BatchStat, "mine"]) == [("mine",), *chosen(tree, nnx.BatchStat)]
        with pytest.raises(ValueError, match="Cache selects no leaf"):
            select(tree, nnx.Cache)
    new = reinit(KEY, model, {nnx.Param: flax_inits.zeros()})
    assert not new.mine[...].any() and new.norm.var[...] is model.norm.var[...]
    with pytest.raises(ValueError, match="a pure dict has forgotten them"):
        select(nnx.to_pure_dict(nnx.state(model)), nnx.BatchStat)


def test_of_type_needs_no_inputs(model):
    where = of_type(model, nnx.Linear)
    assert repr(where) == "of_type(model, Linear)" and where == of_type(model, nnx.Linear)
    for tree in (model, nnx.state(model), nnx.to_pure_dict(nnx.state(Model(nnx.Rngs(1))))):
        assert chosen(tree, where) == [("again", "bias"), ("again", "kernel")]
    assert chosen(model, of_type(model, nnx.Embed)) == [("again", "kernel")]
    assert chosen(model, of_type(model, Model)) == LISTED
    assert len(chosen(model, of_type(model, (nnx.Embed, nnx.BatchNorm)))) == 5


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((nnx.Conv,), ValueError, "Model has no module of class 'Conv'; it has"),
        ((nnx.Linear, 3), TypeError, "of_type needs no inputs for an NNX module"),
        ((int,), TypeError, "a subclass of nnx.Module, or a tuple of them; got <class 'int'>"),
        (((),), ValueError, "an empty tuple of classes"),
    ],
)
def test_wrong_arguments_of_of_type(model, args, error, text):
    with pytest.raises(error, match=text):
        of_type(model, *args)


def test_rngs_are_a_key():
    params = {"a": jnp.ones(3)}
    rngs, other = nnx.Rngs(0, params=1), nnx.Rngs(0, params=1)
    rules = {"a": flax_inits.normal(1.0)}
    for _ in range(2):
        got = reinit(rngs, params, rules)
        np.testing.assert_array_equal(got["a"], reinit(other.params(), params, rules)["a"])
    with pytest.raises(ValueError, match="selects no leaf"):
        reinit(rngs, params, {"b": flax_inits.zeros()})
    assert int(rngs.params.count[...]) == 2 and int(rngs.default.count[...]) == 0
    np.testing.assert_array_equal(
        reinit(rngs.default, params, rules)["a"], reinit(other.default(), params, rules)["a"]
    )


@pytest.mark.parametrize("kind", ["ref", "hijax"])
def test_references_are_refused(kind):
    class Holder(nnx.Module):
        def __init__(self):
            self.a = nnx.Param(jnp.ones(2), **{kind: True})
            self.b = nnx.Param(jnp.ones(2))

    holder = Holder()
    leaf = jax.tree.leaves(nnx.state(holder))[0]
    if type(leaf) is type(jnp.ones(2)):
        pytest.skip("this version of Flax makes plain variables")
    for tree in (holder, nnx.state(holder)):
        with pytest.raises(ValueError, match=f"a variable with {kind}=True.*nnx.with_vars"):
            reinit(KEY, tree, {"b": flax_inits.zeros()})
