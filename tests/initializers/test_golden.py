"""No release changes a user's weights unnoticed: values of one key, as they were first released.

`golden.json` holds, for every row of the table, a hash of the bytes where all supported versions of
JAX make the same, and some of the values. What comes from a QR decomposition depends on the CPU
too, by which LAPACK picks its kernels, and is held to its rounding. A new row is added by

    PYTHONPATH=.:tests python tests/initializers/test_golden.py

on the oldest and then on the newest supported versions; what is there already is never changed by
it, only held to less where two versions of XLA round differently.
"""

import hashlib
import json
from pathlib import Path

import cases
import cases_catalogue
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_inits

STORED = Path(__file__).with_name("golden.json")
GOLDEN = json.loads(STORED.read_text()) if STORED.exists() else {}
ULPS = 4


def _of_case(case):
    return lambda: case.make()(jax.random.key(2024), case.shape, jnp.float32)


def _reinitialized():
    params = {"head": {"kernel": jnp.zeros((3, 5))}, "blocks": [jnp.zeros(7), jnp.zeros(7)]}
    made = flax_inits.reinit(jax.random.key(2024), params, {"**": flax_inits.uniform(-1.0, 1.0)})
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(flax.core.freeze(made))])


def _fused_bits(width):
    key = flax_inits.fused_key(jax.random.fold_in(jax.random.key(2024), 7))
    return lambda: jax.random.bits(key, (67,), f"uint{width}")


MADE = {repr(case.make()): _of_case(case) for case in (*cases.CASES, *cases_catalogue.CASES)} | {
    "reinit": _reinitialized,
    "bits of 8": _fused_bits(8),
    "bits of 16": _fused_bits(16),
    "bits of 32": _fused_bits(32),
}


def _sample(values):
    """Up to twelve of the values, spread over all of them."""
    flat = values.ravel().astype(np.float64)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, 12)).astype(int)]


def _is_decomposed(name):
    return "orthogonal" in name


def _sha256(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


@pytest.mark.sampled(5, rest="slow")
@pytest.mark.parametrize("name", MADE, ids=lambda name: name[:80])
def test_values_are_those_first_released(name):
    stored, values = GOLDEN[name], np.asarray(MADE[name]())
    if "sha256" in stored:
        assert _sha256(values) == stored["sha256"]
    expected = np.array(stored["values"])
    size = np.full_like(expected, np.abs(expected).max()) if _is_decomposed(name) else expected
    unit = np.spacing(np.abs(size).astype(np.float32)).astype(np.float64)
    assert np.all(np.abs(_sample(values) - expected) <= ULPS * unit)


EXACT = ("mixture(", "uniform(", "constant(", "zeros(", "ones(", "identity(", "reinit", "bits of")


def test_bits_uniforms_mixtures_and_constants_are_held_to_the_last_bit():
    plain = [name for name in MADE if name.startswith(EXACT) and "normal" not in name]
    assert len(plain) > 12
    assert all("sha256" in GOLDEN[name] for name in plain)


def test_nothing_is_stored_that_is_no_longer_made():
    assert set(GOLDEN) == set(MADE)


def _record():
    for name, make in MADE.items():
        values = np.asarray(make())
        entry = {"sha256": _sha256(values), "values": _sample(values).tolist()}
        stored = GOLDEN.setdefault(name, entry)
        if stored.get("sha256") != entry["sha256"] or _is_decomposed(name):
            stored.pop("sha256", None)
    STORED.write_text(json.dumps(GOLDEN, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    _record()
