"""A donor's leaves by path, whatever form a checkpoint gave it."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base.types import Path, PyTree
from ..._tree.paths import flatten, show
from .files import readable, what_is_inside


def donor_leaves(donor: PyTree, targets: Sequence[Path]) -> dict[Path, Any]:
    """The donor's leaves by path.

    The keys of a flat mapping are split at slashes, tuples are paths already, and the level
    `value`, which Orbax adds for each `nnx.Variable` and each box, is left out unless the target
    has such a level itself.
    """
    if isinstance(donor, str | os.PathLike):
        raise TypeError(
            f"The donor must be a tree, got the path {str(donor)!r}: restore what is there first, "
            "for example by orbax.checkpoint or safetensors.flax.load_file."
        )
    donor = _as_dict(donor)
    names, leaves, _ = flatten(donor)
    if names == [()] and not hasattr(donor, "dtype") and not isinstance(donor, int | float):
        raise TypeError(
            f"The donor must be a tree of arrays, got {type(donor).__name__}."
            f"{what_is_inside(donor)}"
        )
    leaves = list(map(readable, leaves))
    if isinstance(donor, Mapping) and all(len(name) == 1 for name in names):
        names = [_split(key) for key in _keys_in_order(donor, names)]
    found = dict(zip(_without_values(names, targets), leaves, strict=True))
    if len(found) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"The donor has two leaves at {show(twice)!r}.")
    return found


def _as_dict(donor: PyTree) -> PyTree:
    """A mapping that JAX takes for a leaf, such as an open `.npz` file, as the dict that it is."""
    if isinstance(donor, Mapping) and jax.tree_util.all_leaves([donor]):
        return {key: _as_dict(value) for key, value in donor.items()}
    return donor


def _keys_in_order(donor: Mapping[Any, Any], names: Sequence[Path]) -> list[Any]:
    by_text = {str(key): key for key in donor}
    return [by_text.get(name, name) for (name,) in names]


def _split(key: Any) -> Path:
    return tuple(map(str, key)) if isinstance(key, tuple) else tuple(str(key).split("/"))


def check_array(path: Path, leaf: Any) -> None:
    """Raises unless a leaf has a shape and a dtype of NumPy's."""
    if isinstance(leaf, bool | int | float | complex):
        return
    dtype = getattr(leaf, "dtype", None)
    try:
        known = hasattr(leaf, "shape") and (
            jnp.issubdtype(dtype, jax.dtypes.extended) or np.dtype(dtype) is not None  # type: ignore[arg-type]
        )
    except TypeError:
        known = False
    if not known or dtype is None:
        numpy = " Give arrays, for example leaf.numpy()." if hasattr(leaf, "numpy") else ""
        raise TypeError(
            f"The donor's leaf {show(path)!r} is no array, but a {type(leaf).__name__}.{numpy}"
        )


def _without_values(names: Sequence[Path], targets: Sequence[Path]) -> list[Path]:
    if any(path[-1:] == ("value",) for path in targets):
        return list(names)
    below = collections.Counter(name[:end] for name in names for end in range(1, len(name)))
    return [n[:-1] if n[-1:] == ("value",) and below[n[:-1]] == 1 else n for n in names]


def is_state(leaf: Any) -> bool:
    """Whether a leaf is no param that a model could miss: a random key or a counter."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, int)
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return True
    legacy = dtype == np.uint32 and tuple(leaf.shape) == (2,)
    return legacy or (tuple(leaf.shape) == () and jnp.issubdtype(dtype, jnp.integer))
