"""Scalars that the host computes are those that XLA computes, to the last bit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_inits._engine import scalars

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "bfloat16", "float16", "float32")
WIDE = ("int64", "uint64", "float64")
ODD = [0, 1, 2**31 - 1, -(2**31), (1 << 30) + (1 << 22) + 1, (1 << 24) + 1, (1 << 53) + 1]


def samples(name):
    """Every value of a type of up to 16 bits; of wider ones random bits, and what is odd."""
    dtype = jnp.dtype(name)
    if dtype.itemsize <= 2:
        return np.arange(1 << (8 * dtype.itemsize)).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    rng = np.random.default_rng(0)
    drawn = np.frombuffer(rng.bytes(3000 * dtype.itemsize), dtype)
    odd = [
        value
        for value in ODD
        if dtype.kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    ]
    ranges = np.exp(rng.uniform(-20, 20, 3000)) * rng.choice([-1, 1], 3000)
    if dtype.kind == "u":
        ranges = abs(ranges)
    ranges = np.clip(ranges, -(2**31), 2**31 - 1) if dtype.itemsize == 4 else ranges
    return np.concatenate([drawn, np.array(odd, dtype), ranges.astype(dtype)])


def assert_casts_as_xla(source, target):
    values, target = samples(source), jnp.dtype(target)
    wanted = np.asarray(jax.jit(lambda x: x.astype(target))(values))
    assert wanted.dtype == target
    kept = 0
    for value, expected in zip(values, wanted, strict=True):
        with np.errstate(all="ignore"):
            made = scalars.cast(value, target)
        if made is not None:
            kept += 1
            assert made.tobytes() == expected.tobytes(), (value, made, expected)
    assert kept or "8" in str(target)


@pytest.mark.sampled(30, rest="thorough")
@pytest.mark.parametrize("pair", list(itertools.permutations(DTYPES, 2)), ids="-".join)
def test_casts_are_those_of_xla(pair):
    assert_casts_as_xla(*pair)


@pytest.mark.thorough
@pytest.mark.parametrize("wide", WIDE)
def test_wide_casts_are_those_of_xla(wide):
    with jax.enable_x64(True):
        for other in (*DTYPES, *WIDE):
            if other != wide:
                assert_casts_as_xla(wide, other)
                assert_casts_as_xla(other, wide)
