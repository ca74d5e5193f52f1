"""Arithmetic on scalars, on the host, where NumPy and XLA cannot but agree."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
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


_NEVER_ROUNDED = RESHAPES | frozenset(
    "abs and bitcast_convert_type ceil clamp convert_element_type copy eq floor ge gt iota "
    "is_finite le lt max min ne neg nextafter not or round select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign slice stop_gradient transpose xor".split()
)


def computed(node: Node, inputs: Sequence[Any]) -> Any:
    """Computes `node` of NumPy scalars; None if XLA could make something else of them."""
    if node.name in RESHAPES:
        return inputs[0]
    dtype = np.dtype(node.avals[0].dtype)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        if node.name == "convert_element_type":
            return cast(inputs[0], dtype)
        # In 16 bits XLA computes in float32 and may leave out roundings: two results are right.
        exact = dtype in (np.float32, np.float64) and all(v.dtype == dtype for v in inputs)
        if not exact or node.name not in _EXACT:
            return None
        result = dtype.type(_EXACT[node.name](*inputs))
        if node.name == "div" and node.crosses_call and result != inputs[0] * (1 / inputs[1]):
            return None  # see `rounding.constants_alike`
        return result if is_one_number(result) else None


def rounds(node: Node) -> bool:
    """Whether the result of `node` may be rounded, other than by a cast."""
    return node.name not in _NEVER_ROUNDED


def cast(scalar: Any, target: np.dtype) -> Any:
    """Casts the scalar; None where NumPy and XLA may cast it in two ways.

    They agree where the value stays the same, and where it is rounded once: NumPy goes through
    float32 on the way from integers and float64 to bfloat16 (ml_dtypes#401). Beyond the range one
    wraps, the other saturates.
    """
    source = scalar.dtype
    if source == target:
        return scalar
    if target.kind == "b" or not (_is_real(source) and _is_real(target)):
        return None
    result = scalar.astype(target)
    if not is_one_number(result) or not is_one_number(scalar):
        return None
    once = (source, target) in _ROUNDED_ONCE
    return result if once or _equal(scalar, result) else None


def _is_real(dtype: np.dtype) -> bool:
    if jnp.issubdtype(dtype, jnp.floating):
        return dtype.itemsize > 1
    return dtype.kind == "b" or jnp.issubdtype(dtype, jnp.integer)


def _equal(one: Any, other: Any) -> bool:
    """Whether two finite numbers are equal, as fractions of integers."""
    if not (np.isfinite(one) and np.isfinite(other)):
        return False
    # As fractions, since comparing an int64 with a float rounds the integer first.
    zeros = bool(one == 0) and bool(other == 0)
    return _same_sign(one, other) if zeros else Fraction(one.tolist()) == Fraction(other.tolist())


def _same_sign(one: Any, other: Any) -> bool:
    return bool(np.signbit(float(one)) == np.signbit(float(other)))


def is_one_number(value: Any) -> bool:
    """Whether all agree on its bits: not a NaN, which has many, nor what may be flushed to zero."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return True
    # XLA flushes subnormal numbers to zero on some devices and in some programs, NumPy never does.
    smallest = jnp.finfo(value.dtype).smallest_normal
    return not np.isnan(value) and bool(value == 0 or abs(value) >= smallest)


_ROUNDED_ONCE = {
    (np.dtype(np.float32), np.dtype(jnp.bfloat16)),
    (np.dtype(np.float32), np.dtype(np.float16)),
    (np.dtype(np.float64), np.dtype(np.float32)),
    (np.dtype(np.int32), np.dtype(np.float32)),
    (np.dtype(np.uint32), np.dtype(np.float32)),
}
"""Casts that round to nearest in one step, in NumPy as in XLA."""
