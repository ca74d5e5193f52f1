"""Attributes of classes that are others while somebody watches."""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Call: TypeAlias = Callable[..., Any]

Handler: TypeAlias = Callable[[Any, Call, tuple, dict[str, Any]], Any]
"""Given what is called, the call, and its arguments: what the call returns."""


class Watchers:
    """Those who watch, each in a thread, and the classes that are changed as long as there is one.

    Flax has no public way to see its NNX modules, so what a handler is to see is an attribute of
    their classes that `hook` exchanges. All is put back when the last one stops.
    """

    def __init__(self, hook: Callable[[], None]):
        self.lock = threading.Lock()
        self._hook, self._count = hook, 0
        self._handlers: contextvars.ContextVar[tuple[Handler, ...]]
        self._handlers = contextvars.ContextVar("_handlers", default=())
        self._exchanged: list[tuple[type, str, Any, Any]] = []
        """Classes with the name of an attribute, what it is, and what it was (None: inherited)."""

    @property
    def is_on(self) -> bool:
        """Whether somebody watches in this thread."""
        return bool(self._handlers.get())

    def ask(self, subject: Any, call: Call, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call as the handlers of this thread run it.

        That of the innermost block is asked first, and calls the next.
        """
        for handler in self._handlers.get():
            call = functools.partial(_handled, handler, subject, call)
        return call(*args, **kwargs)

    @contextlib.contextmanager
    def watching(self, handler: Handler) -> Iterator[None]:
        """Lets `handler` watch in this block, in this thread."""
        with self.lock:
            if not self._count:
                self._hook()
            self._count += 1
        token = self._handlers.set((*self._handlers.get(), handler))
        try:
            yield
        finally:
            self._handlers.reset(token)
            with self.lock:
                self._count -= 1
                if not self._count:
                    self._put_back()

    def has_exchanged(self, value: Any) -> bool:
        """Whether `value` is an attribute that was put in the place of another."""
        return any(now is value for _, _, now, _ in self._exchanged)

    def exchange(self, cls: Any, name: str, value: Any) -> None:
        """Gives a class an attribute, in place of its own or of one that it inherits."""
        self._exchanged.append((cls, name, value, vars(cls).get(name)))
        setattr(cls, name, value)

    def _put_back(self) -> None:
        while self._exchanged:
            cls, name, now, before = self._exchanged.pop()
            if vars(cls).get(name) is not now:
                continue  # someone else has changed it since
            if before is None:
                delattr(cls, name)
            else:
                setattr(cls, name, before)


def _handled(handler: Handler, subject: Any, call: Call, /, *args: Any, **kwargs: Any) -> Any:
    return handler(subject, call, args, kwargs)
