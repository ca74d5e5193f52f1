"""`signal`: what is recorded of a network, its statistics and gradients, and what they tell."""

import io
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from flax import nnx
from jax.nn import initializers as init

import flax_inits

KEY = jax.random.key(5)


class MLP(nn.Module):
    kernel_init: object
    activation: object
    depth: int = 10
    width: int = 64

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width, kernel_init=self.kernel_init)(x))
        return nn.Dense(4)(x)


X = jax.random.normal(KEY, (32, 64))


def of(model, *args, **kwargs):
    inputs = args or (X,)
    return flax_inits.signal(model, jax.jit(model.init)(KEY, *inputs), *inputs, **kwargs)


def kinds(report):
    return [(v.kind, v.quantity, v.layer) for v in report.verdicts]


def layers(report):
    return [row.layer for row in report.rows]


# What is recorded


@pytest.mark.slow
def test_rows_of_a_network_of_functions_and_modules():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, name="first")(x))
            return nn.softmax(nn.Dense(3, name="head")(x))

    model = Net()
    variables = model.init(KEY, X)
    rows = flax_inits.signal(model, variables, X).rows
    assert [row.layer for row in rows] == ["input", "first", "→ head", "head", "output"]
    assert [row.role for row in rows] == ["argument", "output", "enters", "output", "result"]
    assert [row.path for row in rows] == [(), ("first",), ("head",), ("head",), ()]
    params = variables["params"]
    first = X @ params["first"]["kernel"]
    hidden = nn.relu(first)
    logits = hidden @ params["head"]["kernel"]
    for row, values in zip(rows, [X, first, hidden, logits, nn.softmax(logits)], strict=True):
        values = np.asarray(values, np.float64)
        assert (row.shape, row.dtype) == (values.shape, "float32")
        for name in ("mean", "std", "min", "max"):
            expected = getattr(np, name)(values)
            assert getattr(row, name) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert row.zeros == pytest.approx((values == 0).mean())
        assert row.dead == pytest.approx((values == 0).all(axis=0).mean())
        edges = np.linspace(-3.05, 3.05, 62)
        counts, _ = np.histogram(np.clip(values, -3, 3), edges)
        assert sum(row.histogram) == values.size
        assert np.abs(np.array(row.histogram) - counts).sum() <= 4  # rounding at the edges
    assert kinds(flax_inits.signal(model, variables, X)) == []


@pytest.mark.slow
def test_gradients_are_those_of_the_loss():
    def net(kernels, x, record):
        for i, kernel in enumerate(kernels):
            x = record(f"layer_{i}", jnp.tanh(x @ kernel))
        return x

    kernels = [jax.random.normal(key, (64, 64)) / 8 for key in jax.random.split(KEY, 3)]
    report = flax_inits.signal(net, kernels, X, loss=lambda y: jnp.mean(y**2))
    assert layers(report) == ["input", "layer_0", "layer_1", "layer_2"]
    assert [row.role for row in report.rows] == ["argument", *["recorded"] * 3]

    def rest(activation, start):
        for kernel in kernels[start:]:
            activation = jnp.tanh(activation @ kernel)
        return jnp.mean(activation**2)

    hidden = X
    for start, row in enumerate(report.rows):
        expected = jnp.linalg.norm(jax.grad(rest)(hidden, start))
        assert row.gradient == pytest.approx(float(expected), rel=1e-4)
        hidden = jnp.tanh(hidden @ kernels[start]) if start < 3 else hidden
    # The default is a direction of length 1, the same each time.
    report = flax_inits.signal(net, kernels, X)
    assert report.rows[-1].gradient == pytest.approx(1, rel=1e-6)
    assert report.rows == flax_inits.signal(net, kernels, X).rows


def test_a_number_that_is_recorded():
    def net(scale, x, record):
        return record("unused", jnp.float32(3)) * 0 + record("half", jnp.float32(0.5)) * x * scale

    rows = {row.layer: row for row in flax_inits.signal(net, 2.0, X, loss=jnp.sum).rows}
    assert rows["half"].mean == 0.5 and rows["unused"].gradient == 0
    assert rows["half"].gradient == pytest.approx(abs(2 * float(X.sum())), rel=1e-4)


@pytest.mark.slow
def test_gradients_go_through_all_later_uses():
    class Residual(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + 1
            return x + nn.Dense(64, kernel_init=init.zeros)(x)

    entering = next(row for row in of(Residual()).rows if row.layer == "→ Dense_0")
    assert entering.gradient == pytest.approx(1, rel=1e-6)  # all of it through the shortcut


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(64)(x)), None


class Scanned(nn.Module):
    block: object = Block

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            self.block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(4)(scan(name="blocks")(x, None)[0])


@pytest.mark.slow
@pytest.mark.parametrize("block", [Block, nn.remat(Block)], ids=["scan", "scan of remat"])
def test_each_step_of_a_scan_has_its_rows(block):
    model = Scanned(block)
    variables = model.init(KEY, X)
    report = flax_inits.signal(model, variables, X, loss=jnp.sum)
    steps = [row for row in report.rows if row.path == ("blocks", "Dense_0") and row.steps]
    assert [row.layer for row in steps if row.role == "output"] == [
        f"blocks/Dense_0[{i}]" for i in range(3)
    ]
    params, hidden = variables["params"], X

    def rest(before, start):
        for i in range(start, 3):
            dense = jax.tree.map(lambda leaf: leaf[i], params["blocks"]["Dense_0"])  # noqa: B023
            before = before if i == start else nn.tanh(before) @ dense["kernel"]
        return jnp.sum(nn.tanh(before) @ params["Dense_0"]["kernel"])

    for i, row in enumerate(row for row in steps if row.role == "output"):
        dense = jax.tree.map(lambda leaf: leaf[i], params["blocks"]["Dense_0"])  # noqa: B023
        before = hidden @ dense["kernel"]
        assert row.steps == (i,) and row.std == pytest.approx(float(before.std()), rel=1e-5)
        gradient = jnp.linalg.norm(jax.grad(rest)(before, i))
        assert row.gradient == pytest.approx(float(gradient), rel=1e-4)
        hidden = nn.tanh(before)


def test_a_scan_of_no_steps_has_no_rows():
    def net(kernels, x, record):
        def step(x, kernel):
            return record("within", x @ kernel), None

        return record("after", jax.lax.scan(step, record("before", x), kernels)[0])

    rows = flax_inits.signal(net, jnp.zeros((0, 64, 64)), X).rows
    assert [row.path for row in rows if row.role == "recorded"] == [("before",), ("after",)]
    assert all(row.std == pytest.approx(float(X.std()), rel=1e-5) for row in rows)


def test_reversed_scans_run_backward():
    def net(kernels, x, record):
        def step(x, kernel):
            return record("h", x @ kernel), None

        return jax.lax.scan(step, x, kernels, reverse=True)[0]

    kernels = jnp.stack([jnp.eye(64) * size for size in (2.0, 3.0, 5.0)])
    rows = [row for row in flax_inits.signal(net, kernels, X).rows if row.role == "recorded"]
    assert [row.layer for row in rows] == ["h[2]", "h[1]", "h[0]"]
    sizes = np.array([row.std for row in rows]) / float(X.std())
    np.testing.assert_allclose(sizes, [5, 15, 30], rtol=1e-5)


@pytest.mark.slow
def test_lifted_shared_and_odd_modules():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            shared = nn.Dense(64, name="shared")
            x = nn.relu(shared(nn.relu(shared(x))))
            x = nn.jit(nn.Dense)(64, name="jitted")(x)
            x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
            x = nn.Dropout(0.5, deterministic=not train, name="drop")(x)
            carry, y = nn.LSTMCell(8, name="cell")((jnp.zeros((32, 8)),) * 2, x)
            return {"y": y, "count": jnp.zeros(3, jnp.int32), "carry": carry}

    model = Odd()
    variables = model.init(KEY, X, False)
    for _ in range(2):  # nn.jit keeps what it traced
        report = flax_inits.signal(model, variables, X, train=True, rngs={"dropout": KEY})
        names = layers(report)
        assert [name for name in names if "shared" in name] == [
            "shared",
            "→ shared",
            "shared (2)",
        ]
        assert {"jitted", "norm", "drop", "cell/hf", "cell/0/0", "cell/0/1"} <= set(names)
        # The cell returns its hidden state twice: as part of the carry, and as the output.
        assert [(row.path, row.same_as) for row in report.rows if row.result] == [
            (("cell", "0", "0"), None),
            (("cell", "0", "1"), None),
            (("cell", "1"), "cell/0/1"),
        ]
    drop = next(row for row in report.rows if row.layer == "drop")
    assert 0.4 < drop.zeros < 0.6
    # It leaves nothing behind in what nn.jit keeps.
    assert "flax_inits" not in str(jax.make_jaxpr(lambda x: model.apply(variables, x, False))(X))


@pytest.mark.slow
def test_any_function_that_runs_modules():
    model = MLP(init.he_normal(), nn.relu, depth=2)
    variables = model.init(KEY, X)
    expected = flax_inits.signal(model, variables, X)
    for fun in (model.apply, lambda variables, x: model.apply(variables, x)):
        assert flax_inits.signal(fun, variables, X).rows == expected.rows
    assert flax_inits.signal(model, variables, np.asarray(X)).rows == expected.rows


@pytest.mark.slow
def test_methods_and_several_inputs():
    class Two(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def encode(self, a, b, double):
            return self.dense(a + b) * (2 if double else 1)

    variables = Two().init(KEY, X, X, True, method="encode")
    report = flax_inits.signal(Two(), variables, X, X + 1, double=True, method=Two.encode)
    assert layers(report) == ["input/0", "input/1", "→ dense", "dense", "output"]
    assert report.rows[-1].std == pytest.approx(2 * report.rows[-2].std)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    def net(kernel, x, record):
        return record("h", (x.astype(dtype) * 200) @ kernel)

    kernel = jax.random.normal(KEY, (64, 64)).astype(dtype)
    report = flax_inits.signal(net, kernel, X)
    values = np.asarray(
        (X.astype(dtype) * 200) @ kernel, complex if dtype == jnp.complex64 else float
    )
    row = next(row for row in report.rows if row.role == "recorded")
    assert row.dtype == jnp.dtype(dtype).name
    assert row.std == pytest.approx(values.std(), rel=1e-3)
    assert row.gradient == pytest.approx(1, rel=1e-2)


# Healthy networks


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(32, 32, embedding_init=init.normal(0.02))(tokens)
        for _ in range(2):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(h, h)
            h = nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))
            x = x + nn.Dense(32, kernel_init=init.normal(0.02))(h)
        return nn.Dense(32)(nn.LayerNorm()(x))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(False)(nn.Conv(8, (3, 3), use_bias=False)(x)))
        for _ in range(2):
            h = nn.relu(nn.BatchNorm(False)(nn.Conv(8, (3, 3), use_bias=False)(x)))
            h = nn.Conv(8, (3, 3), use_bias=False)(h)
            x = nn.relu(x + nn.BatchNorm(False, scale_init=init.zeros)(h))
        return nn.Dense(10, kernel_init=init.zeros)(x.mean(axis=(1, 2)))


TOKENS = jax.random.randint(KEY, (4, 12), 0, 32)
IMAGES = jax.random.normal(KEY, (4, 8, 8, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, x",
    [
        pytest.param(MLP(init.he_normal(), nn.relu, 24), X, id="relu, He, 24 layers"),
        pytest.param(MLP(init.xavier_normal(), nn.tanh, 24), X, id="tanh, Xavier, 24 layers"),
        pytest.param(Transformer(), TOKENS, id="transformer"),
        pytest.param(
            ResNet(), 255 * jnp.abs(IMAGES), id="resnet, branches and head from 0, raw images"
        ),
        pytest.param(nn.RNN(nn.GRUCell(16)), X[None, :5], id="GRU, state from 0"),
        pytest.param(nn.Dense(4), X, id="one layer"),
    ],
)
def test_healthy_networks_have_no_verdicts(model, x):
    report = of(model, x)
    assert report.verdicts == () and str(report).endswith("Nothing wrong was found.")
    assert len(report.rows) >= 2


# Symptoms


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "kernel_init, activation, expected",
    [
        # Each layer multiplies by 0.01 √64 = 0.08: 1e-3 is crossed in layer 2, and 1e-4 going
        # back through 4 layers. Large ones multiply by 8 / √2.
        (
            init.normal(0.01),
            nn.tanh,
            [("vanishing", "activations", "Dense_2"), ("vanishing", "gradients", "Dense_5")],
        ),
        (
            init.normal(1.0),
            nn.relu,
            [("exploding", "activations", "Dense_3"), ("exploding", "gradients", "Dense_3")],
        ),
        (init.normal(1.0), nn.tanh, [("saturated", "activations", "Dense_0")]),
        (init.constant(0.01), nn.tanh, [("symmetric", "activations", "Dense_0")]),
        (init.zeros, nn.relu, [("dead", "activations", "Dense_0")]),
        (init.zeros, nn.sigmoid, [("symmetric", "activations", "Dense_0")]),
        (init.xavier_normal(), nn.sigmoid, [("vanishing", "gradients", None)]),
        (init.normal(1e30), nn.relu, [("nan", "activations", "Dense_1")]),
    ],
    ids=["small", "large", "saturated", "constant", "zeros", "sigmoid of 0", "sigmoid", "overflow"],
)
def test_symptoms(kernel_init, activation, expected):
    report = of(MLP(kernel_init, activation))
    found = {(kind, quantity): layer for kind, quantity, layer in kinds(report)}
    for kind, quantity, layer in expected:
        assert (kind, quantity) in found
        assert layer in (None, found[kind, quantity])
    assert all(str(verdict) in str(report) for verdict in report.verdicts)


@pytest.mark.slow
def test_where_it_begins():
    class Broken(nn.Module):
        kernels: tuple

        @nn.compact
        def __call__(self, x):
            for kernel in self.kernels:
                x = nn.relu(nn.Dense(64, kernel_init=kernel)(x))
            return nn.Dense(4)(x)

    def broken(kernel):
        good = init.he_normal()
        return kinds(of(Broken((good, kernel, good))))

    assert broken(init.constant(0.01)) == [("symmetric", "activations", "Dense_1")]
    assert broken(init.zeros) == [("dead", "activations", "Dense_1")]
    assert broken(init.normal(1e-6)) == [
        ("vanishing", "activations", "Dense_1"),
        ("vanishing", "gradients", "Dense_0"),
    ]


@pytest.mark.slow
def test_what_enters_the_first_layer_is_its_own_layer():
    class Unscaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(1e4 * x)

    assert kinds(of(Unscaled()))[0] == ("exploding", "activations", "→ Dense_0")


@pytest.mark.slow
def test_dead_units_by_their_biases():
    class Dead(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(64)(x))
            x = nn.relu(nn.Dense(64, bias_init=init.constant(-100.0))(x))
            return nn.Dense(4)(x)

    report = of(Dead())
    assert kinds(report) == [("dead", "activations", "Dense_1")]
    assert "100% of the units are 0 for the whole batch" in str(report)


def test_inputs_by_name_are_judged_as_others_are():
    class Dead(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(64, bias_init=init.constant(-100.0))(x))
            return nn.Dense(4)(inputs=x)

    report = of(Dead())
    assert kinds(report) == [("dead", "activations", "Dense_0")]
    assert "→ Dense_1" in layers(report)
    model = nn.Dense(64, kernel_init=init.orthogonal())
    large = flax_inits.signal(model, model.init(KEY, X), inputs=1e5 * X)
    assert layers(large) == ["input/inputs", "output"] and not large.verdicts


@pytest.mark.slow
def test_a_scanned_network_that_vanishes():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Dense(64, kernel_init=init.normal(0.001))(x)), None

    assert kinds(of(Scanned(Small)))[0] == ("vanishing", "activations", "blocks/Dense_0[1]")


def test_gradients_that_are_not_finite():
    def net(scale, x, record):
        x = record("a", x * scale)
        return record("b", jnp.sqrt(jnp.abs(x) * 0) + x)

    assert kinds(flax_inits.signal(net, 1.0, X)) == [("nan", "gradients", "a")]


# How it is shown


@pytest.mark.slow
def test_text_rich_and_html():
    report = of(MLP(init.normal(0.01), nn.tanh, depth=6))
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "shape", "mean", "std", "gradient"]
    assert lines[2].split()[:2] == ["input", "32×64"] and repr(report) == str(report)
    assert lines[-2].startswith("vanishing activations from Dense_2 on: size ")
    file = io.StringIO()
    rich.console.Console(width=120, file=file, force_terminal=True).print(report)
    assert "\x1b[1;31m" in file.getvalue() and "Dense_2" in file.getvalue()
    page = report._repr_html_()
    assert page.count("<tr>") == 1 + len(report.rows) and "vanishing activations" in page


def test_plot(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    report = of(MLP(init.normal(0.01), nn.tanh, depth=6))
    figure = report.plot()
    above, below = figure.axes
    # What modules take, and the output: the classic figure, without what is before the tanh.
    shown = [row for row in report.rows if row.enters or row.result]
    assert len(shown) == 8
    image = above.collections[0].get_array()
    assert image.shape == (61, 8) and float(image[30, 6]) == 1  # all in the bin around 0
    rms = [np.hypot(row.mean, row.std) for row in shown]
    np.testing.assert_allclose(below.lines[0].get_ydata(), rms)
    np.testing.assert_allclose(below.lines[1].get_ydata(), [row.gradient for row in shown])
    assert "vanishing activations" in above.get_title(loc="left")
    names = [label.get_text() for label in below.get_xticklabels()]
    assert names == [row.layer for row in shown]
    assert below.get_xlabel().endswith(f": 8 of {len(report.rows)} rows")
    pyplot.close(figure)
    monkeypatch.setattr("flax_inits._reports.plots._MOST_LABELS", 4)  # as of a very deep network
    figure = report.plot()
    below = figure.axes[1]
    assert [label.get_text() for label in below.get_xticklabels()] == names[::2]
    assert below.get_xlabel().endswith(" rows; one in 2 is named")
    pyplot.close(figure)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "flax_inits\[plot\]"'):
        report.plot()


# Errors


def test_what_is_no_network():
    for model, text in [
        (MLP, "make an instance, MLP"),
        ({}, "needs a module or a function, got {}"),
    ]:
        with pytest.raises(TypeError, match=text):
            flax_inits.signal(model, {}, X)
    with pytest.raises(ValueError, match="records nothing: .* a parameter `record`"):
        flax_inits.signal(lambda w, x: x @ w, jnp.ones((64, 2)), X)
    model = nn.Dense(3)
    abstract = jax.eval_shape(model.init, KEY, X)
    with pytest.raises(ValueError, match="needs arrays, but was given jax.ShapeDtypeStruct"):
        flax_inits.signal(model, abstract, X)
    with pytest.raises(TypeError, match="cannot be called under jit"):
        jax.jit(lambda x: flax_inits.signal(model, model.init(KEY, x), x).rows)(X)
    with pytest.raises(ValueError, match=r"no activation in Dense\.apply: .* all are empty"):
        flax_inits.signal(model, model.init(KEY, X), X[:0])
    with pytest.raises(TypeError, match="takes a name of type str, got 3"):
        flax_inits.signal(lambda w, x, record: record(3, x), 1.0, X)
    with pytest.raises(TypeError, match="a network that returns floats; give a loss="):
        flax_inits.signal(lambda w, x, record: record("h", x).argmax(), 1.0, X)


class OddNames(nn.Module):
    @nn.compact
    def __call__(self, x, tree):
        return nn.Dense(3)(x * tree)


class OddNNXNames(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, x, layer, tree, bound, handler):
        return self.linear(x * layer * tree * bound * handler)


def test_a_function_may_be_the_first_to_import_nnx(monkeypatch):
    def importing(x):
        sys.modules["flax.nnx"] = nnx
        return nnx.Sequential(nnx.Linear(64, 3, rngs=nnx.Rngs(0)))(x)

    monkeypatch.delitem(sys.modules, "flax.nnx")
    assert "layers/0" in layers(flax_inits.signal(importing, X))


def test_names_of_arguments_are_the_users():
    variables = OddNames().init(KEY, X, tree=2.0)
    report = flax_inits.signal(OddNames(), variables, X, tree=2.0)
    assert "Dense_0" in layers(report)
    given = {"layer": 1.0, "tree": 2.0, "bound": 3.0, "handler": 4.0}
    assert "linear" in layers(flax_inits.signal(OddNNXNames(nnx.Rngs(0)), X, **given))


class Inputs(nn.Module):
    """A model without params that takes a list."""

    def __call__(self, xs):
        return xs[0] * xs[1]


def test_what_are_no_variables():
    model = nn.Dense(3)
    variables = model.init(KEY, X)
    with pytest.raises(TypeError, match=r"Dense\.apply needs variables, and inputs after them"):
        flax_inits.signal(model)
    with pytest.raises(ValueError, match=r"signal needs variables .*got \['kernel', 'bias'\] at"):
        flax_inits.signal(model, variables["params"], X)
    for call in (flax_inits.signal, lambda *args: flax_inits.lsuv(KEY, *args)):
        with pytest.raises(ValueError, match="; got ArrayImpl at the top. They come before the in"):
            call(model, X, variables)
    deeper = nn.Sequential([model])
    with pytest.raises(ValueError, match=r"signal needs variables .*got \['layers_0'\] at"):
        flax_inits.signal(deeper, deeper.init(KEY, X)["params"], X)
    with pytest.raises(TypeError, match=r"got a dict with keys 'params' \(the model comes before"):
        flax_inits.signal(variables, model, X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"or a function, got an array of shape \(32, 64\)\.$"):
        flax_inits.signal(X, variables)  # type: ignore[arg-type]
    gone = model.init(KEY, X)
    gone["params"]["kernel"].delete()
    with pytest.raises(ValueError, match="array of 'params/kernel' was deleted .* pass signal the"):
        flax_inits.signal(model, gone, X)
    assert [row.layer for row in flax_inits.signal(Inputs(), {}, [X, X]).rows][-1] == "output"


def test_a_list_where_several_inputs_are_meant():
    model = nn.Dense(3)
    variables = model.init(KEY, X)
    with pytest.raises(Exception, match="a list is one input: give several one by one"):
        flax_inits.signal(model, variables, [X])


def test_losses_that_are_no_number():
    model = nn.Dense(3)
    variables = model.init(KEY, X)
    with pytest.raises(TypeError, match="loss must be a function .*, got 2.0"):
        flax_inits.signal(model, variables, X, loss=2.0)
    with pytest.raises(
        TypeError, match=r"one real number, .*; it returned float32 of shape \(32, 3\)"
    ):
        flax_inits.signal(model, variables, X, loss=lambda y: y)
    with pytest.raises(TypeError, match=r"it returned int32 of shape \(\)"):
        flax_inits.signal(model, variables, X, loss=lambda y: y.size)


def test_errors_of_the_network_say_where():
    with pytest.raises(Exception, match="(?i)shape") as caught:
        model = nn.Dense(3)
        flax_inits.signal(model, model.init(KEY, X), X[:, :5])
    note = "while signal traced Dense.apply with the inputs given to it"
    assert note in caught.value.__notes__


def test_modules_that_return_what_a_child_made_have_a_row():
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=True, name="drop")(nn.Dense(64, name="out")(x))

    report = of(nn.Sequential([Inner(), nn.Dense(4)]))
    rows = {row.layer: row for row in report.rows}
    made = rows["layers_0/out"]
    for layer in ("layers_0", "layers_0/drop"):
        assert rows[layer].same_as == made.layer and rows[layer].std == made.std
    assert made.same_as is None and "layers_0 = out " in str(report)
    assert "x = y: x returns what y made." in str(report)


class From12(nn.Module):
    """Healthy for twelve layers; from there each changes sizes by about one factor."""

    std: float

    @nn.compact
    def __call__(self, x):
        for i in range(30):
            kernel_init = init.he_normal() if i < 12 else init.normal(self.std)
            x = nn.relu(nn.Dense(64, kernel_init=kernel_init, name=f"fc{i}")(x))
        return nn.Dense(4, name="out")(x)


@pytest.mark.parametrize(
    "std, said",
    [
        (
            0.02,
            "vanishing activations from fc1[45] on.* less than a quarter .* since fc12$",
        ),
        (
            2.0,
            "exploding activations from fc1[45] on.* at most; more than four times .* since fc12$",
        ),
    ],
)
def test_the_layer_where_sizes_began_to_change_is_told(std, said):
    verdict = of(From12(std)).verdicts[0]
    assert re.search(said, verdict.text)
    back = of(From12(std)).verdicts[1]
    assert back.quantity == "gradients"
    assert re.search(
        "; (less than a quarter of|more than four times) the end's since fc2", back.text
    )


def test_a_layer_that_changes_all_at_once_is_told_once():
    for std in (1e-5, 1e5):
        model = nn.Sequential(
            [nn.Dense(64), nn.Dense(64, kernel_init=init.normal(std)), nn.Dense(4)]
        )
        verdict = of(model).verdicts[0]
        assert verdict.layer == "layers_1" and "since" not in verdict.text
