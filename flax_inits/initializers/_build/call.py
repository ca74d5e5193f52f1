"""One draw by itself: what calling an initializer does."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ..._base.cache import Cache
from ..._base.jax_state import concrete_mesh, configuration, tracing
from ..._base.types import Array, Key, OutSharding
from ..._engine.execute import execute
from ..._engine.host import HostEvaluator
from ..._engine.jobs import plan
from ..._engine.placement import jit_sharding
from ..._engine.recipe import Job
from ..._engine.trace import trace

Sample: TypeAlias = Callable[[Key, tuple, Any], Array]
"""(key, shape, dtype) -> values."""


def run(
    init: Any, sample: Sample, key: Key, shape: tuple, dtype: Any, out_sharding: OutSharding
) -> Array:
    """What `init` samples, laid out as `out_sharding` says; equal initializers compile once."""
    if isinstance(key, Tracer) or tracing():
        return _placed(_staged(init, sample)(key, shape, dtype), out_sharding)
    (job,) = _planned(init, sample, key, shape, dtype, _sharding(key, out_sharding))
    return execute([job.of(HostEvaluator([key]))])[0]


_draws: Cache[Sample] = Cache(1024)
_plans: Cache[list[Job]] = Cache(4096)


def _staged(init: Any, sample: Sample) -> Sample:
    """The draw as a jitted function: traced once for each shape, and named in jaxprs."""
    found = _draws.find(init)
    if found is not None:
        return found

    def draw(key: Key, shape: tuple, dtype: Any) -> Array:
        return sample(key, shape, dtype)

    draw.__name__ = init.__name__
    return _draws.keep(init, jax.jit(draw, static_argnums=(1, 2)), init.nbytes)


def _planned(
    init: Any, sample: Sample, key: Key, shape: tuple, dtype: Any, sharding: Sharding | None
) -> list[Job]:
    struct = jax.ShapeDtypeStruct(key.shape, key.dtype)
    known = (init, struct, shape, dtype, sharding, configuration())
    found = _plans.find(known)
    if found is None:
        traced = trace(lambda key: sample(key, shape, dtype), struct)
        found = _plans.keep(known, plan(traced, {0: sharding}), init.nbytes)
    return found


def _sharding(key: Key, out_sharding: OutSharding) -> Sharding | None:
    """Where to put the values; where nothing says so, JAX's choice: the whole mesh, or by the key."""
    if isinstance(out_sharding, NamedSharding):
        return out_sharding
    if (mesh := concrete_mesh()) is not None:
        return NamedSharding(mesh, out_sharding or PartitionSpec())
    if out_sharding is not None:
        raise ValueError(
            f"out_sharding={out_sharding} needs a mesh: call under jax.set_mesh(mesh), "
            "or give a jax.sharding.NamedSharding."
        )
    return jit_sharding([key])


def _placed(values: Array, out_sharding: OutSharding) -> Array:
    if out_sharding is None:
        return values
    mesh = getattr(out_sharding, "mesh", None) or jax.sharding.get_abstract_mesh()
    if any(kind == AxisType.Explicit for kind in mesh.axis_types):
        return jax.sharding.reshard(values, out_sharding)
    return jax.lax.with_sharding_constraint(values, out_sharding)
