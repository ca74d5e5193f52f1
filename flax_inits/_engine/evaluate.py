"""Computes the nodes of a graph again, drawing bits through fused keys."""

from collections.abc import Sequence
from typing import Any

import jax

from .._base import bits
from .graph import Constant, Input, Node, Output, Value, order
from .jaxpr import CLOSED_JAXPR, draws, opened, struct
from .scans import sliced
from .trace import flatten


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
    # Under the context that the equation was traced in: dtypes and precisions depend on it.
    with node.context.manager:
        params = node.params
        if fuse:
            if node.name == "random_bits":
                arguments = [bits.fused_keys(arguments[0])]
            params = {name: _redrawn(value) for name, value in params.items()}
        bound = node.primitive.get_bind_params(params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        result = node.primitive.bind(*functions, *arguments, **params)
    return result if node.primitive.multiple_results else [result]


def _redrawn(param: Any) -> Any:
    """Makes the draws inside of a parameter use fused keys; gives it back if it holds none."""
    if isinstance(param, tuple) and any(isinstance(item, CLOSED_JAXPR) for item in param):
        return tuple(map(_redrawn, param))
    if not isinstance(param, CLOSED_JAXPR) or not draws(param):
        return param
    body, constants = opened(param)
    again = jax.make_jaxpr(lambda *args: recompute(body, constants, args, inline=False))(
        *(struct(var.aval) for var in body.invars)
    )
    # The equation that holds it has the types of its outputs already. Where the copy has others,
    # its draws stay as JAX makes them.
    before, after = ([str(var.aval) for var in opened(j)[0].outvars] for j in (param, again))
    return again if before == after else param


def recompute(
    jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], inline: bool
) -> list[Any]:
    """Computes the outputs of a jaxpr for `arguments`, with or without the calls in it."""
    inputs = [Input(i, var.aval) for i, var in enumerate(jaxpr.invars)]
    outputs = flatten(jaxpr, constants, inputs, inline=inline)
    return evaluate(outputs, dict(zip(inputs, arguments, strict=True)))


def vectorized(scan: Output) -> Value | None:
    """Turns a scan without a carry into one batched computation; None if it is no such scan.

    Equal to the scan bit for bit only if all it does is elementwise.
    """
    node = scan.node
    body, constants = opened(node.params["jaxpr"])
    if any(
        len(aval.shape) != len(out.aval.shape) + 1
        for aval, out in zip(node.avals, body.outvars, strict=True)
    ):
        return None
    axes = [0 if each else None for each in sliced(node)]
    # The key of step i is slice i of the keys: a stack of layers is drawn as segments of one leaf.
    length = scan.aval.shape[0]

    def step(*arguments: Any) -> Any:
        return recompute(body, constants, arguments, inline=True)[scan.index]

    structs = [struct(value.aval) for value in node.inputs]
    closed = jax.make_jaxpr(jax.vmap(step, in_axes=axes, axis_size=length))(*structs)
    return flatten(*opened(closed), node.inputs)[0]
