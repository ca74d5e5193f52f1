"""Kernels with a structure: identity, exact sparsity, constants with a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits, checks
from ..._base.types import Array, DType, Key
from .._build.component import component
from .._build.configured import Draw, initializer
from ..general.uniform_normal import normal

SMALL_NORMAL = normal(0.01)


@initializer
def identity(gain: float = 1.0, batched: bool = True, dtype: DType = None) -> Draw:
    """`gain` on the diagonal of the last two axes, zero elsewhere.

    Args:
        gain: the value on the diagonal.
        batched: whether leading axes are allowed, each of their entries an identity of its own.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for arrays of shape (*batch, in, out), square or not; it uses no key.

    Raises:
        ValueError: for a non-finite gain; when called, for a shape of another rank.

    >>> import flax_inits, jax
    >>> flax_inits.identity(2.0)(jax.random.key(0), (2, 3))
    Array([[2., 0., 0.],
           [0., 2., 0.]], dtype=float32)

    Reference:
        Le et al. 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units,
        https://arxiv.org/abs/1504.00941
    """
    value = checks.number("identity", "gain", gain)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("identity", shape, 2, "(in, out)")
        if len(shape) > 2 and not batched:
            raise ValueError(
                f"identity(batched=False) needs a shape (in, out), got {shape}; "
                "use batched=True for an identity in each leading entry."
            )
        rows, columns = (jax.lax.broadcasted_iota(np.int32, shape, len(shape) - n) for n in (2, 1))
        return jnp.where(rows == columns, dtype.type(value), dtype.type(0))

    return Draw(sample, kinds=(jnp.inexact,))


@initializer
def sparse(
    sparsity: float,
    base: Callable[..., Array] = SMALL_NORMAL,
    axis: int = -2,
    dtype: DType = None,
) -> Draw:
    """Values of `base` with exactly `⌈sparsity · n⌉` zeros along `axis`, elsewhere in each column.

    Which ones is settled along the whole axis: devices that share it exchange random numbers.

    Args:
        sparsity: the share of zeros, from 0 to 1.
        base: the initializer of the values; called with the whole shape.
        axis: the axis of size n that holds the zeros: -2 gives each output that many zero inputs.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape that has `axis`.

    Raises:
        ValueError: unless 0 <= sparsity <= 1; when called, for a shape without `axis`.
        TypeError: if `base` cannot be called.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.sparse(0.8)(jax.random.key(0), (10, 4))
    >>> (kernel == 0).sum(axis=0)
    Array([8, 8, 8, 8], dtype=int32)

    Reference:
        Martens 2010, Deep learning via Hessian-free optimization,
        https://www.cs.toronto.edu/~jmartens/docs/Deep_HessianFree.pdf
    """
    share = checks.non_negative("sparse", "sparsity", sparsity)
    if share > 1:
        raise ValueError(f"sparse needs 0 <= sparsity <= 1, got sparsity={sparsity!r}.")
    # 0.55 is 11/20, of which 0.55 * 100 = 55.00000000000001 knows nothing.
    exact = Fraction(share).limit_denominator(10**9)
    draw = component("sparse", "base", base)
    chosen = checks.axes("sparse", "axis", axis)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        (along,) = checks.wrapped("sparse", "axis", chosen, len(shape))
        key_values, key_order = jax.random.split(key)
        # The ranks of random numbers are a random permutation: ties cannot change the count.
        order = jnp.argsort(bits.uniform(key_order, shape, np.dtype(np.float32), 0, 1), axis=along)
        zeros = _share_of(exact, shape[along])
        return jnp.where(order < zeros, dtype.type(0), draw.sample(key_values, shape, dtype))

    lower, upper = min(draw.lower, 0.0), max(draw.upper, 0.0)
    return Draw(sample, lower, upper, (jnp.inexact,), dtype=draw.dtype)


@initializer
def layer_scale(value: float = 1e-5, dtype: DType = None) -> Draw:
    """`value` everywhere: the small factor on a residual branch that LayerScale starts from.

    Args:
        value: the factor; 0.1 up to 18 layers deep, 1e-5 up to 24, 1e-6 beyond, in the paper.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape; it uses no key.

    Raises:
        ValueError: for a non-finite value.

    >>> import flax_inits, jax
    >>> flax_inits.layer_scale(0.1)(jax.random.key(0), (3,))
    Array([0.1, 0.1, 0.1], dtype=float32)

    Reference:
        Touvron et al. 2021, Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239
    """
    number = checks.number("layer_scale", "value", value)
    return Draw(lambda key, shape, dtype: jnp.full(shape, number, dtype))


@initializer
def prior_bias(p: float = 0.01, dtype: DType = None) -> Draw:
    """`log(p / (1 - p))` everywhere: a sigmoid output then starts at the prior probability `p`.

    Args:
        p: the probability of the rare class, between 0 and 1.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape; it uses no key.

    Raises:
        ValueError: unless 0 < p < 1.

    >>> import flax_inits, jax
    >>> bias = flax_inits.prior_bias(0.01)(jax.random.key(0), (2,))
    >>> jax.nn.sigmoid(bias).round(4)
    Array([0.01, 0.01], dtype=float32)

    Reference:
        Lin et al. 2017, Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002
    """
    probability = checks.number("prior_bias", "p", p)
    if not 0 < probability < 1:
        raise ValueError(f"prior_bias needs 0 < p < 1, got p={p!r}.")
    logit = math.log(probability) - math.log1p(-probability)
    return Draw(lambda key, shape, dtype: jnp.full(shape, logit, dtype))


def _share_of(share: Fraction, size: Any) -> Any:
    """⌈share · size⌉, in whole numbers."""
    if jax.export.is_symbolic_dim(size):
        share = share.limit_denominator(46_340)  # whose square still is a 32-bit integer
    whole, rest = divmod(size, share.denominator)
    return share.numerator * whole - (-share.numerator * rest) // share.denominator
