"""The configured initializer: a value, checked when built, right in every dtype."""

import copy
import decimal
import fractions
import numbers
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_inits as fi
from flax_inits.initializers._build.rounding import round_inwards

KEY = jax.random.key(0)
NARROW = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"]


@numbers.Complex.register
class Imaginary:
    """As libraries of exact numbers have them."""

    def __complex__(self):
        return 1j


def of_table(key, shape, table):
    return jnp.full(shape, table["high"])


def test_equality_is_of_values():
    assert fi.uniform(-1, 1) == fi.uniform(-1.0, np.float32(1)) == fi.uniform(minval=-1, maxval=1)
    assert fi.uniform(0, jnp.ones(())) == fi.uniform(fractions.Fraction(0), 1)
    assert fi.uniform(0, 1) != fi.uniform(0, 1, dtype=jnp.bfloat16)
    assert fi.uniform(0, 1, dtype="bfloat16") == fi.uniform(0, 1, dtype=jnp.bfloat16)
    assert fi.zeros() != fi.constant(0) and fi.uniform(0, 1) != fi.clipped(fi.zeros(), 0, 1)
    assert fi.constant(0.0) != fi.constant(-0.0)
    assert fi.constant(1.0) == fi.constant(1 + 0j) != fi.constant(complex(1, -0.0))
    assert fi.constant(np.nan) == fi.constant(float("nan"))
    assert fi.constant(2**70) == fi.constant(2.0**70) != fi.constant(2**70 + 1)
    assert fi.constant(Imaginary()) == fi.constant(1j)
    assert fi.constant(1 + 0j) == fi.constant(1) and fi.constant(1j) != fi.constant(-1j)
    assert fi.mixture([0, 1]) == fi.mixture((0, 1), weights=None)


def test_arrays_are_compared_by_bytes():
    ones = np.ones((2, 2), np.float32)
    assert fi.from_array(ones) == fi.from_array(jnp.ones((2, 2)))
    assert fi.from_array(ones) != fi.from_array(ones.astype(np.float64))
    assert fi.from_array(ones) != fi.from_array(ones.reshape(4))
    assert fi.from_array(np.int8(3)) == fi.from_array(jnp.int8(3)) != fi.from_array(3)
    assert fi.from_array(ones[:, ::-1]) == fi.from_array(np.asfortranarray(ones))


def test_arguments_are_frozen_when_given():
    array, weights = np.zeros(2), [0.5, 0.5]
    held, mixed = fi.from_array(array), fi.mixture([0, 1], weights)
    array[:] = 1
    weights[:] = 0.25, 0.75
    assert held == fi.from_array(np.zeros(2)) and mixed == fi.mixture([0, 1], [0.5, 0.5])
    chex.assert_trees_all_equal(held(KEY, (2,)), jnp.zeros(2))


@pytest.mark.parametrize(
    "init, text",
    [
        (fi.uniform(-0.05, 0.05), "uniform(-0.05, 0.05)"),
        (fi.uniform(0, maxval=1), "uniform(0, 1)"),
        (fi.normal(0.02), "normal(0.02)"),
        (fi.normal(1, dtype=jnp.bfloat16), "normal(1, dtype='bfloat16')"),
        (fi.truncated_normal(1.0, upper=np.inf), "truncated_normal(1.0, upper=float('inf'))"),
        (fi.mixture([0, fi.zeros()]), "mixture((0, zeros()))"),
        (fi.mixture([fi.ones()]), "mixture((ones(),))"),
        (fi.constant(np.arange(2)), "constant(array([0, 1], dtype='int64'))"),
        (fi.from_array(np.int8(3)), "from_array(array(3, dtype='int8'))"),
        (fi.constant(np.zeros((99, 9))), "constant(<float64 array of shape (99, 9)>)"),
        (fi.scaled(jax.nn.initializers.zeros, 2), "scaled(jax.nn.initializers.zeros, 2)"),
        (fi.from_sampler(jax.random.t, df=3.0), "from_sampler(jax.random.t, df=3.0)"),
        (
            fi.from_sampler(of_table, table={"high": np.inf}),
            "from_sampler(of_table, table={'high': float('inf')})",
        ),
    ],
)
def test_prints_as_its_call(init, text):
    assert repr(init) == text


def test_copies_and_pickles_are_equal():
    init = fi.mixture([fi.truncated_normal(0.02), fi.constant(np.ones(3))], [0.1, 0.9])
    for other in (copy.copy(init), copy.deepcopy(init), pickle.loads(pickle.dumps(init))):
        assert other == init and hash(other) == hash(init) and repr(other) == repr(init)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        pickle.dumps(fi.scaled(jax.nn.initializers.normal(), 2))


def test_equal_initializers_share_a_trace():
    @chex.assert_max_traces(1)
    def apply(module, x):
        return module.init_with_output(KEY, x)[0]

    jitted = jax.jit(apply, static_argnums=0)
    for _ in range(3):
        jitted(nn.Dense(2, kernel_init=fi.mixture(), bias_init=fi.constant(0.5)), jnp.ones((1, 3)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: fi.constant(decimal.Decimal(1)), TypeError, "value must be a real or complex"),
        (lambda: fi.constant(np.array(["a"])), TypeError, "value must hold numbers, got an array"),
        (lambda: fi.constant([KEY]), TypeError, "value must hold numbers, got .* of dtype key"),
        (lambda: fi.constant({1}), TypeError, "value must be hashable, got set"),
        (
            lambda: fi.uniform(1),
            TypeError,
            r"uniform cannot be called so: missing a required argument: 'maxval'. "
            r"It is uniform\(minval, maxval, dtype=None\)\.$",
        ),
        (
            lambda: fi.normal(std=0.02),
            TypeError,
            "^normal has no parameter 'std'. Did you mean 'stddev'"
            r"\? It is normal\(stddev, mean=0.0, dtype=None\)\.$",
        ),
        (lambda: fi.orthogonal(gain=2), TypeError, r"'gain'. It is orthogonal\(scale=1.0, col"),
        (lambda: fi.zeros(1, 2, 3), TypeError, "zeros cannot be called so: too many positional"),
        (lambda: jax.jit(fi.constant)(1.0), TypeError, "value must be known when .* is built"),
    ],
)
def test_rejects_when_built(call, error, message):
    with pytest.raises(error, match=message):
        call()


FACTORIES = [value for value in vars(fi).values() if getattr(value, "is_factory", False)]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_a_factory_that_was_not_called_says_so(factory):
    message = rf"^{factory.__name__} is a factory, .* write {factory.__name__}\(...\) where"
    for key in (KEY, jax.random.PRNGKey(0)):
        module = nn.Dense(4, kernel_init=factory)
        for init in (module.init, lambda key, x, draw=module.init: jax.eval_shape(draw, key, x)):
            with pytest.raises(TypeError, match=message):
                init(key, np.ones((1, 3)))


def test_rejects_when_called():
    init = fi.uniform(0, 1)
    with pytest.raises(TypeError, match=r"uniform\(0, 1\) makes arrays of floating .*int32"):
        init(KEY, (2,), jnp.int32)
    with pytest.raises(ValueError, match="array of keys of shape .*jax.vmap"):
        init(jax.random.split(KEY), (2,))
    with pytest.raises(TypeError, match="shape must be a sequence of integers, got 2.5"):
        init(KEY, 2.5)
    with pytest.raises(TypeError, match="shape must be a sequence of integers"):
        init(KEY, (2, 0.5))
    with pytest.raises(TypeError):
        init(KEY, (2,), "float33")


def test_dtype_defaults_to_the_factorys_own():
    assert fi.normal(1.0)(KEY, (2,)).dtype == jnp.float32
    assert fi.normal(1.0, dtype=jnp.float16)(KEY, (2,)).dtype == jnp.float16
    assert fi.normal(1.0, dtype=jnp.float16)(KEY, (2,), jnp.bfloat16).dtype == jnp.bfloat16
    for shape in ((), (2,)):
        assert fi.from_array(np.ones(shape, np.int8))(KEY, shape).dtype == jnp.int8
        assert fi.from_array(jnp.ones(shape, jnp.bfloat16))(KEY, shape).dtype == jnp.bfloat16
    assert fi.from_array(np.ones(2))(KEY, (2,)).dtype == jnp.float32


@pytest.mark.parametrize("kind", [int, float, complex])
def test_types_of_python_are_jaxs_defaults(kind):
    expected = jnp.zeros((), kind).dtype
    init = fi.ones(kind)
    assert init(KEY, ()).dtype == fi.ones()(KEY, (), kind).dtype == expected
    assert fi.stacked(init)(KEY, (2,)).dtype == expected
    with jax.enable_x64(True):
        assert init(KEY, ()).dtype == fi.stacked(init)(KEY, (2,)).dtype == np.dtype(kind)
    assert init == fi.ones(dtype=kind) != fi.ones(np.dtype(kind))
    assert repr(init) == f"ones({kind.__name__})" and pickle.loads(pickle.dumps(init)) == init


def test_float64_without_x64_warns():
    with pytest.warns(UserWarning, match="makes float32 where float64 was asked for; set"):
        assert fi.normal(1.0)(KEY, (2,), np.float64).dtype == jnp.float32


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("bounds", [(-0.3, 0.3), (5.01, 9.99), (0.0, 1e-3), (-1 / 3, 0.0)])
def test_narrow_values_stay_within_bounds(name, bounds):
    values = np.asarray(fi.uniform(*bounds)(KEY, (4000,), name), np.float64)
    assert bounds[0] <= values.min() and values.max() <= bounds[1]
    assert len(np.unique(values)) > 3 or jnp.finfo(name).bits == 8


@pytest.mark.parametrize("name", NARROW)
def test_rounding_inwards_finds_the_outermost_numbers(name):
    dtype = jnp.dtype(name)
    bits = jnp.finfo(dtype).bits
    numbers = np.arange(2**bits, dtype=f"uint{bits}").view(dtype)
    with np.errstate(invalid="ignore"):
        numbers = numbers.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    for lower, upper in [(-0.3, 0.3), (0.1, 17 / 7), (-9.9, -1e-3), (1.0, 1.0), (-0.0, 5.01)]:
        inside = numbers[(numbers >= lower) & (numbers <= upper)]
        assert round_inwards(lower, upper, dtype) == (inside.min(), inside.max())
    assert round_inwards(-np.inf, np.inf, dtype) == (-np.inf, np.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_inwards_of_wide_dtypes(dtype):
    lower, upper = round_inwards(-0.1, 0.1, np.dtype(dtype))
    assert -0.1 <= lower == -upper and dtype(lower) == lower
    assert upper == np.nextafter(dtype(0.1), dtype(0)) or float(dtype(0.1)) <= 0.1


def test_bounds_that_a_dtype_cannot_hold_are_rejected():
    with pytest.raises(ValueError, match="do not fit float16, whose largest number is 65504"):
        fi.uniform(-1e5, 1e5)(KEY, (2,), jnp.float16)
    with pytest.raises(ValueError, match="no float8_e5m2 number lies within"):
        fi.uniform(1.01, 1.02)(KEY, (2,), jnp.float8_e5m2)
    with pytest.raises(ValueError, match="a finite way apart in float32"):
        fi.uniform(-3e38, 3e38)(KEY, (2,))
    with pytest.raises(ValueError, match="a finite way apart in float32"):
        fi.uniform(1.0, 1.0 + 1e-12)(KEY, (2,))


@pytest.mark.parametrize("name", NARROW)
def test_narrow_normals_are_unbiased(name):
    # jax's bfloat16 normals have 128 distinct values; its float8 ones are NaN. False alarms: 1e-6.
    values = np.asarray(fi.normal(1.0)(KEY, (100_000,), name), np.float64)
    assert abs(values.mean()) < 4.9 / np.sqrt(100_000)
    assert abs(values.std() - 1) < 4.9 / np.sqrt(2 * 100_000) + float(jnp.finfo(name).eps) ** 2


def test_shard_map_draws_the_local_shape():
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")

    def local(keys):
        return fi.mixture()(keys[0], (1, 5))

    keys = jax.random.split(KEY, 4)
    drawn = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(keys)
    for index in range(4):
        chex.assert_trees_all_equal(drawn[index], fi.mixture()(keys[index], (5,)))


def test_out_sharding():
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        values = fi.normal(1.0)(KEY, (8, 2), out_sharding=PartitionSpec("i"))
        assert values.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("i")), 2)
    with pytest.raises(ValueError, match="needs a mesh: call under jax.set_mesh"):
        fi.normal(1.0)(KEY, (8, 2), out_sharding=PartitionSpec("i"))
