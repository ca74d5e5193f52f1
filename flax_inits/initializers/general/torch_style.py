"""PyTorch's initializers: untruncated, with a gain for the nonlinearity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._base import checks
from ..._base.types import DType
from .._build.configured import Draw, initializer
from .._build.fans import Axes, Fans
from .gains import calculate_gain
from .scaling import scaled_variance


@initializer
def xavier_uniform(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    dtype: DType = None,
) -> Draw:
    """Uniform within `±gain · √(6 / (fan_in + fan_out))`, as torch's `xavier_uniform_`.

    Args:
        gain: a factor, at least 0, such as `calculate_gain("tanh")`.
        in_axis, out_axis, batch_axis, groups, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for a negative or non-finite gain; when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.xavier_uniform()(jax.random.key(0), (300, 300))
    >>> round(float(abs(kernel).max()), 2)
    0.1

    Reference:
        Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    scale = checks.non_negative("xavier_uniform", "gain", gain) ** 2
    fans = Fans("xavier_uniform", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, scale, "fan_avg", "uniform")


@initializer
def xavier_normal(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    dtype: DType = None,
) -> Draw:
    """Normal, not truncated, with std `gain · √(2 / (fan_in + fan_out))`.

    Not `glorot_normal`, though both names are Xavier Glorot's: that one has jax's meaning, the same
    variance but cut at two standard deviations. As torch's `xavier_normal_`; jax's `xavier_normal`
    is `glorot_normal`.

    Args:
        gain: a factor, at least 0, such as `calculate_gain("tanh")`.
        in_axis, out_axis, batch_axis, groups, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for a negative or non-finite gain; when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.xavier_normal()(jax.random.key(0), (100, 100))
    >>> round(float(kernel.std()), 2)
    0.1

    Reference:
        Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    scale = checks.non_negative("xavier_normal", "gain", gain) ** 2
    fans = Fans("xavier_normal", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, scale, "fan_avg", "normal")


@initializer
def kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str | Callable[[Any], Any] = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    dtype: DType = None,
) -> Draw:
    """Uniform within `±gain · √(3 / fan)`, as torch's `kaiming_uniform_`.

    Args:
        a: the negative slope of "leaky_relu"; other nonlinearities take none.
        mode: "fan_in" (keeps the forward pass's variance) or "fan_out" (the backward pass's).
        nonlinearity: what `calculate_gain` takes: a name, or a function such as `jax.nn.gelu`.
        in_axis, out_axis, batch_axis, groups, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for an unknown mode or nonlinearity, or an `a` that has no meaning; when called,
            for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.kaiming_uniform()(jax.random.key(0), (600, 100))
    >>> round(float(abs(kernel).max()), 2)
    0.1

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    scale = _kaiming_scale("kaiming_uniform", a, mode, nonlinearity)
    fans = Fans("kaiming_uniform", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, scale, mode, "uniform")


@initializer
def kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str | Callable[[Any], Any] = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    dtype: DType = None,
) -> Draw:
    """Normal, not truncated, with std `gain / √fan`, as torch's `kaiming_normal_`.

    Not `he_normal`, though both names are Kaiming He's: that one has jax's meaning, by default the
    same variance but cut at two standard deviations. jax's `kaiming_normal` is `he_normal`.

    Args:
        a: the negative slope of "leaky_relu"; other nonlinearities take none.
        mode: "fan_in" (keeps the forward pass's variance) or "fan_out" (the backward pass's).
        nonlinearity: what `calculate_gain` takes: a name, or a function such as `jax.nn.gelu`.
        in_axis, out_axis, batch_axis, groups, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for an unknown mode or nonlinearity, or an `a` that has no meaning; when called,
            for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.kaiming_normal(nonlinearity="relu")(jax.random.key(0), (200, 100))
    >>> round(float(kernel.std()), 2)
    0.1

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    scale = _kaiming_scale("kaiming_normal", a, mode, nonlinearity)
    fans = Fans("kaiming_normal", in_axis, out_axis, batch_axis, groups)
    return scaled_variance(fans, scale, mode, "normal")


@initializer
def torch_linear(
    *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), dtype: DType = None
) -> Draw:
    """Uniform within `±1 / √fan_in`: what `torch.nn.Linear` and `torch.nn.Conv` start from.

    Args:
        in_axis, out_axis, batch_axis, dtype: as in `variance_scaling`.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.torch_linear()(jax.random.key(0), (100, 300))
    >>> round(float(abs(kernel).max()), 2)
    0.1

    Reference:
        The defaults of torch.nn.Linear, https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html
    """
    fans = Fans("torch_linear", in_axis, out_axis, batch_axis)
    return scaled_variance(fans, 1 / 3, "fan_in", "uniform")


@initializer
def torch_bias(fan_in: float, dtype: DType = None) -> Draw:
    """Uniform within `±1 / √fan_in`: the bias that goes with `torch_linear`.

    Args:
        fan_in: how many inputs the layer sums, its window included; a bias does not show it.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for biases of any shape.

    Raises:
        ValueError: unless `fan_in` is positive.

    >>> import flax_inits, jax
    >>> bias = flax_inits.torch_bias(100)(jax.random.key(0), (3000,))
    >>> round(float(abs(bias).max()), 2)
    0.1

    Reference:
        The defaults of torch.nn.Linear, https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html
    """
    fans = Fans("torch_bias", fan_in=checks.positive("torch_bias", "fan_in", fan_in))
    return scaled_variance(fans, 1 / 3, "fan_in", "uniform")


def _kaiming_scale(factory: str, a: float, mode: str, nonlinearity: Any) -> float:
    checks.one_of(factory, "mode", mode, ("fan_in", "fan_out"))
    checks.number(factory, "a", a)
    takes_slope = nonlinearity == "leaky_relu"
    if a and not takes_slope:
        raise ValueError(
            f"{factory} takes a slope only with nonlinearity='leaky_relu', got a={a!r} with "
            f"{nonlinearity!r}; leave a at 0."
        )
    return calculate_gain(nonlinearity, a if takes_slope else None) ** 2
