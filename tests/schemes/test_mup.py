"""The maximal update parametrization: its table, and what it is for."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze

import flax_inits as fi

KEY = jax.random.key(0)


class Network(nn.Module):
    """A leaf of each kind."""

    width: int
    spread: int = 1

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, self.width)(tokens)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, 5, self.width))
        x = x + nn.MultiHeadDotProductAttention(self.width // 8, name="attention")(
            nn.LayerNorm()(x)
        )
        x = nn.Dense(2 * self.spread * self.width, name="up")(x)
        x = nn.Conv(self.width, (3,), name="conv")(nn.relu(x))
        return nn.Dense(10, name="head")(x)


def init_fn(width, **kwargs):
    tokens = jnp.zeros((1, 5), int)
    return lambda key: Network(width, **kwargs).init(key, tokens)["params"]


@functools.cache
def network():
    return fi.mup(init_fn(32), init_fn(128))


# (path, base shape, shape, role, σ, Adam, SGD), as Table 3 of the paper has them for m = 4.
INPUT, HIDDEN = ("input", 1, 1, 4), ("hidden", 0.5, 0.25, 1)
EXPECTED = {
    "Embed_0/embedding": ((50, 32), (50, 128), *INPUT),
    "position": ((1, 5, 32), (1, 5, 128), *INPUT),
    "LayerNorm_0/scale": ((32,), (128,), *INPUT),
    "attention/query/kernel": ((32, 32), (128, 128), *HIDDEN),
    "attention/query/bias": ((32,), (128,), *INPUT),
    "attention/out/kernel": ((32, 32), (128, 128), *HIDDEN),
    "up/kernel": ((32, 64), (128, 256), *HIDDEN),
    "up/bias": ((64,), (256,), *INPUT),
    "conv/kernel": ((3, 64, 32), (3, 256, 128), *HIDDEN),
    "head/kernel": ((32, 10), (128, 10), "output", 0.25, 0.25, 0.25),
    "head/bias": ((10,), (10,), "fixed", 1, 1, 1),
}


@pytest.mark.slow
def test_rows_are_the_papers_table():
    rows = {"/".join(row.path): row for row in network().rows}
    assert list(map(tuple, fi.paths(jax.eval_shape(init_fn(128), KEY)))) == [
        row.path for row in network().rows
    ]
    for path, expected in EXPECTED.items():
        row = rows[path]
        found = row.base_shape, row.shape, row.role, row.stddev, row.adam, row.sgd
        assert found == expected, path


@pytest.mark.slow
def test_dimensions_that_grow_unequally():
    """The up-projection's outputs grow 4 times as much as its inputs, SGD's rate with them."""
    mup = fi.mup(init_fn(32), init_fn(64, spread=4))
    up, conv = (next(row for row in mup.rows if row.path == (n, "kernel")) for n in ("up", "conv"))
    assert (up.stddev, up.adam, up.sgd) == (2**-0.5, 1 / 2, 4)
    assert (conv.stddev, conv.adam, conv.sgd) == (8**-0.5, 1 / 8, 1 / 4)


@pytest.mark.slow
def test_the_base_model_itself_is_left_alone():
    mup = fi.mup(init_fn(32), init_fn(32))
    for row in mup.rows:
        assert (row.role, row.stddev, row.adam, row.sgd) == ("fixed", 1, 1, 1)
    said = "The target is as wide as the base: all factors are 1."
    assert str(mup).endswith(said) and said in mup._repr_html_() and said not in str(network())


@pytest.mark.slow
def test_a_narrower_model_is_scaled_up():
    """By the inverse of what growing as much asks for."""
    grown, shrunk = fi.mup(init_fn(32), init_fn(64)).rows, fi.mup(init_fn(64), init_fn(32)).rows
    for one, other in zip(grown, shrunk, strict=True):
        for factor in ("stddev", "adam", "sgd"):
            assert getattr(one, factor) * getattr(other, factor) == pytest.approx(1)


def test_scanned_layers_are_initialized_one_by_one():
    class Stack(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                lambda cell, x, _: (cell(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return layers(nn.Dense(self.width, name="layer"), x, None)[0]

    def init(width):
        return lambda key: Stack(width).init(key, jnp.ones((1, width)))["params"]

    mup = fi.mup(init(8), init(32))
    assert [row.shape for row in mup.rows] == [(32,), (32, 32)]
    new = fi.reinit(KEY, jax.eval_shape(init(32), KEY), mup.rules({"**/kernel": fi.normal(1.0)}))
    assert jax.tree.leaves(new)[1].shape == (3, 32, 32)
    assert float(jax.tree.leaves(new)[1].std()) == pytest.approx(0.5, rel=0.07)


def test_it_prints_as_a_table():
    lines = str(network()).splitlines()
    assert lines[0].split() == ["path", "base", "shape", "shape", "role", "σ", "Adam", "SGD"]
    head = next(line for line in lines if line.startswith("head/kernel"))
    assert head.split() == ["head/kernel", "32×10", "128×10", "output", "0.25", "0.25", "0.25"]
    assert "<td" in network()._repr_html_() and repr(network()) == str(network())
    assert repr(network().rows[-1]) == (
        "MupRow(path=('up', 'kernel'), base_shape=(32, 64), shape=(128, 256), role='hidden', "
        "stddev=0.5, adam=0.25, sgd=1.0)"
    )


RULES = {"Embed_0": fi.normal(1.0), "position": fi.zeros(), "**/kernel": fi.normal(0.1)}


@pytest.mark.slow
@pytest.mark.parametrize("through", ["reinit", "reinit with init_fn", "jit_init"])
def test_rules_have_the_standard_deviations_of_the_table(through):
    rules = network().rules(RULES)
    if through == "jit_init":
        params = fi.jit_init(init_fn(128), rules=rules)(KEY)
    else:
        params = jax.jit(init_fn(128))(KEY)
        given = {} if through == "reinit" else {"init_fn": init_fn(128)}
        params = fi.reinit(KEY, params, rules, **given)
    for row, leaf in zip(network().rows, jax.tree.leaves(params), strict=True):
        base = {"kernel": 0.1, "embedding": 1.0}.get(row.path[-1])
        if base is not None:
            # 4.9 standard errors: a false alarm in a million.
            margin = 4.9 / (2 * leaf.size) ** 0.5
            assert float(leaf.std()) == pytest.approx(base * row.stddev, rel=margin), row.path
    assert not params["position"].any()


def test_rules_agree_with_mup_scaled():
    """The initializer has the same σ for hidden layers, where no multiplier is in the model."""
    rules = network().rules([("up/kernel", fi.normal(0.1)), *RULES.items()])
    ((where, init),) = [rule for rule in rules if rule[0](("up", "kernel"), None)]
    assert not where(("conv", "kernel"), None)
    expected = fi.mup_scaled(fi.normal(0.1), (32, 64))(KEY, (128, 256))
    np.testing.assert_allclose(init(KEY, (128, 256)), expected, rtol=1e-6)


def test_an_initializer_with_a_shape_of_its_own_is_scaled():
    fused = fi.blocks([fi.normal(0.1), fi.normal(0.2), fi.normal(0.3)], axis=-1)
    mup = fi.mup(lambda key: {"qkv": jnp.ones((8, 24))}, lambda key: {"qkv": jnp.ones((32, 96))})
    ((where, init),) = mup.rules({"qkv": fused})
    np.testing.assert_allclose(init(KEY, (32, 96)), fused(KEY, (32, 96)) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"**/kernel": fi.normal(0.1)},
            "no rule for 'Embed_0/embedding' and 'position', which the",
        ),
        (
            {**RULES, "**/kernel": nn.initializers.lecun_normal()},
            "shrinks with the fan-in by itself",
        ),
        (
            {**RULES, "**/kernel": fi.orthogonal()},
            r"has orthogonal\(\), which shrinks with the fan-in",
        ),
        ({**RULES, "tail": fi.zeros()}, "'tail' selects no leaf"),
        ({}, "No rules were given"),
    ],
)
def test_rules_reject(rules, message):
    with pytest.raises(ValueError, match=message):
        network().rules(rules)


@pytest.mark.parametrize(
    ("rules", "given"),
    [
        (fi.normal(0.1), r"normal\(0\.1\)"),
        ("**/kernel", r"'\*\*/kernel'"),
        (("**/kernel", fi.normal(0.1)), r"\('\*\*/kernel', normal\(0\.1\)\)"),
        (None, "None"),
    ],
)
def test_rules_say_where_and_what(rules, given):
    with pytest.raises(TypeError, match=r"such as \{'\*\*/kernel': .*; got " + given):
        network().rules(rules)


def test_rules_print_as_the_patterns_that_were_given():
    shown = repr([where for where, _ in network().rules(RULES)])
    assert "'position' ('position')" in shown and "'**/kernel' ('head/kernel')" in shown
    assert "'**/kernel' ('attention/key/kernel', 'attention/out/kernel' and 4 more)" in shown


def params_of(width):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(init_fn(width), KEY))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learning_rates(optimizer):
    rates = network().learning_rates(freeze(params_of(128)), optimizer)
    assert jax.tree.structure(rates) == jax.tree.structure(freeze(params_of(128)))
    assert jax.tree.leaves(rates) == [getattr(row, optimizer) for row in network().rows]
    part = network().learning_rates({"head": {"kernel": 1.0}}, optimizer)
    assert part == {"head": {"kernel": 0.25}}


@pytest.mark.slow
def test_updates_are_scaled_in_their_dtype_and_under_partition():
    grads = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params_of(128))
    tx = optax.chain(optax.sgd(0.5), network().scale_updates("sgd"))
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    for row, update in zip(network().rows, jax.tree.leaves(updates), strict=True):
        assert update.dtype == jnp.bfloat16 and (update == -0.5 * row.sgd).all()

    labels = jax.tree.map_with_path(lambda path, leaf: path[0].key == "head", grads)
    parted = optax.partition({True: tx, False: optax.set_to_zero()}, labels)
    updates, _ = parted.update(grads, parted.init(grads))
    assert (updates["head"]["kernel"] == -0.125).all() and not updates["up"]["kernel"].any()


def test_unknown_leaves_and_optimizers_are_rejected():
    with pytest.raises(ValueError, match="mup knows no leaf 'params/head/kernel'"):
        network().learning_rates({"params": {"head": {"kernel": 1.0}}}, "adam")
    with pytest.raises(ValueError, match="mup knows no leaf 'tail'"):
        network().learning_rates({"tail": 1.0}, "adam")
    for method in (network().scale_updates, functools.partial(network().learning_rates, {})):
        with pytest.raises(
            ValueError, match="optimizer to be 'adam' or 'sgd', got optimizer='adm'"
        ):
            method("adm")
        with pytest.raises(ValueError, match=r"AdamW in its parts.*add_decayed_weights\(\.\.\.\)"):
            method("adamw")


@pytest.mark.usefixtures("standard_promotion")
def test_the_parts_of_adamw_decay_alike_at_every_width():
    """The decay of a hidden kernel is not a quarter, as its learning rate is."""
    params = {"up": {"kernel": jnp.ones(1)}, "head": {"bias": jnp.ones(1)}}
    tx = optax.chain(
        optax.scale_by_adam(),
        network().scale_updates("adam"),
        optax.add_decayed_weights(0.5),
        optax.scale_by_learning_rate(0.1),
    )
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["up"]["kernel"], -0.1 * (0.25 + 0.5), rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["bias"], -0.1 * (1 + 0.5), rtol=1e-5)


def test_models_that_differ_elsewhere_are_rejected():
    def bare(*shape):
        return lambda key: {"kernel": jnp.zeros(shape)}

    with pytest.raises(
        ValueError, match=r"inputs from outputs of 'kernel': it has shape \(8, 4, 2\)"
    ):
        fi.mup(bare(4, 4, 2), bare(8, 4, 2))
    with pytest.raises(ValueError, match="cannot tell inputs from outputs"):
        fi.mup(bare(4, 4), bare(4, 4, 4))
    with pytest.raises(ValueError, match="one of the two has 'bias' and the other has not"):
        fi.mup(bare(4, 4), lambda key: {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)})
    with pytest.raises(TypeError, match="needs a callable key -> params for target.*got dict"):
        fi.mup(bare(4, 4), {"kernel": jnp.zeros((8, 8))})


def test_what_is_no_float_has_no_row():
    def init(width):
        return lambda key: {"w": jnp.zeros((width, 3)), "count": jnp.zeros(width, int), "key": key}

    assert [row.path for row in fi.mup(init(4), init(8)).rows] == [("w",)]


# What it is for: the coordinate check, in numbers.

BASE = 32


def moved(width, optimizer, mup):
    """How far three steps move each layer's output, as root mean squares."""
    x, y = jax.random.normal(KEY, (64, 8)), jax.random.normal(jax.random.key(1), (64, 4))

    def net(width):
        return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width), nn.relu, nn.Dense(4)])

    def init(width):
        return lambda key: net(width).init(key, x)["params"]

    params = jax.jit(init(width))(KEY)
    tx = {"adam": optax.adam(0.02), "sgd": optax.sgd(0.1)}[optimizer]
    if mup:
        scheme = fi.mup(init(BASE), init(width))
        rules = {"layers_0/kernel": fi.normal(8**-0.5), "**/kernel": fi.normal(BASE**-0.5)}
        params = fi.reinit(KEY, params, scheme.rules(rules))
        tx = optax.chain(tx, scheme.scale_updates(optimizer))

    def outputs(params):
        return net(width).apply(
            {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
        )

    def loss(params):
        return ((outputs(params)[0] - y) ** 2).mean()

    @jax.jit
    def train(params):
        before, state = outputs(params)[1], tx.init(params)
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        after = outputs(params)[1]
        return jax.tree.map(lambda a, b: ((a - b) ** 2).mean() ** 0.5, after, before)

    found = train(params)["intermediates"]
    return np.array([found[f"layers_{i}"]["__call__"][0] for i in (0, 2, 4)])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.usefixtures("standard_promotion")
def test_steps_move_activations_alike_at_every_width(optimizer):
    """From 4 to 16 times the base width: what is random in a narrow net has averaged out there."""
    standard, mup = (
        moved(512, optimizer, way) / moved(128, optimizer, way) for way in (False, True)
    )
    assert (mup > 1 / 1.5).all() and (mup < 1.5).all()
    assert standard.max() > 4
