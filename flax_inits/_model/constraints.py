"""Shardings that a function asks for itself, read off its graph, leaf by leaf.

`jax.lax.with_sharding_constraint` says where a value lives, and XLA then decides for all that it is
made of and that is made of it. If each constraint stands at the end of a leaf that shares nothing
with other leaves but keys, it decides for this leaf alone, and is the leaf's sharding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from .._base.bits import is_key_dtype
from .._base.jax_state import concrete_mesh
from .._engine.graph import Node, Output, Value, order
from .._engine.jaxpr import has_shardings, inner_jaxprs

_CONSTRAINTS = frozenset({"sharding_constraint", "reshard", "mesh_cast"})
_SPREADING = _CONSTRAINTS | {"shard_map"}
"""Primitives with shardings of their own, which XLA then propagates to other leaves."""


class Constrained(NamedTuple):
    """What the constraints in a function say of its outputs."""

    shardings: list[NamedSharding | None]
    """Of each output, where a constraint says so."""
    is_spread: bool
    """Whether others say more than that: then only XLA knows where outputs are."""


class _End(NamedTuple):
    sharding: NamedSharding
    nodes: tuple[Node, ...]
    """The constraint, and what follows it up to the output."""


def constrained(outputs: Sequence[Value]) -> Constrained:
    """Reads the constraints in the graph of a function."""
    nodes = order(outputs)
    spreading = {node for node in nodes if _spreads(node.primitive, node.params)}
    if not spreading:
        return Constrained([None] * len(outputs), False)
    mesh = concrete_mesh()
    if mesh is not None and all(kind == AxisType.Explicit for kind in mesh.axis_types):
        # Here the types of values say where they live, and constraints decide for nobody else.
        return Constrained([None] * len(outputs), not all(map(_constrains, spreading)))
    ends = [_end(value) for value in outputs]
    last = {node for end in ends if end for node in end.nodes}
    spread = not spreading <= last or _are_shared(nodes, outputs, ends, last)
    return Constrained([end.sharding if end else None for end in ends], spread)


def _spreads(primitive: Any, params: dict) -> bool:
    if primitive.name == "device_put":
        return any(device is not None for device in params["devices"])
    # Flax before 0.12.3 constrains variables by `jax.jit(lambda x: x, out_shardings=...)`.
    if has_shardings(params):
        return True
    return primitive.name in _SPREADING or any(
        _spreads(equation.primitive, equation.params)
        for inner in inner_jaxprs(params)
        for equation in inner.eqns
    )


def _constrains(node: Node) -> bool:
    """Whether a node is nothing but a constraint on its outputs."""
    return node.primitive.name in _CONSTRAINTS or has_shardings(node.params)


def _end(value: Value) -> _End | None:
    """Finds the constraint at the end of an output, and where it places the output."""
    # Through what Flax and casts do after a constraint; all else may have a sharding of its own.
    if not isinstance(value, Output):
        return None
    node, name = value.node, value.node.primitive.name
    if _constrains(node):
        sharding = _of_constraint(node, value)
        return _End(sharding, (node,)) if sharding is not None else None
    if name not in ("broadcast_in_dim", "convert_element_type", "transpose"):
        return None
    inner = _end(node.inputs[0])
    if inner is None:
        return None
    before = node.inputs[0].aval
    old = [*inner.sharding.spec, *[None] * before.ndim]
    axes = range(value.aval.ndim)  # of the output; the input's axis for each, or None
    if name == "broadcast_in_dim":
        came = {axis: i for i, axis in enumerate(node.params["broadcast_dimensions"])}
        came = {a: i for a, i in came.items() if before.shape[i] == value.aval.shape[a]}
    elif name == "transpose":
        came = dict(enumerate(node.params["permutation"]))
    else:
        came = {axis: axis for axis in axes}
    spec = [old[came[axis]] if axis in came else None for axis in axes]
    return _End(_named(inner.sharding.mesh, spec), (*inner.nodes, node))


def _of_constraint(node: Node, value: Output) -> NamedSharding | None:
    params, aval = node.params, value.aval
    if "out_shardings" in params:
        sharding = params["out_shardings"][value.index]
    else:
        sharding = params.get("sharding", params.get("dst_sharding"))
    if not isinstance(sharding, NamedSharding):
        return None
    # Under jax.set_mesh a constraint names axes of an abstract mesh; its devices are those in use.
    mesh: Any = sharding.mesh
    if isinstance(mesh, AbstractMesh):
        mesh = concrete_mesh()
        if mesh is None or mesh.abstract_mesh != sharding.mesh:
            return None
    spec = [*sharding.spec, *[None] * (aval.ndim - len(sharding.spec))]
    return _named(mesh, [None if axis is PartitionSpec.UNCONSTRAINED else axis for axis in spec])


def _named(mesh: Any, spec: Sequence[Any]) -> NamedSharding:
    # As `jax.jit` writes it: without the axes at the end that are not sharded.
    used = max((i + 1 for i, axis in enumerate(spec) if axis is not None), default=0)
    return NamedSharding(mesh, PartitionSpec(*spec[:used]))


def _are_shared(
    nodes: Sequence[Node], outputs: Sequence[Value], ends: Sequence[_End | None], last: set[Node]
) -> bool:
    """Whether a constrained leaf has more in common with other leaves than keys."""
    # XLA propagates a sharding to what a value is made of, and from there to all that is made of
    # it. What two leaves have in common would carry it from one to the other.
    readers: dict[Node, set[int]] = {node: set() for node in nodes}
    for i, value in enumerate(outputs):
        if isinstance(value, Output):
            readers[value.node].add(i)
    for node in reversed(nodes):
        for value in node.inputs:
            if isinstance(value, Output):
                readers[value.node] |= readers[node]
    for node, leaves in readers.items():
        bound = [ends[i] for i in leaves]
        if len({end and end.nodes for end in bound}) < 2 or not any(bound):
            continue
        sharded = {
            outputs[i].aval.shape[axis]
            for i in leaves
            if (end := ends[i]) is not None
            for axis, name in enumerate(end.sharding.spec)
            if name is not None
        }
        if node in last or not all(_is_key(aval, sharded) for aval in node.avals):
            return True
    return False


def _is_key(aval: Any, sharded: Iterable[int]) -> bool:
    """Whether a value is made for keys, and surely has no axis along which a leaf is sharded.

    An axis of the size of one that is sharded might be that one: keys of a stack of layers.
    """
    shape = aval.shape
    if not is_key_dtype(aval.dtype):
        if aval.dtype not in (np.uint32, np.int32):
            return False
        shape = shape[:-1] if shape[-1:] in ((2,), (4,)) else shape
    return not set(sharded) & set(shape)
