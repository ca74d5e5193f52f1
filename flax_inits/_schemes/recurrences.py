"""Schemes for recurrences, which couple leaves: what no initializer of one leaf can do.

The leaves that belong together are found by their names, which arguments can change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._base.errors import listed
from .._base.types import Array, DType, Key, Path, PyTree, Shape, Where
from .._surgery.reinit import reinit
from .._tree.forms import describe
from .._tree.leaves import at_least_float32, check_alive, dtype_of
from .._tree.modules import drawn_key
from .._tree.paths import flatten, show
from ..initializers.architectures.recurrent import chrono
from ..initializers.general.constants import zeros
from .leaves import among, chosen_paths, with_leaves


def chrono_gates(
    key: Key,
    params: PyTree,
    t_max: float,
    *,
    where: Where = "**",
    gates: Sequence[str] = ("hi", "hf", "hg", "ho"),
) -> PyTree:
    """`chrono` for cells that hold each gate's bias by itself, as Flax's LSTM cells do.

    b_f = `log U(1, t_max - 1)`, b_i = -b_f, b_g = b_o = 0. As b_i repeats b_f, two leaves are drawn
    from one key, which no rule of `reinit` can do; cells with one fused bias take the initializer
    `chrono`.

    Args:
        key: one PRNG key; a cell draws from `fold_in(key, h)`, where h depends on its path.
        params: any pytree.
        t_max: the longest dependency, in steps; above 2.
        where: the cells: each must be chosen with the biases of all its gates.
        gates: what the nodes are called that hold the biases of i, f, g and o, in this order.

    Returns:
        A tree of the same structure, containers, boxes, dtypes and shardings. Kept leaves are the
        same objects.

    Raises:
        ValueError: unless t_max > 2; `where` selects nothing, no cell, or a part of a cell.

    >>> import flax_inits, flax.linen as nn, jax, jax.numpy as jnp
    >>> params = nn.RNN(nn.LSTMCell(64)).init(jax.random.key(0), jnp.ones((1, 9, 3)))["params"]
    >>> cell = flax_inits.chrono_gates(jax.random.key(1), params, 784)["cell"]
    >>> bool((cell["hi"]["bias"] == -cell["hf"]["bias"]).all())
    True

    Reference:
        Tallec & Ollivier 2018, Can recurrent neural networks warp time?,
        https://arxiv.org/abs/1804.11188
    """
    if isinstance(gates, str) or len(gates) != 4 or len({*gates}) != 4:
        raise ValueError(
            f"chrono_gates needs four names for gates, of i, f, g and o; got {gates!r}."
        )
    biases = [(gate, "bias") for gate in gates]
    cells = _groups("chrono_gates", "an LSTM cell", params, where, biases)
    fused = chrono(t_max)

    def forget(key: Key, shape: Shape, dtype: DType = None) -> Array:
        hidden = shape[-1]
        return fused(key, (*shape[:-1], 4 * hidden), dtype)[..., hidden : 2 * hidden]

    rules = [
        (among([cell[1] for cell in cells], where), forget),
        (among([path for cell in cells for path in cell[2:]], where), zeros()),
    ]
    params = reinit(key, params, rules)
    leaves = dict(zip(*flatten(params)[:2], strict=True))
    return with_leaves(params, {cell[0]: -leaves[cell[1]] for cell in cells})


def lru_gamma(
    key: Key,
    params: PyTree,
    *,
    where: Where = "**",
    nu: str = "nu_log",
    gamma: str = "gamma_log",
) -> PyTree:
    """gamma_log = `½ log(1 - |λ|²)` with |λ| = `exp(-exp(nu_log))`: inputs of linear recurrences.

    With this factor on its inputs, the state of a unit has the variance of the inputs, however
    long it remembers. Use it after nu was drawn (`lru_nu_log`); the phase of λ does not matter.

    Args:
        key: one PRNG key, which is not used: nothing is drawn.
        params: any pytree.
        where: the recurrences: each must be chosen with both leaves.
        nu: what the leaf is called that holds log(-log|λ|).
        gamma: what the leaf is called that gets the logarithm of the factor.

    Returns:
        A tree of the same structure, containers, boxes, dtypes and shardings. Kept leaves are the
        same objects.

    Raises:
        ValueError: `where` selects nothing, no recurrence, or only one of its leaves; the two have
            other shapes, or nu is abstract.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"nu_log": jnp.log(-jnp.log(jnp.array([0.6, 0.8]))), "gamma_log": jnp.zeros(2)}
    >>> gamma = jnp.exp(flax_inits.lru_gamma(jax.random.key(0), params)["gamma_log"])
    >>> [round(float(factor), 2) for factor in gamma]
    [0.8, 0.6]

    Reference:
        Orvieto et al. 2023, Resurrecting Recurrent Neural Networks for Long Sequences,
        https://arxiv.org/abs/2303.06349
    """
    drawn_key(key)
    leaves = dict(zip(*flatten(params)[:2], strict=True))
    found = {}
    for log_nu, log_gamma in _groups("lru_gamma", "a recurrence", params, where, [(nu,), (gamma,)]):
        if isinstance(leaves[log_nu], jax.ShapeDtypeStruct):
            raise ValueError(f"lru_gamma follows from {show(log_nu)!r}, which is abstract.")
        check_alive(log_nu, leaves[log_nu])
        given, wanted = jnp.shape(leaves[log_nu]), jnp.shape(leaves[log_gamma])
        if given != wanted:
            raise ValueError(
                f"lru_gamma needs equal shapes, but {show(log_nu)!r} has {given} and "
                f"{show(log_gamma)!r} has {wanted}."
            )
        found[log_gamma] = _gamma_log(leaves[log_nu])
    return with_leaves(params, found)


def _gamma_log(nu_log: Any) -> Array:
    wide = at_least_float32(dtype_of(nu_log))
    # 1 - exp(-2ν) by expm1: near the unit circle the exponential rounds to 1.
    return jnp.log(-jnp.expm1(-2 * jnp.exp(jnp.asarray(nu_log, wide)))) / 2


def _groups(
    scheme: str, what: str, params: PyTree, where: Where, endings: Sequence[Path]
) -> list[tuple[Path, ...]]:
    """The chosen leaves that belong together: one path for each ending, below one node."""
    chosen, everything = set(chosen_paths(params, where)), set(flatten(params)[0])
    nodes = dict.fromkeys(
        path[: -len(end)] for path in sorted(chosen) for end in endings if path[-len(end) :] == end
    )
    groups = [tuple((*node, *end) for end in endings) for node in nodes]
    # A lone bias is nobody's: what makes a group is that the tree holds all of it.
    groups = [group for group in groups if everything.issuperset(group)]
    if not groups:
        named = listed([show(end) for end in endings])
        raise ValueError(
            f"{describe(where)} selects no part of {what}, which holds {named}; the leaves are "
            f"{listed([show(path) for path in sorted(chosen)], most=3)}."
        )
    for group in groups:
        if left := [show(path) for path in group if path not in chosen]:
            raise ValueError(
                f"{describe(where)} selects a part of {what}, but not {listed(left)}, which "
                f"{scheme} would have to change with it; select all of it."
            )
    return groups
