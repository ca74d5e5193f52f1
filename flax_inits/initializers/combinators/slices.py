"""Initializers of slices: each on its own, all alike, or block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.checks import axes as checked_axes
from ..._base.checks import count, divides, is_empty, wrapped
from ..._base.types import Array, DType, Key
from .._build.component import ANY, component
from .._build.configured import Draw, initializer


@initializer
def stacked(init: Callable[..., Array], axes: int | Sequence[int] = 0, dtype: DType = None):
    """Each slice over `axes` drawn on its own: with its own key, and the right fans.

        w[i] = init(keys[i], shape without axes),  keys = jax.random.split(key, number of slices)

    For kernels that are stored stacked: `nn.scan`'s (layers, in, out), experts, ensembles.

    Args:
        init: any initializer.
        axes: the axis or axes that count slices, negative ones from the end; with several, keys go
            to slices in row-major order.
        dtype: the dtype where a call gives none; None is that of `init`.

    Returns:
        An initializer.

    Raises:
        TypeError: `init` is no initializer, or `axes` are no integers.
        ValueError: an axis is given twice, or when called: the shape does not have it, or `init`
            returns another shape.

    >>> import flax_inits, jax
    >>> init = flax_inits.stacked(jax.nn.initializers.orthogonal())
    >>> init(jax.random.key(0), (12, 8, 8)).shape
    (12, 8, 8)

    Reference:
        what `nn.scan` and `nn.vmap` with split RNGs do.
    """
    draw = component("stacked", "init", init)
    chosen = checked_axes("stacked", "axes", axes)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        front = wrapped("stacked", "axes", chosen, len(shape))
        outer, inner = _without(shape, front)
        if is_empty(outer):
            return jnp.zeros(shape, dtype)
        keys = jax.random.split(key, math.prod(outer))

        def drawn(key: Key) -> Array:
            return draw.sample(key, inner, dtype)

        # Only threefry draws the same under vmap as alone.
        values = jax.vmap(drawn)(keys) if bits.is_threefry(key) else jax.lax.map(drawn, keys)
        return jnp.moveaxis(values.reshape(*outer, *inner), range(len(outer)), front)

    return draw._replace(sample=sample, widen=False, sliced=True, pieces=())


def _without(shape: tuple, axes: tuple[int, ...]) -> tuple[tuple, tuple]:
    """The sizes of `axes`, and those of the others."""
    rest = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    return tuple(shape[axis] for axis in axes), rest


@initializer
def replicated(init: Callable[..., Array], axes: int | Sequence[int] = 0, dtype: DType = None):
    """The same values in every slice over `axes`.

        w[i] = init(key, shape without axes)

    For params replicated over a leading device axis (`pmap`), which must not diverge.

    Args:
        init: any initializer.
        axes: the axis or axes to repeat over, negative ones from the end.
        dtype: the dtype where a call gives none; None is that of `init`.

    Returns:
        An initializer.

    Raises:
        TypeError: `init` is no initializer, or `axes` are no integers.
        ValueError: an axis is given twice, or when called: the shape does not have it, or `init`
            returns another shape.

    >>> import flax_inits, jax
    >>> flax_inits.replicated(flax_inits.normal(0.02))(jax.random.key(0), (8, 3, 4)).shape
    (8, 3, 4)

    Reference:
        `flax.jax_utils.replicate`.
    """
    draw = component("replicated", "init", init)
    chosen = checked_axes("replicated", "axes", axes)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        front = wrapped("replicated", "axes", chosen, len(shape))
        values = draw.sample(key, _without(shape, front)[1], dtype)
        return jnp.broadcast_to(jnp.expand_dims(values, front), shape)

    return draw._replace(sample=sample, widen=False, pieces=())


@initializer
def blocks(
    inits: Sequence[Callable[..., Array]],
    axis: int,
    sizes: Sequence[int] | None = None,
    dtype: DType = None,
):
    """Another initializer for each block along an axis.

        w = concatenate([init(key_i, shape with size_i at axis) for each init], axis)

    For fused kernels: q, k and v, or the gates of a cell. Each block has a key of its own
    (`jax.random.split(key, number of blocks)`), and the fans of its own shape.

    Args:
        inits: an initializer per block.
        axis: the axis that is divided, negative ones from the end.
        sizes: the blocks' sizes along it; None is equal parts.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer.

    Raises:
        TypeError: an item is no initializer, or `axis` or a size is no integer.
        ValueError: there is no block or not one size for each, or when called: the sizes do not sum
            to that of the axis, it does not divide into equal parts, or an initializer returns
            another shape.

    >>> import flax_inits, jax
    >>> qkv = flax_inits.blocks([flax_inits.normal(0.02)] * 2 + [flax_inits.zeros()], axis=-1)
    >>> qkv(jax.random.key(0), (4, 12)).shape
    (4, 12)

    Reference:
        fused kernels of attention and recurrent cells.
    """
    if not isinstance(inits, tuple) or not inits:
        raise ValueError(f"blocks needs a list of one initializer or more, got {inits!r}.")
    draws = [component("blocks", f"inits[{i}]", init) for i, init in enumerate(inits)]
    (chosen,) = checked_axes("blocks", "axis", (axis,))
    if sizes is not None:
        _check_sizes(sizes, len(draws))

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        (front,) = wrapped("blocks", "axis", (chosen,), len(shape))
        keys = jax.random.split(key, len(draws))
        lengths = _sizes(sizes, len(draws), shape, front)
        parts = [
            draw.sample(part_key, (*shape[:front], length, *shape[front + 1 :]), dtype)
            for draw, part_key, length in zip(draws, keys, lengths, strict=True)
        ]
        return jnp.concatenate(parts, front)

    ends = min(draw.lower for draw in draws), max(draw.upper for draw in draws)
    return Draw(sample, *ends, kinds=ANY, widen=False, dtype=_shared_dtype(draws))


def _check_sizes(sizes: Any, blocks: int) -> None:
    if not isinstance(sizes, tuple) or len(sizes) != blocks:
        raise ValueError(f"blocks needs one size per initializer, {blocks}, got {sizes!r}.")
    for index, size in enumerate(sizes):
        count("blocks", f"sizes[{index}]", size, least=0)


def _sizes(sizes: Sequence[int] | None, blocks: int, shape: tuple, axis: int) -> Sequence[Any]:
    """The sizes of the blocks along `axis` of `shape`."""
    if sizes is None:
        divides("blocks", "the number of initializers", blocks, shape, axis)
        return [shape[axis] // blocks] * blocks
    if sum(sizes) != shape[axis]:
        raise ValueError(
            f"blocks: the sizes {tuple(sizes)} sum to {sum(sizes)}, but axis {axis} of the shape "
            f"{shape} has {shape[axis]}."
        )
    return sizes


def _shared_dtype(draws: Sequence[Draw]) -> DType:
    """The default dtype that all `draws` have in common."""
    found = {draw.dtype for draw in draws}
    return found.pop() if len(found) == 1 else None
