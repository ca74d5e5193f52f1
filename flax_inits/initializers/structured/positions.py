"""Tables of positions: sines and cosines of one and two coordinates."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from ..._base import checks
from ..._base.types import Array, DType, Key
from .._build.configured import Draw, initializer


@initializer
def sinusoidal(min_scale: float = 1.0, max_scale: float = 1e4, dtype: DType = None) -> Draw:
    """The position table of the Transformer: half of the features sines, half cosines.

    `sin(t · ω_i)` and `cos(t · ω_i)`, `ω_i = min_scale · (max_scale / min_scale)^(-i / (d/2 - 1))`;
    a last, odd feature is 0. Computed in float64, as angles are large.

    Args:
        min_scale: the highest frequency, in radians per position.
        max_scale: the longest scale: the lowest frequency is `min_scale² / max_scale`.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*batch, length, features), the same for each batch entry; it
        uses no key.

    Raises:
        ValueError: unless both scales are positive; when called, for fewer than two axes.

    >>> import flax_inits, jax
    >>> flax_inits.sinusoidal()(jax.random.key(0), (1, 512, 4))[0, 0]
    Array([0., 0., 1., 1.], dtype=float32)

    Reference:
        Vaswani et al. 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762
    """
    least = checks.positive("sinusoidal", "min_scale", min_scale)
    most = checks.positive("sinusoidal", "max_scale", max_scale)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("sinusoidal", shape, 2, "(length, features)")
        checks.known("sinusoidal", shape[-2:])
        length, features = shape[-2:]
        half = features // 2
        falling = -np.log(most / least) / max(half - 1, 1)
        angles = np.arange(length)[:, None] * (least * np.exp(np.arange(half) * falling))
        table = np.zeros((length, features))
        table[:, :half], table[:, half : 2 * half] = np.sin(angles), np.cos(angles)
        return jnp.broadcast_to(jnp.asarray(table, dtype), shape)

    return Draw(sample, -1.0, 1.0)


@initializer
def sincos_2d(
    temperature: float = 1e4, grid: tuple[int, int] | None = None, dtype: DType = None
) -> Draw:
    """The position table of vision transformers: sines and cosines of the column and of the row.

    Features are `sin(x·ω), cos(x·ω), sin(y·ω), cos(y·ω)`, a quarter each, with
    `ω_i = temperature^(-i / (d/4 - 1))`, for patch (y, x) in row-major order.

    Args:
        temperature: the longest scale.
        grid: rows and columns of patches. None reads them off the shape: (rows, columns, features),
            or (patches, features) and (1, patches, features) of a square grid.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*batch, patches, features) or (*batch, rows, columns, features),
        with features a multiple of 4; it uses no key.

    Raises:
        ValueError: for a temperature or grid that is not positive; when called, for other shapes.

    >>> import flax_inits, jax
    >>> table = flax_inits.sincos_2d()(jax.random.key(0), (1, 196, 768))
    >>> bool((table[0, 14] == flax_inits.sincos_2d()(jax.random.key(0), (14, 14, 768))[1, 0]).all())
    True

    Reference:
        Beyer et al. 2022, Better plain ViT baselines for ImageNet-1k,
        https://arxiv.org/abs/2205.01580
    """
    base = checks.positive("sincos_2d", "temperature", temperature)
    if grid is not None:
        if not isinstance(grid, tuple) or len(grid) != 2:
            raise ValueError(f"sincos_2d needs a grid (rows, columns), got grid={grid!r}.")
        for size in grid:
            checks.count("sincos_2d", "grid", size)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("sincos_2d", shape, 2, "(patches, features)")
        checks.known("sincos_2d", shape)
        if shape[-1] % 4:
            raise ValueError(f"sincos_2d needs features in multiples of 4, got shape {shape}.")
        rows, columns, axes = _layout(shape, grid)
        frequencies = base ** (-np.arange(shape[-1] // 4) / max(shape[-1] // 4 - 1, 1))
        x = np.tile(np.arange(columns), rows)[:, None] * frequencies
        y = np.repeat(np.arange(rows), columns)[:, None] * frequencies
        table = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
        table = jnp.asarray(table.reshape(shape[-1 - axes :]), dtype)
        return jnp.broadcast_to(table, shape)

    return Draw(sample, -1.0, 1.0)


def _layout(shape: tuple, grid: tuple[int, int] | None) -> tuple[int, int, int]:
    """Rows and columns of the grid, and how many axes of `shape` hold them."""
    *batch, positions, _ = shape
    if grid is None and batch not in ([], [1]):
        return batch[-1], positions, 2
    rows, columns = grid or (math.isqrt(positions),) * 2
    if grid and batch and (batch[-1], positions) == grid:
        return rows, columns, 2
    if positions != rows * columns:
        raise ValueError(
            f"sincos_2d cannot lay a grid of {rows} x {columns} over the {positions} positions of "
            f"shape {shape}; give grid=(rows, columns)."
        )
    return rows, columns, 1
