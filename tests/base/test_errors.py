"""The parts of messages that all errors share."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flax_inits._base.errors import brief

STATE = optax.adam(0.1).init({"w": jnp.ones((50, 50))})


@pytest.mark.parametrize(
    "value, shown",
    [
        (3, "3"),
        ("a\nb", r"'a\nb'"),
        (np.ones((2, 3)), "float64[2,3]"),
        ({"a": 1}, "a dict with keys 'a'"),
        ((), "()"),
        ((1,), "(1,)"),
        ([np.ones(2), {"b": 1}], "[float64[2], a dict with keys 'b']"),
        (STATE, "(ScaleByAdamState(...), EmptyState())"),
        (nn.Dense(3), "Dense(...)"),
        (nnx.Rngs(0), "Rngs(...)"),
        (nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "Linear(...)"),
        ("x" * 300, "'" + "x" * 199 + "..."),
        ([1] * 300, "[" + "1, " * 66 + "1..."),
    ],
)
def test_values_in_a_sentence_are_one_short_line(value, shown):
    assert brief(value) == shown
