"""Seeing the `__init__` of every NNX module that is constructed, and changing its arguments.

Flax has no public way to do so. While it is needed, the metaclass of `nnx.Pytree` has a `__call__`
that learns of each class, and each `__init__` of such a class asks whoever watches in its thread.
All is put back when the last watch ends. Where a version of Flax constructs its modules otherwise,
nothing is seen, and rules find leaves at their stored shapes.
"""

import functools
import inspect
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .exchange import Handler, Watchers


class Construction(NamedTuple):
    """One call of an `__init__`: its signature, and an object that no other has."""

    signature: inspect.Signature
    token: object


def constructions(handler: Handler) -> AbstractContextManager[None]:
    """Lets `handler` run every `__init__` of an NNX module in this block, in this thread.

    It is given a `Construction`, the `__init__`, and the arguments, the module first.
    """
    return _watchers.watching(handler)


def _hook_metaclass() -> None:
    from flax import nnx

    meta: Any = type(nnx.Pytree)
    construct = meta.__call__

    def call(cls: type, /, *args: Any, **kwargs: Any) -> Any:
        if _watchers.is_on:
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
        _watchers.ask(Construction(signature, object()), original, args, kwargs)

    _watchers.exchange(cls, "__init__", init)


_watchers = Watchers(_hook_metaclass)
