"""What to tell a user who gave a model or its arguments wrongly."""

from collections.abc import Mapping
from typing import Any

import jax

from ..._base.errors import listed


def no_params(scheme: str, variables: Any) -> ValueError:
    """The error for what should be variables and is not."""
    has = [*variables] if isinstance(variables, Mapping) else type(variables).__name__
    return ValueError(
        f"{scheme} needs variables as model.init returns them, {{'params': ..., ...}}; "
        f"got {has} at the top."
    )


def in_short(given: Any) -> str:
    """What stands where a model should be, without the values of arrays."""
    if isinstance(given, Mapping) and given:
        keys = f"a {type(given).__name__} with keys {listed([*given])}"
        return f"{keys} (the model comes before its variables)"
    if any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(given)):
        shape = getattr(given, "shape", None)
        return "a tree of arrays" if shape is None else f"an array of shape {shape}"
    return repr(given)
