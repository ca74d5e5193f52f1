"""Leaves that differ in scale or range come from one program, with the bits of jit."""

import jax
import jax.numpy as jnp
import pytest
from as_jit import assert_as_jit
from jax import random as jr

import flax_inits
from flax_inits._engine import releases
from flax_inits._engine.programs import Compiled

KEY = jax.random.key(5)
SHAPE = (300, 1 << 10)
SCALES = (0.9, 0.02, 1 / 3, 0.7071, 2.0**-7, 1e-6, 3e4, 0.1, 1.4142135)


def fan_in(distribution):
    return lambda k, s: jax.nn.initializers.variance_scaling(s, "fan_in", distribution)(k, SHAPE)


ONE_PROGRAM = {
    "normal": lambda k, s: jr.normal(k, SHAPE) * s,
    "flax_normal": lambda k, s: jax.nn.initializers.normal(s)(k, SHAPE),
    "fan_in_normal": fan_in("normal"),
    "fan_in_uniform": fan_in("uniform"),
    "fan_in_truncated": fan_in("truncated_normal"),
    "mean_and_scale": lambda k, s: jr.normal(k, SHAPE) * s + 0.3 * s,
    "mean_first": lambda k, s: 0.5 + jr.normal(k, SHAPE) * s,
    "range": lambda k, s: jr.uniform(k, SHAPE, minval=-s, maxval=s),
    "range_above_zero": lambda k, s: jr.uniform(k, SHAPE, minval=0.3 * s, maxval=s),
    "range_from_zero": lambda k, s: jr.uniform(k, SHAPE, maxval=s),
    "range_scaled": lambda k, s: jr.uniform(k, SHAPE, minval=-s, maxval=1.0) * 0.7,
    "range_scaled_and_moved": lambda k, s: jr.uniform(k, SHAPE, minval=-s, maxval=3.0) * s + 0.1,
    "clipped": lambda k, s: jnp.clip(jr.normal(k, SHAPE) * s, -2 * s, 1.5 * s),
    "truncated_and_moved": lambda k, s: jr.truncated_normal(k, -2, 2, SHAPE) * s + s,
    "torch_linear": lambda k, s: flax_inits.torch_linear()(k, (int(9 / s) % 300 + 3, 1 << 10)),
}
"""Draws whose scale or range is the argument `s`."""


def leaves(draw, scales=SCALES):
    return lambda key: [draw(jr.fold_in(key, i), s) for i, s in enumerate(scales)]


def programs(fun):
    return flax_inits.jit_init(fun).plan(KEY).programs


@pytest.mark.parametrize("draw", ONE_PROGRAM.values(), ids=ONE_PROGRAM)
def test_one_program_makes_all_scales(draw):
    assert_as_jit(leaves(draw), KEY)
    if releases.merges_factors() is not None:
        assert programs(leaves(draw)) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("draw", ONE_PROGRAM.values(), ids=ONE_PROGRAM)
def test_a_scale_of_one_is_what_jit_makes(draw):
    assert_as_jit(leaves(draw, [1.0, 1, -1.0, 2.0, -2.0]), KEY)


@pytest.mark.parametrize(
    "bounds",
    [(-0.3, 0.7), (-1.0, 0.0), (0.0, 1.0), (1.0, 2.0), (0.0, 0.3), (-0.5, 0.5), (2.0, 2.0)],
)
def test_ranges_that_leave_out_a_step_are_what_jit_makes(bounds):
    low, high = bounds
    assert_as_jit(lambda key: jr.uniform(key, SHAPE, minval=low, maxval=high), KEY)


SEVERAL = {
    "three_factors": lambda k, s: jr.normal(k, SHAPE) * s * 0.3,
    "scaled_sum": lambda k, s: (jr.normal(k, SHAPE) * s + 1) * s,
    "two_sums": lambda k, s: (jr.normal(k, SHAPE) + s) + 0.1,
    "divided": lambda k, s: jr.normal(k, SHAPE) / s,
    "negated": lambda k, s: -jr.normal(k, SHAPE) * s,
    "sum_of_range": lambda k, s: (jr.uniform(k, SHAPE) - 0.5) * s,
    "bfloat16": lambda k, s: jr.normal(k, SHAPE, jnp.bfloat16) * jnp.bfloat16(s),
    "cast": lambda k, s: (jr.normal(k, SHAPE) * s).astype(jnp.float16),
}
"""Where XLA merges constants in ways of its own, or rounds otherwise, each scale is compiled."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("draw", SEVERAL.values(), ids=SEVERAL)
def test_other_scales_are_what_jit_makes(draw):
    assert_as_jit(leaves(draw), KEY)


COMPLEX = {
    "normal": lambda k: jr.normal(k, SHAPE, jnp.complex64),
    "scaled": lambda k: jax.nn.initializers.normal(0.01)(k, SHAPE, jnp.complex64),
    "turned": lambda k: -jr.normal(k, SHAPE, jnp.complex64) * 0.3j,
    "of_parts": lambda k: (
        jr.normal(k, SHAPE).astype("complex64")
        - (jr.uniform(jr.fold_in(k, 1), SHAPE).astype("complex64") * 2j)
    ),
}
MEETING = {
    "moved": lambda k: jr.normal(k, SHAPE, jnp.complex64) * 0.3 + 1,
    "mixed": lambda k: jr.normal(k, SHAPE, jnp.complex64) * (0.3 + 0.4j),
    "inverted": lambda k: 1 / jr.normal(k, SHAPE, jnp.complex64),
    "sum": lambda k: (
        jr.normal(k, SHAPE, jnp.complex64) * 0.1
        + 0.3 * jr.normal(jr.fold_in(k, 1), SHAPE, jnp.complex64)
    ),
    "real": lambda k: jr.normal(k, SHAPE, jnp.complex64).real * 0.1,
}


@pytest.mark.parametrize("draw", COMPLEX.values(), ids=COMPLEX)
def test_complex_leaves_of_all_shapes_are_made_by_one_program(draw):
    def both(key):
        return [draw(key), draw(jr.fold_in(key, 1)).reshape(-1)]

    assert programs(both) == 1
    assert_as_jit(both, KEY)


@pytest.mark.parametrize("draw", MEETING.values(), ids=MEETING)
def test_two_draws_that_meet_are_compiled_as_written(draw):
    (job,) = flax_inits.jit_init(draw)._planned((KEY,), {})[1].jobs
    assert isinstance(job.recipe, Compiled) and not job.recipe.fused
    assert_as_jit(draw, KEY)


EXTREME = (0.0, -0.0, 1e-39, 1e-45, 3.4e38, float("inf"), float("nan"), -1.0, -2.5, 1e-30)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "draw", [ONE_PROGRAM[n] for n in ("normal", "range", "range_scaled", "mean_and_scale")]
)
def test_extreme_scales_are_what_jit_makes(draw):
    assert_as_jit(leaves(draw, EXTREME), KEY)


@pytest.mark.parametrize("draw", [ONE_PROGRAM["normal"], ONE_PROGRAM["range"]])
def test_double_precision(draw):
    with jax.enable_x64(True):
        assert_as_jit(leaves(lambda k, s: draw(k, jnp.float64(s))), jax.random.key(5))


def test_nothing_is_assumed_of_a_release_that_was_not_examined(monkeypatch):
    monkeypatch.setattr(releases, "MERGES_FACTORS", {})
    assert programs(leaves(ONE_PROGRAM["normal"])) == len(SCALES)
    assert programs(leaves(ONE_PROGRAM["range"])) == len(SCALES)
    assert programs(leaves(ONE_PROGRAM["fan_in_uniform"])) == 1
    assert_as_jit(leaves(ONE_PROGRAM["fan_in_normal"], SCALES[:2]), KEY)
    # Whether it drops a sum with zero is not known either: a step of its own, so no factor is last.
    assert programs(leaves(lambda k, s: jr.uniform(k, SHAPE, minval=-1.0) * s + 0.0)) == len(SCALES)
