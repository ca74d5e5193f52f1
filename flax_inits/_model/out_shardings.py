"""Where the leaves of a whole model are made: as asked, else where `jax.jit` would make them."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from .._base.errors import listed
from .._base.jax_state import concrete_mesh
from .._base.types import Path, PyTree
from .._engine.graph import Input, Value, order
from .._engine.placement import is_abstract, jit_sharding, replicated
from .._engine.trace import Traced
from .._tree.modules import is_module, opened
from .._tree.paths import flatten, show
from .constraints import constrained


class OutShardings:
    """One sharding for each leaf: what was `asked` (None: nothing), and `shardings` to use."""

    def __init__(self, traced: Traced, arguments: Sequence[Any], asked: list[Sharding | None]):
        # JAX drops arguments that nothing needs, and with them the devices that they are on.
        arrays = [arguments[i] for i in _used(traced.outputs)]
        constraints = constrained(traced.outputs)
        self.asked = asked
        known = [a or c for a, c in zip(asked, constraints.shardings, strict=True)]
        default = [_default(value, arrays, known) for value in traced.outputs]
        self.shardings = [a or d for a, d in zip(known, default, strict=True)]
        spread = constraints.is_spread and None in asked
        self.decided_by_jit = spread or _mixed(arrays, self.shardings)
        """Whether only compiling the whole function tells where its leaves are."""


def asked_for(out_shardings: Any, output: PyTree, paths: Sequence[Path]) -> list[Sharding | None]:
    """Reads what the user wants for each leaf of the abstract output; None leaves it open."""
    is_tree = isinstance(out_shardings, Sharding | Mesh) or is_module(out_shardings)
    if callable(out_shardings) and not is_tree:
        out_shardings = out_shardings(output)
    if out_shardings is None:
        return [None] * len(paths)
    given = out_shardings
    out_shardings, output = opened(out_shardings)[0], opened(output)[0]
    if is_module(given):
        # jax.tree.map unties a module, whose shardings then are more than the output has leaves.
        known = dict(zip(*flatten(out_shardings)[:2], strict=True))
        if set(paths) <= known.keys():
            out_shardings = jax.tree.structure(output).unflatten([known[path] for path in paths])
    try:
        full = jax.tree.broadcast(out_shardings, output, is_leaf=lambda node: node is None)
    except ValueError as error:
        raise ValueError(
            "out_shardings must be a tree of shardings, or a prefix of one, of the structure that "
            f"the function returns. {_difference(out_shardings, paths) or error}"
        ) from None
    found, structs = (jax.tree.leaves(t, is_leaf=lambda node: node is None) for t in (full, output))
    pairs = [pair for pair in zip(found, structs, strict=True) if pair[1] is not None]
    return [_fitted(*pair, path) for pair, path in zip(pairs, paths, strict=True)]


def _difference(out_shardings: Any, paths: Sequence[Path]) -> str:
    """Says what the user's tree lacks of the output's paths, and has besides; "" if nothing."""
    marked = jax.tree.map(lambda _: 0, out_shardings, is_leaf=lambda node: node is None)
    given = flatten(marked)[0]
    leaves, inner = set(given), {start for path in given for start in _starts(path)[:-1]}
    lacking = [path for path in paths if path and leaves.isdisjoint(_starts(path))]
    # The shortest start that is not there stands for the subtree below it.
    outermost = [next((s for s in _starts(path) if s not in inner), path) for path in lacking]
    lacks = listed([*dict.fromkeys(map(show, outermost))])
    nodes = {start for path in paths for start in _starts(path)}
    has = listed([show(path) for path in given if path not in nodes])
    parts = [f"lacks {lacks} (None for a subtree leaves it to the default device)"] if lacks else []
    parts += [f"has {has} besides"] if has else []
    return f"It {' and '.join(parts)}." if parts else ""


def _starts(path: Path) -> list[Path]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _fitted(sharding: Any, struct: Any, path: Path) -> Sharding | None:
    if sharding is None:
        return None
    if isinstance(sharding, PartitionSpec):
        mesh = concrete_mesh()
        if mesh is None:
            raise ValueError(
                f"out_shardings gives {sharding} for {show(path)!r}, which needs a mesh: call "
                "under jax.set_mesh(mesh), or give a jax.sharding.NamedSharding."
            )
        sharding = NamedSharding(mesh, sharding)
    if isinstance(sharding, Mesh | AbstractMesh):
        raise TypeError(
            f"out_shardings gives a mesh for {show(path)!r}, which is no sharding: give "
            "jax.sharding.NamedSharding(mesh, PartitionSpec(...))."
        )
    if not isinstance(sharding, Sharding):
        raise TypeError(
            f"out_shardings gives {sharding!r} for {show(path)!r}; each must be a "
            "jax.sharding.Sharding, a PartitionSpec or None."
        )
    try:
        sharding.shard_shape(struct.shape)
    except (ValueError, IndexError) as error:  # uneven, or more axes than the leaf has
        given, axes = len(getattr(sharding, "spec", ())), struct.ndim
        reason = f"the spec has {given} entries, the leaf {axes} {'axis' if axes == 1 else 'axes'}"
        raise ValueError(
            f"{show(path)!r} of shape {struct.shape} cannot be made with {sharding}: "
            f"{reason if given > axes else error}"
        ) from error
    return sharding


def _used(values: Sequence[Value]) -> list[int]:
    """Lists the positions of the arguments that the outputs need."""
    nodes = order(values)
    needed = (*values, *(value for node in nodes for value in node.inputs))
    return sorted({value.index for value in needed if isinstance(value, Input)})


def _default(value: Value, arrays: Sequence[Any], known: Sequence[Sharding | None]) -> Any:
    """Finds where `jax.jit` puts an output of which nothing is said."""
    mesh = concrete_mesh()
    if mesh is None:
        beside = next(filter(None, known), None)
        return jit_sharding(arrays) if beside is None else replicated(beside)
    # Axes that are explicit are part of the types of values; over others JAX replicates.
    if not any(kind == AxisType.Explicit for kind in mesh.axis_types):
        return NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, value.aval.sharding.spec)


def _mixed(arrays: Sequence[Any], shardings: Sequence[Sharding | None]) -> bool:
    """Whether arguments are spread over devices, or are not all where the leaves are to be."""
    committed = [array.sharding for array in arrays if getattr(array, "committed", False)]
    if not committed:
        return False
    known = [s for s in (*committed, *shardings) if s is not None and not is_abstract(s)]
    devices = {frozenset(s.device_set) for s in known}
    return len(devices) > 1 or not all(s.is_fully_replicated for s in committed)
