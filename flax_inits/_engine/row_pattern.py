"""Recognizes leaves that one program can make in rows, whatever their shape.

Bits depend on the key and the flat index only. So a draw followed by elementwise operations can be
made in rows of a fixed length, and any row can belong to any leaf.
"""

from typing import Any, NamedTuple

import jax

from .._base.types import Token
from .graph import RESHAPES, Input, Node, Output, Value, order
from .host import HostComputable
from .jaxpr import inner_jaxprs
from .key_words import impl_of, is_rbg_dtype, is_threefry_dtype, words_in
from .releases import is_examined
from .rounding import ELEMENTWISE, SAFE, constants_alike, is_scalar, rounds_alike_when_fused
from .scans import sliced
from .signature import Signer
from .steps import Step, without_steps


class RowForm(NamedTuple):
    """A leaf as rows: what is drawn and computed, free of its shape."""

    token: Token
    output: Value
    """The leaf without its last steps."""

    steps: tuple[Step, ...]
    """The steps whose scalars the program takes as arguments."""

    keys: tuple[Value, ...]
    """Of each draw, the keys of all segments."""

    segments: int
    size: int
    """Elements per segment: segment i is drawn with key i, from index 0."""


def match(
    value: Value, computable: HostComputable, signer: Signer, loop: Node | None = None
) -> RowForm | None:
    """Reads `value` as rows; None if it is not one draw per element and elementwise operations.

    `loop` is the scan that it was before it became one batched computation, if it was one.
    """
    if not isinstance(value, Output) or getattr(value.aval, "weak_type", False):
        return None
    pattern = RowPattern(value, computable, loop)
    alike = constants_alike(pattern.nodes, computable) and rounds_alike_when_fused(pattern.nodes)
    if not pattern.matches or not alike:
        return None
    output, steps = without_steps(value, pattern.is_full, computable.known_scalar)
    keys, segments = tuple(pattern.keys), pattern.keys[0].aval.size
    names = ((step.name, step.scalar_first) for step in steps)
    token = (pattern.token(output, signer), words_in(keys[0].aval.dtype), *names)
    return RowForm(token, output, steps, keys, segments, value.aval.size // segments)


class RowPattern:
    """The nodes of one leaf, each told apart as full (one value per element) or scalar."""

    def __init__(self, value: Value, computable: HostComputable, loop: Node | None = None):
        self.keys: list[Value] = []
        self._computable, self._loop = computable, loop
        self._full: set[Node] = set()
        self._size = value.aval.size
        self.nodes = order([value], computable.is_key)
        accepted = all(map(self._accepts, self.nodes))
        kinds = {(key.aval.size, words_in(key.aval.dtype)) for key in self.keys}
        self.matches = accepted and len(kinds) == 1

    def _accepts(self, node: Node) -> bool:
        if node.name == "random_bits":
            return self._accepts_draw(node)
        # A row knows its key, its start and scalars: no argument of the user's reaches it.
        if any(isinstance(v, Input) or self._computable.is_key(v) for v in node.inputs):
            return False
        full = [v for v in node.inputs if self.is_full(v)]
        if not full:
            single = not node.primitive.multiple_results and not inner_jaxprs(node.params)
            simple = node.name in SAFE or is_scalar(node)
            # A table with an element for each of the leaf would have to be cut into rows, too.
            narrow = node.avals[0].size == 1 or node.name == "broadcast_in_dim"
            return single and simple and narrow
        self._full.add(node)
        if any(v.aval.size != self._size for v in (*full, Output(node, 0))):
            return False
        # Elements must keep their order, as the counter does; a reshape with dimensions transposes.
        if node.name in RESHAPES:
            return node.params.get("dimensions") is None or node.name != "reshape"
        scalars = all(v in full or _is_scalar(v) for v in node.inputs)
        return node.name in ELEMENTWISE and scalars and _keeps_width(node)

    def _accepts_draw(self, node: Node) -> bool:
        self._full.add(node)
        (key,) = node.inputs
        self.keys.append(key)
        with node.context.manager:
            partitionable = jax.config.jax_threefry_partitionable
        if is_rbg_dtype(key.aval.dtype):
            known = is_examined() and _draws_alone(key, self._loop)
        else:
            known = is_threefry_dtype(key.aval.dtype) and partitionable
        return (
            known
            and self._computable.is_key(key)
            # Rows are traced anew, where a dtype of 64 bits would be narrowed.
            and (node.params["bit_width"] < 64 or jax.config.jax_enable_x64)
            and node.avals[0].size == self._size
        )

    def is_full(self, value: Value) -> bool:
        """Whether `value` has a random value for each element of the leaf."""
        return isinstance(value, Output) and value.node in self._full

    def token(self, output: Value, signer: Signer) -> Token:
        """Signs a leaf; equal for leaves that one program can make."""
        # Free of all shapes: reshapes are left out, scalars have their values and no shape, and
        # each node says whether it has a value per element.
        known_scalar = self._computable.known_scalar
        numbers: dict[Value, Token] = {key: i for i, key in enumerate(self.keys)}
        body: list[Token] = []

        def name(value: Any) -> Token:
            if value in numbers:
                return numbers[value]
            known = known_scalar(value)
            if known is None:  # a table, of which a scalar is cut
                return ("table", signer.token(value.value), value.aval)
            return ("constant", signer.token(known), value.aval.dtype)

        for node in order([output], lambda v: v in self.keys or known_scalar(v) is not None):
            value = Output(node, 0)
            if node.name in RESHAPES:
                numbers[value] = name(node.inputs[0])
                continue
            draws = node.name == "random_bits"
            token = node.params["bit_width"] if draws else signer.params(node)
            full = node in self._full
            body.append((node.primitive, token, tuple(map(name, node.inputs)), full))
            numbers[value] = -len(body)
        return (tuple(body), name(output), output.aval.dtype)


def _draws_alone(key: Value, loop: Node | None) -> bool:
    """Whether keys "rbg" are one key, or one for each step of a loop, which draws with it alone.

    Of several keys under `vmap`, which is no loop, the draws depend on each other.
    """
    if loop is None or len(key.aval.shape) != 1:
        return loop is None and not key.aval.shape
    of_steps = {value for value, each in zip(loop.inputs, sliced(loop), strict=True) if each}
    if impl_of(key.aval.dtype) == "rbg":
        # It has one axis. That is the loop's, or a `vmap`'s in a step that does not matter to it.
        nodes = order([key], of_steps.__contains__)
        return not of_steps.isdisjoint([key, *(value for node in nodes for value in node.inputs)])
    # Keys "unsafe_rbg" are split and folded by draws, too, except by what is the same in all steps.
    while key not in of_steps:
        if not isinstance(key, Output) or key.node.name not in ("random_clone", "random_fold_in"):
            return False
        key, *data = key.node.inputs
        if any(value.aval.shape for value in data):
            return False
    return True


def _is_scalar(value: Value) -> bool:
    """Whether the value is one number, or one number broadcast."""
    while isinstance(value, Output) and value.node.name == "broadcast_in_dim":
        (value,) = value.node.inputs
    return value.aval.size == 1


def _keeps_width(node: Node) -> bool:
    if node.name == "bitcast_convert_type":
        return node.inputs[0].aval.dtype.itemsize == node.avals[0].dtype.itemsize
    return node.params.get("sharding") is None
