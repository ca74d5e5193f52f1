"""Values inside of a traced function: read out of it by name, also from within a scan, and moved.

A tap is an identity with a name in the function's jaxpr. `Tapped` runs the jaxpr again, returns
what is at the taps, and adds to it what the caller likes: the derivative with respect to an added
zero is the derivative with respect to the value, through all that uses it from there on.

Calls (`jit`, `remat`) and scans are entered; what is inside of `cond`, `while` and functions with
derivatives of their own is not seen.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
from jax.ad_checkpoint import checkpoint_name

from .._base.types import Array
from .._engine.evaluate import bind
from .._engine.graph import Node
from .._engine.jaxpr import CALLS, opened

_CALLS = frozenset(name for name, holder in CALLS.items() if holder == "jaxpr")
"""Calls of functions that have no derivatives of their own."""


class TapSite(NamedTuple):
    """One value at a tap: `steps` are the steps of the scans around it, outermost first."""

    name: str
    tap: int
    steps: tuple[int, ...]


def tap(value: Array, name: str) -> Array:
    """Returns `value` itself, which can be found by `name` where the function is traced."""
    # An identity that JAX keeps in the jaxpr, also under grad, remat and scan. It is meant to say
    # what remat saves; here its name counts.
    return checkpoint_name(value, name)


class Tapped:
    """A function traced at some arguments, and its taps: those whose names start with `prefix`."""

    def __init__(self, fun: Callable[..., Any], args: Sequence[Any], prefix: str):
        closed, self.shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        self._jaxpr, self._constants = opened(closed)
        self._prefix = prefix

    def __call__(self, args: Sequence[Any], moves: Sequence[Any] | None = None) -> Any:
        """Computes the flat outputs, and each tap's value (stacked by a scan), its move added."""
        if moves is None:
            moves = [None] * self._count(self._jaxpr.eqns)
        return self._run(self._jaxpr, self._constants, jax.tree.leaves(args), moves)

    def sites(self) -> list[TapSite]:
        """Lists all values at taps, in the order in which they come about."""
        return list(self._sites(self._jaxpr, 0))

    def _run(
        self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], moves: Iterable[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Computes the outputs of a jaxpr, and the values at the taps in it."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jax.extend.core.Literal) else env[atom]

        moves, found = iter(moves), []
        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            count = self._count([equation])
            if not count:
                # As written: a report is about the numbers that the user's own call computes.
                outputs = bind(Node(equation, (), None), values, fuse=False)
            elif equation.primitive.name == "name":
                move = next(moves)
                outputs = values if move is None else [values[0] + move]
                found += outputs
                # Whatever uses the value from here on uses the moved one.
                if not isinstance(equation.invars[0], jax.extend.core.Literal):
                    env[equation.invars[0]] = outputs[0]
            else:
                outputs, inner = self._enter(equation, values, list(itertools.islice(moves, count)))
                found += inner
            env.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars], found

    def _enter(self, equation: Any, values: list[Any], moves: list[Any]) -> Any:
        """Computes the outputs of a call or a scan, and the values at the taps in it."""
        # Run in place and not as a call, which would have no room for what is at the taps. `remat`
        # is lost by that, so the backward pass takes more memory.
        body, constants = opened(equation.params["jaxpr"])
        if equation.primitive.name != "scan":
            return self._run(body, constants, values, moves)
        # What is scanned over has one axis more outside than inside; then come the carries. Counted
        # so, because the parameters that tell have changed their names between versions of JAX.
        scanned = sum(
            _ndim(value) > _ndim(var) for value, var in zip(values, body.invars, strict=True)
        )
        pairs = zip(equation.outvars, body.outvars, strict=True)
        carried = sum(_ndim(outer) == _ndim(inner) for outer, inner in pairs)
        first = len(values) - scanned - carried

        def step(carry: Any, slices: Any) -> Any:
            inputs, moves = slices
            arguments = [*values[:first], *carry, *inputs]
            outputs, found = self._run(body, constants, arguments, moves)
            return outputs[:carried], (outputs[carried:], found)

        carry, (outputs, found) = jax.lax.scan(
            step,
            values[first : first + carried],
            (values[first + carried :], moves),
            length=equation.params["length"],
            reverse=equation.params["reverse"],
        )
        return [*carry, *outputs], found

    def _count(self, equations: Iterable[Any]) -> int:
        """Counts the taps in these equations; those in a scan of no steps see nothing."""
        count = 0
        for equation in equations:
            name = equation.primitive.name
            if name == "name":
                count += equation.params["name"].startswith(self._prefix)
            elif name in _CALLS or (name == "scan" and equation.params["length"]):
                count += self._count(opened(equation.params["jaxpr"])[0].eqns)
        return count

    def _sites(self, jaxpr: Any, first: int) -> Iterator[TapSite]:
        for equation in jaxpr.eqns:
            if not (count := self._count([equation])):
                continue
            if equation.primitive.name == "name":
                yield TapSite(equation.params["name"], first, ())
            else:
                inner = list(self._sites(opened(equation.params["jaxpr"])[0], first))
                for step in _steps(equation):
                    yield from (TapSite(name, tap, step + steps) for name, tap, steps in inner)
            first += count


def _ndim(value: Any) -> int:
    """Counts the axes of an array, or of a variable of a jaxpr."""
    return len(getattr(value, "aval", value).shape)


def _steps(equation: Any) -> list[tuple[int, ...]]:
    if equation.primitive.name != "scan":
        return [()]
    steps = [(step,) for step in range(equation.params["length"])]
    return steps[::-1] if equation.params["reverse"] else steps
