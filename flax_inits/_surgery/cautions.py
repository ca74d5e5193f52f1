"""Warnings of what `reinit` does as it was told, though hardly anybody means it."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._base.errors import listed, outside
from .._base.types import Path
from .._engine.jaxpr import inner_jaxprs, opened
from .._tree.forms import describe
from .._tree.leaves import dtype_of
from .._tree.modules import is_module
from .._tree.paths import show
from .._tree.rules import Rule, draws_slices


def warn_of_ties(chosen: Sequence[int], paths: Sequence[Path], leaves: Sequence[Any]) -> None:
    """Warns where two chosen leaves are one array, and so become two."""
    first: dict[int, Path] = {}
    tied: list[tuple[Path, Path]] = []
    for i in chosen:
        leaf = leaves[i]
        if isinstance(leaf, jax.Array | np.ndarray) and not isinstance(leaf, Tracer):
            kept = first.setdefault(id(leaf), paths[i])
            if kept != paths[i]:
                tied.append((kept, paths[i]))
    if tied:
        pairs = [f"{show(one)!r} and {show(other)!r}" for one, other in tied[:3]]
        more = f", and {len(tied) - 3} more" if tied[3:] else ""
        kept, lost = tied[0]
        warnings.warn(
            f"{', '.join(pairs)}{more} hold the same array (tied weights), and get values of their "
            f"own. To keep them tied, select one and give its new array to the other: "
            f"new{_keys(lost)} = new{_keys(kept)}.",
            stacklevel=outside(),
        )


def _keys(path: Path) -> str:
    return "".join(f"[{segment!r}]" for segment in path)


def warn_of_moments(rules: Mapping[int, Rule], paths: Sequence[Path], tree: Any) -> None:
    """Warns where one initializer makes both params and what an optimizer holds of them."""
    if not hasattr(tree, "opt_state"):
        return
    params = {id(rule): paths[i] for i, rule in rules.items() if paths[i][:1] == ("params",)}
    for i, rule in rules.items():
        if paths[i][:1] == ("opt_state",) and id(rule) in params:
            warnings.warn(
                f"The rule for {describe(rule.where)} gives {show(params[id(rule)])!r} and the "
                f"optimizer's {show(paths[i])!r} values of one initializer. reinit_state(key, "
                "state, rules), whose paths begin below params, gives the latter those of "
                "tx.init(params).",
                stacklevel=outside(),
            )
            return


def warn_of_stored_shapes(
    rules: Mapping[int, Rule], paths: Sequence[Path], leaves: Sequence[Any], tree: Any
) -> None:
    """Warns where an initializer takes fans from a shape that Flax's module does not initialize.

    Which leaves these are, Flax's own names and ranks show; whether fans matter to an initializer,
    its program does. What neither shows (a stack under a name of the user's) is not told.
    """
    shapes = {path: np.shape(leaf) for path, leaf in zip(paths, leaves, strict=True)}
    known: dict[Any, bool] = {}
    found = []
    for i, rule in rules.items():
        stored, initialized = shapes[paths[i]], _initialized(paths[i], shapes)
        if initialized is None or draws_slices(rule.init):
            continue
        facts = (id(rule.init), stored, initialized, dtype_of(leaves[i]))
        if facts not in known:
            known[facts] = _fans_matter(rule.init, stored, initialized, dtype_of(leaves[i]))
        if known[facts]:
            found.append((paths[i], rule))
    if found:
        warnings.warn(
            f"{listed([show(path) for path, _ in found], most=3)}: Flax stores attention kernels "
            "and stacks of layers with more axes than it initializes them with, and the rule for "
            f"{describe(found[0][1].where)} draws for the fans of the stored shape. Give "
            f"init_fn={_initializes(tree, paths)} too, and the model itself calls the rule's "
            "initializer; or stacked(...), for stacks.",
            stacklevel=outside(),
        )


def _initializes(tree: Any, paths: Sequence[Path]) -> str:
    """An `init_fn` for such a tree, as one would write it."""
    if is_module(tree):
        return "lambda key: Model(nnx.Rngs(key))"
    whole = any(path[:1] == ("params",) for path in paths)
    return f"lambda key: model.init(key, x){'' if whole else '[' + repr('params') + ']'}"


_ATTENTION = ("query", "key", "value", "out")
_STACKED = re.compile(r"(Vmap|Scan|Checkpoint)*(Dense|Embed)_\d+")


def _initialized(path: Path, shapes: Mapping[Path, tuple]) -> tuple[int, ...] | None:
    """A shape as large as the stored one with the fans that Flax's module has, if not the same.

    A stack counts as more outputs: only the inputs are then as they should be, which is enough to
    see whether fans matter.
    """
    if len(path) < 2:
        return None
    shape, (module, param) = shapes[path], path[-2:]
    if _STACKED.fullmatch(module) and len(shape) == 3:
        return (shape[1], shape[0] * shape[2])
    if module not in _ATTENTION or param != "kernel" or len(shape) < 3:
        return None
    siblings = {name: shapes.get((*path[:-2], name, "kernel"), ()) for name in _ATTENTION}
    heads = {s[-3:-1] if name == "out" else s[-2:] for name, s in siblings.items()}
    if len(heads) > 1 or len(set(map(len, siblings.values()))) > 1:
        return None  # Other layers of these names, such as convolutions.
    size, inputs = math.prod(shape), math.prod(shape[-3:-1]) if module == "out" else shape[-3]
    return (inputs, size // inputs) if inputs else None


def _fans_matter(init: Any, stored: tuple, initialized: tuple, dtype: Any) -> bool:
    """Whether an initializer's program depends on how a size is divided into axes."""
    try:
        numbers, others = (_numbers(init, shape, dtype) for shape in (stored, initialized))
    except Exception:  # An initializer of this shape alone (from_array): its author knows.
        return False
    # Orthogonal matrices have no constant that tells, but they come out of a QR decomposition.
    return numbers != others or "qr" in numbers


def _numbers(init: Any, shape: tuple, dtype: Any) -> list[float | str]:
    """The constants of an initializer's program, in order, and "qr" for each decomposition."""
    return list(_constants(jax.make_jaxpr(lambda key: init(key, shape, dtype))(jax.random.key(0))))


def _constants(closed: Any) -> Iterator[float | str]:
    jaxpr, consts = opened(closed)
    yield from map(float, filter(_is_number, consts))
    for equation in jaxpr.eqns:
        if equation.primitive.name == "qr":
            yield "qr"
        literals = [var.val for var in equation.invars if isinstance(var, jax.extend.core.Literal)]
        yield from map(float, filter(_is_number, literals))
        for inner in inner_jaxprs(equation.params):
            yield from _constants(inner)


def _is_number(value: Any) -> bool:
    return np.shape(value) == () and jnp.issubdtype(dtype_of(value), jnp.floating)
