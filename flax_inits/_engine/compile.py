"""Compiles each distinct program once and caches it.

Programs are cached by what they compute. What has to be compiled is lowered at once, where the
caller's configuration holds, and compiled by threads.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .._base.cache import Cache
from .programs import Pending, Program, Programmed
from .recipe import Job


class _Interrupted(Exception):
    """Whoever was compiling a program gave up, for a reason of its own."""


class ProgramCache:
    """Compiled programs by what they compute, shared by all threads."""

    def __init__(self) -> None:
        self._futures: Cache[Future] = Cache(4096)

    def get(self, program: Program, submit: Callable[..., Any]) -> Future:
        """Finds the compiled program, or makes it: once, also if several threads ask at a time."""
        future = self._futures.find(program.key)
        if future is not None:
            return future
        # The future is in the cache before anything is lowered, so whoever asks meanwhile waits for
        # it. Of two threads that came so far, `keep` hands both the same, and one compiles.
        mine: Future = Future()
        future = self._futures.keep(program.key, mine, program.nbytes)
        if future is mine:
            try:
                # Lowered in this thread: JAX's settings and meshes are those of a thread, and a
                # compiling thread has none of the caller's.
                task = submit(self._compile, program, mine, program.lower())
                if task is not None:
                    task.add_done_callback(lambda task: self._cancelled(task, program, mine))
            except BaseException as error:
                self._fail(program, mine, error)
        return future

    def wait(self, future: Future, program: Program) -> Any:
        """Waits for the program; compiles it here if another thread gave up on it."""
        while True:
            try:
                return future.result()
            except _Interrupted:
                future = self.get(program, _at_once)

    def _compile(self, program: Program, future: Future, lowered: Any) -> None:
        try:
            future.set_result(_compiled(lowered, program.options))
        except BaseException as error:
            self._fail(program, future, error)

    def _cancelled(self, task: Future, program: Program, future: Future) -> None:
        if task.cancelled():
            self._fail(program, future, _Interrupted())

    def _fail(self, program: Program, future: Future, error: BaseException) -> None:
        """Tells whoever waits; only this thread is to see its own KeyboardInterrupt."""
        own = not isinstance(error, Exception)
        if not future.done():
            # Forgotten before anybody hears of it: who then asks again must not find the failure.
            self._futures.drop(program.key)
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
        # XLA renames options of single backends without notice, and refuses the unknown. They buy
        # speed, never bits.
        return lowered.compile()


_cache = ProgramCache()


def programs(jobs: Sequence[Job]) -> list[Program]:
    """Collects the programs that make the jobs' leaves, those with the most work first."""
    groups: dict[Hashable, tuple[Programmed, list[Job]]] = {}
    for job in jobs:
        if isinstance(job.recipe, Programmed):
            groups.setdefault(job.recipe.shared_by, (job.recipe, []))[1].append(job)
    found = [recipe.program(group) for recipe, group in groups.values()]
    # Threads take them in this order. The largest program, if it came last, would be compiled
    # and run when all others are done.
    return sorted(found, key=lambda program: -program.size)


@contextlib.contextmanager
def compiling(programs: Sequence[Program]) -> Iterator[list[Pending]]:
    """Compiles by threads; yields the programs, compiled or on the way."""
    with _compilers(programs) as submit:
        futures = [_cache.get(program, submit) for program in programs]
        pairs = zip(futures, programs, strict=True)
        yield [Pending(pair[0].done, functools.partial(_cache.wait, *pair)) for pair in pairs]


def compiled(programs: Sequence[Program]) -> list[Any]:
    """Compiles programs, which calls that need the same will find."""
    with compiling(programs) as pending:
        return [program.result() for program in pending]


@contextlib.contextmanager
def _compilers(programs: Sequence[Program]) -> Iterator[Callable[..., Any]]:
    """Starts threads to compile with, if there is more than one program; XLA releases the GIL."""
    if len(programs) < 2:
        yield _at_once
        return
    # More than there are cores: which program takes longest is not known, and it must not be last.
    pool = ThreadPoolExecutor(min(len(programs), 2 * (os.cpu_count() or 1), 16))
    try:
        yield pool.submit
    finally:
        # If the caller fails, what nobody waits for is not begun; `_cancelled` tells other callers.
        pool.shutdown(cancel_futures=True)
