"""Labels of leaves, for what treats groups of them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._base.errors import brief, listed
from .._base.imported import imported
from .._base.types import Path, PyTree, Where
from .forms import Among, Selector, describe, is_function
from .misses import nothing_selected
from .parts import refuse_parts
from .paths import flatten, show
from .resolve import AllBut, all_but, resolve


def labels(rules: Mapping[Where, Any] | Sequence[tuple[Where, Any]]) -> Labels:
    """The function params -> tree of labels that `optax.partition` and its like call.

    It labels whatever tree it is handed: a dict, the `nnx.State` of an `nnx.Optimizer`, gradients,
    params of which `optax.masked` or another `optax.partition` has taken some out. With bools as
    labels it is a mask, for `optax.masked`.

    Args:
        rules: a mapping from `where` (see `select`) to label, or a list of such pairs; the first
            match wins. Labels are strings, or anything hashable that is no container.

    Returns:
        A function: equal to another one of equal rules, and hashable if their `where` are.

    Raises:
        ValueError: there are no rules. When it is called: a leaf gets no label, or a rule no leaf
            (one that selects only what is masked out counts as used).
        TypeError: `rules` are no rules, or a label is a container.

    >>> import flax_inits, jax.numpy as jnp, optax
    >>> groups = flax_inits.labels({"head": "train", "**": "freeze"})
    >>> groups({"body": {"bias": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}})
    {'body': {'bias': 'freeze'}, 'head': {'bias': 'train'}}
    >>> tx = optax.partition({"train": optax.adam(1e-3), "freeze": optax.set_to_zero()}, groups)
    """
    pairs = _pairs(rules)
    if not pairs:
        raise ValueError("labels got no rules; give where -> label for at least one leaf.")
    for where, label in pairs:
        refuse_parts(where)
        if not jax.tree_util.all_leaves([label]):
            raise TypeError(
                f"The label of {describe(where)} is {brief(label)}, a container; a label is a "
                "string, or another hashable value, and optax.partition maps labels to "
                "transformations."
            )
    return Labels(pairs)


def _pairs(rules: Any) -> tuple[tuple[Where, Any], ...]:
    if isinstance(rules, Mapping):
        return tuple(rules.items())
    if isinstance(rules, list | tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in rules
    ):
        return tuple(rules)
    raise TypeError(
        "labels needs rules such as {'head': 'train', '**': 'freeze'}, or a list of pairs; "
        f"got {brief(rules)}."
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Labels:
    """What `labels` makes."""

    _pairs: tuple[tuple[Where, Any], ...]

    def __call__(self, params: PyTree) -> PyTree:
        """The label of each leaf, in a tree of the same structure."""
        names, masked, _ = flatten(jax.tree.map(_is_masked, params, is_leaf=_is_masked))
        present, leaves, treedef = flatten(params)
        winners: dict[Path, int] = {}
        for number, (where, _) in enumerate(self._pairs):
            asked = _asked(where, present, leaves, params)
            uses, unmatched = resolve(asked, names, names, params)
            # A function cannot be asked about what is masked out: it may be meant for that.
            mistaken = [part for part in unmatched if not (any(masked) and _was_asked(part))]
            if mistaken:
                raise nothing_selected(mistaken[0], names, params)
            found = [name for name, use in zip(names, uses, strict=True) if use]
            won = [winners.setdefault(name, number) for name in found]
            if found and number not in won:
                raise self._shadowed(where, set(won))
        if missing := [show(path) for path in present if path not in winners]:
            raise ValueError(
                f"{self!r} has no label for {listed(missing, most=3)}. Every leaf needs one: add a "
                "last rule for '**'."
            )
        return treedef.unflatten([self._pairs[winners[path]][1] for path in present])

    def _shadowed(self, where: Where, by: set[int]) -> ValueError:
        earlier = " and ".join(describe(self._pairs[number][0]) for number in sorted(by))
        return ValueError(
            f"{describe(where)} labels no leaf: what it selects has the label of {earlier}, which "
            "comes first. The first match wins: put the narrower pattern first."
        )

    def __repr__(self) -> str:
        shown = [(describe(where), repr(label)) for where, label in self._pairs]
        try:
            hash(self)
        except TypeError:  # Such a where is no key of a mapping.
            return f"labels([{', '.join(f'({where}, {label})' for where, label in shown)}])"
        return f"labels({{{', '.join(f'{where}: {label}' for where, label in shown)}}})"

    def __reduce__(self) -> tuple:
        return labels, (list(self._pairs),)


def _is_masked(node: Any) -> bool:
    """Whether a node stands for leaves that an optax wrapper has taken out."""
    return isinstance(node, imported("optax", "MaskedNode"))


def _asked(where: Where, paths: Sequence[Path], leaves: Sequence[Any], tree: PyTree) -> Where:
    """`where` with the answers of its functions, which see only leaves that are there."""
    if isinstance(where, list):
        return [_asked(part, paths, leaves, tree) for part in where]
    if isinstance(where, AllBut):
        return all_but(_asked(where.where, paths, leaves, tree))
    if isinstance(where, Selector | str) or not is_function(where):
        return where
    uses = resolve(where, paths, leaves, tree)[0]
    chosen = frozenset(path for path, use in zip(paths, uses, strict=True) if use)
    return Among(chosen, describe(where))


def _was_asked(where: Where) -> bool:
    return isinstance(where, Among) or (isinstance(where, AllBut) and _was_asked(where.where))
