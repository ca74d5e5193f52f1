"""Recipes that need a program: rows of the pool, or a program for the leaf's own shape."""

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.bits import is_key_dtype
from .._base.jax_state import configuration
from .._base.types import Array, Token
from . import blocks, rows
from .evaluate import evaluate
from .graph import Value, order
from .jaxpr import struct
from .key_words import impl_of
from .placement import is_abstract, on_cpu
from .recipe import Job, Recipe, constants_of, nbytes
from .rounding import SAFE
from .row_pattern import RowForm

_WIDE = {"xla_cpu_prefer_vector_width": 512}
"""Compiler options where lanes do not meet, so that wide vectors hold the same values."""


class Pending(NamedTuple):
    """A compiled program that is there by now, or will be."""

    done: Callable[[], bool]
    result: Callable[[], Any]
    """Waits, if it must."""


class Program(NamedTuple):
    """A program to run, and the jobs that it serves."""

    key: Hashable
    """Equal for programs that compute alike, lowered alike."""

    lower: Callable[[], Any]
    """Makes the `jax.stages.Lowered`."""

    run: Callable[[Pending, "Program"], Iterator[tuple[Job, Sequence[Array]]]]
    """From the compiled program, and this: each job with its leaves."""

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
        """Makes the program of rows, one for all that are ever asked for."""
        # The form that is lowered is that of one of the leaves, any of them: equal tokens say that
        # all make the same program. The settings count, since lowering reads them.
        key = (self.shared_by, configuration())
        lower = functools.partial(_lower_rows, self.form)
        held = nbytes(constants_of([self.form.output]))
        return Program(key, lower, _run_rows, jobs, _WIDE, held)


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


def _run_each(pending: Pending, program: Program) -> Iterator[tuple[Job, Sequence[Array]]]:
    compiled = pending.result()
    for job in program.jobs:
        yield job, compiled(*job.arguments)


def _form(job: Job) -> RowForm:
    assert isinstance(job.recipe, Pooled)
    return job.recipe.form


def _lower_rows(form: RowForm) -> Any:
    return jax.jit(functools.partial(rows.compute, form)).lower(*rows.arguments(form, blocks.SIZE))


def _run_rows(pending: Pending, program: Program) -> Iterator[tuple[Job, Sequence[Array]]]:
    recipes, forms = [job.recipe for job in program.jobs], list(map(_form, program.jobs))
    keys = [list(map(job.known.key_words, job.given)) for job in program.jobs]
    columns = rows.rows(forms, keys)

    def begin() -> Iterator[np.ndarray]:
        return blocks.begin(pending.result(), columns)

    # At once if nobody has to wait: XLA computes while other leaves are filled.
    begun = begin() if pending.done() else None
    avals = [recipe.outputs[0].aval for recipe in recipes]
    shardings = [recipe.shardings[0] for recipe in recipes]
    leaves = blocks.cut_out(forms, avals, shardings, lambda: begun or begin())
    return ((job, [leaf]) for job, leaf in zip(program.jobs, leaves, strict=True))
