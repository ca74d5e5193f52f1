"""Meshes and pmap: the values of one device, the sharding that was asked for, and nothing more."""

import gc
import re
import warnings

import cases
import cases_catalogue
import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from as_jit import assert_same
from cases import partition
from flax import jax_utils
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

KEY = jax.random.key(5)
CASES = (*cases.CASES, *cases_catalogue.CASES)
COLLECTIVE = re.compile(
    r"all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
)

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


LINE = mesh_of((8,), ("x",))
GRID = mesh_of((2, 4), ("x", "y"))
TYPED = mesh_of((2, 4), ("x", "y"), AxisType.Explicit)


def programs(fun, out_shardings, *args):
    """What `jit_init` compiles."""
    init = fi.jit_init(fun, out_shardings=out_shardings)
    return [compiled for _, compiled in init.lower(*args).compile().programs]


def bits(values):
    return np.asarray(values).tobytes()


class TestFactories:
    # Their parts meet at other places than the shards do, or are sorted across shards.
    MIXED = {"blocks", "chrono", "sparse"}

    @pytest.mark.sampled(48, rest="thorough")
    @every_case
    def test_no_collective(self, case):
        init, shape = case.make(), case.shape
        sharding = NamedSharding(GRID, partition(shape))
        (compiled,) = programs(lambda key: init(key, shape), sharding, KEY)
        memory = compiled.memory_analysis()
        assert memory.output_size_in_bytes == 4 * np.prod(sharding.shard_shape(shape))
        if init.__name__ not in self.MIXED:
            assert not COLLECTIVE.findall(compiled.as_text())

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize(
        "init",
        [fi.blocks([fi.normal(1.0), fi.uniform(0, 1)], axis=-1), fi.sparse(0.5), fi.chrono(64.0)],
        ids=lambda init: init.__name__,
    )
    def test_no_collective_where_parts_are_whole(self, init):
        along = {"blocks": P("x", None), "sparse": P(None, ("x", "y")), "chrono": P("x", None)}
        sharding = NamedSharding(GRID, along[init.__name__])
        (compiled,) = programs(lambda key: init(key, (64, 64)), sharding, KEY)
        assert not COLLECTIVE.findall(compiled.as_text())

    @pytest.mark.sampled(16, rest="thorough")
    @every_case
    def test_values(self, case):
        init, shape = case.make(), case.shape
        # Replicated where 8 does not divide the first axis; two axes are the contract's.
        sharding = NamedSharding(LINE, P(*(["x" if n % 8 == 0 else None for n in shape][:1])))
        values = init(KEY, shape, out_sharding=sharding)
        assert values.sharding == sharding and bits(values) == bits(init(KEY, shape))

    @pytest.mark.sampled(15, rest="thorough")
    @pytest.mark.parametrize(
        "init",
        [fi.mixture(), fi.uniform(0, 1), fi.normal(1.0), fi.he_normal(), fi.truncated_normal(1.0)],
        ids=repr,
    )
    @pytest.mark.parametrize("spec", [P(), P(None, "y"), P("y", "x")])
    def test_memory(self, init, spec):
        shape, sharding = (512, 1024), NamedSharding(GRID, spec)
        (compiled,) = programs(lambda key: init(key, shape), sharding, KEY)
        memory = compiled.memory_analysis()
        shard = 4 * np.prod(sharding.shard_shape(shape))
        assert memory.output_size_in_bytes == shard and memory.temp_size_in_bytes < 1024
        before = live_bytes()
        values = init(KEY, shape, out_sharding=sharding)
        held = {device: size - before.get(device, 0) for device, size in live_bytes().items()}
        assert set(held.values()) == {shard}
        assert bits(values) == bits(init(KEY, shape))

    @pytest.mark.parametrize("mesh", [GRID, TYPED], ids=["auto", "explicit"])
    def test_a_spec_under_set_mesh(self, mesh):
        init, wanted = fi.mixture(), fi.mixture()(KEY, (16, 8))
        with jax.set_mesh(mesh):
            values = init(KEY, (16, 8), out_sharding=P("y", "x"))
            jitted = jax.jit(lambda key: init(key, (16, 8), out_sharding=P("y", "x")))(KEY)
        assert values.sharding == jitted.sharding == NamedSharding(mesh, P("y", "x"))
        assert bits(values) == bits(jitted) == bits(wanted)

    def test_an_uneven_split(self):
        message = "implies that .*(partitioned 8 times|divisible by 8).* 7"
        with pytest.raises(ValueError, match=message):
            fi.mixture()(KEY, (7, 3), out_sharding=NamedSharding(LINE, P("x")))


def live_bytes():
    """Bytes of live arrays on each device; a shard that was looked at counts once."""
    gc.collect()
    seen = {
        (shard.device, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for array in jax.live_arrays()
        if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        for shard in array.addressable_shards
    }
    sizes: dict = {}
    for (device, _), size in seen.items():
        sizes[device] = sizes.get(device, 0) + size
    return sizes


class Block(nn.Module):
    """A residual MLP; `name_axes` boxes its kernels."""

    name_axes: object = None

    @nn.compact
    def __call__(self, x, _=None):
        init = nn.initializers.lecun_normal()
        if self.name_axes is not None:
            init = self.name_axes(init, ("embed", "mlp"))
        y = nn.Dense(64, kernel_init=init, name="up")(nn.LayerNorm()(x))
        return x + nn.Dense(32, name="down")(nn.gelu(y)), None


class Model(nn.Module):
    """Embedding, attention, blocks one by one or scanned, and a head."""

    name_axes: object = None
    scan: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(128, 32, name="embed")(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, name="attention")(x, x)
        if self.scan:
            metadata = {nn.PARTITION_NAME: "layers"}
            blocks = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
                metadata_params=metadata,
            )
            x, _ = blocks(self.name_axes, name="blocks")(x, None)
        else:
            for i in range(2):
                x, _ = Block(self.name_axes, name=f"block_{i}")(x)
        return nn.Dense(16, kernel_init=fi.mixture(), name="head")(x)


TOKENS = jnp.zeros((1, 4), jnp.int32)
LOGICAL = (("embed", "x"), ("mlp", "y"), ("layers", None))


def largest_axis(mesh):
    """Splits each leaf's largest axis over the whole mesh, if that divides it."""

    def sharding(leaf):
        names = [None] * leaf.ndim
        if leaf.ndim and max(leaf.shape) % mesh.size == 0:
            names[int(np.argmax(leaf.shape))] = mesh.axis_names
        return NamedSharding(mesh, P(*names))

    return lambda tree: jax.tree.map(sharding, tree)


@pytest.fixture(scope="module")
def expected():
    return jax.jit(Model().init)(KEY, TOKENS)


@pytest.mark.sampled(4)
class TestModels:
    @pytest.mark.slow
    @pytest.mark.parametrize("mesh", [LINE, GRID, TYPED], ids=["line", "grid", "explicit"])
    def test_values_places_programs(self, mesh, expected):
        init = fi.jit_init(Model().init, out_shardings=largest_axis(mesh))
        wanted = jax.tree.map(jax.device_put, expected, largest_axis(mesh)(expected))
        assert_same(init(KEY, TOKENS), wanted)
        with jax.set_mesh(mesh):
            made = init(KEY, TOKENS)
        if mesh is not TYPED:
            assert_same(made, wanted)
        for leaf, other in zip(jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding == other.sharding
            # Where types name axes, JAX traces draws otherwise, and jax.jit rounds otherwise too.
            np.testing.assert_allclose(leaf, other, rtol=2e-7)

    @pytest.mark.slow
    @pytest.mark.parametrize("scan", [False, True])
    def test_lean_programs_without_collectives(self, scan):
        model, out_shardings = Model(scan=scan), largest_axis(GRID)
        init = fi.jit_init(model.init, out_shardings=out_shardings)
        rows = {row.path: row for row in init.plan(KEY, TOKENS).rows}
        made = init.lower(KEY, TOKENS).compile().programs
        assert {path for paths, _ in made for path in paths} == set(rows)
        for paths, compiled in made:
            memory = compiled.memory_analysis()
            assert not COLLECTIVE.findall(compiled.as_text())
            # All leaves of one program are alike, and it makes one at a time.
            shard = rows[paths[0]].bytes_per_device
            assert memory.output_size_in_bytes == shard
            assert memory.temp_size_in_bytes < 1024 + (shard if scan else 0)

    @pytest.mark.slow
    def test_each_device_holds_its_shards_only(self):
        init = fi.jit_init(Model().init, out_shardings=largest_axis(GRID))
        init(KEY, TOKENS)
        before = live_bytes()
        variables = init(KEY, TOKENS)
        held = {device: size - before.get(device, 0) for device, size in live_bytes().items()}
        per_device = init.plan(KEY, TOKENS).bytes_per_device
        assert set(held.values()) == {per_device}
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) > 4 * per_device


class TestAbstractMeshes:
    """A mesh without devices is enough for a plan, and for nothing else."""

    def test_the_plan_is_that_of_devices(self):
        plans = [
            fi.jit_init(Model().init, out_shardings=largest_axis(mesh)).plan(KEY, TOKENS)
            for mesh in (GRID, GRID.abstract_mesh)
        ]
        concrete, abstract = plans
        for row, other in zip(concrete.rows, abstract.rows, strict=True):
            assert row._replace(sharding=None) == other._replace(sharding=None)
        assert abstract.programs == concrete.programs > 1

    def test_more_devices_than_there_are(self):
        mesh = AbstractMesh((64, 32), ("x", "y"))
        sharding = NamedSharding(mesh, P("x", "y"))
        init = fi.jit_init(
            lambda key: fi.mixture()(key, (1 << 16, 1 << 14)), out_shardings=sharding
        )
        plan = init.plan(KEY)
        assert (plan.bytes, plan.bytes_per_device, plan.programs) == (1 << 32, 1 << 21, 1)
        for attempt in (init, init.lower):
            with pytest.raises(
                ValueError, match=r"abstract mesh, which has no devices.*topologies"
            ):
                attempt(KEY)


class TestNamedAxes:
    """Boxes with names of axes, of the mesh or logical ones, decide where leaves are."""

    @pytest.mark.slow
    @pytest.mark.parametrize("mesh, scan", [(GRID, False), (TYPED, True)], ids=["auto", "explicit"])
    def test_logical(self, mesh, scan):
        model = Model(nn.with_logical_partitioning, scan)

        def shardings(tree):
            return nn.logical_to_mesh_sharding(nn.get_partition_spec(tree), mesh, LOGICAL)

        init = fi.jit_init(model.init, out_shardings=shardings)
        variables = init(KEY, TOKENS)
        blocks = variables["params"]["blocks" if scan else "block_0"]
        kernel = blocks["up"]["kernel"]
        layers = ("layers",) if scan else ()
        assert isinstance(kernel, nn.LogicallyPartitioned)
        assert kernel.names == (*layers, "embed", "mlp")
        spec = P(None, "x", "y") if scan else P("x", "y")
        assert kernel.value.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2 + scan)
        plain = jax.jit(Model(scan=scan).init)(KEY, TOKENS)
        assert_values(variables, plain)
        init = fi.stacked(fi.he_normal()) if scan else fi.he_normal()
        after = fi.reinit(KEY, variables, {"**/up/kernel": init})
        again = after["params"]["blocks" if scan else "block_0"]["up"]["kernel"]
        assert again.names == kernel.names and again.value.sharding == kernel.value.sharding
        assert_values(after, fi.reinit(KEY, plain, {"**/up/kernel": init}))

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("mesh", [GRID, TYPED], ids=["auto", "explicit"])
    def test_axes_of_the_mesh(self, mesh, expected):
        boxed = Model(lambda init, names: nn.with_partitioning(init, ("x", "y")))
        init = fi.jit_init(boxed.init, out_shardings=lambda tree: nn.get_sharding(tree, mesh))
        variables = init(KEY, TOKENS)
        kernel = variables["params"]["block_1"]["up"]["kernel"]
        assert isinstance(kernel, nn.Partitioned) and kernel.names == ("x", "y")
        assert kernel.value.sharding == NamedSharding(mesh, P("x", "y"))
        assert_values(variables, expected)
        rules = {"**/up/kernel": nn.initializers.orthogonal()}
        after = fi.reinit(KEY, variables, rules, init_fn=lambda key: boxed.init(key, TOKENS))
        again = after["params"]["block_1"]["up"]["kernel"]
        assert again.names == ("x", "y") and again.value.sharding == kernel.value.sharding
        assert not (np.asarray(again.value) == np.asarray(kernel.value)).any()


def assert_values(boxed, plain):
    leaves = zip(jax.tree.leaves(boxed), jax.tree.leaves(plain), strict=True)
    for leaf, wanted in leaves:
        assert bits(leaf) == bits(wanted)


class TestPmap:
    @pytest.fixture
    def params(self):
        return fi.jit_init(Model().init)(KEY, TOKENS)["params"]

    @pytest.fixture
    def replicas(self, params):
        with warnings.catch_warnings():  # flax calls what jax deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            return jax_utils.replicate(params)

    @pytest.mark.slow
    def test_replicas_stay_identical(self, params, replicas):
        rules = {"head/kernel": fi.mixture(), "**/up/kernel": nn.initializers.orthogonal()}
        over = {where: fi.replicated(init) for where, init in rules.items()}
        after, one = fi.reinit(KEY, replicas, over), fi.reinit(KEY, params, rules)
        for leaf, single in zip(jax.tree.leaves(after), jax.tree.leaves(one), strict=True):
            assert {bits(shard.data[0]) for shard in leaf.addressable_shards} == {bits(single)}

        def loss(params):
            return Model().apply({"params": params}, TOKENS).sum()

        grads = jax.pmap(jax.grad(loss))(after)
        for leaf in jax.tree.leaves(grads):
            assert len({bits(shard.data) for shard in leaf.addressable_shards}) == 1

    def test_draws_of_their_own_where_asked(self, replicas):
        after = fi.reinit(KEY, replicas, {"head/kernel": fi.stacked(fi.mixture())})
        kernel = after["head"]["kernel"]
        assert kernel.sharding == replicas["head"]["kernel"].sharding
        assert len({bits(shard.data) for shard in kernel.addressable_shards}) == 8

    def test_a_mixture_inside(self):
        keys, init = jax.random.split(KEY, 8), fi.mixture()
        drawn = jax.pmap(lambda key: init(key, (16, 8)))(keys)
        for key, values in zip(keys, drawn, strict=True):
            assert bits(values) == bits(init(key, (16, 8)))

    @pytest.mark.slow
    def test_a_model_inside(self, expected):
        made = jax.pmap(fi.jit_init(Model().init), in_axes=(None, 0))(KEY, jnp.stack([TOKENS] * 8))
        for leaf, wanted in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(leaf[3], wanted, rtol=1e-6, atol=1e-7)
            assert len({bits(shard.data) for shard in leaf.addressable_shards}) == 1


CHUNKS = 8
"""Programs for the whole table."""


@pytest.mark.sampled(7)
class TestVariants(chex.TestCase):
    """The table as chex runs it; what is jitted, the contract suite compares."""

    @chex.variants(with_device=True, with_pmap=True)
    @parameterized.parameters(*range(CHUNKS))
    def test_values(self, chunk):
        inits = [(case.make(), case.shape) for case in CASES[chunk::CHUNKS]]
        draw = self.variant(lambda key: [init(key, shape) for init, shape in inits])
        for (init, shape), values in zip(inits, draw(KEY), strict=True):
            assert values.shape == shape
            assert_near(values, init(KEY, shape), init)


def assert_near(values, wanted, init):
    """Equal but for roundings: in a larger program XLA may fuse otherwise."""
    if bits(values) != bits(wanted):
        limit = 4 * jnp.finfo(jnp.float32).eps * np.abs(np.asarray(wanted)).max()
        assert np.abs(np.asarray(values) - np.asarray(wanted)).max() <= limit, init
