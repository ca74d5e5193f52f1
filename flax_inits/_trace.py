"""An init function as recipes: only what is wanted of it is computed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Sharding

from ._execute import execute
from ._jaxpr import Traced, trace
from ._keys import Deriver
from ._recipe import Job, plan
from ._types import Array


def jobs_of(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job] | None:
    """The jobs for the outputs in `shardings`; None if the function must run as it stands."""
    if not traced.pure:
        return None
    try:
        return plan(traced, shardings)
    except Exception:  # The representation has no stability promise; jax.jit always works.
        return None


def compute(
    fun: Callable[..., Sequence[Any]], args: tuple, shardings: Mapping[int, Sharding | None]
) -> dict[int, Array]:
    """The leaves `fun(*args)[i]` for i in `shardings`, equal to those under `jax.jit`."""
    traced = trace(fun, *args)
    jobs = jobs_of(traced, shardings)
    if jobs is None:
        return whole(fun, args, shardings)
    deriver = Deriver(jax.tree.leaves(args))
    return execute([(job, deriver) for job in jobs])


def whole(
    fun: Callable[..., Sequence[Any]], args: tuple, shardings: Mapping[int, Sharding | None]
) -> dict[int, Array]:
    """`compute` by one program, as `jax.jit` compiles it."""
    jitted = jax.jit(
        lambda *args: [fun(*args)[i] for i in shardings], out_shardings=list(shardings.values())
    )
    return dict(zip(shardings, jitted(*args), strict=True))
