"""Random init functions: jit_init makes what jax.jit makes, to the last bit."""

import jax
import numpy as np
import pytest
from as_jit import assert_same
from programs import Program

import flax_inits

KEY = jax.random.key(3)
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
TOGETHER = 25
"""Programs in one init function: as many leaves as a small model has."""


@pytest.mark.slow
@pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="one end of the supported versions is enough"
)
@pytest.mark.parametrize("first", range(0, 500, TOGETHER))
@pytest.mark.usefixtures("standard_promotion")
def test_any_program_is_made_as_jit_makes_it(first):
    programs = [Program(seed) for seed in range(first, first + TOGETHER)]
    x, keys = jax.numpy.asarray(X), jax.random.split(KEY, TOGETHER)

    def init(keys, x):
        return [program(key, x) for program, key in zip(programs, keys, strict=True)]

    made, expected = flax_inits.jit_init(init)(keys, x), jax.jit(init)(keys, x)
    for program, key, ours, theirs in zip(programs, keys, made, expected, strict=True):
        try:
            assert_same(ours, theirs)
        except AssertionError:
            # XLA rounds some logarithms by what else it compiles: then the program alone counts.
            alone = jax.jit(program)(key, x)
            with pytest.raises(AssertionError):
                assert_same(alone, theirs)
            assert_same(ours, alone)
