"""Attributes of classes that are others for a while."""

from typing import Any


class Exchanged:
    """Classes whose attributes were exchanged: what they are now, and what they were."""

    def __init__(self):
        self._found: list[tuple[type, str, Any, Any]] = []

    def __contains__(self, value: Any) -> bool:
        return any(now is value for _, _, now, _ in self._found)

    def exchange(self, cls: Any, name: str, value: Any) -> None:
        """Gives a class an attribute, in place of its own or of one that it inherits."""
        self._found.append((cls, name, value, vars(cls).get(name)))
        setattr(cls, name, value)

    def put_back(self) -> None:
        """Gives all classes back what they had, where nobody else has changed it since."""
        while self._found:
            cls, name, now, before = self._found.pop()
            if vars(cls).get(name) is not now:
                continue
            if before is None:
                delattr(cls, name)
            else:
                setattr(cls, name, before)
