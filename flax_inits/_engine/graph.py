"""A computation as a graph: inputs, constants, and nodes that apply a primitive to values."""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias


class Input:
    """The `index`-th flat argument of the traced function."""

    __slots__ = ("index", "aval")

    def __init__(self, index: int, aval: Any):
        self.index, self.aval = index, aval


class Constant:
    """A literal, or an array that the traced function closed over."""

    __slots__ = ("value", "aval")

    def __init__(self, value: Any, aval: Any):
        self.value, self.aval = value, aval


class Node:
    """One equation: a primitive applied to values."""

    __slots__ = ("primitive", "params", "inputs", "avals", "context", "origin", "crosses_call")

    def __init__(
        self, equation: Any, inputs: Sequence, origin: str | None = None, crosses_call: bool = False
    ):
        self.primitive, self.params = equation.primitive, equation.params
        self.inputs, self.context = tuple(inputs), equation.ctx
        self.avals = tuple(var.aval for var in equation.outvars)
        self.origin = origin or equation.params.get("name")
        """The outermost jitted function that it is part of; only for people to read."""
        self.crosses_call = crosses_call
        """Whether an input comes, by whatever way, into or out of a call that was inlined."""

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.primitive.name

    @property
    def size(self) -> int:
        """Elements in its largest output."""
        return max((aval.size for aval in self.avals), default=0)


class Output(NamedTuple):
    """The `index`-th result of a node."""

    node: Node
    index: int

    @property
    def aval(self) -> Any:
        """Shape and dtype of the result."""
        return self.node.avals[self.index]


Value: TypeAlias = Input | Constant | Output

RESHAPES = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})
"""Primitives that keep the elements in order."""


def order(
    outputs: Iterable[Value], boundary: Callable[[Value], bool] = lambda value: False
) -> list[Node]:
    """Lists the nodes that `outputs` need, inputs first; what is in `boundary` is not entered."""
    # A stack of our own: a deep model is a chain of more nodes than Python may recurse.
    stack = [v.node for v in outputs if isinstance(v, Output) and not boundary(v)]
    entered: set[Node] = set()
    ordered: dict[Node, None] = {}
    while stack:
        node = stack.pop()
        if node in entered:
            # It comes back after its inputs, which lay above it.
            ordered[node] = None
            continue
        entered.add(node)
        stack.append(node)
        for v in node.inputs:
            if isinstance(v, Output) and v.node not in entered and not boundary(v):
                stack.append(v.node)
    return list(ordered)


def unknown(value: Output, known: Container[Node]) -> list[Node]:
    """Lists the nodes that `value` needs and that are not in `known`, inputs first."""
    if value.node in known:
        return []
    return order([value], lambda v: isinstance(v, Output) and v.node in known)
