"""LSUV: layers that scale their own weights while the model runs.

The model runs once. As it comes to a chosen layer, that layer alone is run again with its weights
scaled until its output fits; the layers after it see the output of the scaled one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from .._base.types import Array, Path, PyTree
from .._modules.calls import Layer, watching
from .._tree.leaves import at_least_float32
from .._tree.modules import opened
from .._tree.paths import flatten, show

_STD = "flax_inits_lsuv_output_std"
"""What a scaled layer holds further while the model runs: transforms of modules bring it out as
they bring out the weights, and its presence says that the layer has its scale."""

Apply: TypeAlias = Callable[[PyTree, tuple], PyTree]
"""The model: from its tree and inputs to the tree after the call."""


class Goal(NamedTuple):
    """The std that each layer's output should have, and how hard to try."""

    std: float
    tol: float
    most: int

    def unmet(self, std: Any) -> Any:
        """Whether a standard deviation is off by more than the tolerance."""
        return abs((std / self.std) ** 2 - 1) > self.tol


def scaled_weights(
    apply: Apply,
    tree: PyTree,
    inputs: tuple,
    layers: Mapping[Path, Sequence[Path]],
    above: Path,
    goal: Goal,
) -> tuple[dict[Path, Array], dict[Path, Array]]:
    """The scaled weights, and the standard deviation of each layer's output, in one program."""
    paths = [path for paths in layers.values() for path in paths]
    tree, way = opened(tree)

    def run(tree: PyTree, inputs: tuple) -> tuple[list[Array], list[Array]]:
        whole = way(tree)
        with watching(_Scaler(layers, goal), whole):
            made = apply(whole, inputs)
        found = dict(zip(*flatten(made)[:2], strict=True))
        return [found[path] for path in paths], [found[*above, *layer, _STD] for layer in layers]

    try:
        weights, stds = jax.jit(run)(tree, inputs)
    except (ValueError, KeyError, flax.errors.FlaxError) as error:  # The model was traced before.
        raise ValueError(
            "lsuv could not put scaled weights back into the model. Weights that the steps of a "
            "scan share (nn.RNN does that), or the slices of a vmap, have no one output to be "
            "scaled by, and those of nn.WeightNorm are normalized; leave them out of where."
        ) from error
    return dict(zip(paths, weights, strict=True)), dict(zip(layers, stds, strict=True))


class _Scaler:
    """Runs each chosen layer with its weights scaled, and leaves them so."""

    def __init__(self, layers: Mapping[Path, Sequence[Path]], goal: Goal):
        self._layers, self._goal = layers, goal
        self._inside = False

    def __call__(
        self, layer: Layer, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        if self._inside or layer.path not in self._layers or layer.left(_STD):
            return call(*args, **kwargs)
        own, rerun = layer.alone([path[-1] for path in self._layers[layer.path]], args, kwargs)
        self._inside = True
        try:
            output, scale, std = _fit(lambda scale: rerun(_times(own, scale)), self._goal)
        finally:
            self._inside = False
        layer.leave(_times(own, scale), _STD, std)
        return output


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
    """Raises if the output of a layer, or of a step of it in a scan, is not as was asked for."""
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
