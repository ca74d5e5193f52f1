"""What is compiled, and kept for whoever needs the same.

Programs are kept by what they compute. What has to be compiled is lowered at once, where the
caller's configuration holds, and compiled by threads.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from .._base.cache import Cache
from .._base.jax_state import configuration
from . import rows as pool
from .keys import Deriver
from .placement import is_abstract
from .recipe import Job, Recipe

Task: TypeAlias = tuple[Job, Deriver]
"""A job, and what computes the keys and arrays that it is given."""

_FEW_ROWS, _MANY_ROWS = 1 << 6, 1 << 10
"""Rows in a run of the pool: one size for a leaf or two, one for whole models."""


class _Interrupted(Exception):
    """Whoever was compiling a program gave up, for a reason of its own."""


class _Programs:
    """Compiled programs by what they compute, shared by all threads."""

    def __init__(self) -> None:
        self._futures: Cache[Future] = Cache(4096)

    def get(self, run: "Program", submit: Callable[..., Any]) -> Future:
        """The compiled program; made once, also if several threads ask at a time."""
        future = self._futures.find(run.key)
        if future is not None:
            return future
        mine: Future = Future()
        future = self._futures.keep(run.key, mine, run.nbytes)
        if future is mine:
            try:
                task = submit(self._compile, run, mine, run.lower())
                if task is not None:
                    task.add_done_callback(lambda task: self._cancelled(task, run, mine))
            except BaseException as error:
                self._fail(run, mine, error)
        return future

    def wait(self, future: Future, run: "Program") -> Any:
        """The program when it is there, compiled here if another thread gave up on it."""
        while True:
            try:
                return future.result()
            except _Interrupted:
                future = self.get(run, _at_once)

    def _compile(self, run: "Program", future: Future, lowered: Any) -> None:
        try:
            future.set_result(_compiled(lowered, run.options))
        except BaseException as error:
            self._fail(run, future, error)

    def _cancelled(self, task: Future, run: "Program", future: Future) -> None:
        if task.cancelled():
            self._fail(run, future, _Interrupted())

    def _fail(self, run: "Program", future: Future, error: BaseException) -> None:
        """Tells whoever waits; only this thread is to see its own KeyboardInterrupt."""
        own = not isinstance(error, Exception)
        if not future.done():
            self._futures.drop(run.key)
            future.set_exception(_Interrupted() if own else error)
        if own:
            raise error


def _at_once(function: Callable[..., Any], *args: Any) -> None:
    function(*args)


def _compiled(lowered: Any, options: dict) -> Any:
    try:
        return lowered.compile(compiler_options=options)
    except Exception:
        if not options:
            raise
        return lowered.compile()  # The options are those of one backend and may be gone.


_programs = _Programs()


class Program(NamedTuple):
    """A program to run, and the tasks that it serves."""

    key: Hashable
    """Equal for programs that compute alike, lowered alike."""

    lower: Callable[[], Any]
    """Makes the `jax.stages.Lowered`."""

    tasks: list[Task]
    size: int
    """Elements in all the leaves that it makes."""

    rows: int
    """Rows per run for a program of the pool, 0 for a program of one shape."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the program holds."""
        return self.tasks[0][0].recipe.nbytes

    @property
    def options(self) -> dict[str, int]:
        """Compiler options: wide vectors where lanes do not meet, so that values are the same."""
        recipe = self.tasks[0][0].recipe
        return {"xla_cpu_prefer_vector_width": 512} if recipe.elementwise_on_cpu else {}


def programs(tasks: Sequence[Task]) -> list[Program]:
    """The programs that make the tasks' leaves, those with the most work first."""
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        program = task[0].recipe.program
        if program is not None:
            groups.setdefault(program, []).append(task)
    found = [_program(key, group) for key, group in groups.items()]
    return sorted(found, key=lambda program: -program.size)


def _program(key: Hashable, tasks: list[Task]) -> Program:
    recipe = tasks[0][0].recipe
    size = sum(value.aval.size for job, _ in tasks for value in job.recipe.outputs)
    if recipe.form is None:
        return Program((key, configuration()), functools.partial(lower, recipe), tasks, size, 0)
    needed = sum(pool.rows_of(form_of(job)) for job, _ in tasks)
    rows = _FEW_ROWS if needed <= 2 * _FEW_ROWS else _MANY_ROWS
    make = functools.partial(_lower_pool, recipe.form, rows)
    return Program((key, rows, configuration()), make, tasks, size, rows)


def form_of(job: Job) -> pool.Form:
    """How the job's leaf is made of rows, which it is."""
    assert job.recipe.form is not None
    return job.recipe.form


def lower(recipe: Recipe) -> Any:
    """The recipe's program, lowered for its own shapes and shardings."""
    if any(map(is_abstract, recipe.shardings)):
        raise ValueError(
            f"{recipe.shardings[0]} is over an abstract mesh, which has no devices: that is enough "
            "to plan. To make leaves give shardings over a jax.sharding.Mesh; to compile for "
            "devices that are not there, one of jax.experimental.topologies."
        )
    jitted = jax.jit(recipe.compute, out_shardings=list(recipe.shardings))
    return jitted.lower(*recipe.arguments())


def _lower_pool(form: pool.Form, rows: int) -> Any:
    words = jax.ShapeDtypeStruct((rows, len(form.keys), 2), np.uint32)
    starts = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    factors = jax.ShapeDtypeStruct((rows, len(form.lifted)), form.output.aval.dtype)
    return jax.jit(functools.partial(pool.compute, form)).lower(words, starts, factors)


@contextlib.contextmanager
def compiling(runs: Sequence[Program]) -> Iterator[list[Callable[[], Any]]]:
    """For each program, what waits for it to be compiled; threads compile meanwhile."""
    with _compilers(runs) as submit:
        futures = [_programs.get(run, submit) for run in runs]
        yield [functools.partial(_programs.wait, *pair) for pair in zip(futures, runs, strict=True)]


def compiled(runs: Sequence[Program]) -> list[Any]:
    """The compiled programs, which calls that need the same will find."""
    with compiling(runs) as waits:
        return [wait() for wait in waits]


@contextlib.contextmanager
def _compilers(runs: Sequence[Program]) -> Iterator[Callable[..., Any]]:
    """Threads to compile with, if there is more than one program; XLA releases the GIL."""
    if len(runs) < 2:
        yield _at_once
        return
    pool = ThreadPoolExecutor(min(len(runs), os.cpu_count() or 1, 16))
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)
