"""What of JAX's state decides how something is made: its configuration, and the mesh in use."""

from collections.abc import Hashable

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh


@jax.jit
def _nothing() -> None:
    pass


def configuration() -> tuple[Hashable, ...]:
    """Equal where JAX traces, lowers and places alike."""
    # JAX keeps one trace for each state of what matters to tracing, the types of the mesh's axes
    # included; which one it returns tells the states apart. The rest it looks up later.
    config = jax.config
    trace = _nothing.trace().jaxpr
    return trace, config.jax_default_device, config.jax_default_prng_impl, concrete_mesh()


def concrete_mesh() -> Mesh | None:
    """The mesh of `jax.set_mesh`; None if there is none, or if it cannot be told here."""
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
