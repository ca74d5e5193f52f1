"""Scalars of a graph that the host can compute exactly as XLA does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .graph import Constant, Output, Value

RESHAPES = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})
"""Primitives that keep the elements in order."""

_FOLDS = {
    "sqrt": np.sqrt,
    "div": np.divide,
    "mul": np.multiply,
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "nextafter": np.nextafter,
    "stop_gradient": lambda x: x,
}
"""Operations that IEEE 754 rounds exactly, so that NumPy and XLA agree."""


def fold(value: Value) -> Any:
    """The NumPy scalar that `value` is, or None if computing it could round differently."""
    if isinstance(value, Constant):
        return _scalar(value)
    if not isinstance(value, Output):
        return None
    if value.node.folded is None:
        value.node.folded = (_fold_node(value),)
    return value.node.folded[0]


def _fold_node(value: Output) -> Any:
    if jnp.issubdtype(value.aval.dtype, jax.dtypes.extended):
        return None
    inputs = [fold(v) for v in value.node.inputs]
    if any(v is None for v in inputs) or not inputs:
        return None
    name = value.node.primitive.name
    if name in RESHAPES:
        return inputs[0]
    dtype = np.dtype(value.aval.dtype)
    if name == "convert_element_type":
        with np.errstate(all="ignore"):
            return inputs[0].astype(dtype) if _casts_alike(inputs[0].dtype, dtype) else None
    exact = dtype in (np.float32, np.float64) and all(v.dtype == dtype for v in inputs)
    if not exact or name not in _FOLDS:
        return None
    with np.errstate(all="ignore"):
        return dtype.type(_FOLDS[name](*inputs))


def _casts_alike(source: np.dtype, target: np.dtype) -> bool:
    """Whether NumPy casts as XLA does: not where one wraps and the other saturates."""
    if jnp.issubdtype(target, jnp.floating):
        return target.itemsize > 1 and jnp.issubdtype(source, jnp.number)
    return np.can_cast(source, target, "safe")


def _scalar(value: Constant) -> Any:
    if value.aval.size != 1 or jnp.issubdtype(value.aval.dtype, jax.dtypes.extended):
        return None
    return np.asarray(value.value, value.aval.dtype).reshape(())[()]


def is_constant(value: Value) -> Any:
    """The NumPy scalar that fills `value`, or None if it is not known without computing."""
    folded = fold(value) if getattr(value.aval, "weak_type", True) is False else None
    return None if folded is None else np.asarray(folded, value.aval.dtype)
