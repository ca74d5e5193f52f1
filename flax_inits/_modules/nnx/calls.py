"""Calls of NNX modules.

NNX has no interceptors, so while a watch is on, all classes of modules have a `__call__` that
asks whoever watches in its thread. The outermost module that is called tells all within it where
they are, by an attribute: in what `nnx.scan`, `nnx.vmap` and `nnx.jit` run are other objects, which
have the attribute, too.
"""

import contextlib
import contextvars
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.core
import jax

from ..._base.types import Array, Path
from ..run import within
from .exchange import Watchers

_PATH = "to_nnx__flax_inits_path"
"""With the prefix that tells `nnx.bridge.ToNNX` which attributes are not of its Linen module."""

_running: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("_running", default=())
"""Modules that are being called, by id: a call of the same one is of its base class."""


def watching(handler: Callable[..., Any]) -> AbstractContextManager[None]:
    """Lets `handler` run every `__call__` of an NNX module in this block, in this thread."""
    return _watchers.watching(handler)


def _hook_classes() -> None:
    from flax import nnx

    for cls in set(_with_subclasses(nnx.Module)):
        if "__call__" in vars(cls):
            _watchers.exchange(cls, "__call__", _watched(vars(cls)["__call__"]))


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _with_subclasses(subclass)


def _watched(original: Any) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        from flax import nnx

        bound = original.__get__(self, type(self))
        if not _watchers.is_on or id(self) in _running.get():
            return bound(*args, **kwargs)
        running = _running.set((*_running.get(), id(self)))
        try:
            with placed(self):
                layer = NNXLayer(self, original)
                bound = _bridged(layer, bound) if isinstance(self, nnx.bridge.ToNNX) else bound
                return _watchers.ask(layer, bound, args, kwargs)
        finally:
            _running.reset(running)

    return call


_watchers = Watchers(_hook_classes)


def _bridged(layer: "NNXLayer", bound: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a Linen module whose layers have their paths here, and may change all."""
    mutable = flax.core.DenyList(("intermediates",))

    def call(*args: Any, **kwargs: Any) -> Any:
        token = within.set(layer.path)
        try:
            return bound(*args, **{**kwargs, "mutable": mutable})
        finally:
            within.reset(token)

    return call


@contextlib.contextmanager
def placed(module: Any) -> Iterator[None]:
    """Tells a module, and all within it, where they are, unless the outermost one has done so."""
    from flax import nnx

    if hasattr(module, _PATH):
        yield
        return
    below = [(path, node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Module)]
    for path, node in below:
        setattr(node, _PATH, json.dumps([str(part) for part in path]))
    try:
        yield
    finally:
        for _, node in below:
            delattr(node, _PATH)


class NNXLayer:
    """An NNX module while it is called."""

    def __init__(self, module: Any, function: Any):
        self._module, self._function = module, function
        self.path: Path = tuple(json.loads(getattr(module, _PATH)))
        self.kind = type(module)

    def alone(
        self, names: Sequence[str], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Array]]:
        """The module's variables of these names, and its call as a pure function of them."""
        from flax import nnx

        graphdef, state = nnx.split(self._module)

        def call(weights: dict[str, Any]) -> Array:
            # With variables of its own, which may be set where this is traced.
            copy = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, state))
            for name, values in weights.items():
                getattr(copy, name)[...] = values
            return self._function.__get__(copy, self.kind)(*args, **kwargs)

        return {name: getattr(self._module, name)[...] for name in names}, call

    def left(self, name: str) -> bool:
        """Whether it has such an attribute."""
        return hasattr(self._module, name)

    def leave(self, weights: Mapping[str, Any], name: str, value: Array) -> None:
        """Sets variables, and a further one, which transforms bring out with them."""
        from flax import nnx

        for attribute, values in weights.items():
            getattr(self._module, attribute)[...] = values
        setattr(self._module, name, nnx.Variable(value))
