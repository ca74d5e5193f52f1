"""The number whose gradients `signal` takes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._base.errors import brief, noted
from .._base.types import Array
from .._tree.leaves import at_least_float32


def total(shape: Any, loss: Callable[[Any], Array] | None) -> Callable[[Any], Array]:
    """The loss, or what stands for it, as a function of the flat outputs of a tree `shape`."""
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the network's outputs, got {brief(loss)}.")
    if loss is None:
        return _along_random_direction
    treedef = jax.tree.structure(shape)

    def of_outputs(outputs: Sequence[Array]) -> Array:
        with noted("while signal computed the loss of the network's outputs"):
            value = jnp.asarray(loss(treedef.unflatten(outputs)))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                "loss must return one real number, such as the mean over a batch; it returned "
                f"{value.dtype} of shape {value.shape}."
            )
        return value

    return of_outputs


def _along_random_direction(outputs: Sequence[Array]) -> Array:
    """The inner product of all floats with a random direction of length 1, always the same."""
    key, products, squares = jax.random.key(0), [], []
    for i, output in enumerate(outputs):
        if jnp.issubdtype(output.dtype, jnp.inexact):
            dtype = at_least_float32(output.real.dtype)
            direction = jax.random.normal(jax.random.fold_in(key, i), output.shape, dtype)
            products.append(jnp.sum(direction * output.real.astype(dtype)))
            squares.append(jnp.sum(direction**2))
    if not products:
        raise TypeError("signal needs a network that returns floats; give a loss= otherwise.")
    return sum(products) / jnp.sqrt(sum(squares))  # type: ignore[arg-type]
