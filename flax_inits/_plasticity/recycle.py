"""Units that start again, with their weights, biases, norms and moments."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base import checks
from .._base.errors import noted_of_state
from .._base.types import Array, Key, Path, PyTree
from .._optimizer.entries import Entry
from .._optimizer.fresh import fresh
from .._optimizer.further import has_params
from .._optimizer.matching import matched
from .._optimizer.nnx_state import params_of
from .._optimizer.reset import check_optimizer, warn_of_left
from .._surgery.reinit import reinit
from .._tree.modules import drawn_key, is_module
from .._tree.paths import flatten, path_hash, paths, show
from .._tree.places import run_at_leaf
from .edits import blended, edited, lost_axes
from .layers import Edit, LayerEdits


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
            "conv": {"kernel": "Conv_0/kernel", "bias": "Conv_0/bias", "feeds": "Dense_0/kernel",
                     "spatial": (7, 7)},
            "hidden": {"kernel": "Dense_0/kernel", "bias": "Dense_0/bias",
                       "norm": "LayerNorm_0", "feeds": ["Dense_1/kernel"]},
        }

    - `kernel`: makes the units, which are its last axis.
    - `bias`: optional.
    - `norm`: optional; a node with leaves called scale and var (1 for a new unit), bias and mean
      (0), or a mapping from leaf to value. To reach running statistics too, give variables,
      `{"params": ..., "batch_stats": ...}`, as `params`; all paths then begin with a collection.
    - `feeds`: the kernels that the units go into, at axis -2, or a mapping from kernel to axis.
    - `spatial`: the size of the feature maps, where they are flattened, channels last, into a
      dense kernel that they feed. Without it, a kernel has one row for each unit.

    Paths are strings joined by `/`, or tuples; each part takes a list of them too.

    Args:
        key: one PRNG key, or an `nnx.Rngs`, of which one is drawn as by `rngs.params()`.
        params: any pytree, or variables that hold one as "params"; or an NNX module, of which a
            new one comes back, around the same kept arrays.
        masks: for each layer to recycle, a bool array of shape (units,), true for new units.
        layers: the layers, as above. The output layer feeds nothing and has no entry.
        incoming: what makes fresh weights: an initializer, called with the kernel's whole shape;
            a mapping from layer to initializer; or a freshly initialized tree, such as
            `model.init(key, x)["params"]` or `Model(nnx.Rngs(0))`. None is Flax's
            default for kernels, `lecun_normal`.
        outgoing: "zero", "keep", or as `incoming`.
        norm_factor: scales each fresh column to this factor, at least 0, times the mean norm of the
            columns that stay. None keeps the columns as drawn.
        opt_state: the optimizer's state; the entries of all new weights are as in
            `tx.init(params)`, with the new params; of variables, `variables["params"]`. Counts are
            kept.
        tx: the optimizer.

    Returns:
        The params, or `(params, opt_state)` if a state was given. Structure, dtypes and shardings
        are kept, and what belongs to no masked layer are the same objects. Where a new unit feeds
        another new unit, the weight between them is the outgoing one. Statistics that
        an optimizer keeps for a whole param are kept; other shapes than the param's are
        reset where all that they sum up is new, or left with an `OptimizerStateWarning`.

    Raises:
        ValueError: a layer, path or mask does not fit; `norm_factor` is negative; `opt_state` is
            not a state of `tx`.
        TypeError: `masks`, `layers` or a layer is no mapping; an axis, a value or `norm_factor` is
            no number; only one of `opt_state` and `tx` is given.

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
    _check_arguments(outgoing, norm_factor, opt_state, tx)
    key, advance = drawn_key(key)
    with noted_of_state(params, "recycle takes the params, and opt_state= and tx= beside them"):
        edits = LayerEdits(params, masks, layers, outgoing)
    trained = None if tx is None else _trained(tx, opt_state, params)
    drawn = {
        "incoming": _draws(key, params, edits, "incoming", incoming),
        "outgoing": _draws(key, params, edits, "outgoing", outgoing),
    }
    leaves = list(edits.leaves)
    for i, of_leaf in edits.of_leaf.items():
        values = {role: made[i] for role, made in drawn.items() if i in made}
        edit = run_at_leaf(edited, edits.names[i], leaves[i], tuple(of_leaf))
        leaves[i] = edit(leaves[i], values, _masks(edits, of_leaf), norm_factor)
    new: Any = edits.treedef.unflatten(leaves)
    if trained is not None:
        new = new, _recycled_state(trained, opt_state, new, edits)
    advance()
    return new


def _check_arguments(outgoing: Any, norm_factor: Any, opt_state: PyTree, tx: Any) -> None:
    if (opt_state is None) != (tx is None):
        raise TypeError("recycle needs opt_state and tx together: tx makes the fresh entries.")
    if isinstance(outgoing, str) and outgoing not in ("zero", "keep"):
        raise ValueError(f"outgoing must be 'zero', 'keep' or an initializer, got {outgoing!r}.")
    if norm_factor is not None:
        checks.factor("norm_factor", norm_factor, "of at least 0", most=sys.float_info.max)
    if tx is not None:
        check_optimizer(tx)


class _Trained(NamedTuple):
    """What an optimizer trains."""

    tx: Any
    entries: list[Entry]
    """Of its state; the positions of params are those in the whole tree."""

    part: Callable[[PyTree], PyTree]
    """The params of the whole tree."""


def _trained(tx: Any, opt_state: PyTree, params: PyTree) -> _Trained:
    """The optimizer's part of `params`: all, "params" of variables, what an NNX module trains."""
    if is_module(params):
        return _part(tx, opt_state, params, params_of, ())
    if not has_params(params):
        return _Trained(*matched(tx, opt_state, params), lambda whole: whole)
    try:
        return _part(tx, opt_state, params, operator.itemgetter("params"), ("params",))
    except ValueError:
        with contextlib.suppress(ValueError):  # The first error says what does not fit.
            return _Trained(*matched(tx, opt_state, params), lambda whole: whole)
        raise


def _part(
    tx: Any, opt_state: PyTree, params: PyTree, part: Callable[[PyTree], PyTree], above: Path
) -> _Trained:
    """What an optimizer trains that sees a part of `params`, which begins at `above`."""
    trained = part(params)
    tx, entries = matched(tx, opt_state, trained)
    index = {path: i for i, path in enumerate(paths(params))}
    own = [index[(*above, *path)] for path in paths(trained)]
    moved = [e._replace(params=frozenset(own[param] for param in e.params)) for e in entries]
    return _Trained(tx, moved, part)


def _masks(edits: LayerEdits, of_leaf: Sequence[Edit]) -> dict[str, Array]:
    return {edit.layer: edits.masks[edit.layer] for edit in of_leaf}


def _draws(key: Key, params: PyTree, edits: LayerEdits, role: str, source: Any) -> dict[int, Array]:
    """Fresh arrays for the leaves that need them, by position."""
    wanted = {
        i: edit.layer
        for i, of_leaf in edits.of_leaf.items()
        for edit in reversed(of_leaf)  # so that the first of several layers has the say
        if edit.value is None and edit.role == role
    }
    if not wanted:
        return {}
    source = jax.nn.initializers.lecun_normal() if source is None else source
    # An NNX module that can be called is a tree of fresh params all the same.
    if is_module(source) or not (callable(source) or all(map(callable, jax.tree.leaves(source)))):
        return _from_tree(edits, wanted, source, role)
    rules = []
    for i, layer in wanted.items():
        if not callable(source) and layer not in source:
            raise ValueError(f"{role} has no initializer for layer {layer!r}, which has a mask.")
        init = source if callable(source) else source[layer]
        rules.append((lambda path, leaf, of=edits.names[i]: path == of, init))
    # Both draws of one kernel must differ, or incoming and outgoing weights would be equal.
    own = key if role == "incoming" else jax.random.fold_in(key, path_hash((role,)))
    new = flatten(reinit(own, params, rules))[1]
    return {i: new[i] for i in wanted}


def _from_tree(
    edits: LayerEdits, wanted: Iterable[int], tree: PyTree, role: str
) -> dict[int, Array]:
    made = dict(zip(*flatten(tree)[:2], strict=True))
    for i in wanted:
        name, shape = edits.names[i], np.shape(edits.leaves[i])
        if name not in made or np.shape(made[name]) != shape:
            has = f"has shape {np.shape(made[name])}" if name in made else "is missing"
            raise ValueError(
                f"{role} is taken for a tree of fresh params, but its {show(name)!r} {has}; params "
                f"holds shape {shape} there."
            )
    return {i: made[edits.names[i]] for i in wanted}


def _recycled_state(trained: _Trained, opt_state: PyTree, new: PyTree, edits: LayerEdits) -> PyTree:
    """The state with the entries of new weights as in `tx.init` of the new params."""
    state, treedef = jax.tree.flatten(opt_state)
    tx, entries, part = trained
    wanted: dict[int, int] = {}
    left = [e.path for e in entries if e.kind == "mixed" and not e.params.isdisjoint(edits.of_leaf)]
    for index, entry in enumerate(entries):
        param = next(iter(entry.params), None)
        if entry.kind != "own" or param not in edits.of_leaf:
            continue
        if lost_axes(np.shape(edits.leaves[param]), entry.shape) is not None:
            wanted[index] = param
        elif math.prod(entry.shape) > 1:
            left.append(entry.path)
    warn_of_left(left, strict=False)
    for index, value in fresh(tx, part(new), entries, state, list(wanted)).items():
        param, old = wanted[index], state[index]
        of_leaf, shape = tuple(edits.of_leaf[param]), np.shape(edits.leaves[param])
        blend = run_at_leaf(blended, entries[index].path, old, of_leaf, shape)
        state[index] = blend(old, value, _masks(edits, of_leaf))
    return treedef.unflatten(state)
