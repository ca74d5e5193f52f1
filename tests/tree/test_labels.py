"""Labels for optax: what each leaf gets, in every tree that an optimizer hands over."""

import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import flax_inits as fi
from flax_inits import all_but, at, labels

KEY = jax.random.key(0)


def tree():
    return {
        "body": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    }


HEAD = labels({"head": "train", "**": "freeze"})


def is_matrix(path, leaf):
    return leaf.ndim > 1


def named(made):
    """The labels by joined path."""
    return dict(zip(map("/".join, fi.paths(made)), jax.tree.leaves(made), strict=True))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"head": 1, "**": 0}, [0, 0, 1, 1]),
        ([("head", 1), ("**", 0)], [0, 0, 1, 1]),
        ({("head", "bias"): "b", all_but("**/bias"): "k", "**/bias": "c"}, ["c", "k", "b", "k"]),
        ({is_matrix: True, re.compile(".*"): False}, [False, True, False, True]),
        ([(["body", "head/bias"], "a"), (["**"], "z")], ["a", "a", "a", "z"]),
        ([(fi.select(tree(), "head"), "a"), (all_but("head"), "z")], ["z", "z", "a", "a"]),
    ],
)
def test_the_first_match_wins(rules, expected):
    made = labels(rules)(tree())
    assert jax.tree.leaves(made) == expected
    assert jax.tree.structure(made) == jax.tree.structure(tree())


def test_containers_and_boxes():
    assert isinstance(HEAD(freeze(tree())), FrozenDict)
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, ("a",)), tree())
    made = HEAD(boxed)
    assert jax.tree.structure(made) == jax.tree.structure(boxed)
    assert named(made) == named(HEAD(tree()))


def moved(tx, params):
    """Which leaves one step of an optimizer changes."""
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    new = optax.apply_updates(params, updates)
    pairs = zip(fi.paths(params), *map(jax.tree.leaves, (params, new)), strict=True)
    return ["/".join(path) for path, old, leaf in pairs if (leaf != old).any()]


@pytest.mark.parametrize("wrap", [dict, freeze])
def test_in_optax(wrap):
    head = ["head/bias", "head/kernel"]
    params, sgd = wrap(tree()), optax.sgd(0.1)
    groups = {"train": sgd, "freeze": optax.set_to_zero()}
    assert moved(optax.partition(groups, HEAD), params) == head
    mask = labels({"head": True, "**": False})
    frozen = optax.masked(optax.set_to_zero(), labels({"head": False, "**": True}))
    assert moved(optax.chain(sgd, frozen), params) == head
    if hasattr(optax.transforms, "freeze"):
        assert moved(optax.chain(sgd, optax.transforms.freeze(mask(params))), params) == [
            "body/bias",
            "body/kernel",
        ]


class TestMaskedOut:
    @pytest.mark.parametrize(
        "inner",
        [
            {"body": "b", "**/bias": "b", "**": "k"},
            {is_matrix: "k", "**": "b"},
            {lambda path, leaf: path[0] == "body": "b", is_matrix: "k", "**": "b"},
            {all_but("body"): "k", "**": "b"},
            {all_but(lambda path, leaf: path[0] == "body"): "k", "**": "b"},
            [(fi.select(tree(), "head"), "k"), (fi.select(tree(), "**"), "b")],
        ],
    )
    def test_a_rule_for_what_is_masked_out_counts_as_used(self, inner):
        sgd = optax.sgd(0.1)
        nested = optax.partition({"b": sgd, "k": sgd}, labels(inner))
        tx = optax.partition({"train": nested, "freeze": optax.set_to_zero()}, HEAD)
        assert moved(tx, tree()) == ["head/bias", "head/kernel"]
        assert moved(tx, jax.tree.map(lambda leaf: nn.Partitioned(leaf, ()), tree())) == [
            "head/bias",
            "head/kernel",
        ]

    def test_a_rule_for_nothing_at_all_does_not(self):
        masked = {"body": optax.MaskedNode(), "head": {"bias": jnp.ones(2)}}
        assert labels({"body": 1, "head": 0})(masked) == {
            "body": optax.MaskedNode(),
            "head": {"bias": 0},
        }
        with pytest.raises(ValueError, match="'bodi' selects no leaf. Did you mean 'body'"):
            labels({"bodi": 1, "**": 0})(masked)
        with pytest.raises(ValueError, match="has no label for 'head/bias'"):
            labels({"body": 1})(masked)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.body, self.head = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs)])

    def __call__(self, x):
        return self.head(self.body(self.layers[0](x)))


@pytest.mark.parametrize("rules", [HEAD, labels({is_matrix: "train", "**": "freeze"})])
def test_nnx_optimizer(rules):
    model = Model(nnx.Rngs(0))
    assert named(rules(nnx.state(model))) == named(rules(nnx.to_pure_dict(nnx.state(model))))
    groups = {"train": optax.sgd(0.1, momentum=0.9), "freeze": optax.set_to_zero()}
    optimizer = nnx.Optimizer(model, optax.partition(groups, rules), wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model))
    expected = named(rules(before))

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.mean(model(jnp.ones((1, 2))) ** 2))(model)
        optimizer.update(model, grads)

    step(model, optimizer)
    for path, leaf in named(nnx.to_pure_dict(nnx.state(model))).items():
        assert (leaf != named(before)[path]).any() == (expected[path] == "train")


def test_classes_of_variables():
    class Mine(nnx.Param):
        pass

    model = Model(nnx.Rngs(0))
    model.head.bias = Mine(jnp.ones(2))
    groups = labels({Mine: "train", all_but(Mine): "freeze"})
    made = named(groups(nnx.state(model)))
    assert [path for path, label in made.items() if label == "train"] == ["head/bias"]
    # Some variables masked out, and then all of them.
    params, sgd = nnx.state(model), optax.sgd(0.1)
    nested = optax.partition({"a": sgd, "b": sgd}, labels({Mine: "a", nnx.Param: "b"}))
    for outer in (labels({"head": "train", "**": "freeze"}), labels({"**": "freeze"})):
        optax.partition({"train": nested, "freeze": sgd}, outer).init(params)
    with pytest.raises(ValueError, match="Cache selects no leaf"):
        labels({nnx.Cache: 1, "**": 0})(params)


def test_a_value():
    one, other = labels({"head": "a", ("x", "y"): 1}), labels([("head", "a"), (("x", "y"), 1)])
    assert one == other and hash(one) == hash(other) and one != labels({"head": "a"})
    assert one != labels({("x", "y"): 1, "head": "a"})
    assert repr(one) == "labels({'head': 'a', ('x', 'y'): 1})" and eval(repr(one)) == one
    assert pickle.loads(pickle.dumps(one)) == one
    lists = labels([(["head"], "a"), ("**", "b")])
    assert repr(lists) == "labels([(['head'], 'a'), ('**', 'b')])" and eval(repr(lists)) == lists


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: labels({}), ValueError, "labels got no rules"),
        (lambda: labels("head"), TypeError, "labels needs rules such as {'head': 'train', '**'"),
        (lambda: labels(["head"]), TypeError, "or a list of pairs; got ['head']"),
        (lambda: labels({"head": ["a"]}), TypeError, "The label of 'head' is ['a'], a container"),
        (lambda: labels({"head": None}), TypeError, "The label of 'head' is None"),
        (lambda: labels({"head": optax.adam(1.0)}), TypeError, "maps labels to transformations"),
        (lambda: labels({at("head", 1): "a"}), TypeError, "at('head', 1) is a part of a leaf"),
        (lambda: labels({"head": 1})(tree()), ValueError, "labels({'head': 1}) has no label for "
            "'body/bias' and 'body/kernel'. Every leaf needs one: add a last rule for '**'."),
        (lambda: labels({"hed": 1, "**": 0})(tree()), ValueError, "Did you mean 'head'"),
        (lambda: labels({"**": 1, "head": 0})(tree()), ValueError, "'head' labels no leaf: what it "
            "selects has the label of '**', which comes first."),
        (lambda: labels({"**": 1})({}), ValueError, "The tree has no leaves"),
        (lambda: labels([(["head", "hed"], 1), ("**", 0)])(tree()), ValueError, "'hed' selects no"),
    ],
)  # fmt: skip
def test_errors(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()
