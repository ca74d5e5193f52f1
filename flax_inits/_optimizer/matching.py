"""The entries of a state as it is: in its own order, grown in training, or one copy per device."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.errors import listed
from .._base.types import Path, PyTree
from .._tree.leaves import struct_of
from .._tree.paths import flatten, paths, show
from .entries import Entry, entries, traced_update


class Stacked(NamedTuple):
    """An optimizer for params with a leading axis of copies (of `pmap`), each with its state."""

    tx: Any

    def init(self, params: PyTree) -> PyTree:
        """The states of all copies, stacked as the params are."""
        return jax.vmap(self.tx.init)(params)


class Named(NamedTuple):
    """What messages call the arguments, and what they say to do where these do not fit."""

    state: str = "opt_state"
    tx: str = "tx"
    params: str = "params"
    advice: str = ""
    """Instead of how to keep by `graft` what fits."""

    def advise(self, changed: str = "head") -> str:
        """What to do where the model itself is another one."""
        return self.advice or (
            "If a layer has changed, make a new state and keep what it shares with the old one: "
            f"graft(tx.init(params), opt_state, lambda path, leaf: {changed!r} not in path)."
        )


_AS_RESET = Named()


def matched(
    tx: Any, opt_state: PyTree, params: PyTree, named: Named = _AS_RESET
) -> tuple[Any, list[Entry]]:
    """The optimizer that makes states like `opt_state`, and the entry of each of its leaves.

    Raises:
        ValueError: `opt_state` is not a state of `tx` for such params, nor a stack of these.
    """
    try:
        return tx, _matched(tx, opt_state, params, (), named)
    except ValueError:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves((params, opt_state))}
        if len(sizes) != 1 or sizes == {()}:
            raise
        structs = jax.tree.map(struct_of, params)
        one = jax.tree.map(lambda s: s.update(shape=s.shape[1:]), structs)
        with contextlib.suppress(ValueError):  # The first error says what does not fit.
            return Stacked(tx), _matched(tx, opt_state, one, sizes.pop(), named)
        raise


def _matched(
    tx: Any, opt_state: PyTree, params: PyTree, copies: tuple[int, ...], named: Named
) -> list[Entry]:
    names, leaves, _ = flatten(opt_state)
    expected = entries(tx, params)
    by_path = {entry.path: entry for entry in expected}
    if set(names) > by_path.keys():
        by_path |= {entry.path: entry for entry in _grown(tx, params, by_path.keys())}
    if sorted(names) != sorted(by_path):
        raise _of_another(names, [entry.path for entry in expected], named)
    found = [by_path[name]._replace(shape=copies + by_path[name].shape) for name in names]
    for entry, leaf in zip(found, leaves, strict=True):
        if entry.kind != "grown" and entry.shape != np.shape(leaf):
            owner = paths(params)[min(entry.params)][-2:] if entry.kind == "own" else ()
            raise ValueError(
                f"{named.state} holds {show(entry.path)!r} with shape {np.shape(leaf)}, but "
                f"{named.tx}.init({named.params}) makes it with shape {entry.shape}: it is the "
                f"state of another optimizer, or of other params. {named.advise(*owner[:1])}"
            )
    return found


def _grown(tx: Any, params: PyTree, known: Any) -> list[Entry]:
    """The leaves that the first update adds to a state, such as the measures of a monitor."""
    update = traced_update(tx, params, jax.eval_shape(tx.init, params))
    made = [] if update is None else paths(update.shape)
    return [Entry(name, -1, (), frozenset(), "grown") for name in made if name not in known]


def _of_another(names: Sequence[Path], expected: Sequence[Path], named: Named) -> ValueError:
    missing = [show(name) for name in expected if name not in set(names)]
    extra = [show(name) for name in names if name not in set(expected)]
    lacks = f" It lacks {listed(missing, most=3)}." if missing else ""
    has = f" It has {listed(extra, most=3)} beyond them." if extra else ""
    which = "this optimizer for these params"
    if named.advice:
        which = f"{named.tx} for {named.params}"
    return ValueError(
        f"{named.state} is not a state of {which}.{lacks}{has} Give the {named.tx} and the "
        f"structure of {named.params} that {named.state} was made with. {named.advise()}"
    )
