"""Complex numbers made of two draws, which never meet in one sum.

Two draws in a leaf may be rounded otherwise in another program: of x * a + y * b either product can
stay exact in a fused multiply-add. Of a complex number each part may be made of one draw; what is
added to it on the way are products with zero, which are exact.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .graph import RESHAPES, Constant, Node, Output, Value


class _Parts(NamedTuple):
    """The draws that the parts of a number are made of."""

    real: Node | None
    imaginary: Node | None = None


def draws_stay_apart(nodes: Sequence[Node]) -> bool:
    """Whether what is made of two draws is complex, with one of them in each part.

    `nodes` are those of a leaf, inputs first.
    """
    known: dict[Node, _Parts] = {}
    for node in nodes:
        drawn = [known[v.node] for v in node.inputs if isinstance(v, Output) and v.node in known]
        if node.name == "random_bits":
            known[node] = _Parts(node)
        elif drawn:
            others = [v for v in node.inputs if not (isinstance(v, Output) and v.node in known)]
            parts = _parts(node, drawn, others)
            if parts is None:
                return False
            known[node] = parts
    return True


def _parts(node: Node, drawn: Sequence[_Parts], others: Sequence[Value]) -> _Parts | None:
    """Finds the draws in the parts of a result; None if two may meet in one part."""
    first = drawn[0]
    if not _is_complex(node.avals[0]):
        return first if set(drawn) == {first} and first.imaginary is None else None
    if node.name in RESHAPES or node.name in ("neg", "convert_element_type"):
        return first
    if node.name in ("mul", "div") and len(drawn) == 1:
        factor = _scalar(others[0])
        if factor is None or factor.real and factor.imag:
            return None
        if not factor.imag:
            return first if node.name == "mul" or others[0] is node.inputs[1] else None
        return _Parts(first.imaginary, first.real) if node.name == "mul" else None
    if node.name in ("add", "sub") and len(drawn) == 2:
        pairs = list(zip(*drawn, strict=True))
        # With one that has no such part, a product with zero is added.
        apart = all((a is None) != (b is None) for a, b in pairs)
        return _Parts(*(a or b for a, b in pairs)) if apart else None
    return None


def _scalar(value: Value) -> complex | None:
    """Reads a constant, behind what keeps its value or makes it complex."""
    while isinstance(value, Output) and (
        value.node.name in RESHAPES
        or value.node.name == "convert_element_type"
        and _is_complex(value.aval)
    ):
        (value,) = value.node.inputs
    if not isinstance(value, Constant) or value.aval.size != 1:
        return None
    return complex(np.asarray(value.value).item())


def _is_complex(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.complexfloating)
