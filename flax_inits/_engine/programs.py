"""Recipes that need a program: rows of the pool, or a program for the leaf's own shape."""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.bits import is_key_dtype
from .._base.jax_state import configuration
from .._base.types import Array, Token
from . import rows
from .evaluate import evaluate
from .graph import Value, order
from .jaxpr import struct
from .key_words import impl_of
from .memory import cut, is_plain, memory_of, misaligned, owned
from .placement import is_abstract, on_cpu
from .recipe import Job, Recipe, constants_of, nbytes
from .rounding import SAFE
from .row_pattern import RowForm

_FEW_ROWS, _MANY_ROWS = 1 << 6, 1 << 10
"""Rows that a program of the pool makes: one size for a leaf or two, one for whole models."""

_WIDE = {"xla_cpu_prefer_vector_width": 512}
"""Compiler options where lanes do not meet, so that wide vectors hold the same values."""


class Program(NamedTuple):
    """A program to run, and the jobs that it serves."""

    key: Hashable
    """Equal for programs that compute alike, lowered alike."""

    lower: Callable[[], Any]
    """Makes the `jax.stages.Lowered`."""

    run: Callable[[Callable[[], Any], "Program"], Iterator[tuple[Job, Sequence[Array]]]]
    """From what waits for the compiled program, and this: each job with its leaves."""

    jobs: list[Job]
    options: dict[str, int]
    nbytes: int
    """Bytes of the arrays that the program holds."""

    @property
    def size(self) -> int:
        """Elements in all the leaves that it makes."""
        return sum(value.aval.size for job in self.jobs for value in job.recipe.outputs)


class Programmed(Recipe):
    """A recipe that needs a program."""

    __slots__ = ()

    def program(self, jobs: list[Job]) -> Program:
        """Makes the program for jobs whose recipes have an equal `shared_by`."""
        raise NotImplementedError


class Pooled(Programmed):
    """A leaf in rows, which one program makes for leaves of every shape."""

    __slots__ = ("form",)

    def __init__(self, token: Token, output: Value, sharding: Sharding | None, form: RowForm):
        super().__init__((form.token, token), [output], [sharding])
        self.form = form

    @property
    def shared_by(self) -> Token:
        """Equal for leaves of one distribution."""
        return self.form.token

    def program(self, jobs: list[Job]) -> Program:
        """Makes a program of as many rows at a time as the jobs are worth."""
        needed = sum(rows.rows_of(_form(job)) for job in jobs)
        count = _FEW_ROWS if needed <= 2 * _FEW_ROWS else _MANY_ROWS
        # The form that is lowered is that of one of the leaves, any of them: equal tokens say that
        # all make the same program. The settings count, since lowering reads them.
        key = (self.shared_by, count, configuration())
        lower = functools.partial(_lower_rows, self.form, count)
        held = nbytes(constants_of([self.form.output]))
        return Program(key, lower, functools.partial(_run_rows, count), jobs, _WIDE, held)


class Compiled(Programmed):
    """One leaf, or several, by a program of their own shapes and shardings."""

    __slots__ = ("given", "fused")

    def __init__(
        self,
        token: Token,
        outputs: Sequence[Value],
        shardings: Sequence[Sharding | None],
        given: Sequence[Value],
        fused: bool,
    ):
        super().__init__((token, fused), outputs, shardings)
        self.given, self.fused = tuple(given), fused

    @property
    def shared_by(self) -> Token:
        """Equal for equal recipes."""
        return self.token

    def program(self, jobs: list[Job]) -> Program:
        """Makes the program that is run once for each job."""
        nodes = order(self.outputs, set(self.given).__contains__)
        # Where lanes meet (sums, matrix products), their number decides the order of additions.
        elementwise = self.fused and all(node.name in SAFE for node in nodes)
        options = _WIDE if elementwise and all(map(on_cpu, self.shardings)) else {}
        held = nbytes(constants_of(self.outputs, self.given))
        key = (self.shared_by, configuration())
        return Program(key, self.lower, _run_each, jobs, options, held)

    def lower(self) -> Any:
        """Lowers the program for its own shapes and shardings."""
        if any(map(is_abstract, self.shardings)):
            raise ValueError(
                f"{self.shardings[0]} is over an abstract mesh, which has no devices: that is "
                "enough to plan. To make leaves give shardings over a jax.sharding.Mesh; to "
                "compile for devices that are not there, one of jax.experimental.topologies."
            )
        jitted = jax.jit(self._compute, out_shardings=list(self.shardings))
        return jitted.lower(*map(_argument, self.given))

    def _compute(self, *arguments: Any) -> list[Any]:
        """Computes the leaves from the words of keys and from arrays; traceable."""
        bound = {
            value: jax.random.wrap_key_data(argument, impl=impl_of(value.aval.dtype))
            if is_key_dtype(value.aval.dtype)
            else argument
            for value, argument in zip(self.given, arguments, strict=True)
        }
        return evaluate(self.outputs, bound, self.fused)


def _argument(value: Value) -> jax.ShapeDtypeStruct:
    """Describes what a program takes for a value: keys as their words."""
    # Words are what NumPy computes, and are passed as they are; the program makes keys of them.
    if not is_key_dtype(value.aval.dtype):
        return struct(value.aval)
    data = jax.eval_shape(jax.random.key_data, struct(value.aval))
    return jax.ShapeDtypeStruct(data.shape, data.dtype)


def _run_each(wait: Callable[[], Any], program: Program) -> Iterator[tuple[Job, Sequence[Array]]]:
    compiled = wait()
    for job in program.jobs:
        yield job, compiled(*job.arguments)


def _form(job: Job) -> RowForm:
    assert isinstance(job.recipe, Pooled)
    return job.recipe.form


def _lower_rows(form: RowForm, count: int) -> Any:
    return jax.jit(functools.partial(rows.compute, form)).lower(*rows.arguments(form, count))


def _run_rows(
    count: int, wait: Callable[[], Any], program: Program
) -> Iterator[tuple[Job, Sequence[Array]]]:
    """Cuts leaves out of blocks of `count` rows, straight into their own memory."""
    forms = list(map(_form, program.jobs))
    keys = [list(map(job.known.key_words, job.given)) for job in program.jobs]
    columns = rows.rows(forms, keys)
    # All leaves, before the program is waited for: touching memory for the first time takes about
    # as long as drawing into it.
    leaves = list(_blank(program.jobs))
    blocks = _blocks(wait(), columns, count)
    block, taken = np.empty(0), count
    in_place = is_plain(forms[0].output.aval.dtype)
    for job, form, leaf in zip(program.jobs, forms, leaves, strict=True):
        # An array first, and then rows straight into its memory: put together on the host, a leaf
        # would be there twice.
        (value,), (sharding,) = job.recipe.outputs, job.recipe.shardings
        flat = memory_of(leaf) if in_place else np.empty(value.aval.size, value.aval.dtype)
        first, needed = 0, rows.rows_of(form)
        while first < needed:
            if taken == count:
                block, taken = next(blocks), 0
            take = min(needed - first, count - taken)
            rows.copy_rows(form, block[taken : taken + take], first, flat)
            first, taken = first + take, taken + take
        yield job, [leaf if in_place else owned(flat.reshape(value.aval.shape), sharding)]


def _blank(jobs: Sequence[Job]) -> Iterator[Array]:
    """Makes the jobs' leaves, to be written; small ones many at a time."""
    leaves = [(job.recipe.outputs[0].aval, job.recipe.shardings[0]) for job in jobs]
    # Zeros that are read for the first time are page faults: one source serves all.
    source = misaligned(max(aval.size for aval, _ in leaves), leaves[0][0].dtype)
    for sharding, alike in itertools.groupby(leaves, lambda leaf: leaf[1]):
        avals = [aval for aval, _ in alike]
        while avals:
            sizes = itertools.accumulate(aval.size for aval in avals)
            some = max(1, sum(size <= _MANY_ROWS * rows.ROW for size in sizes))
            yield from cut(source, [aval.shape for aval in avals[:some]], sharding)
            avals = avals[some:]


def _blocks(compiled: Any, columns: Sequence[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Computes all blocks in order, one ahead of the one in use; the first is begun at once."""
    # Dispatch is asynchronous: XLA computes the next block while NumPy copies rows of this one. No
    # more than two are alive, so that the peak of memory stays with the leaves.
    begun = (
        compiled(*(_padded(column[start : start + count], count) for column in columns), rows.LANES)
        for start in range(0, len(columns[0]), count)
    )
    return _one_ahead(next(begun), begun)


def _one_ahead(ahead: Any, begun: Iterator[Any]) -> Iterator[np.ndarray]:
    for block in begun:
        yield np.asarray(ahead)
        ahead = block
    yield np.asarray(ahead)


def _padded(column: np.ndarray, count: int) -> np.ndarray:
    if len(column) == count:
        return column
    # One shape, one compilation: what is missing is drawn with zeros for keys, and thrown away.
    blank = np.zeros((count - len(column), *column.shape[1:]), column.dtype)
    return np.concatenate([column, blank])
