"""Turn a trained dense network into a mixture of experts that computes the same, and train on.

    python examples/upcycle.py
    python examples/upcycle.py --picture upcycle.png --runs 8

Every expert starts as a copy of the dense layer (`tile`), so whatever the new router says, the
mixture computes what the dense network did; Adam's moments are copied along. From there the experts
learn to differ, at the pace of the dense network. Random experts inside the trained network fall
far back. Needs scikit-learn (for the digits) and matplotlib; takes about a minute.
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from flax.training.train_state import TrainState
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import flax_inits
from flax_inits import take, tile

BATCH, BEFORE, STEPS = 64, 150, 150
TX = optax.adam(0.003)

WAYS = {"random experts": "#c1121f", "dense, trained on": "#e09f3e", "upcycled": "#1d6996"}

RULES = {
    "experts/**": take("mlp/**", tile(axis=0)),
    flax_inits.all_but("router"): "**",
}


class Mlp(nn.Module):
    """The layer that becomes several."""

    @nn.compact
    def __call__(self, x):
        """What is added to the input."""
        return nn.Dense(16, name="down")(nn.relu(nn.Dense(32, name="up")(x)))


class Mixture(nn.Module):
    """A classifier with one dense layer, or with several experts of which each image takes two."""

    experts: int = 0

    @nn.compact
    def __call__(self, images):
        """Logits, for flattened images."""
        x = nn.relu(nn.Dense(16, name="pixels")(images))
        if not self.experts:
            return nn.Dense(10, name="head")(x + Mlp(name="mlp")(x))
        layer = nn.vmap(
            Mlp,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=1,
            axis_size=self.experts,
        )
        best, chosen = jax.lax.top_k(nn.Dense(self.experts, name="router")(x), 2)
        answers = jnp.take_along_axis(layer(name="experts")(x), chosen[..., None], axis=1)
        mixed = (jax.nn.softmax(best)[..., None] * answers).sum(1)
        return nn.Dense(10, name="head")(x + mixed)


DENSE, SPARSE = Mixture(), Mixture(experts=4)


def digits():
    """Images of 8 x 8 pixels, scaled to [0, 1] and flattened, with their labels."""
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)


def loss(params, model, images, labels):
    """The mean cross-entropy."""
    logits = model.apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def fresh(model, key):
    """A training state at its start."""
    params = model.init(key, jnp.zeros((1, 64)))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=TX)
    return state.replace(step=jnp.asarray(0))


def train(state, model, key, data, steps):
    """Takes `steps` steps; returns the state and the loss on all data before each."""
    images, labels = data

    def step(state, key):
        before = loss(state.params, model, images, labels)
        batch = jax.random.choice(key, len(images), (BATCH,))
        grads = jax.grad(loss)(state.params, model, images[batch], labels[batch])
        return state.apply_gradients(grads=grads), before

    return jax.lax.scan(step, state, jax.random.split(key, steps))


def upcycled(state, dense):
    """The mixture's state with params and moments of the dense network."""
    moments = flax_inits.graft_optimizer(
        TX, state.opt_state, state.params, dense.opt_state, dense.params, RULES
    )
    return state.replace(
        params=flax_inits.graft(state.params, dense.params, RULES), opt_state=moments
    )


def run(key, data, way):
    """The loss before and after the change of architecture."""
    keys = jax.random.split(key, 4)
    dense, before = train(fresh(DENSE, keys[0]), DENSE, keys[1], data, BEFORE)
    model, state = SPARSE, fresh(SPARSE, keys[2])
    if way == "dense, trained on":
        model, state = DENSE, dense
    elif way == "upcycled":
        state = upcycled(state, dense)
    else:
        rest = flax_inits.all_but(["router", "experts"])
        state = state.replace(params=flax_inits.graft(state.params, dense.params, rest))
    return jnp.concatenate([before, train(state, model, keys[3], data, STEPS)[1]])


def picture(curves, file):
    """The loss by step: the median run, and the range of the runs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.9), dpi=100, layout="constrained")
    steps = range(BEFORE + STEPS)
    for way, color in WAYS.items():
        runs = curves[way]
        axes.fill_between(steps, runs.min(0), runs.max(0), color=color, alpha=0.12, lw=0)
        axes.plot(np.median(runs, axis=0), color=color, linewidth=2.2, label=way)
    axes.axvline(BEFORE, color="gray", linestyle=":", linewidth=1)
    axes.text(BEFORE + 3, 2.2, "becomes a mixture of four experts", color="gray", fontsize=9)
    axes.set(xlabel="step", ylabel="loss on the digits", yscale="log", xlim=(0, BEFORE + STEPS))
    axes.set_title("An upcycled mixture goes on where the dense network stood", fontsize=11)
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    pyplot.close(figure)


def main():
    """Trains in three ways, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="upcycle.png", help="where to save the picture")
    parser.add_argument("--runs", type=int, default=8, help="runs from different seeds")
    options = parser.parse_args()

    console = Console()
    data, keys = digits(), jax.random.split(jax.random.key(0), options.runs)
    curves = {}
    with console.status("Training") as status:
        for way in WAYS:
            status.update(f"Training: {way}")
            one = functools.partial(run, data=data, way=way)
            curves[way] = np.asarray(jax.jit(jax.vmap(one))(keys))
    picture(curves, options.picture)

    table = Table(title=f"Loss on the digits, median of {options.runs} runs")
    for column in ("", "before", "right after", f"after {STEPS} steps"):
        table.add_column(column, justify="right" if column else "left")
    for way, runs in curves.items():
        table.add_row(way, *(f"{np.median(runs[:, i]):.3f}" for i in (BEFORE - 1, BEFORE, -1)))
    console.print(table)
    console.print(f"The picture is in {options.picture}")
    starts = {way: runs[:, BEFORE] for way, runs in curves.items()}
    assert np.allclose(starts["upcycled"], starts["dense, trained on"], rtol=1e-4), "they are equal"
    assert (starts["random experts"] > starts["upcycled"]).all()


if __name__ == "__main__":
    main()
