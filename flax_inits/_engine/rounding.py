"""Which computations XLA rounds alike whatever else is in their program.

XLA's CPU compiler may contract a product and a sum into a fused multiply-add, merge constants, and
take another form of a function for a loop of another shape. A leaf that is compiled apart from the
function that makes it has the same bits only if none of that can go another way.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from . import scalars
from .complex_parts import draws_stay_apart
from .graph import RESHAPES, Constant, Node, Output, Value, order
from .host import HostComputable
from .jaxpr import draws, inner_jaxprs

ELEMENTWISE = frozenset(
    "abs add and bitcast_convert_type ceil clamp convert_element_type copy div eq erf_inv floor "
    "ge gt is_finite le lt max min mul ne neg nextafter not or reduce_precision round select_n "
    "shift_left shift_right_arithmetic shift_right_logical sign sqrt stop_gradient sub xor".split()
)
"""Primitives whose value at an element XLA computes alike in a program of any shape.

Not `exp`, `sin`, ...: their vector forms differ from their scalar forms in the last bit.
"""

SAFE = ELEMENTWISE | RESHAPES | {"random_bits", "transpose", "iota", "slice"}
"""What XLA computes alike whether or not it stands in a call of its own."""

_LOGARITHMIC = frozenset({"erf_inv"})
"""Of the elementwise primitives, those that XLA computes by a logarithm."""

_SHORT = 6
"""A last axis of fewer elements (3 to 5, on jax 0.12) is a loop of its own kind."""


def rounding_safe(value: Value, computable: HostComputable) -> bool:
    """Whether a leaf may be compiled apart, with calls inlined and bits fused."""
    nodes = order([value], computable.is_key)
    # A list of what is known to be safe, never of what is not: whatever JAX adds is compiled as it
    # stands. XLA has flags against some of this, but then the user's own jax.jit would need them.
    known = all(node.name in SAFE or is_scalar(node) for node in nodes)
    return known and constants_alike(nodes, computable) and rounds_alike_when_fused(nodes)


def draws_for_qr(value: Value, computable: HostComputable) -> bool:
    """Whether all that a leaf draws is a matrix for LAPACK's QR decomposition.

    It is computed in a loop of its own, since LAPACK reads it from memory; so it may be fused with
    its bits as a leaf may. Columns are in order there, so no axis may be short.
    """
    nodes = order([value], computable.is_key)
    decompositions = [node for node in nodes if node.name == "qr"]
    if len(decompositions) != 1:
        return False
    (matrix,) = decompositions[0].inputs
    before = set(order([matrix], computable.is_key))
    after = [node for node in nodes if node not in before and node.name != "qr"]
    read = {v.node for node in after for v in node.inputs if isinstance(v, Output)}
    alone = read.isdisjoint(before) and not any(map(_draws, after))
    long = min(matrix.aval.shape) >= _SHORT
    return alone and long and rounding_safe(matrix, computable)


def _draws(node: Node) -> bool:
    return node.name == "random_bits" or any(map(draws, inner_jaxprs(node.params)))


def constants_alike(nodes: Sequence[Node], computable: HostComputable) -> bool:
    """Whether XLA makes the same of constants with calls inlined as without.

    It simplifies before it inlines. What comes into or out of a call is no constant yet, so that a
    quotient becomes a product with a reciprocal and factors are merged, which rounds otherwise.
    """
    constant: set[Value] = set()
    settled: set[Value] = set()
    """Of the constants, those of which XLA has nothing to merge with what comes next."""
    for node in nodes:
        if not all(isinstance(v, Constant) or v in constant for v in node.inputs):
            continue
        made = {Output(node, i) for i in range(len(node.avals))}
        constant |= made
        alone = all(isinstance(v, Constant) or v in settled for v in node.inputs)
        if not (node.crosses_call and scalars.rounds(node)):
            settled |= made if alone else set()
        elif _is_proved(node, computable):
            settled |= made
        elif not (alone and node.name in _ROUNDED_ONCE):
            if computable.known_scalar(Output(node, 0)) is None:
                return False
    return True


_ROUNDED_ONCE = frozenset({"add", "sub", "mul", "sqrt"})


def _is_proved(node: Node, computable: HostComputable) -> bool:
    # The bounds of truncated normals, from -2 to 2 in JAX and Flax; a test compares them with XLA.
    number = node.inputs[0].aval.dtype.type
    if node.name != "erf" or number not in (np.float32, np.float64):
        return False
    given = computable.known_scalar(node.inputs[0])
    return given is not None and abs(given) == number(2) / number(np.sqrt(2))


def draws_in_16_bits(value: Value) -> bool:
    """Whether a draw and floats of 16 bits are on the way to `value`."""
    nodes = order([value])
    avals = [aval for node in nodes for aval in node.avals if aval.size > 1]
    tiny = (jnp.issubdtype(a.dtype, jnp.inexact) and a.dtype.itemsize == 2 for a in avals)
    return any(node.name == "random_bits" for node in nodes) and any(tiny)


def is_scalar(node: Node) -> bool:
    """Whether a node computes numbers from numbers: no sum or maximum of an array."""
    return node.size == 1 and all(value.aval.size == 1 for value in node.inputs)


def rounds_alike_when_fused(nodes: Sequence[Node]) -> bool:
    """Whether XLA rounds the same whether or not it fuses the bits into what is made of them.

    It may not with two draws in a sum (either product can become a fused multiply-add), with
    logarithms along a short last axis (their scalar form differs from the vector form in the last
    bit), and float8 takes it minutes to compile.
    """
    # Of x * a + y * b, either product may stay exact in a fused multiply-add, and which one depends
    # on what else is in the program (xla#41579, jax#18507).
    names = [node.name for node in nodes]
    if names.count("random_bits") > 1 and not draws_stay_apart(nodes) or any(map(_is_tiny, nodes)):
        return False
    return _LOGARITHMIC.isdisjoint(names) or not any(map(_is_short, nodes))


def _is_short(node: Node) -> bool:
    # XLA drops axes of size 1 first, and makes one loop of an array with a single axis left.
    shape = [size for size in node.avals[0].shape if size != 1]
    return len(shape) > 1 and shape[-1] < _SHORT


def _is_tiny(node: Node) -> bool:
    dtype = node.avals[0].dtype
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 1
