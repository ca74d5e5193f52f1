"""The truncated normal, and its moments."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.checks import interval, one_of, spread
from ..._base.types import Array, DType, Key
from .._build.configured import Draw, initializer
from .._build.rounding import clip, round_inwards

# erf at more than 1.15 is too close to 1 for a float32 draw between it and 1 to stay below 1.
TAIL = 1.0
# Up to here, Q(z) times the smallest draw does not underflow.
INVERTIBLE = {"float32": 10.0, "float64": 30.0}
# Beyond, float32 cannot tell the values of the tail apart.
FARTHEST = 1000.0


@initializer
def truncated_normal(
    stddev: float,
    mean: float = 0.0,
    lower: float = -2.0,
    upper: float = 2.0,
    bounds: str = "sigma",
    correct_std: bool = False,
    dtype: DType = None,
):
    """Gaussian, conditioned on an interval.

        w ~ N(mean, s^2) given mean + lower s <= w <= mean + upper s    (bounds="sigma")
        w ~ N(mean, s^2) given lower <= w <= upper                      (bounds="absolute")

    with s = `stddev`; with `correct_std`, s is such that the values' own standard deviation is
    `stddev`. Tails are sampled by inverting the survival function.

    Args:
        stddev: the standard deviation s before truncation, or of the values (`correct_std`). It
            comes first, unlike in torch; 0 gives zeros.
        mean: the mean before truncation.
        lower: the lower end; may be infinite.
        upper: the upper end; may be infinite.
        bounds: "sigma" if the ends count standard deviations from the mean (jax, haiku, timm's
            `trunc_normal_tf_`), "absolute" if they are values (torch, timm).
        correct_std: whether `stddev` is that of the values.
        dtype: the dtype where a call gives none; None is JAX's default float.

    Returns:
        An initializer. With ends in sigmas that are no far tail its values are those of
        `jax.random.truncated_normal(key, lower, upper, shape, dtype) * s + mean`.

    Raises:
        TypeError: an argument is no number.
        ValueError: `stddev` is negative, or 0 with a mean, the ends are not in order, the interval
            is more than 1000 s away from the mean, or no truncated normal has that `stddev`.

    >>> import flax_inits, jax
    >>> init = flax_inits.truncated_normal(0.02, correct_std=True)
    >>> init(jax.random.key(0), (3, 4)).shape
    (3, 4)

    Reference:
        `jax.nn.initializers.truncated_normal`, `torch.nn.init.trunc_normal_`; the three
        meanings of bounds: flax#4091, jax#10951.
    """
    scale, centre = spread("truncated_normal", stddev, mean)
    one_of("truncated_normal", "bounds", bounds, ("sigma", "absolute"))
    interval("truncated_normal", lower, upper)
    absolute = bounds == "absolute"
    if not scale:
        return _zeros(lower, upper, absolute)
    if correct_std:
        scale = _scale_for(scale, centre, lower, upper, absolute)
    low, high = (lower - centre, upper - centre) if absolute else (lower * scale, upper * scale)
    ends = (low / scale, high / scale) if absolute else (float(lower), float(upper))
    if max(ends[0], -ends[1]) > FARTHEST:
        raise ValueError(
            f"truncated_normal needs an interval that begins within {FARTHEST:g} standard "
            f"deviations of the mean, got {lower=} and {upper=}, {max(ends[0], -ends[1]):g} away."
        )
    low, high = (lower, upper) if absolute else (low + centre, high + centre)
    # Doubling and halving are exact: such ends in sigmas hold without another look.
    exact = not (absolute or centre) and _is_power_of_two(lower) and _is_power_of_two(upper)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        values = standard(key, shape, dtype, *ends) * scale
        values = values + centre if centre else values
        return values if exact else clip(values, *round_inwards(low, high, dtype))

    return Draw(sample, float(low), float(high))


def _is_power_of_two(value: float) -> bool:
    return math.isinf(value) or not value or math.frexp(abs(value))[0] == 0.5


def _zeros(lower: float, upper: float, absolute: bool) -> Draw:
    """The limit of a vanishing standard deviation."""
    if absolute and not lower <= 0 <= upper:
        raise ValueError(
            f"truncated_normal with stddev=0 needs bounds around 0, got {lower=}, {upper=}."
        )
    return Draw(lambda key, shape, dtype: jnp.zeros(shape, dtype), pieces=((1.0, 0.0, 0.0),))


def standard(key: Key, shape: tuple, dtype: np.dtype, lower: float, upper: float) -> Array:
    """Draws N(0, 1) given lower <= z <= upper, tails included."""
    if lower > TAIL:
        return _tail(key, shape, dtype, lower, upper)
    if upper < -TAIL:
        return -_tail(key, shape, dtype, -upper, -lower)
    return bits.truncated_normal(key, shape, dtype, lower, upper)


def _tail(key: Key, shape: tuple, dtype: np.dtype, lower: float, upper: float) -> Array:
    """Inverts the survival function Q: Q(z) = Q(lower) (1 - share u), with a uniform u."""
    share = moments(lower, upper)[0] / moments(lower, np.inf)[0]
    left = 1 - share * bits.uniform(key, shape, dtype, 0.0, 1.0)
    if lower <= INVERTIBLE[np.dtype(dtype).name]:
        from jax.scipy.special import ndtri  # it takes longer to import than this package

        z = -ndtri(0.5 * math.erfc(lower / math.sqrt(2)) * left)
    else:
        z = _far_tail(left, lower)
    return clip(z, *round_inwards(lower, upper, dtype))


def _far_tail(left: Array, lower: float) -> Array:
    """The z whose Q(z) is `left` of Q(lower), where Q itself would underflow.

    Q(z) = exp(-z^2/2) m(z) / sqrt(2 pi); z^2 = lower^2 - 2 log(left) + 2 log(m(z) / m(lower))
    contracts by 1/z^2 in each step, and Mills' ratio m is z^-1 - z^-3 + 3 z^-5 - 15 z^-7 + ...
    """
    squared = lower * lower - 2 * jnp.log(left)

    def series(inverse: Any) -> Any:
        return 1 + inverse * (-1 + inverse * (3 + inverse * (-15 + inverse * 105)))

    whole = 2 * math.log(series(lower**-2) / lower)
    z2 = squared
    for _ in range(4):
        z2 = squared - jnp.log(z2) + 2 * jnp.log(series(1 / z2)) - whole
    return jnp.sqrt(z2)


def moments(lower: float, upper: float) -> tuple[float, float, float]:
    """Mass, mean and standard deviation of N(0, 1) within [lower, upper].

    By Gauss-Legendre quadrature outwards from the densest point p, so that nothing cancels; the
    mass is in units of the density at p.
    """
    p = min(max(0.0, lower), upper)
    reach = 80 / (math.hypot(p, math.sqrt(80)) + abs(p))  # density 4e-18 of that at p
    low, high = max(lower - p, -reach), min(upper - p, reach)
    nodes, weights = _quadrature()
    y = low + (high - low) * (nodes + 1) / 2
    mass = weights * np.exp(-y * (y + 2 * p) / 2) * (high - low) / 2
    mean = (mass @ y) / mass.sum()
    spread = math.sqrt((mass @ (y - mean) ** 2) / mass.sum())
    return float(mass.sum()), float(p + mean), spread


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(200)


def _scale_for(stddev: float, mean: float, lower: float, upper: float, absolute: bool) -> float:
    """The scale of the normal whose truncation has the standard deviation `stddev`."""
    if not absolute:
        return stddev / moments(lower, upper)[2]
    most = (upper - lower) / math.sqrt(12)
    if stddev >= most:
        raise ValueError(
            f"truncated_normal cannot have stddev={stddev} within [{lower}, {upper}]: it must be "
            f"below that of a uniform, {most:g}."
        )

    def excess(scale: float) -> float:
        return scale * moments((lower - mean) / scale, (upper - mean) / scale)[2] - stddev

    low, high = stddev, 2 * stddev  # truncation never widens, so `low` is too small
    while excess(high) < 0 and high < 1e6 * stddev:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high
