"""Leaves by distribution and dtype: rows of the pool and exact shapes both give what jit gives."""

import jax
import jax.numpy as jnp
import pytest
from as_jit import assert_as_jit
from jax import lax
from jax import random as jr
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import flax_inits
from flax_inits._engine import jobs, releases, rows
from flax_inits._engine.programs import Pooled

KEY = jax.random.key(7)
SHAPE = (37, 29)
ROW = rows.ROW
he, lecun = jax.nn.initializers.he_uniform(), jax.nn.initializers.lecun_normal()


def is_pooled(draw, key=KEY):
    (row,) = (traced := flax_inits.jit_init(draw)._planned((key,), {})[1]).jobs
    assert traced.jobs is not None
    return isinstance(row.recipe, Pooled)


POOLED = {
    "normal": lambda k: jr.normal(k, SHAPE),
    "uniform": lambda k: jr.uniform(k, SHAPE, minval=-0.3, maxval=0.7),
    "truncated": lambda k: jr.truncated_normal(k, -2.0, 2.0, SHAPE),
    "lecun_normal": lambda k: lecun(k, SHAPE),
    "he_uniform": lambda k: he(k, SHAPE),
    "mean_std": lambda k: 0.5 + 0.02 * jr.normal(k, SHAPE),
    "std_minus": lambda k: jr.normal(k, SHAPE) * 0.3 - 1,
    "divided": lambda k: jr.normal(k, SHAPE) / 3.0,
    "tiny": lambda k: jr.normal(k, SHAPE) * 1e-6,
    "negated": lambda k: -jr.normal(k, SHAPE) * 0.1,
    "twice_scaled": lambda k: jr.normal(k, SHAPE) * 2 * 3,
    "scaled_uniform": lambda k: (jr.uniform(k, SHAPE) * 2 - 1) * 0.37,
    "uniform_twice": lambda k: jr.uniform(k, SHAPE, minval=-0.1, maxval=0.1) * 3 * 0.7,
    "reversed": lambda k: 1 - jr.uniform(k, SHAPE),
    "clipped": lambda k: jnp.clip(jr.normal(k, SHAPE) * 0.02, -0.03, 0.03),
    "clipped_first": lambda k: jnp.clip(jr.normal(k, SHAPE), -2, 2) * 0.02,
    "root": lambda k: jr.normal(k, SHAPE) * jnp.sqrt(2.0) / jnp.sqrt(37),
    "rounded": lambda k: jnp.round(jr.normal(k, SHAPE) * 4) / 4,
    "denormal_scale": lambda k: jr.truncated_normal(k, -2, 2, SHAPE) * 1e-39,
    "denormals": lambda k: jr.uniform(k, SHAPE, minval=1e-38, maxval=2e-38) * 0.1,
    "infinite": lambda k: jr.normal(k, SHAPE) * jnp.inf,
    "nan": lambda k: jr.normal(k, SHAPE) * jnp.nan,
    "bits8": lambda k: jr.bits(k, SHAPE, jnp.uint8),
    "bits16": lambda k: jr.bits(k, SHAPE, jnp.uint16),
    "bits32": lambda k: jr.bits(k, SHAPE),
    "bernoulli": lambda k: jr.bernoulli(k, 0.3, SHAPE),
    "signs": lambda k: jr.bernoulli(k, 0.3, SHAPE).astype(jnp.float32) * 2 - 1,
    "attention": lambda k: lecun(k, (16, 32)).reshape(16, 1, 32),
    "batched": lambda k: jax.vmap(lambda q: jr.normal(q, SHAPE))(jr.split(k, 3)),
    "segments": lambda k: jax.vmap(lambda q: jr.normal(q, (ROW + 1,)))(jr.split(k, 3)),
    "scanned": lambda k: lax.map(lambda q: 0.1 * jr.truncated_normal(q, -2, 2, SHAPE), jr.split(k)),
    "complex": lambda k: jr.normal(k, SHAPE, jnp.complex64),
    "complex_scaled": lambda k: jax.nn.initializers.normal(0.01)(k, SHAPE, jnp.complex64),
    "complex_turned": lambda k: -jr.normal(k, SHAPE, jnp.complex64) * 0.3j / 7,
    "complex_of_one_draw": lambda k: jr.normal(k, SHAPE).astype(jnp.complex64) * 2j,
    "complex_segments": lambda k: jax.vmap(lambda q: jr.normal(q, SHAPE, jnp.complex64))(
        jr.split(k, 3)
    ),
    "one": lambda k: jr.normal(k, (1,)),
    "scalar": lambda k: jr.normal(k, ()),
    "row_less_one": lambda k: jr.normal(k, (ROW - 1,)),
    "row": lambda k: jr.normal(k, (ROW,)),
    "row_and_one": lambda k: jr.normal(k, (ROW + 1,)),
    "rows": lambda k: jr.uniform(k, (1024 * ROW + 1,)),
}
"""One draw per element and elementwise operations."""

OTHERS = {
    "scanned_lecun_bfloat16": lambda k: lax.map(
        lambda q: lecun(q, (64, 65), jnp.bfloat16), jr.split(k, 4)
    ),
    "scanned_bfloat16": lambda k: lax.map(
        lambda q: jr.uniform(q, (17,), jnp.bfloat16, -1.0, 0.5), jr.split(k, 200)
    ),
    "two_draws": lambda k: jr.normal(k, SHAPE) + jr.normal(jr.fold_in(k, 1), SHAPE) * 0.1,
    "sparse": lambda k: jnp.where(
        jr.uniform(k, SHAPE) < 0.3, 0.0, jr.normal(jr.fold_in(k, 1), SHAPE)
    ),
    "same_key_twice": lambda k: jr.normal(k, SHAPE) * jr.uniform(k, SHAPE),
    "maxwell": lambda k: jr.maxwell(k, SHAPE),
    "double_sided_maxwell": lambda k: jr.double_sided_maxwell(k, 0.0, 1.0, SHAPE),
    "three_classes": lambda k: lecun(k, (64, 3)),
    "narrow": lambda k: jr.normal(k, (700, 4)),
    "narrow_truncated": lambda k: jr.truncated_normal(k, -2, 2, (700, 5)) * 0.1,
    "narrowed": lambda k: jr.normal(k, (700, 12)).reshape(700, 4, 3) * 0.1,
    "narrow_heads": lambda k: lecun(k, (64, 12)).reshape(64, 4, 3),
    "widened": lambda k: jr.normal(k, (700, 3)).reshape(-1) * 0.1,
    "nested_vmap": lambda k: jax.vmap(jax.vmap(lambda q: jr.normal(q, (5,))))(jr.split(k, (3, 4))),
    "columns": lambda k: jax.vmap(lambda q: jr.normal(q, SHAPE), out_axes=-1)(jr.split(k, 3)),
    "transposed": lambda k: jr.normal(k, SHAPE).T,
    "sliced": lambda k: jr.normal(k, SHAPE)[3:7],
    "flipped": lambda k: jr.normal(k, SHAPE)[::-1],
    "padded": lambda k: jnp.concatenate([jr.normal(k, SHAPE), jnp.zeros(SHAPE)]),
    "stacked": lambda k: jnp.stack([jr.normal(q, SHAPE) for q in jr.split(k, 3)]),
    "spread": lambda k: jnp.broadcast_to(jr.normal(k, (1, 29)), SHAPE),
    "repeated": lambda k: jnp.repeat(jr.normal(k, (3, 4)), 2, 0),
    "by_row": lambda k: jr.normal(k, SHAPE) * jnp.arange(37.0)[:, None],
    "drawn_scale": lambda k: jr.normal(k, SHAPE) * jr.normal(jr.fold_in(k, 3), ()),
    "empty": lambda k: jr.normal(k, (0, 4)),
    "gumbel": lambda k: jr.gumbel(k, SHAPE),
    "exponential": lambda k: jr.exponential(k, SHAPE),
    "laplace": lambda k: jr.laplace(k, SHAPE),
    "logistic": lambda k: jr.logistic(k, SHAPE),
    "cauchy": lambda k: jr.cauchy(k, SHAPE),
    "lognormal": lambda k: jr.lognormal(k, 0.5, SHAPE),
    "randint": lambda k: jr.randint(k, SHAPE, -5, 100),
    "categorical": lambda k: jr.categorical(k, jnp.ones(5), shape=SHAPE),
    "permutation": lambda k: jr.permutation(k, 50),
    "choice": lambda k: jr.choice(k, 100, (7,), replace=False),
    "gamma": lambda k: jr.gamma(k, 2.0, SHAPE),
    "rademacher": lambda k: jr.rademacher(k, SHAPE),
    "complex_lecun": lambda k: lecun(k, SHAPE, jnp.complex64),
    "complex_moved": lambda k: jr.normal(k, SHAPE, jnp.complex64) * 0.3 + 1,
    "complex_mixed": lambda k: jr.normal(k, SHAPE, jnp.complex64) * (0.3 + 0.4j),
    "complex_inverted": lambda k: 1 / jr.normal(k, SHAPE, jnp.complex64),
    "complex_sum": lambda k: (
        jr.normal(k, SHAPE, jnp.complex64) + 0.1 * jr.normal(jr.fold_in(k, 1), SHAPE, jnp.complex64)
    ),
    "complex_and_real": lambda k: (
        jr.normal(k, SHAPE, jnp.complex64) + lecun(jr.fold_in(k, 1), SHAPE).astype(jnp.complex64)
    ),
    "complex_square": lambda k: jr.normal(k, SHAPE, jnp.complex64) ** 2,
    "size_of_complex": lambda k: abs(jr.normal(k, SHAPE, jnp.complex64)),
    "real_of_complex": lambda k: jr.normal(k, SHAPE, jnp.complex64).real * 0.1,
    "poisson": lambda k: jr.poisson(k, 3.0, (9,)),
    "orthogonal": lambda k: jax.nn.initializers.orthogonal(0.5)(k, (13, 7)),
    "delta_orthogonal": lambda k: jax.nn.initializers.delta_orthogonal()(k, (3, 3, 5, 7)),
    "log_uniform": lambda k: jnp.exp(jr.uniform(k, SHAPE) * 4.6 - 6.9),
    "unit_columns": lambda k: (lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True))(
        jr.normal(k, SHAPE)
    ),
    "spectral": lambda k: (lambda w: w / jnp.linalg.norm(w, 2))(jr.normal(k, (9, 9))),
    "centred": lambda k: (lambda w: w - w.mean(0, keepdims=True))(jr.normal(k, SHAPE)),
    "triangle": lambda k: jnp.tril(jr.normal(k, (9, 9))),
    "int4": lambda k: jr.bits(k, SHAPE, jnp.uint8).astype(jnp.int4),
}
"""What needs, or may need, a program of its own shape."""


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", POOLED)
def test_rows_are_what_jit_draws(name):
    assert is_pooled(POOLED[name])
    assert_as_jit(POOLED[name], KEY)


@pytest.mark.sampled(29, rest="thorough")
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", [name for name in POOLED if "segments" not in name])
def test_rows_of_rbg_keys(name, impl):
    key = jr.key(7, impl=impl)
    assert is_pooled(POOLED[name], key) or name == "batched"
    assert_as_jit(POOLED[name], key)


def normal(key):
    return jr.normal(key, SHAPE)


def normals(keys):
    return jax.vmap(normal)(keys)


SHARED = {
    "by_vmap": lambda k: normals(jr.split(k, 3)),
    "in_a_loop": lambda k: lax.map(lambda q: normals(jr.split(q)), jr.split(k, 3)),
    "one_step": lambda k: lax.map(lambda i: normals(jr.split(k, 3)), jnp.arange(1)),
    "one_step_without_slices": lambda k: lax.scan(
        lambda c, _: (c, normals(jr.split(k, 3))), None, None, length=1
    )[1],
    "loop_in_vmap": lambda k: jax.vmap(lambda q: lax.map(normal, jr.split(q)))(jr.split(k, 3)),
    "with_threefry": lambda k: lax.complex(normal(k), normal(KEY)),
}
LOOPS = {
    "a_key_each": lambda k: lax.map(normal, jr.split(k, 3)),
    "folded": lambda k: lax.map(lambda q: normal(jr.fold_in(q, 3)), jr.split(k, 3)),
}
SPLIT_IN_LOOPS = {
    "by_split": lambda k: lax.map(lambda q: normal(jr.split(q)[1]), jr.split(k, 3)),
    "by_step": lambda k: lax.map(lambda i: normal(jr.fold_in(k, i)), jnp.arange(3)),
    "by_both": lambda k: lax.map(lambda x: normal(jr.fold_in(*x)), (jr.split(k, 3), jnp.arange(3))),
}


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", SHARED)
def test_draws_of_rbg_keys_that_depend_on_each_other(name, impl):
    key = jr.key(7, impl=impl)
    assert not is_pooled(SHARED[name], key)
    assert_as_jit(SHARED[name], key)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", LOOPS | SPLIT_IN_LOOPS)
def test_loops_draw_with_each_key_alone(name, impl):
    loop, key = (LOOPS | SPLIT_IN_LOOPS)[name], jr.key(7, impl=impl)
    # Keys "unsafe_rbg" are split by a draw: of several at once it is another one.
    assert is_pooled(loop, key) == (name in LOOPS or impl == "rbg")
    assert_as_jit(loop, key)


def test_many_keys_of_one():
    assert_as_jit(lambda k: normals(jr.split(k, 2000)[1990:]), jr.key(7, impl="unsafe_rbg"))


def test_rows_of_rbg_keys_only_where_that_is_proved(monkeypatch):
    monkeypatch.setattr(releases, "MERGES_FACTORS", {})
    for impl in ("rbg", "unsafe_rbg"):
        assert not is_pooled(POOLED["normal"], jr.key(7, impl=impl))
        assert_as_jit(lambda key: POOLED["normal"](jr.fold_in(key, 1)), jr.key(7, impl=impl))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["normal", "mean_std", "he_uniform", "segments", "scanned"])
def test_so_are_exact_shapes(name, monkeypatch):
    monkeypatch.setattr(jobs, "LARGEST_POOLED", 0)
    assert not is_pooled(POOLED[name])
    assert_as_jit(POOLED[name], KEY)


@pytest.mark.sampled(27)
@pytest.mark.parametrize("name", OTHERS)
def test_other_leaves_are_what_jit_draws(name):
    assert_as_jit(OTHERS[name], KEY)


def without_q(key, shape):
    """A matrix that is read beside its decomposition."""
    drawn = jr.normal(key, shape)
    return drawn - jnp.linalg.qr(drawn)[0]


orthogonal = jax.nn.initializers.orthogonal(0.5)
MATRICES = {
    "tall": (lambda k: orthogonal(k, (40, 9)), True),
    "wide": (lambda k: orthogonal(k, (7, 64)), True),
    "kernel": (lambda k: orthogonal(k, (3, 3, 4, 16)), True),
    "short": (lambda k: orthogonal(k, (3, 8)), False),
    "narrow": (lambda k: orthogonal(k, (8, 3)), False),
    "read_twice": (lambda k: without_q(k, (20, 20)), False),
    "and_a_loop": (
        lambda k: (
            orthogonal(k, (12, 8))
            + lax.scan(lambda w, q: (w * jr.normal(q, (12, 8)), 0), jnp.ones((12, 8)), jr.split(k))[
                0
            ]
        ),
        False,
    ),
    "several": (lambda k: jax.vmap(lambda q: orthogonal(q, (12, 8)))(jr.split(k, 3)), False),
    "complex": (lambda k: orthogonal(k, (24, 16), jnp.complex64), True),
}


@pytest.mark.parametrize("name", MATRICES)
def test_bits_are_fused_with_a_matrix_for_lapack(name):
    draw, fused = MATRICES[name]
    (job,) = flax_inits.jit_init(draw)._planned((KEY,), {})[1].jobs
    assert job.recipe.fused == fused
    assert_as_jit(draw, KEY)


DRAWS = {
    "normal": lambda k, d: jr.normal(k, SHAPE, d),
    "uniform": lambda k, d: jr.uniform(k, SHAPE, d, -0.3, 0.7),
    "truncated": lambda k, d: jr.truncated_normal(k, -2.0, 2.0, SHAPE, d),
    "mean_std": lambda k, d: jnp.asarray(0.3, d) + jr.normal(k, SHAPE, d) * jnp.asarray(0.02, d),
    "cast_last": lambda k, d: (jr.normal(k, SHAPE) * 0.02).astype(d),
    "lecun_normal": lambda k, d: lecun(k, SHAPE, d),
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"])
@pytest.mark.parametrize("name", DRAWS)
def test_narrow_floats(name, dtype):
    assert_as_jit(lambda key: DRAWS[name](key, jnp.dtype(dtype)), KEY)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", DRAWS)
def test_double_precision(name):
    with jax.enable_x64(True):
        assert_as_jit(lambda key: DRAWS[name](key, jnp.float64), jax.random.key(7))
        assert_as_jit(lambda key: DRAWS[name](key, jnp.float32), jax.random.key(7))


@pytest.mark.parametrize("scale", [0.01, 1 / 3])
def test_complex_double_precision(scale):
    draw = jax.nn.initializers.normal(scale, jnp.complex128)
    with jax.enable_x64(True):
        assert_as_jit(lambda key: draw(key, SHAPE), jax.random.key(7))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("trailing", [1, 2, 3, 6, 7, 9, 10, 12])
def test_narrow_shapes(trailing):
    # XLA computes log1p one ulp off in the scalar code of narrow loops, so must the recipes.
    assert_as_jit(lambda key: jr.normal(key, (701, trailing)), KEY)


def test_what_lives_on_one_cpu_device_is_pooled():
    def draw(key):
        return jr.normal(key, SHAPE)

    def placed(sharding):
        init = flax_inits.jit_init(draw, out_shardings=sharding)
        return isinstance(init._planned((KEY,), {})[1].jobs[0].recipe, Pooled)

    device, pair = jax.devices()[3], jax.devices()[:2]
    assert placed(SingleDeviceSharding(device))
    assert not placed(SingleDeviceSharding(device, memory_kind="pinned_host"))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=pair)
    assert not placed(NamedSharding(mesh, P()))
    assert is_pooled(lambda key: jr.normal(key, (1,)))
    assert not is_pooled(lambda key: jr.normal(key, (0,)))
    assert is_pooled(lambda key: lax.scan(lambda c, k: (c, draw(k)), None, jr.split(key, 4))[1])


def test_no_program_counts_by_the_index_of_a_loop():
    """What that would cost is the time of a compilation: see `rows.LANES`."""
    ((_, lowered),) = flax_inits.jit_init(POOLED["lecun_normal"]).lower(KEY).programs
    assert "stablehlo.xor" in lowered.as_text()
    assert "iota" not in lowered.as_text()


@pytest.mark.slow
def test_leaves_above_the_largest_are_drawn_in_place():
    def draw(key):
        return jr.uniform(key, (jobs.LARGEST_POOLED + 1,))

    assert not is_pooled(draw)
    assert is_pooled(lambda key: jr.uniform(key, (jobs.LARGEST_POOLED,)))
    assert_as_jit(draw, KEY)
