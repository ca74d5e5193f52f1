"""A computation as a graph: inputs, constants, and nodes that apply a primitive to values."""

from collections.abc import Callable, Iterable, Sequence
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

    __slots__ = ("primitive", "params", "inputs", "avals", "context", "origin", "folded")

    def __init__(self, equation: Any, inputs: Sequence, origin: str | None):
        self.primitive, self.params = equation.primitive, equation.params
        self.inputs, self.context = tuple(inputs), equation.ctx
        self.avals = tuple(var.aval for var in equation.outvars)
        self.origin = origin or equation.params.get("name")
        """The outermost jitted function that it is part of; only for people to read."""
        self.folded: tuple[Any] | None = None
        """What a later pass found the first output to be, if that is one known number."""


class Output(NamedTuple):
    """The `index`-th result of a node."""

    node: Node
    index: int

    @property
    def aval(self) -> Any:
        """Shape and dtype of the result."""
        return self.node.avals[self.index]


Value: TypeAlias = Input | Constant | Output


def order(outputs: Iterable[Value], boundary: Callable[[Value], bool]) -> list[Node]:
    """The nodes that `outputs` need, inputs first; what is in `boundary` is not entered."""

    def below(values: Iterable[Value]) -> list[Node]:
        return [v.node for v in values if isinstance(v, Output) and not boundary(v)]

    done: set[Node] = set()
    ordered: list[Node] = []
    stack = [(node, False) for node in below(outputs)]
    while stack:
        node, ready = stack.pop()
        if ready:
            ordered.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((inner, False) for inner in below(node.inputs) if inner not in done)
    return ordered
