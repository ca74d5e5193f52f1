"""One draw by itself: what calling an initializer does."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ._execute import execute
from ._jaxpr import trace
from ._keys import Deriver
from ._recipe import Job, placement, plan
from ._types import Array, Key, OutSharding


class _Sample:
    """A sampling function that equals another with an equal token."""

    __slots__ = ("function", "token")

    def __init__(self, function: Callable[[Key, tuple, Any], Array], token: Hashable):
        self.function, self.token = function, token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sample) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)


def tracing() -> bool:
    """Whether operations are staged (`jit`, `eval_shape`, ...) or must not be (`disable_jit`)."""
    if jax.config.jax_disable_jit:
        return True
    # Of all operations, this one compiles nothing where it is computed.
    return isinstance(jax.device_put(np.int32(0)), Tracer)


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
    sharding = placement([key]) if out_sharding is None else _on_mesh(out_sharding)
    (job,) = _planned(call, shape, dtype, sharding, key.shape, key.dtype, configuration())
    return execute([(job, Deriver([key]))])[0]


@functools.lru_cache(maxsize=1024)
def _staged(call: _Sample) -> Callable[[Key, tuple, Any], Array]:
    """The draw as a jitted function: traced once for each shape, and named in jaxprs."""

    def draw(key: Key, shape: tuple, dtype: Any) -> Array:
        return call.function(key, shape, dtype)

    draw.__name__ = getattr(call.token, "__name__", draw.__name__)
    return jax.jit(draw, static_argnums=(1, 2))


@functools.lru_cache(maxsize=4096)
def _planned(
    call: _Sample,
    shape: tuple,
    dtype: Any,
    sharding: Sharding | None,
    key_shape: tuple,
    key_dtype: Any,
    configuration: tuple,
) -> list[Job]:
    key = jax.ShapeDtypeStruct(key_shape, key_dtype)
    traced = trace(lambda key: call.function(key, shape, dtype), key)
    return plan(traced, {0: sharding})


def configuration() -> tuple:
    """What of JAX's configuration decides how a draw is made."""
    config = jax.config
    return (
        config.jax_enable_x64,
        config.jax_default_device,
        config.jax_default_prng_impl,
        config.jax_threefry_partitionable,
    )


def _on_mesh(out_sharding: NamedSharding | PartitionSpec) -> NamedSharding:
    if isinstance(out_sharding, NamedSharding):
        return out_sharding
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
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
