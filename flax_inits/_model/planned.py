"""What is known of a call before anything is computed: its leaves, and the jobs that make them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding

from .._base.types import Path, PyTree
from .._engine.compile import compiled, programs
from .._engine.execute import execute
from .._engine.fallback import CLOSES_OVER_TRACERS, Whole, caught
from .._engine.host import HostEvaluator
from .._engine.jobs import jobs_of
from .._engine.recipe import Job
from .._engine.trace import Traced, trace
from .._tree.modules import Way, opened
from .._tree.paths import flatten
from .lowered import Lowered
from .out_shardings import OutShardings, asked_for
from .plan import Plan
from .progress import Progress


class Planned(NamedTuple):
    """What is known of one call before anything is computed."""

    traced: Traced
    paths: list[Path]
    treedef: Any
    shardings: list[Sharding | None]
    jobs: list[Job] | Whole
    whole: Any
    """The whole function, jitted."""

    ruled: dict[Path, str]
    """How each leaf is made that a rule has won."""

    way: Way
    """From the tree that is made to what the function returns."""

    def plan(self) -> Plan:
        """Shows it as a table."""
        return Plan.of(self.traced, self.paths, self.shardings, self.jobs, self.ruled)

    def made(self, arrays: PyTree, show: bool | None) -> PyTree:
        """Makes the tree of the arrays among the arguments; `show` is for `Progress`."""
        if isinstance(self.jobs, Whole):
            return self.whole(arrays)
        evaluator = HostEvaluator(jax.tree.leaves(arrays))
        with Progress(show, self.jobs) as progress:
            made = execute([job.of(evaluator) for job in self.jobs], progress.done)
        return self.treedef.unflatten([made[i] for i in range(len(made))])

    def lowered(self, arrays: PyTree) -> Lowered:
        """Lowers every program."""
        if isinstance(self.jobs, Whole):
            whole = self.whole.lower(arrays)
            return Lowered(((tuple(self.paths), whole),), lambda: [whole.compile()])
        needed, found = [], []
        for program in programs(self.jobs):
            positions = [i for job in program.jobs for i in job.positions]
            lowered = program.lower()
            found.append((tuple(self.paths[i] for i in positions), lowered))
            # What the user has seen lowered is what is compiled.
            needed.append(program._replace(lower=lambda lowered=lowered: lowered))
        return Lowered(tuple(found), functools.partial(compiled, needed))


def planned(
    made: Callable[[PyTree], tuple[PyTree, dict[Path, str]]], arrays: PyTree, out_shardings: Any
) -> Planned:
    """Plans a call of `made`, which also tells how rules were applied."""
    # Filled while `made` is traced, since a traced function returns arrays only.
    ruled: dict[Path, str] = {}
    ways: list[Way] = []

    def run(arrays: PyTree) -> PyTree:
        tree, how = made(arrays)
        ruled.update(how)
        tree, way = opened(tree)
        ways.append(way)
        return tree

    traced = trace(run, arrays)
    paths, _, treedef = flatten(traced.shape)
    asked = asked_for(out_shardings, ways[0](traced.shape), paths)
    shardings, jobs = _jobs(traced, jax.tree.leaves(arrays), asked)
    # Compiled only if it is called: where no jobs are found, and never twice.
    whole = jax.jit(run, out_shardings=treedef.unflatten(asked) if any(asked) else None)
    return Planned(traced, paths, treedef, shardings, jobs, whole, ruled, ways[0])


def _jobs(
    traced: Traced, arguments: Sequence[Any], asked: list[Sharding | None]
) -> tuple[list[Sharding | None], list[Job] | Whole]:
    """Finds where each leaf is made, and the jobs that make them."""
    if traced.closes_over_tracers:
        return asked, CLOSES_OVER_TRACERS
    try:
        out = OutShardings(traced, arguments, asked)
    except Exception:  # jaxprs have no stability promise; jax.jit always works.
        return asked, caught("the whole function is compiled")
    if out.decided_by_jit:
        return asked, Whole("jax.jit decides its shardings")
    return out.shardings, jobs_of(traced, dict(enumerate(out.shardings)))
