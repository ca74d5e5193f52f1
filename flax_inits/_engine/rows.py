"""One compiled program per distribution, for leaves of every shape.

Bits depend on the key and the flat index only. So a draw followed by elementwise operations can be
made in rows of a fixed length: each row has its key, the index it starts at, and a scale; any row
can belong to any leaf. `match` recognizes such leaves, `rows` says what to fill in, and `compute`
is the program.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._base import bits
from .._base.types import Token
from .constants import RESHAPES, fold
from .graph import Input, Node, Output, Value, order
from .jaxpr import bind, inner_jaxprs
from .keys import Derivation, Deriver, is_threefry_dtype
from .signature import Signer

ROW = 1 << 10
"""Elements in a row. A power of two, so that a row never crosses a multiple of 2**32."""

ELEMENTWISE = frozenset(
    "abs add and bitcast_convert_type ceil clamp convert_element_type copy div eq erf_inv floor "
    "ge gt is_finite le lt max min mul ne neg nextafter not or reduce_precision round select_n "
    "shift_left shift_right_arithmetic shift_right_logical sign sqrt stop_gradient sub xor".split()
)
"""Primitives whose value at an element XLA computes alike in a program of any shape."""

_BOUNDED = frozenset({"max", "min", "clamp"})
"""What XLA does not merge with a multiplication after it."""


class Form(NamedTuple):
    """A leaf as rows: what is drawn and computed, free of its shape."""

    token: Token
    output: Value
    lifted: tuple[Any, ...]
    """The factor that the program takes as an argument, if any: a NumPy scalar."""

    keys: tuple[Value, ...]
    """One key value for each draw of the program; each of `segments` keys."""

    segments: int
    size: int
    """Elements per segment: segment i is drawn with key i, from index 0."""


def match(value: Value, derivation: Derivation, signer: Signer) -> Form | None:
    """`value` as rows, or None if it is not one draw per element and elementwise operations."""
    if not isinstance(value, Output) or getattr(value.aval, "weak_type", False):
        return None
    graph = _Graph(value, derivation)
    if not graph.matches or not graph.keys or not is_calm(graph.nodes):
        return None
    output, lifted = graph.lift(value)
    token = (graph.token(output, signer), len(lifted))
    (key,) = graph.keys  # of the one draw
    return Form(token, output, lifted, (key,), key.aval.size, value.aval.size // key.aval.size)


def is_calm(nodes: Sequence[Node]) -> bool:
    """Whether XLA rounds the same whether or not it fuses the bits into what is made of them.

    It may not with two draws (either product can become a fused multiply-add), with logarithms
    along a short last axis (their scalar form differs from the vector form in the last bit), and
    float8 takes it minutes to compile.
    """
    names = [node.primitive.name for node in nodes]
    if names.count("random_bits") > 1 or any(map(_is_tiny, nodes)):
        return False
    return _LOGARITHMIC.isdisjoint(names) or not any(map(_is_short, nodes))


def _is_short(node: Node) -> bool:
    shape = [size for size in node.avals[0].shape if size != 1]
    return len(shape) > 1 and shape[-1] < _SHORT


def _is_tiny(node: Node) -> bool:
    dtype = node.avals[0].dtype
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 1


_LOGARITHMIC = frozenset({"erf_inv"})
"""Of the elementwise primitives, those that XLA computes by a logarithm."""

_SHORT = 6
"""A last axis of fewer elements (3 to 5, on jax 0.12) is a loop of its own kind."""


class _Graph:
    """The nodes of one leaf, each told apart as full (one value per element) or scalar."""

    def __init__(self, value: Value, derivation: Derivation):
        self.keys: list[Value] = []
        self._full: set[Node] = set()
        self._size = value.aval.size
        self.nodes = order([value], derivation.is_key)
        self.matches = all(self._accepts(node, derivation) for node in self.nodes)

    def _accepts(self, node: Node, derivation: Derivation) -> bool:
        if node.primitive.name == "random_bits":
            return self._accepts_draw(node, derivation)
        if any(isinstance(v, Input) or derivation.is_key(v) for v in node.inputs):
            return False
        full = [v for v in node.inputs if self.is_full(v)]
        if not full:
            single = not node.primitive.multiple_results and not inner_jaxprs(node.params)
            return single and (node.avals[0].size == 1 or node.primitive.name == "broadcast_in_dim")
        self._full.add(node)
        if any(v.aval.size != self._size for v in (*full, Output(node, 0))):
            return False
        if node.primitive.name in RESHAPES:
            return node.params.get("dimensions") is None or node.primitive.name != "reshape"
        scalars = all(v in full or _is_scalar(v) for v in node.inputs)
        return node.primitive.name in ELEMENTWISE and scalars and _keeps_width(node)

    def _accepts_draw(self, node: Node, derivation: Derivation) -> bool:
        (key,) = node.inputs
        threefry = is_threefry_dtype(key.aval.dtype)
        self._full.add(node)
        self.keys.append(key)
        with node.context.manager:
            partitionable = jax.config.jax_threefry_partitionable
        return (
            threefry
            and derivation.is_key(key)
            and partitionable
            and (node.params["bit_width"] < 64 or jax.config.jax_enable_x64)
            and node.avals[0].size == self._size
        )

    def is_full(self, value: Value) -> bool:
        """Whether `value` has a random value for each element of the leaf."""
        return isinstance(value, Output) and value.node in self._full

    def lift(self, value: Value) -> tuple[Value, tuple[Any, ...]]:
        """Takes a last factor out where that cannot change how XLA rounds."""
        product = self._stripped(value)
        if product.node.primitive.name != "mul":
            return value, ()
        full = [v for v in product.node.inputs if self.is_full(v)]
        scalars = [v for v in product.node.inputs if not self.is_full(v)]
        if len(full) != 1 or self._stripped(full[0]).node.primitive.name not in _BOUNDED:
            return value, ()
        factor = fold(scalars[0])
        return (value, ()) if factor is None else (full[0], (factor,))

    def _stripped(self, value: Any) -> Output:
        while value.node.primitive.name in RESHAPES:
            (value,) = value.node.inputs
        return value

    def token(self, output: Value, signer: Signer) -> Token:
        """Equal for leaves that one program can make."""
        numbers: dict[Value, Token] = {key: i for i, key in enumerate(self.keys)}
        body: list[Token] = []

        def name(value: Value) -> Token:
            if value in numbers:
                return numbers[value]
            return ("constant", signer.token(fold(value)), value.aval.dtype)

        for node in order([output], lambda value: value in self.keys or fold(value) is not None):
            value = Output(node, 0)
            if node.primitive.name in RESHAPES:
                numbers[value] = name(node.inputs[0])
                continue
            draws = node.primitive.name == "random_bits"
            token = node.params["bit_width"] if draws else signer.params(node)
            full = node in self._full
            body.append((node.primitive, token, tuple(map(name, node.inputs)), full))
            numbers[value] = -len(body)
        return (tuple(body), name(output), output.aval.dtype)


def _is_scalar(value: Value) -> bool:
    """Whether the value is one number, or one number broadcast."""
    while isinstance(value, Output) and value.node.primitive.name == "broadcast_in_dim":
        (value,) = value.node.inputs
    return value.aval.size == 1


def _keeps_width(node: Node) -> bool:
    if node.primitive.name == "bitcast_convert_type":
        return node.inputs[0].aval.dtype.itemsize == node.avals[0].dtype.itemsize
    return node.params.get("sharding") is None


def compute(form: Form, words: Any, starts: Any, factors: Any) -> Any:
    """The rows: `words` (rows, draws, 2), `starts` (rows, 2), `factors` (rows, 0 or 1)."""
    shape = (words.shape[0], ROW)
    counter = (
        starts[:, 0:1],
        lax.add(
            lax.broadcast_in_dim(starts[:, 1], shape, (0,)),
            lax.broadcasted_iota(np.uint32, shape, 1),
        ),
    )
    values = _evaluated(form, words, counter)
    if not form.lifted:
        return values
    return lax.mul(values, lax.broadcast_in_dim(factors[:, 0], shape, (0,)))


def _evaluated(form: Form, words: Any, counter: tuple[Any, Any]) -> Any:
    """The rows without the lifted factor; `counter` has the index of each element, in two words."""
    shape = counter[1].shape
    full: dict[Value, Any] = {}
    scalars: dict[Value, Any] = {}

    def read(value: Value) -> Any:
        if value in full:
            return full[value]
        known = fold(value)
        scalar = scalars[value].ravel()[0] if known is None else known
        return lax.broadcast(scalar, shape)

    for node in order([form.output], lambda v: v in form.keys or fold(v) is not None):
        value = Output(node, 0)
        if node.primitive.name == "random_bits":
            index = form.keys.index(node.inputs[0])
            k0, k1 = words[:, index, 0:1], words[:, index, 1:2]
            drawn = bits.counter_bits(k0, k1, *counter)
            full[value] = bits.words_to_bits(*drawn, node.params["bit_width"])
        elif any(v in full for v in node.inputs):
            (full[value],) = (
                [full[node.inputs[0]]]
                if node.primitive.name in RESHAPES
                else bind(node, [read(v) for v in node.inputs])
            )
        else:
            arguments = [scalars[v] if v in scalars else _filled(v) for v in node.inputs]
            (scalars[value],) = bind(node, arguments)
    return full[form.output]


def _filled(value: Value) -> Any:
    """A constant scalar in the shape that its node expects."""
    return np.full(value.aval.shape, fold(value))


class Rows(NamedTuple):
    """The arguments of `compute`, for any number of rows."""

    words: np.ndarray
    starts: np.ndarray
    factors: np.ndarray


def rows_of(form: Form) -> int:
    """How many rows a leaf takes."""
    return form.segments * math.ceil(form.size / ROW)


def rows(form: Form, deriver: Deriver) -> Rows:
    """What to fill into the program's arguments for one leaf."""
    count = math.ceil(form.size / ROW)
    keys = [deriver.key_data(key).reshape(form.segments, 2) for key in form.keys]
    words = np.repeat(np.stack(keys, axis=1), count, axis=0)
    index = np.tile(np.arange(count, dtype=np.uint64) * ROW, form.segments)
    starts = np.stack([index >> np.uint64(32), index & np.uint64(0xFFFFFFFF)], axis=1)
    factors = np.broadcast_to(_factors(form), (len(words), len(form.lifted)))
    return Rows(words.astype(np.uint32), starts.astype(np.uint32), factors)


def _factors(form: Form) -> np.ndarray:
    return np.array(form.lifted, form.output.aval.dtype)


def copy_rows(form: Form, block: np.ndarray, first: int, flat: np.ndarray) -> None:
    """Copies rows `first`, `first + 1`, ... of a leaf to where they belong in its flat values."""
    count = math.ceil(form.size / ROW)
    for segment in range(first // count, (first + len(block) - 1) // count + 1):
        begin = max(first, segment * count)
        end = min(first + len(block), (segment + 1) * count)
        start, stop = ((row - segment * count) * ROW for row in (begin, end))
        stop = min(stop, form.size)
        target = flat[segment * form.size + start : segment * form.size + stop]
        target[:] = block[begin - first : end - first].reshape(-1)[: len(target)]
