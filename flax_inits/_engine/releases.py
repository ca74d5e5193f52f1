"""What was found out by trying, release by release of jaxlib, and is not taken for granted."""

import functools
from importlib.metadata import version

MERGES_FACTORS: dict[str, bool] = {
    "0.9.0": True,
    "0.9.0.1": True,
    "0.9.1": True,
    "0.9.2": True,
    "0.10.0": True,
    "0.10.1": True,
    "0.10.2": True,
    "0.11.0": True,
    "0.11.1": True,
    "0.11.2": True,
    "0.12.0": False,
    "0.12.0.1": False,
}
"""Whether XLA makes x * (a * b) of (x * a) * b where a and b are constants, by release of jaxlib.

These are the releases with which tests/engine/test_erf_inv.py, tests/engine/test_steps.py and
tests/base/test_philox.py have passed.
"""


def is_examined() -> bool:
    """Whether the installed release is one of which it is known how XLA computes."""
    return merges_factors() is not None


def merges_factors() -> bool | None:
    """Whether XLA merges constant factors; None if the installed release was not examined."""
    return MERGES_FACTORS.get(_installed())


_installed = functools.cache(lambda: version("jaxlib"))
