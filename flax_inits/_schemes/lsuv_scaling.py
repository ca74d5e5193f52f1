"""LSUV: layers that scale their own weights while the model runs.

The model runs once. As it comes to a chosen layer, that layer alone is run again with its weights
scaled until its output fits; the layers after it see the output of the scaled one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .._base.types import Array, Path, PyTree
from .._modules.linen.tracing import scope_of
from .._tree.leaves import at_least_float32
from .._tree.paths import flatten, show

_STD = "flax_inits.lsuv output std"
"""A param that a scaled layer has while the model runs: lifted transforms bring it out as they
bring out the weights, and its presence says that the layer has its scale."""


class Goal(NamedTuple):
    """The std that each layer's output should have, and how hard to try."""

    std: float
    tol: float
    most: int

    def unmet(self, std: Any) -> Any:
        """Whether a standard deviation is off by more than the tolerance."""
        return abs((std / self.std) ** 2 - 1) > self.tol


def path_of(context: Any) -> Path | None:
    """Where the module is whose `__call__` was intercepted; None for any other call."""
    scope = scope_of(context.module)
    return scope.path if scope and context.method_name == "__call__" else None


def scaled(
    apply: Callable,
    variables: PyTree,
    inputs: tuple,
    layers: Mapping[Path, Sequence[Path]],
    goal: Goal,
) -> tuple[dict[Path, Array], dict[Path, Array]]:
    """The scaled weights, and the standard deviation of each layer's output, in one program."""
    paths = [path for paths in layers.values() for path in paths]

    def run(variables: PyTree, inputs: tuple) -> tuple[list[Array], list[Array]]:
        with nn.intercept_methods(_Scaler(layers, goal)):
            made = apply(variables, inputs)
        found = dict(zip(*flatten(made)[:2], strict=True))
        return [found[path] for path in paths], [found["params", *layer, _STD] for layer in layers]

    try:
        weights, stds = jax.jit(run)(variables, inputs)
    except (ValueError, flax.errors.FlaxError) as error:  # The model itself was traced before.
        raise ValueError(
            "lsuv could not put scaled weights back into the model. Weights that the steps of an "
            "nn.scan share (nn.RNN does that), or the slices of an nn.vmap, have no one output to "
            "be scaled by, and those of nn.WeightNorm are normalized; leave them out of where."
        ) from error
    return dict(zip(paths, weights, strict=True)), dict(zip(layers, stds, strict=True))


class _Scaler:
    """Runs each chosen layer with its weights scaled, and leaves them so."""

    def __init__(self, layers: Mapping[Path, Sequence[Path]], goal: Goal):
        self._layers, self._goal = layers, goal
        self._inside = False

    def __call__(self, method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        module = context.module
        path = None if self._inside else path_of(context)
        if path is None or path not in self._layers or module.has_variable("params", _STD):
            return method(*args, **kwargs)
        names = [weight[-1] for weight in self._layers[path]]
        own = {name: module.variables["params"][name] for name in names}
        rerun = _alone(module, args, kwargs)
        self._inside = True
        try:
            output, scale, std = _fit(lambda scale: rerun(_times(own, scale)), self._goal)
        finally:
            self._inside = False
        for name, weights in _times(own, scale).items():
            module.put_variable("params", name, weights)
        module.put_variable("params", _STD, std)
        return output


def _alone(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Callable[[dict], Array]:
    """A bound module's call as a pure function of some of its params."""
    assert module.scope is not None
    variables = module.variables
    copy = module.clone(parent=None, name=None)
    rngs = {name: module.make_rng(name) for name in module.scope.rngs}

    def rerun(params: dict[str, Any]) -> Array:
        given = {**variables, "params": {**variables["params"], **params}}
        everything = flax.core.DenyList(())
        return copy.apply(given, *args, rngs=rngs, mutable=everything, **kwargs)[0]

    return rerun


def _times(weights: PyTree, scale: Array) -> PyTree:
    """Each array, in its box if it has one, times `scale`."""

    def times(leaf: Array) -> Array:
        wide = at_least_float32(leaf.dtype)
        return (leaf.astype(wide) * scale.astype(wide)).astype(leaf.dtype)

    return jax.tree.map(times, weights)


def _fit(output: Callable[[Array], Array], goal: Goal) -> tuple[Array, Array, Array]:
    """(output, scale, std) for the first scale that meets the goal, or the last that is tried."""

    def measured(scale: Array) -> tuple[Array, Array, Array]:
        values = output(scale)
        wide = values.astype(at_least_float32(values.dtype))
        return values, scale, wide.std().astype(jnp.float32)

    def goes_on(state: tuple) -> Array:
        step, (_, _, std) = state
        return (step < goal.most) & goal.unmet(std) & (std > 0) & jnp.isfinite(std)

    def improved(state: tuple) -> tuple:
        step, (_, scale, std) = state
        return step + 1, measured(scale * goal.std / std)

    start = jnp.zeros((), jnp.int32), measured(jnp.ones((), jnp.float32))
    return lax.while_loop(goes_on, improved, start)[1]


def check_std(layer: Path, stds: Array, goal: Goal) -> None:
    """Raises for the first layer, in order, whose output is not what was asked for."""
    if isinstance(stds, Tracer):
        return
    name, found = show(layer) or "the model itself", np.atleast_1d(np.asarray(stds)).ravel()
    if not np.isfinite(found).all():
        raise ValueError(
            f"The output of {name!r} is not finite on this batch: look for NaN or infinity in the "
            "inputs and in the params before it."
        )
    if (found == 0).any():
        raise ValueError(
            f"The output of {name!r} is the same everywhere on this batch, so no scale gives it a "
            "variance: its inputs are all zero (dead units before it, or a residual branch that "
            "starts at zero), or the batch holds one example only. Leave it out of where."
        )
    if (off := found[goal.unmet(found)]).size:
        raise ValueError(
            f"The output of {name!r} has standard deviation {off[0]:.3g} after "
            f"{goal.most} steps, where {goal.std:.3g} is asked for. Something else than "
            "its weights holds it there, such as a large bias or a norm in the layer: set biases "
            "to zero, allow more steps or a larger tol, or leave it out of where."
        )
