"""Adapters as values, and what each makes of an array, whole and shard by shard."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi
from flax_inits import (
    cast,
    concatenate,
    cut,
    grow,
    reshape,
    resize,
    stack,
    take,
    tile,
    transpose,
    unstack,
)

VALUES = [
    grow(axis=0),
    grow(axis=1, init=fi.normal(0.02), size=7),
    grow(axis=-1, init="mean"),
    cut(axis=0, start=2),
    tile(axis=1),
    stack(axis=0),
    unstack(axis=0),
    concatenate(axis=-1),
    transpose(1, 0),
    transpose(),
    reshape(2, -1),
    resize(axes=(0, 1), method="bilinear"),
    resize(axes=1, method="bicubic", prefix=1, grid=((2, 3), (4, 6))),
    cast(),
    cast("bfloat16"),
    take("a/*"),
    take(["q", "k"], transpose(1, 0), concatenate(axis=0)),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_that_prints_as_its_call(value):
    again = eval(repr(value), vars(fi))
    assert again == value and hash(again) == hash(value) and repr(again) == repr(value)
    assert pickle.loads(pickle.dumps(value)) == value
    assert sum(value == other for other in VALUES) == 1
    with pytest.raises(AttributeError):
        value.axis = 3


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: grow(0.5), TypeError, "grow needs an integer for axis, got 0.5"),
        (lambda: grow(0, init="mena"), ValueError, "an initializer, 'mean' or None .* got 'mena'"),
        (lambda: grow(0, init=3), TypeError, "an initializer, 'mean' or None for init, got 3"),
        (lambda: grow(0, init=fi.normal), TypeError, r"got the factory normal: write normal\(\)"),
        (lambda: grow(0, size=-1), ValueError, "size >= 0, got size=-1"),
        (lambda: cut(0, start=-1), ValueError, "start >= 0, got start=-1"),
        (lambda: transpose(0, 0), ValueError, r"distinct axes, got \(0, 0\)"),
        (lambda: reshape(-1, -1), ValueError, r"infer one size, got \(-1, -1\)"),
        (lambda: reshape(-2), ValueError, "size >= -1"),
        (lambda: resize(0, "bilinaer"), ValueError, "method='bilinaer'. Did you mean 'bilinear'"),
        (lambda: resize((0, 1), "cubic", prefix=1), ValueError, "prefix and grid are for a grid"),
        (lambda: resize(0, "cubic", grid=((1, 2), (3, 4), (5, 6))), ValueError, "needs grid="),
        (lambda: cast("float31"), TypeError, "float31"),
        (lambda: take([]), ValueError, "needs a source, got an empty list"),
        (lambda: take(["a", "b"]), ValueError, "2 sources in a list and nothing that joins them"),
        (lambda: take(3), TypeError, "pattern over the donor's paths.*got 3"),
        (lambda: take("a", "b"), TypeError, "got 'b'; several sources are one list"),
        (lambda: take("a", grow), TypeError, r"got grow itself as an adapter: write grow\(...\)"),
    ],
)
def test_arguments_are_checked(make, error, match):
    with pytest.raises(error, match=match):
        make()


def array(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


MESH = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
# What is taken, what it is to be; the target is of ones.
CASES = {
    "grow": (array(5, 4), grow(0), lambda a: np.concatenate([a, np.ones((3, 4), "f")])),
    "grow mean": (array(8, 3), grow(1, "mean"), lambda a: np.c_[a, a.mean(1)]),
    "cut": (array(20, 4), cut(0, start=2), lambda a: a[2:10]),
    "tile": (array(4), tile(0), lambda a: np.stack([a] * 8)),
    "transpose": (array(4, 8), transpose(1, 0), lambda a: a.T),
    "transpose 3": (array(2, 8, 4), transpose(1, 2, 0), lambda a: a.transpose(1, 2, 0)),
    "reshape": (array(4, 8), reshape(8, -1), lambda a: a.reshape(8, 4)),
    "cast": (array(8, 4, dtype=np.float16), cast(), lambda a: a.astype(np.float32)),
    "function": (array(8, 4), lambda a: a[::-1] * 2, lambda a: a[::-1] * 2),
    "numpy's": (array(8, 4), lambda a: np.roll(a, 1, 0), lambda a: np.roll(a, 1, 0)),
    "numpy's own": (array(4, 8), np.transpose, lambda a: a.T),
    "nearest": (array(4, 2), resize((0, 1), "nearest"), lambda a: a.repeat(2, 0).repeat(2, 1)),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "donors", [np.asarray, jnp.asarray, "sharded"], ids=["numpy", "jax", "sharded"]
)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("case", CASES)
def test_what_an_adapter_makes(case, sharded, donors):
    donor, adapter, want = CASES[case]
    sharding = NamedSharding(MESH, P("x", "y" if want(donor).shape[1] % 2 == 0 else None))
    target = {"w": jax.device_put(jnp.ones(want(donor).shape), sharding if sharded else None)}
    if donors == "sharded":
        spec = P("y") if donor.shape[0] % 2 == 0 else P()
        given = jax.device_put(donor, NamedSharding(MESH, spec))
    else:
        given = donors(donor)
    after = fi.graft(target, {"v": given}, {"w": take("v", adapter)})["w"]
    assert after.sharding == target["w"].sharding and after.committed == target["w"].committed
    np.testing.assert_array_equal(after, want(donor))
    traced = jax.jit(lambda t, d: fi.graft(t, d, {"w": take("v", adapter)}))
    if not case.startswith("numpy's"):  # A function of NumPy takes no tracers.
        np.testing.assert_array_equal(traced(target, {"v": given})["w"], want(donor))


@pytest.mark.parametrize("adapter", [stack(0), stack(1), stack(-1), concatenate(0)], ids=repr)
@pytest.mark.parametrize("sharded", [False, True])
def test_joined_arrays(adapter, sharded):
    parts = [array(8, 4) + 100 * i for i in range(2)]
    join = np.stack if type(adapter) is stack else np.concatenate
    want = join(parts, axis=adapter.axis)
    spec = [("x" if size % 4 == 0 else None) for size in want.shape[:1]]
    place = NamedSharding(MESH, P(*spec)) if sharded else None
    target = {"w": jax.device_put(jnp.zeros(want.shape), place)}
    after = fi.graft(target, {"a": parts[0], "b": parts[1]}, {"w": take(["a", "b"], adapter)})
    np.testing.assert_array_equal(after["w"], want)
    if type(adapter) is stack:
        apart = {f"w_{i}": jnp.zeros((8, 4)) for i in range(2)}
        back = fi.graft(apart, after, {"w_*": take("w", unstack(adapter.axis))})
        for i in range(2):
            np.testing.assert_array_equal(back[f"w_{i}"], parts[i])


def test_layers_that_are_stacked_and_grown_on_a_mesh():
    donor = {f"w_{i}": np.full(2, i, np.float32) for i in range(4)}
    target = {"w": jax.device_put(jnp.ones((8, 2)), NamedSharding(MESH, P("x")))}
    # Two of the four shards hold new layers alone, and read none of the donor.
    after = fi.graft(target, donor, {"w": take("w_*", stack(0), grow(0))})["w"]
    np.testing.assert_array_equal(after[:, 0], [0, 1, 2, 3, 1, 1, 1, 1])
    none = fi.graft({"w": jnp.ones((0, 2))}, donor, {"w": take("w_*", stack(0), cut(0))})["w"]
    assert none.shape == (0, 2) and none.dtype == jnp.float32


CHAINS = [
    [concatenate(0), grow(0)],
    [stack(0), reshape(4, 4), grow(0, "mean")],
    [transpose(1, 0), concatenate(0), grow(1)],
    [stack(2), reshape(2, 8), transpose(1, 0), grow(1, "mean")],
    [cut(0, size=1), concatenate(0), grow(0)],
]


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_what_several_adapters_make_shard_by_shard(chain):
    donor, rules = {"a": array(2, 4), "b": array(2, 4) + 100}, {"w": take(["a", "b"], *chain)}
    target = jnp.ones((8, 4))
    spread = jax.device_put(target, NamedSharding(MESH, P("x", "y")))
    want = fi.graft({"w": target}, donor, rules)["w"]
    np.testing.assert_array_equal(fi.graft({"w": spread}, donor, rules)["w"], want)
    traced = jax.jit(lambda target, donor: fi.graft({"w": target}, donor, rules))
    np.testing.assert_array_equal(traced(spread, donor)["w"], want)


def test_new_rows_are_those_of_reinit():
    key, init = jax.random.key(3), fi.orthogonal()
    params = {"emb": {"embedding": jnp.ones((8, 6))}}
    rules = {"emb/embedding": take("wte", grow(axis=0, init=init))}
    after = fi.graft(params, {"wte": array(5, 6)}, rules, key=key)["emb"]["embedding"]
    want = fi.reinit(key, params, {"emb/embedding": init})["emb"]["embedding"]
    np.testing.assert_array_equal(after[5:], want[5:])
    np.testing.assert_array_equal(after[:5], array(5, 6))


def test_new_rows_are_never_cast():
    params = {"w": jnp.full((4, 2), 1 / 3)}
    donor = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    after = fi.graft(params, donor, {"w": take("w", grow(axis=0), cast())})["w"]
    assert after.dtype == jnp.float32 and (after[2:] == params["w"][2:]).all()
    drawn = {"w": take("w", grow(axis=0, init=fi.normal(1)), cast())}
    after = fi.graft(params, donor, drawn, key=jax.random.key(0))["w"]
    want = fi.reinit(jax.random.key(0), params, {"w": fi.normal(1)})["w"]
    assert (after[2:] == want[2:]).all()


def test_a_table_that_grows_on_both_axes():
    params, donor = {"w": jnp.ones((4, 4))}, {"w": array(2, 2)}
    after = fi.graft(params, donor, {"w": take("w", grow(0, "mean", size=4), grow(1))})["w"]
    assert after[2:, :2].tolist() == [[1, 2], [1, 2]] and (after[:, 2:] == 1).all()


def test_positions_keep_their_class_token():
    donor = {"pos": np.concatenate([np.full((1, 1, 3), 9.0), np.ones((1, 4, 3))], 1, dtype="f")}
    params = {"pos": jnp.zeros((1, 17, 3))}
    after = fi.graft(params, donor, {"pos": take("pos", resize(1, "bicubic", prefix=1))})["pos"]
    np.testing.assert_allclose(after[:, 1:], 1, rtol=1e-6)
    assert (after[:, 0] == 9).all()


def test_a_grid_that_is_no_square():
    grid = array(2, 3, 4)
    donor, params = {"pos": grid.reshape(6, 4)}, {"pos": jnp.zeros((24, 4))}
    rules = {"pos": take("pos", resize(0, "linear", grid=((2, 3), (4, 6))))}
    want = jax.image.resize(grid, (4, 6, 4), "linear").reshape(24, 4)
    np.testing.assert_array_equal(fi.graft(params, donor, rules)["pos"], want)
    row = {"pos": take("pos", resize(0, "linear", grid=(6,)))}
    want = jax.image.resize(donor["pos"], (24, 4), "linear")
    np.testing.assert_array_equal(fi.graft(params, donor, row)["pos"], want)


SHAPES = {
    "never shrinks": ((3,), (5,), [grow(0)], r"never shrinks.*use cut\(axis=0\)"),
    "rank": ((3, 2), (3,), [grow(0)], "keeps the number of axes"),
    "mean": ((3,), (0,), [grow(0, "mean")], "the mean of old entries, of which .0,. has none"),
    "cut more": ((5,), (3,), [cut(0)], r"5 entries from 0 are more.*mean grow\(axis=0\)"),
    "no axis": ((3,), (3,), [transpose(0, 1)], r"shape \(3,\) has no axis 1"),
    "axes": ((2, 2), (2, 2), [transpose(0)], "does not name each axis"),
    "elements": ((4,), (6,), [reshape(4)], "not as many elements"),
    "tile": ((3,), (3,), [tile(0)], r"adds one axis, but makes \(3,\) of \(3,\)"),
    "prefix": ((17,), (5,), [resize(0, "linear")], "5 positions of the donor are no square"),
    "grid": ((4,), (9,), [resize(0, "linear", grid=(2, 3))], r"\(2, 3\) is no grid of the donor"),
    "target": ((5,), (4,), [resize(0, "linear")], r"5 positions of the target are no square"),
    "size": ((4, 3), (3, 2), [grow(0), transpose(1, 0)], "known only where nothing but cast"),
    "last": ((2, 4), (3, 2), [grow(0, size=4), transpose(1, 0)], "put it last, or give it an init"),
    "tile last": ((2, 4), (4,), [tile(0), transpose(1, 0)], "put it last"),
    "no index": ((4,), (2, 4), [unstack(0)], "2 slices of .2, 4. would go to 1"),
    "no array": ((4,), (4,), [lambda a: "a"], "must return an array, got str"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_what_cannot_be_made(case):
    wanted, given, adapters, match = SHAPES[case]
    with pytest.raises((ValueError, TypeError), match=match):
        fi.graft(
            {"w": np.zeros(wanted, "f")}, {"v": np.zeros(given, "f")}, {"w": take("v", *adapters)}
        )


@pytest.mark.parametrize(
    "count, match",
    [(2, r"go to 2 .*cut\(axis=0, size=2\) before"), (4, "go to 4 .* let the rule win 3")],
)
def test_slices_that_are_not_as_many(count, match):
    params = {f"w_{i}": np.zeros(2, "f") for i in range(count)}
    with pytest.raises(ValueError, match=match):
        fi.graft(params, {"v": np.zeros((3, 2), "f")}, {"w_*": take("v", unstack(axis=0))})


def test_random_keys_are_adapted_under_jit_alone():
    keys, rules = jax.random.split(jax.random.key(0), 3), {"k": take("k", cut(axis=0, size=2))}
    after = jax.jit(lambda params, donor: fi.graft(params, donor, rules))(
        {"k": keys[1:]}, {"k": keys}
    )
    assert (jax.random.key_data(after["k"]) == jax.random.key_data(keys[:2])).all()
    with pytest.raises(ValueError, match="Random keys can be copied as they are, but adapted only"):
        fi.graft({"k": keys[1:]}, {"k": keys}, rules)


def test_what_cannot_be_joined():
    donor = {"a": np.zeros((2, 3), "f"), "b": np.zeros((3, 3), "f"), "c": np.zeros((2, 3), "i")}
    params = {"w": np.zeros((2, 2, 3), "f")}
    with pytest.raises(ValueError, match=r"stack\(axis=0\) needs arrays of one shape, got \(2"):
        fi.graft(params, donor, {"w": take(["a", "b"], stack(axis=0))})
    with pytest.raises(ValueError, match=r"arrays of one dtype, got float32 and int32; cast\(\)"):
        fi.graft(params, donor, {"w": take(["a", "c"], stack(axis=0))})
    rules = {"w": take(["a", "c"], stack(axis=0)), "x": "b"}
    with pytest.raises(ValueError, match="arrays of one dtype") as error:
        fi.graft(params | {"x": np.zeros((3, 3), "f")}, donor, rules, mismatch="keep")
    assert error.value.__notes__ == ["while 'w' was taken by the rule for 'w'"]


def test_a_cast_that_loses_values():
    with pytest.raises(
        ValueError, match="would make int32 of float32, which loses values"
    ) as error:
        fi.graft({"w": jnp.zeros(2, int)}, {"w": np.zeros(2, "f")}, {"w": take("w", cast())})
    assert error.value.__notes__ == ["while 'w' was taken by the rule for 'w'"]
