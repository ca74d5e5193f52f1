"""Which units are dormant."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._base.types import Array, PyTree
from .._tree.leaves import at_least_float32
from .._tree.paths import flatten, show


def dormant(activations: PyTree, threshold: float | Array) -> PyTree:
    """Which units are dormant: a mask for each layer's activations.

    A unit i of a layer scores s_i = E|h_i| / (mean_k E|h_k| + 1e-9), with the mean E over batch
    and space, and is dormant if s_i <= threshold.

    Args:
        activations: arrays of shape (batch, ..., units), after the activation function: one array,
            or any tree of them (such as Flax's `capture_intermediates` gives).
        threshold: at least 0, which finds the units that are silent throughout; 0.025 to 0.1 in
            the paper.

    Returns:
        A tree of the same structure with bool arrays of shape (units,).

    Raises:
        ValueError: an array has no batch axis or no elements; `threshold` is negative.

    Reference: Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", 2023.

    >>> import flax_inits, jax.numpy as jnp
    >>> flax_inits.dormant({"hidden": jnp.array([[0.0, 1.0, 0.02], [0.0, 2.0, 0.0]])}, 0.05)
    {'hidden': Array([ True, False,  True], dtype=bool)}
    """
    if not isinstance(threshold, Tracer):
        if jnp.shape(threshold) != () or not threshold >= 0:
            raise ValueError(f"threshold must be one number of at least 0, got {threshold!r}.")
    names, leaves, treedef = flatten(activations)
    for name, leaf in zip(names, leaves, strict=True):
        if np.ndim(leaf) < 2 or 0 in np.shape(leaf):
            what = f"{show(name)!r} has" if name else "activations have"
            raise ValueError(
                f"{what} shape {np.shape(leaf)}; dormant needs (batch, ..., units), not empty."
            )
    return treedef.unflatten([_dormant(leaf, threshold) for leaf in leaves])


@jax.jit
def _dormant(values: Array, threshold: Any) -> Array:
    size = jnp.abs(values.astype(at_least_float32(values.dtype)))
    mean = size.mean(axis=tuple(range(values.ndim - 1)))
    return mean / (mean.mean() + 1e-9) <= threshold
