"""Scans without a carry: each of their outputs is a map by itself.

Flax's `nn.scan` makes the params of a stack of layers in one scan, whose carry (the activations)
no param needs. Without it the params have nothing to do with each other.
"""

from typing import Any

import jax.interpreters.partial_eval as partial_eval

from .fallback import caught
from .graph import Constant, Node, Output
from .jaxpr import Literal, opened


def mapped(equation: Any, inputs: list, index: int, parent: Any) -> Output | None:
    """Cuts output `index` of a scan out, as a scan without a carry; None if it needs one."""
    values = {
        atom: value
        for atom, value in zip(equation.invars, inputs, strict=True)
        if not isinstance(atom, Literal)
    }
    alone: Any
    try:
        alone = parent.replace(
            constvars=[], invars=list(values), outvars=[equation.outvars[index]], eqns=[equation]
        )
        # It removes what one output does not need from the body, too: the activations that Flax
        # carries from layer to layer. It has no stability promise, and no public twin; without it
        # the whole scan runs once for all its outputs, which is slower and has the same bits.
        alone = partial_eval.dce_jaxpr(alone, [True], instantiate=True)[0]
        (reduced,) = alone.eqns
    except Exception:
        caught("a scan is not taken apart")
        return None
    if not _stacks(reduced):
        return None
    reads = [
        Constant(atom.val, atom.aval) if isinstance(atom, Literal) else values[atom]
        for atom in reduced.invars
    ]
    return Output(Node(reduced, reads), reduced.outvars.index(alone.outvars[0]))


def sliced(scan: Node) -> list[bool]:
    """Whether each step of a scan without a carry gets its own slice of an input, or all of it."""
    body, _ = opened(scan.params["jaxpr"])
    return [
        len(value.aval.shape) == len(var.aval.shape) + 1
        for value, var in zip(scan.inputs, body.invars, strict=True)
    ]


def _stacks(scan: Any) -> bool:
    """Whether all outputs of a scan are stacked ones, with one more axis than in the body.

    A carry is the output that has none. Versions of JAX differ in how they count carries.
    """
    body, _ = opened(scan.params["jaxpr"])
    return all(
        len(out.aval.shape) == len(inner.aval.shape) + 1
        for out, inner in zip(scan.outvars, body.outvars, strict=True)
    )
