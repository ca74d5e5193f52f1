"""Recurrent cells: biases of the gates, and the spectra of linear recurrences."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from ..._base import bits, checks
from ..._base.types import Array, DType, Key
from .._build.configured import Draw, initializer


@initializer
def lstm_forget_bias(
    value: float = 1.0, gate: int = 1, num_gates: int = 4, dtype: DType = None
) -> Draw:
    """`value` for one gate of a fused bias, zero for the others: an LSTM that remembers at first.

    Flax's fused order is i, f, g, o, so the forget gate is 1. (`LSTMCell(bias_init=ones)` would set
    all four; its params are one leaf a gate, where the rule `"**/hf/bias": constant(1.)` is right.)

    Args:
        value: the bias of the gate.
        gate: the index of the gate in the last axis.
        num_gates: how many gates the last axis holds.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*batch, num_gates · hidden); it uses no key.

    Raises:
        ValueError: for a non-finite value, or a gate that is not below `num_gates`; when called,
            where `num_gates` does not divide the last axis.

    >>> import flax_inits, jax
    >>> flax_inits.lstm_forget_bias()(jax.random.key(0), (8,))
    Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)

    Reference:
        Jozefowicz et al. 2015, An Empirical Exploration of Recurrent Network Architectures,
        https://proceedings.mlr.press/v37/jozefowicz15.html
    """
    bias = checks.number("lstm_forget_bias", "value", value)
    gates = checks.count("lstm_forget_bias", "num_gates", num_gates)
    chosen = checks.count("lstm_forget_bias", "gate", gate, least=0)
    if chosen >= gates:
        raise ValueError(
            f"lstm_forget_bias needs gate < num_gates, got gate={gate!r}, num_gates={num_gates!r}."
        )

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        hidden = _hidden("lstm_forget_bias", shape, "num_gates", gates)
        parts = [jnp.full(hidden, bias if i == chosen else 0, dtype) for i in range(gates)]
        return jnp.concatenate(parts, axis=-1)

    return Draw(sample)


@initializer
def chrono(t_max: float, dtype: DType = None) -> Draw:
    """Biases of a fused LSTM for memories of up to `t_max` steps.

    b_f = `log U(1, t_max - 1)`, b_i = -b_f, b_g = b_o = 0, in the order i, f, g, o. The time that
    a cell remembers, `1 / (1 - σ(b_f))`, is then uniform between 2 and `t_max` steps.

    The params of Flax's own cells are one leaf a gate, of which this would make four gates each;
    `chrono_gates` sets those.

    Args:
        t_max: the longest dependency, in steps; above 2.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for shapes (*batch, 4 · hidden).

    Raises:
        ValueError: unless t_max > 2; when called, where 4 does not divide the last axis.

    >>> import flax_inits, jax
    >>> bias_i, bias_f, _, _ = flax_inits.chrono(784)(jax.random.key(0), (512,)).reshape(4, 128)
    >>> bool((bias_i == -bias_f).all()), float(bias_f.max()) < 6.7
    (True, True)

    Reference:
        Tallec & Ollivier 2018, Can recurrent neural networks warp time?,
        https://arxiv.org/abs/1804.11188
    """
    longest = checks.number("chrono", "t_max", t_max)
    if longest <= 2:
        raise ValueError(f"chrono needs t_max > 2, got t_max={t_max!r}.")
    reach = math.log(longest - 1)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        hidden = _hidden("chrono", shape, "the number of gates", 4)
        forget = jnp.log(bits.uniform(key, hidden, dtype, 1.0, longest - 1))
        zeros = jnp.zeros(hidden, dtype)
        return jnp.concatenate([-forget, forget, zeros, zeros], axis=-1)

    return Draw(sample, -reach, reach)


def _hidden(factory: str, shape: tuple, what: str, gates: int) -> tuple:
    checks.rank(factory, shape, 1, "(gates * hidden,)")
    checks.divides(factory, what, gates, shape, -1)
    return (*shape[:-1], shape[-1] // gates)
