"""Seeing every Linen module that runs in a function, without running it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import flax.linen as nn
import jax

_fresh = itertools.count()


def of_arrays(
    fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[[Sequence[Any]], Any], list[Any]]:
    """`fun(*args, **kwargs)` as a function of the arrays among its arguments, and these."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def run(arrays: Sequence[Any]) -> Any:
        given = iter(arrays)
        args, kwargs = treedef.unflatten(
            [next(given) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]
        )
        return fun(*args, **kwargs)

    return run, [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]


def all_but(collection: str) -> flax.core.DenyList:
    """For `mutable=`: every other collection, in a set that no other call had.

    `nn.jit` keeps traces, and a kept one calls no interceptor; the set is part of its cache key
    and makes it trace again.
    """
    return flax.core.DenyList((collection, f"flax_inits {next(_fresh)}"))


def scope_of(module: nn.Module) -> flax.core.Scope | None:
    """The scope of a bound module, if its path means something.

    Flax first tries the setup of a lifted module in a scope of a private class, at the root.
    """
    scope = module.scope
    return scope if scope is not None and type(scope.root) is flax.core.Scope else None
