"""The object that every factory returns, and the decorator that makes it.

A factory checks its arguments and returns a `Draw`; `initializer` turns it into a function that
returns a `Configured`: the drawing function together with the call that made it. Equality, hash,
pickling and `repr` are those of the call.
"""

import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _bits
from .._execute import run
from .._types import Array, DType, Key, OutSharding, Shape, Token


class Draw(NamedTuple):
    """What a factory returns: how to draw, and what the drawn values may be."""

    sample: Callable[[Key, tuple, np.dtype], Array]
    """(key, shape, dtype) -> values; called under a trace, with `dtype` at least 32 bits wide."""

    lower: float = -np.inf
    """Values stay at or above this, also after rounding to 16 or 8 bits."""

    upper: float = np.inf
    """Values stay at or below this, also after rounding to 16 or 8 bits."""

    kinds: tuple[Any, ...] = (jnp.floating,)
    """The abstract dtypes that can be drawn."""

    widen: bool = True
    """Whether 16- and 8-bit floats are drawn in float32 and cast; False passes dtypes through."""


class Configured:
    """An initializer that remembers the call that made it.

    Call it as any of `jax.nn.initializers`: `(key, shape, dtype=None, out_sharding=None)`.
    """

    __slots__ = ("_factory", "_arguments", "_token", "_draw", "_hash", "__weakref__")

    def __init__(self, factory: Callable[..., "Configured"], arguments: dict[str, Any], draw: Draw):
        self._factory = factory
        self._arguments = arguments
        self._draw = draw
        name = f"{factory.__module__}.{factory.__qualname__}"
        self._token = (name, *(freeze(name, value) for name, value in arguments.items()))
        self._hash = hash(self._token)

    @property
    def dtype(self) -> DType:
        """The dtype used where a call gives none; None is JAX's default float."""
        return self._arguments.get("dtype")

    def __call__(
        self, key: Key, shape: Shape, dtype: DType = None, out_sharding: OutSharding = None
    ) -> Array:
        """Draws an array of `shape` and `dtype` from `key`, laid out as `out_sharding` says."""
        _bits.check_key(key)
        shape = checked_shape(shape)
        dtype = self._checked_dtype(self.dtype if dtype is None else dtype)
        return run(self._values, key, shape, dtype, out_sharding, self)

    def _values(self, key: Key, shape: tuple, dtype: np.dtype) -> Array:
        draw = self._draw
        narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        if not (narrow and draw.widen):
            return draw.sample(key, shape, dtype)
        values = draw.sample(key, shape, np.dtype(np.float32)).astype(dtype)
        lower, upper = round_inwards(draw.lower, draw.upper, dtype)
        if np.isfinite(lower):
            values = jnp.maximum(values, lower)
        if np.isfinite(upper):
            values = jnp.minimum(values, upper)
        return values

    def _checked_dtype(self, dtype: DType) -> np.dtype:
        dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
        if not any(jnp.issubdtype(dtype, kind) for kind in self._draw.kinds):
            kinds = " or ".join(kind.__name__ for kind in self._draw.kinds)
            raise TypeError(f"{self!r} makes arrays of {kinds} dtypes, got dtype={dtype.name!r}.")
        return dtype

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Configured):
            return NotImplemented
        return self._token == other._token

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self):
        return _rebuild, (self._factory, self._arguments)

    def __repr__(self) -> str:
        return f"{self._factory.__name__}({', '.join(self._shown())})"

    def _shown(self):
        """The arguments as one would write them: defaults left out, in order, then by name."""
        positional = True
        for name, parameter in inspect.signature(self._factory).parameters.items():
            value = self._arguments[name]
            if freeze(name, value) == freeze(name, parameter.default):
                positional = False
            elif positional and parameter.kind is not parameter.KEYWORD_ONLY:
                yield shown(value)
            else:
                yield f"{name}={shown(value)}"


def _rebuild(factory: Callable[..., Configured], arguments: dict[str, Any]) -> Configured:
    return factory(**arguments)


def initializer(factory: Callable[..., Draw]) -> Callable[..., Configured]:
    """Makes a factory of `Draw`s into a factory of `Configured` initializers."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def build(*args: Any, **kwargs: Any) -> Configured:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        if arguments.get("dtype") is not None:
            arguments["dtype"] = np.dtype(arguments["dtype"])
        draw = factory(*bound.args, **bound.kwargs)
        return Configured(build, arguments, draw)

    build.__annotations__["return"] = Configured
    return build


def checked_shape(shape: Shape) -> tuple:
    """`shape` as a tuple of non-negative integers or symbolic dimensions."""
    try:
        sizes = tuple(d if jax.export.is_symbolic_dim(d) else int(d.__index__()) for d in shape)
    except (TypeError, AttributeError):
        raise TypeError(f"shape must be a sequence of integers, got {shape!r}.") from None
    if any(not jax.export.is_symbolic_dim(d) and d < 0 for d in sizes):
        raise ValueError(f"shape must not have negative sizes, got {sizes}.")
    return sizes


def round_inwards(lower: float, upper: float, dtype: np.dtype) -> tuple[Any, Any]:
    """The smallest and largest values of `dtype` within [lower, upper]."""
    down, up = np.asarray(lower, dtype), np.asarray(upper, dtype)
    if float(down) < lower:
        down = np.nextafter(down, np.asarray(np.inf, dtype))
    if float(up) > upper:
        up = np.nextafter(up, np.asarray(-np.inf, dtype))
    return down, up


def freeze(name: str, value: Any) -> Token:
    """A hashable stand-in for an argument: numbers by value, arrays by their bytes."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be known when the initializer is built, got the traced value {value}; "
            "build it outside of jit, or write the value into the tree yourself."
        )
    if isinstance(value, numbers.Number) and not isinstance(value, numbers.Complex):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if isinstance(value, numbers.Real):
        exact = float(value)
        return exact.hex() if exact == value or exact != exact else int(value)
    if isinstance(value, numbers.Complex):
        return (value.real.hex(), value.imag.hex())
    if isinstance(value, np.ndarray | jax.Array):
        if not value.shape and jnp.issubdtype(value.dtype, np.number):
            return freeze(name, value.item())
        host = np.asarray(value)
        return ("array", host.dtype.name, host.shape, host.tobytes())
    if isinstance(value, tuple | list):
        return tuple(freeze(name, item) for item in value)
    if isinstance(value, dict):
        return tuple((key, freeze(name, item)) for key, item in sorted(value.items()))
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{name} must be hashable, got {type(value).__name__}: {value!r}.") from None
    return value


def shown(value: Any) -> str:
    """`value` as it would be written in the call that made the initializer."""
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, np.ndarray | jax.Array):
        return f"array({np.asarray(value).tolist()}, dtype={value.dtype.name!r})"
    if isinstance(value, tuple):
        items = ", ".join(map(shown, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if callable(value) and not isinstance(value, Configured) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return repr(value)
