"""Chosen leaves by rules: each at its stored shape, with the key that its path gives."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .._base import bits
from .._base.bits import is_key_dtype
from .._base.errors import noted
from .._base.types import Array, Key, Path
from .._engine.compile import Task
from .._engine.execute import execute
from .._engine.keys import Deriver, Words
from .._engine.make import arrived, compute_whole, jobs_of, traceable
from .._engine.recipe import Job
from .._tree.casting import like
from .._tree.leaves import struct_of
from .._tree.places import Place, at, within_reach
from .._tree.rules import Rule, by_path, note
from .._tree.selection import path_hash


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
    return arrived(made, {i: wish.place for i, wish in wishes.items()})


def _folder(key: Key) -> Callable[[Path], Any]:
    """`fold_in(key, h)` for the hash h of a path: on the host where that is possible."""
    if not bits.is_threefry(key):
        return lambda path: jax.random.fold_in(key, path_hash(path))
    words, typed = bits.key_words(key), is_key_dtype(key.dtype)

    def fold(path: Path) -> Any:
        folded = np.array(bits.fold_in_words(words, path_hash(path)), np.uint32)
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
            traced = traceable(values, self._key)
            jobs = None if traced is None else jobs_of(traced, {0: sharding})
        return jobs[0] if jobs else None


def _alone(key: Key, wish: Wish) -> Array:
    leaf, place = struct_of(wish.leaf), within_reach(wish.place)
    with at(place):
        return compute_whole(
            lambda key: [by_path(key, wish.path, leaf, wish.rule)], key, {0: place.sharding}
        )[0]
