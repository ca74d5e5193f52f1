"""Units that start again, with their weights, biases, norms and moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from .._base.types import Array, Key, PyTree
from .._optimizer.entries import Entry
from .._optimizer.fresh import fresh
from .._optimizer.matching import matched
from .._optimizer.reset import check_optimizer, report
from .._surgery.reinit import reinit
from .._tree.paths import flatten, path_hash, show
from .edits import blended, edited, lost_axes, program
from .layers import Edit, Layers


def recycle(
    key: Key,
    params: PyTree,
    masks: Mapping[str, Array],
    layers: Mapping[str, Mapping[str, Any]],
    *,
    incoming: Any = None,
    outgoing: Any = "zero",
    norm_factor: float | None = None,
    opt_state: PyTree = None,
    tx: Any = None,
) -> Any:
    """Starts masked units again: fresh incoming weights, bias 0, outgoing weights 0.

    With zero outgoing weights, recycling changes nothing of what the network computes if the units
    were silent. Nothing is inferred from names; `layers` says what belongs to a layer's units:

        layers = {
            "conv": {"kernel": "Conv_0/kernel", "bias": "Conv_0/bias", "feeds": "Dense_0/kernel"},
            "hidden": {"kernel": "Dense_0/kernel", "bias": "Dense_0/bias",
                       "norm": "LayerNorm_0", "feeds": ["Dense_1/kernel"]},
        }

    - `kernel`: makes the units, which are its last axis.
    - `bias`: optional.
    - `norm`: optional; a node with leaves called scale and var (1 for a new unit), bias and mean
      (0), or a mapping from leaf to value. Give whole variables as `params` to reach statistics.
    - `feeds`: the kernels that the units go into, at axis -2, or a mapping from kernel to axis.
      A dense kernel with a multiple of the units takes flattened feature maps, channels last.

    Paths are strings joined by `/`, or tuples; each part takes a list of them too.

    Args:
        key: one PRNG key.
        params: any pytree.
        masks: for each layer to recycle, a bool array of shape (units,), true for new units.
        layers: the layers, as above. The output layer feeds nothing and has no entry.
        incoming: what makes fresh weights: an initializer, called with the kernel's whole shape;
            a mapping from layer to initializer; or a freshly initialized tree, such as
            `model.init(key, x)["params"]`. None is Flax's default for kernels, `lecun_normal`.
        outgoing: "zero", "keep", or as `incoming`.
        norm_factor: scales each fresh column to this factor times the mean norm of the columns
            that stay. None keeps the columns as drawn.
        opt_state: the optimizer's state; the entries of all new weights are as in
            `tx.init(params)`, with the new params. Counts are kept.
        tx: the optimizer.

    Returns:
        The params, or `(params, opt_state)` if a state was given. Structure, dtypes and shardings
        are kept, and what belongs to no masked layer are the same objects. Where a new unit feeds
        another new unit, the weight between them is the outgoing one. Statistics that
        an optimizer keeps for a whole param are kept; other shapes than the param's are
        reset where all that they sum up is new, or left with an `OptimizerStateWarning`.

    Raises:
        ValueError: a layer, path or mask does not fit; `opt_state` is not a state of `tx`.
        TypeError: `masks`, `layers` or a layer is no mapping; only one of `opt_state`
            and `tx` is given.

    Reference: Sokar et al., "The dormant neuron phenomenon in deep reinforcement learning", 2023.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"hidden": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}
    >>> layers = {"hidden": {"kernel": "hidden", "feeds": "out"}}
    >>> masks = {"hidden": jnp.array([False, True, False])}
    >>> flax_inits.recycle(
    ...     jax.random.key(0), params, masks, layers, incoming=flax_inits.constant(7.0))["hidden"]
    Array([[1., 7., 1.],
           [1., 7., 1.]], dtype=float32)
    """
    _check_arguments(outgoing, opt_state, tx)
    graph = Layers(params, masks, layers, outgoing)
    found = []
    if tx is not None:
        tx, found = matched(tx, opt_state, params)
    drawn = {
        "incoming": _draws(key, params, graph, "incoming", incoming),
        "outgoing": _draws(key, params, graph, "outgoing", outgoing),
    }
    leaves = list(graph.leaves)
    for i, edits in graph.edits.items():
        values = {role: made[i] for role, made in drawn.items() if i in made}
        edit = program(edited, tuple(edits), graph.names[i], leaves[i])
        leaves[i] = edit(leaves[i], values, _masks(graph, edits), norm_factor)
    new = graph.treedef.unflatten(leaves)
    return new if tx is None else (new, _recycled_state(tx, opt_state, new, found, graph))


def _check_arguments(outgoing: Any, opt_state: PyTree, tx: Any) -> None:
    if (opt_state is None) != (tx is None):
        raise TypeError("recycle needs opt_state and tx together: tx makes the fresh entries.")
    if isinstance(outgoing, str) and outgoing not in ("zero", "keep"):
        raise ValueError(f"outgoing must be 'zero', 'keep' or an initializer, got {outgoing!r}.")
    if tx is not None:
        check_optimizer(tx)


def _masks(graph: Layers, edits: Sequence[Edit]) -> dict[str, Array]:
    return {edit.layer: graph.masks[edit.layer] for edit in edits}


def _draws(key: Key, params: PyTree, graph: Layers, role: str, source: Any) -> dict[int, Array]:
    """Fresh arrays for the leaves that need them, by position."""
    wanted = {i: layer for (i, which), layer in graph.layer_of.items() if which == role}
    if not wanted:
        return {}
    source = nn.initializers.lecun_normal() if source is None else source
    if not callable(source) and not all(map(callable, jax.tree.leaves(source))):
        return _from_tree(graph, wanted, source, role)
    rules = []
    for i, layer in wanted.items():
        if not callable(source) and layer not in source:
            raise ValueError(f"{role} has no initializer for layer {layer!r}, which has a mask.")
        init = source if callable(source) else source[layer]
        rules.append((lambda path, leaf, of=graph.names[i]: path == of, init))
    # Both draws of one kernel must differ, or incoming and outgoing weights would be equal.
    own = key if role == "incoming" else jax.random.fold_in(key, path_hash((role,)))
    new = jax.tree.leaves(reinit(own, params, rules))
    return {i: new[i] for i in wanted}


def _from_tree(graph: Layers, wanted: Iterable[int], tree: PyTree, role: str) -> dict[int, Array]:
    names, leaves, _ = flatten(tree)
    made = dict(zip(names, leaves, strict=True))
    for i in wanted:
        name, shape = graph.names[i], np.shape(graph.leaves[i])
        if name not in made or np.shape(made[name]) != shape:
            has = f"has shape {np.shape(made[name])}" if name in made else "is missing"
            raise ValueError(
                f"{role} is taken for a tree of fresh params, but its {show(name)!r} {has}; params "
                f"holds shape {shape} there."
            )
    return {i: made[graph.names[i]] for i in wanted}


def _recycled_state(
    tx: Any, opt_state: PyTree, params: PyTree, found: Sequence[Entry], graph: Layers
) -> PyTree:
    """The state with the entries of new weights as in `tx.init(params)`."""
    state, treedef = jax.tree.flatten(opt_state)
    wanted: dict[int, int] = {}
    left = [e.path for e in found if e.kind == "mixed" and not e.params.isdisjoint(graph.edits)]
    for index, entry in enumerate(found):
        param = next(iter(entry.params))
        if entry.kind != "own" or param not in graph.edits:
            continue
        if lost_axes(np.shape(graph.leaves[param]), entry.shape) is not None:
            wanted[index] = param
        elif math.prod(entry.shape) > 1:
            left.append(entry.path)
    report(left, strict=False)
    for index, value in fresh(tx, params, found, state, list(wanted)).items():
        param, old = wanted[index], state[index]
        edits = tuple(graph.edits[param])
        facts = (edits, np.shape(graph.leaves[param]))
        blend = program(blended, facts, found[index].path, old)
        state[index] = blend(old, value, _masks(graph, edits))
    return treedef.unflatten(state)
