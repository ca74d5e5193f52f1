"""`summary`: values, what changed, how it is shown, and what it costs."""

import dataclasses
import io
import sys

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import rich.console
from compiles import count_compiles
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits
from flax_inits._reports.signal_table import Signal, SignalRow
from flax_inits._reports.summary_table import Summary, SummaryRow
from flax_inits._tree.places import Placement, jitted_at

KEY = jax.random.key(3)
STATISTICS = ("mean", "std", "min", "max", "zeros", "nonfinite")


def by_path(report):
    return {"/".join(row.path): row for row in report.rows}


def only(leaf, *other):
    (row,) = flax_inits.summary({"leaf": leaf}, *[{"leaf": leaf} for leaf in other]).rows
    return row


# Values


@pytest.mark.sampled(4)
@pytest.mark.parametrize("on_host", [False, True], ids=["jax", "numpy"])
@pytest.mark.parametrize(
    "dtype",
    ["float32", "bfloat16", "float16", "float8_e4m3fn", "int8", "uint32", "int4", "bool"],
)
def test_values_are_numpys(dtype, on_host):
    dtype = jnp.dtype(dtype)
    drawn = np.random.default_rng(0).normal(scale=3, size=(7, 11)).round()
    drawn = np.abs(drawn) if dtype in (np.uint32, bool) else drawn
    values = np.clip(drawn, -8, 7).astype(dtype)
    expected = values.astype(np.float64)
    row = only(values if on_host else jnp.asarray(values))
    assert (row.shape, row.dtype, row.count) == ((7, 11), str(dtype), 77)
    assert row.bytes == 77 * dtype.itemsize
    assert row.mean == pytest.approx(expected.mean(), rel=1e-6)
    assert row.std == pytest.approx(expected.std(), rel=1e-6)
    assert (row.min, row.max) == (expected.min(), expected.max())
    assert row.zeros == pytest.approx((expected == 0).mean(), rel=1e-6)
    assert row.nonfinite == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_no_overflow_and_no_cancellation(scale, shift):
    values = ((np.random.default_rng(1).normal(size=20000) + shift) * scale).astype(np.float32)
    row = only(jnp.asarray(values))
    expected = values.astype(np.float64)
    assert row.mean == pytest.approx(expected.mean(), rel=1e-6, abs=1e-6 * scale)
    # A float32 in 1000 is exact to 3e-5, which is far below the standard deviation of 1.
    assert row.std == pytest.approx(expected.std(), rel=1e-4)


def test_float16_does_not_overflow():
    row = only(jnp.full((300, 300), 60000, jnp.float16))
    assert row.mean == pytest.approx(60000, rel=1e-6) and (row.std, row.max) == (0, 60000)


def test_values_that_are_not_finite():
    row = only(jnp.array([jnp.nan, jnp.inf, -jnp.inf, 1.0, 3.0]))
    assert (row.mean, row.std, row.min, row.max) == (2, 1, 1, 3)
    assert row.nonfinite == pytest.approx(0.6) and row.zeros == 0
    row = only(jnp.full(4, jnp.nan))
    assert (row.mean, row.std, row.min, row.max, row.nonfinite) == (None, None, None, None, 1)


def test_integers_are_exact_at_the_ends():
    row = only(jnp.array([2**31 - 1, -(2**31), 7]))
    assert (row.min, row.max) == (-(2**31), 2**31 - 1)
    row = only(np.array([2**62 + 1, 0]))
    assert (row.min, row.max) == (0, 2**62 + 1) and isinstance(row.max, int)


def test_complex_numbers():
    values = np.array([1 + 2j, 3 - 1j, 0, 2j], np.complex64)
    row = only(jnp.asarray(values))
    assert row.mean == pytest.approx(values.mean()) and row.std == pytest.approx(values.std())
    assert (row.min, row.max, row.zeros) == (None, None, 0.25)


def test_python_numbers_and_leaves_of_all_kinds():
    tree = {
        "number": 2.5,
        "step": 3,
        "flag": True,
        "key": jax.random.key(0),
        "empty": jnp.zeros((0, 3)),
        "scalar": np.float64(4),
        "float8": np.ones(2, ml_dtypes.float8_e5m2),
        "none": None,
    }
    rows = by_path(flax_inits.summary(tree))
    assert rows.keys() == tree.keys() - {"none"}
    assert (rows["number"].mean, rows["step"].max, rows["flag"].zeros) == (2.5, 3, 0)
    assert rows["scalar"].dtype == "float64" and rows["scalar"].mean == 4
    for path in ("key", "empty"):
        assert [getattr(rows[path], name) for name in STATISTICS] == [None] * 6
    assert rows["key"].dtype == "key<fry>" and rows["key"].bytes == 8
    assert (rows["empty"].count, rows["empty"].bytes) == (0, 0)


def test_paths_are_those_of_the_package():
    class Model(nnx.Module):
        def __init__(self):
            self.head = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    boxed = {"a": nn.Partitioned(jnp.ones(3), names=("x",))}
    for tree in (boxed, flax.core.freeze({"a": {"b": jnp.ones(2)}}), nnx.state(Model())):
        assert [row.path for row in flax_inits.summary(tree).rows] == flax_inits.paths(tree)


def test_abstract_leaves_are_blank():
    tree = jax.eval_shape(lambda: {"a": jnp.ones((3, 4)), "b": jnp.ones(2, jnp.bfloat16)})
    report = flax_inits.summary(tree, tree)
    assert [(row.shape, row.dtype, row.mean) for row in report.rows] == [
        ((3, 4), "float32", None),
        ((2,), "bfloat16", None),
    ]
    assert "mean" not in str(report) and "3×4" in str(report)
    assert report.bytes == 3 * 4 * 4 + 2 * 2

    def traced(x):
        (row,) = flax_inits.summary({"x": x}).rows
        assert (row.shape, row.mean, row.sharding) == ((5,), None, None)
        return x

    jax.jit(traced)(jnp.ones(5))


# What changed


def test_every_kind_of_change():
    same = jnp.arange(3.0)
    old = {
        "same": same,
        "equal": jnp.array([1.0, jnp.nan]),
        "changed": jnp.array([3.0, 4.0, 0.0, 0.0]),
        "shape": jnp.ones(3),
        "dtype": jnp.ones(3),
        "key": jax.random.key(0),
        "gone": jnp.ones(5),
    }
    new = old | {
        "equal": jnp.array([1.0, jnp.nan]),
        "changed": jnp.array([3.0, 4.0, 0.0, 1.0]),
        "shape": jnp.ones(4),
        "dtype": jnp.ones(3, jnp.bfloat16),
        "key": jax.random.key(1),
        "new": jnp.zeros(2),
    }
    del new["gone"]
    report = flax_inits.summary(new, old)
    rows = by_path(report)
    assert {path: row.change for path, row in rows.items()} == {
        "same": "same object",
        "equal": "equal",
        "changed": "changed",
        "shape": "other shape",
        "dtype": "other dtype",
        "key": "changed",
        "new": "added",
        "gone": "removed",
    }
    changed = rows["changed"]
    assert (changed.changed, changed.distance, changed.largest) == (0.25, pytest.approx(0.2), 1)
    assert rows["same"].distance == rows["equal"].distance == rows["dtype"].distance == 0
    assert rows["shape"].distance is rows["new"].distance is rows["gone"].distance is None
    assert (rows["gone"].shape, rows["gone"].mean) == ((5,), None)
    assert report.count == 3 + 2 + 4 + 4 + 3 + 1 + 2
    assert str(report).endswith(", 1 added, 1 same object, 1 other shape, 1 removed")
    assert {row.change for row in flax_inits.summary(old).rows} == {None}


def test_leaves_without_values_to_compare():
    assert only(jnp.zeros((0, 2)), jnp.zeros((0, 2))).change == "equal"
    abstract = [jax.ShapeDtypeStruct((3,), jnp.float32) for _ in range(2)]
    assert only(*abstract).change is None


@pytest.mark.slow
def test_how_far():
    rng = np.random.default_rng(2)
    old = rng.normal(size=(30, 40)).astype(np.float32)
    new = old + 1e-3 * rng.normal(size=old.shape).astype(np.float32)
    there = jnp.asarray(new), jnp.asarray(old)
    for a, b in [(new, old), there, (there[0], old), (new, there[1])]:
        row = only(a, b)
        assert (row.change, row.changed) == ("changed", pytest.approx((new != old).mean()))
        expected = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert row.distance == pytest.approx(expected, rel=1e-5)
        assert row.largest == pytest.approx(np.abs(new - old).max(), rel=1e-6)
    assert only(jnp.ones(2), jnp.zeros(2)).distance == np.inf
    assert np.isnan(only(jnp.array([jnp.nan]), jnp.ones(1)).distance)
    huge = only(jnp.array([3e30, 4e30]), jnp.array([3e30, 0]))
    assert huge.distance == pytest.approx(4 / 3, rel=1e-6)
    near = only(jnp.array([2**30 + 1]), jnp.array([2**30]))  # the same float32
    assert (near.change, near.changed) == ("changed", 1)


def test_containers_and_boxes_may_differ():
    new = flax.core.freeze({"a": nn.Partitioned(jnp.ones(3), names=("x",))})
    (row,) = flax_inits.summary(new, {"a": np.ones(3, np.float32)}).rows
    assert row.change == "equal"


# Where it is computed


def test_sharded_leaves_are_never_gathered():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, P("x"))
    values = jax.random.normal(KEY, (16, 3))
    leaf = jax.device_put(values, spread)
    rows = flax_inits.summary({"a": leaf, "b": values}, {"a": leaf + 1, "b": leaf}).rows
    assert rows[0].sharding == spread and " ('x',) " in str(flax_inits.summary({"a": leaf}))
    for name in STATISTICS:
        assert getattr(rows[0], name) == pytest.approx(getattr(rows[1], name), rel=1e-6, abs=1e-7)
    assert [row.change for row in rows] == ["changed", "equal"]

    from flax_inits._reports import statistics

    everywhere = Placement(NamedSharding(mesh, P()))
    for compute, leaves in [
        (statistics.moments, [leaf]),
        (statistics._difference, [leaf, leaf + 1]),
    ]:
        program = jax.jit(jitted_at(compute, everywhere)).lower(*leaves).compile()
        assert "all-gather" not in program.as_text() and "all-reduce" in program.as_text()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_under_a_mesh_and_on_several_devices(kind):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    tree = {
        "sharded": jax.device_put(jnp.arange(16.0), NamedSharding(mesh, P("x"))),
        "alone": jax.device_put(jnp.arange(16.0), jax.devices()[3]),
        "free": jnp.arange(16.0),
    }
    with jax.set_mesh(mesh):
        inside = flax_inits.summary(tree, {path: tree["free"] for path in tree})
    assert inside.rows == flax_inits.summary(tree, {path: tree["free"] for path in tree}).rows
    assert {row.mean for row in inside.rows} == {7.5}
    assert [row.change for row in inside.rows] == ["equal", "same object", "equal"]


def test_equal_leaves_share_a_program():
    def tree(blocks):
        return {f"block_{i}": {"w": jnp.full((5, 13), i), "b": jnp.ones(29)} for i in range(blocks)}

    few, many = tree(2), tree(30)
    with count_compiles() as first:
        flax_inits.summary(few)
    with count_compiles() as then:
        flax_inits.summary(many)
    assert first.programs == 2 and then.programs == 0


@pytest.mark.slow
def test_ten_thousand_leaves():
    tree = {
        f"block_{i}": {
            "mlp": {f"Dense_{j}": {"kernel": np.ones((2, 2)), "bias": np.zeros(2)} for j in (0, 1)}
        }
        for i in range(2500)
    }
    with count_compiles() as count:
        report = flax_inits.summary(jax.device_put(tree))
        text = str(report)
    assert count.programs <= 2
    assert len(report.rows) == 10000
    assert len(text.splitlines()) == 2 + 2 + 1
    assert "block_{0..2499}/mlp/Dense_{0,1}/kernel" in text


# How it is shown


def test_folding_keeps_apart_what_differs():
    tree = {f"layer_{i}": {"w": jnp.full(2, float(i)), "b": jnp.zeros(1)} for i in range(120)}
    tree["layer_7"]["w"] = jnp.ones(3)
    other = {k: dict(v) for k, v in tree.items()}
    other["layer_9"]["w"] = other["layer_9"]["w"] + 1
    report = flax_inits.summary(tree, other)
    lines = {line.split()[0]: line.split() for line in str(report).splitlines()[2:-1]}
    assert set(lines) == {
        "layer_{0..119}/b",
        "layer_{0..6,8,10..119}/w",
        "layer_7/w",
        "layer_9/w",
    }
    numbers = np.array([i for i in range(120) if i not in (7, 9)])
    assert lines["layer_{0..6,8,10..119}/w"][3:5] == [
        f"{numbers.mean():.3g}",
        f"{numbers.std():.3g}",
    ]
    assert lines["layer_{0..6,8,10..119}/w"][5:7] == ["0", "119"]


def test_two_hundred_leaves_are_listed():
    tree = {f"layer_{i}": jnp.zeros(2) for i in range(200)}
    assert len(str(flax_inits.summary(tree)).splitlines()) == 2 + 200 + 1
    folded = str(flax_inits.summary(tree | {"layer_200": jnp.zeros(2)}))
    assert "layer_{0..200} " in folded and len(folded.splitlines()) == 4


def test_no_path_is_ever_cut():
    path = "/".join(f"a_rather_long_name_{i}" for i in range(40))
    tree = jnp.ones(2)
    for segment in reversed(path.split("/")):
        tree = {segment: tree}
    report = flax_inits.summary(tree)
    assert path in str(report) and path in report._repr_html_() and repr(report) == str(report)
    file = io.StringIO()
    rich.console.Console(width=100, file=file).print(report)  # which folds it
    shown = file.getvalue().splitlines()[2:-1]
    assert "".join(line.split(" ")[0] for line in shown) == path


def test_blank_columns_are_left_out_and_html_is_escaped():
    text = str(flax_inits.summary({"<b>[red]": jnp.array([1.0, 2.0])}))
    assert text.splitlines()[0].split() == ["path", "shape", "dtype", "mean", "std", "min", "max"]
    assert text.splitlines()[2].split() == ["<b>[red]", "2", "float32", "1.5", "0.5", "1", "2"]
    page = flax_inits.summary({"<b>": jnp.zeros(3)})._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page and "<td" in page and "100%" in page
    assert str(flax_inits.summary({})).endswith("0 leaves, 0 elements, 0 B")


def test_a_sharding_over_no_mesh_is_shown():
    class Everywhere(jax.sharding.Sharding):
        device_set = property(lambda self: set(jax.devices()))

        def __repr__(self):
            return "Everywhere()"

    row = dataclasses.replace(only(jnp.ones(3)), sharding=Everywhere())
    assert " Everywhere() " in str(Summary([row]))


def test_shares_are_never_rounded_to_none_or_all():
    values = jnp.ones(5000)
    assert "<0.1%" in str(flax_inits.summary({"a": values.at[0].set(0)}))
    assert ">99.9%" in str(flax_inits.summary({"a": values.at[1:].set(0)}))


@pytest.mark.slow
def test_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    old = {"a": jnp.arange(4.0), "b": {"c": jnp.ones(3)}, "k": jax.random.key(0)}
    figure = flax_inits.summary(old | {"a": jnp.arange(4.0) - 1}, old).plot()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b/c"]
    # For each leaf its range, its mean ± std, its mean; then the line at 0.
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [-1, 2])
    np.testing.assert_allclose(
        axes.lines[1].get_xdata(), 0.5 + np.std(range(4)) * np.array([-1, 1])
    )
    assert axes.lines[1].get_color() != axes.lines[4].get_color()
    # Of what is constant, the edge of the dot is all that is to be seen.
    assert axes.lines[5].get_markeredgecolor() == axes.lines[4].get_color()
    (legend,) = figure.legends
    entries = zip(legend.get_texts(), legend.get_lines(), strict=True)
    colors = {text.get_text(): line.get_color() for text, line in entries}
    assert colors == {
        "as in the other tree": axes.lines[4].get_color(),
        "not as in the other tree": axes.lines[1].get_color(),
    }
    pyplot.close(figure)
    alone = flax_inits.summary(old).plot()
    assert not alone.legends
    pyplot.close(alone)
    pyplot.close(flax_inits.summary(jax.eval_shape(lambda: old)).plot())  # no numbers to show


def test_plot_of_another_dtype_is_no_equal_one():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    old = {"a": jnp.ones(3), "b": jnp.ones(3)}
    figure = flax_inits.summary(old | {"a": jnp.ones(3, jnp.bfloat16)}, old).plot()
    (axes,) = figure.axes
    assert axes.lines[1].get_color() != axes.lines[4].get_color()
    pyplot.close(figure)


@pytest.mark.parametrize("kind", [Summary, Signal])
def test_help_names_the_fields_of_rows_and_what_plots_are(kind):
    for field in dataclasses.fields({Summary: SummaryRow, Signal: SignalRow}[kind]):
        assert f"`{field.name}`" in kind.__doc__
    for text in ("matplotlib.figure.Figure", ".savefig(", "flax_inits[plot]"):
        assert text in kind.plot.__doc__


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = flax_inits.summary({"a": jnp.ones(2)})
    with pytest.raises(ImportError, match=r'pip install "flax_inits\[plot\]"'):
        report.plot()


# Errors


def test_what_is_no_tree_of_arrays():
    with pytest.raises(
        TypeError, match="params to be a tree of arrays, but its leaf 'a/b' is of type str"
    ):
        flax_inits.summary({"a": {"b": "text"}})
    with pytest.raises(TypeError, match="it is of type Dense; give its variables, as model.init"):
        flax_inits.summary(nn.Dense(3))
    with pytest.raises(
        TypeError, match="other to be a tree of arrays, but its leaf 'a' is of type"
    ):
        flax_inits.summary({"a": jnp.ones(2)}, {"a": object()})


def test_deleted_arrays():
    leaf = jnp.ones(3)
    leaf.delete()
    with pytest.raises(ValueError, match="array of 'a' was deleted .* pass summary the params"):
        flax_inits.summary({"a": leaf})
    with pytest.raises(ValueError, match="array of 'a' was deleted .* pass summary the other"):
        flax_inits.summary({"a": jnp.ones(3)}, {"a": leaf})
