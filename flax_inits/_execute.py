"""Runs what draws: inline under a trace, else as one compiled program per recipe."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ._types import Array, Key, OutSharding


def tracing() -> bool:
    """Whether operations are being staged (`jit`, `vmap`, `eval_shape`, ...), not computed."""
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def run(
    sample: Callable[[Key, tuple, Any], Array],
    key: Key,
    shape: tuple,
    dtype: Any,
    out_sharding: OutSharding,
    token: Hashable,
) -> Array:
    """`sample(key, shape, dtype)` with the layout `out_sharding`; equal tokens compile once."""
    if isinstance(key, jax.core.Tracer) or tracing():
        return _placed(sample(key, shape, dtype), out_sharding)
    if isinstance(out_sharding, PartitionSpec):
        out_sharding = NamedSharding(jax.sharding.get_mesh(), out_sharding)
    return _program(token, shape, dtype, out_sharding)(key)


@functools.lru_cache(maxsize=4096)
def _program(token: Any, shape: tuple, dtype: Any, out_sharding: NamedSharding | None):
    return jax.jit(lambda key: token._values(key, shape, dtype), out_shardings=out_sharding)


def _placed(values: Array, out_sharding: OutSharding) -> Array:
    if out_sharding is None:
        return values
    mesh = getattr(out_sharding, "mesh", None) or jax.sharding.get_abstract_mesh()
    if any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types):
        return jax.sharding.reshard(values, out_sharding)
    return jax.lax.with_sharding_constraint(values, out_sharding)
