"""Functions as recipes: an init function for a whole tree, or one initializer for each leaf."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from . import _bits
from ._compile import Task
from ._errors import noted
from ._execute import execute
from ._jaxpr import Traced, trace
from ._keys import Deriver, Words, is_key_dtype
from ._leaves import Place, at, copied, struct_of, within_reach
from ._paths import path_hash
from ._recipe import Job, plan
from ._rules import Rule, by_path, cast, like, note
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
    for place, shardings in _together({i: within_reach(p) for i, p in places.items()}):
        with at(place):
            jobs = None if traced is None else jobs_of(traced, shardings)
            if jobs is None:
                made.update(_whole(fun, key, shardings))
            else:
                deriver = Deriver([key])
                made.update(execute([(job, deriver) for job in jobs]))
    return _arrived(made, places)


def _arrived(made: Mapping[int, Array], places: Mapping[int, Place]) -> dict[int, Array]:
    """Leaves where they belong, also those that were out of reach."""
    return {i: _brought(leaf, places[i]) for i, leaf in made.items()}


def _brought(leaf: Array, place: Place) -> Array:
    if not leaf.committed if place.sharding is None else leaf.sharding == place.sharding:
        return leaf
    with at(place):
        return cast(copied(leaf, place), leaf)


def _traced(fun: Callable[[Key], Any], key: Key) -> Traced | None:
    """`fun` as a graph; None if it cannot be traced."""
    try:
        traced = trace(fun, jax.ShapeDtypeStruct(key.shape, key.dtype))
    except _NEEDS_VALUES:
        return None
    if traced.closes_over_tracers:
        raise Inline
    return traced


def _together(
    places: Mapping[int, Place],
) -> Iterable[tuple[Place, dict[int, Sharding | None]]]:
    """Leaves that one program may make: what is made on the same devices."""
    known: dict[Place, Any] = {}
    groups: dict[Any, tuple[Place, dict[int, Sharding | None]]] = {}
    for i, place in places.items():
        if place not in known:
            sharding = place.sharding
            known[place] = place.device if sharding is None else frozenset(sharding.device_set)
        groups.setdefault(known[place], (place, {}))[1][i] = place.sharding
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
    tasks: dict[Place, list[Task]] = {}
    alone: list[tuple[int, Wish]] = []
    for i, wish in wishes.items():
        with noted(note(wish.path, wish.rule)):
            job, place = planner.job(wish)
        if job is None:
            alone.append((i, wish))
        else:
            task = job._replace(positions=(i,)), Deriver([fold(wish.path)])
            tasks.setdefault(place, []).append(task)
    made = {i: _alone(key, wish) for i, wish in alone}
    for place, group in tasks.items():
        with at(place):
            made.update(execute(group))
    return _arrived(made, {i: wish.place for i, wish in wishes.items()})


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
        self._known: dict[Any, tuple[Job | None, Place]] = {}

    def job(self, wish: Wish) -> tuple[Job | None, Place]:
        """What makes the leaf, given the key of its path, and where; no job if none can."""
        struct = struct_of(wish.leaf)
        known = (id(wish.rule.init), struct, wish.place)
        if known not in self._known:
            self._known[known] = self._plan(wish, struct)
        return self._known[known]

    def _plan(self, wish: Wish, struct: jax.ShapeDtypeStruct) -> tuple[Job | None, Place]:
        init = wish.rule.init

        def values(key: Key) -> Array:
            return like(init(key, struct.shape, struct.dtype), struct, init)

        # Under no mesh, so that values and programs do not depend on the one in use.
        home = Place(device=wish.place.device)
        try:
            return self._job(values, home, wish.place.sharding), home
        except Exception:
            if jax.sharding.get_abstract_mesh().empty:
                raise
        # Unless the initializer itself names axes of that mesh.
        reached = within_reach(wish.place)
        return self._job(values, reached, reached.sharding), reached

    def _job(
        self, values: Callable[[Key], Array], place: Place, sharding: Sharding | None
    ) -> Job | None:
        with at(place):
            traced = _traced(values, self._key)
            jobs = None if traced is None else jobs_of(traced, {0: sharding})
        return jobs[0] if jobs else None


def _alone(key: Key, wish: Wish) -> Array:
    leaf, place = struct_of(wish.leaf), within_reach(wish.place)
    with at(place):
        return _whole(
            lambda key: [by_path(key, wish.path, leaf, wish.rule)], key, {0: place.sharding}
        )[0]
