"""Eight host devices, strict promotion, and programs compiled once, for every test."""

import collections
import hashlib
import logging
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Differs where the CPU's features do, for which XLA compiles."""
    try:
        described = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        described = []
    features = [line for line in described if line.startswith(("flags", "Features"))][:1]
    text = f"{platform.machine()} {platform.processor()} {features}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


CACHE = Path(__file__).parents[1] / ".pytest_cache" / f"jaxlib-{version('jaxlib')}-{machine()}"
# Before JAX is imported, and in the environment, so that workers and subprocesses inherit it. Its
# key holds the program, the version and the flags, so what is found has the bits of what would be
# compiled; tests of compilation count an event that JAX records for either.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # jax 0.9 prints pages at each program found
# LLVM's cheaper passes compile in half the time to the same bits, as CI shows with XLA's own level.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

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
    """Deals the cases of a test marked `sampled(n)` out: to each day, to CI, to a release."""
    seen = collections.Counter()
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker:
            name = re.split(r"\[|_\(", item.nodeid)[0]  # pytest writes [case], absl _(case)
            index, (daily,) = seen[name], marker.args
            if index % daily:
                a_sixth = "slow" if index % 6 == 1 else "thorough"
                item.add_marker(marker.kwargs.get("rest", a_sixth))
            seen[name] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives each worker whole files while there are enough: their tests share what is traced."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(autouse=True, scope="module")
def _strict_promotion():
    """Nothing of ours is to promote by chance."""
    with jax.numpy_dtype_promotion("strict"):
        yield


class _Faults(logging.Handler):
    """Collects what the engine logs where an exception made it take the slow way."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.found = []

    def emit(self, record):
        if record.exc_info:  # What `graft` logs to its user is no fault.
            self.found.append(f"{record.getMessage()} {record.exc_info[1]!r}")


@pytest.fixture(autouse=True)
def _no_faults(request):
    """A fault of the engine costs time, never a value, so no other test would see it."""
    log, faults = logging.getLogger("flax_inits._engine"), _Faults()
    log.addHandler(faults)
    log.setLevel(logging.DEBUG)
    yield
    log.removeHandler(faults)
    log.setLevel(logging.NOTSET)
    if faults.found and "faults_expected" not in request.fixturenames:
        pytest.fail("the engine fell back: " + "\n".join(faults.found), pytrace=False)


@pytest.fixture
def faults_expected():
    """For tests that break the engine on purpose."""


@pytest.fixture
def standard_promotion():
    """For code of others (optax, a user's model) that lets JAX promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
