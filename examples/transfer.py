"""Pretrain on the digits 0-4, save, restore, reset the head, and fine-tune on 5-9.

    python examples/transfer.py
    python examples/transfer.py --picture transfer.png --runs 8 --steps 3000

After thousands of steps the gradients of the old task are tiny, and so are Adam's second moments. A
new head meets gradients of normal size and divides them by the old moments: its first steps are
several times too large, and the loss spikes. `reinit_state` resets the head and its moments
together. Adam's step count belongs to them: fresh moments under an old count lack their bias
correction, and spike as well. It needs scikit-learn (for the digits), orbax-checkpoint and
matplotlib, and takes less than a minute.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import flax_inits

BATCH = 64
FINE_TUNING = 100

# How the head starts again, with the color of its curve.
WAYS = {
    "head reset, Adam's state kept": "#c1121f",
    "moments reset, step count kept": "#e09f3e",
    "moments and step count reset": "#1d6996",
}


class Classifier(nn.Module):
    """A multilayer perceptron for five classes."""

    @nn.compact
    def __call__(self, x):
        """Logits, for flattened images."""
        x = nn.relu(nn.Dense(128, name="body_0")(x))
        x = nn.relu(nn.Dense(128, name="body_1")(x))
        return nn.Dense(5, name="head")(x)


MODEL = Classifier()

# The head has an Adam of its own, and so a step count of its own: the only way to reset both.
OPTIMIZER = optax.partition(
    {"body": optax.adam(0.002), "head": optax.adam(0.05)},
    {"body_0": "body", "body_1": "body", "head": "head"},
)


def digits(first):
    """Images and labels of five digits, of 8 x 8 pixels scaled to [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    chosen = (labels >= first) & (labels < first + 5)
    return jnp.asarray(images[chosen] / 16, jnp.float32), jnp.asarray(labels[chosen] - first)


def init(key):
    """Fresh params."""
    return MODEL.init(key, jnp.zeros((1, 64)))["params"]


def loss(params, images, labels):
    """The mean cross-entropy."""
    logits = MODEL.apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(state, key, data, steps):
    """Takes `steps` steps; returns the state and the loss on all data before each step."""
    images, labels = data

    def step(state, key):
        batch = jax.random.choice(key, len(images), (BATCH,))
        grads = jax.grad(loss)(state.params, images[batch], labels[batch])
        return state.apply_gradients(grads=grads), loss(state.params, images, labels)

    return jax.lax.scan(step, state, jax.random.split(key, steps))


def pretrain(key, steps):
    """A model that knows the digits 0-4, with the state of its optimizer."""
    state = TrainState.create(apply_fn=MODEL.apply, params=init(key), tx=OPTIMIZER)
    return train(state.replace(step=jnp.asarray(0)), key, digits(0), steps)[0]


def finetune(way, state, key):
    """The losses while learning the digits 5-9, after a new start of the head."""
    reset_key, key = jax.random.split(key)
    if way == "head reset, Adam's state kept":
        state = state.replace(
            params=flax_inits.reinit(reset_key, state.params, "head", init_fn=init)
        )
    else:
        counts = "keep" if "count kept" in way else "reset"
        state = flax_inits.reinit_state(reset_key, state, "head", init_fn=init, counts=counts)
    return train(state, key, digits(5), FINE_TUNING)[1]


def through_a_checkpoint(state):
    """Saves the state and restores it, as in another process."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "pretrained", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(Path(folder) / "pretrained", abstract)


def picture(curves, file):
    """The first steps: the median run, and the range of the runs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.9), dpi=100, layout="constrained")
    shown = 20
    for way, color in WAYS.items():
        runs = curves[way][:, :shown]
        axes.fill_between(range(shown), runs.min(0), runs.max(0), color=color, alpha=0.12, lw=0)
        axes.plot(np.median(runs, axis=0), color=color, linewidth=2.4, label=way)
    axes.axhline(np.log(5), color="gray", linestyle=":", linewidth=1)
    axes.text(shown - 1.2, np.log(5) + 0.07, "guessing", color="gray", ha="right", fontsize=9)
    axes.set(xlabel="steps on the new digits", ylabel="loss on the digits 5-9")
    axes.set(xlim=(0, shown - 1), ylim=(0, None), xticks=range(0, shown, 5))
    axes.set_title("A new head spikes under old moments, or under an old step count", fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    pyplot.close(figure)


def main():
    """Pretrains, goes through a checkpoint, and fine-tunes in three ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="transfer.png", help="where to save the picture")
    parser.add_argument("--runs", type=int, default=8, help="runs from different seeds")
    parser.add_argument("--steps", type=int, default=3000, help="steps of pretraining")
    options = parser.parse_args()

    console = Console()
    keys = jax.random.split(jax.random.key(0), options.runs)
    with console.status("Pretraining on the digits 0-4") as status:
        state = jax.jit(jax.vmap(functools.partial(pretrain, steps=options.steps)))(keys)
        state = through_a_checkpoint(state)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        curves = {}
        for way in WAYS:
            status.update(f"Fine-tuning on 5-9: {way}")
            curves[way] = np.asarray(
                jax.jit(jax.vmap(functools.partial(finetune, way)))(state, keys)
            )
    picture(curves, options.picture)

    table = Table(title=f"Loss on the digits 5-9, median of {options.runs} runs")
    for column in ("", "at the start", "highest", f"after {FINE_TUNING} steps"):
        table.add_column(column, justify="right" if column else "left")
    peaks = {}
    for way, runs in curves.items():
        peaks[way] = float(np.median(runs.max(axis=1)))
        start, end = (float(np.median(runs[:, i])) for i in (0, -1))
        table.add_row(way, f"{start:.2f}", f"{peaks[way]:.2f}", f"{end:.3f}")
    console.print(table)
    console.print(f"The picture is in {options.picture}")

    kept, shared, fresh = (peaks[way] for way in WAYS)
    if options.steps < 2000 or options.runs < 3:
        console.print("So few steps or runs show little: the old moments must have died down.")
    else:
        assert fresh < 2.2 < min(kept, shared), "only new moments and a new count avoid the spike"


if __name__ == "__main__":
    main()
