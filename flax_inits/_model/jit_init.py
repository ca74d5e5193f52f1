"""Whole-model initialization: trace, plan, compile each distinct recipe once, run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import Sharding

from .._base.cache import Cache
from .._base.errors import brief, called_with
from .._base.jax_state import configuration, tracing
from .._base.pickling import refuse_to_pickle
from .._base.types import Array, Path, PyTree, Rules
from .._engine.compile import compiled, programs
from .._engine.execute import execute
from .._engine.jaxpr import Traced, trace
from .._engine.keys import Deriver
from .._engine.make import Inline, jobs_of
from .._engine.recipe import Job
from .._modules.reach import WithRules, with_rules
from .._tree.modules import Way, opened
from .._tree.paths import flatten
from .nnx_arguments import change, changes, nnx_objects
from .out_shardings import OutShardings, asked_for
from .plan import Plan
from .progress import Progress
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
    jitted = jax.jit(fun, static_argnums=static_argnums, static_argnames=static_argnames)
    statics = Statics(fun, static_argnums, static_argnames)
    reached = None if rules is None else with_rules(fun, rules)
    return JitInit(fun, reached, out_shardings, statics, progress, jitted)


class _Planned(NamedTuple):
    """What is known of one call before anything is computed."""

    traced: Traced
    paths: list[Path]
    treedef: Any
    shardings: list[Sharding | None]
    jobs: list[Job] | None
    """None if the whole function must be compiled as it stands."""

    whole: Any
    """The whole function, jitted."""

    reached: dict[Path, str]
    way: Way
    """From the tree that is made to what `fun` returns."""


class JitInit:
    """A function that makes parameters; see `jit_init`."""

    __reduce__ = refuse_to_pickle

    def __init__(
        self,
        fun: Callable[..., PyTree],
        reached: WithRules | None,
        out_shardings: Any,
        statics: Statics,
        progress: bool | None,
        jitted: Any,
    ):
        functools.update_wrapper(self, fun)
        self._fun, self._reached, self._out_shardings = fun, reached, out_shardings
        self._statics, self._progress, self._jitted = statics, progress, jitted
        self._known: Cache[_Planned] = Cache(32)  # by the shapes of arguments
        self._inlined: Cache[Callable[[Any], tuple[PyTree, Way]]] = Cache(32)
        self._changing: Cache[Callable[[Any], list[dict[int, Array]]]] = Cache(32)

    def __repr__(self) -> str:
        owner, name = getattr(self._fun, "__self__", None), getattr(self._fun, "__name__", None)
        if owner is not None:
            name = f"{type(owner).__name__}.{name}"
        return f"jit_init({name or brief(self._fun)})"

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        """As `jax.jit(fun)(*args, **kwargs)`; NNX objects are changed as under `nnx.jit`."""
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves) or tracing():
            return self._inline(args, kwargs)
        try:
            arrays, planned = self._planned(args, kwargs)
        except Inline:
            return self._inline(args, kwargs)
        if planned.jobs is None:
            tree = planned.whole(arrays)
        else:
            deriver = Deriver(jax.tree.leaves(arrays))
            with Progress(self._progress, planned.jobs) as progress:
                made = execute([(job, deriver) for job in planned.jobs], progress.done)
            tree = planned.treedef.unflatten([made[i] for i in range(len(made))])
        self._change_objects(args, kwargs)
        return planned.way(tree)

    def _change_objects(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Changes the NNX objects among the arguments as a call of `fun` would."""
        objects = nnx_objects((args, kwargs))
        if not objects:
            return
        arrays, static = self._statics.split(args, kwargs)
        known = self._changing.find(static)
        if known is None:

            def run(arrays: Any) -> list[dict[int, Array]]:
                return changes(nnx_objects(arrays), lambda: self._made(arrays, static))

            known = self._changing.keep(static, jax.jit(run))
        change(objects, known(arrays))

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What a call would make, from what, and where; nothing is compiled or computed.

        Args:
            *args: as in a call; arrays may be abstract (`jax.ShapeDtypeStruct`).
            **kwargs: likewise.

        Returns:
            A table that prints well; `rows` is plain data.
        """
        _, planned = self._planned(args, kwargs)
        return Plan.of(
            planned.traced, planned.paths, planned.shardings, planned.jobs, planned.reached
        )

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
        if planned.jobs is None:
            whole = planned.whole.lower(arrays)
            return Lowered(((tuple(planned.paths), whole),), lambda: [whole.compile()])
        deriver = Deriver(())
        runs, found = [], []
        for run in programs([(job, deriver) for job in planned.jobs]):
            positions = [i for job, _ in run.tasks for i in job.positions]
            lowered = run.lower()
            found.append((tuple(planned.paths[i] for i in positions), lowered))
            runs.append(run._replace(lower=lambda lowered=lowered: lowered))
        return Lowered(tuple(found), functools.partial(compiled, runs))

    def _inline(self, args: tuple, kwargs: dict[str, Any]) -> PyTree:
        if self._reached is None:
            return self._fun(*args, **kwargs)
        # Rules are applied in a context of their own, in which nothing that was compiled before
        # is known; as one jitted function it is compiled once all the same.
        arrays, static = self._statics.split(args, kwargs)
        inlined = self._inlined.find(static)
        if inlined is None:
            run = jax.jit(lambda arrays: opened(self._made(arrays, static)[0]))
            inlined = self._inlined.keep(static, run)
        tree, way = inlined(arrays)
        self._change_objects(args, kwargs)
        return way(tree)

    def _planned(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, _Planned]:
        """The arrays among the arguments, and what is known of a call with their like."""
        with self._explained(args, kwargs):
            try:
                arrays, static = self._statics.split(args, kwargs)
                return arrays, self._cached(arrays, static)
            except TypeError as error:
                failure = error
            # In its own words, with the user's names of functions and arguments.
            self._jitted.trace(*args, **kwargs)
            raise failure

    @contextlib.contextmanager
    def _explained(self, args: tuple, kwargs: dict[str, Any]) -> Iterator[None]:
        """Adds to an error what the function was called with, and what could be static."""
        try:
            yield
        except Inline:
            raise
        except Exception as error:
            error.add_note(f"while {self!r} traced the call ({called_with(args, kwargs)})")
            if isinstance(error, jax.errors.ConcretizationTypeError):
                error.add_note(self._statics.advice(args, kwargs))
            raise

    def _cached(self, arrays: Any, static: tuple) -> _Planned:
        leaves, treedef = jax.tree.flatten(arrays)
        places = tuple(
            leaf.sharding if getattr(leaf, "committed", False) else None for leaf in leaves
        )
        signature = tuple(map(_abstract, leaves)), places, configuration()
        cache_key = (treedef, static, signature)
        known = self._known.find(cache_key)
        return self._known.keep(cache_key, self._plan(arrays, static)) if known is None else known

    def _plan(self, arrays: Any, static: tuple) -> _Planned:
        reached: dict[Path, str] = {}
        ways: list[Way] = []

        def run(arrays: Any) -> PyTree:
            tree, how = self._made(arrays, static)
            reached.update(how)
            tree, way = opened(tree)
            ways.append(way)
            return tree

        traced = trace(run, arrays)
        if traced.closes_over_tracers:
            raise Inline
        paths, _, treedef = flatten(traced.shape)
        asked = asked_for(self._out_shardings, ways[0](traced.shape), paths)
        shardings, jobs = _jobs(traced, jax.tree.leaves(arrays), asked)
        whole = jax.jit(run, out_shardings=treedef.unflatten(asked) if any(asked) else None)
        return _Planned(traced, paths, treedef, shardings, jobs, whole, reached, ways[0])

    def _made(self, arrays: Any, static: tuple) -> tuple[PyTree, dict[Path, str]]:
        args, kwargs = self._statics.join(arrays, static)
        if self._reached is None:
            return self._fun(*args, **kwargs), {}
        return self._reached.made(tuple(args), kwargs)


def _jobs(
    traced: Traced, arguments: Sequence[Any], asked: list[Sharding | None]
) -> tuple[list[Sharding | None], list[Job] | None]:
    """Where each leaf is made, and the jobs that make them."""
    try:
        places = OutShardings(traced, arguments, asked)
    except Exception:  # The representation has no stability promise; jax.jit always works.
        return asked, None
    if places.decided_by_jit:
        return asked, None
    return places.shardings, jobs_of(traced, dict(enumerate(places.shardings)))


class Lowered(NamedTuple):
    """Programs that are lowered, each with the paths of the leaves that it makes."""

    __reduce__ = refuse_to_pickle

    programs: tuple[tuple[tuple[Path, ...], Any], ...]
    """Pairs of leaf paths and `jax.stages.Lowered`."""

    compiler: Callable[[], Sequence[Any]]

    def compile(self) -> Compiled:
        """Compiles every program; a call of the function then finds them."""
        paths = [paths for paths, _ in self.programs]
        return Compiled(tuple(zip(paths, self.compiler(), strict=True)))


class Compiled(NamedTuple):
    """Programs that are compiled: pairs of leaf paths and `jax.stages.Compiled`."""

    __reduce__ = refuse_to_pickle

    programs: tuple[tuple[tuple[Path, ...], Any], ...]


def _abstract(leaf: Any) -> Any:
    return jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf
