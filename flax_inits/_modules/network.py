"""A model as those see it who run it: a tree with its params, and what it makes of inputs."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from .._base.errors import brief
from .._tree.modules import is_module
from .linen import network as linen
from .nnx import network as nnx

Network: TypeAlias = linen.LinenNetwork | nnx.NNXNetwork
"""A model; both have the same methods. Linen's tree is its variables, that of NNX the module."""


def network_of(model: Any) -> Network | None:
    """The network of a Linen module, an NNX module or a bound method of one; None of others."""
    if is_module(model) or (inspect.ismethod(model) and is_module(model.__self__)):
        return nnx.NNXNetwork(model)
    return linen.network_of(model)


def in_short(given: Any) -> str:
    """What stands where a model should be, without the values of arrays."""
    if isinstance(given, Mapping) and given:
        return f"{brief(given)} (the model comes before its variables)"
    if any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(given)):
        shape = getattr(given, "shape", None)
        return "a tree of arrays" if shape is None else f"an array of shape {shape}"
    return repr(given)
