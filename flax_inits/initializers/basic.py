"""Constants and the plain distributions."""

import numpy as np

from .. import _bits
from .._types import DType
from ._base import Draw, initializer


@initializer
def uniform(minval: float, maxval: float, dtype: DType = None):
    """Uniform over [minval, maxval).

    >>> import flax_inits, jax
    >>> flax_inits.uniform(-0.05, 0.05)
    uniform(-0.05, 0.05)
    """
    if not (np.isfinite(minval) and np.isfinite(maxval) and minval < maxval):
        raise ValueError(f"uniform needs finite minval < maxval, got minval={minval}, {maxval=}.")
    return Draw(
        lambda key, shape, dtype: _bits.uniform(key, shape, dtype, minval, maxval), minval, maxval
    )


@initializer
def normal(stddev: float, mean: float = 0.0, dtype: DType = None):
    """Gaussian."""
    return Draw(lambda key, shape, dtype: _bits.normal(key, shape, dtype) * stddev + mean)
