"""The whole function instead: what the engine does where it cannot take a function apart."""

import logging
import sys
from typing import NamedTuple

_log = logging.getLogger(__name__)


class Whole(NamedTuple):
    """The function is compiled as `jax.jit` compiles it."""

    reason: str
    """Why, in a few words."""


CLOSES_OVER_TRACERS = Whole("it closes over tracers")
"""The function can only be called where it stands, in the trace that is under way."""


def caught(consequence: str) -> Whole:
    """Logs the exception that is being handled: a fault of the engine, or a new version of JAX.

    What follows is slower, never wrong, so without a log nobody would hear of it.
    """
    error = sys.exception()
    _log.debug("%s, because of:", consequence, exc_info=error)
    return Whole(f"{type(error).__name__} in the engine")
