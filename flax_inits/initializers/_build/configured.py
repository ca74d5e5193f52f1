"""The object that every factory returns, and the decorator that makes it.

A factory checks its arguments and returns a `Draw`; `initializer` turns it into a function that
returns a `Configured`: the drawing function together with the call that made it. Equality, hash,
pickling and `repr` are those of the call.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import bits
from ..._base.jax_state import explicit_x64
from ..._base.types import Array, DType, Key, OutSharding, Shape
from .arguments import bound, frozen, frozen_dtype, nbytes, shown, token
from .call import run
from .rounding import clip, is_narrow, round_inwards

P = ParamSpec("P")


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

    dtype: DType = None
    """The default dtype where the factory's `dtype` argument gives none."""

    sliced: bool = False
    """Whether slices over some axes are drawn each by itself."""

    pieces: tuple[tuple[float, float, float], ...] = ()
    """Where values are piecewise uniform: (weight, low, high) of each; low == high is a point."""


class Configured:
    """An initializer that remembers the call that made it.

    Call it as any of `jax.nn.initializers`: `(key, shape, dtype=None, out_sharding=None)`.
    """

    __slots__ = ("draw", "_factory", "_bound", "_token", "_hash", "__weakref__")

    draw: Draw
    _factory: Callable[..., "Configured"]
    _bound: inspect.BoundArguments
    _token: tuple
    _hash: int

    def __init__(
        self, factory: Callable[..., "Configured"], bound: inspect.BoundArguments, draw: Draw
    ):
        arguments = (token(value) for value in bound.arguments.values())
        identity = (factory, *arguments)
        values = {"draw": draw, "_factory": factory, "_bound": bound, "_token": identity}
        for name, value in (values | {"_hash": hash(identity)}).items():
            object.__setattr__(self, name, value)

    @property
    def __name__(self) -> str:
        """The factory's name, by which jaxprs and plans call the initializer."""
        return self._factory.__name__

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays among the arguments."""
        return nbytes(tuple(self._bound.arguments.values()))

    @property
    def dtype(self) -> DType:
        """The dtype used where a call gives none; None, as float, is JAX's default float."""
        own = self._bound.arguments.get("dtype")
        return self.draw.dtype if own is None else own

    def __call__(
        self, key: Key, shape: Shape, dtype: DType = None, out_sharding: OutSharding = None
    ) -> Array:
        """Draws an array of `shape` and `dtype` from `key`, laid out as `out_sharding` says."""
        bits.check_key(key)
        shape = checked_shape(shape)
        dtype = self._checked_dtype(dtype)
        return run(self, self._values, key, shape, dtype, out_sharding)

    def _values(self, key: Key, shape: tuple, dtype: np.dtype) -> Array:
        draw = self.draw
        if not (draw.widen and is_narrow(dtype)):
            return draw.sample(key, shape, dtype)
        # Rounding is monotone: values clipped to what the narrow dtype can hold stay there.
        lower, upper = round_inwards(draw.lower, draw.upper, dtype)
        values = draw.sample(key, shape, np.dtype(np.float32))
        return clip(values, lower, upper).astype(dtype)

    def _checked_dtype(self, given: DType) -> np.dtype:
        given = self._bound.arguments.get("dtype") if given is None else frozen_dtype(given)
        asked = self.draw.dtype if given is None else given
        dtype = jax.dtypes.canonicalize_dtype(float if asked is None else asked)
        if not any(jnp.issubdtype(dtype, kind) for kind in self.draw.kinds):
            kinds = " or ".join(kind.__name__ for kind in self.draw.kinds)
            raise TypeError(f"{self!r} makes arrays of {kinds} dtypes, got dtype={dtype.name!r}.")
        if isinstance(given, np.dtype) and given != dtype:
            if explicit_x64() != "warn":
                # "allow" is for JAX's own functions, whose operands it widens one by one.
                raise ValueError(
                    f"{self!r} makes {given.name} only with jax_enable_x64: set "
                    "jax.config.update('jax_enable_x64', True), or ask for "
                    f"{dtype.name}."
                )
            warnings.warn(
                f"{self!r} makes {dtype.name} where {given.name} was asked for; set "
                "jax.config.update('jax_enable_x64', True) to have 64-bit dtypes.",
                stacklevel=3,
            )
        return dtype

    def __setattr__(self, name: str, value: Any = None) -> None:
        raise AttributeError(f"{self!r} is frozen: build another initializer to change {name!r}.")

    __delattr__ = __setattr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Configured):
            return NotImplemented
        return self._token == other._token

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self):
        # Names nothing of ours but the factory, which has a public address.
        return functools.partial(self._factory, *self._bound.args, **self._bound.kwargs), ()

    def __repr__(self) -> str:
        return f"{self._factory.__name__}({', '.join(self._shown())})"

    def _shown(self):
        """The arguments as one would write them: defaults left out, in order, then by name."""
        positional = True
        for name, parameter in self._bound.signature.parameters.items():
            value = self._bound.arguments[name]
            if parameter.kind is parameter.VAR_KEYWORD:
                yield from (f"{key}={shown(item)}" for key, item in value.items())
            elif token(value) == token(frozen(name, parameter.default)):
                positional = False
            elif positional and parameter.kind is not parameter.KEYWORD_ONLY:
                yield shown(value)
            else:
                yield f"{name}={shown(value)}"


def initializer(
    factory: Callable[P, Draw], freeze: Callable[[str, Any], Any] = frozen
) -> Callable[P, Configured]:
    """Makes a factory of `Draw`s into a factory of `Configured` initializers.

    The factory gets its arguments frozen: numbers as Python's, sequences as tuples, arrays as
    read-only NumPy arrays, `dtype` as a NumPy dtype or one of Python's types.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def build(*args: P.args, **kwargs: P.kwargs) -> Configured:
        given = bound(factory.__name__, signature, args, kwargs)
        for name, value in given.arguments.items():
            is_dtype = name == "dtype" and value is not None
            given.arguments[name] = frozen_dtype(value) if is_dtype else freeze(name, value)
        return Configured(build, given, factory(*given.args, **given.kwargs))

    build.__annotations__["return"] = Configured
    vars(build)["is_factory"] = True
    # What `help` prints; as text, so that it prints the name alone.
    vars(build)["__signature__"] = signature.replace(return_annotation="Initializer")
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
