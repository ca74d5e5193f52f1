"""What was made for equal requests, as long as it is not too much."""

import collections
import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_MOST_BYTES = 1 << 26
"""Arrays that what is kept may hold on to, in bytes; the latest entry is kept whatever it holds."""


def cached(most: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """`functools.lru_cache`, but for arguments without a hash: for them the function is called."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        known = functools.lru_cache(most)(function)

        @functools.wraps(function)
        def call(*args: Any) -> T:
            try:
                hash(args)
            except TypeError:
                return function(*args)
            return known(*args)

        return call

    return decorate


class Cache(Generic[T]):
    """Values by key, shared by all threads; the least recently used go first."""

    def __init__(self, most: int):
        self._most, self._bytes = most, 0
        self._entries: collections.OrderedDict[Hashable, tuple[T, int]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> T | None:
        """Finds the value for `key`, if one is kept."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def keep(self, key: Hashable, value: T, nbytes: int = 0) -> T:
        """Keeps `value` for `key`; returns it, or what another call has kept meanwhile."""
        # The first one wins: all who ask must get the same.
        with self._lock:
            if key not in self._entries:
                self._entries[key] = value, nbytes
                self._bytes += nbytes
            self._entries.move_to_end(key)
            kept = self._entries[key][0]
            # Never the latest: whoever keeps it is about to look for it again.
            while len(self._entries) > 1 and self._is_full():
                self._bytes -= self._entries.popitem(last=False)[1][1]
        return kept

    def _is_full(self) -> bool:
        return len(self._entries) > self._most or self._bytes > _MOST_BYTES

    def drop(self, key: Hashable) -> None:
        """Forgets the value for `key`."""
        with self._lock:
            self._bytes -= self._entries.pop(key, (None, 0))[1]
