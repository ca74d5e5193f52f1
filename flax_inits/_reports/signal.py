"""How signal and gradient pass through a network at initialization."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.core import Tracer

from .._base.errors import noted
from .._base.types import Array
from .._modules.arguments import of_arrays
from .._modules.calls import watching
from .._modules.network import Network, in_short, network_of
from .._modules.run import knows_nnx
from .._tree.leaves import check_alive
from .._tree.modules import opened
from .._tree.paths import flatten
from .losses import total
from .measures import measure
from .recorder import Point, Recorder
from .signal_rows import rows_of
from .signal_table import Signal
from .taps import Tapped


def signal(
    model: Any,
    *args: Any,
    loss: Callable[[Any], Array] | None = None,
    **kwargs: Any,
) -> Signal:
    """How activations and gradients pass through a network, layer by layer, and what is wrong.

    Of a module of Linen or NNX, what each module in it returns is recorded, in the order of
    execution, and as `→ name` what enters a module if plain functions such as `nn.relu` made it
    since. A module that returns what another made (a block whose last layer is a `Dense`, a
    dropout that is off) is shown as `name = other`, and is not judged twice. Modules in a scan
    have a row for each step. Any other function records what it names:

        def mlp(params, x, record):
            for name, kernel in params.items():
                x = record(name, jnp.tanh(x @ kernel))
            return x

        signal(mlp, params, x)

    Args:
        model: a Linen module; an NNX module, or a method of one (`model.encode`); or a function
            `(variables, *args, **kwargs)`, such as
            `lambda variables, x: model.apply(variables, x, train=False)` or
            `lambda model, x: model(x, train=False)`. If it has a parameter called `record`, that
            is given a function `(name, value) -> value`, whose result must be used in place of
            the value. Modules that it runs are recorded, too.
        *args: the network's inputs: a batch of real data, since units are judged over it. Before
            them, of a Linen module, what `model.init` returned; of a function, its first argument.
        loss: outputs -> one real number, whose gradients are taken. None is the inner product
            with a random direction of length 1, the same in every call: gradients at the output
            are then of size 1, whatever the outputs.
        **kwargs: passed on, such as `rngs=`, `method=` or `train=True`; arrays of floats among them
            are inputs, too. Statistics and the like may change and what becomes of them is dropped,
            so `mutable=` is not needed, and an NNX module is as it was.

    Returns:
        A `Signal`. It prints as a table; `.rows` are the records: mean, std, shares of zeros, of
        dead units and of saturated activations, the gradient's norm, a histogram; `.verdicts`
        lists the findings (their `kind` is "vanishing", "exploding", "dead", "symmetric",
        "saturated" or "nan", their `layer` where it begins), and is empty for a healthy network;
        `.plot()` is a matplotlib figure (with `flax_inits[plot]`). All is computed in one jitted
        pass. What is inside of `cond`, `while_loop` and functions with derivatives of their own
        is not recorded.

    Raises:
        TypeError: `model` is nothing of the above; `loss` returns no real number.
        ValueError: the variables are abstract, were deleted, or have no params; no array of floats
            passes through the network, or a function records nothing.

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010.

    >>> import flax_inits, flax.linen as nn, jax
    >>> init = flax_inits.normal(1e-5)
    >>> model = nn.Sequential([nn.Dense(64, kernel_init=init), nn.tanh, nn.Dense(10)])
    >>> x = jax.random.normal(jax.random.key(0), (32, 64))
    >>> report = flax_inits.signal(model, model.init(jax.random.key(1), x), x)
    >>> [row.layer for row in report.rows]
    ['input', 'layers_0', '→ layers_2', 'layers_2']
    >>> for verdict in report.verdicts:
    ...     print(verdict)
    vanishing activations from layers_0 on: size 8.2e-05 at layers_0, 8.2e-05 before the last layer
    vanishing gradients from input back: norm 1 at the end, 8.4e-05 at the input
    """
    recorder, network = Recorder(), network_of(model)
    if network is None:
        name = getattr(model, "__qualname__", None) or repr(model)
        fun, tree, inputs = _function(model, recorder), args[:1], args[1:]
    else:
        module, inputs = network.taken(args)
        fun, tree, name = network.outputs, (module,), network.name
    given, way = opened(((*tree, *inputs), kwargs))
    _check_concrete(jax.tree.leaves(given))
    for path, leaf in zip(*flatten(given[0][: len(tree)])[:2], strict=True):
        check_alive(path[1:], leaf, give="signal the variables")

    def recorded(args: tuple, kwargs: dict[str, Any]) -> Any:
        args, kwargs = way((args, kwargs))
        with watching(recorder.intercept, *args):
            inputs, kwargs = recorder.arguments(args[len(tree) :], kwargs)
            return recorder.result(fun(*args[: len(tree)], *inputs, **kwargs))

    traced, arrays = of_arrays(recorded, given, {})
    knew_nnx = knows_nnx()
    with _explained(network, name, tree, inputs):
        tapped = Tapped(traced, (arrays,), recorder.prefix)
    if knows_nnx() and not knew_nnx:  # the function has imported it, unwatched
        return signal(model, *args, loss=loss, **kwargs)
    sites = tapped.sites()
    points = [recorder.point(site.name) for site in sites]
    _check_recorded(name, points, network is None)
    measured = measure(tapped, arrays, total(tapped.shape, loss))
    return Signal(rows_of(sites, points, measured))


def _function(model: Any, recorder: Recorder) -> Callable[..., Any]:
    """A network that is no module as a function, which records what it names."""
    if isinstance(model, type) or not callable(model):
        hint = f"; make an instance, {model.__name__}(...)" if isinstance(model, type) else ""
        raise TypeError(f"signal needs a module or a function, got {in_short(model)}{hint}.")
    try:
        records = "record" in inspect.signature(model).parameters
    except ValueError:  # Some functions that are not Python's have no signature.
        records = False
    if not records:
        return model
    return lambda *args, **kwargs: model(*args, record=recorder.record, **kwargs)


def _check_recorded(name: str, points: Sequence[Point], is_function: bool) -> None:
    if not points:
        raise ValueError(
            f"signal saw no activation in {name}: no array of floats passes through it, or all are "
            "empty, as those of a batch without examples."
        )
    if is_function and all(point.role in ("argument", "result") for point in points):
        raise ValueError(
            f"{name} records nothing: it runs no module (or only in jax.jit, which hides what it "
            "has traced before; pass the function itself). Give it a parameter `record` and let it "
            "call `x = record('layer_0', x)` at each layer."
        )


def _check_concrete(leaves: Sequence[Any]) -> None:
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise TypeError("signal reports numbers and cannot be called under jit, grad or vmap.")
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise ValueError(
            "signal runs the network and needs arrays, but was given jax.ShapeDtypeStruct: make "
            "the variables first, for example by jit_init(model.init)(key, x)."
        )


@contextlib.contextmanager
def _explained(network: Network | None, name: str, tree: tuple, inputs: tuple) -> Iterator[None]:
    """Lets what goes wrong in the network say where, and what may have been given wrongly."""
    note = f"while signal traced {name} with the inputs given to it"
    if any(isinstance(given, list) for given in inputs):
        note += ", in which a list is one input: give several one by one"
    own = contextlib.nullcontext() if network is None else network.explained("signal", *tree)
    with noted(note), own:
        yield
