"""Functions as recipes: an init function for a whole tree, or one initializer for each leaf."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.types import Array, Key
from .._tree.casting import cast
from .._tree.places import Placement, copied, on_host, placed_at, within_reach
from .execute import execute
from .fallback import CLOSES_OVER_TRACERS, Whole
from .host import HostEvaluator
from .jobs import jobs_of
from .placement import replicated
from .trace import Traced, trace

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where a function cannot be traced, because it computes with NumPy, say."""


def compute(
    fun: Callable[[Key], Sequence[Any]], key: Key, places: Mapping[int, Placement]
) -> dict[int, Array] | None:
    """Makes the leaves `fun(key)[i]` for i in `places`, equal to those under `jax.jit`.

    Others of `fun(key)` are made only where the bits of these depend on it.

    None if `fun` closes over tracers: then only the caller's trace can compute it.
    """
    traced = traceable(fun, key)
    if traced is CLOSES_OVER_TRACERS:
        return None
    evaluator = HostEvaluator([key])
    made: dict[int, Array] = {}
    for place, shardings in _together({i: within_reach(p) for i, p in places.items()}):
        with placed_at(place):
            jobs = traced if isinstance(traced, Whole) else jobs_of(traced, shardings)
            if isinstance(jobs, Whole):
                made.update(compute_whole(fun, key, shardings))
            else:
                new = execute([job.of(evaluator) for job in jobs])
                made.update((i, new[i]) for i in shardings)
    return arrived(made, places)


def arrived(made: Mapping[int, Array], places: Mapping[int, Placement]) -> dict[int, Array]:
    """Brings leaves where they belong, also those that were out of reach."""
    return {i: _brought(leaf, places[i]) for i, leaf in made.items()}


def _brought(leaf: Array, place: Placement) -> Array:
    if place.sharding is not None and leaf.sharding == place.sharding:
        return leaf
    with placed_at(place):
        if place.sharding is None and not leaf.committed:
            # What a program was traced under stays part of the type of what it makes, and another
            # type would cost the caller's next step a trace.
            mesh = jax.typeof(leaf).sharding.mesh
            return leaf if mesh.empty else cast(jax.device_put(np.asarray(leaf)), leaf)
        return cast(copied(leaf, place), leaf)


def traceable(fun: Callable[[Key], Any], key: Key) -> Traced | Whole:
    """Turns `fun` into a graph, or says why it cannot be traced by itself."""
    try:
        traced = trace(fun, jax.ShapeDtypeStruct(key.shape, key.dtype))
    except _NEEDS_VALUES:
        return Whole("it needs values")
    return CLOSES_OVER_TRACERS if traced.closes_over_tracers else traced


def _together(
    places: Mapping[int, Placement],
) -> Iterable[tuple[Placement, dict[int, Sharding | None]]]:
    """Puts leaves together that one program may make: what is made on the same devices."""
    known: dict[Placement, Any] = {}
    groups: dict[Any, tuple[Placement, dict[int, Sharding | None]]] = {}
    for i, place in places.items():
        if place not in known:
            sharding = place.sharding
            known[place] = place.device if sharding is None else frozenset(sharding.device_set)
        groups.setdefault(known[place], (place, {}))[1][i] = place.sharding
    return groups.values()


def compute_whole(
    fun: Callable[[Key], Sequence[Any]], key: Key, shardings: Mapping[int, Sharding | None]
) -> dict[int, Array]:
    """Makes the leaves by one program, as `jax.jit` compiles it, or by none if it cannot.

    It makes all that `fun` returns, because XLA may round a leaf by what stands beside it.
    """
    # A key that is committed to one device would forbid shardings over others.
    key = jax.device_put(on_host(key))
    beside = replicated(next(iter(shardings.values())))

    def whole(key: Key) -> tuple[dict[int, Any], dict[int, Any]]:
        made = dict(enumerate(fun(key)))
        return {i: made.pop(i) for i in shardings}, made

    try:
        return jax.jit(whole, out_shardings=(dict(shardings), beside))(key)[0]
    except _NEEDS_VALUES:
        made = fun(key)
        return {i: jax.device_put(made[i], sharding) for i, sharding in shardings.items()}
