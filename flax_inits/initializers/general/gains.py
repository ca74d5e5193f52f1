"""What a nonlinearity does to the second moment, and the gain that undoes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import checks

_CONVOLUTIONS = [f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)]

GAINS: dict[str, float] = {
    **dict.fromkeys(["linear", "conv", "conv_transpose", *_CONVOLUTIONS, "sigmoid"], 1.0),
    "tanh": 5 / 3,
    "relu": float(np.sqrt(2)),
    "leaky_relu": float(np.sqrt(2 / (1 + 0.01**2))),
    "selu": 3 / 4,
}


def calculate_gain(nonlinearity: str | Callable[[Any], Any], param: float | None = None) -> float:
    """The factor for a kernel's standard deviation that makes up for the nonlinearity.

    A name gives the conventional constant: linear, conv, sigmoid 1; tanh 5/3; relu √2; leaky_relu
    √(2 / (1 + a²)); selu 3/4. A function f gives `1/√E[f(z)²]`, z ~ N(0, 1), by quadrature: with
    kernels of standard deviation gain/√fan_in, pre-activations of second moment 1 keep it. (Where
    `E[f(√q z)²]` grows faster than q, as for gelu and silu, a deviation still grows with depth.)

    Args:
        nonlinearity: a name from the table, or an elementwise function of one array.
        param: the negative slope a of "leaky_relu", by default 0.01; nothing else takes one.

    Returns:
        The gain, a Python float.

    Raises:
        ValueError: for an unknown name, a `param` that has no meaning, or a function without a
            positive, finite second moment.
        TypeError: if `nonlinearity` is neither a name nor a function.

    >>> import flax_inits, jax
    >>> flax_inits.calculate_gain("leaky_relu", 0.2)
    1.3867504905630728
    >>> round(flax_inits.calculate_gain(jax.nn.gelu), 3)
    1.534

    Reference:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """
    if nonlinearity == "leaky_relu" and param is not None:
        slope = checks.number("calculate_gain", "param", param)
        return float(np.sqrt(2 / (1 + slope**2)))
    if param is not None:
        raise ValueError(
            f"calculate_gain takes param only with 'leaky_relu', got param={param!r} with "
            f"{nonlinearity!r}; for a function, bind it first (functools.partial)."
        )
    if callable(nonlinearity):
        return _gain_of(nonlinearity)
    if not isinstance(nonlinearity, str):
        raise TypeError(f"nonlinearity must be a name or a function, got {nonlinearity!r}.")
    checks.one_of("calculate_gain", "nonlinearity", nonlinearity, tuple(GAINS))
    return GAINS[nonlinearity]


def _gain_of(function: Callable[[Any], Any]) -> float:
    """1/√E[f(z)²] for z ~ N(0, 1)."""
    points, weights = _quadrature()
    with jax.ensure_compile_time_eval():
        values = np.asarray(function(jnp.asarray(points)), np.float64)
    moment = float(np.sum(weights * values**2)) if values.shape == points.shape else np.nan
    if not 0 < moment < np.inf:
        raise ValueError(
            "calculate_gain needs an elementwise function with 0 < E[f(z)²] < inf for z ~ N(0, 1), "
            f"got {moment} for {function!r}."
        )
    return float(moment**-0.5)


def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for expectations over N(0, 1)."""
    # Panels of half a unit, not Gauss-Hermite: activations have kinks, at 0 and at whole numbers.
    edges = np.arange(-14, 14, 0.5)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    points = (edges[:, None] + (nodes + 1) / 4).ravel()
    density = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    return points, np.tile(weights / 4, edges.size) * density
