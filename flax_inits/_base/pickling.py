"""The `__reduce__` of what cannot leave its process, or not whole."""

from typing import Any


def refuse_to_pickle(self: Any) -> Any:
    """Raises: the object holds compiled programs."""
    raise TypeError(
        f"{type(self).__name__} does not pickle: it holds programs of this process; make it anew "
        "where it is wanted."
    )


def reduce_row(self: Any) -> tuple[type, tuple]:
    """A row by its fields; raises if it has a `sharding`, whose devices no other process has."""
    if self.sharding is not None:
        raise TypeError(
            f"{type(self).__name__} does not pickle with its sharding, which names devices of this "
            "process; pickle the fields that you need."
        )
    return type(self), tuple(getattr(self, field) for field in self.__match_args__)
