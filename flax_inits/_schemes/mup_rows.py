"""How each leaf of a model grows with its width, and what that asks for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._base.errors import noted
from .._base.types import Array, DType, Key, Path, PyTree, Shape
from .._modules.reach import WithRules
from .._tree.modules import are_params, opened
from .._tree.paths import flatten, show
from .._tree.rules import Rule


class MupRow(NamedTuple):
    """One leaf: how it grows, and what that asks for, relative to the base model."""

    path: Path
    base_shape: tuple[int, ...]
    """As the module that owns the leaf initializes it: an attention kernel as (in, out)."""

    shape: tuple[int, ...]

    def __repr__(self) -> str:
        names = (*self._fields, "role", "stddev", "adam", "sgd")
        return f"MupRow({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def fan_in(self) -> float:
        """How many times the base model's inputs a unit sums over; 1 for biases and scales."""
        return self._growth(-2)

    @property
    def fan_out(self) -> float:
        """How many times the base model's units the leaf serves."""
        return self._growth(-1)

    def _growth(self, axis: int) -> float:
        known = len(self.shape) >= -axis and self.base_shape[axis]
        return self.shape[axis] / self.base_shape[axis] if known else 1.0

    @property
    def role(self) -> str:
        """What grows: "input" (its outputs), "hidden" (both), "output" (its inputs), or "fixed"."""
        grows = (self.fan_in != 1, self.fan_out != 1)
        return {(1, 1): "hidden", (0, 1): "input", (1, 0): "output", (0, 0): "fixed"}[grows]

    @property
    def stddev(self) -> float:
        """The factor on the base model's σ."""
        return {"hidden": self.fan_in**-0.5, "output": 1 / self.fan_in}.get(self.role, 1.0)

    @property
    def adam(self) -> float:
        """The factor on the learning rate, where updates do not depend on the gradient's size."""
        return 1 / self.fan_in

    @property
    def sgd(self) -> float:
        """The factor on the learning rate, where updates are proportional to the gradient."""
        return self.fan_out / self.fan_in


def shapes(init_fn: Callable[[Key], PyTree], name: str) -> dict[Path, tuple[int, ...]]:
    """The shape in which each leaf of floats is initialized, by the module if one does."""
    key = jax.random.key(0)
    with noted(f"while mup traced the {name} model by a key and nothing else"):
        tree = jax.eval_shape(lambda key: opened(init_fn(key))[0], key)
    paths, leaves, _ = flatten(tree)
    trained = are_params(tree)
    floats = [
        i for i, x in enumerate(leaves) if trained[i] and jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    found: dict[Path, tuple[int, ...]] = {}

    def recorder(path: Path) -> Callable[..., Array]:
        def record(key: Key, shape: Shape, dtype: DType = None) -> Array:
            found[path] = tuple(shape)
            return jnp.zeros(shape, dtype)

        return record

    def choose(paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree) -> dict[int, Rule]:
        return {i: Rule(show(paths[i]), recorder(paths[i])) for i in floats}

    made = WithRules(init_fn, choose)
    jax.eval_shape(lambda key: opened(made(key))[0], key)
    return {paths[i]: found[paths[i]] for i in floats}


def check_axes(row: MupRow) -> None:
    if len(row.shape) != len(row.base_shape) or row.shape[:-2] != row.base_shape[:-2]:
        raise ValueError(
            f"mup cannot tell inputs from outputs of {show(row.path)!r}: it has shape "
            f"{row.shape}, and {row.base_shape} in the base model, where only the last two axes, "
            "in and out, may differ. A module with a kernel_init can tell; a bare param "
            "must be stored so."
        )
