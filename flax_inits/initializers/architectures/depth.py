"""Normals that shrink with the depth or the width of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import bits, checks
from ..._base.types import Array, DType, Key
from .._build.component import component
from .._build.configured import Draw, initializer
from .._build.fans import Axes, Fans, root, scaled_by_shape
from ..combinators.values import times
from ..general.uniform_normal import normal


@initializer
def small_init(dim: int, dtype: DType = None) -> Draw:
    """Normal with standard deviation `√(2 / (5 · dim))`, for a transformer's kernels.

    Args:
        dim: the width of the residual stream.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        ValueError: unless dim is at least 1.

    >>> import flax_inits, jax
    >>> round(float(flax_inits.small_init(4000)(jax.random.key(0), (200, 300)).std()), 3)
    0.01

    Reference:
        Nguyen & Salazar 2019, Transformers without Tears, https://arxiv.org/abs/1910.05895
    """
    return normal(np.sqrt(2 / (5 * checks.count("small_init", "dim", dim)))).draw


@initializer
def wang_init(num_layers: int, dim: int, dtype: DType = None) -> Draw:
    """Normal with standard deviation `2 / (num_layers · √dim)`, for what ends a residual branch.

    Args:
        num_layers: how many blocks the network has.
        dim: the width of the residual stream.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        ValueError: unless both are at least 1.

    >>> import flax_inits, jax
    >>> round(float(flax_inits.wang_init(10, 400)(jax.random.key(0), (200, 300)).std()), 3)
    0.01

    Reference:
        Wang & Komatsuzaki 2021, GPT-J; GPT-NeoX, https://arxiv.org/abs/2204.06745
    """
    layers = checks.count("wang_init", "num_layers", num_layers)
    return normal(2 / layers / np.sqrt(checks.count("wang_init", "dim", dim))).draw


@initializer
def residual_scaled(
    base: Callable[..., Array], num_layers: int, residuals_per_layer: int = 2, dtype: DType = None
) -> Draw:
    """`base / √(residuals_per_layer · num_layers)`, for what ends a residual branch.

    The residual stream then keeps its variance however deep the network is.

    Args:
        base: the initializer to be shrunk.
        num_layers: how many blocks the network has.
        residuals_per_layer: how many branches a block adds to the stream.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for the shapes of `base`.

    Raises:
        ValueError: unless both counts are at least 1.
        TypeError: if `base` cannot be called.

    >>> import flax_inits, jax
    >>> init = flax_inits.residual_scaled(flax_inits.normal(0.02), num_layers=8)
    >>> round(float(init(jax.random.key(0), (200, 300)).std()), 3)
    0.005

    Reference:
        Radford et al. 2019, Language Models are Unsupervised Multitask Learners (GPT-2)
    """
    layers = checks.count("residual_scaled", "num_layers", num_layers)
    branches = checks.count("residual_scaled", "residuals_per_layer", residuals_per_layer)
    return times("residual_scaled", "base", base, (branches * layers) ** -0.5)


@initializer
def depth_scaled(base: Callable[..., Array], layer: int, dtype: DType = None) -> Draw:
    """`base / √(2 · (layer + 1))`: each block's own share of the residual stream.

    Args:
        base: the initializer to be shrunk.
        layer: the index of the block, from 0.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for the shapes of `base`.

    Raises:
        ValueError: for a negative layer.
        TypeError: if `base` cannot be called.

    >>> import flax_inits, jax
    >>> init = flax_inits.depth_scaled(flax_inits.normal(0.02), layer=1)
    >>> round(float(init(jax.random.key(0), (200, 300)).std()), 3)
    0.01

    Reference:
        Liang et al. 2024, TorchTitan, https://arxiv.org/abs/2410.06511
    """
    index = checks.count("depth_scaled", "layer", layer, least=0)
    return times("depth_scaled", "base", base, (2 * (index + 1)) ** -0.5)


@initializer
def mitchell(
    layer: int | None = None,
    cutoff: float = 3.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
) -> Draw:
    """Normal with σ = `1 / √fan_in`, or `1 / √(2 · fan_in · (layer + 1))`, cut at ±cutoff · σ.

    Args:
        layer: the index of the block, from 0, for what ends a residual branch; None elsewhere.
        cutoff: where the normal is cut, in σ; the cut is not made up for.
        in_axis, out_axis, batch_axis, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for a negative layer or a cutoff that is not positive; when called, for a shape
            without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.mitchell(layer=1)(jax.random.key(0), (2500, 30))
    >>> round(float(kernel.std()), 2), round(float(abs(kernel).max()), 2)
    (0.01, 0.03)

    Reference:
        Groeneveld et al. 2024, OLMo, https://arxiv.org/abs/2402.00838
    """
    share = 1 if layer is None else 2 * (checks.count("mitchell", "layer", layer, least=0) + 1)
    reach = checks.positive("mitchell", "cutoff", cutoff)
    fans = Fans("mitchell", in_axis, out_axis, batch_axis)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        return bits.truncated_normal(key, shape, dtype, -reach, reach)

    def factor(shape: tuple, dtype: np.dtype) -> Any:
        return root(1 / (share * fans.of("fan_in", shape)), dtype)

    return scaled_by_shape(sample, factor, reach)


@initializer
def mup_scaled(
    base: Callable[..., Array],
    base_shape: tuple[int, ...],
    *,
    in_axis: int = -2,
    out_axis: int = -1,
    dtype: DType = None,
) -> Draw:
    """`base · (in / base in)^-½` where in and out both differ from the base model's, else `base`.

    The maximal update parametrization: hidden matrices shrink as the model grows, the input and
    output layers keep their σ. `base` must have a σ of its own, such as `normal(0.02)`: one that
    divides by the fan already shrinks with the width.

    Args:
        base: the initializer of the base model's leaf.
        base_shape: the leaf's shape in the base model.
        in_axis: the axis of the inputs.
        out_axis: the axis of the outputs.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes that differ from `base_shape` in at most these two axes.

    Raises:
        ValueError: for sizes below 1; when called, for a shape of another rank, or one that
            differs elsewhere.
        TypeError: if `base` cannot be called, or `base_shape` is no tuple of integers.

    >>> import flax_inits, jax
    >>> init = flax_inits.mup_scaled(flax_inits.normal(0.02), base_shape=(64, 256))
    >>> round(float(init(jax.random.key(0), (256, 1024)).std()), 3)
    0.01

    Reference:
        Yang et al. 2022, Tensor Programs V, https://arxiv.org/abs/2203.03466
    """
    draw = component("mup_scaled", "base", base)
    if not isinstance(base_shape, tuple):
        raise TypeError(f"mup_scaled needs a tuple of sizes for base_shape, got {base_shape!r}.")
    narrow = tuple(checks.count("mup_scaled", "base_shape", size) for size in base_shape)
    axes = checks.axes("mup_scaled", "in_axis and out_axis", (in_axis, out_axis))

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        inner = _width_axis(shape, narrow, axes)
        values = draw.sample(key, shape, dtype)
        if inner is None or checks.is_empty(shape):
            return values
        return values * dtype.type((shape[inner] / narrow[inner]) ** -0.5)

    # Factors above 1 (a model narrower than the base) may leave the bounds of `base`.
    return Draw(sample, kinds=(jnp.inexact,), dtype=draw.dtype)


def _width_axis(shape: tuple, base_shape: tuple, axes: tuple[int, ...]) -> int | None:
    """The axis whose growth scales the values, or None where in or out is as in the base."""
    if len(shape) != len(base_shape):
        raise ValueError(
            f"mup_scaled needs a shape of {len(base_shape)} axes, as base_shape={base_shape} has, "
            f"got {shape}."
        )
    checks.known("mup_scaled", shape)
    if len(shape) < 2:
        return None
    inner, outer = checks.wrapped("mup_scaled", "in_axis and out_axis", axes, len(shape))
    grown = {axis for axis, size in enumerate(shape) if size != base_shape[axis]}
    if grown - {inner, outer}:
        raise ValueError(
            f"mup_scaled needs a shape that differs from base_shape={base_shape} in the in and out "
            f"axes only, got {shape}; give in_axis and out_axis."
        )
    return inner if len(grown) == 2 else None
