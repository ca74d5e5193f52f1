"""Makes leaves from jobs: each distinct program is compiled once, and run for every leaf."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._base.types import Array
from .compile import compiling, programs
from .recipe import Job, made_without_programs


def execute(jobs: Sequence[Job], done: Callable[[Job], Any] = lambda job: None) -> dict[int, Array]:
    """Makes all leaves, by position; `done` hears of each job when its leaves are under way."""
    results: dict[int, Array] = {}
    needed = programs(jobs)
    # Keys and rows move between host and device on purpose, whatever guards the caller's code.
    with jax.transfer_guard("allow"), compiling(needed) as pending:
        runs = (program.run(one, program) for program, one in zip(needed, pending, strict=True))
        first = next(runs, ())  # has begun to compute, if it is compiled
        # Leaves without programs first, while threads compile or compute: filling memory that the
        # process has never touched takes about as long as drawing into it.
        for job, leaf in made_without_programs(jobs):
            results[job.positions[0]] = leaf
            done(job)
        for job, leaves in itertools.chain(first, itertools.chain.from_iterable(runs)):
            results.update(zip(job.positions, leaves, strict=True))
            done(job)
    return results
