"""State-space models and linear recurrent units: decay rates, step sizes, transition matrices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits, checks
from ..._base.types import Array, DType, Key
from .._build.configured import Draw, initializer


@initializer
def mamba_a_log(
    kind: str = "s4d_real", lo: float = 1.0, hi: float = 16.0, dtype: DType = None
) -> Draw:
    """The logarithm of Mamba's decay rates: log(1), ..., log(N), or log U(lo, hi).

    Args:
        kind: "s4d_real" (Mamba), 1..N along the last axis, or "uniform" (Mamba-2), drawn.
        lo: the smallest rate of "uniform".
        hi: the largest rate of "uniform".
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*channels, N), or any shape for "uniform"; A = -exp(values).

    Raises:
        ValueError: for an unknown kind, unless 0 < lo < hi, or for either with "s4d_real"; when
            called, for a shape without axes.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> jnp.exp(flax_inits.mamba_a_log()(jax.random.key(0), (2, 3))).round(2)
    Array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)

    Reference:
        Gu & Dao 2023, Mamba, https://arxiv.org/abs/2312.00752; Dao & Gu 2024, Transformers are
        SSMs, https://arxiv.org/abs/2405.21060
    """
    checks.one_of("mamba_a_log", "kind", kind, ("s4d_real", "uniform"))
    low, high = checks.positive("mamba_a_log", "lo", lo), checks.positive("mamba_a_log", "hi", hi)
    checks.ordered("mamba_a_log", "lo", lo, "hi", hi)
    if kind == "s4d_real" and (low, high) != (1, 16):
        raise ValueError(
            f"mamba_a_log takes lo and hi only with kind='uniform', got lo={lo!r}, hi={hi!r} with "
            f"{kind!r}; leave them out."
        )

    def drawn(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        return jnp.log(bits.uniform(key, shape, dtype, low, high))

    def counted(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("mamba_a_log", shape, 1, "(*channels, N)")
        if jax.export.is_symbolic_dim(shape[-1]):
            return jnp.log(jax.lax.broadcasted_iota(dtype, shape, len(shape) - 1) + 1)
        return jnp.broadcast_to(jnp.asarray(np.log(np.arange(1, shape[-1] + 1)), dtype), shape)

    if kind == "uniform":
        return Draw(drawn, math.log(low), math.log(high))
    return Draw(counted, 0.0)


@initializer
def mamba_dt_bias(
    dt_min: float = 1e-3, dt_max: float = 0.1, floor: float = 1e-4, dtype: DType = None
) -> Draw:
    """softplus⁻¹ of step sizes that are log-uniform between `dt_min` and `dt_max`.

    Args:
        dt_min: the smallest step.
        dt_max: the largest step.
        floor: no step is smaller, whatever `dt_min`.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        ValueError: unless 0 < dt_min < dt_max and floor > 0.

    >>> import flax_inits, jax
    >>> steps = jax.nn.softplus(flax_inits.mamba_dt_bias()(jax.random.key(0), (1000,)))
    >>> round(float(steps.min()), 3), round(float(steps.max()), 1)
    (0.001, 0.1)

    Reference:
        Gu & Dao 2023, Mamba, https://arxiv.org/abs/2312.00752
    """
    low = checks.positive("mamba_dt_bias", "dt_min", dt_min)
    high = checks.positive("mamba_dt_bias", "dt_max", dt_max)
    checks.ordered("mamba_dt_bias", "dt_min", dt_min, "dt_max", dt_max)
    least = checks.positive("mamba_dt_bias", "floor", floor)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        logs = bits.uniform(key, shape, dtype, math.log(low), math.log(high))
        steps = jnp.maximum(jnp.exp(logs), dtype.type(least))
        return steps + jnp.log(-jnp.expm1(-steps))

    return Draw(sample)


@initializer
def hippo_legs(dtype: DType = None) -> Draw:
    """The HiPPO-LegS transition matrix, with S4's sign.

    A[n, k] = `-√((2n + 1)(2k + 1))` for n > k, `-(n + 1)` for n = k, else 0.

    Args:
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*batch, N, N), the same in each batch entry; it uses no key.

    Raises:
        ValueError: when called, for a shape that is not square.

    >>> import flax_inits, jax
    >>> flax_inits.hippo_legs()(jax.random.key(0), (3, 3)).round()
    Array([[-1.,  0.,  0.],
           [-2., -2.,  0.],
           [-2., -4., -3.]], dtype=float32)

    Reference:
        Gu et al. 2020, HiPPO, https://arxiv.org/abs/2008.07669; Gu et al. 2022, S4,
        https://arxiv.org/abs/2111.00396
    """

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("hippo_legs", shape, 2, "(N, N)")
        if shape[-2] != shape[-1]:
            raise ValueError(f"hippo_legs needs a square shape (N, N), got {shape}.")
        row, column = (jax.lax.broadcasted_iota(dtype, shape, len(shape) - n) for n in (2, 1))
        below = -jnp.sqrt((2 * row + 1) * (2 * column + 1))
        return jnp.where(row > column, below, jnp.where(row == column, -(row + 1), 0))

    return Draw(sample, upper=0.0)


@initializer
def lru_nu_log(r_min: float, r_max: float, dtype: DType = None) -> Draw:
    """`log(-½ log(u(r_max² - r_min²) + r_min²))`, u ~ U(0, 1): |λ| uniform on a ring.

    Args:
        r_min: the inner radius of the ring, at least 0.
        r_max: the outer radius, at most 1.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape; |λ| = exp(-exp(values)).

    Raises:
        ValueError: unless 0 <= r_min < r_max <= 1.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> radius = jnp.exp(-jnp.exp(flax_inits.lru_nu_log(0.9, 0.999)(jax.random.key(0), (1000,))))
    >>> round(float(radius.min()), 2), round(float(radius.max()), 3)
    (0.9, 0.999)

    Reference:
        Orvieto et al. 2023, Resurrecting Recurrent Neural Networks for Long Sequences,
        https://arxiv.org/abs/2303.06349
    """
    inner = checks.non_negative("lru_nu_log", "r_min", r_min)
    outer = checks.number("lru_nu_log", "r_max", r_max)
    if not inner < outer <= 1:
        raise ValueError(
            f"lru_nu_log needs 0 <= r_min < r_max <= 1, got r_min={r_min!r}, r_max={r_max!r}."
        )
    outside, ring = (1 - outer) * (1 + outer), (outer - inner) * (outer + inner)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        # 1 - |λ|² is what is drawn: near the unit circle |λ|² itself would round to 1.
        missing = _open_uniform(key, shape, dtype) * dtype.type(ring) + dtype.type(outside)
        return jnp.log(-jnp.log1p(-missing) / 2)

    return Draw(sample, _nu_log(outer), _nu_log(inner))


@initializer
def lru_theta_log(max_phase: float = 6.28, dtype: DType = None) -> Draw:
    """`log(max_phase · u)`, u ~ U(0, 1): the logarithm of λ's phase.

    Args:
        max_phase: the largest phase, in radians.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        ValueError: unless max_phase > 0.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> phase = jnp.exp(flax_inits.lru_theta_log()(jax.random.key(0), (1000,)))
    >>> round(float(phase.max()), 1)
    6.3

    Reference:
        Orvieto et al. 2023, Resurrecting Recurrent Neural Networks for Long Sequences,
        https://arxiv.org/abs/2303.06349
    """
    phase = checks.positive("lru_theta_log", "max_phase", max_phase)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        return jnp.log(_open_uniform(key, shape, dtype) * dtype.type(phase))

    return Draw(sample, upper=math.log(phase))


def _open_uniform(key: Key, shape: tuple, dtype: np.dtype) -> Array:
    """U(0, 1) without 0 and 1, whose logarithms are infinite."""
    return bits.uniform(key, shape, dtype, 0.0, 1.0) + dtype.type(jnp.finfo(dtype).eps / 2)


def _nu_log(radius: float) -> float:
    if radius in (0, 1):
        return math.inf if radius == 0 else -math.inf
    return math.log(-math.log(radius))
