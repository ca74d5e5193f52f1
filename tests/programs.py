"""Random init functions, generated from JAX's primitives: what a model might do to make a leaf."""

import random
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax import random as jr

SIZES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 64, 130)
FACTORS = (2.0, 0.02, -1.0, 1 / 3, 1e-3, 5.0, 1.0, 0.7)


class Program:
    """A function (key, x) -> leaf, whose steps a seed decides; calling it again repeats them."""

    def __init__(self, seed: int):
        self.seed = seed

    def __repr__(self) -> str:
        return f"Program({self.seed})"

    def __call__(self, key: Any, x: Any) -> Any:
        """Makes one leaf, or several that share what they are made of."""
        dice = random.Random(self.seed)
        key = _key(dice, key)
        value = dice.choice(_SOURCES)(dice, key, x)
        for _ in range(dice.randrange(4)):
            value = dice.choice(_STEPS)(dice, key, value)
        if dice.random() < 0.1:
            return value, dice.choice(_STEPS)(dice, key, value)
        return value


def _key(dice: random.Random, key: Any) -> Any:
    for _ in range(dice.randrange(3)):
        kind = dice.randrange(4)
        if kind == 0:
            key = jr.fold_in(key, dice.randrange(1 << 32))
        elif kind == 1:
            key = jr.split(key, dice.choice((2, 3, 5)))[dice.randrange(2)]
        elif kind == 2:
            key = jr.split(key, (2, 2))[1, dice.randrange(2)]
        else:
            key = jax.jit(jr.fold_in)(key, dice.randrange(100))
    return key


def _shape(dice: random.Random) -> tuple[int, ...]:
    shape = tuple(dice.choice(SIZES) for _ in range(dice.randrange(4)))
    return shape if np.prod(shape) < 20_000 else shape[:1]


def _draw(dice: random.Random, key: Any, shape: tuple[int, ...]) -> Any:
    dtype = dice.choice((jnp.float32, jnp.float32, jnp.bfloat16, jnp.float16))
    low, high = dice.choice((-3.0, -1.0, -0.3, 0.0)), dice.choice((0.5, 0.7, 1.0, 7.0))
    return dice.choice(
        (
            lambda: jr.normal(key, shape, dtype),
            lambda: jr.uniform(key, shape, dtype, low, high),
            lambda: jr.truncated_normal(key, -2.0, 2.0, shape, dtype),
            lambda: jr.bernoulli(key, 0.3, shape).astype(jnp.float32),
            lambda: jr.randint(key, shape, -5, 100).astype(jnp.float32),
            lambda: jr.rademacher(key, shape, dtype),
            lambda: jr.gumbel(key, shape),
            lambda: jr.laplace(key, shape),
        )
    )()


def _drawn(dice: random.Random, key: Any, x: Any) -> Any:
    return _draw(dice, key, _shape(dice))


def _mapped(dice: random.Random, key: Any, x: Any) -> Any:
    shape, state = _shape(dice)[:2], dice.getrandbits(32)
    draw = lambda key: _draw(random.Random(state), key, shape)  # noqa: E731
    transform = dice.choice((jax.vmap, lambda f: lambda keys: lax.map(f, keys)))
    return transform(draw)(jr.split(key, dice.choice((1, 2, 5))))


def _carried(dice: random.Random, key: Any, x: Any) -> Any:
    shape, factor = _shape(dice)[:2], dice.choice(FACTORS)

    def step(carry, key):
        drawn = jr.normal(key, shape) * factor
        return carry * 0.5 + drawn, drawn

    last, every = lax.scan(step, jnp.zeros(shape), jr.split(key, 3))
    return dice.choice((last, every))


def _looped(dice: random.Random, key: Any, x: Any) -> Any:
    shape = _shape(dice)[:2]
    body = lambda i, total: total + jr.uniform(jr.fold_in(key, i), shape)  # noqa: E731
    return lax.fori_loop(0, dice.choice((1, 4)), body, jnp.zeros(shape))


def _chosen(dice: random.Random, key: Any, x: Any) -> Any:
    shape = _shape(dice)
    draw, other = (lambda key: jr.normal(key, shape)), lambda key: jr.uniform(key, shape)
    if dice.random() < 0.5:
        return lax.cond(x.sum() > dice.choice((-1e9, 1e9)), draw, other, key)
    return lax.switch(dice.randrange(2), [draw, other], key)


def _constant(dice: random.Random, key: Any, x: Any) -> Any:
    array = np.linspace(-1, 1, dice.choice(SIZES), dtype=np.float32)
    return dice.choice((jnp.asarray(array), jnp.zeros(_shape(dice)), jnp.full(_shape(dice), 0.1)))


def _given(dice: random.Random, key: Any, x: Any) -> Any:
    noise = jr.normal(key, x.shape) * dice.choice(FACTORS)
    return dice.choice((x, x * 2, x + noise, x.mean(0, keepdims=True) + noise))


_SOURCES: tuple[Callable[..., Any], ...] = (
    *(_drawn,) * 5,
    *(_mapped,) * 2,
    _carried,
    _looped,
    _chosen,
    *(_constant,) * 2,
    *(_given,) * 3,
)


def _scaled(dice: random.Random, key: Any, value: Any) -> Any:
    factor = dice.choice(FACTORS)
    return dice.choice(
        (
            lambda: value * factor,
            lambda: value / factor,
            lambda: value + factor,
            lambda: factor - value,
            lambda: value * factor + 1,
            lambda: value * jnp.sqrt(2.0 / value.size).astype(value.dtype),
        )
    )()


def _bent(dice: random.Random, key: Any, value: Any) -> Any:
    return dice.choice(
        (
            lambda: jnp.abs(value),
            lambda: jnp.clip(value, -0.5, 0.75),
            lambda: jnp.where(value > 0.1, value, 0),
            lambda: jnp.round(value * 8) / 8,
            lambda: jnp.sign(value) * jnp.sqrt(jnp.abs(value)),
            lambda: jax.nn.relu(value),
            lambda: jnp.maximum(value, -value),
        )
    )()


def _arranged(dice: random.Random, key: Any, value: Any) -> Any:
    return dice.choice(
        (
            lambda: value.reshape(-1),
            lambda: value.T,
            lambda: jnp.expand_dims(value, 0),
            lambda: value[..., ::-1] if value.ndim else value,
            lambda: value[:1] if value.ndim else value,
            lambda: jnp.concatenate([value, value * 2]) if value.ndim else value,
            lambda: jnp.stack([value, jnp.zeros_like(value)]),
            lambda: jnp.broadcast_to(value, (2, *value.shape)),
            lambda: jnp.tril(value) if value.ndim >= 2 else value,
            lambda: jnp.pad(value, 1),
        )
    )()


def _mixed(dice: random.Random, key: Any, value: Any) -> Any:
    other = jr.uniform(jr.fold_in(key, dice.randrange(9)), value.shape, minval=-1.0)
    return dice.choice(
        (
            lambda: jnp.where(other > 0, value, jnp.zeros_like(value)),
            lambda: value * (other > 0),
            lambda: lax.select(other > 0, value, -value),
            lambda: value - value.max() if value.size else value,
        )
    )()


def _called(dice: random.Random, key: Any, value: Any) -> Any:
    factor = jnp.asarray(dice.choice(FACTORS), value.dtype)
    fun = jax.custom_jvp(lambda value: value * factor)
    fun.defjvp(lambda primals, tangents: (fun(*primals), tangents[0] * factor))
    wrap = dice.choice((jax.jit, jax.checkpoint, lambda f: f))
    return wrap(fun)(value)


def _cast(dice: random.Random, key: Any, value: Any) -> Any:
    return value.astype(dice.choice((jnp.float32, jnp.bfloat16, jnp.float16)))


_STEPS: tuple[Callable[..., Any], ...] = (
    *(_scaled,) * 4,
    *(_bent,) * 2,
    *(_arranged,) * 2,
    _mixed,
    _called,
    _cast,
)
