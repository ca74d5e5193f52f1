"""jit_init of NNX models: ties, objects among the arguments, shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import flax_inits

KEY = jax.random.key(0)


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(4, 8, rngs=rngs)
        self.inner = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)
        self.out.kernel = self.embed.embedding

    def __call__(self, x):
        return x


def data(tree):
    leaves = jax.tree.leaves(tree)
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        for leaf, is_key in zip(leaves, keys, strict=True)
    ]


def assert_same(got, want):
    got, want = nnx.split(got), nnx.split(want)
    assert got[0] == want[0]
    for one, other in zip(data(got[1]), data(want[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_tied_stays_tied():
    init = flax_inits.jit_init(lambda key: {"model": Tied(nnx.Rngs(key)), "step": jnp.zeros(())})
    made = init(KEY)
    model = made["model"]
    assert model.out.kernel is model.embed.embedding and made["step"] == 0
    assert_same(model, nnx.jit(Tied)(nnx.Rngs(KEY)))
    assert ("model", "out", "kernel") not in [row.path for row in init.plan(KEY).rows]


@pytest.mark.parametrize("rules", [None, {"embed": flax_inits.normal(1.0)}])
def test_rngs_advance_as_under_nnx_jit(rules):
    init, jitted = flax_inits.jit_init(Tied, rules=rules), nnx.jit(Tied)
    rngs, other = nnx.Rngs(0, dropout=1), nnx.Rngs(0, dropout=1)
    streams = id(rngs.default.key), id(rngs.default.count)
    init.plan(rngs)
    init.lower(rngs)
    for _ in range(2):
        made, want = init(rngs), jitted(other)
        np.testing.assert_array_equal(made.inner.kernel[...], want.inner.kernel[...])
        assert_same(rngs, other)
    assert streams == (id(rngs.default.key), id(rngs.default.count))


def test_rngs_advance_inside_nnx_jit():
    init = flax_inits.jit_init(Tied, rules={"embed": flax_inits.zeros()})

    @nnx.jit
    def both(rngs):
        first, second = init(rngs), init(rngs)
        assert first.out.kernel is first.embed.embedding
        return first.inner.kernel[...], second.inner.kernel[...]

    rngs, other = nnx.Rngs(0), nnx.Rngs(0)
    got = both(rngs)
    for kernel in got:
        np.testing.assert_array_equal(kernel, nnx.jit(Tied)(other).inner.kernel[...])
    assert_same(rngs, other)


def test_a_call_that_fails_advances_nothing():
    def failing(rngs):
        rngs.params()
        raise RuntimeError("in the model")

    rngs = nnx.Rngs(0)
    with pytest.raises(RuntimeError, match="in the model"):
        flax_inits.jit_init(failing)(rngs)
    with pytest.raises(ValueError, match="selects no leaf"):
        flax_inits.jit_init(Tied, rules={"nothing": flax_inits.zeros()})(rngs)
    assert int(rngs.default.count[...]) == 0


def test_any_nnx_object_is_changed_and_keeps_its_other_arrays():
    class Counter(nnx.Module):
        def __init__(self):
            self.count, self.big = nnx.Variable(jnp.zeros(())), nnx.Param(jnp.ones(3))

    def fun(counter, key):
        counter.count[...] += 1
        return jax.random.normal(key, (3,)) * counter.big[...]

    counter = Counter()
    big = counter.big[...]
    init = flax_inits.jit_init(fun)
    for _ in range(2):
        np.testing.assert_array_equal(init(counter, KEY), jax.random.normal(KEY, (3,)))
    assert float(counter.count[...]) == 2 and counter.big[...] is big


def test_one_object_given_twice_is_an_error():
    rngs = nnx.Rngs(0)
    init = flax_inits.jit_init(lambda one, other: one.params())
    with pytest.raises(ValueError, match="NNX objects share what a call would change"):
        init(rngs, rngs)
    assert int(rngs.default.count[...]) == 0


def test_shardings_for_a_model_with_absent_parts():
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    spread, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))

    def fun(key):
        return {"kernel": jax.random.normal(key, (4, 2)), "bias": None}

    init = flax_inits.jit_init(fun, out_shardings=spread)
    got, want = init(KEY), jax.jit(fun, out_shardings=spread)(KEY)
    np.testing.assert_array_equal(got["kernel"], want["kernel"])
    assert got["kernel"].sharding == spread and got["bias"] is None

    def place(tree):
        return jax.tree.map(lambda leaf: spread if leaf.shape == (8, 8) else whole, tree)

    module = place(nnx.eval_shape(lambda: Tied(nnx.Rngs(0))))
    for shardings in (module, place):
        made = flax_inits.jit_init(Tied, out_shardings=shardings)(nnx.Rngs(0))
        assert made.inner.kernel[...].sharding == spread
        assert made.out.kernel is made.embed.embedding
        assert made.out.kernel[...].sharding == whole
