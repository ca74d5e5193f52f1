"""Surgery: new values for chosen leaves of a tree, everything else as it was."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from . import _bits
from ._call import configuration, tracing
from ._errors import did_you_mean, noted
from ._execute import Task, execute
from ._jaxpr import trace
from ._keys import Deriver, Words, is_key_dtype
from ._leaves import check_leaf, dtype_of, free, is_weak, sharding_of
from ._paths import describe, flatten, nothing_selected, path_hash, resolve, show
from ._recipe import Job, plan
from ._rules import assign, by_path, is_where, like, note, parsed
from ._trace import compute
from ._types import Array, Key, Path, PyTree, Rules, Where


def reinit(
    key: Key,
    params: PyTree,
    rules: Rules | Where,
    *,
    init_fn: Callable[[Key], PyTree] | None = None,
    donate: bool = False,
    allow_unmatched: bool = False,
) -> PyTree:
    """Gives chosen leaves new initial values and keeps everything else.

    With rules, a leaf is `init(fold_in(key, h), leaf.shape, leaf.dtype)`, where h depends on the
    leaf's path alone: no value depends on another leaf, on the container or on the process. With
    `init_fn`, a leaf is the one at its path in `jax.jit(init_fn)(key)`, bit for bit, and only the
    chosen leaves are computed.

    Args:
        key: one PRNG key, typed or legacy.
        params: any pytree: dict, FrozenDict, `nnx.State`, lists, dataclasses, with or without
            boxes. Leaves may be abstract (`jax.ShapeDtypeStruct`, with or without a sharding).
        rules: a mapping from `where` to initializer, or a list of such pairs; the first match
            wins. Or a single `where` (see `select`), and then `init_fn` makes the values.
        init_fn: `key -> tree` with the selected paths in it, such as
            `lambda key: model.init(key, x)["params"]`.
        donate: free the buffers of the replaced leaves, except those that a kept leaf shares.
        allow_unmatched: skip rules that win no leaf, as long as some leaf is won.

    Returns:
        A tree of the same structure, containers, boxes, dtypes, weak types and shardings. Kept
        leaves are the same objects. `params` itself is never changed.

    Raises:
        ValueError: a rule selects nothing or is shadowed by an earlier one; a selected leaf is an
            integer, a PRNG key or a deleted array; an initializer or `init_fn` gives another shape;
            `init_fn` lacks a selected path.
        TypeError: an initializer is not callable, or `key` is no PRNG key.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> params = {"body": {"bias": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> new = flax_inits.reinit(jax.random.key(0), params, {"head": flax_inits.zeros()})
    >>> new["head"]
    {'bias': Array([0., 0.], dtype=float32)}
    >>> new["body"]["bias"] is params["body"]["bias"]
    True
    """
    _bits.check_key(key)
    paths, leaves, treedef = flatten(params)
    if init_fn is None:
        new = _by_rules(key, params, rules, allow_unmatched)
    elif is_where(rules):
        new = _by_init_fn(key, params, rules, init_fn, allow_unmatched)
    else:
        new = _through_model(key, params, rules, init_fn, allow_unmatched)
    if donate:
        free([leaves[i] for i in new], [leaf for i, leaf in enumerate(leaves) if i not in new])
    return treedef.unflatten([new.get(i, leaf) for i, leaf in enumerate(leaves)])


def _by_rules(
    key: Key, params: PyTree, rules: Rules | Where, allow_unmatched: bool
) -> dict[int, Array]:
    if is_where(rules):
        raise TypeError(
            f"{describe(rules)} says which leaves, but not what they get: give rules such as "
            f"{{where: flax_inits.normal(0.02)}}, or init_fn=lambda key: model.init(key, x)."
        )
    paths, leaves, _ = flatten(params)
    chosen = assign(parsed(rules), paths, leaves, params, allow_unmatched)
    for i, rule in chosen.items():
        check_leaf(paths[i], leaves[i], f"The rule for {describe(rule.where)}")
    if tracing() or any(isinstance(x, jax.core.Tracer) for x in (key, *leaves)):
        return {i: by_path(key, paths[i], leaves[i], rule) for i, rule in chosen.items()}
    tasks = []
    for i, rule in chosen.items():
        with noted(note(paths[i], rule)):
            tasks.append(_task(key, i, paths[i], leaves[i], rule.init))
    return execute(tasks)


def leaf_key(key: Key, path: Path) -> Any:
    """`fold_in(key, h)` for a leaf's path, on the host where that is possible."""
    if isinstance(key, jax.core.Tracer) or not _bits.is_threefry(key):
        return jax.random.fold_in(key, path_hash(path))
    words = np.array(_bits.fold_in_words(_bits.key_words(key), path_hash(path)), np.uint32)
    return Words(words) if is_key_dtype(key.dtype) else words


def _task(key: Key, position: int, path: Path, leaf: Any, init: Callable[..., Array]) -> Task:
    folded = leaf_key(key, path)
    struct = jax.ShapeDtypeStruct(np.shape(leaf), dtype_of(leaf), weak_type=is_weak(leaf))
    arguments = (struct, sharding_of(leaf), key.shape, key.dtype, configuration())
    try:
        hash(init)
    except TypeError:
        job = _job(init, *arguments)
    else:
        job = _known_job(init, *arguments)
    return job._replace(positions=(position,)), Deriver([folded])


def _job(
    init: Callable[..., Array],
    struct: jax.ShapeDtypeStruct,
    sharding: Sharding | None,
    key_shape: tuple,
    key_dtype: Any,
    configuration: tuple,
) -> Job:
    def values(key: Key) -> Array:
        return like(init(key, struct.shape, struct.dtype), struct, init)

    traced = trace(values, jax.ShapeDtypeStruct(key_shape, key_dtype))
    (job,) = plan(traced, {0: sharding})
    return job


_known_job = functools.lru_cache(maxsize=1024)(_job)


def _by_init_fn(
    key: Key,
    params: PyTree,
    where: Where,
    init_fn: Callable[[Key], PyTree],
    allow_unmatched: bool,
) -> dict[int, Array]:
    paths, leaves, _ = flatten(params)
    chosen, idle = resolve(where, paths, leaves, params)
    if not any(chosen) or (idle and not allow_unmatched):
        raise nothing_selected(idle[0] if idle else where, paths)
    wanted = [i for i, use in enumerate(chosen) if use]
    for i in wanted:
        check_leaf(paths[i], leaves[i], describe(where))
    return _computed(key, paths, leaves, wanted, init_fn)


def _through_model(
    key: Key,
    params: PyTree,
    rules: Rules,
    init_fn: Callable[[Key], PyTree],
    allow_unmatched: bool,
) -> dict[int, Array]:
    """Rules that the model itself applies, with the shapes and keys that it initializes."""
    paths, leaves, _ = flatten(params)
    chosen = assign(parsed(rules), paths, leaves, params, allow_unmatched)
    won: dict[int, tuple[Any, set[Path]]] = {}
    for i, rule in chosen.items():
        check_leaf(paths[i], leaves[i], f"The rule for {describe(rule.where)}")
        won.setdefault(id(rule), (rule, set()))[1].add(paths[i])
    exact = [(lambda path, leaf, of=of: path in of, rule.init) for rule, of in won.values()]
    from ._reach import with_rules

    reached = with_rules(init_fn, exact, allow_unmatched=True)
    return _computed(key, paths, leaves, list(chosen), reached)


def _computed(
    key: Key,
    paths: list[Path],
    leaves: list[Any],
    wanted: list[int],
    init_fn: Callable[[Key], PyTree],
) -> dict[int, Array]:
    """The wanted leaves of `init_fn(key)`; nothing else of it is computed."""
    if not callable(init_fn):
        raise TypeError(f"init_fn must be a callable key -> tree, got {init_fn!r}.")

    def values(key: Key) -> list[Array]:
        return _picked(init_fn(key), [paths[i] for i in wanted], [leaves[i] for i in wanted])

    if tracing() or any(isinstance(x, jax.core.Tracer) for x in (key, *leaves)):
        return dict(zip(wanted, values(key), strict=True))
    shardings = {place: sharding_of(leaves[i]) for place, i in enumerate(wanted)}
    made = compute(values, (key,), shardings)
    return {i: made[place] for place, i in enumerate(wanted)}


def _picked(tree: PyTree, wanted: list[Path], leaves: list[Any]) -> list[Array]:
    """The wanted leaves of what `init_fn` made, each like the leaf that it replaces."""
    found = dict(zip(*flatten(tree)[:2], strict=True))
    picked = []
    for path, leaf in zip(wanted, leaves, strict=True):
        if path not in found:
            hint = did_you_mean(show(path), map(show, found))
            raise ValueError(f"init_fn makes no leaf at {show(path)!r}, which is selected.{hint}")
        if np.shape(found[path]) != np.shape(leaf):
            raise ValueError(
                f"init_fn makes {show(path)!r} with shape {np.shape(found[path])}, but the tree "
                f"holds shape {np.shape(leaf)} there; select only leaves of equal shape."
            )
        picked.append(like(found[path], leaf, "init_fn"))
    return picked
