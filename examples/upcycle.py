"""Turn a trained dense network into a mixture of experts that computes the same, and train on.

    python examples/upcycle.py
    python examples/upcycle.py --picture upcycle.png --runs 8

Every expert starts as a copy of the dense layer (`tile`), so whatever the new router says, the
mixture computes what the dense network did; Adam's moments are copied along. From there the experts
learn to differ, at the pace of the dense network. Random experts inside the trained network fall
far back. Needs scikit-learn (for the digits) and matplotlib; takes less than half a minute.
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
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits

import flax_inits
from flax_inits import take, tile

BATCH, STEPS = 64, 150  # as many steps before the change as after it
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
    """Images of 8 x 8 pixels, scaled to [0, 1] and flattened, with labels: to train on, unseen."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    unseen = jnp.arange(len(labels)) % 6 == 0
    return (images[~unseen], labels[~unseen]), (images[unseen], labels[unseen])


def loss(params, apply, images, labels):
    """The mean cross-entropy."""
    logits = apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def fresh(model, keys):
    """A training state at its start for each key, in one tree with a leading axis."""
    init = flax_inits.jit_init(model.init)
    params = [init(key, jnp.zeros((1, 64)))["params"] for key in keys]

    def start(params):
        state = TrainState.create(apply_fn=model.apply, params=params, tx=TX)
        return state.replace(step=jnp.asarray(0))

    return jax.vmap(start)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def train(state, key, data):
    """Trains a state for each key; returns it, and the loss on unseen images before each step."""
    (images, labels), unseen = data

    def step(state, key):
        before = loss(state.params, state.apply_fn, *unseen)
        batch = jax.random.choice(key, len(images), (BATCH,))
        grads = jax.grad(loss)(state.params, state.apply_fn, images[batch], labels[batch])
        return state.apply_gradients(grads=grads), before

    return jax.lax.scan(step, state, jax.random.split(key, STEPS))


def upcycled(state, dense):
    """The mixture's state with params and moments of the dense network."""
    moments = flax_inits.graft_optimizer(
        TX, state.opt_state, state.params, dense.opt_state, dense.params, RULES
    )
    return state.replace(
        params=flax_inits.graft(state.params, dense.params, RULES), opt_state=moments
    )


def changed(state, dense, way):
    """The state to go on with: the dense one, or that of a mixture with what it takes from it."""
    if way == "dense, trained on":
        return dense
    if way == "upcycled":
        return upcycled(state, dense)
    rest = flax_inits.all_but(["router", "experts"])
    return state.replace(params=flax_inits.graft(state.params, dense.params, rest))


def picture(before, curves, file):
    """The loss by step: the median run, and the range of the runs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.9), dpi=100, layout="constrained")
    lines = [("dense", "#555555", 0, before)]
    lines += [(way, color, STEPS, curves[way]) for way, color in WAYS.items()]
    for way, color, start, runs in lines:
        steps = np.arange(start, start + runs.shape[1])
        axes.fill_between(steps, runs.min(0), runs.max(0), color=color, alpha=0.12, lw=0)
        axes.plot(steps, np.median(runs, axis=0), color=color, linewidth=2.2, label=way)
    axes.axvline(STEPS, color="gray", linestyle=":", linewidth=1)
    axes.text(STEPS - 3, 2.2, "becomes a mixture of four experts", color="gray", ha="right")
    axes.set(xlabel="step", ylabel="loss on unseen digits", yscale="log")
    axes.set(xlim=(0, 2 * STEPS), yticks=(0.2, 0.5, 1, 2), yticklabels=("0.2", "0.5", "1", "2"))
    axes.minorticks_off()
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
    data, keys = digits(), jax.random.split(jax.random.key(0), (4, options.runs))
    curves = {}
    with Progress(console=console) as progress:
        task = progress.add_task("Training: dense", total=1 + len(WAYS))
        dense, before = train(fresh(DENSE, keys[0]), keys[1], data)
        before, state = np.asarray(before), fresh(SPARSE, keys[2])
        for way in WAYS:
            progress.update(task, advance=1, description=f"Training: {way}")
            start = jax.jit(jax.vmap(functools.partial(changed, way=way)))(state, dense)
            curves[way] = np.asarray(train(start, keys[3], data)[1])
        progress.update(task, advance=1, description="Training")
    picture(before, curves, options.picture)

    table = Table(title=f"Loss on unseen digits, median of {options.runs} runs")
    for column in ("", "before", "right after", f"after {STEPS} steps"):
        table.add_column(column, justify="right" if column else "left")
    for way, runs in curves.items():
        losses = (before[:, -1], runs[:, 0], runs[:, -1])
        table.add_row(way, *(f"{np.median(column):.3f}" for column in losses))
    console.print(table)
    console.print(f"The picture is in {options.picture}")
    starts = {way: runs[:, 0] for way, runs in curves.items()}
    assert np.allclose(starts["upcycled"], starts["dense, trained on"], rtol=1e-4), "they are equal"
    assert (starts["random experts"] > starts["upcycled"]).all()


if __name__ == "__main__":
    main()
