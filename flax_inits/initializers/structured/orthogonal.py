"""Orthogonal kernels, uniform in the sense of Haar."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import checks
from ..._base.types import Array, DType, Key
from .._build import complex_draws
from .._build.configured import Draw, initializer
from .._build.fans import Axes


@initializer
def orthogonal(
    scale: float = 1.0, column_axis: int = -1, batch_axis: Axes = (), dtype: DType = None
) -> Draw:
    """`scale` times a uniformly distributed (Haar) matrix with orthonormal rows or columns.

    The matrix has `column_axis` as its columns and all other axes, but `batch_axis`, as its rows;
    the smaller side is orthonormal. It is Q of the QR decomposition of a Gaussian matrix, with the
    signs that make R's diagonal positive. Complex dtypes give unitary matrices.

    16-bit types are decomposed in float32 and rounded. With `out_sharding` the decomposition is
    made whole, each device doing all of it, and then cut: the maths allows no less.

    Args:
        scale: a factor, such as a gain.
        column_axis: the axis of the outputs.
        batch_axis: axes of independent matrices, each orthogonal by itself (a scan's layers).
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes of at least two axes besides `batch_axis`.

    Raises:
        ValueError: for a non-finite scale; when called, for a shape without these axes.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> kernel = flax_inits.orthogonal(batch_axis=0)(jax.random.key(0), (12, 64, 64))
    >>> bool(jnp.allclose(kernel[7].T @ kernel[7], jnp.eye(64), atol=1e-5))
    True

    Reference:
        Saxe et al. 2014, Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks, https://arxiv.org/abs/1312.6120; Mezzadri 2007, How to generate random
        matrices from the classical compact groups, https://arxiv.org/abs/math-ph/0609050
    """
    factor = checks.number("orthogonal", "scale", scale)
    column = checks.axes("orthogonal", "column_axis", column_axis)
    batch = checks.axes("orthogonal", "batch_axis", batch_axis)
    if len(column) != 1:
        raise ValueError(f"orthogonal needs one column_axis, got column_axis={column_axis!r}.")

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        order = _matrix_order(column, batch, shape)
        if checks.is_empty(shape):
            return jnp.zeros(shape, dtype)
        sizes = [shape[axis] for axis in order]
        rows, columns = math.prod(sizes[len(batch) : -1]), sizes[-1]
        matrices = haar(key, tuple(sizes[: len(batch)]), rows, columns, dtype)
        return matrices.reshape(sizes).transpose(np.argsort(order)) * dtype.type(factor)

    return Draw(sample, kinds=(jnp.inexact,))


@initializer
def delta_orthogonal(scale: float = 1.0, column_axis: int = -1, dtype: DType = None) -> Draw:
    """A convolution kernel that is an `orthogonal` matrix at its centre tap and zero elsewhere.

    Under SAME padding and stride 1 the layer keeps norms: a deep linear stack is an isometry.
    For in > out, which jax rejects, the outputs are orthonormal mixtures of the inputs.

    Args:
        scale: a factor, such as a gain.
        column_axis: -1 for (in, out), -2 for the transpose's values.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in, out) with one window axis or more.

    Raises:
        ValueError: for a non-finite scale or another `column_axis`; when called, for a shape
            without a window.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> kernel = flax_inits.delta_orthogonal()(jax.random.key(0), (3, 3, 4, 8))
    >>> bool(jnp.allclose(kernel[1, 1] @ kernel[1, 1].T, jnp.eye(4), atol=1e-5))
    True

    Reference:
        Xiao et al. 2018, Dynamical Isometry and a Mean Field Theory of CNNs,
        https://arxiv.org/abs/1806.05393
    """
    factor = checks.number("delta_orthogonal", "scale", scale)
    if column_axis not in (-1, -2):
        raise ValueError(
            f"delta_orthogonal needs column_axis -1 (out) or -2 (in), got {column_axis!r}."
        )

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        hint = "Use orthogonal for a matrix."
        checks.rank("delta_orthogonal", shape, 3, "(*window, in, out)", hint)
        zeros = jnp.zeros(shape, dtype)
        if checks.is_empty(shape):
            return zeros
        rows, columns = shape[-2:] if column_axis == -1 else shape[:-3:-1]
        matrix = haar(key, (), rows, columns, dtype) * dtype.type(factor)
        centre = tuple((size - 1) // 2 for size in shape[:-2])
        return zeros.at[centre].set(matrix if column_axis == -1 else matrix.T)

    return Draw(sample, kinds=(jnp.inexact,))


def haar(key: Key, batch: tuple, rows: Any, columns: Any, dtype: np.dtype) -> Array:
    """Matrices (*batch, rows, columns) with orthonormal columns, or rows where these are fewer."""
    wide = rows < columns
    tall = (*batch, columns, rows) if wide else (*batch, rows, columns)
    q, r = jnp.linalg.qr(complex_draws.normal(key, tall, dtype))
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    # LAPACK leaves the signs of R's diagonal to chance; Q is Haar only where they are positive.
    signs = jnp.where(diagonal == 0, dtype.type(1), jnp.sign(diagonal))
    q = q * signs[..., None, :]
    return jnp.swapaxes(q, -2, -1) if wide else q


def _matrix_order(column: tuple, batch: tuple, shape: tuple) -> list[int]:
    """The axes of `shape` as (*batch, *rows, column)."""
    last = checks.wrapped("orthogonal", "column_axis", column, len(shape))
    first = checks.wrapped("orthogonal", "batch_axis", batch, len(shape))
    rows = [axis for axis in range(len(shape)) if axis not in (*first, *last)]
    if not rows or set(first) & set(last):
        raise ValueError(
            f"orthogonal needs a row and a column axis besides batch_axis={batch}, got shape "
            f"{shape} with column_axis={column[0]}."
        )
    return [*first, *rows, *last]
