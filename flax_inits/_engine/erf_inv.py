"""The inverse error function of truncated normals, without the branch that they never take.

XLA computes `erf_inv` by two polynomials (Giles, Approximating the erfinv function, 2011), of which
each element takes one, and computes what both need. Between two standard deviations it is always
the first. Written out, it has the same bits at each of the 2**23 numbers that a draw can be, which
a test shows for the installed version; it stays XLA's own where that was not shown.
"""

import functools

import jax
import numpy as np
from jax import lax

from .._base.types import Array, Token
from .graph import Node, Value, order
from .host import HostComputable
from .releases import is_examined
from .row_pattern import RowPattern
from .signature import Signer
from .trace import trace

_COEFFICIENTS = np.array(
    [
        2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
        -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
    ],
    np.float32,
)  # fmt: skip


def first_branch(x: Array) -> Array:
    """Computes `lax.erf_inv(x)` for float32 where `x * x < 1 - exp(-5)`."""
    w = lax.sub(lax.neg(lax.log1p(lax.neg(lax.mul(x, x)))), np.float32(2.5))
    p = lax.full_like(x, _COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        p = lax.add(lax.full_like(x, coefficient), lax.mul(p, w))
    return lax.mul(p, x)


def takes_first_branch(node: Node) -> bool:
    """Whether a node is the `erf_inv` of a truncated normal between -2 and 2."""
    if node.name != "erf_inv" or not is_examined():
        return False
    token = _token(node.inputs[0])
    return token is not None and token == _uniform()


def _token(value: Value) -> Token | None:
    pattern = RowPattern(value, HostComputable())
    return pattern.token(value, Signer()) if pattern.matches else None


@functools.cache
def _uniform() -> Token | None:
    """Signs the uniform numbers of which JAX makes such a truncated normal."""

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.truncated_normal(key, -2.0, 2.0, (8,), np.float32)

    outputs = trace(draw, jax.eval_shape(jax.random.key, 0)).outputs
    (node,) = (node for node in order(outputs) if node.name == "erf_inv")
    return _token(node.inputs[0])
