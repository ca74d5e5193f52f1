"""Draws that are real or complex, as the dtype says: what variance scaling scales."""

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.types import Array, Key

COMPLEX_TRUNCATED_STD = float(np.sqrt(1 - 4 * np.exp(-4) / -np.expm1(-4)))
"""√E|z|² where |z|² ~ Exp(1) within |z| < 2: √(1 - 4e⁻⁴/(1 - e⁻⁴)) = 0.96196."""


def is_complex(dtype: np.dtype) -> bool:
    """Whether values of `dtype` have an imaginary part."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def real_part(dtype: np.dtype) -> np.dtype:
    """The dtype of the real part of values of `dtype`."""
    return np.finfo(dtype).dtype if is_complex(dtype) else dtype


def normal(key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """Draws N(0, 1), or the circular complex normal with E|z|² = 1."""
    if not is_complex(dtype):
        return bits.normal(key, shape, dtype)
    keys, part = jax.random.split(key), real_part(dtype)
    real, imaginary = (bits.normal(k, shape, part) for k in keys)
    return jax.lax.complex(real, imaginary) / dtype.type(np.sqrt(2))


def truncated_normal(key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """Draws N(0, 1) within (-2, 2), or the circular complex normal within |z| < 2."""
    if not is_complex(dtype):
        return bits.truncated_normal(key, shape, dtype, -2.0, 2.0)
    key_radius, key_angle = jax.random.split(key)
    part = real_part(dtype)
    share = part.type(-np.expm1(-4)) * bits.uniform(key_radius, shape, part, 0.0, 1.0)
    return _polar(-jnp.log1p(-share), key_angle)


def uniform(key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """Draws U[-1, 1), or uniformly from the complex disk of radius √2."""
    if not is_complex(dtype):
        return bits.uniform(key, shape, dtype, -1.0, 1.0)
    key_radius, key_angle = jax.random.split(key)
    return _polar(2 * bits.uniform(key_radius, shape, real_part(dtype), 0.0, 1.0), key_angle)


def _polar(squared_radius: Array, key: Key) -> Array:
    radius = jnp.sqrt(squared_radius)
    angle = bits.uniform(key, radius.shape, radius.dtype, -np.pi, np.pi)
    return jax.lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))
