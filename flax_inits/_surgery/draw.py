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
from .._engine.execute import execute
from .._engine.fallback import CLOSES_OVER_TRACERS, Whole
from .._engine.host import HostEvaluator
from .._engine.jobs import jobs_of
from .._engine.key_words import KeyWords
from .._engine.make import arrived, compute_whole, traceable
from .._engine.recipe import Job
from .._tree.casting import checked_as
from .._tree.leaves import struct_of
from .._tree.paths import path_hash
from .._tree.places import Placement, place_of, placed_at, within_reach
from .._tree.rules import Rule, by_path, note


class RuledLeaf(NamedTuple):
    """A leaf to be made by a rule."""

    path: Path
    leaf: Any
    rule: Rule
    key_path: Path
    """The path that gives the key."""


def draw(key: Key, ruled_leaves: Mapping[int, RuledLeaf]) -> dict[int, Array] | None:
    """Makes each leaf by its rule, at its stored shape, with the key that its path gives.

    None if an initializer closes over tracers: then only the caller's trace can compute its leaf.
    """
    fold = _folder(key)
    places = {i: place_of(ruled.path, ruled.leaf) for i, ruled in ruled_leaves.items()}
    # Leaves that differ in nothing but their path share a job. By the identity of initializers:
    # within one call it says enough, across calls it would mistake one whose attributes were
    # changed for what it was.
    known: dict[Any, tuple[Job | Whole, Placement]] = {}
    jobs: dict[Placement, list[Job]] = {}
    alone: list[tuple[int, RuledLeaf]] = []
    for i, ruled in ruled_leaves.items():
        init, struct = ruled.rule.init, struct_of(ruled.leaf)
        facts = (id(init), struct, places[i])
        if facts not in known:
            with noted(note(ruled.path, ruled.rule)):
                known[facts] = _planned(key, init, struct, places[i])
        job, place = known[facts]
        if job is CLOSES_OVER_TRACERS:
            return None
        if isinstance(job, Whole):
            alone.append((i, ruled))
        else:
            job = job._replace(positions=(i,)).of(HostEvaluator([fold(ruled.key_path)]))
            jobs.setdefault(place, []).append(job)
    made = {i: _alone(key, ruled, places[i]) for i, ruled in alone}
    for place, group in jobs.items():
        with placed_at(place):
            made.update(execute(group))
    return arrived(made, places)


def _folder(key: Key) -> Callable[[Path], Any]:
    """`fold_in(key, h)` for the hash h of a path: on the host where that is possible."""
    if not bits.is_threefry(key):
        return lambda path: jax.random.fold_in(key, path_hash(path))
    words, typed = bits.key_words(key), is_key_dtype(key.dtype)

    def fold(path: Path) -> Any:
        folded = np.array(bits.fold_in_words(words, path_hash(path)), np.uint32)
        return KeyWords(folded) if typed else folded

    return fold


def _planned(
    key: Key, init: Any, struct: jax.ShapeDtypeStruct, place: Placement
) -> tuple[Job | Whole, Placement]:
    """What makes a leaf, given the key of its path, and where; or why no job can."""

    def values(key: Key) -> Array:
        return checked_as(init(key, struct.shape, struct.dtype), struct, init)

    # Under no mesh, so that values and programs do not depend on the one in use.
    home = Placement(device=place.device)
    try:
        return _job(key, values, home, place.sharding), home
    except Exception:
        if jax.sharding.get_abstract_mesh().empty:
            raise
    # Unless the initializer itself names axes of that mesh.
    reached = within_reach(place)
    return _job(key, values, reached, reached.sharding), reached


def _job(
    key: Key, values: Callable[[Key], Array], place: Placement, sharding: Sharding | None
) -> Job | Whole:
    with placed_at(place):
        traced = traceable(values, key)
        jobs = traced if isinstance(traced, Whole) else jobs_of(traced, {0: sharding})
    return jobs if isinstance(jobs, Whole) else jobs[0]


def _alone(key: Key, ruled: RuledLeaf, place: Placement) -> Array:
    leaf, place = struct_of(ruled.leaf), within_reach(place)
    with placed_at(place):
        return compute_whole(
            lambda key: [by_path(key, *ruled._replace(leaf=leaf))], key, {0: place.sharding}
        )[0]
