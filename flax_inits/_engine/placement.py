"""Where a program puts what it makes."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, Sharding


def on_cpu(sharding: Sharding | None) -> bool:
    """Whether the leaf lives on CPU devices alone."""
    if sharding is None:
        device = jax.config.jax_default_device
        return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"
    return not is_abstract(sharding) and all(
        device.platform == "cpu" for device in sharding.device_set
    )


def is_abstract(sharding: Sharding | None) -> bool:
    """Whether `sharding` is over a mesh without devices, good for plans only."""
    return isinstance(getattr(sharding, "mesh", None), AbstractMesh)


def on_host(sharding: Sharding | None) -> bool:
    """Whether the leaf lives on one CPU device, whose memory NumPy can fill."""
    if sharding is not None and (is_abstract(sharding) or len(sharding.device_set) > 1):
        return False
    return on_cpu(sharding) and getattr(sharding, "memory_kind", None) in _HOST_MEMORY


_HOST_MEMORY = (None, "device", "unpinned_host")


def jit_sharding(arrays: Sequence[Any]) -> Sharding | None:
    """Finds where `jax.jit` puts what it makes from `arrays`; None is the default device."""
    committed = [a for a in arrays if getattr(a, "committed", False)]
    shardings = (a.sharding for a in committed)
    return replicated(max(shardings, key=lambda s: len(s.device_set), default=None))


def replicated(sharding: Sharding | None) -> Sharding | None:
    """Spreads copies over all of what `sharding` is over; None if nothing says what that is."""
    if sharding is None or (not is_abstract(sharding) and len(sharding.device_set) == 1):
        return sharding
    mesh = getattr(sharding, "mesh", None)
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())
