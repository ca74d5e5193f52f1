"""Eight host devices and strict promotion for every test."""

import os

import chex
import hypothesis
import jax

chex.set_n_cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")

# The same examples in every run, and no deadline: a first example pays for compiling.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")
