"""Seeing every Linen module that runs in a function, without running it."""

import itertools

import flax.core
import flax.linen as nn

_serial = itertools.count()


def all_collections_but(collection: str) -> flax.core.DenyList:
    """For `mutable=`: every other collection, in a set that no other call had.

    `nn.jit` keeps traces, and a kept one calls no interceptor; the set is part of its cache key
    and makes it trace again.
    """
    return flax.core.DenyList((collection, f"flax_inits {next(_serial)}"))


def scope_of(module: nn.Module) -> flax.core.Scope | None:
    """The scope of a bound module, if its path means something.

    Flax first tries the setup of a lifted module in a scope of a private class, at the root.
    """
    scope = module.scope
    return scope if scope is not None and type(scope.root) is flax.core.Scope else None
