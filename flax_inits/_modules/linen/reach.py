"""Rules that reach into the model: a Linen module itself calls the rule's initializer."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax

from ..._base import bits
from ..._base.bits import is_key_dtype
from ..._base.errors import noted
from ..._base.types import Key, Path, PyTree, Rules
from ..._tree.forms import describe
from ..._tree.leaves import check_leaf
from ..._tree.paths import flatten, show
from ..._tree.rules import Rule, assign, by_path, is_where, no_initializers, note, parsed
from .tracing import of_arrays
from .watch import Source, Target, Watch

THROUGH = "rule, through the module"
"""How a leaf is made for which a module called the rule's initializer."""

STORED = "rule, stored shape"
"""How any other leaf that a rule has won is made."""

Choose: TypeAlias = Callable[[Sequence[Path], Sequence[Any], PyTree], dict[int, Rule]]
"""From the paths and leaves of a tree, and the tree: the rule of each chosen leaf, by position."""


def with_rules(fun: Callable[..., PyTree], rules: Rules) -> "WithRules":
    """`fun` with the leaves that `rules` choose made by the rules' initializers.

    A leaf that a Linen module makes with an attribute `<name>_init` is what `fun` makes with a
    model that was built with the rule's initializer there, in the box of the module's own
    initializer. What `fun` derives from such a leaf follows. Any other chosen leaf is
    `init(fold_in(key, h), shape, dtype)` as in `reinit`, where `key` is the first PRNG key among
    the arguments, or the "params" entry if the first argument that holds keys is a dict of rngs.

    Args:
        fun: makes a tree; traceable.
        rules: where -> initializer; paths start at the root of the tree.

    Returns:
        A function like `fun`, for use under a trace.

    Raises:
        TypeError: an initializer is not callable, or `rules` says only where.
        ValueError: there are no rules.
    """
    if is_where(rules):
        raise TypeError(no_initializers(rules))
    return WithRules(fun, functools.partial(assign, parsed(rules)))


class _Survey(NamedTuple):
    """What a function makes before any rule is applied."""

    paths: list[Path]
    chosen: dict[int, Rule]
    sources: dict[int, list[Source]]

    @property
    def targets(self) -> dict[Source, Target]:
        """The rule of each param that becomes a chosen leaf; the first if copies disagree."""
        found: dict[Source, Target] = {}
        for i, rule in self.chosen.items():
            for source in self.sources.get(i, ()):
                found.setdefault(source, Target(self.paths[i], rule))
        return found


class WithRules:
    """A function whose chosen leaves are made by rules; see `with_rules`."""

    def __init__(self, fun: Callable[..., PyTree], choose: Choose):
        self._fun, self._choose = fun, choose

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """The tree of `fun(*args, **kwargs)`, by the rules."""
        return self.made(args, kwargs)[0]

    def made(self, args: tuple, kwargs: dict[str, Any]) -> tuple[PyTree, dict[Path, str]]:
        """The same, and how each chosen leaf was made: `THROUGH` or `STORED`."""
        survey = self._survey(args, kwargs)
        targets = survey.targets
        watch = Watch(targets)
        with watch.on():
            tree = self._fun(*args, **kwargs)
        paths, leaves, treedef = flatten(tree)
        if paths != survey.paths:
            raise ValueError(_other_tree(survey.paths, paths))
        how: dict[Path, str] = {}
        for i, rule in survey.chosen.items():
            own = [s for s in survey.sources.get(i, ()) if targets[s].rule is rule]
            how[paths[i]] = STORED if watch.reached.isdisjoint(own) else THROUGH
            if how[paths[i]] == STORED:
                key = _key(args, kwargs, paths[i], rule)
                leaves[i] = by_path(key, paths[i], leaves[i], rule)
        return treedef.unflatten(leaves), how

    def _survey(self, args: tuple, kwargs: dict[str, Any]) -> _Survey:
        sources: dict[int, list[Source]] = {}

        def run(*args: Any, **kwargs: Any) -> PyTree:
            watch = Watch({})
            with watch.on():
                tree = self._fun(*args, **kwargs)
            sources.update(_sources(tree, watch))
            return tree

        shape = jax.eval_shape(*of_arrays(run, args, kwargs))
        paths, leaves, _ = flatten(shape)
        chosen = self._choose(paths, leaves, shape)
        for i, rule in chosen.items():
            check_leaf(paths[i], leaves[i], f"The rule for {describe(rule.where)}")
        return _Survey(paths, chosen, sources)


def _sources(tree: PyTree, watch: Watch) -> dict[int, list[Source]]:
    """The params that the leaves of a tree are, as far as modules made them.

    Most leaves are the very arrays that a module's scope holds. The others (under `vmap`, out of
    an inner `jit`, cast) are told by their paths.
    """
    paths, leaves, _ = flatten(tree)
    known: dict[int, list[Source]] = collections.defaultdict(list)
    for source, value in watch.values():
        known[id(value)].append(source)
    found = {
        i: _nearest(paths[i], known[id(leaf)]) for i, leaf in enumerate(leaves) if id(leaf) in known
    }
    rest = {path: i for i, path in enumerate(paths) if i not in found}
    missed: dict[int, set[Path]] = collections.defaultdict(set)
    for source in watch.seen.keys() - {source for sources in found.values() for source in sources}:
        missed[source.call].add(source.path)
    for call, params in missed.items():
        for leaf, param in _aligned(params, set(rest)).items():
            found.setdefault(rest[leaf], []).append(Source(call, param))
    return found


def _nearest(path: Path, sources: list[Source]) -> list[Source]:
    """Of params that are one array (a shared constant), the one whose path is most like this."""
    alike = [_common(path, source.path) for source in sources]
    best = max(alike)
    return [sources[alike.index(best)]] if alike.count(best) == 1 else []


def _common(one: Path, other: Path) -> int:
    """How many of their last segments two paths share."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _aligned(params: set[Path], leaves: set[Path]) -> dict[Path, Path]:
    """Leaf -> param, if the leaves are the params below one prefix, or some of them without one.

    Of several prefixes the one whose leaves are the params most exactly, then the shortest; none
    if that leaves two, as for two models of one structure.
    """
    votes: dict[tuple[Path, Path], dict[Path, Path]] = collections.defaultdict(dict)
    for leaf in leaves:
        for cut in range(len(leaf)):
            if leaf[cut:] in params:
                votes[leaf[:cut], ()][leaf] = leaf[cut:]
    for param in params:
        for cut in range(1, len(param)):
            if param[cut:] in leaves:
                votes[(), param[:cut]][param[cut:]] = param

    def rank(prefixes: tuple[Path, Path]) -> tuple[float, int]:
        outer, inner = prefixes
        matched = len(votes[prefixes])
        below = sum(leaf[: len(outer)] == outer for leaf in leaves)
        below += sum(param[: len(inner)] == inner for param in params)
        return matched / (below - matched), -len(outer) - len(inner)

    ranked = sorted(votes, key=rank)
    if not ranked or (len(ranked) > 1 and rank(ranked[-1]) == rank(ranked[-2])):
        return {}
    return votes[ranked[-1]]


def _key(args: tuple, kwargs: Mapping[str, Any], path: Path, rule: Rule) -> Key:
    """The key from which leaves at their stored shape draw."""
    with noted(note(path, rule)):
        for argument in (*args, *kwargs.values()):
            keys = [leaf for leaf in jax.tree.leaves(argument) if _is_key(leaf)]
            if keys:
                params = argument.get("params") if isinstance(argument, Mapping) else None
                key: Any = params if _is_key(params) else keys[0]
                bits.check_key(key)
                return key
        raise ValueError(
            f"No module initializes {show(path)!r} through an attribute, so it is drawn at its "
            "stored shape from a key among the arguments, but no argument is or holds a PRNG key. "
            "Pass the key as an argument, such as jax.random.key(0)."
        )


def _is_key(value: Any) -> bool:
    if not hasattr(value, "dtype") or is_key_dtype(value.dtype):
        return hasattr(value, "dtype")
    try:
        bits.check_key(value)
    except (TypeError, ValueError):
        return False
    return True


def _other_tree(before: Sequence[Path], after: Sequence[Path]) -> str:
    changed = [show(path) for path in set(before) ^ set(after)]
    return (
        "With the rules' initializers the function makes other leaves than without: the two "
        f"differ in {', '.join(sorted(changed)[:3]) or 'their order'}. The model asks which "
        "initializer it has; build it with the one that you want, or narrow the rules."
    )
