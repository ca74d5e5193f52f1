"""Functions as recipes: an init function for a whole tree, or one initializer for each leaf."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Sharding

from . import _bits
from ._errors import noted
from ._execute import Task, execute
from ._jaxpr import Traced, trace
from ._keys import Deriver, Words, is_key_dtype
from ._leaves import Device, Place, on_device, struct_of
from ._paths import path_hash
from ._recipe import Job, plan
from ._rules import Rule, by_path, like, note
from ._types import Array, Key, Path

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""What JAX raises where a function cannot be traced, because it computes with NumPy, say."""


class Inline(Exception):
    """The function closes over tracers: it must be called where it stands."""


def jobs_of(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job] | None:
    """The jobs for the outputs in `shardings`; None if the function must run as it stands."""
    if not traced.pure:
        return None
    try:
        return plan(traced, shardings)
    except Exception:  # The representation has no stability promise; jax.jit always works.
        return None


def compute(
    fun: Callable[[Key], Sequence[Any]], key: Key, places: Mapping[int, Place]
) -> dict[int, Array]:
    """The leaves `fun(key)[i]` for i in `places`, equal to those under `jax.jit`."""
    traced = _traced(fun, key)
    made: dict[int, Array] = {}
    for device, shardings in _together(places):
        with on_device(device):
            jobs = None if traced is None else jobs_of(traced, shardings)
            if jobs is None:
                made.update(_whole(fun, key, shardings))
            else:
                deriver = Deriver([key])
                made.update(execute([(job, deriver) for job in jobs]))
    return made


def _traced(fun: Callable[[Key], Any], key: Key) -> Traced | None:
    """`fun` as a graph; None if it cannot be traced."""
    try:
        traced = trace(fun, jax.ShapeDtypeStruct(key.shape, key.dtype))
    except _NEEDS_VALUES:
        return None
    if any(isinstance(constant, Tracer) for constant in traced._constants):
        raise Inline
    return traced


def _together(
    places: Mapping[int, Place],
) -> Iterable[tuple[Device | None, dict[int, Sharding | None]]]:
    """Leaves that one program may make: what is made on the same devices."""
    known: dict[Place, Any] = {}
    groups: dict[Any, tuple[Device | None, dict[int, Sharding | None]]] = {}
    for i, place in places.items():
        if place not in known:
            sharding = place.sharding
            known[place] = place.device if sharding is None else frozenset(sharding.device_set)
        groups.setdefault(known[place], (place.device, {}))[1][i] = place.sharding
    return groups.values()


def _whole(
    fun: Callable[[Key], Sequence[Any]], key: Key, shardings: Mapping[int, Sharding | None]
) -> dict[int, Array]:
    """The leaves by one program, as `jax.jit` compiles it, or by none if it cannot."""
    key = _uncommitted(key)
    jitted = jax.jit(
        lambda key: [fun(key)[i] for i in shardings], out_shardings=list(shardings.values())
    )
    try:
        return dict(zip(shardings, jitted(key), strict=True))
    except _NEEDS_VALUES:
        made = fun(key)
        return {i: jax.device_put(made[i], sharding) for i, sharding in shardings.items()}


def _uncommitted(key: Key) -> Key:
    """The same key, free to go where the leaves are made."""
    if not is_key_dtype(key.dtype):
        return jax.numpy.asarray(np.asarray(key))
    data: Any = np.asarray(jax.random.key_data(key))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


class Wish(NamedTuple):
    """A leaf to be made by a rule."""

    path: Path
    leaf: Any
    rule: Rule
    place: Place


def draw(key: Key, wishes: Mapping[int, Wish]) -> dict[int, Array]:
    """Each wish by its rule, at its stored shape, with the key that its path gives."""
    fold, planner = _folder(key), _Planner(key)
    tasks: dict[Device | None, list[Task]] = {}
    alone: list[tuple[int, Wish]] = []
    for i, wish in wishes.items():
        with noted(note(wish.path, wish.rule)):
            job = planner.job(wish)
        if job is None:
            alone.append((i, wish))
        else:
            task = job._replace(positions=(i,)), Deriver([fold(wish.path)])
            tasks.setdefault(wish.place.device, []).append(task)
    made = {i: _alone(key, wish) for i, wish in alone}
    for device, group in tasks.items():
        with on_device(device):
            made.update(execute(group))
    return made


def _folder(key: Key) -> Callable[[Path], Any]:
    """`fold_in(key, h)` for the hash h of a path: on the host where that is possible."""
    if not _bits.is_threefry(key):
        return lambda path: jax.random.fold_in(key, path_hash(path))
    words, typed = _bits.key_words(key), is_key_dtype(key.dtype)

    def fold(path: Path) -> Any:
        folded = np.array(_bits.fold_in_words(words, path_hash(path)), np.uint32)
        return Words(folded) if typed else folded

    return fold


class _Planner:
    """The job of each wish; leaves that differ in nothing but their path share the planning."""

    def __init__(self, key: Key):
        self._key = key
        # By the identity of initializers: within one call it says enough, across calls it would
        # mistake one whose attributes were changed for what it was.
        self._known: dict[Any, Job | None] = {}

    def job(self, wish: Wish) -> Job | None:
        """What makes the leaf, given the key of its path; None if no recipe can."""
        struct = struct_of(wish.leaf)
        known = (id(wish.rule.init), struct, wish.place)
        if known not in self._known:
            self._known[known] = self._plan(wish, struct)
        return self._known[known]

    def _plan(self, wish: Wish, struct: jax.ShapeDtypeStruct) -> Job | None:
        init = wish.rule.init

        def values(key: Key) -> Array:
            return like(init(key, struct.shape, struct.dtype), struct, init)

        with on_device(wish.place.device):
            traced = _traced(values, self._key)
            jobs = None if traced is None else jobs_of(traced, {0: wish.place.sharding})
        return jobs[0] if jobs else None


def _alone(key: Key, wish: Wish) -> Array:
    with on_device(wish.place.device):
        leaf = struct_of(wish.leaf)
        made = _whole(
            lambda key: [by_path(key, wish.path, leaf, wish.rule)], key, {0: wish.place.sharding}
        )
    return made[0]
