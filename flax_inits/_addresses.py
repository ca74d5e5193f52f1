"""Gives what is public an address that outlives every move of a file, and reads pickles of 0.1.

A pickle names the module and the name of each class and function that it needs, as help and
tracebacks do. Where these are the public ones, it can be read for as long as the name is public.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import _modules, _optimizer, initializers, results
from ._base import bits
from .initializers import combinators, structured

PACKAGE = "flax_inits"


def publish(module: ModuleType) -> None:
    """Makes everything that `module` exports say that it lives there, under that name."""
    for name, value in vars(module).items():
        ours = str(getattr(value, "__module__", None)).startswith(f"{PACKAGE}.")
        if ours and not name.startswith("_"):
            value.__module__, value.__name__, value.__qualname__ = module.__name__, name, name


def rebuild(factory: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """How pickles of 0.1 make initializers."""
    return factory(*args, **kwargs)


package = sys.modules[PACKAGE]
publish(results)
publish(package)

# Pickles of 0.1 name the modules of 0.1. Those that are gone are found here; no other is added.
for name in (
    "_base aliases basic constants convolution depth mixture orthogonal positions recurrent "
    "sampler scaling siren slices state_space torch_style truncated"
).split():
    sys.modules[f"{initializers.__name__}.{name}"] = initializers
sys.modules[f"{PACKAGE}._bits"] = bits
setattr(initializers, "_rebuild", rebuild)  # noqa: B010

# Those whose names are folders now find in them what the modules held.
for folder, names in (
    (initializers, [name for name, value in vars(package).items() if hasattr(value, "is_factory")]),
    (structured, ["identity", "sparse", "layer_scale", "prior_bias"]),
    (combinators, ["scaled", "clipped", "masked"]),
    (_optimizer, ["OptimizerStateWarning"]),
):
    vars(folder).update({name: getattr(package, name) for name in names})
setattr(_modules, "_OfType", results.OfType)  # noqa: B010
