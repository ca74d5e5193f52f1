"""Arithmetic on scalars, on the host, where NumPy and XLA cannot but agree."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .graph import RESHAPES, Node

_EXACT = {
    "sqrt": np.sqrt,
    "div": np.divide,
    "mul": np.multiply,
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "nextafter": np.nextafter,
    "stop_gradient": lambda x: x,
}
"""Operations that IEEE 754 rounds exactly, so that there is one right result."""


def computed(node: Node, inputs: Sequence[Any]) -> Any:
    """What `node` makes of NumPy scalars; None if XLA could make something else of them."""
    if node.name in RESHAPES:
        return inputs[0]
    dtype = np.dtype(node.avals[0].dtype)
    with np.errstate(all="ignore"):
        if node.name == "convert_element_type":
            return inputs[0].astype(dtype) if _casts_alike(inputs[0].dtype, dtype) else None
        exact = dtype in (np.float32, np.float64) and all(v.dtype == dtype for v in inputs)
        if not exact or node.name not in _EXACT:
            return None
        return dtype.type(_EXACT[node.name](*inputs))


def _casts_alike(source: np.dtype, target: np.dtype) -> bool:
    """Whether NumPy casts as XLA does: not where one wraps and the other saturates."""
    if jnp.issubdtype(target, jnp.floating):
        return target.itemsize > 1 and jnp.issubdtype(source, jnp.number)
    return np.can_cast(source, target, "safe")
