"""Variance scaling under the names, and with the meaning, that jax gives it."""

from __future__ import annotations

from ..._base.types import DType
from .._build.configured import Draw, initializer
from .._build.fans import Axes, Fans
from .scaling import scaled_variance


@initializer
def lecun_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Normal of variance `1 / fan_in`, cut at two standard deviations.

    As `jax.nn.initializers.lecun_normal`: `variance_scaling(1.0, "fan_in", "truncated_normal")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.lecun_normal()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(1 / 300)
    0.06

    Reference:
        LeCun et al. 1998, Efficient BackProp, https://doi.org/10.1007/3-540-49430-8_2
    """
    fans = Fans("lecun_normal", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 1.0, "fan_in", "truncated_normal")


@initializer
def lecun_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Uniform of variance `1 / fan_in`.

    As `jax.nn.initializers.lecun_uniform`: `variance_scaling(1.0, "fan_in", "uniform")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.lecun_uniform()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(1 / 300)
    0.06

    Reference:
        LeCun et al. 1998, Efficient BackProp, https://doi.org/10.1007/3-540-49430-8_2
    """
    fans = Fans("lecun_uniform", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 1.0, "fan_in", "uniform")


@initializer
def he_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Normal of variance `2 / fan_in`, cut at two standard deviations.

    Not `kaiming_normal`, though both names are He's: that one has torch's meaning, the same
    variance without the cut. As `jax.nn.initializers.he_normal`, which jax calls `kaiming_normal`
    too: `variance_scaling(2.0, "fan_in", "truncated_normal")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.he_normal()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(2 / 300)
    0.08

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    fans = Fans("he_normal", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 2.0, "fan_in", "truncated_normal")


@initializer
def he_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Uniform of variance `2 / fan_in`.

    `kaiming_uniform()` is the same distribution. As `jax.nn.initializers.he_uniform`:
    `variance_scaling(2.0, "fan_in", "uniform")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.he_uniform()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(2 / 300)
    0.08

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    fans = Fans("he_uniform", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 2.0, "fan_in", "uniform")


@initializer
def glorot_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Normal of variance `2 / (fan_in + fan_out)`, cut at two standard deviations.

    Not `xavier_normal`, though both names are Xavier Glorot's: that one has torch's meaning, the
    same variance without the cut. As `jax.nn.initializers.glorot_normal`, which jax calls
    `xavier_normal` too: `variance_scaling(1.0, "fan_avg", "truncated_normal")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.glorot_normal()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(2 / 400)
    0.07

    Reference:
        Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fans = Fans("glorot_normal", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 1.0, "fan_avg", "truncated_normal")


@initializer
def glorot_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
    *,
    groups: int = 1,
) -> Draw:
    """Uniform of variance `2 / (fan_in + fan_out)`.

    `xavier_uniform()` is the same distribution. As `jax.nn.initializers.glorot_uniform`:
    `variance_scaling(1.0, "fan_avg", "uniform")`.

    Args:
        in_axis, out_axis, batch_axis, dtype, groups: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.glorot_uniform()(jax.random.key(0), (300, 100))
    >>> round(float(kernel.std()), 2)  # √(2 / 400)
    0.07

    Reference:
        Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fans = Fans("glorot_uniform", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, 1.0, "fan_avg", "uniform")
