"""LSUV: what may be asked for, and its checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from .._base import checks
from .._base.errors import listed, noted
from .._base.types import Key, Path, PyTree, Where
from .._modules.linen.advice import in_short, no_params
from .._modules.linen.tracing import all_but
from .._surgery.reinit import reinit
from .._tree.forms import describe
from .._tree.paths import flatten, show
from ..initializers.structured.orthogonal import orthogonal
from .leaves import among, chosen_paths, with_leaves
from .lsuv_scaling import Goal, check_std, path_of, scaled


def lsuv(
    key: Key,
    model: nn.Module,
    variables: PyTree,
    batch: Any,
    *,
    target_std: float = 1.0,
    tol: float = 0.1,
    max_iter: int = 10,
    where: Where = "params/**/kernel",
    rngs: Mapping[str, Key] | None = None,
    **kwargs: Any,
) -> PyTree:
    """Layer-sequential unit variance: orthogonal weights, scaled until each output's std fits.

    In the order in which the model runs its layers, each chosen W becomes orthogonal and then

        W *= target_std / std(output)   until   |var(output) / target_std² - 1| <= tol

    with the variance over the whole output. The model runs once: only the layer at hand is run
    again, once where its biases are zero. `nn.scan` over layers gives each its own scale; a layer
    that is called several times gets its scale at the first call.

    Args:
        key: one PRNG key, for the orthogonal start.
        model: a Linen module.
        variables: what `model.init` returns, `{"params": ..., ...}`, of arrays.
        batch: a batch of real inputs: what `model` takes, or a tuple of several such.
        target_std: the standard deviation that each output gets.
        tol: how far a variance may be off, as a share of the wanted one.
        max_iter: how often one layer's weights may be scaled.
        where: the weights (see `select`; paths start at the root of `variables`). The outputs of
            the modules that hold them are what is measured.
        rngs: what `model.apply` takes besides params, such as `{"dropout": key}`.
        **kwargs: further arguments of the model, such as `train=False`, or `method`.

    Returns:
        Variables of the same structure, containers, boxes, dtypes and shardings; what is not
        chosen are the same objects.

    Raises:
        ValueError: `where` selects nothing, or what is no weight of the model; a chosen layer does
            not run, holds other chosen layers, or puts out no single array; an output is constant,
            not finite, or still off after `max_iter` steps (none of these three is checked under
            `jit`); weights are shared by the steps of an `nn.scan`, as in `nn.RNN`, or by the
            slices of an `nn.vmap`, or normalized by `nn.WeightNorm`.
        TypeError: `model` is no Linen module.

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
    _check_model(model, variables)
    inputs = batch if isinstance(batch, tuple) else (batch,)
    layers = _layers(variables, where)
    others = {name: k for name, k in (rngs or {}).items() if name != "params"}

    def apply(variables: PyTree, inputs: tuple) -> PyTree:
        # As everything is mutable, batch statistics do not mind.
        mutable = all_but("intermediates")
        return model.apply(variables, *inputs, rngs=others, mutable=mutable, **kwargs)[1]

    order = _order(apply, variables, inputs, layers, where)
    chosen = {path for paths in layers.values() for path in paths}
    started = reinit(
        key,
        variables,
        {among(chosen, where): orthogonal()},
        init_fn=lambda key: model.init({**others, "params": key}, *inputs, **kwargs),
    )
    weights, stds = scaled(apply, started, inputs, layers, goal)
    for layer in order:
        check_std(layer, stds[layer], goal)
    # From `variables`: the leaves that are kept and the places of the others are theirs.
    return with_leaves(variables, weights)


def _check_model(model: Any, variables: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"lsuv needs a Linen module, an instance of nn.Module; got {in_short(model)}."
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise no_params("lsuv", variables)
    for path, leaf in zip(*flatten(variables)[:2], strict=True):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(f"lsuv runs the model, but {show(path)!r} is abstract: give arrays.")


def _layers(variables: PyTree, where: Where) -> dict[Path, list[Path]]:
    """The chosen weights of each module, by the module's path."""
    layers: dict[Path, list[Path]] = {}
    for path in chosen_paths(variables, where):
        if path[0] != "params":
            raise ValueError(
                f"{describe(where)} selects {show(path)!r}, which is no param. Begin the pattern "
                "with 'params/', such as 'params/**/kernel'."
            )
        layers.setdefault(path[1:-1], []).append(path)
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
    apply: Callable, variables: PyTree, inputs: tuple, layers: Mapping[Path, Any], where: Where
) -> list[Path]:
    """The layers in the order in which they run; raises where one does not, or has no output."""
    found: dict[Path, None] = {}

    def record(method: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output = method(*args, **kwargs)
        path = path_of(context)
        if path is not None and path in layers:
            found[path] = None
            if not hasattr(output, "dtype"):
                raise ValueError(
                    f"{describe(where)} selects weights of {show(path)!r}, a "
                    f"{type(context.module).__name__} that returns {type(output).__name__}, "
                    "not an array with a variance. Leave it out."
                )
        return output

    note = "while lsuv traced the model with the batch given"
    if any(isinstance(given, list) for given in inputs):
        note += ", in which a list is one input: give several as a tuple"
    with noted(note), nn.intercept_methods(record):
        jax.eval_shape(apply, variables, inputs)
    idle = [show(layer) for layer in layers if layer not in found]
    if idle:
        raise ValueError(
            f"{describe(where)} selects weights of {listed(idle)}, which this call of the model "
            "does not run. Leave them out, or give the method or arguments that do."
        )
    return list(found)
