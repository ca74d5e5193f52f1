"""Leaves by the class of the module that they belong to."""

from __future__ import annotations

from typing import Any

from .._tree.forms import PathTest
from .._tree.modules import is_module
from .linen import of_type as linen
from .nnx import of_type as nnx


def of_type(model: Any, cls: type | tuple[type, ...], *args: Any, **kwargs: Any) -> PathTest:
    """Selects every leaf at or below a module of class `cls`, for use as a `where`.

    Args:
        model: a Linen module, which is traced and never run, or an NNX module.
        cls: a subclass of `nn.Module` or `nnx.Module`, or a tuple of them; subclasses of these
            count, too.
        *args: what a Linen `model.init` takes after the key: arrays, or `jax.ShapeDtypeStruct`s.
        **kwargs: likewise, `method=` included. An NNX module needs neither.

    Returns:
        A hashable `where`, good for `variables` and `variables["params"]` alike; of an NNX model
        good for it, for other instances, and for their states and pure dicts.

    Raises:
        TypeError: `model` is no module, or `cls` no class of them.
        ValueError: the model has no module of that class (the message names those it has).

    >>> import flax_inits, flax.linen as nn, jax, jax.numpy as jnp
    >>> model, x = nn.Sequential([nn.Dense(2), nn.LayerNorm()]), jnp.ones((1, 3))
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> flax_inits.select(params, flax_inits.of_type(model, nn.LayerNorm, x))
    {'layers_0': {'bias': False, 'kernel': False}, 'layers_1': {'bias': True, 'scale': True}}
    """
    if not is_module(model):
        return linen.of_type(model, cls, args, kwargs)
    if args or kwargs:
        raise TypeError("of_type needs no inputs for an NNX module: it has its parts already.")
    return nnx.of_type(model, cls)
