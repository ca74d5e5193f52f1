"""A traced function as a graph in which every output knows just what it needs.

`trace` runs a function abstractly and `flatten` turns the jaxpr into nodes: calls (`jit`,
`custom_jvp_call`, `remat`, ...) are inlined, equations that no output needs are never visited, and
a scan without a live carry becomes one map per output. `evaluate` computes nodes again, drawing
bits through fused keys.

It reads JAX's intermediate representation, which has no stability promise (so does `_taps`, for
reports). Everything built on it falls back to `jax.jit` of the whole function when it fails.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.interpreters.partial_eval as partial_eval
from jax.core import Tracer

from .._base import bits
from .graph import Constant, Input, Node, Output, Value, order

_Literal = jax.extend.core.Literal
CLOSED_JAXPR: Any = getattr(jax.extend.core, "ClosedJaxpr", jax.extend.core.Jaxpr)
"""A jaxpr with its constants; newer versions of JAX have one class for both."""

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that only call a function, and the parameter which holds it."""


class Traced:
    """What `trace` found: the flat arguments, the output leaves, and the output's structure."""

    def __init__(self, jaxpr: Any, constants: Sequence[Any], shape: Any):
        self._jaxpr, self._constants = jaxpr, constants
        self.inputs = tuple(Input(i, var.aval) for i, var in enumerate(jaxpr.invars))
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

    @functools.cached_property
    def outputs(self) -> list[Value]:
        """The output leaves, with every call inlined."""
        return flatten(self._jaxpr, self._constants, self.inputs)

    @functools.cached_property
    def kept(self) -> list[Value]:
        """The output leaves, with calls as single nodes: XLA may round otherwise without them."""
        return flatten(self._jaxpr, self._constants, self.inputs, inline=False)


def trace(fun: Callable[..., Any], *args: Any) -> Traced:
    """Traces `fun` at (possibly abstract) `args`; nothing is computed."""
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    return Traced(*opened(closed), shape)


def opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, whether or not this version of JAX keeps them apart."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def flatten(
    jaxpr: Any,
    constants: Sequence[Any],
    arguments: Sequence[Value],
    used: Sequence[bool] | None = None,
    inline: bool = True,
    origin: str | None = None,
) -> list:
    """The outputs of `jaxpr` as values over `arguments`; where `used` is False, None."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_constant, constants), strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))
    used = [True] * len(jaxpr.outvars) if used is None else used

    def read(atom: Any) -> Any:
        return Constant(atom.val, atom.aval) if isinstance(atom, _Literal) else env.get(atom)

    for equation, wanted in _live(jaxpr, used):
        inputs = [read(atom) for atom in equation.invars]
        outputs = _inlined(equation, inputs, wanted, origin) if inline else None
        if outputs is None and equation.primitive.name == "scan":
            outputs = _scan(equation, inputs, wanted, jaxpr)
        outputs = outputs or _node(equation, inputs, origin)
        env.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) if use else None for atom, use in zip(jaxpr.outvars, used, strict=True)]


def _constant(value: Any) -> Constant:
    return Constant(value, jax.typeof(value))


def _live(jaxpr: Any, used: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
    """The equations that the `used` outputs need, in order, each with its own used outputs."""
    atoms = (atom for atom, use in zip(jaxpr.outvars, used, strict=True) if use)
    needed = {atom for atom in atoms if not isinstance(atom, _Literal)}
    live = []
    for equation in reversed(jaxpr.eqns):
        wanted = [var in needed for var in equation.outvars]
        if any(wanted):
            live.append((equation, wanted))
            needed.update(atom for atom in equation.invars if not isinstance(atom, _Literal))
    live.reverse()
    return live


def _inlined(equation: Any, inputs: list, wanted: list[bool], origin: Any) -> list | None:
    """The outputs of a call, over its inputs; None if the equation is no plain call."""
    name = equation.primitive.name
    if name not in CALLS or not _plain(equation.params):
        return None
    body, constants = opened(equation.params[CALLS[name]])
    origin = origin or equation.params.get("name")
    return flatten(body, constants, inputs, wanted, origin=origin)


def _plain(params: dict) -> bool:
    """Whether a call asks for nothing but the call itself (no shardings of its own)."""
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    return all(type(sharding).__name__ == "UnspecifiedValue" for sharding in shardings)


def _node(equation: Any, inputs: Sequence[Value], origin: str | None = None) -> list[Output]:
    node = Node(equation, inputs, origin)
    return [Output(node, i) for i in range(len(node.avals))]


def _scan(equation: Any, inputs: list, wanted: list[bool], parent: Any) -> list:
    """One node per output that needs no carry; the others share one."""
    shared = _node(equation, inputs)
    return [
        (_mapped(equation, inputs, i, parent) or shared[i]) if use else None
        for i, use in enumerate(wanted)
    ]


def _mapped(equation: Any, inputs: list, index: int, parent: Any) -> Output | None:
    """Output `index` of a scan by itself, as a scan without a carry, or None if it needs one."""
    values = {
        atom: value
        for atom, value in zip(equation.invars, inputs, strict=True)
        if not isinstance(atom, _Literal)
    }
    alone: Any
    try:
        alone = parent.replace(
            constvars=[], invars=list(values), outvars=[equation.outvars[index]], eqns=[equation]
        )
        alone = partial_eval.dce_jaxpr(alone, [True], instantiate=True)[0]
        (reduced,) = alone.eqns
    except Exception:  # An unstable API: without it the whole scan runs once for all its outputs.
        return None
    body, _ = opened(reduced.params["jaxpr"])
    if any(
        len(out.aval.shape) != len(inner.aval.shape) + 1
        for out, inner in zip(reduced.outvars, body.outvars, strict=True)
    ):
        return None
    reads = [
        Constant(atom.val, atom.aval) if isinstance(atom, _Literal) else values[atom]
        for atom in reduced.invars
    ]
    return _node(reduced, reads)[reduced.outvars.index(alone.outvars[0])]


def vectorized(scan: Output) -> Value | None:
    """A scan without a carry as one batched computation, or None if it is no such scan.

    Equal to the scan bit for bit only if all it does is elementwise.
    """
    node = scan.node
    body, constants = opened(node.params["jaxpr"])
    if any(
        len(aval.shape) != len(out.aval.shape) + 1
        for aval, out in zip(node.avals, body.outvars, strict=True)
    ):
        return None
    axes = [
        0 if len(value.aval.shape) == len(var.aval.shape) + 1 else None
        for value, var in zip(node.inputs, body.invars, strict=True)
    ]
    length = scan.aval.shape[0]

    def step(*arguments: Any) -> Any:
        return _recompute(body, constants, arguments, True)[scan.index]

    structs = [_struct(value.aval) for value in node.inputs]
    closed = jax.make_jaxpr(jax.vmap(step, in_axes=axes, axis_size=length))(*structs)
    return flatten(*opened(closed), node.inputs)[0]


def evaluate(outputs: Sequence[Value], bound: dict[Value, Any], fuse: bool = True) -> list[Any]:
    """Computes `outputs`, given arrays for the inputs and any values in between.

    With `fuse`, bits are drawn by fused keys; without, as `jax.random` does.
    """
    env = dict(bound)

    def read(value: Value) -> Any:
        return env[value] if value in env or not isinstance(value, Constant) else value.value

    for node in order(outputs, bound.__contains__):
        results = bind(node, [read(value) for value in node.inputs], fuse)
        for index, result in enumerate(results):
            env.setdefault(Output(node, index), result)
    return [read(value) for value in outputs]


def bind(node: Node, arguments: Sequence[Any], fuse: bool = True) -> Sequence[Any]:
    """Applies the node's primitive to `arguments`."""
    with node.context.manager:
        if fuse and node.primitive.name == "random_bits":
            arguments = [bits.fused_keys(arguments[0])]
        params = node.params
        if fuse:
            params = {name: _redrawn(value) for name, value in params.items()}
        bound = node.primitive.get_bind_params(params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        result = node.primitive.bind(*functions, *arguments, **params)
    return result if node.primitive.multiple_results else [result]


def _redrawn(param: Any) -> Any:
    """A parameter with the draws inside of it made by `_bits`; itself if it holds none."""
    if isinstance(param, tuple) and any(map(_is_closed, param)):
        return tuple(map(_redrawn, param))
    if not _is_closed(param) or not _draws(param):
        return param
    body, constants = opened(param)
    structs = [_struct(var.aval) for var in body.invars]
    again = jax.make_jaxpr(lambda *args: _recompute(body, constants, args, False))(*structs)
    before, after = ([str(var.aval) for var in opened(j)[0].outvars] for j in (param, again))
    return again if before == after else param


def _recompute(
    jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], inline: bool
) -> list[Any]:
    inputs = [Input(i, var.aval) for i, var in enumerate(jaxpr.invars)]
    outputs = flatten(jaxpr, constants, inputs, inline=inline)
    return evaluate(outputs, dict(zip(inputs, arguments, strict=True)))


def _is_closed(param: Any) -> bool:
    return isinstance(param, CLOSED_JAXPR)


def _draws(closed: Any) -> bool:
    """Whether a jaxpr, or one inside of it, draws random bits."""
    return any(
        equation.primitive.name == "random_bits"
        or any(_draws(inner) for inner in inner_jaxprs(equation.params))
        for equation in opened(closed)[0].eqns
    )


def inner_jaxprs(params: dict) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    kinds = (CLOSED_JAXPR, jax.extend.core.Jaxpr)
    values = (
        item
        for value in params.values()
        for item in (value if isinstance(value, tuple) else (value,))
    )
    return [value for value in values if isinstance(value, kinds)]


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)
