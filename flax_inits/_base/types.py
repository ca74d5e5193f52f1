"""Names for the types that pass between the modules."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax

Array: TypeAlias = jax.Array
"""An array of any backend; in signatures, also a tracer."""

Key: TypeAlias = jax.Array
"""One PRNG key: a typed key of shape (), or a legacy uint32 key."""

Shape: TypeAlias = Sequence[Any]
"""Sizes of the axes: integers, or the symbolic dimensions of `jax.export`."""

DType: TypeAlias = Any
"""Whatever `numpy.dtype` accepts, and JAX's own scalar types."""

OutSharding: TypeAlias = jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None
"""Where an initializer puts its result: JAX's own convention."""

Path: TypeAlias = tuple[str, ...]
"""A leaf's keys from the root of its tree, as strings."""

PyTree: TypeAlias = Any
"""Any nesting of containers that JAX knows."""

Where: TypeAlias = Any
"""A selection of leaves: what `select` takes."""


@runtime_checkable
class Initializer(Protocol):
    """Anything callable as `jax.nn.initializers` are."""

    def __call__(
        self, key: Key, shape: Shape, dtype: DType = None, out_sharding: OutSharding = None
    ) -> Array: ...


Rules: TypeAlias = Mapping[Any, Callable[..., Array]] | Sequence[tuple[Where, Callable[..., Array]]]
"""What to reinitialize with what: where -> initializer; the first match wins."""

Token: TypeAlias = Hashable
"""A hashable stand-in for a value: equal tokens, equal effect."""
