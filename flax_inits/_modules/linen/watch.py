"""Watching Linen modules make their params, and changing what they make them with.

While a watch is on, `self.param` of every module that makes params goes through it. For a param
that a rule has won, the module's own attribute `<name>_init` is the rule's initializer for as
long as a method of the module runs, so the module calls it as it would have called its own: with
its own key, and with the shape before it is reshaped, stacked or scanned.
"""

import contextlib
import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.core
import flax.linen as nn

from ..._base.types import Path
from ..run import Run, StandIn
from .tracing import scope_of

_serial = itertools.count()
_ABSENT = object()


def watching(run: Run) -> AbstractContextManager[None]:
    """Lets Linen modules tell `run` of the params that they make in this block, in this thread."""
    return nn.intercept_methods(_Watch(run).intercept)


class _Param(NamedTuple):
    """A param as modules know it: which call into Linen made it (0 the first), and its path."""

    call: int
    path: Path

    @property
    def param(self) -> str:
        """The name of the param in its module."""
        return self.path[-1]


class _Mark:
    """In the flags of scopes, which children and lifted scopes inherit: the call they belong to.

    Its hash is another one each time. `nn.jit` looks up kept traces by a hash in which flags
    count, and would else take the trace of one module for its equal sibling's.
    """

    def __init__(self, call: int):
        self.call = call

    def __hash__(self) -> int:
        return next(_serial)


class _Watch:
    """What of a run concerns Linen."""

    def __init__(self, run: Run):
        self.run = run
        self.active: _Param | None = None
        """The param that is being made."""
        self._names: dict[tuple[int, Path], list[str]] = {}
        for source in run.targets:
            if isinstance(source, _Param):
                self._names.setdefault((source.call, source.path[:-1]), []).append(source.path[-1])
        self._calls = itertools.count()
        self._live: set[int] = set()

    def intercept(self, method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """Runs a method of a module, watched."""
        module, scope = context.module, scope_of(context.module)
        if scope is None or id(module) in self._live or not scope.is_mutable_collection("params"):
            return method(*args, **kwargs)
        with self._watched(module, scope):
            return method(*args, **kwargs)

    @contextlib.contextmanager
    def _watched(self, module: nn.Module, scope: flax.core.Scope) -> Iterator[None]:
        call = self._mark(module, scope).call
        param = self._param(call, module, scope)
        self._live.add(id(module))
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(_attribute(module, "param", param))
                for attribute, initializer in self._initializers(call, module, scope.path):
                    stack.enter_context(_attribute(module, attribute, initializer))
                yield
        finally:
            self._live.remove(id(module))

    def _mark(self, module: nn.Module, scope: flax.core.Scope) -> _Mark:
        """The mark of the call that a bound module belongs to; a new one for a new root."""
        flag = self.run.token
        mark: Any = scope.flags.get(flag) or scope.root.flags.get(flag)
        if mark is None:
            mark = _Mark(next(self._calls))
        # Modules given as fields have their scopes already, and inherit no more.
        fields = [getattr(module, field.name, None) for field in dataclasses.fields(module)]
        given = [m.scope for m in _modules_in(fields) if m.scope and m.scope.root is scope.root]
        for unmarked in (scope.root, scope, *given):
            if flag not in unmarked.flags:
                unmarked.flags = flax.core.freeze({**unmarked.flags, flag: mark})
        return mark

    def _initializers(self, call: int, module: nn.Module, path: Path) -> Iterator[tuple[str, Any]]:
        """Each attribute of a module that is an initializer of a target, and what replaces it."""
        for name in self._names.get((call, path), ()):
            attribute = _attribute_for(module, name)
            if attribute is None or not _is_settable(module, attribute):
                continue
            param, current = _Param(call, (*path, name)), getattr(module, attribute)
            if isinstance(current, _Replacement) and current.watch is self:
                current = current.original
            if callable(current):
                yield attribute, _Replacement(self, param, current)

    def _param(self, call: int, module: nn.Module, scope: flax.core.Scope) -> Callable[..., Any]:
        """`module.param`, noting what is made."""
        original = module.param

        def param(name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if scope.has_variable("params", name):
                return original(name, init_fn, *args, **kwargs)
            made = _Param(call, (*scope.path, name))
            init = self._replaced(module, made, init_fn) if made in self.run.targets else init_fn
            outer, self.active = self.active, made
            try:
                return original(name, self._marking(made, init), *args, **kwargs)
            finally:
                self.active = outer

        return param

    def _marking(self, param: _Param, init_fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.run.marked(param, init_fn(*args, **kwargs))

    def _replaced(
        self, module: nn.Module, param: _Param, init_fn: Callable[..., Any]
    ) -> Callable[..., Any]:
        """What makes a target where its module's attribute could not be exchanged beforehand."""
        attribute = _attribute_for(module, param.path[-1])
        if attribute is None:
            return init_fn
        current = getattr(module, attribute)
        # None is the convention for a default inside of the module, which is `init_fn` here.
        if current is None or (init_fn == current and not isinstance(current, _Replacement)):
            return _Replacement(self, param, init_fn)
        return init_fn


class _Replacement(StandIn):
    """Stands for a module's initializer, and is the rule's while the module makes the target."""

    def __init__(self, watch: _Watch, param: _Param, original: Callable[..., Any]):
        self.watch, self.param, self.original = watch, param, original

    @property
    def is_wanted(self) -> bool:
        """Whether the param that is being made is the target."""
        return self.watch.active == self.param

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_wanted:  # the module also uses its initializer elsewhere
            return self.original(*args, **kwargs)
        if isinstance(self.original, _Replacement) and self.original.is_wanted:
            self.watch.run.reached.add(self.param)  # rules around rules have the last word
            return self.original(*args, **kwargs)
        made = self.watch.run.made_by_rule(self.param, self.original, args, kwargs)
        return self.original(*args, **kwargs) if made is None else made


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """The modules that a field holds, in whatever containers."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in(item)


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
