"""What is true of every initializer, checked on the table of `cases.py`."""

import pickle

import cases
import cases_catalogue
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, partition
from jax.sharding import AxisType, NamedSharding

import flax_inits

KEY = jax.random.key(7)
# Two-sided, 1e-6: a right initializer fails one of its two moment tests once in a million keys.
NORMAL_QUANTILE = 4.892
DRAWS = 512

CASES = (*cases.CASES, *cases_catalogue.CASES)
REJECTED = (*cases.REJECTED, *cases_catalogue.REJECTED)

# For programs whose bits are not compared: compiling is most of this suite's time.
QUICK = {"xla_backend_optimization_level": 0}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def within(values, case: Case, dtype) -> bool:
    """Whether all are in the stated bounds, which 32- and 64-bit dtypes round to nearest."""
    values = np.asarray(values)
    wide = jnp.finfo(dtype).bits >= 32
    lower, upper = (
        np.asarray(bound, dtype) if wide else bound for bound in (case.lower, case.upper)
    )
    values = values.astype(np.float64)
    return bool(np.all((values >= float(lower)) & (values <= float(upper))))


@every_case
def test_is_a_value(case):
    one, other = case.make(), case.make()
    assert one is not other and one == other and hash(one) == hash(other)
    assert one != repr(one) and one != jax.nn.initializers.zeros
    names = {"array": np.array, "jax": jax, **vars(cases), **vars(flax_inits)}
    assert eval(repr(one), names) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert isinstance(one, jax.nn.initializers.Initializer)
    for change in (lambda: setattr(one, "draw", None), lambda: delattr(one, "draw")):
        with pytest.raises(AttributeError, match="is frozen: build another .* to change 'draw'"):
            change()


@pytest.mark.sampled(30)
@every_case
def test_transformations_agree(case):
    init, shape = case.make(), case.shape
    keys = jax.random.split(KEY, 3)
    values = init(keys[1], shape)
    chex.assert_shape(values, shape)
    assert values.dtype == jnp.float32 and not values.weak_type
    chex.assert_trees_all_equal(values, case.make()(keys[1], shape))

    chex.assert_trees_all_equal(values, init(jax.random.key_data(keys[1]), shape))

    @jax.jit
    def draws(keys):
        return init(keys[1], shape), jax.vmap(lambda key: init(key, shape))(keys)

    jitted, mapped = draws(keys)
    chex.assert_trees_all_equal(values, jitted)
    chex.assert_trees_all_equal(values, mapped[1])
    abstract = jax.eval_shape(lambda key: init(key, shape, jnp.bfloat16), keys[0])
    assert (abstract.shape, abstract.dtype) == (shape, jnp.bfloat16)
    if values.size > 1:
        assert case.fixed == bool(jnp.all(mapped[0] == mapped[1]))


@pytest.mark.sampled(30)
@every_case
def test_shapes_and_key_implementations(case):
    init = case.make()
    keys = [jax.random.key(0, impl=name) for name in ("rbg", "unsafe_rbg")]
    draws = jax.jit(lambda keys: [init(key, case.shape) for key in keys], compiler_options=QUICK)
    by_shape, by_key = [init(KEY, shape) for shape in case.shapes], draws(keys)
    assert [values.shape for values in by_shape] == list(case.shapes)
    assert [values.shape for values in by_key] == [case.shape, case.shape]
    for values in (*by_shape, *by_key):
        assert np.isfinite(values).all() and within(values, case, np.float32)


@pytest.mark.sampled(30)
@every_case
def test_dtypes(case):
    init = case.make()
    names = [name for name in case.dtypes if name != "float64"]
    draws = jax.jit(
        lambda key: {name: init(key, case.shape, name) for name in names}, compiler_options=QUICK
    )
    drawn = draws(KEY)
    reference = np.asarray(drawn["float32"], np.float64)
    for name, values in drawn.items():
        assert values.dtype == name and values.shape == case.shape
        if jnp.issubdtype(values.dtype, jnp.floating):
            limits = jnp.finfo(name)
            unit = float(limits.eps) * np.abs(reference) + float(limits.smallest_subnormal)
            values = np.asarray(values)
            assert within(values, case, name)
            assert np.all(np.abs(values.astype(np.float64) - reference) <= case.slack * unit)
    for name in case.not_dtypes:
        with pytest.raises((TypeError, ValueError), match=name):
            init(KEY, case.shape, name)


@pytest.mark.sampled(24, rest="thorough")
@every_case
def test_float64(case):
    if "float64" not in case.dtypes:
        pytest.skip("makes no float64")
    init = case.make()
    with jax.enable_x64(True):
        draw = jax.jit(lambda key: init(key, case.shape, np.float64), compiler_options=QUICK)
        values = draw(KEY)
        default = jax.eval_shape(lambda: init(KEY, case.shape)).dtype
    assert values.dtype == np.float64 and within(values, case, np.float64)
    assert default == (np.float64 if init.dtype is None else init.dtype)


@pytest.mark.sampled(18, rest="thorough")  # the golden values hold what passed here
@every_case
def test_moments(case):
    shape = case.shape
    if case.mean is None:
        pytest.skip("the row states no moments")
    keys = jax.random.split(jax.random.key(11), DRAWS)
    init = case.make()
    draws = jax.jit(jax.vmap(lambda key: init(key, shape)), compiler_options=QUICK)
    values = np.asarray(draws(keys), np.float64)
    offset = values - case.moment("mean", shape)
    variance = case.moment("variance", shape)
    by_draw = [offset] if variance is None else [offset, offset**2 - variance]
    for statistic in by_draw:
        # Values of one draw may depend on each other; the draws do not.
        means = statistic.reshape(DRAWS, -1).mean(axis=1)
        error = NORMAL_QUANTILE * means.std(ddof=1) / np.sqrt(DRAWS)
        assert abs(means.mean()) <= error + 1e-6 * max(1, np.abs(values).max())


@pytest.mark.sampled(36)
@every_case
def test_sharded_equals_unsharded(case):
    init, shape = case.make(), case.shape
    expected = init(KEY, shape)
    spec = partition(shape)
    auto = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    explicit = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    sharding = NamedSharding(auto, spec)
    eager = init(KEY, shape, out_sharding=sharding)
    assert eager.sharding.is_equivalent_to(sharding, len(shape))
    chex.assert_trees_all_equal(np.asarray(expected), np.asarray(eager))
    with jax.set_mesh(explicit):
        draw = jax.jit(lambda key: init(key, shape, out_sharding=spec), compiler_options=QUICK)
        inside = draw(KEY)
    assert inside.sharding.is_equivalent_to(NamedSharding(explicit, spec), len(shape))
    # A reshard inside a user's jit can stop XLA from merging two factors: a rounding's difference.
    limit = 4 * jnp.finfo(jnp.float32).eps * np.abs(np.asarray(expected)).max(initial=0)
    assert np.all(np.abs(np.asarray(expected) - np.asarray(inside)) <= limit)


@pytest.mark.sampled(24, rest="thorough")
@every_case
def test_exports_with_symbolic_dimensions(case):
    if case.symbolic is None:
        pytest.skip("needs to know its sizes")
    init, shape = case.make(), case.shape
    sizes = jax.export.symbolic_shape(case.symbolic)
    like = jax.ShapeDtypeStruct(sizes, jnp.float32)
    exported = jax.export.export(jax.jit(lambda key, x: init(key, x.shape)))(
        jax.random.key_data(KEY), like
    )
    values = exported.call(jax.random.key_data(KEY), jnp.zeros(shape))
    chex.assert_trees_all_equal(init(KEY, shape), values)


@every_case
def test_rejects_what_is_no_key_or_shape(case):
    init = case.make()
    with pytest.raises((TypeError, ValueError), match="key must be one PRNG key"):
        init(0, case.shape)
    with pytest.raises(ValueError, match="must not have negative sizes"):
        init(KEY, (-1, *case.shape[1:]))
    with pytest.raises(TypeError, match="shape must be a sequence of integers"):
        init(KEY, 1.5)


@pytest.mark.parametrize("call, error, message", REJECTED)
def test_rejects_when_built(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_every_factory_has_a_row():
    rows = {case.make()._factory for case in CASES}
    factories = {value for value in vars(flax_inits).values() if hasattr(value, "is_factory")}
    missing = {factory.__name__ for factory in factories - rows}
    assert not missing
