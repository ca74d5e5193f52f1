"""Variance scaling: kernels whose variance is a scale over a fan."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import checks
from ..._base.types import DType
from .._build import complex_draws
from .._build.complex_draws import COMPLEX_TRUNCATED_STD, is_complex, real_part
from .._build.configured import Draw, initializer
from .._build.fans import MODES, Axes, Fans, root, scaled_by_shape

TRUNCATED_STD = 0.87962566103423978
"""The standard deviation of N(0, 1) within (-2, 2)."""

# Sampler, and how far its real values reach.
_DISTRIBUTIONS = {
    "truncated_normal": (complex_draws.truncated_normal, 2.0),
    "normal": (complex_draws.normal, np.inf),
    "uniform": (complex_draws.uniform, 1.0),
}


@initializer
def variance_scaling(
    scale: float,
    mode: str,
    distribution: str,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    fan_in: float | None = None,
    fan_out: float | None = None,
    dtype: DType = None,
) -> Draw:
    """Mean 0 and variance `scale / fan`, where the fan is read off the shape.

    `fan_in` is the product of all axes but `out_axis` and `batch_axis`; `fan_out` of all but
    `in_axis` and `batch_axis`, divided by `groups`. Axes that are neither (a convolution's window)
    count in both.

    Args:
        scale: the numerator, at least 0; at 0 all values are 0.
        mode: "fan_in", "fan_out", "fan_avg" (their mean) or "fan_geo_avg" (their geometric mean).
        distribution: "truncated_normal" (cut at two standard deviations, variance kept), "normal"
            or "uniform". Complex dtypes have E|z|² = scale / fan, and are cut or uniform in |z|.
        in_axis: the axis, or axes, that sum into one output.
        out_axis: the axis, or axes, of the outputs; may equal `in_axis`, as in `nn.Embed`.
        batch_axis: axes of independent kernels (a stack of layers, of experts).
        groups: `feature_group_count` of a convolution with kernel (*window, in / groups, out).
        fan_in: this number instead of the shape's; with both unused, any rank is legal.
        fan_out: the same for the outputs.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for a negative or non-finite scale, an unknown mode or distribution; when
            called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> init = flax_inits.variance_scaling(2.0, "fan_out", "normal", groups=256)
    >>> kernel = init(jax.random.key(0), (3, 3, 1, 256))
    >>> round(float(kernel.std()), 1)  # √(2 / 9), not √(2 / (9 · 256))
    0.5

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    fans = Fans("variance_scaling", in_axis, out_axis, batch_axis, groups, fan_in, fan_out)
    return scaled_variance(fans, scale, mode, distribution)


def scaled_variance(fans: Fans, scale: float, mode: str, distribution: str) -> Draw:
    """`variance_scaling` for the factory that the fans are of, whose name errors bear."""
    numerator = checks.non_negative(fans.factory, "scale", scale)
    checks.one_of(fans.factory, "mode", mode, tuple(MODES))
    checks.one_of(fans.factory, "distribution", distribution, tuple(_DISTRIBUTIONS))
    sample, reach = _DISTRIBUTIONS[distribution]

    def factor(shape: tuple, dtype: np.dtype) -> Any:
        variance = numerator / fans.of(mode, shape)
        if distribution == "uniform" and not is_complex(dtype):
            return root(variance, dtype, times=3)
        if distribution == "truncated_normal":
            std = COMPLEX_TRUNCATED_STD if is_complex(dtype) else TRUNCATED_STD
            return root(variance, dtype) / real_part(dtype).type(std)
        return root(variance, dtype)

    return scaled_by_shape(sample, factor, reach, kinds=(jnp.inexact,))
