"""The maximal update parametrization: what is tuned on a narrow model holds for a wide one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from .._base import checks, repeats, tables
from .._base.errors import listed
from .._base.tables import Column, Report, Table
from .._base.types import Array, Key, PyTree, Rules, Where
from .._tree.paths import flatten, show
from .._tree.rules import elsewhere_hint
from .mup_rows import MupRow, check_axes, shapes
from .mup_rules import scaled_rules


def mup(base: Callable[[Key], PyTree], target: Callable[[Key], PyTree]) -> Mup:
    """The maximal update parametrization of a wide model, relative to a narrow one.

    With m = fan_in / base fan_in, each relative to the base model's:

        leaf     grows with the width     σ       Adam's rate    SGD's rate
        input    outputs (also biases)    1       1              fan_out / base fan_out
        hidden   inputs and outputs       m^-½    1/m            1 (both grow alike)
        output   inputs                   1/m     1/m            1/m

    Then activations, and how much a training step changes them, do not depend on the width, and
    the learning rate found for the base model is right for the wide one. The model's code stays as
    it is: this is Table 3 of the paper. (The paper's Table 8 and the package mup have a multiplier
    in the output layer instead; with Adam, training is the same.)

    A target that is narrower than the base gets the inverse factors, and one as wide is left as it
    is (all rows are "fixed"), so that one training script serves every width.

    Let attention grow by more heads, not by larger ones, as its 1/√head_dim would have to become
    1/head_dim. An output layer that shares the embedding needs its logits divided by m.

    Args:
        base: `key -> params` of the narrow model, such as
            `lambda key: narrow.init(key, x)["params"]`, or `lambda key: Model(64, nnx.Rngs(key))`,
            of which the `nnx.Param`s count. Traced, never run.
        target: the same of the model to be trained: equal paths, other widths.

    Returns:
        A `Mup`. It prints as a table of all leaves; `rows` is plain data: `path`, `base_shape`,
        `shape`, `role`, `stddev` (the factor on σ), `adam` and `sgd` (those on the rates).

    Raises:
        ValueError: the two make other paths; a leaf differs elsewhere than in its last two axes,
            as its module initializes it.
        TypeError: not two callables.

    >>> import flax_inits, flax.linen as nn, jax, jax.numpy as jnp, optax
    >>> def init(width):
    ...     model = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width), nn.Dense(10)])
    ...     return lambda key: model.init(key, jnp.ones((1, 20)))["params"]
    >>> mup = flax_inits.mup(init(64), init(1024))
    >>> for row in mup.rows[1::2]:
    ...     print("/".join(row.path), row.role, row.stddev, row.adam)
    layers_0/kernel input 1.0 1.0
    layers_2/kernel hidden 0.25 0.0625
    layers_3/kernel output 0.0625 0.0625
    >>> rules = mup.rules({"**/kernel": flax_inits.normal(0.1)})
    >>> params = flax_inits.jit_init(init(1024), rules=rules)(jax.random.key(0))
    >>> round(float(params["layers_2"]["kernel"].std()), 3)
    0.025
    >>> tx = optax.chain(optax.adam(1e-3), mup.scale_updates("adam"))

    Reference:
        Yang et al. 2022, Tensor Programs V, https://arxiv.org/abs/2203.03466
    """
    for name, init_fn in (("base", base), ("target", target)):
        if not callable(init_fn):
            raise TypeError(
                f"mup needs a callable key -> params for {name}, such as "
                f'lambda key: model.init(key, x)["params"]; got {type(init_fn).__name__}.'
            )
    narrow, wide = shapes(base, "base"), shapes(target, "target")
    if narrow.keys() != wide.keys():
        other = [show(path) for path in sorted(narrow.keys() ^ wide.keys())]
        raise ValueError(
            f"mup needs models that differ in their widths only, but one of the two has "
            f"{listed(other)} and the other has not."
        )
    rows = [MupRow(path, narrow[path], wide[path]) for path in wide]
    for row in rows:
        check_axes(row)
    return Mup(tuple(rows))


@dataclasses.dataclass(frozen=True, repr=False)
class Mup(Report):
    """What `mup` found: one row for each leaf of floats. Made by `mup`."""

    rows: tuple[MupRow, ...]

    def rules(self, rules: Rules) -> list[tuple[Where, Callable[..., Array]]]:
        """Rules for `reinit` and `jit_init` of the wide model, from those of the base model.

        Args:
            rules: where -> initializer with the σ that the leaf has in the base model, such as
                `normal(0.02)`. Every matrix that grows needs one.

        Returns:
            A list of pairs, the initializers `scaled` by the rows' `stddev`.

        Raises:
            ValueError: a matrix that grows has no rule; an initializer shrinks with the fan-in
                by itself, as `lecun_normal` does; a rule wins no leaf.
            TypeError: an initializer is not callable, or `rules` says only where, or only what.
        """
        return scaled_rules(rules, self.rows)

    def learning_rates(self, tree: PyTree, optimizer: str) -> PyTree:
        """The factor on each leaf's learning rate, as a tree of floats.

        Args:
            tree: params, gradients or a part of them.
            optimizer: "adam" for what divides by the gradient's size (Adam, AdamW, Lion,
                Adafactor, ...), or "sgd", with or without momentum.

        Raises:
            ValueError: another optimizer; a leaf that the models have not.
        """
        _check_optimizer(optimizer)
        known = {row.path: getattr(row, optimizer) for row in self.rows}
        paths, _, treedef = flatten(tree)
        for path in paths:
            if path not in known:
                raise ValueError(
                    f"mup knows no leaf {show(path)!r}; it was given functions that make others."
                    + elsewhere_hint(known, path)
                )
        return treedef.unflatten([known[path] for path in paths])

    def scale_updates(self, optimizer: str) -> Any:
        """An optax transformation that multiplies updates by `learning_rates`.

        It comes after what it corrects: `optax.chain(optax.adam(1e-3), mup.scale_updates("adam"))`.
        Weight decay must not be scaled, or wide models would have less of it. So AdamW is chained
        from its parts, with the decay after the scaling (and is then right for all widths):

            optax.chain(
                optax.scale_by_adam(),
                mup.scale_updates("adam"),
                optax.add_decayed_weights(1e-4),
                optax.scale_by_learning_rate(1e-3),
            )

        Args:
            optimizer: "adam" or "sgd", see `learning_rates`.

        Returns:
            An `optax.GradientTransformation` without state.
        """
        import optax

        _check_optimizer(optimizer)

        def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
            rates = self.learning_rates(updates, optimizer)
            return jax.tree.map(lambda update, rate: update * rate, updates, rates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def _table(self) -> Table:
        lines = repeats.lines(self.rows, lambda row: show(row.path), _cells)
        alike = all(row.role == "fixed" for row in self.rows)
        below = "The target is as wide as the base: all factors are 1." if alike else ""
        return Table(_COLUMNS, [[name, *_cells(rows[0])] for name, rows in lines], below)


_COLUMNS = (
    Column("path", wraps=True),
    *map(Column, ("base shape", "shape", "role")),
    *(Column(title, tables.RIGHT) for title in ("σ", "Adam", "SGD")),
)


def _cells(row: MupRow) -> tuple[str, ...]:
    """All cells but the path."""
    factors = (f"{factor:.4g}" for factor in (row.stddev, row.adam, row.sgd))
    return tables.shape(row.base_shape), tables.shape(row.shape), row.role, *factors


def _check_optimizer(optimizer: Any) -> None:
    if optimizer == "adamw":
        raise ValueError(
            "mup needs AdamW in its parts, as its weight decay must not be scaled: optax.chain("
            "optax.scale_by_adam(), mup.scale_updates('adam'), optax.add_decayed_weights(...), "
            "optax.scale_by_learning_rate(...))."
        )
    checks.one_of("mup", "optimizer", optimizer, ("adam", "sgd"))
