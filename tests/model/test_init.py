"""`jit_init` of any function is `jax.jit` of it: keys, control flow, odd leaves, transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit, assert_same
from compiles import count_compiles
from jax import lax
from jax import random as jr

import flax_inits

KEY, LEGACY = jax.random.key(7), jax.random.PRNGKey(3)
SHAPE = (8, 16)


def normal(key):
    return jr.normal(key, SHAPE)


@jax.custom_jvp
def doubled_sine(x):
    return jnp.sin(x) * 2


doubled_sine.defjvps(lambda tangent, out, x: tangent)


@jax.custom_vjp
def affine(x):
    return x * 3 + 1


affine.defvjp(lambda x: (affine(x), None), lambda residual, g: (g,))


def step(carry, key):
    w, u = jr.normal(key, SHAPE), jr.uniform(key, (3,))
    return carry * 0.5 + w.mean(), (w, u, jnp.zeros(2), carry)


def data_dependent(key, x):
    w = jr.normal(key, (8, 16)) * 0.05
    y = x @ w
    scale = 1 / y.std(0)
    untouched = jr.uniform(jr.fold_in(key, 1), (3,))
    return {"v": w, "g": scale, "b": -y.mean(0) * scale, "x": x, "u": untouched}


X = jr.normal(jr.key(1), (32, 8))
LARGE = np.arange(100_000, dtype=np.float32)

KEYS = {
    "split": lambda k: [normal(q) for q in jr.split(k, 3)],
    "fold_in": lambda k: [normal(jr.fold_in(k, i)) for i in (0, 1, 2**32 - 1)],
    "indexed": lambda k: [normal(jr.split(k, (2, 3))[i, -1]) for i in range(2)],
    "chained": lambda k: normal(jr.clone(jr.split(jr.fold_in(jr.split(k)[1], 5), 4)[2])),
    "batched": lambda k: jax.vmap(jax.vmap(normal))(jr.split(k, (2, 3))),
    "scanned": lambda k: lax.scan(step, 0.0, jr.split(k, 4))[1][:3],
    "carried": lambda k: lax.scan(step, 0.0, jr.split(k, 4)),
}


@pytest.mark.sampled(36, rest="thorough")
@pytest.mark.parametrize("kind", ["threefry", "legacy", "rbg", "unsafe_rbg", "fused"])
@pytest.mark.parametrize("name", KEYS)
def test_keys(name, kind):
    keys = {"threefry": KEY, "legacy": LEGACY, "fused": flax_inits.fused_key(KEY)}
    key = keys[kind] if kind in keys else jr.key(3, impl=kind)
    assert_as_jit(KEYS[name], key)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", KEYS)
def test_the_other_layout_of_bits(name):
    with jax.threefry_partitionable(False):
        assert_as_jit(KEYS[name], KEY)


def test_the_other_layout_within_a_function():
    def make(key):
        with jax.threefry_partitionable(False):
            inner = {"drawn": normal(key), "split": normal(jr.split(key, 3)[1])}
        return inner, {"drawn": normal(key), "split": normal(jr.split(key, 3)[1])}

    assert_as_jit(make, KEY)


WITH_ARGUMENTS = {
    "folded argument": (lambda k, i: [normal(jr.fold_in(k, i + j)) for j in (0, 5, -9)], 3),
    "index": (lambda k, i: normal(jr.split(k, 5)[i]), 3),
    "negative index": (lambda k, i: normal(jr.split(k, 5)[i]), -1),
    "chosen key": (lambda k, b: normal(lax.select(b, k, jr.fold_in(k, 1))), True),
    "key from a seed": (lambda k, seed: normal(jr.key(seed)), 5),
    "key from an array": (
        lambda k, x: normal(jr.fold_in(k, lax.bitcast_convert_type(x, jnp.int32))),
        np.float32(3),
    ),
    "cond": (lambda k, x: lax.cond(x.sum() > 0, normal, lambda k: jnp.zeros(SHAPE), k), np.ones(3)),
    "switch": (lambda k, i: lax.switch(i, [normal, lambda k: jr.uniform(k, SHAPE)], k), 1),
    "scan over data": (
        lambda k, x: lax.scan(lambda c, q: (c, normal(q[0]) * q[1]), 0, (jr.split(k, 4), x)),
        np.arange(4, dtype=np.float32),
    ),
    "data": (data_dependent, X),
    "passed through": (lambda k, x: {"x": x, "again": x, "k": k, "twice": x * 2}, np.ones(3)),
    "weak": (lambda k, x: {"x": x, "more": x + 1}, 2.0),
    "bool": (lambda k, x: {"x": x, "not": ~jnp.asarray(x)}, True),
    "several keys": (
        lambda k, many: (jax.vmap(normal)(many), normal(many[1]), many),
        jr.split(KEY),
    ),
}


@pytest.mark.sampled(5, rest="thorough")
@pytest.mark.parametrize("name", WITH_ARGUMENTS)
def test_arguments(name):
    fun, argument = WITH_ARGUMENTS[name]
    assert_as_jit(fun, KEY, argument)


FUNCTIONS = {
    "drawn fold": lambda k: normal(jr.fold_in(k, jr.randint(k, (), 0, 9))),
    "constant key": lambda k: (normal(jr.key(0)), jr.key(3), jr.key(3, impl="rbg")),
    "keys": lambda k: (k, jr.split(k), jr.fold_in(k, 1), jr.key_data(k)),
    "fori": lambda k: lax.fori_loop(
        0, 3, lambda i, w: w + normal(jr.fold_in(k, i)), jnp.zeros(SHAPE)
    ),
    "while": lambda k: lax.while_loop(
        lambda c: c[0] < 3,
        lambda c: (c[0] + 1, c[1] + normal(jr.fold_in(k, c[0]))),
        (0, jnp.zeros(SHAPE)),
    ),
    "reverse": lambda k: lax.scan(step, 0.0, jr.split(k, 4), reverse=True),
    "reverse map": lambda k: lax.scan(step, 0.0, jr.split(k, 4), reverse=True)[1][0],
    "carried key": lambda k: lax.scan(
        lambda c, _: (jr.split(c)[0], normal(jr.split(c)[1])), k, None, length=4
    ),
    "nested scans": lambda k: lax.map(
        lambda q: lax.map(lambda p: jr.truncated_normal(p, -2, 2, SHAPE) * 0.02, jr.split(q, 3)),
        jr.split(k),
    ),
    "unrolled": lambda k: lax.scan(lambda c, q: (c, normal(q)), 0, jr.split(k, 4), unroll=2)[1],
    "empty scan": lambda k: lax.map(normal, jr.split(k, 3)[:0]),
    "in batches": lambda k: lax.map(normal, jr.split(k, 4), batch_size=2),
    "custom_jvp": lambda k: (doubled_sine(normal(k)), affine(normal(jr.fold_in(k, 1)))),
    "remat": lambda k: jax.checkpoint(lambda k: normal(k) * 0.1)(k),
    "nested jit": lambda k: jax.jit(jax.jit(normal, inline=True))(k),
    "gradient": lambda k: jax.grad(lambda w: (w**2 * normal(k)).sum())(jnp.ones(SHAPE)),
    "factored": lambda k: jnp.linalg.qr(jr.normal(k, (6, 4))),
    "drawn scale": lambda k: [normal(q) * jr.uniform(k, ()) for q in jr.split(k, 3)],
    "callback": lambda k: jax.pure_callback(
        lambda x: np.asarray(x) * 2, jax.ShapeDtypeStruct(SHAPE, jnp.float32), normal(k)
    ),
    "tied": lambda k: (lambda w: {"in": w, "out": w, "transposed": w.T, "twice": w * 2})(normal(k)),
    "tied constant": lambda k: [jnp.ones(3)] * 2,
    "closed over": lambda k: {"large": LARGE, "used": LARGE * 2, "w": normal(k)},
    "numpy": lambda k: (
        np.ones(3),
        np.arange(3),
        np.array(2.5),
        np.zeros((0, 2)),
        np.ones(2, bool),
    ),
    "scalars": lambda k: (2.0, 3, True, 1j, np.float32(2), np.int8(1)),
    "no leaves": lambda k: {"none": None, "empty": {}, "tuple": ()},
    "integers": lambda k: (jnp.zeros(3, int), jnp.full(2, 7, jnp.uint8), jnp.ones(3, bool)),
    "small integers": lambda k: (jnp.zeros(2, jnp.int4), jnp.eye(3), jnp.arange(4)),
    "complex": lambda k: (jnp.zeros(3, jnp.complex64), jnp.full(3, 1j)),
    "saturating": lambda k: [
        jnp.full(3, 1e10).astype(jnp.int32),
        jnp.full(3, -3.0).astype(jnp.uint8),
        jnp.full(3, jnp.nan).astype(jnp.int32),
        jnp.full(3, 300.0).astype(jnp.int8),
    ],
    "overflowing": lambda k: [
        jnp.full(3, 1e6).astype(d)
        for d in (jnp.float16, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2)
    ],
    "denormal": lambda k: (jnp.full(3, 1e-30) * 1e-15, jnp.full(3, 1e-40), jnp.full(3, 1e-38) / 9),
    "no numbers": lambda k: (jnp.full(3, jnp.inf) - jnp.inf, -jnp.full(3, jnp.nan), -jnp.zeros(3)),
}


@pytest.mark.sampled(15, rest="thorough")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    assert_as_jit(FUNCTIONS[name], KEY)


def test_no_arguments_at_all():
    assert_as_jit(lambda: {"w": normal(jr.key(0)), "b": jnp.zeros(3)})


def test_tied_leaves_have_buffers_of_their_own():
    made = flax_inits.jit_init(FUNCTIONS["tied"])(KEY)
    assert made["in"].unsafe_buffer_pointer() != made["out"].unsafe_buffer_pointer()
    jax.jit(lambda w: w + 1, donate_argnums=0)(made["in"])
    np.testing.assert_array_equal(made["out"].T, made["transposed"])


@pytest.mark.slow
def test_double_precision_and_back():
    def make(key):
        return {
            "drawn": (normal(key), jr.uniform(key, SHAPE), jr.normal(key, SHAPE, jnp.float32)),
            "integers": (jr.randint(key, SHAPE, 0, 9), jnp.arange(3)),
            "constants": (1.0, 2, jnp.zeros(3), jnp.full(3, 0.1).astype(jnp.bfloat16)),
        }

    with jax.enable_x64(True):
        made = assert_as_jit(make, jr.key(7))
        assert made["drawn"][0].dtype == jnp.float64
        assert_as_jit(lambda key: jr.bits(key, SHAPE, jnp.uint64), jr.key(7))
    assert_as_jit(make, KEY)


def test_effects_happen_once_a_call_and_compile_once(capfd):
    def make(key):
        jax.debug.print("drawing")
        return normal(key)

    assert_as_jit(make, KEY, whole=True)
    jax.effects_barrier()
    assert capfd.readouterr().out == "drawing\n" * 2
    init = flax_inits.jit_init(make)
    init(KEY)
    with count_compiles() as count:
        jax.block_until_ready(init(LEGACY_TYPED))
    assert count.programs == 0
    jax.effects_barrier()


LEGACY_TYPED = jr.wrap_key_data(LEGACY)

TRANSFORMATIONS = {
    "jit": lambda wrap: jax.jit(wrap(normal))(KEY),
    "vmap": lambda wrap: jax.vmap(wrap(normal))(jr.split(KEY, 3)),
    "grad": lambda wrap: jax.grad(lambda s: wrap(lambda k, s: normal(k) * s)(KEY, s).sum())(2.0),
    "closed over by vmap": lambda wrap: jax.vmap(lambda s: wrap(lambda k: normal(k) * s)(KEY))(
        jnp.arange(3.0)
    ),
    "constant closed over by vmap": lambda wrap: jax.vmap(
        lambda s: wrap(lambda k: s + jnp.zeros(2))(KEY)
    )(jnp.arange(3.0)),
    "closed over by grad": lambda wrap: jax.grad(
        lambda s: wrap(lambda k: normal(k) * s)(KEY).sum()
    )(2.0),
    "closed over by jit": lambda wrap: jax.jit(lambda s: wrap(lambda k: normal(k) * s)(KEY))(2.0),
    "not batched": lambda wrap: jax.vmap(lambda s: (s, wrap(normal)(KEY)))(jnp.arange(3.0)),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    apply = TRANSFORMATIONS[name]
    made, expected = apply(flax_inits.jit_init), apply(jax.jit)
    # Inside of eager transformations `fun` is called as it stands, so it may round differently.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), made, expected)


def test_each_device_by_pmap():
    keys = jr.split(KEY, 8)
    made = jax.pmap(flax_inits.jit_init(normal))(keys)
    np.testing.assert_array_equal(made, jax.pmap(normal)(keys))


def test_abstractly():
    made = jax.eval_shape(flax_inits.jit_init(data_dependent), KEY, X)
    assert made == jax.eval_shape(data_dependent, KEY, X)


@pytest.mark.slow
def test_inside_of_shard_map():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def apply(wrap):
        def body(key):
            return wrap(lambda key: jr.normal(key, (2, 3)))(jr.fold_in(key, lax.axis_index("a")))

        return jax.shard_map(body, mesh=mesh, in_specs=spec(), out_specs=spec("a"))(KEY)

    np.testing.assert_allclose(apply(flax_inits.jit_init), apply(jax.jit), rtol=1e-6)


def test_jit_may_be_disabled():
    expected = jax.jit(normal)(KEY)
    with jax.disable_jit():
        made = flax_inits.jit_init(normal)(KEY)
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_an_already_jitted_function():
    init = flax_inits.jit_init(jax.jit(normal))
    assert_same(init(KEY), jax.jit(normal)(KEY))
    ((paths, _),) = init.lower(KEY).compile().programs
    assert paths == ((),)


def test_it_passes_for_the_function():
    init = flax_inits.jit_init(data_dependent)
    assert init.__name__ == "data_dependent" and init.__wrapped__ is data_dependent
