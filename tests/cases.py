"""The table of every initializer: one row each, fed to the contract suite.

A row says how to build the initializer and what is true of its values; `test_contract.py` checks
it, and everything that is true of all. `REJECTED` lists calls that must fail when built.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec
from scipy import stats

import flax_inits as fi

INF = float("inf")
FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64")


def label(value):
    """An id for `pytest.mark.parametrize`: no addresses, which differ between test processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


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


def standard_truncated(lower: float, upper: float) -> tuple[float, float]:
    """Mean and variance of N(0, 1) within [lower, upper], by SciPy."""
    density = lambda z: stats.norm.pdf(z)  # noqa: E731
    mass = stats.norm.cdf(upper) - stats.norm.cdf(lower)
    mean = (density(lower) - density(upper)) / mass
    ends = (z * density(z) if np.isfinite(z) else 0.0 for z in (lower, upper))
    low, high = ends
    return mean, 1 + (low - high) / mass - mean**2


TRUNCATED = standard_truncated(-2, 2)[1]
HALF = standard_truncated(0, INF)
ROWS = np.arange(12.0)
MASK = np.arange(12) % 3 > 0
# Of 1/4 each U(5, 10) and U(-10, -5): the mean square is (10^3 - 5^3) / 15.
DEFAULT_MIXTURE = 0.5 * 875 / 15


def user_init(key, shape, dtype):
    """A user's own initializer, of Flax's convention."""
    return jax.random.normal(key, shape, dtype)


# Each family has its rows; a new initializer is one more.
CONSTANTS = (
    Case(lambda: fi.constant(0.3), mean=0.3, variance=0, fixed=True, not_dtypes=("int32", "bool")),
    Case(
        lambda: fi.constant(ROWS),
        mean=ROWS,
        variance=0,
        shapes=((12,), (0, 12), (2, 3, 12)),
        symbolic="a, 12",
        fixed=True,
        not_dtypes=("bool",),
    ),
    Case(lambda: fi.zeros(), mean=0, variance=0, fixed=True, not_dtypes=()),
    Case(
        lambda: fi.ones(),
        mean=1,
        variance=0,
        fixed=True,
        dtypes=(*FLOATS, "int32", "uint8", "bool", "complex64"),
        not_dtypes=(),
    ),
    Case(
        lambda: fi.from_array(np.eye(4, 6, dtype=np.float32)),
        mean=np.eye(4, 6),
        variance=0,
        shape=(4, 6),
        shapes=((4, 6),),
        symbolic=None,
        fixed=True,
        not_dtypes=(),
    ),
)

PLAIN = (
    Case(lambda: fi.uniform(-0.05, 0.05), -0.05, 0.05, 0.0, 0.1**2 / 12),
    Case(lambda: fi.uniform(9.0, 10), 9, 10, 9.5, 1 / 12),
    Case(lambda: fi.normal(0.02), mean=0, variance=0.02**2, not_dtypes=("int32", "bool")),
    Case(lambda: fi.normal(0.5, 2.0), mean=2, variance=0.25, not_dtypes=("int32", "bool")),
    Case(
        lambda: fi.normal(0.0),
        mean=0,
        variance=0,
        fixed=True,
        not_dtypes=("int32", "bool"),
    ),
    Case(lambda: fi.truncated_normal(0.5), -1, 1, 0, 0.25 * TRUNCATED),
    Case(lambda: fi.truncated_normal(0.5, 1.0, -3.0, 3.0), -0.5, 2.5, 1, 0.24333),
    Case(lambda: fi.truncated_normal(0.5, correct_std=True), -1.1369, 1.1369, 0, 0.25),
    Case(
        lambda: fi.truncated_normal(0.02, lower=0.0, upper=INF),
        0,
        INF,
        0.02 * HALF[0],
        0.02**2 * HALF[1],
    ),
    Case(
        lambda: fi.truncated_normal(1.0, lower=5.25, upper=10.0, bounds="absolute"),
        5.25,
        10,
        5.428655388386111,
        0.17361296948556018**2,
    ),
    Case(
        lambda: fi.truncated_normal(0.2, 0.3, -0.3, 0.7, bounds="absolute", correct_std=True),
        -0.3,
        0.7,
        None,
    ),
    Case(lambda: fi.from_sampler(jax.random.laplace), mean=0, variance=2, not_dtypes=("bool",)),
    Case(
        lambda: fi.from_sampler(jax.random.lognormal, sigma=0.5),
        0,
        INF,
        np.exp(0.125),
        np.exp(0.25) * (np.exp(0.25) - 1),
        not_dtypes=("bool",),
    ),
    Case(lambda: fi.from_sampler(jax.random.rademacher), -1, 1, 0, 1, not_dtypes=()),
    Case(lambda: fi.from_sampler(jax.random.bernoulli, p=0.25), 0, 1, 0.25, 0.1875, not_dtypes=()),
)

MIXTURES = (
    Case(lambda: fi.mixture(), -10, 10, 0, DEFAULT_MIXTURE),
    Case(
        lambda: fi.mixture([fi.uniform(-10, -5), 0, fi.uniform(5, 10)], [0.25, 0.5, 0.25]),
        -10,
        10,
        0,
        DEFAULT_MIXTURE,
    ),
    Case(lambda: fi.mixture((-1, 0.0, 1)), -1, 1, 0, 2 / 3),
    Case(
        lambda: fi.mixture([fi.normal(2.0), 1], weights=(0.1, 0.9)),
        mean=0.9,
        variance=0.1 * 4 + 0.09,
        not_dtypes=("int32", "bool"),
    ),
    Case(
        lambda: fi.mixture([jax.nn.initializers.zeros, fi.truncated_normal(0.5)]),
        -1,
        1,
        0,
        0.125 * TRUNCATED,
        not_dtypes=("int32", "bool"),
    ),
)

SLICES = (
    Case(
        lambda: fi.stacked(fi.uniform(-1.0, 1)),
        -1,
        1,
        0,
        1 / 3,
        shapes=((5,), (0, 3), (3, 0), (2, 3, 5)),
    ),
    Case(
        lambda: fi.stacked(fi.normal(1.0), axes=(0, -1)),
        mean=0,
        variance=1,
        shape=(4, 6, 2),
        shapes=((2, 3), (0, 3), (2, 0, 3)),
        symbolic="a, b, c",
        not_dtypes=("int32", "bool"),
    ),
    Case(
        lambda: fi.replicated(fi.normal(0.5)),
        mean=0,
        variance=0.25,
        shapes=((5,), (0, 3), (3, 0), (2, 3, 5)),
        not_dtypes=("int32", "bool"),
    ),
    Case(
        lambda: fi.blocks([fi.normal(0.5), fi.constant(2)], axis=-1),
        mean=np.repeat([0.0, 2.0], 6),
        variance=np.repeat([0.25, 0.0], 6),
        shapes=((2,), (0, 4), (3, 0), (2, 3, 6)),
        symbolic="a, 2*b",
        not_dtypes=("int32", "bool"),
    ),
    Case(
        lambda: fi.blocks([fi.zeros(), fi.uniform(1, 2)], axis=0, sizes=[3, 5]),
        0,
        2,
        mean=np.repeat([0.0, 1.5], [3, 5])[:, None],
        variance=np.repeat([0.0, 1 / 12], [3, 5])[:, None],
        shapes=((8,), (8, 0), (8, 2, 3)),
        symbolic="8, b",
    ),
)

COMBINED = (
    Case(lambda: fi.scaled(fi.uniform(-1, 1), -0.5), -0.5, 0.5, 0, 1 / 12),
    Case(
        lambda: fi.scaled(user_init, 3),
        mean=0,
        variance=9,
        not_dtypes=("int32", "bool"),
    ),
    Case(lambda: fi.clipped(fi.normal(1.0), -0.3, 0.3), -0.3, 0.3, 0),
    Case(
        lambda: fi.masked(fi.uniform(2, 3), MASK),
        0,
        3,
        mean=2.5 * MASK,
        variance=MASK / 12,
        shapes=((12,), (0, 12), (2, 3, 12)),
        symbolic="a, 12",
    ),
)

CASES = (*CONSTANTS, *PLAIN, *MIXTURES, *SLICES, *COMBINED)

# (the call, the exception, a regular expression found in its text)
REJECTED: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (
        lambda: fi.constant("a"),
        TypeError,
        "constant needs a number or an array of numbers, got 'a'",
    ),
    (lambda: fi.constant([[1.0], [2.0, 3.0]]), ValueError, "constant needs rows of equal length"),
    (lambda: fi.constant(10**400), ValueError, "constant needs numbers within float64, got 1000"),
    (lambda: fi.from_array(None), TypeError, "from_array needs a number or an array of numbers"),
    (lambda: fi.uniform(1.0, 0.0), ValueError, "minval < maxval, got minval=1.0, maxval=0.0"),
    (lambda: fi.uniform(1.0, 1.0), ValueError, "minval < maxval"),
    (lambda: fi.uniform(0.0, np.nan), ValueError, "finite maxval, got maxval=nan"),
    (lambda: fi.uniform("0", 1.0), TypeError, "a number for minval, got '0'"),
    (lambda: fi.uniform(0, 1, dtype="flaot32"), TypeError, "flaot32"),
    (lambda: fi.normal(-1.0), ValueError, "normal needs stddev >= 0, got stddev=-1.0"),
    (lambda: fi.normal(np.nan), ValueError, "normal needs a finite stddev, got stddev=nan"),
    (lambda: fi.normal(1.0, mean=INF), ValueError, "normal needs a finite mean, got mean=inf"),
    (lambda: fi.truncated_normal(-1.0), ValueError, "truncated_normal needs stddev >= 0"),
    (
        lambda: fi.truncated_normal(1.0, lower=2.0, upper=-2.0),
        ValueError,
        "truncated_normal needs lower < upper, got lower=2.0, upper=-2.0",
    ),
    (lambda: fi.truncated_normal(1.0, lower=np.nan), ValueError, "finite lower, got lower=nan"),
    (
        lambda: fi.truncated_normal(1.0, bounds="sigmas"),
        ValueError,
        "bounds to be 'sigma' or 'absolute', got bounds='sigmas'. Did you mean 'sigma'",
    ),
    (
        lambda: fi.truncated_normal(0.001, 0.0, 2.0, 3.0, bounds="absolute"),
        ValueError,
        "begins within 1000 standard deviations of the mean, .* 2000 away",
    ),
    (
        lambda: fi.truncated_normal(0.3, 0, -0.5, 0.5, bounds="absolute", correct_std=True),
        ValueError,
        r"cannot have stddev=0.3 within \[-0.5, 0.5\]: .* below that of a uniform, 0.288675",
    ),
    (
        lambda: fi.truncated_normal(0, 0, 1, 2, bounds="absolute"),
        ValueError,
        r"stddev=0 needs bounds around 0, got lower=1, upper=2",
    ),
    (
        lambda: fi.normal(0.0, 0.02),  # torch's order
        ValueError,
        r"^normal needs stddev > 0 with a mean, got stddev=0.0, mean=0.02; stddev comes first, and "
        r"constant\(0.02\) is a constant\.$",
    ),
    (lambda: fi.truncated_normal(0.0, 0.02), ValueError, "^truncated_normal needs stddev > 0 with"),
    (lambda: fi.from_sampler(3), TypeError, "from_sampler needs a sampler .* got 3"),
    (
        lambda: fi.from_sampler(jax.random.gamma),
        TypeError,
        r"cannot call gamma\(key, shape=...\): missing a required argument: 'a'",
    ),
    (
        lambda: fi.from_sampler(jax.random.truncated_normal, lowr=1.0, upper=2.0),
        TypeError,
        "truncated_normal has no parameter 'lowr'. Did you mean 'lower'",
    ),
    (
        lambda: fi.from_sampler(jax.random.laplace, shape=(3,)),
        TypeError,
        "from_sampler gives laplace its shape: leave it out",
    ),
    (lambda: fi.mixture([]), ValueError, "at least one component, got an empty list"),
    (lambda: fi.mixture(weights=[1.0]), ValueError, "needs components for its weights"),
    (lambda: fi.mixture(fi.zeros()), TypeError, r"a list of initializers .* got zeros\(\)"),
    (
        lambda: fi.mixture([0, "1"]),
        TypeError,
        r"an initializer or a number as components\[1\], got '1'",
    ),
    (
        lambda: fi.mixture([0, fi.zeros]),
        TypeError,
        r"an initializer for components\[1\], got the factory zeros; call it first: zeros\(...\)",
    ),
    (lambda: fi.mixture([0, INF]), ValueError, r"finite components\[1\], got components\[1\]=inf"),
    (
        lambda: fi.mixture([0, 1], [0.5, 0.4]),
        ValueError,
        r"weights that sum to 1, got \(0.5, 0.4\), which sum to 0.9",
    ),
    (
        lambda: fi.mixture([0, 1], [1.5, -0.5]),
        ValueError,
        r"positive weights, got weights\[1\]=-0.5",
    ),
    (lambda: fi.mixture([0, 1], [1.0, 0.0]), ValueError, r"positive .* weights\[1\]=0.0"),
    (lambda: fi.mixture([0, 1], [0.5, np.nan]), ValueError, r"a finite weights\[1\], got .*nan"),
    (lambda: fi.mixture([0, 1], [1.0]), ValueError, r"one weight per component, 2, got \(1.0,\)"),
    (lambda: fi.stacked(3), TypeError, "stacked needs an initializer for init, .* got 3"),
    (lambda: fi.stacked(lambda key: key), TypeError, r"callable as \(key, shape, dtype\)"),
    (
        lambda: fi.stacked(fi.zeros(), axes=0.5),
        TypeError,
        "stacked needs axes to be an integer or a .* got 0.5",
    ),
    (lambda: fi.stacked(fi.zeros(), axes=(0, 0)), ValueError, "distinct axes"),
    (lambda: fi.replicated("zeros"), TypeError, "replicated needs an initializer for init"),
    (lambda: fi.scaled(fi.zeros(), "2"), TypeError, "scaled needs a number for factor, got '2'"),
    (lambda: fi.scaled(fi.zeros(), np.ones(2)), TypeError, "a number for factor, got array"),
    (lambda: fi.scaled(fi.zeros(), INF), ValueError, "scaled needs a finite factor"),
    (lambda: fi.scaled(fi.uniform, 2), TypeError, "got the factory uniform; call it first"),
    (lambda: fi.clipped(fi.zeros(), 1, -1), ValueError, "clipped needs lower < upper, got lower=1"),
    (lambda: fi.clipped(fi.zeros(), np.nan, 1), ValueError, "finite lower, got lower=nan"),
    (lambda: fi.blocks([], axis=0), ValueError, "a list of one initializer or more"),
    (lambda: fi.blocks(fi.zeros(), axis=0), ValueError, "a list of one initializer or more"),
    (lambda: fi.blocks([fi.zeros(), 1], axis=0), TypeError, r"an initializer for inits\[1\]"),
    (lambda: fi.blocks([fi.zeros()], axis="0"), TypeError, "blocks needs axis to be an integer .*"),
    (
        lambda: fi.blocks([fi.zeros()], axis=0, sizes=[1, 2]),
        ValueError,
        r"one size per initializer, 1, got \(1, 2\)",
    ),
    (lambda: fi.blocks([fi.zeros()], 0, [-1]), ValueError, r"sizes\[0\] >= 0, got sizes\[0\]=-1"),
    (lambda: fi.masked(fi.zeros(), [0.5]), TypeError, "masked needs a mask of bools, got one of"),
)


def partition(shape) -> PartitionSpec:
    """Splits the first even size over x and the first other multiple of four over y."""
    names = [None] * len(shape)
    for name, parts in (("y", 4), ("x", 2)):
        for axis, size in reversed(list(enumerate(shape))):
            if names[axis] is None and size and size % parts == 0:
                names[axis] = name
                break
    return PartitionSpec(*names)
