"""Samplers of `jax.random` as initializers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base.errors import did_you_mean
from ..._base.types import Array, DType, Key
from .._build.component import ANY, checked, signature_of
from .._build.configured import Draw, initializer


@initializer
def from_sampler(sampler: Callable[..., Array], dtype: DType = None, **parameters: Any):
    """Any sampler of `jax.random`, or one like them, as an initializer.

        w ~ sampler(key, shape=shape, dtype=dtype, **parameters)

    Samplers of integers and bools (`rademacher`, `bernoulli`, `poisson`) are drawn in their own
    dtype and cast.

    Args:
        sampler: a function of a key, `shape` and, where it has one, `dtype`.
        dtype: the dtype where a call gives none; None is JAX's default float.
        **parameters: the sampler's other arguments, by name.

    Returns:
        An initializer. It pickles if `sampler` does.

    Raises:
        TypeError: `sampler` cannot be called so: a parameter is missing, or it has none of that
            name.
        ValueError: when called: the sampler returns another shape, or refuses the dtype.

    >>> import flax_inits, jax
    >>> init = flax_inits.from_sampler(jax.random.pareto, b=2.0)
    >>> init
    from_sampler(jax.random.pareto, b=2.0)
    >>> init(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        the samplers of `jax.random`.
    """
    if not callable(sampler):
        raise TypeError(
            f"from_sampler needs a sampler such as jax.random.laplace, got {sampler!r}."
        )
    takes_dtype = _takes_dtype(sampler, parameters)
    draw = functools.partial(sampler, **parameters)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        given = {"dtype": dtype} if takes_dtype else {}
        try:
            values = draw(key, shape=shape, **given)
        except (TypeError, ValueError):
            if not takes_dtype:
                raise
            values = draw(key, shape=shape)
            if jnp.issubdtype(values.dtype, jnp.inexact):
                raise  # only samplers of integers and bools need no dtype to be exact
        return checked("from_sampler", sampler, values, shape, dtype)

    return Draw(sample, kinds=ANY)


def _takes_dtype(sampler: Callable[..., Any], parameters: dict[str, Any]) -> bool:
    """Whether to pass a dtype; raises where the sampler cannot be called with `parameters`."""
    name = getattr(sampler, "__name__", repr(sampler))
    signature = signature_of(sampler)
    if signature is None:
        return True
    known = list(signature.parameters.values())
    if reserved := {"key", "shape"} & set(parameters):
        raise TypeError(f"from_sampler gives {name} its {min(reserved)}: leave it out.")
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known)
    names = [parameter.name for parameter in known[1:]]
    for given in parameters:
        if not open_ended and given not in names:
            raise TypeError(f"{name} has no parameter {given!r}.{did_you_mean(given, names)}")
    takes_dtype = open_ended or "dtype" in names
    dtype = {"dtype": None} if takes_dtype else {}
    try:
        signature.bind(None, shape=(), **dtype, **parameters)
    except TypeError as error:
        raise TypeError(f"from_sampler cannot call {name}(key, shape=...): {error}.") from None
    return takes_dtype
