"""One draw by itself: what calling an initializer does."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ..._base.cache import Cache
from ..._base.jax_state import concrete_mesh
from ..._base.jax_state import configuration
from ..._base.jax_state import tracing
from ..._engine.execute import execute
from ..._engine.host import HostEvaluator
from ..._engine.jobs import plan
from ..._engine.placement import jit_sharding
from ..._engine.recipe import Job
from ..._engine.trace import trace
from ..._base.types import Array
from ..._base.types import Key
from ..._base.types import OutSharding


class _Sample:
    """A sampling function that equals another with an equal token."""

    __slots__ = ("function", "token")

    def __init__(self, function: Callable[[Key, tuple, Any], Array], token: Hashable):
        self.function, self.token = function, token

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the token holds."""
        return getattr(self.token, "nbytes", 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sample) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)


def run(
    sample: Callable[[Key, tuple, Any], Array],
    key: Key,
    shape: tuple,
    dtype: Any,
    out_sharding: OutSharding,
    token: Hashable,
) -> Array:
    """`sample(key, shape, dtype)` laid out as `out_sharding` says; equal tokens compile once."""
    call = _Sample(sample, token)
    if isinstance(key, Tracer) or tracing():
        return _placed(_staged(call)(key, shape, dtype), out_sharding)
    sharding = _default(key) if out_sharding is None else _on_mesh(out_sharding)
    (job,) = _planned(call, key, shape, dtype, sharding)
    return execute([job.of(HostEvaluator([key]))])[0]


_draws: Cache[Callable[[Key, tuple, Any], Array]] = Cache(1024)
_plans: Cache[list[Job]] = Cache(4096)


def _staged(call: _Sample) -> Callable[[Key, tuple, Any], Array]:
    """The draw as a jitted function: traced once for each shape, and named in jaxprs."""
    found = _draws.find(call)
    if found is not None:
        return found

    def draw(key: Key, shape: tuple, dtype: Any) -> Array:
        return call.function(key, shape, dtype)

    draw.__name__ = getattr(call.token, "__name__", draw.__name__)
    return _draws.keep(call, jax.jit(draw, static_argnums=(1, 2)), call.nbytes)


def _planned(
    call: _Sample, key: Key, shape: tuple, dtype: Any, sharding: Sharding | None
) -> list[Job]:
    struct = jax.ShapeDtypeStruct(key.shape, key.dtype)
    known = (call, struct, shape, dtype, sharding, configuration())
    found = _plans.find(known)
    if found is None:
        traced = trace(lambda key: call.function(key, shape, dtype), struct)
        found = _plans.keep(known, plan(traced, {0: sharding}), call.nbytes)
    return found


def _default(key: Key) -> Sharding | None:
    """Where JAX puts what it makes from the key: on all of the mesh in use, else by the key."""
    mesh = concrete_mesh()
    return jit_sharding([key]) if mesh is None else NamedSharding(mesh, PartitionSpec())


def _on_mesh(out_sharding: NamedSharding | PartitionSpec) -> NamedSharding:
    if isinstance(out_sharding, NamedSharding):
        return out_sharding
    mesh = concrete_mesh()
    if mesh is None:
        raise ValueError(
            f"out_sharding={out_sharding} needs a mesh: call under jax.set_mesh(mesh), "
            "or give a jax.sharding.NamedSharding."
        )
    return NamedSharding(mesh, out_sharding)


def _placed(values: Array, out_sharding: OutSharding) -> Array:
    if out_sharding is None:
        return values
    mesh = getattr(out_sharding, "mesh", None) or jax.sharding.get_abstract_mesh()
    if any(kind == AxisType.Explicit for kind in mesh.axis_types):
        return jax.sharding.reshard(values, out_sharding)
    return jax.lax.with_sharding_constraint(values, out_sharding)
