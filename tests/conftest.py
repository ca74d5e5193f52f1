"""Eight host devices, and strict promotion of ranks and dtypes, for every test."""

import collections
import os

import chex
import hypothesis
import jax
import pytest

chex.set_n_cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run, and no deadline: a first example pays for compiling.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of the cases of a test marked `sampled(n)`, all but each n-th are slow, or as `rest` says."""
    seen = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker:
            name = item.nodeid.split("[")[0]
            if seen[name] % marker.args[0]:
                item.add_marker(marker.kwargs.get("rest", "slow"))
            seen[name] += 1


@pytest.fixture(autouse=True, scope="module")
def _strict_promotion():
    """In tests; not in doctests, which run as a user would run them."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def standard_promotion():
    """For code of others (optax, a user's model) that lets JAX promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
