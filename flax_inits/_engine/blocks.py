"""Runs the program of rows: computes them in blocks, and cuts leaves out of these.

A leaf is an array first, and then its rows are written straight into its memory: put together on
the host, it would be there twice.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Sharding

from .._base.types import Array
from . import rows
from .memory import cut, is_plain, memory_of, misaligned, owned
from .row_pattern import RowForm

SIZE = 1 << 8
"""Rows in a block: work for all cores, and not much more than a small model takes."""

_AHEAD = 4
_TOGETHER = 1 << 20
"""Elements of the leaves that are made in one transfer."""


def begin(compiled: Any, columns: rows.Rows) -> Iterator[np.ndarray]:
    """Computes all blocks in order; the first are begun at once."""
    # Dispatch is asynchronous: XLA computes the next rows while NumPy copies others. No more than
    # `_AHEAD` are alive, so that the peak of memory stays with the leaves.
    begun = (
        compiled(*(_padded(column[start : start + SIZE]) for column in columns), rows.LANES)
        for start in range(0, len(columns.starts), SIZE)
    )
    return _in_order(collections.deque(itertools.islice(begun, _AHEAD)), begun)


def _in_order(ahead: collections.deque[Any], begun: Iterator[Any]) -> Iterator[np.ndarray]:
    while ahead:
        block = ahead.popleft()
        ahead.extend(itertools.islice(begun, 1))
        yield np.asarray(block)


def _padded(column: np.ndarray) -> np.ndarray:
    if len(column) == SIZE:
        return column
    # One shape, one compilation: what is missing is drawn with zeros for keys, and thrown away.
    blank = np.zeros((SIZE - len(column), *column.shape[1:]), column.dtype)
    return np.concatenate([column, blank])


def cut_out(
    forms: Sequence[RowForm],
    avals: Sequence[Any],
    shardings: Sequence[Sharding | None],
    blocks: Callable[[], Iterator[np.ndarray]],
) -> Iterator[Array]:
    """Makes leaves of one dtype, the rows of which come in order in `blocks()`."""
    # All of them, before the blocks are waited for: touching memory for the first time takes about
    # as long as drawing into it.
    blank, ready = list(_blank(avals, shardings)), blocks()
    block = np.empty(0)
    in_place = is_plain(avals[0].dtype)
    for form, aval, sharding, leaf in zip(forms, avals, shardings, blank, strict=True):
        flat = memory_of(leaf) if in_place else np.empty(aval.size, aval.dtype)
        first, needed = 0, rows.rows_of(form)
        while first < needed:
            if not len(block):
                block = next(ready)
            taken, block = block[: needed - first], block[needed - first :]
            rows.copy_rows(form, taken, first, flat)
            first += len(taken)
        yield leaf if in_place else owned(flat.reshape(aval.shape), sharding)


def _blank(avals: Sequence[Any], shardings: Sequence[Sharding | None]) -> Iterator[Array]:
    """Makes leaves to be written, small ones many at a time."""
    # Zeros that are read for the first time are page faults: one source serves all.
    source = misaligned(max(aval.size for aval in avals), avals[0].dtype)
    leaves = zip(avals, shardings, strict=True)
    for sharding, alike in itertools.groupby(leaves, lambda leaf: leaf[1]):
        shapes = [aval.shape for aval, _ in alike]
        while shapes:
            sizes = itertools.accumulate(map(math.prod, shapes))
            some = max(1, sum(size <= _TOGETHER for size in sizes))
            yield from cut(source, shapes[:some], sharding)
            shapes = shapes[some:]
