"""NNX modules as trees: a variable is one leaf, whatever number of attributes hold it.

JAX can flatten a module, too, but what two attributes share then comes out twice, and as two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._base import bits
from .._base.imported import imported
from .._base.types import Key, Path, PyTree
from .boxes import check_ends


def is_module(node: Any) -> bool:
    """Whether `node` is an NNX module."""
    return isinstance(node, imported("flax.nnx", "Module"))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Way:
    """The way back from what `opened` makes; a jitted function may return it."""

    close: Callable[[PyTree], PyTree] | None = None
    """None if there was no module."""

    def __call__(self, tree: PyTree) -> PyTree:
        """`tree` with new modules in the place of their states."""
        return tree if self.close is None else self.close(tree)


def opened(tree: PyTree) -> tuple[PyTree, Way]:
    """`tree` with the state of each module in the module's place, and the way back.

    The first of several attributes that hold a variable has it, in the order of `nnx.split`.
    """
    check_ends(tree)
    if not imported("flax.nnx", "Module"):
        return tree, Way()
    nodes, treedef = jax.tree.flatten(tree, is_leaf=is_module)
    positions = [i for i, node in enumerate(nodes) if is_module(node)]
    if not positions:
        return tree, Way()
    from flax import nnx

    graphdef, state = nnx.split([nodes[i] for i in positions])
    states = [state.get(number, nnx.State({})) for number in range(len(positions))]

    def close(tree: PyTree) -> PyTree:
        nodes = treedef.flatten_up_to(tree)
        whole = {number: nodes[i] for number, i in enumerate(positions) if len(nodes[i])}
        merged = nnx.merge(graphdef, nnx.State(whole))
        return treedef.unflatten(_replaced(nodes, positions, merged))

    return treedef.unflatten(_replaced(nodes, positions, states)), Way(close)


def _replaced(nodes: Sequence[Any], positions: Sequence[int], values: Sequence[Any]) -> list[Any]:
    there = dict(zip(positions, values, strict=True))
    return [there.get(i, node) for i, node in enumerate(nodes)]


def other_paths(tree: PyTree, paths: Sequence[Path]) -> dict[int, list[Path]]:
    """For leaves that several attributes hold: by the leaf's position, its paths but the first."""
    if opened(tree)[1].close is None:
        return {}
    from flax import nnx

    groups = [[tuple(map(str, path)) for path in group] for group in nnx.find_duplicates(tree)]
    found = {i: _others(path, groups) for i, path in enumerate(paths)}
    return {i: others for i, others in found.items() if others}


def _others(path: Path, groups: Sequence[Sequence[Path]]) -> list[Path]:
    found = {path: None}
    for _ in groups:  # a shared variable may be in a shared module, and so on
        for group in groups:
            for one in list(found):
                for start in group:
                    if one[: len(start)] == start:
                        found |= dict.fromkeys(other + one[len(start) :] for other in group)
    return [other for other in found if other != path]


def is_variable_type(where: Any) -> bool:
    """Whether `where` is a class of NNX variables."""
    return isinstance(where, type) and issubclass(where, imported("flax.nnx", "Variable"))


def are_params(tree: PyTree) -> list[bool]:
    """Whether each leaf of an opened tree is trained; in a tree without NNX params all are."""
    param = imported("flax.nnx", "Param")
    found = [isinstance(node, param) for node in _nodes(tree) for _ in jax.tree.leaves(node)]
    return found if any(found) else [True] * len(found)


def by_variable_type(where: Any, tree: PyTree) -> list[bool]:
    """Whether each leaf is in a variable of this class."""
    nodes = _nodes(opened(tree)[0])
    if not any(map(_is_variable, nodes)):
        raise ValueError(
            f"{where.__name__} selects by class of NNX variable, but there is none in this tree: a "
            "pure dict has forgotten them. Give the model or its nnx.State, or select by path."
        )
    return [isinstance(node, where) for node in nodes for _ in jax.tree.leaves(node)]


def _nodes(tree: PyTree) -> list[Any]:
    """The variables of an opened tree, and the leaves outside of them."""
    return jax.tree.leaves(tree, is_leaf=_is_variable)


def _is_variable(node: Any) -> bool:
    return isinstance(node, imported("flax.nnx", "Variable"))


def check_values(leaves: Sequence[Any]) -> None:
    """Raises for variables that are references: a new tree would share them, or lose them."""
    variable = imported("flax.nnx", "Variable")
    for leaf in leaves:
        hijax = isinstance(leaf, variable)
        if hijax or isinstance(leaf, jax.Ref):
            kind = "hijax=True" if hijax else "ref=True"
            raise ValueError(
                f"The tree holds a reference (a variable with {kind}), which a new tree would "
                "share with this one. Give nnx.with_vars(model, hijax=False, ref=False), and "
                "nnx.update(model, ...) with what comes back."
            )


def drawn_key(key: Any) -> tuple[Key, Callable[[], object]]:
    """A key, checked, and what to call once it was used: of `nnx.Rngs` one is drawn.

    It is the one that `rngs.params()` draws, which moves on when the second is called, so that a
    call that fails draws none.
    """
    if not isinstance(key, (imported("flax.nnx", "Rngs"), imported("flax.nnx", "RngStream"))):
        bits.check_key(key)
        return key, lambda: None
    from flax import nnx

    stream = key.params if isinstance(key, nnx.Rngs) else key
    return nnx.clone(stream)(), stream
