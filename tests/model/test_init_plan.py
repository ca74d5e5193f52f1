"""Plans, ahead-of-time programs and the progress bar of `jit_init`."""

import html.parser

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from compiles import count_compiles
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits

KEY = jax.random.key(7)


def make(key):
    keys = jax.random.split(key, 6)
    w = jax.random.normal(keys[0], (20, 30))
    return {
        "normal": [w * 0.5, jax.random.normal(keys[1], (7,)) * 0.5],
        "uniform": jax.random.uniform(keys[2], (4, 5), jnp.bfloat16),
        "orthogonal": jax.nn.initializers.orthogonal()(keys[3], (6, 6)),
        "zeros": jnp.zeros((3, 4)),
        "twos": jnp.full(5, 2.0, jnp.float16),
        "flags": jnp.ones(3, bool),
        "shared": (lambda w: (w, w.mean()))(jnp.sin(jax.random.normal(keys[4], (8, 9)))),
        "key": keys[5],
    }


def rows_by_path(plan):
    return {"/".join(row.path): row for row in plan.rows}


def test_rows_are_plain_data():
    rows = rows_by_path(flax_inits.jit_init(make).plan(KEY))
    expected = jax.eval_shape(make, KEY)
    for path, leaf in jax.tree.leaves_with_path(expected):
        row = rows["/".join(jax.tree_util.keystr((key,), simple=True) for key in path)]
        assert (row.shape, row.dtype) == (leaf.shape, str(leaf.dtype))
        assert row.bytes == row.bytes_per_device == leaf.size * leaf.dtype.itemsize
        assert row.sharding is None and row.source == "model"
    assert rows["normal/0"].recipe == rows["normal/1"].recipe == "normal"
    assert rows["normal/0"].program == rows["normal/1"].program != rows["uniform"].program
    assert rows["shared/0"].program == rows["shared/1"].program
    names = {path: rows[path].recipe for path in ("uniform", "zeros", "twos", "flags")}
    assert names == {"uniform": "uniform", "zeros": "zeros", "twos": "constant(2)", "flags": "ones"}
    assert [rows[path].program for path in ("zeros", "twos", "flags")] == [None] * 3
    told = ("orthogonal", "qr", "householder")  # as the version of JAX lets it be told
    assert any(name in rows["orthogonal"].recipe for name in told)


def test_constants_have_a_name_on_several_devices_too():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    init = flax_inits.jit_init(make, out_shardings=NamedSharding(mesh, P()))
    rows = rows_by_path(init.plan(KEY))
    names = {path: rows[path].recipe for path in ("normal/0", "zeros", "twos", "flags")}
    assert names == {"normal/0": "normal", "zeros": "zeros", "twos": "constant(2)", "flags": "ones"}
    assert None not in {rows[path].program for path in ("zeros", "twos", "flags")}


def test_totals_and_text():
    plan = flax_inits.jit_init(make).plan(KEY)
    assert plan.bytes == sum(row.bytes for row in plan.rows) == plan.bytes_per_device
    assert plan.programs == len({row.program for row in plan.rows if row.program is not None})
    lines = str(plan).splitlines()
    assert lines[0].split()[:3] == ["path", "shape", "dtype"]
    assert len(lines) == 2 + len(plan.rows) + 1  # title, rule, rows, total
    assert any(line.split()[:2] == ["normal/0", "20×30"] for line in lines)
    assert lines[-1].startswith(f"{len(plan.rows)} leaves, ")
    assert lines[-1].endswith(f"{plan.programs} programs")
    assert repr(plan) == str(plan)


def test_html_escapes_and_has_every_row():
    class Cells(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.text, self.rows = [], 0

        def handle_starttag(self, tag, attrs):
            self.rows += tag == "tr"

        def handle_data(self, data):
            self.text.append(data)

    def odd(key):
        return {"<b>&[red]": jax.random.normal(key, (2,)), "[bold]": jnp.zeros(3)}

    plan = flax_inits.jit_init(odd).plan(KEY)
    cells = Cells()
    cells.feed(plan._repr_html_())
    assert cells.rows == 3 and "<b>&[red]" in cells.text
    assert "<b>" not in plan._repr_html_()
    assert "<b>&[red]" in str(plan) and "[bold]" in str(plan)


def test_planning_computes_and_compiles_nothing():
    calls = []

    def fun(key, x):
        calls.append(x)
        return {"w": jax.random.normal(key, (3,)) * x.mean(), "qr": jnp.linalg.qr(jnp.ones((2, 2)))}

    abstract = jax.ShapeDtypeStruct((), KEY.dtype), jax.ShapeDtypeStruct((4,), jnp.float32)
    init = flax_inits.jit_init(fun)
    init.plan(*abstract)  # jnp.ones and its like compile their own eager programs, if any.
    other = flax_inits.jit_init(lambda key, x: fun(key, x))
    with count_compiles() as count:
        plan = other.plan(*abstract)
    assert count.programs == 0
    assert all(isinstance(x, jax.core.Tracer) for x in calls)
    assert rows_by_path(plan)["w"].shape == (3,)


class Llama(nn.Module):
    layers: int
    width: int
    hidden: int
    vocabulary: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        for _ in range(self.layers):
            y = nn.RMSNorm()(x)
            q = nn.DenseGeneral((64, 128), use_bias=False)(y)
            k, v = (nn.DenseGeneral((8, 128), use_bias=False)(y) for _ in range(2))
            x = x + nn.DenseGeneral(self.width, (-2, -1), use_bias=False)(q + (k + v).sum())
            y = nn.RMSNorm()(x)
            gate, up = (nn.Dense(self.hidden, use_bias=False)(y) for _ in range(2))
            x = x + nn.Dense(self.width, use_bias=False)(nn.silu(gate) * up)
        return nn.Dense(self.vocabulary, use_bias=False)(nn.RMSNorm()(x))


@pytest.mark.parametrize("layers", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_seventy_billion_parameters_are_planned_abstractly(layers):
    # With 80 layers larger than any machine's memory, were anything computed; with 8, than most.
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))

    def shardings(tree):
        return jax.tree.map(lambda leaf: NamedSharding(mesh, P("model")), tree)

    init = flax_inits.jit_init(Llama(layers, 8192, 28672, 128256).init, out_shardings=shardings)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    plan = init.plan(jax.ShapeDtypeStruct((), KEY.dtype), tokens)
    block = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    assert plan.bytes == 4 * (layers * block + 2 * 128256 * 8192 + 8192)
    assert plan.bytes_per_device == plan.bytes // 8
    assert plan.programs < 20 and len(plan.rows) == layers * 9 + 3


def test_what_was_compiled_ahead_is_not_compiled_again():
    init = flax_inits.jit_init(lambda key: {"a": jnp.cosh(jax.random.normal(key, (7, 13)))})
    with count_compiles() as count:
        init.lower(KEY).compile()
    assert count.programs == 1
    with count_compiles() as count:
        jax.block_until_ready(init(KEY))
    assert count.programs == 0


def test_programs_ahead_of_time():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    model = nn.Sequential([nn.Dense(16), nn.Dense(16), nn.Dense(16, kernel_init=nn.zeros)])
    init = flax_inits.jit_init(model.init, out_shardings=NamedSharding(mesh, P("a")))
    x = jax.ShapeDtypeStruct((2, 16), jnp.float32)
    lowered = init.lower(jax.ShapeDtypeStruct((), KEY.dtype), x)
    programs = lowered.compile().programs
    paths = [path for leaves, _ in programs for path in leaves]
    assert len(paths) == len(set(paths)) and ("params", "layers_0", "kernel") in paths
    assert all(isinstance(compiled, jax.stages.Compiled) for _, compiled in programs)
    (kernels,) = [c for leaves, c in programs if ("params", "layers_0", "kernel") in leaves]
    assert kernels.memory_analysis().output_size_in_bytes >= 16 * 16 * 4 // 8
    text = kernels.as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))


def test_one_program_for_what_must_run_as_it_stands():
    def fun(key):
        jax.debug.callback(lambda: None)
        return {"a": jax.random.normal(key, (2,)), "b": jnp.zeros(3)}

    init = flax_inits.jit_init(fun)
    ((paths, compiled),) = init.lower(KEY).compile().programs
    assert paths == (("a",), ("b",)) and isinstance(compiled, jax.stages.Compiled)
    assert {(row.recipe, row.program) for row in init.plan(KEY).rows} == {
        ("the whole function: it has effects", 1)
    }


@pytest.mark.parametrize("asked, terminal, shown", [
    (None, False, False), (None, True, True), (True, False, True), (False, True, False),
])  # fmt: skip
def test_progress(asked, terminal, shown, monkeypatch, capsys):
    monkeypatch.setattr("flax_inits._model.progress._PATIENCE", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    flax_inits.jit_init(make, progress=asked)(KEY)
    printed = capsys.readouterr()
    assert printed.out == "" and bool(printed.err) == shown
    if shown:
        leaves = len(jax.tree.leaves(jax.eval_shape(make, KEY)))
        assert f"{leaves}/{leaves} leaves" in printed.err


def test_no_progress_for_short_work(capsys):
    flax_inits.jit_init(lambda key: jax.random.normal(key, (3,)), progress=True)(KEY)
    assert capsys.readouterr().err == ""


def test_rules_are_sources():
    model, x = nn.Sequential([nn.Dense(3), nn.Dense(4)]), jnp.ones((1, 2))
    init = flax_inits.jit_init(model.init, rules={"params/layers_0": flax_inits.constant(1.0)})
    sources = {"/".join(row.path): row.source for row in init.plan(KEY, x).rows}
    assert sources["params/layers_1/kernel"] == sources["params/layers_1/bias"] == "model"
    assert sources["params/layers_0/kernel"] != "model"
    made = init(KEY, x)["params"]
    assert (made["layers_0"]["kernel"] == 1).all()
    expected = jax.jit(model.init)(KEY, x)["params"]["layers_1"]["kernel"]
    assert (made["layers_1"]["kernel"] == expected).all()
