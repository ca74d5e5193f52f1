"""The table of every initializer: one row each, fed to the contract suite.

A row says how to build the initializer and what is true of its values; `test_contract.py` checks
it, and everything that is true of all. `REJECTED` lists calls that must fail when built.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import flax_inits as fi

INF = float("inf")
FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64")


@dataclasses.dataclass(frozen=True)
class Case:
    """One initializer and what its values must be."""

    make: Callable[[], Any]
    """Builds it; called anew where equality is tested."""

    lower: float = -INF
    """No value is below."""

    upper: float = INF
    """No value is above; float32 bounds are this number rounded to float32."""

    mean: Any = 0.0
    """Of each value: a number, an array of `shape`, or a function of the shape; None: not known."""

    variance: Any = None
    """As `mean`."""

    shape: tuple[int, ...] = (8, 12)
    """Where most checks draw; sizes divisible by 2 or 4 are split over devices."""

    shapes: tuple[tuple[int, ...], ...] = ((), (0, 3), (7,), (2, 3, 5, 7))
    """Other shapes that it takes."""

    dtypes: tuple[str, ...] = FLOATS
    """Dtypes that it makes; float64 is checked under x64."""

    not_dtypes: tuple[str, ...] = ("int32", "bool", "complex64")
    """Dtypes that it rejects with a TypeError or ValueError."""

    symbolic: str | None = "a, b"
    """Symbolic form of `shape` for `jax.export`; None if a size must be known."""

    fixed: bool = False
    """Whether the values do not depend on the key."""

    slack: float = 2.0
    """How many units in the last place 16- and 8-bit values may be from the float32 ones."""

    @property
    def id(self) -> str:
        """The row's name in test reports: the initializer as it prints."""
        return repr(self.make())[:80]

    def moment(self, name: str, shape: tuple[int, ...]) -> Any:
        """`mean` or `variance` for `shape`, or None."""
        value = getattr(self, name)
        return value(shape) if callable(value) else value


# Each family adds its rows here.
BASIC = (
    Case(lambda: fi.uniform(-0.05, 0.05), -0.05, 0.05, 0.0, 0.1**2 / 12),
    Case(lambda: fi.uniform(9.0, 10), 9, 10, 9.5, 1 / 12),
)

CASES = (*BASIC,)

# (the call, the exception, a regular expression found in its text)
REJECTED: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (lambda: fi.uniform(1.0, 0.0), ValueError, r"minval < maxval, got minval=1.0, maxval=0.0"),
    (lambda: fi.uniform(0.0, np.nan), ValueError, r"finite maxval, got maxval=nan"),
    (lambda: fi.uniform("0", 1.0), TypeError, r"a number for minval, got '0'"),
)
