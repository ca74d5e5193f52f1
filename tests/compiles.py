"""Counts what XLA compiles: exact, so it can be asserted where a time cannot."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass
class Count:
    """How many programs were compiled so far, in this process and in all of its threads."""

    programs: int = 0


@contextlib.contextmanager
def count_compiles() -> Iterator[Count]:
    """Counts the programs compiled while it lasts: `with count_compiles() as count: ...`."""
    count = Count()

    def hear(event: str, duration: float, **details: object) -> None:
        count.programs += event == _COMPILED

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
