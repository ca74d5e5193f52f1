"""Whole-model initialization: trace, plan, compile each distinct recipe once, run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._base.cache import Cache
from .._base.errors import brief, called_with
from .._base.jax_state import configuration, tracing
from .._base.pickling import refuse_to_pickle
from .._base.types import Path, PyTree, Rules
from .._engine.fallback import CLOSES_OVER_TRACERS
from .._modules.reach import WithRules, with_rules
from .._tree.modules import is_module, opened
from .lowered import Lowered
from .nnx_arguments import change, changes, nnx_objects
from .plan import Plan
from .planned import Planned, planned
from .static_args import Statics


def jit_init(
    fun: Callable[..., PyTree],
    *,
    rules: Rules | None = None,
    out_shardings: Any = None,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    progress: bool | None = None,
) -> JitInit:
    """`jax.jit` for functions that make parameters: the same values, compiled many times faster.

    `jax.jit(model.init)` compiles one program in which every layer's draw stands again. Here `fun`
    is traced, each output leaf is cut back to what it needs, and leaves that differ in nothing but
    their key share one program.

    Args:
        fun: any function of PRNG keys and arrays: a Linen `model.init` or `init_with_output`,
            `lambda key: nnx.split(Model(rngs=nnx.Rngs(key)))[1]`, a Haiku or plain JAX function.
        rules: where -> initializer, as in `reinit`. Paths start at the root of what `fun` returns
            (`"params/head"`). A module that made the leaf with an attribute `<name>_init`, or an
            NNX module with an argument of such a name, calls the rule's initializer itself, with
            the shape and key that it would have used; any other leaf gets it at its stored shape,
            with the key of `reinit`.
        out_shardings: a tree of shardings, or a prefix of one, or a function from the abstract
            output to one, such as `lambda tree: nn.get_sharding(tree, mesh)`. Each leaf is created
            on its devices. What None leaves open is made where `jax.jit` would make it: replicated
            beside leaves that are sharded, else on the default device.
        static_argnums: positions of arguments that are no arrays, as in `jax.jit`.
        static_argnames: names of arguments that are no arrays, as in `jax.jit`: `"train"` for
            `init(key, x, train=False)`.
        progress: False never shows a progress bar; None shows one if it takes more than a second
            and stderr is a terminal; True also where stderr is none.

    Returns:
        A function with the arguments and the result of `jax.jit(fun)`, bit for bit, and with the
        methods `plan` and `lower`. With tracers among its arguments (under `jit`, `vmap`, `pmap`,
        `eval_shape`) it calls `fun` inline.

    Raises:
        TypeError: `fun` is no function (give `model.init`, not the model), or rules are none.
        ValueError: rules or out_shardings do not fit what `fun` returns (raised when called).

    >>> import flax_inits, flax.linen as nn, jax, jax.numpy as jnp
    >>> model, x = nn.Dense(4), jnp.ones((1, 3))
    >>> init = flax_inits.jit_init(model.init, rules={"params/bias": flax_inits.constant(1.0)})
    >>> init(jax.random.key(0), x)["params"]["bias"]
    Array([1., 1., 1., 1.], dtype=float32)
    """
    if not callable(fun) or callable(getattr(fun, "init", None)):
        hint = ": give its method init." if hasattr(fun, "init") else "."
        raise TypeError(f"jit_init needs a function that makes parameters, got {brief(fun)}{hint}")
    statics = Statics(fun, static_argnums, static_argnames)
    ruled = None if rules is None else with_rules(fun, rules)
    return JitInit(fun, ruled, out_shardings, statics, progress)


class JitInit:
    """A function that makes parameters; see `jit_init`."""

    __reduce__ = refuse_to_pickle

    def __init__(
        self,
        fun: Callable[..., PyTree],
        ruled: WithRules | None,
        out_shardings: Any,
        statics: Statics,
        progress: bool | None,
    ):
        functools.update_wrapper(self, fun)
        self._fun, self._with_rules, self._out_shardings = fun, ruled, out_shardings
        self._statics, self._progress = statics, progress
        self._known: Cache[Planned] = Cache(32)  # by the shapes of arguments
        self._jitted = statics.jitted(fun)
        self._inlined = statics.jitted(lambda *a, **k: opened(self._made(a, k)[0]))
        self._changes = statics.jitted(
            lambda *a, **k: changes(nnx_objects((a, k)), lambda: self._made(a, k))
        )

    def __repr__(self) -> str:
        owner, name = getattr(self._fun, "__self__", None), getattr(self._fun, "__name__", None)
        if owner is not None:
            name = f"{type(owner).__name__}.{name}"
        return f"jit_init({name or brief(self._fun)})"

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """As `jax.jit(fun)(*args, **kwargs)`; NNX objects are changed as under `nnx.jit`."""
        # Under a trace there is nothing to compile yet: the program is the caller's.
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves) or tracing():
            return self._inline(args, kwargs)
        arrays, planned = self._planned(args, kwargs)
        if planned.jobs is CLOSES_OVER_TRACERS:
            return self._inline(args, kwargs)
        # Objects change last: a call that fails has changed nothing.
        tree = planned.made(arrays, self._progress)
        self._change_objects(args, kwargs)
        return planned.way(tree)

    def _change_objects(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Changes the NNX objects among the arguments as a call of `fun` would."""
        if objects := nnx_objects((args, kwargs)):
            change(objects, self._changes(*args, **kwargs))

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Tells what a call would make, from what, and where; nothing is compiled or computed.

        Args:
            *args: as in a call; arrays may be abstract (`jax.ShapeDtypeStruct`).
            **kwargs: likewise.

        Returns:
            A table that prints well; `rows` is plain data.
        """
        return self._planned(args, kwargs)[1].plan()

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Lowers every program of a call, for checking a configuration ahead of time.

        Args:
            *args: as in a call; arrays may be abstract (`jax.ShapeDtypeStruct`).
            **kwargs: likewise.

        Returns:
            An object whose `compile()` compiles them, also for devices that are not there (with
            `out_shardings` over a mesh of `jax.experimental.topologies`).
        """
        arrays, planned = self._planned(args, kwargs)
        return planned.lowered(arrays)

    def _inline(self, args: tuple, kwargs: dict[str, Any]) -> PyTree:
        if self._with_rules is None:
            return self._fun(*args, **kwargs)
        # Rules are applied in a context of their own, in which nothing that was compiled before
        # is known; as one jitted function it is compiled once all the same.
        tree, way = self._inlined(*args, **kwargs)
        self._change_objects(args, kwargs)
        return way(tree)

    def _planned(self, args: tuple, kwargs: dict[str, Any]) -> tuple[PyTree, Planned]:
        """Finds the arrays among the arguments, and what is known of a call with their like."""
        try:
            try:
                arrays, static = self._statics.split(args, kwargs)
                return arrays, self._cached(arrays, static)
            except TypeError as error:
                failure = error
            # In its own words, with the user's names of functions and arguments.
            self._jitted.trace(*args, **kwargs)
            raise failure
        except Exception as error:
            error.add_note(f"while {self!r} traced the call ({called_with(args, kwargs)})")
            if is_module(self._fun):
                error.add_note(
                    "jit_init was given a module, which it calls: to make one, give its class."
                )
            if isinstance(error, jax.errors.ConcretizationTypeError) or "concrete" in str(error):
                error.add_note(self._statics.advice(args, kwargs))
            raise

    def _cached(self, arrays: PyTree, static: tuple) -> Planned:
        # `jax.jit(fun).trace` would tell equal calls by itself, but takes twice as long to look one
        # up, and five times with hundreds of arrays (150 us and 6 ms against 80 us and 1.3 ms).
        leaves, treedef = jax.tree.flatten(arrays)
        shardings = tuple(
            leaf.sharding if getattr(leaf, "committed", False) else None for leaf in leaves
        )
        cache_key = (treedef, static, tuple(map(_abstract, leaves)), shardings, configuration())
        known = self._known.find(cache_key)
        if known is not None:
            return known
        found = planned(
            lambda arrays: self._made(*self._statics.join(arrays, static)),
            arrays,
            self._out_shardings,
        )
        if found.jobs is CLOSES_OVER_TRACERS:
            return found  # They are of one trace, which another call must not find.
        return self._known.keep(cache_key, found)

    def _made(self, args: tuple, kwargs: dict[str, Any]) -> tuple[PyTree, dict[Path, str]]:
        """Makes the tree, and tells how each leaf was made that a rule has won."""
        if self._with_rules is None:
            return self._fun(*args, **kwargs), {}
        return self._with_rules.made(args, kwargs)


def _abstract(leaf: Any) -> Any:
    return jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf
