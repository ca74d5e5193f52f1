"""Params that change meshes: made on one, saved, restored on another, reinitialized there."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

KEY, NEXT = jax.random.key(1), jax.random.key(2)
X = jnp.ones((1, 16))


class Model(nn.Module):
    """Two layers and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, kernel_init=fi.mixture(), name="body_0")(x))
        x = nn.relu(nn.Dense(32, name="body_1")(x))
        return nn.Dense(8, name="head")(x)


def init(key):
    return Model().init(key, X)["params"]


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def split(mesh, names):
    """Puts last axes over the axes of a mesh."""
    return lambda tree: jax.tree.map(
        lambda leaf: NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), names)), tree
    )


OTHERS = {
    "fewer devices": split(Mesh(np.array(jax.devices()[2:6]), ("n",)), "n"),
    "two axes": split(mesh_of((4, 2), ("a", "b")), ("b", "a")),
    "explicit axes": split(mesh_of((2, 4), ("a", "b"), AxisType.Explicit), "b"),
    "one device": lambda tree: jax.tree.map(
        lambda leaf: SingleDeviceSharding(jax.devices()[5]), tree
    ),
}
RESETS = {
    "rules": lambda params: fi.reinit(NEXT, params, {"head": nn.initializers.normal(0.02)}),
    "init_fn": lambda params: fi.reinit(NEXT, params, "body_1", init_fn=init),
    "both": lambda params: fi.reinit(NEXT, params, {"**/kernel": fi.orthogonal()}, init_fn=init),
    "donated": lambda params: fi.reinit(NEXT, params, {"**": fi.mixture()}, donate=True),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The params on eight devices in a row, and a folder that holds them."""
    params = fi.jit_init(init, out_shardings=split(mesh_of((8,), ("x",)), "x"))(KEY)
    folder = tmp_path_factory.mktemp("elastic") / "params"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, params)
        checkpointer.wait_until_finished()
    return params, folder


@pytest.mark.slow
@pytest.mark.parametrize("place", OTHERS)
def test_the_same_values_on_another_mesh(checkpoint, place):
    params, folder = checkpoint
    shardings = OTHERS[place](params)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        params,
        shardings,
    )
    for name, reset in RESETS.items():
        first = reset(jax.tree.map(jnp.copy, params))
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder, abstract)
        second = reset(restored)
        for leaf, other, sharding in zip(
            *map(jax.tree.leaves, (first, second, shardings)), strict=True
        ):
            assert other.sharding == sharding, name
            assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), name
        changed = jax.tree.map(lambda new, old: not np.array_equal(new, old), first, params)
        assert any(jax.tree.leaves(changed)), name


def test_from_scratch_on_the_other_mesh(checkpoint):
    params, _ = checkpoint
    made = fi.jit_init(init, out_shardings=OTHERS["two axes"])(KEY)
    for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(made), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()
