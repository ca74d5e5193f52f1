"""A traced function as a graph in which every output knows just what it needs.

`trace` runs a function abstractly and `flatten` turns the jaxpr into nodes: calls (`jit`,
`custom_jvp_call`, `remat`, ...) are inlined, equations that no output needs are never visited, and
a scan without a live carry becomes one map per output.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .copies import Copies
from .graph import Constant, Input, Node, Output, Value
from .jaxpr import CALLS, Literal, inner_jaxprs, is_plain_call, live, opened
from .scans import mapped


class Traced:
    """What `trace` found: the flat arguments, the output leaves, and the output's structure."""

    def __init__(self, jaxpr: Any, constants: Sequence[Any], shape: Any):
        self._jaxpr, self._constants = jaxpr, constants
        self.inputs = tuple(Input(i, var.aval) for i, var in enumerate(jaxpr.invars))
        self._copies = Copies()
        self.shape = shape
        """The output as a tree of `jax.ShapeDtypeStruct`."""

    @property
    def pure(self) -> bool:
        """False if the function has effects (prints, callbacks): it must run as it stands."""
        return not self._jaxpr.effects

    @property
    def closes_over_tracers(self) -> bool:
        """Whether the function can only be called where it stands."""
        return any(isinstance(constant, Tracer) for constant in self._constants)

    @property
    def is_wide(self) -> bool:
        """Whether it computes with numbers of 64 bits (or complex ones of twice as many)."""
        return _is_wide(self._jaxpr)

    def _flattened(self, inline: bool = True, split: bool = True) -> list[Value]:
        outputs = flatten(self._jaxpr, self._constants, self.inputs, inline=inline, split=split)
        # All readings share the copies, so that an array has one identity and one signature.
        self._copies.freeze(outputs)
        return outputs

    @functools.cached_property
    def outputs(self) -> list[Value]:
        """The output leaves, with every call inlined."""
        return self._flattened()

    @functools.cached_property
    def with_calls(self) -> list[Value]:
        """The output leaves, with calls as single nodes: XLA may round otherwise without them."""
        return self._flattened(inline=False)

    @functools.cached_property
    def as_written(self) -> list[Value]:
        """The output leaves, with calls and whole scans as single nodes."""
        return self._flattened(inline=False, split=False)


def _is_wide(jaxpr: Any) -> bool:
    made = [var for equation in jaxpr.eqns for var in equation.outvars]
    if any(str(var.aval.dtype) in _WIDE for var in (*made, *jaxpr.constvars, *jaxpr.outvars)):
        return True
    inner = (body for equation in jaxpr.eqns for body in inner_jaxprs(equation.params))
    return any(_is_wide(opened(body)[0]) for body in inner)


_WIDE = frozenset({"float64", "int64", "uint64", "complex128"})


def trace(fun: Callable[..., Any], *args: Any) -> Traced:
    """Traces `fun` at (possibly abstract) `args`; nothing is computed."""
    # Not by `jax.jit(fun).trace`, whose jaxpr takes closed-over tracers as further inputs.
    with _without_collections():
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    return Traced(*opened(closed), shape)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Pauses the search for cyclic garbage, a tenth to a fifth of the time that a trace takes.

    All that a trace makes stays alive until it ends, and is looked through again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def flatten(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Value],
    used: Sequence[bool] | None = None,
    inline: bool = True,
    split: bool = True,
    origin: str | None = None,
) -> list:
    """Turns the outputs of `jaxpr` into values over `arguments`; None where `used` is False."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))
    used = [True] * len(jaxpr.outvars) if used is None else used
    crossing = set(jaxpr.invars)

    def read(atom: Any) -> Any:
        return Constant(atom.val, atom.aval) if isinstance(atom, Literal) else env.get(atom)

    for equation, wanted in live(jaxpr, used):
        inputs = [read(atom) for atom in equation.invars]
        called = inline and is_plain_call(equation)
        crosses = any(
            not isinstance(atom, Literal) and atom in crossing for atom in equation.invars
        )
        if called or crosses:
            crossing.update(equation.outvars)
        if called:
            outputs = _inlined(equation, inputs, wanted, origin)
        elif split and equation.primitive.name == "scan":
            outputs = _scan(equation, inputs, wanted, jaxpr)
        else:
            outputs = _outputs(Node(equation, inputs, origin, crosses))
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) if use else None for atom, use in zip(jaxpr.outvars, used, strict=True)]


def _constant(value: Any) -> Constant:
    return Constant(value, jax.typeof(value))


def _inlined(equation: Any, inputs: list, wanted: list[bool], origin: str | None) -> list:
    """Turns the outputs of a call into values over its inputs."""
    body, constants = opened(equation.params[CALLS[equation.primitive.name]])
    return flatten(body, constants, inputs, wanted, origin=origin or equation.params.get("name"))


def _outputs(node: Node) -> list[Output]:
    return [Output(node, i) for i in range(len(node.avals))]


def _scan(equation: Any, inputs: list, wanted: list[bool], parent: Any) -> list:
    """Makes one node per output that needs no carry; the others share one."""
    # A stack of layers is so many leaves with nothing in common. Left in one scan, none of them
    # could be rows of the pool, and all would be made where only one was asked for.
    shared = _outputs(Node(equation, inputs))
    return [
        (mapped(equation, inputs, i, parent) or shared[i]) if use else None
        for i, use in enumerate(wanted)
    ]
