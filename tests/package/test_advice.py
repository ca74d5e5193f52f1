"""What errors advise: the call that failed, written as the message says, does what was wanted.

The advice of `reinit` on sizes, copies and ties is followed in tests/surgery/test_reinit_hints.py.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: F401

import flax_inits

KEY = jax.random.key(3)
X = jnp.ones((2, 6))
TX = optax.adam(0.1)
PARAMS = {
    "body": {"kernel": jnp.full((6, 5), 2.0), "bias": jnp.full(5, 2.0)},
    "head": {"kernel": jnp.full((5, 4), 2.0), "bias": jnp.full(4, 2.0)},
}
RESTORED = jax.tree.map(lambda leaf: {"value": leaf}, PARAMS)
LIST = {"a": [jnp.ones(2), jnp.ones(3)]}
GROWN = {**PARAMS, "head": {"kernel": jnp.zeros((5, 9)), "bias": jnp.zeros(9)}}
NET = nn.Sequential([nn.Dense(5), nn.Dense(4)])
NAMES = {name: getattr(flax_inits, name) for name in flax_inits.__all__}


def chosen(tree, where):
    """The paths that `where` selects."""
    mask = jax.tree.leaves(flax_inits.select(tree, where))
    return {"/".join(path) for path, yes in zip(flax_inits.paths(tree), mask, strict=True) if yes}


def changed(new):
    """The paths of leaves that are not those of PARAMS, in a tree that begins as it does."""
    pairs = zip(flax_inits.paths(PARAMS), jax.tree.leaves(new), strict=True)
    return {"/".join(path) for path, leaf in pairs if bool((leaf != 2).any())}


def wide(key, wide):
    return jax.random.normal(key, (4 if wide else 3,))


def dense(**options):
    return nn.Dense(3, **options).init(KEY, X)["params"]


HEAD = {"head/kernel", "head/bias"}
BODY = {"body/kernel", "body/bias"}
NORMAL = flax_inits.normal(1.0)
INIT = lambda key: NET.init(key, X)["params"]  # noqa: E731
ROWS = {
    # What is wrong: the call, the advice in its message, and what must be true with that for <>.
    "a pattern with not": (
        "select(PARAMS, '!head')",
        r"write (all_but.*)\.$",
        "chosen(PARAMS, <>) == BODY",
    ),
    "a pattern with or": (
        "select(PARAMS, '{body,head}/bias')",
        "give (a list) of patterns",
        "chosen(PARAMS, ['body/bias', 'head/bias']) == {'body/bias', 'head/bias'}",
    ),
    "a factory as a rule": (
        "reinit(KEY, PARAMS, {'**/kernel': lecun_normal})",
        r"write (lecun_normal\()\.\.\.\)",
        "changed(reinit(KEY, PARAMS, {'**/kernel': <>)})) == {'body/kernel', 'head/kernel'}",
    ),
    "a factory within another": (
        "depth_scaled(lecun_normal, 2)",
        r"call it first: (lecun_normal\()\.\.\.\)",
        "depth_scaled(<>), 2)(KEY, (3, 4)).shape == (3, 4)",
    ),
    "a factory in a module": (
        "dense(kernel_init=lecun_normal)",
        r"write (lecun_normal\()\.\.\.\) where",
        "dense(kernel_init=<>))['kernel'].shape == (6, 3)",
    ),
    "a mean for a deviation": (
        "truncated_normal(0.0, 0.5)",
        r"and (constant.*) is a constant",
        "(<>(KEY, (3,)) == 0.5).all()",
    ),
    "a number as a rule": (
        "reinit(KEY, PARAMS, {'head': 0.5})",
        r"such as (flax_inits\..*)\.$",
        "(reinit(KEY, PARAMS, {'head': <>})['head']['bias'] == 0.5).all()",
    ),
    "an array as a rule": (
        "reinit(KEY, PARAMS, {'head/bias': jnp.arange(4.0)})",
        r"such as (flax_inits\.from_array\()x\)",
        "reinit(KEY, PARAMS, {'head/bias': <>jnp.arange(4.0))})['head']['bias'][3] == 3",
    ),
    "rules in rules": (
        "reinit(KEY, PARAMS, {'head': {'kernel': NORMAL}})",
        r"write (\{.*: )\.\.\.\}",
        "changed(reinit(KEY, PARAMS, <>NORMAL})) == {'head/kernel'}",
    ),
    "no initializer": (
        "reinit(KEY, PARAMS, ['head/bias', 'body/bias'])",
        r"rules such as (\[.*\]), or init_fn",
        "changed(reinit(KEY, PARAMS, <>)) == {'head/bias', 'body/bias'}",
    ),
    "no init_fn": (
        "reinit(KEY, NET.init(KEY, X), 'params/layers_0')",
        r"or (init_fn=lambda key: model\.init\(key, x\))\.$",
        "reinit(KEY, NET.init(KEY, X), 'params/layers_0', <>)",
    ),
    "one rule": (
        "reinit(KEY, PARAMS, ('head/kernel', NORMAL))",
        r"written \{where: initializer\} or (\[\()where",
        "changed(reinit(KEY, PARAMS, <>'head/kernel', NORMAL)])) == {'head/kernel'}",
    ),
    "an init_fn that returns more": (
        "reinit(KEY, PARAMS, 'head', init_fn=lambda key: {'params': GROWN})",
        r"give its (\['params'\])",
        "graft({'params': GROWN}<>, PARAMS, 'body')['body']['bias'][0] == 2",
    ),
    "params below variables": (
        "reinit(KEY, {'params': PARAMS}, {'head/kernel': NORMAL})",
        r"Did you mean ('.*'), which",
        "changed(reinit(KEY, {'params': PARAMS}, {<>: NORMAL})['params']) == {'head/kernel'}",
    ),
    "what Orbax restores of a state": (
        "reinit(KEY, PARAMS, 'head', init_fn=lambda key: RESTORED)",
        r"take (jax\.tree\.map.*)\.$",
        "reinit(KEY, PARAMS, 'head', init_fn=lambda key: (lambda tree: <>)(RESTORED))",
    ),
    "a class of modules": (
        "select(INIT(KEY), nn.Dense)",
        r"write (of_type\(model, Dense, )\*inputs\)",
        "chosen(INIT(KEY), <>X)) == set(map('/'.join, paths(INIT(KEY))))",
    ),
    "a path with integers": (
        "select(LIST, ('a', 1))",
        r"write (.*)\.$",
        "chosen(LIST, <>) == {'a/1'}",
    ),
    "a tuple of patterns": (
        "select(PARAMS, ('head/bias', re.compile('body/.*')))",
        r"A union is a list: write (.*)\.$",
        "chosen(PARAMS, <>) == {'head/bias'} | BODY",
    ),
    "a mask of another tree": (
        "select(PARAMS, {'head': True})",
        r"Make it with (select\()tree, \.\.\.\)",
        "chosen(PARAMS, <>PARAMS, 'head')) == HEAD",
    ),
    "a leaf without a label": (
        "labels({'head': 'fast'})(PARAMS)",
        r"add a last rule for (.*)\.$",
        "labels({'head': 'fast', <>: 'slow'})(PARAMS)['body']['bias'] == 'slow'",
    ),
    "a part where leaves are chosen": (
        "select(PARAMS, at('head/bias', 0))",
        r"select the whole leaf: (.*)\.$",
        "chosen(PARAMS, <>) == {'head/bias'}",
    ),
    "an index beyond": (
        "reinit(KEY, PARAMS, {at('head/bias', 4): zeros()})",
        "give integers from -4 to (3),",
        "reinit(KEY, PARAMS, {at('head/bias', <>): zeros()})['head']['bias'].tolist()"
        " == [2, 2, 2, 0]",
    ),
    "the fans of a bias": (
        "reinit(KEY, PARAMS, {'head': lecun_normal()})",
        r"a rule of its own, such as (.*)\.$",
        "changed(reinit(KEY, PARAMS, {'**/bias': <>, 'head': lecun_normal()}))"
        " == HEAD | {'body/bias'}",
    ),
    "an argument that is branched on": (
        "jit_init(wide)(KEY, True)",
        r"write jit_init\(\.\.\., (static_argnums=\S+|static_argnames=\S+)\)",
        "jit_init(wide, <>)(KEY, True).shape == (4,)",
    ),
    "a mesh as a sharding": (
        "jit_init(INIT, out_shardings=Mesh(jax.devices(), 'x'))(KEY)",
        r"give jax\.sharding\.(NamedSharding\()mesh, PartitionSpec\(\.\.\.\)\)",
        "jit_init(INIT, out_shardings=<>Mesh(jax.devices(), 'x'), PartitionSpec()))(KEY)",
    ),
    "shapes for values": (
        "signal(NET, jax.eval_shape(NET.init, KEY, X), X)",
        r"for example by (jit_init\(model\.init\)\(key, x\))\.$",
        "signal(NET, <>, X).rows",
    ),
    "statistics for params": (
        "lsuv(KEY, NET, {'params': INIT(KEY), 'stats': {'kernel': X}}, X, where='stats/kernel')",
        r"such as ('params/\*\*/kernel')\.$",
        "lsuv(KEY, NET, NET.init(KEY, X), X, where=<>)",
    ),
    "values for a function that makes them": (
        "mup(INIT(KEY), INIT)",
        r"such as (lambda key: .*); got",
        "mup(<>, INIT)",
    ),
    "an optimizer's state of other params": (
        "reset_optimizer(TX, TX.init(PARAMS), GROWN, 'head')",
        r"the old one: (graft.*)\.$",
        "(lambda tx, params, opt_state: <>)(TX, GROWN, TX.init(PARAMS))[0].mu['head']['bias'].size"
        " == 9",
    ),
    "an optimizer without its model": (
        "reinit_state(KEY, trained()[1], {'bias': NORMAL})",
        r"call (reinit_state\(.*\))\.$",
        "(lambda key, model, optimizer, rules: <>)(KEY, *trained(), {'bias': NORMAL})",
    ),
}


def trained():
    """A model and its optimizer."""
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    return model, nnx.Optimizer(model, TX, wrt=nnx.Param)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ROWS)
def test_following_it_does_what_was_wanted(name):
    call, pattern, then = ROWS[name]
    names = NAMES | globals() | {"key": KEY, "model": NET, "x": X, "Dense": nn.Dense}
    with pytest.raises((TypeError, ValueError)) as caught:
        eval(call, names)
    said = "\n".join((str(caught.value), *getattr(caught.value, "__notes__", ())))
    (advice,) = re.findall(pattern, said, re.MULTILINE)
    assert eval(then.replace("<>", advice), names)
