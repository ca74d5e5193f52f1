"""Watching Linen modules make their params, and changing what they make them with.

While a watch is on, `self.param` of every module that makes params goes through it. For a param
that a rule has won, the module's own attribute `<name>_init` is the rule's initializer for as
long as a method of the module runs, so the module calls it as it would have called its own: with
its own key, and with the shape before it is reshaped, stacked or scanned.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.core
import flax.linen as nn
import jax

from ..._base.errors import noted
from ..._base.types import Path
from ..._tree.casting import checked_as
from ..._tree.rules import Rule, note
from .tracing import scope_of

_fresh = itertools.count()
_context = jax.make_user_context(default_value=None)
"""Belongs to the key of all of JAX's caches: a trace that is kept would call no interceptor."""

_ABSENT = object()


class Source(NamedTuple):
    """A param as modules know it: which call into Linen made it (0 the first), and its path."""

    call: int
    path: Path


class Target(NamedTuple):
    """The output leaf that a param becomes, and the rule that the leaf has."""

    path: Path
    rule: Rule


class _Mark:
    """In the flags of scopes, which children and lifted scopes inherit: the call they belong to.

    Its hash is another one each time. `nn.jit` looks up kept traces by a hash in which flags
    count, and would else take the trace of one module for its equal sibling's.
    """

    def __init__(self, call: int):
        self.call = call

    def __hash__(self) -> int:
        return next(_fresh)


class Watch:
    """One run of a function, and the params that Linen modules make in it."""

    def __init__(self, targets: Mapping[Source, Target]):
        self.seen: dict[Source, None] = {}
        """Params that modules made, in order."""
        self.reached: set[Source] = set()
        """Targets for which a module called the rule's initializer."""
        self.active: Source | None = None
        """The param that is being made."""
        self._targets = targets
        self._names: dict[tuple[int, Path], list[str]] = {}
        for call, path in targets:
            self._names.setdefault((call, path[:-1]), []).append(path[-1])
        self._roots: list[flax.core.Scope] = []
        self._live: set[int] = set()
        self._flag = f"flax_inits {next(_fresh)}"

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watches what runs in this block, in this thread."""
        with _context(self._flag), nn.intercept_methods(self._intercept):
            yield

    def values(self) -> Iterator[tuple[Source, Any]]:
        """The params that ended up where their module's path says, as one array each."""
        for source in self.seen:
            node: Any = self._roots[source.call].variables().get("params", {})
            for name in source.path:
                node = node.get(name, {}) if isinstance(node, Mapping) else {}
            leaves = jax.tree.leaves(node)
            if len(leaves) == 1:
                yield source, leaves[0]

    def _intercept(self, method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        module = context.module
        if id(module) in self._live or not _makes_params(module):
            return method(*args, **kwargs)
        with self._watched(module):
            return method(*args, **kwargs)

    @contextlib.contextmanager
    def _watched(self, module: nn.Module) -> Iterator[None]:
        mark = self._mark(module)
        param = functools.partial(self._param, mark.call, module, module.param)
        self._live.add(id(module))
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(_attribute(module, "param", param))
                for attribute, initializer in self._initializers(mark.call, module):
                    stack.enter_context(_attribute(module, attribute, initializer))
                yield
        finally:
            self._live.remove(id(module))

    def _mark(self, module: nn.Module) -> _Mark:
        """The mark of the call that a bound module belongs to; a new one for a new root."""
        scope = _scope(module)
        mark: Any = scope.flags.get(self._flag) or scope.root.flags.get(self._flag)
        if mark is None:
            mark = _Mark(len(self._roots))
            self._roots.append(scope.root)
        # Modules given as fields have their scopes already, and inherit no more.
        given = [m.scope for m in _given(module) if m.scope and m.scope.root is scope.root]
        for unmarked in (scope.root, scope, *given):
            if self._flag not in unmarked.flags:
                unmarked.flags = flax.core.freeze({**unmarked.flags, self._flag: mark})
        return mark

    def _initializers(self, call: int, module: nn.Module) -> Iterator[tuple[str, Any]]:
        """Each attribute of a module that is an initializer of a target, and what replaces it."""
        path = _scope(module).path
        for name in self._names.get((call, path), ()):
            attribute = _attribute_for(module, name)
            if attribute is None or not _is_settable(module, attribute):
                continue
            source, current = Source(call, (*path, name)), getattr(module, attribute)
            if isinstance(current, _Replacement) and current.watch is self:
                current = current.original
            if callable(current):
                yield attribute, _Replacement(self, source, self._targets[source], current)

    def _param(
        self,
        call: int,
        module: nn.Module,
        original: Callable[..., Any],
        name: str,
        init_fn: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """`module.param`, noting what is made."""
        scope = _scope(module)
        if scope.has_variable("params", name):
            return original(name, init_fn, *args, **kwargs)
        source = Source(call, (*scope.path, name))
        self.seen[source] = None
        if source in self._targets:
            init_fn = self._replaced(module, source, init_fn)
        outer, self.active = self.active, source
        try:
            return original(name, init_fn, *args, **kwargs)
        finally:
            self.active = outer

    def _replaced(
        self, module: nn.Module, source: Source, init_fn: Callable[..., Any]
    ) -> Callable[..., Any]:
        """What makes a target where its module's attribute could not be exchanged beforehand."""
        attribute = _attribute_for(module, source.path[-1])
        if attribute is None:
            return init_fn
        current = getattr(module, attribute)
        # None is the convention for a default inside of the module, which is `init_fn` here.
        if current is None or (init_fn == current and not isinstance(current, _Replacement)):
            return _Replacement(self, source, self._targets[source], init_fn)
        return init_fn


class _Replacement:
    """Stands for a module's initializer, and is the rule's while the module makes the target."""

    def __init__(self, watch: Watch, source: Source, target: Target, original: Callable[..., Any]):
        self.watch, self.source = watch, source
        self.target, self.original = target, original

    @property
    def is_wanted(self) -> bool:
        """Whether the param that is being made is the target."""
        return self.watch.active == self.source

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_wanted:  # the module also uses its initializer elsewhere
            return self.original(*args, **kwargs)
        if isinstance(self.original, _Replacement) and self.original.is_wanted:
            self.watch.reached.add(self.source)  # rules around rules have the last word
            return self.original(*args, **kwargs)
        # Abstractly: what counts is the box, and the dtype that the leaf has.
        made = jax.eval_shape(functools.partial(self.original, *args, **kwargs))
        leaves, treedef = jax.tree.flatten(made)
        if len(leaves) != 1:
            return self.original(*args, **kwargs)
        self.watch.reached.add(self.source)
        if len(args) == 1 and not kwargs:
            args = (*args, leaves[0].shape, leaves[0].dtype)
        path, rule = self.target
        with noted(note(path, rule)):
            return treedef.unflatten([checked_as(rule.init(*args, **kwargs), leaves[0], rule.init)])


def _scope(module: nn.Module) -> flax.core.Scope:
    assert module.scope is not None
    return module.scope


def _makes_params(module: nn.Module) -> bool:
    scope = scope_of(module)
    return scope is not None and scope.is_mutable_collection("params")


def _given(module: nn.Module) -> Iterator[nn.Module]:
    """The modules among a module's fields."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, nn.Module) and item is not module.parent:
                yield item


def _attribute_for(module: nn.Module, name: str) -> str | None:
    """The attribute that initializes a param; `nn.WeightNorm` calls params `<path>/scale`."""
    for attribute in (f"{name}_init", f"{name.rpartition('/')[2]}_init"):
        if inspect.getattr_static(module, attribute, _ABSENT) is not _ABSENT:
            return attribute
    return None


def _is_settable(module: nn.Module, name: str) -> bool:
    """Whether an instance may have the attribute: it is no property of the class."""
    return not hasattr(type(inspect.getattr_static(type(module), name, None)), "__set__")


@contextlib.contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` in this block; Flax's own assignment is for `setup` alone."""
    before = vars(module).get(name, _ABSENT)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        if vars(module).get(name) is value:  # setup may have assigned to it
            if before is _ABSENT:
                object.__delattr__(module, name)
            else:
                object.__setattr__(module, name, before)
