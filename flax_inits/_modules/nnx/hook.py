"""Seeing the `__init__` of every NNX module that is constructed, and changing its arguments.

Flax has no public way to do so. While it is needed, the metaclass of `nnx.Pytree` has a `__call__`
that learns of each class, and each `__init__` of such a class asks whoever watches in its thread.
All is put back when the last watch ends. Where a version of Flax constructs its modules otherwise,
nothing is seen, and rules find leaves at their stored shapes.
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

from .exchange import Watchers

Handler: TypeAlias = Callable[["Construction", tuple, dict[str, Any]], None]
"""Runs an `__init__` with the arguments that it was given, the module first, or with others."""


class Construction(NamedTuple):
    """One call of an `__init__`: what runs it, its signature, and an object that no other has."""

    init: Callable[..., None]
    signature: inspect.Signature
    token: object


def constructions(handler: Handler) -> AbstractContextManager[None]:
    """Lets `handler` call every `__init__` of an NNX module in this block, in this thread.

    Of several handlers the one of the innermost block is asked first, and calls the next.
    """
    return _watchers.watching(handler)


def _hook_metaclass() -> None:
    from flax import nnx

    meta: Any = type(nnx.Pytree)
    construct = meta.__call__

    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        if _watchers.handlers:
            with _watchers.lock:
                for base in cls.__mro__:
                    if base is not object and "__init__" in vars(base):
                        _hook_init(base)
        return construct(cls, *args, **kwargs)

    _watchers.exchange(meta, "__call__", call)


def _hook_init(cls: type) -> None:
    original = vars(cls)["__init__"]
    if _watchers.has_exchanged(original):
        return

    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> None:
        call, token = original, object()
        for handler in _watchers.handlers:
            call = _handled(handler, Construction(call, signature, token))
        call(*args, **kwargs)

    _watchers.exchange(cls, "__init__", init)


_watchers: Watchers[Handler] = Watchers(_hook_metaclass)


def _handled(handler: Handler, construction: Construction) -> Callable[..., None]:
    return lambda *args, **kwargs: handler(construction, args, kwargs)
