"""The branch of erf_inv that truncated normals take: equal to XLA's at every number of a draw."""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from as_jit import assert_as_jit

import flax_inits
from flax_inits._engine import erf_inv, releases
from flax_inits._engine.evaluate import bind
from flax_inits._engine.graph import Output, order
from flax_inits._engine.trace import trace

JAXLIB = version("jaxlib")
KEY = jax.random.key(0)
SHAPE = (1 << 13, 1 << 10)
"""As many elements as float32 draws there are, 2**23, in rows of the pool's length."""

DRAWS = {
    "plain": lambda k: jax.random.truncated_normal(k, -2.0, 2.0, SHAPE),
    "integers": lambda k: jax.random.truncated_normal(k, -2, 2, SHAPE),
    "flax": lambda k: jax.nn.initializers.truncated_normal(0.02)(k, SHAPE),
    "lecun_normal": lambda k: jax.nn.initializers.lecun_normal()(k, SHAPE),
    "he_normal": lambda k: flax_inits.he_normal()(k, SHAPE, jnp.float32),
}
OTHERS = {
    "normal": lambda k: jax.random.normal(k, SHAPE),
    "wider": lambda k: jax.random.truncated_normal(k, -2.1, 2.1, SHAPE),
    "one_side": lambda k: jax.random.truncated_normal(k, -2.0, 3.0, SHAPE),
    "bfloat16": lambda k: jax.random.truncated_normal(k, -2, 2, SHAPE, jnp.bfloat16),
    "of_a_product": lambda k: jax.lax.erf_inv(jax.random.uniform(k, SHAPE) * 1.5),
}
OPTIONS = {"xla_cpu_prefer_vector_width": 512}


def nodes(draw):
    return order(trace(draw, KEY).outputs)


def computed(draw, written_out, bits):
    """The leaf as a function of its bits, with the branch written out or not."""
    (output,) = trace(draw, KEY).outputs
    (drawn,) = (n for n in order([output]) if n.name == "random_bits")

    def compute(bits):
        env = {Output(drawn, 0): bits}
        for node in order([output], env.__contains__):
            arguments = [env[v] if v in env else v.value for v in node.inputs]
            if written_out and erf_inv.takes_first_branch(node):
                env[Output(node, 0)] = erf_inv.first_branch(*arguments)
            else:
                (env[Output(node, 0)],) = bind(node, arguments)
        return env[output]

    lowered = jax.jit(compute).lower(bits)
    return np.asarray(lowered.compile(compiler_options=OPTIONS)(bits))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_each_number_of_a_draw_is_xlas(draw, monkeypatch):
    # The other nine bits of a word are thrown away.
    bits = jnp.arange(1 << 23, dtype=jnp.uint32).reshape(SHAPE) << 9
    monkeypatch.setattr(releases, "MERGES_FACTORS", {JAXLIB: False})
    ours, xlas = (computed(draw, written_out, bits) for written_out in (True, False))
    assert np.array_equal(ours.view(np.uint32), xlas.view(np.uint32))


def test_releases_on_both_ends_are_proved():
    if JAXLIB not in releases.MERGES_FACTORS:
        pytest.skip(f"if all else here passes, add jaxlib {JAXLIB} to MERGES_FACTORS")


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_branch_is_written_out_where_it_is_proved(draw, monkeypatch):
    for proved in ({JAXLIB: False}, {}):
        monkeypatch.setattr(releases, "MERGES_FACTORS", proved)
        assert any(map(erf_inv.takes_first_branch, nodes(draw))) == bool(proved)


@pytest.mark.parametrize("draw", OTHERS.values(), ids=OTHERS)
def test_other_arguments_are_left_to_xla(draw, monkeypatch):
    monkeypatch.setattr(releases, "MERGES_FACTORS", {JAXLIB: False})
    assert any(node.name == "erf_inv" for node in nodes(draw))
    assert not any(map(erf_inv.takes_first_branch, nodes(draw)))


def test_rows_have_the_bits_of_jit():
    assert_as_jit(lambda k: jax.random.truncated_normal(k, -2, 2, (300, 700)) * 0.3, KEY)
