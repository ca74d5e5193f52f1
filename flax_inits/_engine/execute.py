"""Makes leaves from jobs: each distinct program is compiled once, and run for every leaf."""

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.bits import is_key_dtype
from .._base.types import Array
from . import rows
from .compile import Program, Task, compiling, form_of, programs
from .graph import Constant
from .keys import Deriver, impl_of
from .recipe import Job


def execute(
    tasks: Sequence[Task], done: Callable[[Job], Any] = lambda job: None
) -> dict[int, Array]:
    """All leaves by position; `done` hears of each job when its leaves are under way."""
    results: dict[int, Array] = {}
    runs = programs(tasks)
    # Keys and rows move between host and device on purpose, whatever guards the caller's code.
    with jax.transfer_guard("allow"), compiling(runs) as waits:
        for job, deriver in tasks:
            if job.recipe.program is None:
                results[job.positions[0]] = _known(job, deriver)
                done(job)
        for run, wait in zip(runs, waits, strict=True):
            make = _run_pool if run.rows else _run_each
            for job, leaves in make(wait(), run):
                results.update(zip(job.positions, leaves, strict=True))
                done(job)
    return results


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
    spread = [rows.rows(form_of(job), deriver) for job, deriver in run.tasks]
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
            rows.copy_rows(form_of(job), block[place : place + take], taken, flat)
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
