"""Schemes and signals of NNX modules: what their Linen twins have, with the same params."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_inits as fi

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 5, 16))
NORMAL = fi.normal(0.1)


class LinenNet(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(self.width, name="body")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x)
        x = x + nn.MultiHeadDotProductAttention(self.width // 4, name="attention")(x)
        return nn.Dense(3, name="head")(x)


class Net(nnx.Module):
    def __init__(self, rngs, width=16):
        self.body = nnx.Linear(16, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            width // 4, width, decode=False, deterministic=True, rngs=rngs
        )
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x, train=False):
        x = self.norm(self.body(x), use_running_average=not train)
        x = nnx.relu(x)
        x = x + self.attention(x)
        return self.head(x)

    def encode(self, x):
        return self.attention(self.body(x))


LINEN = LinenNet()
VARIABLES = jax.jit(LINEN.init)(KEY, X)


def linen_params(key):
    return LINEN.init(key, X)["params"]


def twin():
    """An NNX model with the params of the Linen one."""
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    model = fi.reinit(KEY, model, nnx.Param, init_fn=lambda key: VARIABLES["params"])
    zero, one = fi.zeros(), fi.ones()
    return fi.reinit(KEY, model, {"norm/mean": zero, "norm/var": one})


def bridged():
    """The Linen model as an NNX one."""
    model = nnx.bridge.ToNNX(LINEN, nnx.Rngs(0)).lazy_init(X)
    return fi.graft(model, VARIABLES["params"], nnx.Param)


MAKE = {"twin": twin, "bridge": bridged}


@pytest.fixture(params=MAKE)
def model(request):
    return MAKE[request.param]()


def values(tree):
    return dict(zip(map("/".join, fi.paths(tree)), jax.tree.leaves(nnx.state(tree)), strict=True))


def assert_twins(new, variables, **tolerance):
    """A model holds the params of variables, and is new where, and only where, these are."""
    made, params = values(new), variables["params"]
    for path, leaf in zip(fi.paths(params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(made["/".join(path)], leaf, err_msg=str(path), **tolerance)


def assert_kept(old, new, chosen):
    """Kept leaves are the same arrays, in variables of their own."""
    assert type(new) is type(old) and new is not old
    before, after = values(old), values(new)
    assert {path for path in before if before[path] is not after[path]} == set(chosen)
    variables = [
        {id(v) for _, v in nnx.iter_graph(m) if isinstance(v, nnx.Variable)} for m in (old, new)
    ]
    assert not variables[0] & variables[1]


KERNELS = [f"attention/{name}/kernel" for name in ("key", "out", "query", "value")]
KERNELS = [*KERNELS, "body/kernel", "head/kernel"]


@pytest.mark.sampled(2)
def test_signal(model):
    """The same rows, in the order of calls; the model is as it was."""
    before = values(model)
    linen = fi.signal(LINEN, VARIABLES, X, train=True, loss=lambda y: (y**2).mean())
    own = fi.signal(model, X, train=True, loss=lambda y: (y**2).mean())
    assert [row.layer for row in own.rows] == [row.layer for row in linen.rows]
    for a, b in zip(own.rows, linen.rows, strict=True):
        numbers = [(row.mean, row.std, row.gradient, row.zeros, row.dead) for row in (a, b)]
        np.testing.assert_allclose(*numbers, rtol=2e-4, atol=1e-6, err_msg=a.layer)
        assert (a.path, a.role, a.same_as, a.shape) == (b.path, b.role, b.same_as, b.shape)
    after = values(model)
    assert all(after[path] is leaf for path, leaf in before.items())
    assert [str(v) for v in own.verdicts] == [str(v) for v in linen.verdicts]


@pytest.mark.slow
def test_signal_of_methods_and_functions():
    model = twin()
    layers = [row.layer for row in fi.signal(model.encode, X).rows]
    assert layers[:2] == ["input", "body"] and layers[-2:] == ["attention/out", "attention"]
    own = fi.signal(lambda model, x: model(x, train=True), model, X)
    assert [r.layer for r in own.rows] == [r.layer for r in fi.signal(model, X, train=True).rows]
    with pytest.raises(ValueError, match="needs arrays, but was given jax.ShapeDtypeStruct"):
        fi.signal(nnx.eval_shape(twin), X)
    with pytest.raises(Exception, match="(?i)shape|dot_general") as error:
        fi.signal(model, X[..., :3])
    assert any("signal traced Net.__call__ with" in note for note in error.value.__notes__)
    assert "flax_inits_path" not in vars(model) and nnx.Linear.__call__.__module__ != "flax_inits"


class Stack(nnx.Module):
    """Layers in a scan, drawn by `nnx.vmap`."""

    def __init__(self, rngs, init=NORMAL):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs):
            return nnx.Linear(16, 16, kernel_init=init, rngs=rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def scan(block, x):
            return nnx.relu(block(x))

        return scan(self.blocks, x)


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(16, name="blocks")(x)), None


def test_signal_of_a_scan():
    scanned = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    variables = scanned.init(KEY, X, None)
    kernel = variables["params"]["blocks"]["kernel"]
    model = Stack(nnx.Rngs(0), lambda *_: kernel[0])
    model.blocks.kernel[...] = kernel
    own, linen = fi.signal(model, X), fi.signal(scanned, variables, X, None)
    rows = [
        {r.layer: r.std for r in s.rows if r.role == "output" and not r.same_as}
        for s in (own, linen)
    ]
    assert list(rows[0]) == ["blocks[0]", "blocks[1]", "blocks[2]"]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


@pytest.mark.slow
def test_lsuv(model):
    new = fi.lsuv(KEY, model, X, init_fn=linen_params)
    linen = fi.lsuv(KEY, LINEN, VARIABLES, X)
    assert_twins(new, linen, rtol=1e-4, atol=1e-6)
    assert_kept(model, new, KERNELS)
    assert float(new(X).std()) == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_lsuv_of_a_stack_and_at_stored_shapes():
    model = Stack(nnx.Rngs(0))
    new = fi.lsuv(KEY, model, X, init_fn=lambda key: Stack(nnx.Rngs(key)))
    for step in range(3):
        kernel = np.asarray(new.blocks.kernel[step])
        square = kernel.T @ kernel
        np.testing.assert_allclose(square, square[0, 0] * np.eye(16), atol=1e-4)
    stds = [row.std for row in fi.signal(new, X).rows if row.role == "output"]
    assert stds[:3] == pytest.approx([1, 1, 1], rel=0.06)
    plain = nnx.Sequential(nnx.Linear(16, 9, rngs=nnx.Rngs(0)), nnx.relu)
    rngs = nnx.Rngs(3)
    one = fi.lsuv(rngs, plain, X)
    assert int(rngs["default"].count[...]) == 1
    two = fi.lsuv(nnx.Rngs(3).params(), plain, X)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one), nnx.state(two))


class Shared(nnx.Module):
    def __init__(self, rngs):
        self.block = nnx.Linear(16, 16, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(None, nnx.Carry), out_axes=nnx.Carry, length=2)
        def scan(block, x):
            return block(x)

        return scan(self.block, x)


def test_lsuv_rejects():
    with pytest.raises(ValueError, match="could not put scaled .*the steps of a scan share"):
        fi.lsuv(KEY, Shared(nnx.Rngs(0)), X)
    model = twin()
    with pytest.raises(ValueError, match="'head', which this call of the model does not run"):
        fi.lsuv(KEY, model.encode, X, where="head/kernel")
    with pytest.raises(TypeError, match="takes one batch of inputs .*got 0; it comes after an NNX"):
        fi.lsuv(KEY, model)
    with pytest.raises(ValueError, match="'attention/key/bias' is abstract"):
        fi.lsuv(KEY, nnx.eval_shape(twin), X)


@pytest.mark.sampled(2)
def test_deepnorm(model):
    where = "attention/*/kernel"
    new = fi.deepnorm(KEY, model, 4, where=where, init_fn=linen_params)
    linen = fi.deepnorm(KEY, VARIABLES["params"], 4, where=where, init_fn=linen_params)
    assert_twins(new, {"params": linen}, rtol=0)
    assert_kept(model, new, KERNELS[:4])


LAYERS = {"body": {"kernel": "body/kernel", "bias": "body/bias", "norm": "norm", "feeds": "q"}}
MASKS = {"body": jnp.arange(16) % 3 == 0}


def layers(*above):
    path = "/".join
    norm = {path((*above, "norm", name)): value for name, value in {"scale": 1, "bias": 0}.items()}
    feeds = {path((*above, "attention", name, "kernel")): 0 for name in ("query", "key", "value")}
    names = {part: path((*above, "body", part)) for part in ("kernel", "bias")}
    return {"body": {**names, "norm": norm, "feeds": feeds}}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("incoming", ["drawn", "tree"])
def test_recycle(model, incoming):
    tx = optax.adam(0.1)
    params = VARIABLES["params"]
    options = [{}, {}]
    if incoming == "tree":
        fresh = LINEN.init(jax.random.key(9), X)["params"]
        options = [{"incoming": fi.graft(model, fresh, nnx.Param)}, {"incoming": fresh}]
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    linen_ones = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        optimizer.update(model, ones)
        updates, opt_state = tx.update(linen_ones, tx.init(params), params)
        params = optax.apply_updates(params, updates)
    state = {"opt_state": optimizer.opt_state, "tx": tx}
    new, new_state = fi.recycle(KEY, model, MASKS, layers(), **state, **options[0])
    state = {"opt_state": opt_state, "tx": tx}
    linen, linen_state = fi.recycle(KEY, params, MASKS, layers(), **state, **options[1])
    assert_twins(new, {"params": linen}, rtol=1e-6)
    for kind in ("mu", "nu"):
        own, theirs = getattr(new_state[0], kind), getattr(linen_state[0], kind)
        for path in ("body", "kernel"), ("attention", "query", "kernel"), ("head", "bias"):
            a, b = (
                dict(zip(fi.paths(t), jax.tree.leaves(t), strict=True))[path] for t in (own, theirs)
            )
            np.testing.assert_array_equal(a, b)
    feeds = [f"attention/{name}/kernel" for name in ("key", "query", "value")]
    assert_kept(model, new, [*feeds, "body/bias", "body/kernel", "norm/bias", "norm/scale"])


def test_dormant_of_what_a_module_sows():
    class Sows(nnx.Module):
        def __call__(self, x):
            self.sow(nnx.Intermediate, "hidden", nnx.relu(x - 1.5))
            return x

    model = Sows()
    if hasattr(nnx, "capture"):
        captured = nnx.capture(model, nnx.Intermediate)(X)[1]
    else:
        model(X)
        captured = nnx.pop(model, nnx.Intermediate)
    masks = fi.dormant(captured, 0.5)
    expected = fi.dormant(nnx.relu(X - 1.5), 0.5)
    np.testing.assert_array_equal(jax.tree.leaves(masks)[0], expected)
    assert masks.keys() == captured.keys()


@pytest.mark.slow
def test_mup():
    def linen(width):
        return lambda key: LinenNet(width).init(key, X)["params"]

    def own(width):
        return lambda key: Net(nnx.Rngs(key), width)

    mup, expected = fi.mup(own(16), own(64)), fi.mup(linen(16), linen(64))
    assert {repr(row) for row in mup.rows} == {repr(row) for row in expected.rows}
    rules = mup.rules({"**/kernel": NORMAL})
    model = fi.jit_init(own(64), rules=rules)(KEY)
    assert float(model.attention.query.kernel[...].std()) == pytest.approx(0.05, rel=0.1)
    tx = optax.chain(optax.sgd(1.0), mup.scale_updates("adam"))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = model.head.kernel[...]
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    np.testing.assert_allclose(before - model.head.kernel[...], 0.25, rtol=1e-5)


def test_shrink_perturb_leaves_statistics():
    model = twin()
    fresh = LINEN.init(jax.random.key(5), X)["params"]
    factors = {"shrink": 0.5, "perturb": 0.25}
    new = fi.shrink_perturb(KEY, model, lambda key: fresh, **factors)
    linen = fi.shrink_perturb(KEY, VARIABLES["params"], lambda key: fresh, **factors)
    assert_twins(new, {"params": linen}, rtol=1e-6)
    assert_kept(model, new, set(values(model)) - {"norm/mean", "norm/var"})


def test_recurrences_of_modules():
    model = nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    biases = {f"h{gate}/bias" for gate in "ifgo"}
    new = fi.chrono_gates(KEY, model, 100)
    assert_kept(model, new, biases)
    np.testing.assert_array_equal(new.hi.bias[...], -new.hf.bias[...])
