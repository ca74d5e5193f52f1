"""How a leaf comes to be: recipes, and the jobs that apply them.

A `Recipe` is a program with its layout; it hashes and compares by what it computes, so equal
recipes are compiled once, whoever asked for them. A `Job` says which leaves a recipe makes, and
from which keys and arrays. `plan` finds both in a traced function.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding

from .._base.bits import is_key_dtype
from .._base.types import Token
from . import rows
from .constants import RESHAPES, is_constant
from .graph import Constant, Input, Node, Output, Value, order
from .jaxpr import Traced, evaluate, vectorized
from .keys import Derivation, impl_of
from .placement import _on_cpu, _on_host
from .signature import Signer

LARGEST_POOLED = 1 << 25
"""Elements above which a leaf is drawn in place: compiling costs less than copying its rows."""


class Recipe:
    """A program that makes one leaf, or several that share what is costly to compute."""

    __slots__ = ("token", "outputs", "given", "shardings", "form", "fill", "fused", "_hash")

    def __init__(
        self,
        token: Token,
        outputs: tuple[Value, ...],
        given: tuple[Value, ...],
        shardings: tuple[Sharding | None, ...],
        form: rows.Form | None = None,
        fill: Any = None,
        fused: bool = True,
    ):
        shapes = tuple((v.aval.shape, v.aval.dtype) for v in outputs)
        self.token = (token, shapes, shardings, fused)
        self.fused = fused
        self.outputs, self.given, self.shardings = outputs, given, shardings
        self.form, self.fill = form, fill
        self._hash = hash(self.token)

    @property
    def program(self) -> Token:
        """Equal for recipes that one compiled program makes; None if none is needed."""
        if self.fill is not None or self._passes_through:
            return None
        return self if self.form is None else self.form.token

    @property
    def elementwise_on_cpu(self) -> bool:
        """Whether the program only computes each element by itself, on CPU devices."""
        if self.form is not None:
            return True
        nodes = order(self.outputs, set(self.given).__contains__)
        safe = all(node.primitive.name in _SAFE for node in nodes)
        return safe and self.fused and all(map(_on_cpu, self.shardings))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the program closes over."""
        nodes = order(self.outputs, set(self.given).__contains__)
        values = {*self.outputs, *(value for node in nodes for value in node.inputs)}
        return sum(getattr(v.value, "nbytes", 0) for v in values if isinstance(v, Constant))

    @property
    def _passes_through(self) -> bool:
        (value, *others), (sharding, *_) = self.outputs, self.shardings
        passed = isinstance(value, Input | Constant) and not getattr(value.aval, "weak_type", False)
        return passed and not others and sharding is None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.token == other.token

    def __hash__(self) -> int:
        return self._hash

    def arguments(self) -> list[jax.ShapeDtypeStruct]:
        """What the program takes, abstractly: keys as their words."""
        return [_words_struct(v) if is_key_dtype(v.aval.dtype) else _struct(v) for v in self.given]

    def compute(self, *arguments: Any) -> list[Any]:
        """The program: traceable, from the words of keys and from arrays."""
        bound = {
            value: jax.random.wrap_key_data(argument, impl=impl_of(value.aval.dtype))
            if is_key_dtype(value.aval.dtype)
            else argument
            for value, argument in zip(self.given, arguments, strict=True)
        }
        return evaluate(self.outputs, bound, self.fused)


class Job(NamedTuple):
    """A recipe with what its program is given, and the positions of the leaves that it makes."""

    recipe: Recipe
    given: tuple[Value, ...]
    positions: tuple[int, ...]


def _struct(value: Value) -> jax.ShapeDtypeStruct:
    weak = getattr(value.aval, "weak_type", False)
    return jax.ShapeDtypeStruct(value.aval.shape, value.aval.dtype, weak_type=weak)


def _words_struct(value: Value) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(jax.random.key_data, _struct(value))
    return jax.ShapeDtypeStruct(data.shape, data.dtype)


def plan(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job]:
    """The jobs that make the outputs at the positions in `shardings`, each laid out as it says."""
    derivation, signer = Derivation(), Signer()
    values = {i: _faithful(traced, i, derivation) for i in shardings}
    return [
        _job(
            tuple(values[i] for i in group),
            tuple(shardings[i] for i in group),
            tuple(group),
            derivation,
            signer,
        )
        for group in _groups(values, derivation)
    ]


_SAFE = rows.ELEMENTWISE | RESHAPES | {"random_bits", "transpose", "iota", "slice"}
"""What XLA computes alike whether or not it stands in a call of its own."""


def _faithful(traced: Traced, position: int, derivation: Derivation) -> Value:
    value = traced.outputs[position]
    if _is_safe(value, derivation):
        return value
    if isinstance(value, Output) and value.node.primitive.name == "scan":
        return value
    return traced.kept[position]


def _is_safe(value: Value, derivation: Derivation) -> bool:
    """Whether the leaf may be compiled apart, with calls inlined and bits fused."""
    nodes = order([value], derivation.is_key)
    known = all(node.primitive.name in _SAFE or _size(node) == 1 for node in nodes)
    return known and rows.is_calm(nodes)


def _job(
    values: tuple[Value, ...],
    shardings: tuple[Sharding | None, ...],
    positions: tuple[int, ...],
    derivation: Derivation,
    signer: Signer,
) -> Job:
    if len(values) == 1 and _on_host(shardings[0]):
        value = _batched(values[0])
        fill = is_constant(value)
        if fill is not None:
            return Job(Recipe(signer.token(fill), values, (), shardings, fill=fill), (), positions)
        form = rows.match(value, derivation, signer) if _poolable(value) else None
        if form is not None:
            token = (form.token, *map(signer.token, form.lifted))
            return Job(Recipe(token, values, form.keys, shardings, form), form.keys, positions)
    token, given = signer.program(values, derivation.is_key)
    fused = all(_is_safe(_batched(value), derivation) for value in values)
    recipe = Recipe(token, values, tuple(given), shardings, fused=fused)
    return Job(recipe, recipe.given, positions)


def _batched(value: Value) -> Value:
    """A scan without a carry as one batched computation, where there is such a form."""
    if isinstance(value, Output) and value.node.primitive.name == "scan":
        return vectorized(value) or value
    return value


def _poolable(value: Value) -> bool:
    """Whether making `value` from rows beats compiling a program for its shape."""
    return 0 < value.aval.size <= LARGEST_POOLED


def _groups(values: Mapping[int, Value], derivation: Derivation) -> list[list[int]]:
    """Positions that share a costly node must be computed together; the others stand alone."""
    owner: dict[Node, int] = {}
    parent = {i: i for i in values}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, value in values.items():
        for node in _costly_nodes(value, derivation):
            parent[root(i)] = root(owner.setdefault(node, i))
    groups: dict[int, list[int]] = {}
    for i in values:
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _costly_nodes(value: Value, derivation: Derivation) -> list[Node]:
    nodes = order([value], derivation.is_key)
    return [n for n in nodes if n.primitive.name != "broadcast_in_dim" and _size(n) > 1]


def _size(node: Node) -> int:
    return max(aval.size for aval in node.avals)
