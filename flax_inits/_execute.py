"""Makes leaves from jobs: each distinct program is compiled once, and run for every leaf.

Programs are kept for the life of the process, keyed by what they compute. What has to be compiled
is lowered here, where the caller's configuration holds, and compiled by threads.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Sharding

from . import _pool
from ._cache import Cache
from ._context import configuration
from ._graph import Constant
from ._keys import Deriver, impl_of, is_key_dtype
from ._recipe import Job, Recipe, is_abstract
from ._types import Array

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
    needed = sum(_pool.rows_of(_form(job)) for job, _ in tasks)
    rows = _FEW_ROWS if needed <= 2 * _FEW_ROWS else _MANY_ROWS
    make = functools.partial(_lower_pool, recipe.form, rows)
    return Program((key, rows, configuration()), make, tasks, size, rows)


def _form(job: Job) -> _pool.Form:
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


def _lower_pool(form: _pool.Form, rows: int) -> Any:
    words = jax.ShapeDtypeStruct((rows, len(form.keys), 2), np.uint32)
    starts = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    factors = jax.ShapeDtypeStruct((rows, len(form.lifted)), form.output.aval.dtype)
    return jax.jit(functools.partial(_pool.compute, form)).lower(words, starts, factors)


def execute(
    tasks: Sequence[Task], done: Callable[[Job], Any] = lambda job: None
) -> dict[int, Array]:
    """All leaves by position; `done` hears of each job when its leaves are under way."""
    results: dict[int, Array] = {}
    runs = programs(tasks)
    # Keys and rows move between host and device on purpose, whatever guards the caller's code.
    with jax.transfer_guard("allow"), _compilers(runs) as submit:
        compiled = [_programs.get(run, submit) for run in runs]
        for job, deriver in tasks:
            if job.recipe.program is None:
                results[job.positions[0]] = _known(job, deriver)
                done(job)
        for run, future in zip(runs, compiled, strict=True):
            make = _run_pool if run.rows else _run_each
            for job, leaves in make(_programs.wait(future, run), run):
                results.update(zip(job.positions, leaves, strict=True))
                done(job)
    return results


def compiled(runs: Sequence[Program]) -> list[Any]:
    """The compiled programs, which calls that need the same will find."""
    with _compilers(runs) as submit:
        futures = [_programs.get(run, submit) for run in runs]
        return [_programs.wait(future, run) for future, run in zip(futures, runs, strict=True)]


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


def _known(job: Job, deriver: Deriver) -> Array:
    (value,), (sharding,) = job.recipe.outputs, job.recipe.shardings
    if job.recipe.fill is not None:
        filled = _misaligned(value.aval.size, job.recipe.fill.dtype)
        filled[:] = job.recipe.fill
        return _owned(filled.reshape(value.aval.shape), sharding)
    if is_key_dtype(value.aval.dtype):
        words = _owned(deriver.key_data(value), sharding)
        return jax.random.wrap_key_data(words, impl=impl_of(value.aval.dtype))
    source = value.value if isinstance(value, Constant) else deriver.argument(job.given[0])
    if not isinstance(source, jax.Array):
        return _owned(np.asarray(source), sharding)
    closed_over = isinstance(value, Constant) and source.is_fully_addressable
    return _owned(np.asarray(source), sharding) if closed_over else source.copy()


def _owned(values: np.ndarray, sharding: Sharding | None) -> Array:
    """A copy that owns its memory, so that donating it later reuses it."""
    copied = jax.device_put(values, sharding, may_alias=False)
    if copied.unsafe_buffer_pointer() != values.ctypes.data:
        return copied
    # CPU devices take over aligned memory all the same, so give them other memory.
    other = _misaligned(values.size, values.dtype)
    other[:] = values.reshape(-1)
    return jax.device_put(other.reshape(values.shape), sharding, may_alias=False)


def _run_each(compiled: Any, run: Program) -> Iterator[tuple[Job, Sequence[Array]]]:
    for job, deriver in run.tasks:
        yield job, compiled(*map(deriver.argument, job.given))


def _run_pool(compiled: Any, run: Program) -> Iterator[tuple[Job, Sequence[Array]]]:
    """Cuts leaves out of runs of rows, straight into their own memory."""
    spread = [_pool.rows(_form(job), deriver) for job, deriver in run.tasks]
    columns = [np.concatenate(column) for column in zip(*spread, strict=True)]
    blocks = _blocks(compiled, columns, run.rows)
    block, place = next(blocks), 0
    largest = max(job.recipe.outputs[0].aval.size for job, _ in run.tasks)
    blank = _misaligned(largest, block.dtype)
    for (job, _), part in zip(run.tasks, spread, strict=True):
        (value,), (sharding,) = job.recipe.outputs, job.recipe.shardings
        leaf = _owned(blank[: value.aval.size].reshape(value.aval.shape), sharding)
        in_place = _is_plain(block.dtype)
        flat = _memory(leaf) if in_place else np.empty(value.aval.size, block.dtype)
        taken = 0
        while taken < len(part.words):
            if place == run.rows:
                block, place = next(blocks), 0
            take = min(len(part.words) - taken, run.rows - place)
            _pool.copy_rows(_form(job), block[place : place + take], taken, flat)
            taken, place = taken + take, place + take
        yield job, [leaf if in_place else _owned(flat.reshape(value.aval.shape), sharding)]


@functools.cache
def _is_plain(dtype: Any) -> bool:
    """Whether CPU devices keep values as NumPy does, so that NumPy looks into their memory.

    They may pack those of fewer than 8 bits.
    """
    probe = jax.device_put(np.zeros(64, dtype), jax.local_devices(backend="cpu")[0])
    return np.asarray(probe).ctypes.data == probe.unsafe_buffer_pointer()


def _memory(new: Array) -> np.ndarray:
    """The memory of an array on one CPU device, to be written before anybody else has the array.

    JAX has no public way to fill an array part by part without a program for its shape.
    """
    address = new.block_until_ready().unsafe_buffer_pointer()
    return np.frombuffer((ctypes.c_uint8 * new.nbytes).from_address(address), new.dtype)


def _misaligned(size: int, dtype: Any) -> np.ndarray:
    """Memory that no device takes over as it is: that needs a multiple of 64 bytes."""
    buffer = np.zeros(size * dtype.itemsize + 64, np.uint8)  # not resident until written
    start = -buffer.ctypes.data % 64 + dtype.itemsize % 64
    return buffer[start : start + size * dtype.itemsize].view(dtype)


def _blocks(compiled: Any, columns: Sequence[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """All runs in order, one computed ahead of the one in use."""
    ahead: Any = None
    for start in range(0, len(columns[0]), rows):
        run = compiled(*(_padded(column[start : start + rows], rows) for column in columns))
        if ahead is not None:
            yield np.asarray(ahead)
        ahead = run
    yield np.asarray(ahead)


def _padded(column: np.ndarray, rows: int) -> np.ndarray:
    if len(column) == rows:
        return column
    return np.concatenate([column, np.zeros((rows - len(column), *column.shape[1:]), column.dtype)])
