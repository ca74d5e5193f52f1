"""Resets from the literature, each against its formula on cases computed by hand."""

import contextlib
import functools
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from compiles import count_compiles
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits
from flax_inits import OptimizerStateWarning, dormant, recycle, shrink_perturb
from flax_inits._plasticity.edits import _fitted, lost_axes

KEY = jax.random.key(0)
NEW = 7.0
FRESH = flax_inits.constant(NEW)


def mask(*bools):
    return jnp.array(bools, bool)


# Dormant units.


def test_scores_by_hand():
    """Means 1, 4, 0.05 and 0; the layer's mean is 1.2625; scores 0.79, 3.17, 0.040 and 0."""
    activations = jnp.array([[1.0, -4.0, 0.1, 0.0], [-1.0, 4.0, 0.0, 0.0]])
    for threshold, expected in [
        (0, [False, False, False, True]),
        (0.039, [False, False, False, True]),
        (0.04, [False, False, True, True]),
        (0.79, [False, False, True, True]),
        (0.8, [True, False, True, True]),
    ]:
        np.testing.assert_array_equal(dormant(activations, threshold), expected)


def test_convolutions_average_over_space():
    activations = np.zeros((2, 3, 3, 2), np.float32)
    activations[0, 1, 2, 0] = 18.0  # Mean 1 over 18 places.
    activations[..., 1] = 0.1
    np.testing.assert_array_equal(dormant(activations, 0.19), [False, True])
    np.testing.assert_array_equal(dormant(activations, 0.18), [False, False])


def test_a_silent_layer_is_dormant_as_a_whole():
    np.testing.assert_array_equal(dormant(jnp.zeros((2, 3)), 0.0), [True] * 3)


def test_sums_of_bfloat16_do_not_saturate():
    """4096 ones sum to 256 in bfloat16."""
    activations = jnp.stack([jnp.ones(4096), jnp.full(4096, 0.5)], 1).astype(jnp.bfloat16)
    np.testing.assert_array_equal(dormant(activations, 0.67), [False, True])


def test_any_tree_of_activations():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="hidden")(x)

    _, captured = Net().init_with_output(
        KEY, jnp.ones((2, 2)), mutable=["params", "intermediates"], capture_intermediates=True
    )
    masks = dormant(captured["intermediates"], 0.1)
    assert masks["hidden"]["__call__"][0].shape == (3,)


class Captured(nn.Module):
    """A relu that is a function: Flax captures what comes before it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.relu(nn.Dense(8, name="hidden")(x)))


def test_values_before_the_activation_are_noticed():
    """There, units that a bias silences look like the only live ones."""
    x = jax.random.normal(KEY, (16, 3))
    params = Captured().init(KEY, x)["params"]
    params["hidden"]["bias"] = jnp.where(jnp.arange(8) < 4, -99.0, 3.0)
    _, captured = Captured().apply(
        {"params": params}, x, capture_intermediates=True, mutable="intermediates"
    )
    hidden = captured["intermediates"]["hidden"]["__call__"][0]
    with pytest.warns(UserWarning, match=r"4 of 8 units of 'hidden' are negative on aver") as said:
        dormant({"hidden": hidden}, 0.1)
    assert said[0].filename == __file__ and "give dormant what comes after it" in str(said[0])
    expected = np.arange(8) < 4
    np.testing.assert_array_equal(dormant(nn.relu(hidden), 0.1), expected)
    with pytest.warns(UserWarning, match=r"^4 of 8 units are negative"):
        dormant(hidden.astype(jnp.bfloat16), 0.1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "activation", [nn.relu, nn.gelu, nn.silu, nn.elu, nn.selu, nn.tanh, nn.soft_sign, nn.sigmoid]
)
def test_activations_are_not_taken_for_what_comes_before(activation):
    dormant(activation(jax.random.normal(KEY, (64, 32)) * 9 - 5), 0.1)


def test_dormant_under_jit_and_errors():
    assert jax.jit(dormant)(jnp.ones((2, 3)), 0.5).dtype == bool
    with pytest.raises(ValueError, match=r"activations have shape \(3,\); dormant needs \(batch"):
        dormant(jnp.ones(3), 0.1)
    with pytest.raises(ValueError, match=r"'hidden' has shape \(0, 3\)"):
        dormant({"hidden": jnp.ones((0, 3))}, 0.1)
    with pytest.raises(ValueError, match="threshold must be one number of at least 0, got -1"):
        dormant(jnp.ones((2, 3)), -1)
    with pytest.raises(TypeError, match="threshold must be one number of at least 0, got None"):
        dormant(jnp.ones((2, 3)), None)


# Recycling.

LAYERS = {
    "first": {"kernel": "first/kernel", "bias": "first/bias", "feeds": "second/kernel"},
    "second": {"kernel": "second/kernel", "bias": "second/bias", "feeds": "out/kernel"},
}


def network(dtype=jnp.float32):
    def layer(inputs, units):
        return {"kernel": jnp.ones((inputs, units), dtype), "bias": jnp.ones(units, dtype)}

    return {"first": layer(2, 3), "second": layer(3, 4), "out": layer(4, 1)}


MASKS = {"first": mask(0, 1, 0), "second": mask(1, 0, 0, 1)}


def test_units_that_meet():
    """A unit dormant as input and one dormant as output: between them, the outgoing zero wins."""
    new = recycle(KEY, network(), MASKS, LAYERS, incoming=FRESH)
    np.testing.assert_array_equal(new["first"]["kernel"], [[1, 7, 1], [1, 7, 1]])
    np.testing.assert_array_equal(new["first"]["bias"], [1, 0, 1])
    np.testing.assert_array_equal(
        new["second"]["kernel"], [[7, 1, 1, 7], [0, 0, 0, 0], [7, 1, 1, 7]]
    )
    np.testing.assert_array_equal(new["second"]["bias"], [0, 1, 1, 0])
    np.testing.assert_array_equal(new["out"]["kernel"], [[0], [1], [1], [0]])
    np.testing.assert_array_equal(new["out"]["bias"], [1])


def test_only_what_belongs_to_masked_layers_is_new():
    params = freeze(network(jnp.bfloat16))
    new = recycle(KEY, params, {"second": MASKS["second"]}, LAYERS, incoming=FRESH)
    assert type(new) is type(params) and jax.tree.structure(new) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(new))
    assert new["first"]["kernel"] is params["first"]["kernel"]
    assert new["out"]["bias"] is params["out"]["bias"]
    np.testing.assert_array_equal(new["second"]["kernel"][0].astype(float), [7, 1, 1, 7])


def test_conv_to_dense_is_tiled():
    """For a 2 x 2 x 3 map and channel 1, the rows of the flattened map are 1, 4, 7 and 10."""
    params = {"conv": jnp.ones((3, 3, 1, 3)), "dense": jnp.ones((12, 2)), "out": jnp.ones((2, 1))}
    layers = {"conv": {"kernel": "conv", "feeds": "dense", "spatial": (2, 2)}}
    new = recycle(KEY, params, {"conv": mask(0, 1, 0)}, layers, incoming=FRESH)
    rows = np.flatnonzero((new["dense"] == 0).all(axis=1))
    np.testing.assert_array_equal(rows, [1, 4, 7, 10])
    np.testing.assert_array_equal(new["conv"][..., 1], np.full((3, 3, 1), NEW))
    np.testing.assert_array_equal(new["conv"][..., [0, 2]], np.ones((3, 3, 1, 2)))


@pytest.mark.slow
def test_tiling_is_what_a_model_computes():
    """Recycling silent channels changes nothing of the output, through Flax's own flattening."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (2, 2), name="conv")(x))
            self.sow("intermediates", "map", x)
            x = nn.relu(nn.Dense(5, name="dense")(x.reshape(len(x), -1)))
            return nn.Dense(2, name="out")(x)

    x = jax.random.normal(KEY, (3, 4, 4, 1))
    params = Net().init(KEY, x)["params"]
    params["conv"]["bias"] = jnp.array([0.0, -99.0, 0.0, -99.0])
    layers = {
        "conv": {
            "kernel": "conv/kernel",
            "bias": "conv/bias",
            "feeds": "dense/kernel",
            "spatial": (4, 4),
        }
    }
    output, sown = Net().apply({"params": params}, x, mutable="intermediates")
    masks = {"conv": dormant(sown["intermediates"]["map"][0], 0.0)}
    np.testing.assert_array_equal(masks["conv"], [False, True, False, True])
    new = recycle(KEY, params, masks, layers)
    assert not jnp.array_equal(new["conv"]["kernel"], params["conv"]["kernel"])
    again, sown = Net().apply({"params": new}, x, mutable="intermediates")
    np.testing.assert_allclose(output, again, rtol=1e-6)
    assert not dormant(sown["intermediates"]["map"][0], 0.0).any()


def test_flattening_is_said_never_guessed():
    """A head that a convolution does not feed can have a multiple of its channels as rows."""
    params = {"conv": jnp.ones((3, 3, 1, 16)), "head": jnp.ones((64, 10))}
    layer, masks = {"kernel": "conv", "feeds": "head"}, {"conv": jnp.zeros(16, bool)}
    with pytest.raises(
        ValueError, match=r"has 64 along axis -2; .*'spatial': .*, here 4 positions"
    ):
        recycle(KEY, params, masks, {"conv": layer})
    recycle(KEY, params, masks, {"conv": {**layer, "spatial": (2, 2)}})  # As the message says.
    recycle(KEY, params, masks, {"conv": {**layer, "spatial": 4}})
    with pytest.raises(ValueError, match=r"must have 16, or 144 where feature maps of \(3, 3\)"):
        recycle(KEY, params, masks, {"conv": {**layer, "spatial": (3, 3)}})
    for wrong in ((), (2, 0), "2x2", 2.0):
        with pytest.raises(ValueError, match="'spatial' of layer 'conv' must be the size of its"):
            recycle(KEY, params, masks, {"conv": {**layer, "spatial": wrong}})
    # Maps that are pooled before one kernel and flattened before another.
    params["pooled"] = jnp.ones((16, 2))
    both = {"kernel": "conv", "feeds": ["head", "pooled"], "spatial": (2, 2)}
    new = recycle(KEY, params, {"conv": jnp.arange(16) == 3}, {"conv": both})
    assert [int((new[name] == 0).all(1).sum()) for name in ("head", "pooled")] == [4, 1]


def test_conv_feeds_conv_and_several():
    params = {"a": jnp.ones((1, 1, 1, 2)), "b": jnp.ones((3, 3, 2, 4)), "c": jnp.ones((2, 5))}
    layers = {"a": {"kernel": ["a"], "feeds": ["b", ("c",)]}}
    new = recycle(KEY, params, {"a": mask(1, 0)}, layers, incoming=FRESH)
    assert not new["b"][:, :, 0].any() and new["b"][:, :, 1].all()
    assert not new["c"][0].any() and new["c"][1].all()


def test_an_axis_of_its_own():
    """An attention kernel (features, heads, size) takes its inputs at axis 0."""
    params = {"a": jnp.ones((2, 4)), "query": jnp.ones((4, 2, 3))}
    layers = {"a": {"kernel": "a", "feeds": {"query": 0}}}
    new = recycle(KEY, params, {"a": mask(1, 0, 0, 0)}, layers)
    assert not new["query"][0].any() and new["query"][1:].all()


def test_norms():
    five = jnp.array([5.0, 5.0])
    variables = {
        "params": {"a": jnp.ones((2, 2)), "bn": {"scale": five, "bias": five}},
        "batch_stats": {"bn": {"mean": five, "var": five}},
        "out": jnp.ones((2, 1)),
    }
    layer = {"kernel": "params/a", "norm": ["params/bn", "batch_stats/bn"], "feeds": "out"}
    new = recycle(KEY, variables, {"a": mask(0, 1)}, {"a": layer})
    np.testing.assert_array_equal(new["params"]["bn"]["scale"], [5, 1])
    np.testing.assert_array_equal(new["params"]["bn"]["bias"], [5, 0])
    np.testing.assert_array_equal(new["batch_stats"]["bn"]["mean"], [5, 0])
    np.testing.assert_array_equal(new["batch_stats"]["bn"]["var"], [5, 1])
    own = {**layer, "norm": {"params/bn/scale": 0.5}}
    new = recycle(KEY, variables, {"a": mask(0, 1)}, {"a": own})
    np.testing.assert_array_equal(new["params"]["bn"]["scale"], [5, 0.5])
    assert new["batch_stats"]["bn"]["mean"] is variables["batch_stats"]["bn"]["mean"]


def test_fresh_columns_are_those_of_the_initializer():
    """Drawn for the kernel as a whole, so with its fans; Flax's default where nothing is said."""
    params, masks = network(), {"first": mask(0, 1, 1)}
    expected = flax_inits.reinit(KEY, params, {"first/kernel": nn.initializers.lecun_normal()})
    new = recycle(KEY, params, masks, LAYERS)
    np.testing.assert_array_equal(new["first"]["kernel"][:, 1:], expected["first"]["kernel"][:, 1:])
    by_layer = recycle(KEY, params, masks, LAYERS, incoming={"first": FRESH})
    np.testing.assert_array_equal(by_layer["first"]["kernel"][0], [1, 7, 7])
    tree = jax.tree.map(lambda leaf: leaf * 9, params)
    of_tree = recycle(KEY, params, masks, LAYERS, incoming=tree)
    np.testing.assert_array_equal(of_tree["first"]["kernel"][0], [1, 9, 9])


def test_outgoing():
    masks = {"first": mask(0, 1, 0)}
    kept = recycle(KEY, network(), masks, LAYERS, incoming=FRESH, outgoing="keep")
    assert kept["second"]["kernel"].all()
    drawn = recycle(KEY, network(), masks, LAYERS, outgoing=flax_inits.constant(3.0))
    np.testing.assert_array_equal(drawn["second"]["kernel"][1], [3, 3, 3, 3])
    both = recycle(KEY, network(), MASKS, LAYERS, outgoing=nn.initializers.normal())
    fresh = flax_inits.reinit(KEY, network(), {"second/kernel": nn.initializers.normal()})
    # Incoming and outgoing weights of one kernel come from different draws.
    assert (both["second"]["kernel"][1] != fresh["second"]["kernel"][1]).all()


def test_norms_of_new_columns():
    """Live columns have the norms 5 and 10, so the new one gets 0.5 * 7.5."""
    params = {"a": jnp.array([[3.0, 1.0, 6.0], [4.0, 1.0, 8.0]]), "b": jnp.ones((3, 1))}
    layers = {"a": {"kernel": "a", "feeds": "b"}}
    new = recycle(KEY, params, {"a": mask(0, 1, 0)}, layers, incoming=FRESH, norm_factor=0.5)
    np.testing.assert_allclose(new["a"][:, 1], [3.75 / 2**0.5] * 2, rtol=1e-6)
    np.testing.assert_array_equal(new["a"][:, 0], [3, 4])
    # With no live column there is no norm to take.
    new = recycle(KEY, params, {"a": mask(1, 1, 1)}, layers, incoming=FRESH, norm_factor=0.5)
    np.testing.assert_array_equal(new["a"], np.full((2, 3), NEW))


# With an optimizer.


def stepped(tx, params):
    state = tx.init(params)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), params)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        return tx.update(grads, state, params)[1]


def test_moments_of_the_new_entries():
    """Fresh for incoming, bias and outgoing alike; the count is kept, all else too."""
    tx, params = optax.adam(0.1), network()
    state = stepped(tx, params)
    new, after = recycle(KEY, params, MASKS, LAYERS, incoming=FRESH, opt_state=state, tx=tx)
    changed = jax.tree.map(lambda a, b: np.asarray(a != b), params, new)
    for moment, before in zip(after[0][1:], state[0][1:], strict=True):
        expected = jax.tree.map(lambda old, is_new: np.where(is_new, 0, old), before, changed)
        jax.tree.map(np.testing.assert_array_equal, moment, expected)
        assert moment["out"]["bias"] is before["out"]["bias"]
    assert after[0].count is state[0].count
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_statistics_and_moments_in_one_call():
    """Variables, with the optimizer's state of their params."""
    tx, params = optax.adam(0.1), network()
    params["norm"] = {"scale": jnp.full(3, 5.0), "bias": jnp.full(3, 5.0)}
    stats = {"norm": {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 5.0)}}
    state = stepped(tx, params)
    layer = {
        "kernel": "params/first/kernel",
        "norm": ["params/norm", "batch_stats/norm"],
        "feeds": "params/second/kernel",
    }
    new, after = recycle(
        KEY,
        {"params": params, "batch_stats": stats},
        {"first": mask(0, 1, 0)},
        {"first": layer},
        incoming=FRESH,
        opt_state=state,
        tx=tx,
    )
    np.testing.assert_array_equal(new["batch_stats"]["norm"]["var"], [5, 1, 5])
    np.testing.assert_array_equal(new["batch_stats"]["norm"]["mean"], [5, 0, 5])
    changed = jax.tree.map(lambda a, b: np.asarray(a != b), params, new["params"])
    assert changed["norm"]["scale"].tolist() == [False, True, False]
    expected = jax.tree.map(lambda old, is_new: np.where(is_new, 0, old), state[0].mu, changed)
    jax.tree.map(np.testing.assert_array_equal, after[0].mu, expected)
    assert after[0].mu["second"]["bias"] is state[0].mu["second"]["bias"]
    # A state of the whole tree is taken for what it is, a wrong one for neither.
    whole = stepped(tx, {"params": params})
    _, after = recycle(
        KEY,
        {"params": params},
        {"first": mask(0, 1, 0)},
        {"first": {**layer, "norm": "params/norm"}},
        opt_state=whole,
        tx=tx,
    )
    assert not after[0].mu["params"]["second"]["kernel"][1].any()
    with pytest.raises(ValueError, match="not a state of this optimizer"):
        recycle(
            KEY,
            {"params": params, "batch_stats": stats},
            {"first": mask(0, 1, 0)},
            {"first": layer},
            opt_state=whole,
            tx=tx,
        )


@pytest.mark.thorough
def test_states_that_are_not_zero():
    tx, params = optax.contrib.prodigy(0.1), network()
    state = stepped(tx, params)
    new, after = recycle(KEY, params, MASKS, LAYERS, incoming=FRESH, opt_state=state, tx=tx)
    jax.tree.map(np.testing.assert_array_equal, after.params0, new)
    assert after.estim_lr is state.estim_lr


@pytest.mark.thorough
def test_statistics_of_other_shapes():
    """SM3 and Adafactor keep one for a row or a column; L-BFGS ten for each entry."""
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}
    layers = {"a": {"kernel": "a", "feeds": "b"}}
    tx = optax.sm3(0.1)
    state = stepped(tx, params)
    _, after = recycle(KEY, params, {"a": mask(0, 1, 0)}, layers, opt_state=state, tx=tx)
    rows, columns = after[0].mu["a"]
    np.testing.assert_array_equal(rows, state[0].mu["a"][0])
    np.testing.assert_array_equal(columns.ravel() == 0, [False, True, False])
    np.testing.assert_array_equal(after[0].mu["b"][0].ravel() == 0, [False, True, False])
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    state = stepped(tx, params)
    _, after = recycle(KEY, params, {"a": mask(0, 1, 0)}, layers, opt_state=state, tx=tx)
    shapes = {state.v_row["a"].shape: after.v_row["a"], state.v_col["a"].shape: after.v_col["a"]}
    np.testing.assert_array_equal(shapes[3,] == 0, [False, True, False])
    assert shapes[2,].all()


@pytest.mark.parametrize(
    ("param", "shape", "lost"),
    [
        ((2, 3), (2, 3), ()),
        ((2, 3), (5, 2, 3), ()),
        ((2, 3), (2, 1), (1,)),
        ((2, 3), (1, 1), (0, 1)),
        ((2, 3), (3,), (0,)),
        ((2, 3), (2, 4), None),
        ((2, 3), (4,), None),
        ((3, 3), (3,), None),
    ],
)
def test_what_a_statistic_has_summed_up(param, shape, lost):
    assert lost_axes(param, shape) == lost


def test_a_sum_is_new_where_all_of_it_is():
    new = jnp.array([[1, 1, 0], [1, 0, 0]], bool)
    np.testing.assert_array_equal(_fitted(new, (2, 3), (1, 3)), [[True, False, False]])
    np.testing.assert_array_equal(_fitted(new, (2, 3), (3,)), [True, False, False])


@pytest.mark.thorough
def test_lbfgs_memory():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}
    layers = {"a": {"kernel": "a", "feeds": "b"}}
    tx = optax.scale_by_lbfgs(memory_size=5)
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(params))
    with pytest.warns(OptimizerStateWarning, match="'weights_memory' of the optimizer state") as w:
        _, after = recycle(KEY, params, {"a": mask(0, 1, 0)}, layers, opt_state=state, tx=tx)
    assert w[0].filename == __file__
    memory = after.diff_params_memory["a"]
    assert not memory[..., 1].any() and memory[..., [0, 2]].all()


@pytest.mark.thorough
def test_square_factors_are_reported():
    """Of a square kernel, the shape does not say which factor is the row's."""
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 4))}
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
    state = stepped(tx, params)
    with pytest.warns(OptimizerStateWarning, match="'v_row/a' and 'v_col/a'"):
        _, after = recycle(
            KEY,
            params,
            {"a": mask(0, 1)},
            {"a": {"kernel": "a", "feeds": "b"}},
            opt_state=state,
            tx=tx,
        )
    assert after.v_row["a"] is state.v_row["a"]


# Under jit, on a mesh, program counts.


def test_under_jit_and_scan():
    tx, params = optax.adam(0.1), network()
    state = stepped(tx, params)
    reset = functools.partial(recycle, layers=LAYERS, tx=tx)
    eager = reset(KEY, params, MASKS, opt_state=state)

    def body(carry, masks):
        return reset(KEY, carry[0], masks, opt_state=carry[1]), None

    none = jax.tree.map(jnp.zeros_like, MASKS)
    masks = jax.tree.map(lambda *leaves: jnp.stack(leaves), none, MASKS)
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(body, carry, masks))((params, state))
    jax.tree.map(np.testing.assert_array_equal, scanned, eager)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh(kind):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))

    def put(leaf):
        last = ["y" if size % 2 == 0 else None for size in leaf.shape[-1:]]
        spec = P(*[None] * (leaf.ndim - 1), *last)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    tx, plain = optax.adam(0.1), network()
    params = jax.tree.map(put, plain)
    state = jax.tree.map(put, stepped(tx, plain))
    reset = functools.partial(recycle, KEY, layers=LAYERS, tx=tx)
    expected = reset(plain, MASKS, opt_state=stepped(tx, plain))
    first = reset(params, MASKS, opt_state=state)
    jax.tree.map(np.testing.assert_array_equal, first, expected)
    for old, new in zip(jax.tree.leaves((params, state)), jax.tree.leaves(first), strict=True):
        assert old.sharding == new.sharding
    others = jax.tree.map(jnp.logical_not, MASKS)
    for masks in (MASKS, others):
        with count_compiles() as count:
            reset(params, masks, opt_state=state)
            noisy = shrink_perturb(KEY, params, lambda key: network(), shrink=0.5, perturb=0.5)
    assert count.programs == 0
    jitted = jax.jit(lambda p, s: reset(p, MASKS, opt_state=s))(params, state)
    jax.tree.map(np.testing.assert_array_equal, jitted, expected)
    assert jax.tree.map(lambda leaf: leaf.sharding, noisy) == jax.tree.map(
        lambda leaf: leaf.sharding, params
    )


MESH = jax.make_mesh((8,), "x", axis_types=(AxisType.Explicit,))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("context", [contextlib.nullcontext, lambda: jax.set_mesh(MESH)])
def test_new_leaves_are_where_the_old_ones_were(context, sharded):
    """Not on the default device, nor on the mesh in use, nor on that of the masks."""
    tx = optax.adam(0.1)
    with jax.default_device(jax.devices()[1]):
        params = {"first": jnp.ones((8, 3)), "out": jnp.ones((3, 2))}
        if sharded:
            params["first"] = jax.device_put(params["first"], NamedSharding(MESH, P("x")))
        state = tx.init(params)
    layers = {"a": {"kernel": "first", "feeds": "out"}}
    with context():
        made = [
            *recycle(KEY, params, {"a": mask(0, 1, 0)}, layers, opt_state=state, tx=tx),
            shrink_perturb(KEY, params, lambda key: params, shrink=0.5, perturb=0.5),
            flax_inits.reset_optimizer(tx, state, params, "**"),
        ]
    for new, old in zip(made, [params, state, params, state], strict=True):
        assert jax.tree.map(place, new) == jax.tree.map(place, old)
        assert not any(map(operator.is_, jax.tree.leaves(new)[-2:], jax.tree.leaves(old)[-2:]))


def place(leaf):
    return leaf.sharding, leaf.committed


def test_nothing_is_compiled_again():
    tx, params = optax.adam(0.1), network()
    state = stepped(tx, params)
    other = jax.tree.map(jnp.logical_not, MASKS)
    for masks in (MASKS, other):
        with count_compiles() as count:
            recycle(KEY, params, masks, LAYERS, opt_state=state, tx=tx)
            shrink_perturb(KEY, params, lambda key: network(), shrink=jnp.float32(0.5), perturb=0.1)
    assert count.programs == 0


# Errors.


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"a": {"kernel": "a"}}, "Layer 'a' has no 'feeds'.* the output layer feeds none"),
        ({"a": {"feeds": "b"}}, "Layer 'a' has no 'kernel'"),
        ({"a": {"kernel": "a", "feeds": "b", "biass": "c"}}, "has 'biass'.*Did you mean 'bias'?"),
        ({"a": {"kernel": "a", "feeds": "bb"}}, "'feeds' of layer 'a' names 'bb', but.*mean 'b'"),
        (
            {"a": {"kernel": "b", "feeds": "a"}},
            r"has 3 units, but 'b' of shape \(3, 4\) has 4 along axis -1; its mask must have as m",
        ),
        ({"a": {"kernel": "a", "feeds": "a"}}, r"has 2 along axis -2; it must have 3[.]$"),
        ({"a": {"kernel": "a", "feeds": {"b": 2}}}, "feeds 'b' at axis 2, but that has shape"),
        ({"a": {"kernel": 3, "feeds": "b"}}, "'kernel' of layer 'a' names 3, but params has no"),
        ({"a": {"kernel": [["a"]], "feeds": "b"}}, r"names \['a'\], but params has no such leaf"),
        ({"a": {"kernel": "a", "feeds": "b", "norm": 3}}, "'norm' of layer 'a' names 3, which"),
        ({"a": {"kernel": "a", "feeds": "b", "norm": "c"}}, "'norm' of layer 'a' names 'c', which"),
        ({"c": {"kernel": "a", "feeds": "b"}}, "masks has a layer 'a', which layers does not"),
        ([], "masks and layers are mappings by layer"),
    ],
)
def test_layers_that_do_not_fit(layers, message):
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4)), "c": jnp.ones(3)}
    error = ValueError if isinstance(layers, dict) else TypeError
    with pytest.raises(error, match=message):
        recycle(KEY, params, {"a": mask(0, 1, 0)}, layers)


def test_other_errors():
    params = network()
    with pytest.raises(ValueError, match="masks is empty"):
        recycle(KEY, params, {}, LAYERS)
    with pytest.raises(ValueError, match="mask of layer 'first' must be a bool.*got float32"):
        recycle(KEY, params, {"first": jnp.ones(3)}, LAYERS)
    sown = dormant({"first": (jnp.ones((4, len(MASKS["first"]))),)}, threshold=0.1)
    with pytest.raises(
        ValueError, match=r"; got \(Array.* a tuple .* for each call: take \[0\]\.$"
    ):
        recycle(KEY, params, sown, LAYERS)
    with pytest.raises(ValueError, match="outgoing must be 'zero', 'keep' or an init.*got 'zeros'"):
        recycle(KEY, params, MASKS, LAYERS, outgoing="zeros")
    with pytest.raises(TypeError, match="Layer 'first' must be a mapping.*'feeds': path}; got 'k'"):
        recycle(KEY, params, MASKS, {"first": "k", "second": "k"})
    axis = {"first": {"kernel": "first/kernel", "feeds": {"second/kernel": 0.5}}}
    with pytest.raises(TypeError, match="integer for the axis at which layer 'first' feeds.*0.5"):
        recycle(KEY, params, {"first": mask(0, 1, 0)}, axis)
    norm = {"first": {**LAYERS["first"], "norm": {"first/bias": "x"}}}
    with pytest.raises(TypeError, match="a number for a leaf in 'norm' of layer 'first', got 'x'"):
        recycle(KEY, params, {"first": mask(0, 1, 0)}, norm)
    for factor, error in ((-1, ValueError), (float("inf"), ValueError), ("1", TypeError)):
        with pytest.raises(
            error, match=f"norm_factor must be one number of at least 0, .*{factor}"
        ):
            recycle(KEY, params, MASKS, LAYERS, norm_factor=factor)
    with pytest.raises(TypeError, match="recycle needs opt_state and tx together"):
        recycle(KEY, params, MASKS, LAYERS, tx=optax.sgd(0.1))
    with pytest.raises(ValueError, match="incoming has no initializer for layer 'second'"):
        recycle(KEY, params, MASKS, LAYERS, incoming={"first": FRESH})
    tree = {"first": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(ValueError, match=r"its 'first/kernel' has shape \(2, 2\); params holds"):
        recycle(KEY, params, MASKS, LAYERS, incoming=tree)
    with pytest.raises(ValueError, match="opt_state is not a state of this optimizer"):
        recycle(
            KEY, params, MASKS, LAYERS, tx=optax.adam(0.1), opt_state=optax.sgd(0.1).init(params)
        )


# Shrink and perturb, and the resets that are made of it.


def test_shrink_perturb_by_hand():
    params = {"a": jnp.array([10.0, -10.0]), "b": jnp.array([1.0], jnp.bfloat16)}
    fresh = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([2.0], jnp.bfloat16)}
    new = shrink_perturb(KEY, params, lambda key: fresh, shrink=0.4, perturb=0.1)
    np.testing.assert_allclose(new["a"], [4.1, -3.8], rtol=1e-6)
    assert new["b"].dtype == jnp.bfloat16
    # 0.4 + 0.2 in float32, cast once.
    assert new["b"] == jnp.bfloat16(0.6)


def test_the_noise_is_a_freshly_initialized_model():
    model, x = nn.Dense(3), jnp.ones((1, 2))
    params = model.init(jax.random.key(1), x)["params"]
    new = shrink_perturb(
        KEY, params, lambda key: model.init(key, x)["params"], shrink=0.0, perturb=1.0
    )
    expected = jax.jit(model.init)(KEY, x)["params"]
    jax.tree.map(np.testing.assert_array_equal, new, expected)


def test_a_part_and_what_is_no_float():
    params = {"encoder": jnp.ones(2), "head": jnp.ones(2), "steps": jnp.array(3)}
    new = shrink_perturb(
        KEY, params, lambda key: {"encoder": jnp.zeros(2)}, where="encoder", shrink=0.5, perturb=0.5
    )
    np.testing.assert_array_equal(new["encoder"], [0.5, 0.5])
    assert new["head"] is params["head"]
    every = shrink_perturb(
        KEY, params, lambda key: jax.tree.map(jnp.zeros_like, params), shrink=0.5, perturb=0.5
    )
    assert every["steps"] is params["steps"] and every["head"][0] == 0.5


def test_shrink_perturb_under_jit_with_traced_factors():
    params = {"a": jnp.ones(2)}

    @jax.jit
    def reset(params, shrink):
        return shrink_perturb(
            KEY, params, lambda key: {"a": jnp.ones(2)}, shrink=shrink, perturb=0.25
        )

    np.testing.assert_array_equal(reset(params, 0.5)["a"], [0.75, 0.75])


@pytest.mark.parametrize(
    "shrink, perturb, name",
    [(1.5, 0, "shrink"), (-1, 0, "shrink")]
    + [(0.5, value, "perturb") for value in (-0.1, float("nan"), float("inf"))],
)
def test_factors_out_of_range(shrink, perturb, name):
    with pytest.raises(ValueError, match=f"{name} must be one number (from 0 to 1|of at least 0)"):
        shrink_perturb(
            KEY, {"a": jnp.ones(2)}, lambda key: {"a": jnp.ones(2)}, shrink=shrink, perturb=perturb
        )


def test_factors_that_are_no_numbers():
    for value in ("0.5", None, 1j):
        with pytest.raises(TypeError, match="shrink must be one number from 0 to 1, got "):
            shrink_perturb(KEY, {"a": 1.0}, lambda key: {"a": 1.0}, shrink=value, perturb=0.1)


def test_shrink_perturb_of_a_training_state():
    """The params, with their optimizer state as of a new optimizer."""
    tx, params = optax.adam(0.1), network()
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(opt_state=stepped(tx, params), step=5)

    def fresh(key):
        return jax.tree.map(lambda leaf: 3 * leaf, params)

    reset = functools.partial(shrink_perturb, KEY, init_fn=fresh, shrink=0.5, perturb=0.5)
    new = reset(state, where="first")
    assert (new.params["first"]["kernel"] == 2).all() and new.step == 5
    assert new.params["out"] is not None and new.params["out"]["bias"] is params["out"]["bias"]
    assert not new.opt_state[0].mu["first"]["kernel"].any()
    assert new.opt_state[0].mu["out"]["bias"] is state.opt_state[0].mu["out"]["bias"]
    everything = reset(state, counts="reset")
    jax.tree.map(np.testing.assert_array_equal, everything.opt_state, tx.init(params))
    with pytest.raises(ValueError, match="counts='reset' needs all params that share a count"):
        reset(state, where="first", counts="reset")
    with pytest.raises(TypeError, match="is a part of a leaf. Parts are for reinit"):
        reset(params, where=flax_inits.at("first/kernel", 0))


def test_rewinding_with_a_fresh_optimizer():
    """Frankle et al.: values of an earlier snapshot, which the next steps may not delete."""
    tx, early = optax.adam(0.1), network()
    late = jax.tree.map(lambda leaf: leaf + 1, early)
    state = stepped(tx, late)
    rewound = flax_inits.graft(late, early, "first")
    state = flax_inits.reset_optimizer(tx, state, rewound, "first")
    train = jax.jit(lambda p, s: (p, s), donate_argnums=(0, 1))
    train(rewound, jax.tree.map(jnp.copy, state))
    np.testing.assert_array_equal(early["first"]["kernel"], np.ones((2, 3)))


def test_an_optimizer_in_the_place_of_its_model():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    with pytest.raises(ValueError) as got:
        recycle(KEY, optimizer, {"a": mask(0, 1)}, {"a": {"kernel": "kernel", "feeds": "kernel"}})
    assert "recycle takes the params, and opt_state= and tx= beside" in got.value.__notes__[-1]
    with pytest.raises(ValueError) as got:
        shrink_perturb(KEY, optimizer, lambda key: model, shrink=0.5, perturb=0.5)
    assert "of an nnx.Optimizer, give the model" in got.value.__notes__[-1]
