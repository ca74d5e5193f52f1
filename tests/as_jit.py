"""Holds `jit_init` to `jax.jit`: same tree, types, places and bits."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import flax_inits


def facts(leaf: jax.Array) -> tuple:
    """All that two equal leaves agree on but their places, their values as bits."""
    data, kind = leaf, leaf.dtype
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data, kind = jax.random.key_data(leaf), str(jax.random.key_impl(leaf))
    return (
        type(leaf).__name__,
        leaf.shape,
        kind,
        leaf.aval.weak_type,
        leaf.committed,
        np.asarray(data).tobytes(),
    )


def assert_same(made: Any, expected: Any) -> None:
    """Two trees agree in structure and in every fact of every leaf."""
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    for (path, leaf), wanted in zip(
        jax.tree.leaves_with_path(made), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        *found, bits = facts(leaf)
        *facts_wanted, bits_wanted = facts(wanted)
        assert found == facts_wanted, name
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), name
        if bits != bits_wanted:
            differ = int((np.asarray(leaf) != np.asarray(wanted)).sum())
            raise AssertionError(f"{name}: {differ} of {leaf.size} elements differ")


def assert_as_jit(
    fun: Callable[..., Any], *args: Any, jit: dict | None = None, whole: bool = False, **kwargs: Any
) -> Any:
    """Calls `fun` by both and compares; `whole`: it is expected to be compiled as it stands."""
    expected = jax.jit(fun, **(jit or {}))(*args, **kwargs)
    init = flax_inits.jit_init(fun, **(jit or {}))
    made = init(*args, **kwargs)
    assert_same(made, expected)
    recipes = {row.recipe for row in init.plan(*args, **kwargs).rows}
    assert any(recipe.startswith("the whole function") for recipe in recipes) == whole, recipes
    return made
