"""Rules that reach into the model: a module itself calls the rule's initializer."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from .._base import bits
from .._base.errors import listed, noted, outside
from .._base.types import Key, Path, PyTree, Rules
from .._tree.boxes import key_paths
from .._tree.forms import describe
from .._tree.leaves import check_leaf
from .._tree.modules import opened
from .._tree.paths import flatten, show
from .._tree.rules import (
    Rule,
    assign,
    by_path,
    draws_slices,
    is_where,
    no_initializers,
    note,
    parsed,
)
from .arguments import of_arrays
from .linen import watch as linen
from .nnx import watch as nnx
from .run import Run, Source, Target, knows_nnx

THROUGH = "rule, through the module"
"""How a leaf is made for which a module called the rule's initializer."""

STORED = "rule, stored shape"
"""How any other leaf that a rule has won is made."""

Choose: TypeAlias = Callable[[Sequence[Path], Sequence[Any], PyTree], dict[int, Rule]]
"""From the paths and leaves of a tree, and the tree: the rule of each chosen leaf, by position."""


def with_rules(fun: Callable[..., PyTree], rules: Rules) -> "WithRules":
    """`fun` with the leaves that `rules` choose made by the rules' initializers.

    A leaf that a Linen module makes with an attribute `<name>_init`, or an NNX module with an
    argument of such a name, is what `fun` makes with a model that was built with the rule's
    initializer there, in the box of the module's own initializer. What `fun` derives from such a
    leaf follows. Any other chosen leaf is `init(fold_in(key, h), shape, dtype)` as in `reinit`,
    where `key` is the first PRNG key among the arguments, or the one for "params" if the first
    argument that holds keys is a dict of rngs or an `nnx.Rngs`.

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
    sources: list[list[Source]]
    """What each leaf is the value of."""

    @property
    def targets(self) -> dict[Source, Target]:
        """The rule of each param that becomes a chosen leaf; the first if copies disagree."""
        found: dict[Source, Target] = {}
        for i, rule in self.chosen.items():
            for source in self.sources[i]:
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
        run = Run(targets)
        with _watched(run):
            tree = self._fun(*args, **kwargs)
        paths, leaves, treedef = flatten(tree)
        if paths != survey.paths:
            raise ValueError(_other_tree(survey.paths, paths))
        keyed = key_paths(tree, paths)
        stored = {
            i: rule
            for i, rule in survey.chosen.items()
            if not any(s in run.reached and targets[s].rule is rule for s in survey.sources[i])
        }
        for i, rule in stored.items():
            key = _key(args, kwargs, paths[i], rule)
            leaves[i] = by_path(key, paths[i], leaves[i], rule, keyed[i])
        if not run.keeps_shapes:
            _warn_of_stacks(paths, leaves, stored)
        how = {paths[i]: STORED if i in stored else THROUGH for i in survey.chosen}
        return treedef.unflatten(leaves), how

    def _survey(self, args: tuple, kwargs: dict[str, Any]) -> _Survey:
        run = Run()
        fun, arrays = of_arrays(lambda *a, **k: opened(self._fun(*a, **k))[0], args, kwargs)
        knew_nnx = knows_nnx()
        with _watched(run):
            closed, shape = jax.make_jaxpr(fun, return_shape=True)(arrays)
        if knows_nnx() and not knew_nnx:
            return self._survey(args, kwargs)  # the function has imported it, unwatched
        paths, leaves, _ = flatten(shape)
        chosen = self._choose(paths, leaves, shape)
        for i, rule in chosen.items():
            check_leaf(paths[i], leaves[i], f"The rule for {describe(rule.where)}")
        sources = run.sources(closed.jaxpr)
        if not all(sources[i] for i in chosen):
            _add_derived(sources, paths, run.sources(closed.jaxpr, derived=True))
        return _Survey(paths, chosen, sources)


@contextlib.contextmanager
def _watched(run: Run) -> Iterator[None]:
    """Lets the modules of every system tell `run` what they make, in this thread."""
    nnx_too = nnx.watching(run) if knows_nnx() else contextlib.nullcontext()
    with run.distinct(), linen.watching(run), nnx_too:
        yield


def _add_derived(
    sources: list[list[Source]], paths: Sequence[Path], derived: Sequence[list[Source]]
) -> None:
    """Adds the source of a leaf that was changed before it was kept, as `nn.WeightNorm` does."""
    for own, path, others in zip(sources, paths, derived, strict=True):
        named = [source for source in others if path[-1:] == (source.param,)]
        if not own and len(named) == 1:
            own += named


def _key(args: tuple, kwargs: Mapping[str, Any], path: Path, rule: Rule) -> Key:
    """The key from which leaves at their stored shape draw."""
    with noted(note(path, rule)):
        for argument in (*args, *kwargs.values()):
            names, leaves, _ = flatten(argument)
            keys = {name: leaf for name, leaf in zip(names, leaves, strict=True) if _is_key(leaf)}
            if keys:
                # As Linen's rngs and NNX's streams name them; what nnx.Rngs lacks is "default".
                streams = (key for s in _STREAMS for name, key in keys.items() if s in name)
                key = next(streams, next(iter(keys.values())))
                bits.check_key(key)
                return key
        raise ValueError(
            f"No module initializes {show(path)!r} through an attribute, so it is drawn at its "
            "stored shape from a key among the arguments, but no argument is or holds a PRNG key. "
            "Pass the key as an argument, such as jax.random.key(0)."
        )


_STREAMS = ("params", "default")


def _is_key(value: Any) -> bool:
    if not hasattr(value, "dtype") or bits.is_key_dtype(value.dtype):
        return hasattr(value, "dtype")
    try:
        bits.check_key(value)
    except (TypeError, ValueError):
        return False
    return True


def _warn_of_stacks(
    paths: Sequence[Path], leaves: Sequence[Any], stored: Mapping[int, Rule]
) -> None:
    """Warns of leaves whose first axes may be a stack, which changes what an initializer makes."""
    doubtful = [
        show(paths[i])
        for i, rule in stored.items()
        if np.ndim(leaves[i]) > 2 and not draws_slices(rule.init)
    ]
    if doubtful:
        warnings.warn(
            f"No argument such as kernel_init of a module made {listed(doubtful)}, so the rule's "
            "initializer was called with the stored shape, of three axes or more, and has taken it "
            "for a convolution's. Where it is a stack of layers, write stacked(initializer); else "
            "let the module take its initializer as an argument.",
            stacklevel=outside(),
        )


def _other_tree(before: Sequence[Path], after: Sequence[Path]) -> str:
    changed = [show(path) for path in set(before) ^ set(after)]
    return (
        "With the rules' initializers the function makes other leaves than without: the two "
        f"differ in {', '.join(sorted(changed)[:3]) or 'their order'}. The model asks which "
        "initializer it has; build it with the one that you want, or narrow the rules."
    )
