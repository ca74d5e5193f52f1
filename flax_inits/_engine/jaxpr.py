"""Reading jaxprs, JAX's intermediate representation, in every supported version.

It has no stability promise. What is built on it falls back to `jax.jit` of the whole function when
it fails.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core

Literal = jax.extend.core.Literal
CLOSED_JAXPR: Any = getattr(jax.extend.core, "ClosedJaxpr", jax.extend.core.Jaxpr)
"""A jaxpr with its constants; newer versions of JAX have one class for both."""

JAXPRS = (CLOSED_JAXPR, jax.extend.core.Jaxpr)

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


def opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    """Takes a jaxpr and its constants apart, whether or not this version of JAX keeps them so."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def inner_jaxprs(params: dict) -> list[Any]:
    """Finds the jaxprs among an equation's parameters."""
    values = (
        item
        for value in params.values()
        for item in (value if isinstance(value, tuple) else (value,))
    )
    return [value for value in values if isinstance(value, JAXPRS)]


def live(jaxpr: Any, used: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
    """Finds the equations that the `used` outputs need, in order, each with its used outputs."""
    atoms = (atom for atom, use in zip(jaxpr.outvars, used, strict=True) if use)
    needed = {atom for atom in atoms if not isinstance(atom, Literal)}
    found = []
    for equation in reversed(jaxpr.eqns):
        wanted = [var in needed for var in equation.outvars]
        if any(wanted):
            found.append((equation, wanted))
            needed.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    found.reverse()
    return found


def is_plain_call(equation: Any) -> bool:
    """Whether an equation only calls a function, with no shardings of its own."""
    return equation.primitive.name in CALLS and not has_shardings(equation.params)


def has_shardings(params: dict) -> bool:
    """Whether a jitted function says where an input or output lives, which inlining would lose."""
    shardings = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    # By its name, because no public module has the class.
    return any(type(sharding).__name__ != "UnspecifiedValue" for sharding in shardings)


def draws(closed: Any) -> bool:
    """Whether a jaxpr, or one inside of it, draws random bits."""
    return any(
        equation.primitive.name == "random_bits"
        or any(draws(inner) for inner in inner_jaxprs(equation.params))
        for equation in opened(closed)[0].eqns
    )


def struct(aval: Any) -> jax.ShapeDtypeStruct:
    """Reads the shape, dtype and weak type of a value in a jaxpr."""
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)


def with_constants(closed: Any, equations: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Puts other equations and constants in the place of a jaxpr's own."""
    if hasattr(closed, "jaxpr") and closed.jaxpr is not closed:
        return closed.replace(jaxpr=closed.jaxpr.replace(eqns=equations), consts=constants)
    return closed.replace(eqns=equations, consts=constants)
