"""Programs that run where a leaf lives."""

import jax
import jax.numpy as jnp
import numpy as np
from compiles import count_compiles
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_inits._tree.places import Placement, jitted_at


def scaled(factor, values):
    return values * jnp.sum(jnp.asarray(factor, values.dtype))


def both(values):
    return [values + 1, values - 1]


def test_compiled_once_for_each_place_and_facts():
    first, second = jax.devices()[:2]
    values = np.arange(11, dtype=np.float32)
    with count_compiles() as count:
        for factor in (2.0, 3.0, 2.0, 3.0):
            for device in (first, second):
                made = jitted_at(scaled, Placement(device=device), factor)(values)
                assert made.device == device and not made.committed
                np.testing.assert_array_equal(made, values * factor)
    assert count.programs == 4


def test_facts_without_a_hash():
    made = jitted_at(scaled, Placement(), [2.0, 3.0])(np.ones(3, np.float32))
    np.testing.assert_array_equal(made, [5, 5, 5])


def test_a_place_for_each_item_of_a_list():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    shardings = NamedSharding(mesh, P("a")), NamedSharding(mesh, P())
    made = jitted_at(both, tuple(map(Placement, shardings)))(np.arange(16.0, dtype=np.float32))
    assert tuple(leaf.sharding for leaf in made) == shardings
