"""The arguments of factories: bound and frozen when given, compared by value, shown as written."""

import hashlib
import inspect
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._base.bits import is_key_dtype
from ..._base.errors import did_you_mean
from ..._base.types import Token

LONGEST_SHOWN = 64
"""Arrays with more elements than this are shown by dtype and shape."""


def bound(
    factory: str, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    """The arguments by name, defaults included; raises where `factory` does not take them."""
    if _draws(args):
        raise TypeError(
            f"{factory} is a factory, but got a PRNG key: write {factory}(...) where an "
            f"initializer is wanted, not {factory}."
        )
    try:
        result = signature.bind(*args, **kwargs)
    except TypeError as error:
        parameters = signature.parameters
        plain = [each.replace(annotation=each.empty) for each in parameters.values()]
        call = f"It is {factory}{inspect.Signature(plain)}."
        unknown = [name for name in kwargs if name not in parameters]
        if unknown and not any(each.kind is each.VAR_KEYWORD for each in plain):
            hint = did_you_mean(unknown[0], parameters)
            raise TypeError(f"{factory} has no parameter {unknown[0]!r}.{hint} {call}") from None
        raise TypeError(f"{factory} cannot be called so: {error}. {call}") from None
    result.apply_defaults()
    return result


def _draws(args: tuple) -> bool:
    """Whether `args` are those of an initializer: a key, typed or legacy, and a shape."""
    if not (args and isinstance(args[0], jax.Array)):
        return False
    key, *rest = args
    legacy = key.dtype == np.uint32 and rest and isinstance(rest[0], tuple | list)
    return bool(legacy) or is_key_dtype(key.dtype)


def frozen(name: str, value: Any, scalars: bool = True) -> Any:
    """`value` as nobody can change it any more: Python numbers, tuples, read-only arrays.

    Arrays without axes become Python numbers, unless their dtype matters (`scalars=False`).
    """
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} must be known when the initializer is built, got the traced value {value}; "
            "build it outside of jit, or write the value into the tree yourself."
        )
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _frozen_array(name, value, scalars)
    if isinstance(value, numbers.Number):
        return _frozen_number(name, value)
    if type(value) in (tuple, list):
        return tuple(frozen(name, item) for item in value)
    if type(value) is dict:
        return {key: frozen(f"{name}[{key!r}]", item) for key, item in value.items()}
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name} must be hashable, got {type(value).__name__}: {value!r}."
        ) from None
    return value


def _frozen_number(name: str, value: Any) -> Any:
    if isinstance(value, int | float | complex):
        return value
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, numbers.Complex):
        return complex(value)
    raise TypeError(f"{name} must be a real or complex number, got {value!r}.")


def _frozen_array(name: str, value: Any, scalars: bool) -> Any:
    if not (jnp.issubdtype(value.dtype, np.number) or value.dtype == np.bool_):
        raise TypeError(f"{name} must hold numbers, got an array of dtype {value.dtype}.")
    if scalars and not value.shape:
        return value.item()
    copy = np.array(value, order="C")
    copy.setflags(write=False)
    return copy


def frozen_dtype(value: Any) -> Any:
    """`value` as a NumPy dtype; Python's own types stay, JAX's defaults of that kind."""
    return value if any(value is kind for kind in (int, float, complex)) else jnp.dtype(value)


def token(value: Any) -> Token:
    """A hashable stand-in for a frozen argument: numbers by value, arrays by their bytes."""
    if isinstance(value, float) and str(value) in ("nan", "-0.0"):
        return ("float", str(value))  # nan != nan and -0.0 == 0.0, unlike what they draw
    if isinstance(value, complex):
        return token(value.real) if str(value.imag) == "0.0" else ("complex", str(value))
    if isinstance(value, np.dtype):
        return ("dtype", value.name)  # np.dtype(float) == float, which is another dtype without x64
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(value.tobytes()).digest()
        return ("array", value.dtype.name, value.shape, digest)
    if isinstance(value, tuple):
        return ("tuple", *map(token, value))
    if isinstance(value, dict):
        return ("dict", *((key, token(item)) for key, item in sorted(value.items())))
    return value


def nbytes(value: Any) -> int:
    """Bytes of the arrays that a frozen argument holds, those of initializers in it included."""
    if isinstance(value, tuple | dict):
        return sum(map(nbytes, value.values() if isinstance(value, dict) else value))
    return getattr(value, "nbytes", 0)


def shown(value: Any) -> str:
    """`value` as it would be written in the call that made the initializer."""
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, np.ndarray):
        return _shown_array(value)
    if isinstance(value, tuple):
        items = ", ".join(map(shown, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {shown(item)}" for key, item in value.items()) + "}"
    name = getattr(value, "__name__", None)
    if name is None or hasattr(value, "draw"):  # an initializer's name is not the call that made it
        return repr(value)
    for module in (jax.random, jax.nn, jax.nn.initializers, jnp, np):
        if getattr(module, name, None) is value:
            return f"{module.__name__}.{name}"
    return getattr(value, "__qualname__", name)


def _shown_array(value: np.ndarray) -> str:
    if value.size > LONGEST_SHOWN or not value.size or not np.all(np.isfinite(value)):
        return f"<{value.dtype.name} array of shape {value.shape}>"
    return f"array({value.tolist()}, dtype={value.dtype.name!r})"
