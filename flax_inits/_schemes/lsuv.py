"""LSUV: what may be asked for, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .._base import checks
from .._base.errors import listed, noted
from .._base.types import Key, Path, PyTree, Where
from .._modules.calls import Layer, watching
from .._modules.network import Network, in_short, network_of
from .._surgery.reinit import reinit
from .._tree.forms import describe
from .._tree.modules import drawn_key, opened
from .._tree.paths import flatten, show
from ..initializers.structured.orthogonal import orthogonal
from .leaves import among, chosen_paths, with_leaves
from .lsuv_scaling import Apply, Goal, check_std, scaled_weights


def lsuv(
    key: Key,
    model: Any,
    variables: PyTree = None,
    batch: Any = None,
    *,
    target_std: float = 1.0,
    tol: float = 0.1,
    max_iter: int = 10,
    where: Where = None,
    rngs: Mapping[str, Key] | None = None,
    init_fn: Callable[[Key], PyTree] | None = None,
    **kwargs: Any,
) -> PyTree:
    """Layer-sequential unit variance: orthogonal weights, scaled until each output's std fits.

    In the order in which the model runs its layers, each chosen W becomes orthogonal and then

        W *= target_std / std(output)   until   |var(output) / target_std² - 1| <= tol

    with the variance over the whole output. The model runs once: only the layer at hand is run
    again, once where its biases are zero. A scan over layers gives each its own scale; a layer
    that is called several times gets its scale at the first call.

    Args:
        key: one PRNG key, for the orthogonal start; or an `nnx.Rngs`, of which one is drawn.
        model: a Linen module, or an NNX module, after which comes the batch: `lsuv(key, model, x)`.
        variables: of a Linen module, what `model.init` returns, `{"params": ..., ...}`, of arrays.
        batch: a batch of real inputs: what `model` takes, or a tuple of several such.
        target_std: the standard deviation that each output gets.
        tol: how far a variance may be off, as a share of the wanted one.
        max_iter: how often one layer's weights may be scaled.
        where: the weights (see `select`; paths start at the root of `variables`, or of the NNX
            module). The outputs of the modules that hold them are what is measured. None is every
            kernel: `"params/**/kernel"`, or `"**/kernel"` of NNX.
        rngs: what `model.apply` takes besides params, such as `{"dropout": key}`.
        init_fn: `key -> tree` with the chosen weights, whose modules then draw the orthogonal
            ones, with the shapes that they initialize. None is `model.init`. An NNX module has
            forgotten how it was made: where its weights are stacked, or of attention, give
            `lambda key: Model(nnx.Rngs(key))`; else they are drawn at their stored shapes.
        **kwargs: further arguments of the model, such as `train=False`, or Linen's `method`.

    Returns:
        Variables of the same structure, containers, boxes, dtypes and shardings; what is not
        chosen are the same objects. Of an NNX module a new one, with new variables around the
        same kept arrays.

    Raises:
        ValueError: `where` selects nothing, or what is no weight of the model; a chosen layer does
            not run, holds other chosen layers, or puts out no single array; an output is constant,
            not finite, or still off after `max_iter` steps (none of these three is checked under
            `jit`); weights are shared by the steps of a scan, as in `nn.RNN`, or by the slices of
            a vmap, or normalized by `nn.WeightNorm`.
        TypeError: `model` is no module of Linen or NNX; the batch is missing.

    >>> import flax_inits, flax.linen as nn, jax
    >>> model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(10)])
    >>> x = jax.random.normal(jax.random.key(0), (128, 20))
    >>> variables = model.init(jax.random.key(1), x)
    >>> variables = flax_inits.lsuv(jax.random.key(2), model, variables, x)
    >>> round(float(model.apply(variables, x).std()), 2)
    1.0

    Reference:
        Mishkin & Matas 2016, All you need is a good init, https://arxiv.org/abs/1511.06422
    """
    goal = Goal(
        checks.positive("lsuv", "target_std", target_std),
        checks.positive("lsuv", "tol", tol),
        checks.count("lsuv", "max_iter", max_iter),
    )
    network = network_of(model)
    if network is None:
        raise TypeError(
            "lsuv needs a Linen module, an instance of nn.Module, or an nnx.Module; got "
            f"{in_short(model)}."
        )
    tree, batch = _given(network, variables, batch)
    where = "/".join((*network.above, "**", "kernel")) if where is None else where
    inputs = batch if isinstance(batch, tuple) else (batch,)
    layers = _layers(network, tree, where)

    def apply(tree: PyTree, inputs: tuple) -> PyTree:
        return network.after(tree, inputs, kwargs, rngs)

    order = _order(apply, tree, inputs, layers, where)
    chosen = {path for paths in layers.values() for path in paths}
    init_fn = network.maker(inputs, kwargs, rngs) if init_fn is None else init_fn
    key, advance = drawn_key(key)
    started = reinit(key, tree, {among(chosen, where): orthogonal()}, init_fn=init_fn)
    weights, stds = scaled_weights(apply, started, inputs, layers, network.above, goal)
    for layer in order:
        check_std(layer, stds[layer], goal)
    # From `tree`: the leaves that are kept and the places of the others are its.
    new = with_leaves(tree, weights)
    advance()
    return new


def _given(network: Network, variables: Any, batch: Any) -> tuple[PyTree, Any]:
    """The tree and the batch, checked."""
    given = tuple(one for one in (variables, batch) if one is not None)
    tree, inputs = network.taken(given) if given else (None, ())
    if tree is not None:
        network.check("lsuv", tree)
    if len(inputs) != 1:
        raise TypeError(
            f"lsuv takes one batch of inputs (several inputs as a tuple), got {len(inputs)}; it "
            "comes after an NNX module, or after the variables of a Linen module."
        )
    for path, leaf in zip(*flatten(tree)[:2], strict=True):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(f"lsuv runs the model, but {show(path)!r} is abstract: give arrays.")
    return tree, inputs[0]


def _layers(network: Network, tree: PyTree, where: Where) -> dict[Path, list[Path]]:
    """The chosen weights of each module, by the module's path."""
    layers: dict[Path, list[Path]] = {}
    depth = len(network.above)
    for path in chosen_paths(tree, where):
        if path[:depth] != network.above:
            raise ValueError(
                f"{describe(where)} selects {show(path)!r}, which is no param. Begin the pattern "
                "with 'params/', such as 'params/**/kernel'."
            )
        layers.setdefault(path[depth:-1], []).append(path)
    for layer in layers:
        for outer in (layer[:length] for length in range(len(layer))):
            if outer in layers:
                raise ValueError(
                    f"{describe(where)} selects weights of {show(layer)!r} and of "
                    f"{show(outer) or 'the model itself'!r}, which holds it: both cannot be scaled "
                    "on their own. Leave one out."
                )
    return layers


def _order(
    apply: Apply, tree: PyTree, inputs: tuple, layers: Mapping[Path, Any], where: Where
) -> list[Path]:
    """The layers in the order in which they run; raises where one does not, or has no output."""
    found: dict[Path, None] = {}

    def record(layer: Layer, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        output = call(*args, **kwargs)
        if layer.path in layers:
            found[layer.path] = None
            if not hasattr(output, "dtype"):
                raise ValueError(
                    f"{describe(where)} selects weights of {show(layer.path)!r}, a "
                    f"{layer.kind.__name__} that returns {type(output).__name__}, "
                    "not an array with a variance. Leave it out."
                )
        return output

    tree, way = opened(tree)
    note = "while lsuv traced the model with the batch given"
    if any(isinstance(given, list) for given in inputs):
        note += ", in which a list is one input: give several as a tuple"

    def run(tree: PyTree, inputs: tuple) -> None:
        whole = way(tree)
        with watching(record, whole):
            apply(whole, inputs)

    with noted(note):
        jax.eval_shape(run, tree, inputs)
    unused = [show(layer) for layer in layers if layer not in found]
    if unused:
        raise ValueError(
            f"{describe(where)} selects weights of {listed(unused)}, which this call of the model "
            "does not run. Leave them out, or give the method or arguments that do."
        )
    return list(found)
