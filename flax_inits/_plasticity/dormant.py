"""Which units are dormant."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._base import checks
from .._base.errors import outside
from .._base.types import Array, Path, PyTree
from .._tree.leaves import at_least_float32
from .._tree.paths import flatten, show


def dormant(activations: PyTree, threshold: float | Array) -> PyTree:
    """Which units are dormant: a mask for each layer's activations.

    A unit i of a layer scores s_i = E|h_i| / (mean_k E|h_k| + 1e-9), with the mean E over batch
    and space, and is dormant if s_i <= threshold.

    The formula is for what comes out of the activation function. Before it, a unit that relu
    silences looks more active than all others. Flax's `capture_intermediates` gives what modules
    return, which is before an `nn.relu` that is called as a function: apply that to what was
    captured, as below, or hand the activations out of the model (`self.sow`).

    Args:
        activations: arrays of shape (batch, ..., units), after the activation function: one array,
            or any tree of them.
        threshold: at least 0, which finds the units that are silent throughout; 0.025 to 0.1 in
            the paper.

    Returns:
        A tree of the same structure with bool arrays of shape (units,).

    Raises:
        ValueError: an array has no batch axis or no elements; `threshold` is negative.
        TypeError: `threshold` is no number.

    Warns:
        UserWarning: the values of a unit have a negative mean and go below what activation
            functions from relu to tanh can give, so they seem to be taken before one. Not under
            `jit`, where values are not known.

    Reference: Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", 2023.

    >>> import flax_inits, jax.numpy as jnp
    >>> flax_inits.dormant({"hidden": jnp.array([[0.0, 1.0, 0.02], [0.0, 2.0, 0.0]])}, 0.05)
    {'hidden': Array([ True, False,  True], dtype=bool)}

    A unit that a bias of -99 silences, from what Flax captures before the relu:

    >>> import flax.linen as nn, jax
    >>> bias = flax_inits.from_array(jnp.array([-99.0, 0.0]))
    >>> model = nn.Sequential([nn.Dense(2, bias_init=bias), nn.relu, nn.Dense(1)])
    >>> x = jax.random.normal(jax.random.key(0), (16, 3))
    >>> variables = model.init(jax.random.key(1), x)
    >>> _, captured = model.apply(variables, x, capture_intermediates=True, mutable="intermediates")
    >>> before = captured["intermediates"]["layers_0"]["__call__"][0]
    >>> flax_inits.dormant(nn.relu(before), 0.0)
    Array([ True, False], dtype=bool)
    """
    checks.factor("threshold", threshold, "of at least 0")
    names, leaves, treedef = flatten(activations)
    for name, leaf in zip(names, leaves, strict=True):
        if np.ndim(leaf) < 2 or 0 in np.shape(leaf):
            what = f"{show(name)!r} has" if name else "activations have"
            raise ValueError(
                f"{what} shape {np.shape(leaf)}; dormant needs (batch, ..., units), not empty."
            )
    measured = [_dormant(leaf, threshold) for leaf in leaves]
    _warn_before_activation(names, [below for _, below in measured])
    return treedef.unflatten([mask for mask, _ in measured])


@jax.jit
def _dormant(values: Array, threshold: Any) -> tuple[Array, Array]:
    """Which units are dormant, and how far below zero each is that is negative on average."""
    wide = values.astype(at_least_float32(values.dtype))
    axes = tuple(range(values.ndim - 1))
    mean = jnp.abs(wide).mean(axis=axes)
    below = jnp.where(wide.mean(axis=axes) < 0, wide.min(axis=axes), 0)
    return mean / (mean.mean() + 1e-9) <= threshold, below


_LOWEST = -1.7581
"""The infimum of selu; relu, gelu, silu, elu, softsign and tanh stay above it."""


def _warn_before_activation(names: Sequence[Path], lowest: Sequence[Array]) -> None:
    for name, below in zip(names, lowest, strict=True):
        if isinstance(below, Tracer) or not below.is_fully_addressable:
            continue
        units = np.asarray(below) < _LOWEST
        if units.any():
            warnings.warn(
                f"{units.sum()} of {units.size} units{f' of {show(name)!r}' * bool(name)} are "
                f"negative on average, down to {np.min(below):.3g}, which relu, gelu, silu, elu "
                "and tanh never give. Before the activation, units that it silences count as the "
                "most active ones: give dormant what comes after it, such as nn.relu(values).",
                stacklevel=outside(),
            )
