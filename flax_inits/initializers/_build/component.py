"""Any initializer as a component of another: ours, jax's, Flax's, a user's function."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.checks import initializer_like
from ..._base.types import Array, Key
from .configured import Configured, Draw
from .rounding import is_narrow

ANY = (jnp.number, np.bool_)
"""The kinds of an initializer that makes whatever dtype it is asked for."""


def component(factory: str, name: str, value: Any) -> Draw:
    """How `value` draws, for `factory` to build upon; checks that it can be called.

    `sample` takes every dtype, narrow ones too, and raises where the shape is not the one asked
    for.
    """
    initializer_like(factory, name, value)
    ours = isinstance(value, Configured)
    call = value if ours else _adapted(factory, name, value)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        wide = np.dtype(np.float32) if is_narrow(dtype) and not ours else dtype
        return checked(factory, value, call(key, shape, wide), shape, dtype)

    if ours:
        return value.draw._replace(sample=sample, dtype=value.dtype)
    return Draw(sample, kinds=ANY, dtype=_own_dtype(value))


def checked(factory: str, source: Any, values: Any, shape: tuple, dtype: np.dtype) -> Array:
    """What `source` returned, as `dtype`; raises unless it is an array of `shape`."""
    if not (hasattr(values, "shape") and hasattr(values, "dtype")):
        raise TypeError(
            f"{factory}: {source!r} must return an array of shape {shape}, "
            f"got {type(values).__name__}: {values!r}."
        )
    if tuple(values.shape) != shape:
        raise ValueError(
            f"{factory}: {source!r} returned shape {tuple(values.shape)} where {shape} was "
            "asked for."
        )
    if values.dtype != dtype and not _widens(values.dtype, dtype):
        raise TypeError(
            f"{factory}: {source!r} returned {values.dtype.name} values, which {dtype.name} "
            "cannot hold."
        )
    return jnp.asarray(values, dtype)


def _widens(start: np.dtype, end: np.dtype) -> bool:
    """Whether `end` is of the same kind as `start` or a larger one."""
    kinds = (np.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return any(
        jnp.issubdtype(start, kind) and any(jnp.issubdtype(end, larger) for larger in kinds[i:])
        for i, kind in enumerate(kinds)
    )


def _adapted(factory: str, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
    """`value` as a function of (key, shape, dtype), whatever part of it it takes."""
    signature = signature_of(value)
    if signature is None or _binds(signature, 3):
        return value
    if _binds(signature, 2, dtype=None):
        return lambda key, shape, dtype: value(key, shape, dtype=dtype)
    if _binds(signature, 2):
        return lambda key, shape, dtype: value(key, shape)
    raise TypeError(
        f"{factory} needs an initializer for {name}, callable as (key, shape, dtype), got "
        f"{value!r}, whose arguments are {signature}."
    )


def signature_of(value: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a callable; None of builtins that have none to look at."""
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def _binds(signature: inspect.Signature, positional: int, **named: Any) -> bool:
    try:
        signature.bind(*[None] * positional, **named)
    except TypeError:
        return False
    return True


def _own_dtype(value: Callable[..., Any]) -> np.dtype | None:
    """The default of a `dtype` argument, as jax's initializers carry it."""
    signature = signature_of(value)
    parameter = signature.parameters.get("dtype") if signature else None
    if parameter is None or parameter.default in (None, parameter.empty):
        return None
    return jnp.dtype(parameter.default)
