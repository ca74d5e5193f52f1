"""What of JAX's state decides how something is made: its configuration, and the mesh in use."""

from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh


@jax.jit
def _nothing() -> None:
    pass


def configuration() -> tuple[Hashable, ...]:
    """Tells states of JAX apart: equal where it traces, lowers and places alike."""
    # JAX keeps one trace for each state of what matters to tracing, the types of the mesh's axes
    # included; which one it returns tells the states apart. A list of settings would go stale with
    # the next version of JAX, and then hand out what was compiled under others. The rest it looks
    # up after tracing: where to put things, and how to make keys.
    config = jax.config
    trace, device = _nothing.trace().jaxpr, config.jax_default_device
    kinds = config.jax_default_prng_impl, config.jax_explicit_x64_dtypes
    return trace, device, *kinds, concrete_mesh()


def explicit_x64() -> str:
    """Reads what JAX does where a 64-bit dtype is asked for: "allow", "warn" or "error"."""
    if jax.config.jax_enable_x64:
        return "allow"
    mode: Any = jax.config.jax_explicit_x64_dtypes
    return mode.name.lower()


def only_explicit_x64() -> bool:
    """Whether values have 64 bits where a user names such a dtype, and nowhere else."""
    return not jax.config.jax_enable_x64 and explicit_x64() == "allow"


def concrete_mesh() -> Mesh | None:
    """Finds the mesh of `jax.set_mesh`; None if there is none, or if it cannot be told here."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # Some transformation is under way, though nothing is staged.
        return None
    return None if mesh.empty else mesh


def tracing() -> bool:
    """Whether operations are staged (`jit`, `eval_shape`, ...) or must not be (`disable_jit`)."""
    if jax.config.jax_disable_jit:
        return True
    # Of all operations, this one compiles nothing where it is computed.
    return isinstance(jax.device_put(np.int32(0)), Tracer)
