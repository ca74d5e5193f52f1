"""Eight host devices and strict promotion for every test."""

import chex
import jax

chex.set_n_cpu_devices(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
