"""The real TPU compiler, ahead of time and without a TPU: it compiles, locally, in little memory.

Needs libtpu: `pip install "jax[tpu]"`, on Linux x86-64.
"""

import os
import re

import cases
import cases_catalogue
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from models import MODELS

import flax_inits as fi

pytestmark = pytest.mark.tpu
pytest.importorskip("libtpu", reason='needs the TPU compiler: pip install "jax[tpu]"')

# There is no TPU to ask what it is, and no second process to keep away from it.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

KEY = jax.eval_shape(lambda: jax.random.key(0))
TOPOLOGIES = {"v5e:4x4": (4, 4), "v5p:2x2x2": (4, 2)}
MEGABYTE = 1 << 20
COLLECTIVE = re.compile(
    r"all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
)
CASES = (*cases.CASES, *cases_catalogue.CASES)
# What is factored, sorted, multiplied or put together as a whole cannot be made shard by shard.
WHOLE = {"blocks", "chrono", "delta_orthogonal", "dirac", "hippo_legs", "orthogonal", "sparse"}


@pytest.fixture(params=TOPOLOGIES)
def mesh(request):
    return mesh_of(request.param)


def mesh_of(name, kind=AxisType.Auto):
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    devices = np.array(topology.devices).reshape(TOPOLOGIES[name])
    return Mesh(devices, ("x", "y"), axis_types=(kind, kind))


def largest_axes(mesh, leaf):
    """The largest axis over x and the next over y, where they divide."""
    names, free = [None] * leaf.ndim, ["y", "x"]
    for axis in np.argsort([-size for size in leaf.shape], kind="stable"):
        if free and leaf.shape[axis] % mesh.shape[free[-1]] == 0:
            names[axis] = free.pop()
    return NamedSharding(mesh, P(*names))


def assert_lean(compiled, shape, sharding, collectives=False):
    """Each device makes its shard, which TPUs pad to tiles, and little else."""
    memory, local = compiled.memory_analysis(), sharding.shard_shape(shape)
    tiles = [1024] if len(local) == 1 else [1] * (len(local) - 2) + [8, 128]
    padded = [size + -size % tile for size, tile in zip(local, tiles, strict=True)]
    assert 4 * np.prod(local) <= memory.output_size_in_bytes <= 4 * np.prod(padded)
    assert memory.temp_size_in_bytes <= MEGABYTE
    assert collectives or not COLLECTIVE.findall(compiled.as_text())


def programs(fun, out_shardings, *args):
    return fi.jit_init(fun, out_shardings=out_shardings).lower(KEY, *args).compile().programs


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_mixture(name, kind):
    shape, mesh = (32768, 8192), mesh_of(name, kind)
    for spec in (P("x", "y"), P("y"), P(None, ("x", "y"))):
        sharding = NamedSharding(mesh, spec)
        ((_, compiled),) = programs(lambda key: fi.mixture()(key, shape), sharding)
        assert_lean(compiled, shape, sharding)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_factory(case):
    init, shape = case.make(), case.shape
    sharding = largest_axes(mesh_of("v5e:4x4"), jax.ShapeDtypeStruct(shape, "float32"))
    ((_, compiled),) = programs(lambda key: init(key, shape), sharding)
    assert_lean(compiled, shape, sharding, collectives=init.__name__ in WHOLE)


def test_every_program_of_a_model(mesh):
    fun, (_, tokens) = MODELS["LM-12/768"]()
    init = fi.jit_init(
        fun, out_shardings=lambda tree: jax.tree.map(lambda leaf: largest_axes(mesh, leaf), tree)
    )
    rows = {row.path: row for row in init.plan(KEY, tokens).rows}
    made = init.lower(KEY, tokens).compile().programs
    assert {path for paths, _ in made for path in paths} == set(rows)
    assert len(made) <= 12
    for paths, compiled in made:
        assert_lean(compiled, rows[paths[0]].shape, rows[paths[0]].sharding)


class TestReinit:
    SHAPES = {"body": {"kernel": (2048, 4096), "bias": (4096,)}, "head": {"kernel": (4096, 1024)}}
    RULES = {"head": fi.mixture(), "body/kernel": nn.initializers.xavier_normal()}

    def test_a_sharded_subtree_in_a_step(self, mesh):
        def abstract(shape):
            leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
            return leaf.update(sharding=largest_axes(mesh, leaf))

        params = jax.tree.map(abstract, self.SHAPES, is_leaf=lambda node: isinstance(node, tuple))
        step = jax.jit(
            lambda key, params: fi.reinit(key, params, self.RULES),
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, params),
            donate_argnums=1,
        )
        compiled = step.lower(KEY, params).compile()
        assert not COLLECTIVE.findall(compiled.as_text())
        memory = compiled.memory_analysis()
        size = sum(np.prod(s.sharding.shard_shape(s.shape)) for s in jax.tree.leaves(params))
        assert memory.output_size_in_bytes < 4 * size + MEGABYTE // 64
        assert memory.temp_size_in_bytes <= MEGABYTE

    def test_its_programs(self, mesh):
        params = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            self.SHAPES,
            is_leaf=lambda node: isinstance(node, tuple),
        )

        def new(key):
            return fi.reinit(key, params, self.RULES | {"body/bias": fi.zeros()})

        shardings = jax.tree.map(lambda leaf: largest_axes(mesh, leaf), params)
        shapes = dict(zip(fi.paths(params), jax.tree.leaves(params), strict=True))
        for paths, compiled in programs(new, shardings):
            leaf = shapes[paths[0]]
            assert_lean(compiled, leaf.shape, largest_axes(mesh, leaf))
