"""The bits are those of jax.random, drawn in one loop; the host derives the same keys."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from jax.sharding import NamedSharding, PartitionSpec

from flax_inits._base import bits, threefry

SHAPES = [(), (0,), (1,), (7,), (5, 0, 3), (3, 5), (2, 3, 4, 5), (129, 130)]
SAMPLERS = {
    "bits": lambda key: jax.random.bits(key, (9, 7)),
    "uniform": lambda key: jax.random.uniform(key, (9, 7), minval=-3.0, maxval=0.7),
    "normal": lambda key: jax.random.normal(key, (9, 7)) * 0.02,
    "normal16": lambda key: jax.random.normal(key, (9, 7), jnp.bfloat16),
    "complex": lambda key: jax.random.normal(key, (9, 7), jnp.complex64),
    "truncated": lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (9, 7)),
    "randint": lambda key: jax.random.randint(key, (9, 7), 0, 10),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (9, 7)),
    "gamma": lambda key: jax.random.gamma(key, 1.7, (9, 7)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros(5), shape=(9, 7)),
    "permutation": lambda key: jax.random.permutation(key, 63),
    "orthogonal": lambda key: jax.random.orthogonal(key, 7),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 11)),
}


@pytest.fixture
def key():
    return jax.random.fold_in(jax.random.key(42), 7)


@pytest.fixture
def fused(key):
    return bits.fused_key(key)


def random_bits(key, bit_width, shape):
    return jax.random.bits(bits.fused_key(key), shape, f"uint{bit_width}")


def reference(key, index):
    """The 32 bits of one element, from the block function on the host."""
    x0, x1 = threefry.block(bits.key_words(key), divmod(index, 1 << 32))
    return x0 ^ x1


@pytest.mark.sampled(18, rest="thorough")
@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize("bit_width", [8, 16, 32, 64])
@pytest.mark.parametrize("x64", [True, False])
def test_bits_equal_those_of_jax(key, bit_width, x64, partitionable):
    if bit_width == 64 and not x64:
        pytest.skip("jax truncates to 32 bits; see below")
    dtype = f"uint{bit_width}"
    with jax.enable_x64(x64), jax.threefry_partitionable(partitionable):
        drawn = jax.jit(lambda key: [random_bits(key, bit_width, s) for s in SHAPES])(key)
        expected = jax.jit(lambda key: [jax.random.bits(key, s, dtype) for s in SHAPES])(key)
    assert all(array.dtype == dtype for array in drawn)
    chex.assert_trees_all_equal(drawn, expected)


def test_64_bits_without_x64_are_truncated_as_jax_does(key):
    with pytest.warns(UserWarning, match="uint64 .* truncated to dtype uint32"):
        drawn = random_bits(key, 64, (3,))
    chex.assert_trees_all_equal(drawn, jax.random.bits(key, (3,), "uint32"))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_implementations_draw_through_jax(impl):
    key = jax.random.key(3, impl=impl)
    assert not bits.is_threefry(key)
    assert bits.fused_key(key) is key
    chex.assert_trees_all_equal(
        random_bits(key, 32, (3, 5)), jax.random.bits(key, (3, 5), "uint32")
    )
    chex.assert_trees_all_equal(
        jax.jit(lambda key: bits.normal(key, (3, 5), jnp.float32))(key),
        jax.jit(lambda key: jax.random.normal(key, (3, 5), jnp.float32))(key),
    )


def test_legacy_keys_belong_to_the_default_implementation():
    legacy = jax.random.PRNGKey(5)
    assert bits.is_threefry(legacy)
    chex.assert_trees_all_equal(random_bits(legacy, 32, (4,)), jax.random.bits(legacy, (4,)))
    with jax.default_prng_impl("rbg"):
        legacy = jax.random.PRNGKey(5)
        assert not bits.is_threefry(legacy)
        assert bits.fused_key(legacy) is legacy
        chex.assert_trees_all_equal(random_bits(legacy, 32, (4,)), jax.random.bits(legacy, (4,)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "bfloat16", "float16", "complex64", "complex128"]
)
def test_values_equal_those_of_jax_under_jit(key, dtype):
    shape, dtype = (37, 129), jnp.dtype(dtype)
    pairs = {
        lambda key: bits.normal(key, shape, dtype): (
            lambda key: jax.random.normal(key, shape, dtype)
        ),
        lambda key: bits.normal(key, shape, dtype) * 0.02 + 0.3: (
            lambda key: jax.random.normal(key, shape, dtype) * 0.02 + 0.3
        ),
    }
    if jnp.issubdtype(dtype, jnp.floating):
        pairs |= {
            lambda key: bits.uniform(key, shape, dtype, -0.3, 0.1): (
                lambda key: jax.random.uniform(key, shape, dtype, -0.3, 0.1)
            ),
            lambda key: bits.truncated_normal(key, shape, dtype, -2.0, 2.0) / 3: (
                lambda key: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / 3
            ),
        }
    with jax.enable_x64(True):
        for ours, of_jax in pairs.items():
            drawn, expected = jax.jit(ours)(key), jax.jit(of_jax)(key)
            assert drawn.dtype == dtype
            chex.assert_trees_all_equal(drawn, expected)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "offset", [0, 1, (1 << 32) - 5, (1 << 32) + 3, (7 << 32) - 1, (1 << 64) - 4]
)
@pytest.mark.parametrize("shape", [(), (9,), (2, 5), (2, 3, 4)])
@pytest.mark.parametrize("x64", [True, False])
def test_counter_is_exact_in_both_words(offset, shape, x64):
    with jax.enable_x64(x64):
        words = jax.jit(lambda: threefry.counter(shape, offset))()
    expected = [divmod((offset + i) % (1 << 64), 1 << 32) for i in range(np.prod(shape, dtype=int))]
    for index, word in enumerate(words):
        assert word.dtype == np.uint32
        wide = np.broadcast_to(np.asarray(word), shape).ravel()
        assert wide.tolist() == [pair[index] for pair in expected]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", [(10,), (3, 10), (10, 3), (2, 9, 10)])
def test_long_axes_are_counted_in_rows(shape):
    words = threefry.counter(shape, (1 << 32) - 7, row=4)
    flat = (np.asarray(words[0], np.uint64) << 32 | np.asarray(words[1])).ravel()
    assert flat.tolist() == [(1 << 32) - 7 + i for i in range(flat.size)]


@pytest.mark.parametrize(
    "shape",
    [(1 << 20, 1 << 20), (3, (1 << 33) + 5, 2), (1 << 16, 1 << 8, 1 << 9), ((1 << 32) + 1,)],
)
@pytest.mark.parametrize("x64", [True, False])
def test_arrays_of_more_than_2_to_the_32_elements(key, shape, x64):
    # XLA computes only what is left of an elementwise loop: the last 24 elements at most.
    start = [size - min(size, 1 + axis) for axis, size in enumerate(shape)]
    with jax.enable_x64(x64):
        tail = jax.jit(lambda key: lax.slice(random_bits(key, 32, shape), start, shape))(key)
    strides = [int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape))]
    for position in np.ndindex(tail.shape):
        index = sum((s + p) * t for s, p, t in zip(start, position, strides, strict=True))
        assert int(tail[position]) == reference(key, index)


def test_counter_bits_broadcasts_rows_with_keys_of_their_own(key):
    keys = jax.random.split(key, 3)
    k0, k1 = jax.random.key_data(keys).T[:, :, None]
    low = lax.broadcasted_iota(np.uint32, (1, 8), 1)
    x0, x1 = jax.jit(bits.counter_bits)(k0, k1, np.uint32(0), low)
    expected = jax.vmap(lambda key: jax.random.bits(key, (8,)))(keys)
    chex.assert_trees_all_equal(x0 ^ x1, expected)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("bit_width", [8, 16, 32])
@pytest.mark.parametrize("x64", [True, False])
def test_symbolic_dimensions(key, bit_width, x64):
    rows, columns = export.symbolic_shape("rows, columns")
    like = jax.ShapeDtypeStruct((rows, columns), jnp.float32)

    def draw(data, like):
        rows, columns = like.shape
        shape = (rows, 3, columns * 2 + 1)
        return random_bits(jax.random.wrap_key_data(data), bit_width, shape)

    with jax.enable_x64(x64):
        exported = export.export(jax.jit(draw))(jax.random.key_data(key), like)
        for shape in [(4, 7), (1, 1), (6, 2)]:
            drawn = exported.call(jax.random.key_data(key), np.zeros(shape, np.float32))
            rows, columns = shape
            expected = jax.random.bits(key, (rows, 3, 2 * columns + 1), f"uint{bit_width}")
            chex.assert_trees_all_equal(drawn, expected)


def test_symbolic_dimensions_of_the_other_layout(key):
    (rows,) = export.symbolic_shape("rows")
    like = jax.ShapeDtypeStruct((rows,), jnp.float32)
    with jax.threefry_partitionable(False):
        draw = jax.jit(lambda like: random_bits(key, 32, (like.shape[0], 3)))
        drawn = export.export(draw)(like).call(np.zeros(5, np.float32))
        chex.assert_trees_all_equal(drawn, jax.random.bits(key, (5, 3)))


def test_symbolic_strides_are_exact_past_32_bits(key):
    rows, columns = export.symbolic_shape("rows, columns")
    like = jax.ShapeDtypeStruct((rows, columns), jnp.int8)

    def last(data, like):
        rows, columns = like.shape
        # 2**20 * columns elements a row, of which only the last element is left.
        drawn = random_bits(jax.random.wrap_key_data(data), 32, (rows, 1 << 20, columns))
        return drawn[-1, -1, -1]

    exported = export.export(jax.jit(last))(jax.random.key_data(key), like)
    drawn = exported.call(jax.random.key_data(key), np.zeros((5, 5000), np.int8))
    assert int(drawn) == reference(key, 5 * 5000 * (1 << 20) - 1)


@pytest.mark.sampled(9, rest="thorough")
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("jitted", [True, False])
def test_every_sampler_gives_the_same_with_a_fused_key(key, fused, name, jitted):
    sample = jax.jit(SAMPLERS[name]) if jitted else SAMPLERS[name]
    # Of gamma's logarithms some processors have another last place beside other bits.
    rtol = 1e-6 if jitted and name == "gamma" else 0
    chex.assert_trees_all_close(sample(fused), sample(key), rtol=rtol, atol=0)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_batches_of_fused_keys(key, fused, shape, partitionable):
    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, 3), (4, 2))

    def walk(key):
        return lax.scan(lambda key, _: (jax.random.split(key)[0], draw(key)), key, length=3)[1]

    with jax.threefry_partitionable(partitionable):
        keys, fused_keys = jax.random.split(key, shape), jax.random.split(fused, shape)
        for single in (draw, walk):
            batched = functools.reduce(lambda f, _: jax.vmap(f), shape, single)
            expected = jax.jit(batched)(keys)
            chex.assert_trees_all_equal(jax.jit(batched)(fused_keys), expected)
            chex.assert_trees_all_equal(jax.jit(batched)(bits.fused_keys(keys)), expected)


def test_fusing_within_transformations(key):
    keys = jax.random.split(key, 5)
    expected = jax.vmap(lambda key: jax.random.bits(key, (3,)))(keys)
    fuse = jax.vmap(lambda key: jax.random.bits(bits.fused_key(key), (3,)))
    chex.assert_trees_all_equal(fuse(keys), expected)
    chex.assert_trees_all_equal(jax.jit(fuse)(keys), expected)
    legacy = jax.vmap(jax.random.key_data)(keys)
    chex.assert_trees_all_equal(fuse(legacy), expected)


def test_fused_key_is_idempotent_and_keeps_the_words(key, fused):
    assert bits.fused_key(fused) is fused
    assert bits.is_threefry(fused)
    assert fused.shape == () and fused.dtype != key.dtype
    chex.assert_trees_all_equal(jax.random.key_data(fused), jax.random.key_data(key))
    assert bits.key_words(fused) == bits.key_words(key)
    impl = jax.random.key_impl(fused)
    for seed in (0, 5, -1, 2**31, 2**40 + 3):
        chex.assert_trees_all_equal(
            jax.random.key_data(jax.random.key(seed, impl=impl)),
            jax.random.key_data(jax.random.key(seed)),
        )


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.Dense(8)(x))
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.MultiHeadDotProductAttention(2)(x, x)


@pytest.mark.slow
@pytest.mark.parametrize("jitted", [True, False])
def test_linen_models_initialise_the_same(key, fused, jitted):
    init = jax.jit(Net().init) if jitted else Net().init
    x = jnp.ones((2, 3, 4))
    variables, expected = (init({"params": k, "dropout": k}, x) for k in (fused, key))
    chex.assert_trees_all_equal(variables, expected)
    chex.assert_trees_all_equal(
        Net().apply(expected, x, rngs={"dropout": fused}, mutable=["batch_stats"]),
        Net().apply(expected, x, rngs={"dropout": key}, mutable=["batch_stats"]),
    )


def test_nnx_models_initialise_the_same(key, fused):
    made, expected = (
        nnx.to_pure_dict(nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(k)))) for k in (fused, key)
    )
    chex.assert_trees_all_equal(made, expected)


@pytest.mark.parametrize("partitionable", [True, False])
def test_host_derives_the_same_keys(key, partitionable):
    words = bits.key_words(key)
    assert words == tuple(jax.random.key_data(key).tolist())
    assert bits.key_words(jax.random.PRNGKey(3)) == (0, 3)
    with jax.threefry_partitionable(partitionable):
        for data in (0, 1, 77, 2**31, 2**32 - 1):
            expected = bits.key_words(jax.random.fold_in(key, np.uint32(data)))
            assert bits.fold_in_words(words, data) == expected
            assert bits.fold_in_words(words, data + 2**32) == expected
        for num in (0, 1, 2, 3, 8):
            expected = [bits.key_words(k) for k in jax.random.split(key, num)]
            assert bits.split_words(words, num) == expected


def compiled_mixture(shape, **options):
    def draw(key):
        values = bits.uniform(key, shape, jnp.float32, -10.0, 10.0)
        return jnp.where(jnp.abs(values) >= 5, values, 0)

    return jax.jit(draw, **options).lower(jax.random.key(0)).compile()


def test_one_loop_without_temporaries():
    compiled = compiled_mixture((512, 2048))
    assert compiled.memory_analysis().temp_size_in_bytes == 0
    assert "while" not in compiled.as_text()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("spec", [("a", "b"), (("a", "b"), None), (None, "b"), ("b",)])
def test_partitioned_without_collectives_or_temporaries(key, spec):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    temporaries = []
    for rows in (256, 1024):
        compiled = compiled_mixture((rows, 512), out_shardings=sharding)
        text = compiled.as_text()
        for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert collective not in text
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temporaries[0] == temporaries[1] <= 64
    drawn = compiled(key)
    assert drawn.sharding == sharding
    chex.assert_trees_all_equal(jax.device_get(drawn), compiled_mixture((1024, 512))(key))


def test_shards_are_drawn_where_they_live(key):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    draw = jax.shard_map(
        lambda key: bits.normal(jax.random.fold_in(key, lax.axis_index("a")), (2, 3), jnp.float32),
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec("a"),
    )
    alone = jax.jit(lambda key, i: jax.random.normal(jax.random.fold_in(key, i), (2, 3)))
    expected = [alone(key, i) for i in range(8)]
    chex.assert_trees_all_equal(jax.jit(draw)(key), np.concatenate(expected))


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (0, TypeError, r"key must be one PRNG key such as jax.random.key\(0\), got int: 0"),
        (None, TypeError, "got NoneType: None"),
        (np.zeros(2, np.float32), TypeError, r"got an array of dtype float32 and shape \(2,\)"),
        (np.zeros(3, np.uint32), TypeError, r"got an array of dtype uint32 and shape \(3,\)"),
        (np.zeros((), np.uint32), TypeError, r"got an array of dtype uint32 and shape \(\)"),
        (
            np.zeros((4, 2), np.uint32),
            ValueError,
            r"an array of keys of shape \(4,\); use jax.vmap",
        ),
        (jax.random.split(jax.random.key(0), 3), ValueError, r"an array of keys of shape \(3,\)"),
    ],
)
def test_what_is_no_single_key_is_rejected(key, error, message):
    for function in (bits.check_key, bits.fused_key, lambda key: bits.normal(key, (), "float32")):
        with pytest.raises(error, match=message):
            function(key)
