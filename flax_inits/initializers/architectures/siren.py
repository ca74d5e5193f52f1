"""Networks with sine activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._base import checks
from ..._base.types import DType
from .._build import complex_draws
from .._build.configured import Draw, initializer
from .._build.fans import Axes, Fans, root, scaled_by_shape


@initializer
def siren(
    w0: float = 30.0,
    c: float = 6.0,
    first: bool = False,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: DType = None,
) -> Draw:
    """Uniform within `±√(c / fan_in) / w0`, or `±1 / fan_in` for the first layer.

    For layers `sin(w0 · (W x + b))`: pre-activations then stay normal with a variance near 1 (it
    settles at 0.8), whatever the depth.

    Args:
        w0: the factor within the sine.
        c: sets the spread of the pre-activations, √(c / 6).
        first: whether the layer reads the coordinates.
        in_axis: the axis, or axes, that sum into one output.
        out_axis: the axis, or axes, of the outputs.
        batch_axis: axes of independent kernels.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: unless w0 and c are positive; when called, for a shape without these axes.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.siren(first=True)(jax.random.key(0), (2, 4096))
    >>> round(float(abs(kernel).max()), 2)
    0.5

    Reference:
        Sitzmann et al. 2020, Implicit Neural Representations with Periodic Activation Functions,
        https://arxiv.org/abs/2006.09661
    """
    frequency = checks.positive("siren", "w0", w0)
    spread = checks.positive("siren", "c", c)
    fans = Fans("siren", in_axis, out_axis, batch_axis)

    def bound(shape: tuple, dtype: np.dtype) -> Any:
        fan_in = fans.of("fan_in", shape)
        if first:
            return 1 / fan_in
        return root(spread / frequency**2 / fan_in, dtype)

    return scaled_by_shape(complex_draws.uniform, bound, reach=1.0)
