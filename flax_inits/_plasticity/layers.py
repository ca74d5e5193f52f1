"""The layers of `recycle`: which arrays hold a unit's weights, and where in them."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._base import checks
from .._base.errors import did_you_mean, listed
from .._base.types import PyTree
from .._tree.forms import is_literal
from .._tree.leaves import is_concrete
from .._tree.paths import flatten, show

_PARTS = ("kernel", "bias", "norm", "feeds", "spatial")
_NORMS = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}


class Edit(NamedTuple):
    """New values along one axis of a leaf, where a layer's mask is true."""

    layer: str
    axis: int
    """Counted from the end."""

    repeats: int
    """How often the units follow each other along the axis: the positions that were flattened."""

    value: float | None
    """None is a fresh value, from the draw of `role`."""

    role: str
    """'incoming', 'outgoing' or 'unit'."""


class LayerEdits:
    """What a user's `layers` and masks mean for the params: the edits of each leaf, checked."""

    def __init__(
        self, params: PyTree, masks: Mapping[str, Any], layers: Mapping[str, Any], outgoing: Any
    ) -> None:
        self.names, self.leaves, self.treedef = flatten(params)
        self._index = {name: i for i, name in enumerate(self.names)}
        self._shown = {show(name): i for i, name in enumerate(self.names)}
        self.of_leaf: dict[int, list[Edit]] = collections.defaultdict(list)
        _check_names(masks, layers)
        self.masks = {name: _mask(name, masks[name]) for name in layers if name in masks}
        for name in self.masks:
            self._incoming(name, layers[name])
        # After all that is incoming: where both meet, the outgoing rows win.
        for name in self.masks:
            self._outgoing(name, layers[name], outgoing)

    def _incoming(self, name: str, layer: Mapping[str, Any]) -> None:
        kernels = self._leaves(name, "kernel", layer["kernel"])
        biases = self._leaves(name, "bias", layer.get("bias"))
        new: list[tuple[int, float | None, str]] = [(i, None, "incoming") for i in kernels]
        new += [(i, 0.0, "unit") for i in biases]
        new += [(i, value, "unit") for i, value in self._norms(name, layer.get("norm"))]
        for i, value, role in new:
            self._units(name, i, -1)
            self.of_leaf[i].append(Edit(name, -1, 1, value, role))

    def _outgoing(self, name: str, layer: Mapping[str, Any], outgoing: Any) -> None:
        feeds = layer["feeds"]
        axes = list(feeds.values()) if isinstance(feeds, Mapping) else None
        targets = self._leaves(name, "feeds", list(feeds) if axes is not None else feeds)
        for i, axis in zip(targets, axes or [-2] * len(targets), strict=True):
            what = f"the axis at which layer {name!r} feeds {show(self.names[i])!r}"
            axis, ndim = checks.integer("recycle", what, axis), np.ndim(self.leaves[i])
            if not -ndim <= axis < ndim:
                raise ValueError(
                    f"Layer {name!r} feeds {show(self.names[i])!r} at axis {axis}, but that has "
                    f"shape {np.shape(self.leaves[i])}. Say at which axis its inputs are: "
                    "'feeds': {path: axis}."
                )
            axis -= ndim if axis >= 0 else 0
            repeats = self._units(name, i, axis, fed_by=layer)
            if outgoing != "keep":
                value = 0.0 if isinstance(outgoing, str) else None
                self.of_leaf[i].append(Edit(name, axis, repeats, value, "outgoing"))

    def _units(self, name: str, i: int, axis: int, fed_by: Mapping[str, Any] | None = None) -> int:
        """How often the layer's units are along the axis: once, or for each flattened position."""
        shape, units = np.shape(self.leaves[i]), self.masks[name].shape[0]
        size = shape[axis] if len(shape) >= -axis else 0
        spatial = None if fed_by is None else fed_by.get("spatial")
        positions = 1 if spatial is None else _positions(name, spatial)
        if size in (units, units * positions):
            return size // units
        fix = f"it must have {units}" if fed_by else "its mask must have as many"
        if spatial is not None:
            fix += f", or {units * positions} where feature maps of {spatial} are flattened"
        elif fed_by is not None and size and size % units == 0:
            fix += (
                ". If feature maps are flattened into it, say their size in space, "
                f"'spatial': (height, width), here {size // units} positions"
            )
        raise ValueError(
            f"The mask of layer {name!r} has {units} units, but {show(self.names[i])!r} of "
            f"shape {shape} has {size} along axis {axis}; {fix}."
        )

    def _leaves(self, name: str, part: str, given: Any) -> list[int]:
        found = []
        for path in _as_list(given):
            shown = show(path) if is_literal(path) else str(path)
            known: Any = self._shown if isinstance(path, str) else self._index
            if shown not in self._shown or (i := known.get(path)) is None:
                raise ValueError(
                    f"{part!r} of layer {name!r} names {path!r}, but params has no such leaf."
                    f"{did_you_mean(shown, self._shown)}"
                )
            found.append(i)
        return found

    def _norms(self, name: str, given: Any) -> list[tuple[int, float]]:
        if isinstance(given, Mapping):
            what = f"a leaf in 'norm' of layer {name!r}"
            values = [checks.number("recycle", what, value) for value in given.values()]
            return list(zip(self._leaves(name, "norm", list(given)), values, strict=True))
        found = []
        for node in _as_list(given):
            prefix = node if is_literal(node) else tuple(str(node).split("/"))
            below = [p for p in self.names if p[: len(prefix)] == prefix]
            if not below or any(path[-1] not in _NORMS for path in below):
                raise ValueError(
                    f"'norm' of layer {name!r} names {node!r}, which must hold only leaves called "
                    f"{listed(list(_NORMS))}; it holds {listed([show(p) for p in below]) or 'none'}"
                    ". Give a mapping from leaf to the value of a new unit: {'a/scale': 1.0}."
                )
            found += [(self._index[path], _NORMS[path[-1]]) for path in below]
        return found


def _as_list(given: Any) -> list[Any]:
    """What a layer gives for a part: nothing, one path, or a list of them."""
    return given if isinstance(given, list) else [given] if given is not None else []


def _check_names(masks: Mapping[str, Any], layers: Mapping[str, Any]) -> None:
    if not isinstance(masks, Mapping) or not isinstance(layers, Mapping):
        raise TypeError(
            "masks and layers are mappings by layer: {'hidden': mask} and {'hidden': {'kernel': "
            f"..., 'feeds': ...}}}}; got {type(masks).__name__} and {type(layers).__name__}."
        )
    for name in masks:
        if name not in layers:
            raise ValueError(
                f"masks has a layer {name!r}, which layers does not describe."
                f"{did_you_mean(str(name), map(str, layers))}"
            )
    if not masks:
        raise ValueError("masks is empty: give a mask for at least one layer.")
    for name, layer in layers.items():
        _check_layer(name, layer)


def _check_layer(name: str, layer: Any) -> None:
    if not isinstance(layer, Mapping):
        raise TypeError(
            f"Layer {name!r} must be a mapping of its parts, {{'kernel': path, 'feeds': "
            f"path}}; got {layer!r}."
        )
    unknown = [part for part in layer if part not in _PARTS]
    if unknown:
        raise ValueError(
            f"Layer {name!r} has {listed(unknown)}; it may have {listed(_PARTS)}."
            f"{did_you_mean(str(unknown[0]), _PARTS)}"
        )
    if not layer.get("kernel") or not layer.get("feeds"):
        lacks = "feeds" if layer.get("kernel") else "kernel"
        raise ValueError(
            f"Layer {name!r} has no {lacks!r}. Each needs the kernel that makes its units and "
            "the kernels that they feed; the output layer feeds none and is not recycled."
        )


def _positions(name: str, spatial: Any) -> int:
    sizes = spatial if isinstance(spatial, Sequence) else [spatial]
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(
            f"'spatial' of layer {name!r} must be the size of its feature maps, such as (7, 7); "
            f"got {spatial!r}."
        )
    return math.prod(sizes)


def _mask(name: str, mask: Any) -> Any:
    if not hasattr(mask, "dtype") or mask.dtype != np.bool_ or mask.ndim != 1 or not mask.shape[0]:
        what = f"{mask.dtype}{list(mask.shape)}" if hasattr(mask, "dtype") else repr(mask)
        sown = isinstance(mask, tuple) and len(mask) > 0
        fix = " What self.sow keeps is a tuple with one entry for each call: take [0]." * sown
        raise ValueError(
            f"The mask of layer {name!r} must be a bool array with one entry for each unit, as "
            f"dormant returns for the activations of one call; got {what}.{fix}"
        )
    # A mask must not bring the params to the devices that its activations were on.
    return np.asarray(mask) if is_concrete(mask) and mask.is_fully_replicated else mask
