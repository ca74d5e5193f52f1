"""Computes rows: one compiled program per distribution, for leaves of every shape.

Each row has its key, the index that it starts at, and scalars; any row can belong to any leaf.
`compute` is the program, `rows` says what to fill in, and `copy_rows` puts rows where they belong.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from .._base import bits
from .erf_inv import first_branch, takes_first_branch
from .evaluate import bind
from .graph import RESHAPES, Constant, Output, Value, order
from .host import HostComputable
from .key_words import words_in
from .row_pattern import RowForm

ROW = 1 << 10
"""Elements in a row. A power of two, so that a row never crosses a multiple of 2**32."""


LANES = np.arange(ROW, dtype=np.uint32)
"""The indices in a row. An argument of `compute`: from the index of a loop, LLVM's vectorizer would
look for the end of the draw along each path through its rounds (50 ms a program on jax 0.12)."""


class Rows(NamedTuple):
    """The arguments of `compute` beside `LANES`, for any number of rows."""

    words: Any
    """Keys, (rows, draws, words)."""

    starts: Any
    """The index of each row's first element, (rows, 2): the high word and the low one."""

    scalars: Any
    """Of the last steps, (rows, steps)."""


def arguments(form: RowForm, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Describes what `compute` takes, abstractly."""
    words = jax.ShapeDtypeStruct(
        (rows, len(form.keys), words_in(form.keys[0].aval.dtype)), np.uint32
    )
    starts = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    scalars = jax.ShapeDtypeStruct((rows, len(form.steps)), form.output.aval.dtype)
    return words, starts, scalars, jax.ShapeDtypeStruct(LANES.shape, LANES.dtype)


def compute(form: RowForm, words: Any, starts: Any, scalars: Any, lanes: Any) -> Any:
    """Computes one run of rows from `Rows` and `LANES`: (rows, ROW)."""
    shape = (words.shape[0], ROW)
    # A row starts at a multiple of ROW, so the low word never carries into the high one.
    counter = (
        starts[:, 0:1],
        lax.add(
            lax.broadcast_in_dim(starts[:, 1], shape, (0,)),
            lax.broadcast_in_dim(lanes, shape, (1,)),
        ),
    )
    # What `without_steps` cut off comes back here, in the same program, where XLA sees what is
    # computed before, as in the user's function.
    values = _without_steps(form, words, counter)
    for i, step in enumerate(form.steps):
        values = step.apply(values, lax.broadcast_in_dim(scalars[:, i], shape, (0,)))
    return values


def _without_steps(form: RowForm, words: Any, counter: tuple[Any, Any]) -> Any:
    """Computes rows as far as the steps; `counter` has each element's index, in two words."""
    shape = counter[1].shape
    known_scalar = HostComputable().known_scalar
    full: dict[Value, Any] = {}
    scalars: dict[Value, Any] = {}

    def read(value: Value) -> Any:
        if value in full:
            return full[value]
        known = known_scalar(value)
        scalar = scalars[value].ravel()[0] if known is None else known
        return lax.broadcast(scalar, shape)

    def filled(value: Value) -> Any:
        """Fills the shape that a node expects with a scalar; a table to cut it from stays whole."""
        if isinstance(value, Constant) and value.aval.size != 1:
            return value.value
        return (
            scalars[value] if value in scalars else np.full(value.aval.shape, known_scalar(value))
        )

    for node in order([form.output], lambda v: v in form.keys or known_scalar(v) is not None):
        value = Output(node, 0)
        if node.name == "random_bits":
            # Partitionable threefry counts elements by their index in the leaf (jax#13040), and
            # Philox does: that is all that a row needs to know of the leaf that it is part of.
            key = words[:, form.keys.index(node.inputs[0])]
            full[value] = bits.bits_at(key, counter, node.params["bit_width"])
        elif not any(v in full for v in node.inputs):
            # A scalar that the host cannot compute as XLA does (a logarithm, say): by its own node,
            # in this program, in the shape that it was written for.
            (scalars[value],) = bind(node, list(map(filled, node.inputs)))
        elif node.name in RESHAPES:
            full[value] = full[node.inputs[0]]
        elif takes_first_branch(node):
            full[value] = first_branch(read(node.inputs[0]))
        else:
            (full[value],) = bind(node, list(map(read, node.inputs)))
    return full[form.output]


def rows_of(form: RowForm) -> int:
    """Counts the rows that a leaf takes."""
    return form.segments * math.ceil(form.size / ROW)


def rows(forms: Sequence[RowForm], keys: Sequence[Sequence[np.ndarray]]) -> Rows:
    """Fills in the program's arguments for leaves, given the words of the keys of their draws."""
    segments = [form.segments for form in forms]
    counts = np.repeat([math.ceil(form.size / ROW) for form in forms], segments)
    of_keys = [np.stack([k.reshape(-1, k.shape[-1]) for k in of_leaf], 1) for of_leaf in keys]
    words = np.concatenate(of_keys).astype(np.uint32)
    # Each segment counts from 0.
    first = np.repeat(np.cumsum(counts) - counts, counts)
    index = (np.arange(len(first)) - first).astype(np.uint64) * np.uint64(ROW)
    starts = np.stack([index >> np.uint64(32), index & np.uint64(0xFFFFFFFF)], axis=1)
    scalars = [[step.scalar for step in form.steps] for form in forms]
    scalars = np.repeat(np.array(scalars, forms[0].output.aval.dtype), segments, axis=0)
    return Rows(
        np.repeat(words, counts, axis=0), starts.astype(np.uint32), np.repeat(scalars, counts, 0)
    )


def copy_rows(form: RowForm, block: np.ndarray, first: int, flat: np.ndarray) -> None:
    """Copies rows `first`, `first + 1`, ... of a leaf to where they belong in its flat values."""
    count = math.ceil(form.size / ROW)
    for segment in range(first // count, (first + len(block) - 1) // count + 1):
        begin = max(first, segment * count)
        end = min(first + len(block), (segment + 1) * count)
        start, stop = ((row - segment * count) * ROW for row in (begin, end))
        stop = min(stop, form.size)
        target = flat[segment * form.size + start : segment * form.size + stop]
        target[:] = block[begin - first : end - first].reshape(-1)[: len(target)]
