"""Which of a function's arguments are arrays, abstract ones included."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def of_arrays(
    fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[[Sequence[Any]], Any], list[Any]]:
    """`fun(*args, **kwargs)` as a function of the arrays among its arguments, and these."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def of_leaves(arrays: Sequence[Any]) -> Any:
        given = iter(arrays)
        args, kwargs = treedef.unflatten(
            [next(given) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]
        )
        return fun(*args, **kwargs)

    return of_leaves, list(itertools.compress(leaves, is_array))
