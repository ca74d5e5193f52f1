"""Random functions of several leaves: what is shared, closed over, reduced and cast between them.

Where `programs` makes many unlike leaves, these make few that have much in common: one draw in
several shapes, halves of a draw, a draw and its norm, tables that the function closes over, casts
between all dtypes, scans, equal leaves.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax import random as jr

SIDES = (1, 2, 3, 4, 5, 6, 8, 12, 33)
DTYPES = ("float32", "bfloat16", "float16", "int32", "int8", "uint8", "bool", "complex64")
INTEGERS = (0, 1, -1, 3, 127, (1 << 24) + 1, (1 << 30) + (1 << 22) + 1, -(1 << 31))


class Function:
    """A function (key, x) -> dict of leaves, which a seed decides; its tables can be changed."""

    def __init__(self, seed: int):
        self.seed = seed
        dice = random.Random(seed)
        rows, columns = dice.choice(SIDES), dice.choice(SIDES)
        values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
        self.table: Any = values if dice.random() < 0.6 else jnp.asarray(values)

    def __repr__(self) -> str:
        return f"Function({self.seed})"

    def __call__(self, key: Any, x: Any) -> dict[str, Any]:
        """Makes the leaves; calling it again repeats them."""
        dice = random.Random(~self.seed)
        draws = [self._draw(dice, jr.fold_in(key, i), x) for i in range(dice.choice((1, 1, 2)))]
        leaves: dict[str, Any] = {}
        for i in range(dice.choice((2, 3, 4))):
            leaves[f"leaf{i}"] = dice.choice(_LEAVES)(self, dice, dice.choice(draws))
        if dice.random() < 0.3:
            leaves["again"] = leaves["leaf0"]
        if dice.random() < 0.2:
            leaves["draw"] = draws[0]
        return leaves

    def _draw(self, dice: random.Random, key: Any, x: Any) -> Any:
        shape = (dice.choice(SIDES), dice.choice(SIDES))
        return dice.choice(
            (
                lambda: jr.normal(key, shape),
                lambda: jr.uniform(key, shape, minval=-1.0),
                lambda: jr.truncated_normal(key, -2.0, 2.0, shape),
                lambda: jr.normal(key, shape, jnp.bfloat16).astype(jnp.float32),
                lambda: jr.normal(key, shape) + x.mean(),
                lambda: lax.scan(lambda c, k: (c, jr.normal(k, shape)), 0, jr.split(key, 2))[1][1],
            )
        )()


def _plain(self: Function, dice: random.Random, y: Any) -> Any:
    scale = dice.choice((0.02, 1 / 3, 2.0))
    steps: tuple[Callable[[], Any], ...] = (
        lambda: y * scale,
        lambda: y.T + 1,
        lambda: y.T * 2 + 1,
        lambda: y * y + 1,
        lambda: jnp.exp(y),
        lambda: y.reshape(-1) * scale,
        lambda: y[: (len(y) + 1) // 2] * scale,
        lambda: y[len(y) // 2 :] + scale,
        lambda: jnp.stack([y, -y]),
        lambda: jax.jit(lambda y: y * scale - y)(y),
    )
    return dice.choice(steps)()


def _reduced(self: Function, dice: random.Random, y: Any) -> Any:
    flat = y.reshape(-1)
    steps: tuple[Callable[[], Any], ...] = (
        lambda: flat @ flat,
        lambda: flat / jnp.sqrt(flat @ flat + 1),
        lambda: y / jnp.linalg.norm(y, axis=0, keepdims=True).clip(1e-6),
        lambda: y.sum(),
        lambda: y.mean(0),
        lambda: y - y.mean(),
        lambda: y.max(1) * 2,
        lambda: y @ y.T,
        lambda: (y * y).sum(1) * 0.5,
        lambda: jnp.cumsum(flat),
    )
    return dice.choice(steps)()


def _with_table(self: Function, dice: random.Random, y: Any) -> Any:
    table = self.table
    i, j = dice.randrange(table.shape[0]), dice.randrange(table.shape[1])
    steps: tuple[Callable[[], Any], ...] = (
        lambda: y * table[i, j],
        lambda: y * jnp.asarray(table)[i, j],
        lambda: y + jnp.take(table, i, 0)[j],
        lambda: y * jnp.asarray(table).max(),
        lambda: y + jnp.asarray(table)[i] @ jnp.asarray(table)[i],
        lambda: jnp.where(jnp.asarray(table)[i, j] > 0, y, -y),
        lambda: lax.cond(jnp.asarray(table)[i, j] > 0, lambda y: y, jnp.negative, y),
        lambda: jnp.asarray(table),
        lambda: jnp.asarray(table) * 2,
        lambda: jnp.asarray(table)[:, j],
        lambda: y[:1, :1] * jnp.asarray(table),
    )
    return dice.choice(steps)()


def _cast(self: Function, dice: random.Random, y: Any) -> Any:
    first, second = dice.choice(DTYPES), dice.choice(DTYPES)
    number = dice.choice(
        (
            jnp.asarray(dice.choice(INTEGERS), jnp.int32),
            jnp.asarray(complex(-0.0, dice.choice((0.0, -0.0)))),
            jnp.asarray(dice.choice((-0.0, 0.0, np.nan, -np.nan, np.inf, 1e-40, 1 / 3))),
            jnp.asarray(0x7F7F, jnp.uint16),
        )
    )
    if not jnp.issubdtype(first, jnp.complexfloating):
        number = number.real
    known = number.astype(first)
    if not jnp.issubdtype(second, jnp.complexfloating):
        known = known.real
    known = known.astype(second)
    steps: tuple[Callable[[], Any], ...] = (
        lambda: known,
        lambda: jnp.broadcast_to(known, y.shape),
        lambda: y * known.real.astype(y.dtype) if second != "bool" else jnp.where(known, y, 0),
        lambda: (y * 8).astype(first if first != "complex64" else second),
    )
    return dice.choice(steps)()


_LEAVES: tuple[Callable[..., Any], ...] = (
    *(_plain,) * 3,
    *(_reduced,) * 2,
    *(_with_table,) * 3,
    _cast,
)


def functions(first: int, count: int) -> Iterator[Function]:
    """`count` functions, of consecutive seeds."""
    return map(Function, range(first, first + count))
