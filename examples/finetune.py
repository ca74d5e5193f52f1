"""Fine-tune a model of the digits 0-5 for all ten digits, on images of another size.

    python examples/finetune.py
    python examples/finetune.py --picture finetune.png --runs 8

The pretrained model saw six digits on images of 4 x 4 pixels; the new one shall tell ten apart on
8 x 8, with little data. By rules, everything that was learned moves: the hidden layers as they are,
the first layer's weights resized as the images are, the head grown from six classes to ten, and
Adam's moments with all of it. It is compared with training anew, and with a new head and optimizer.
Needs scikit-learn and matplotlib; takes less than half a minute.
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
from flax_inits import grow, resize, take

BATCH, BEFORE, STEPS = 32, 500, 60
TX = optax.adam(0.003)

WAYS = {
    "all anew": "#c1121f",
    "new head and optimizer": "#e09f3e",
    "grown, moments kept": "#1d6996",
}


class Classifier(nn.Module):
    """A multilayer perceptron whose first layer reads a grid of pixels."""

    classes: int

    @nn.compact
    def __call__(self, images):
        """Logits, for images of shape (batch, rows, columns)."""
        x = nn.DenseGeneral(128, axis=(-2, -1), name="pixels")(images)
        x = nn.relu(nn.Dense(128, name="body")(nn.relu(x)))
        return nn.Dense(self.classes, name="head")(x)


SMALL, LARGE = Classifier(6), Classifier(10)

# A weight for a pixel is shared out over the four that it becomes, so that sums stay what they are.
RULES = {
    "pixels/kernel": take(
        "pixels/kernel", lambda kernel: kernel / 4, resize(axes=(0, 1), method="nearest")
    ),
    "head/*": take("head/*", grow(axis=-1)),
    "**": "**",
}


def digits():
    """Small images of 0-5; few large ones of all, to train on; and the rest of these."""
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images.reshape(-1, 8, 8) / 16, jnp.float32)
    half = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    labels = jnp.asarray(labels)
    old = np.flatnonzero(np.asarray(labels[:900]) < 6)
    few, rest = slice(900, 1050), slice(1050, None)
    return (half[old], labels[old]), (images[few], labels[few]), (images[rest], labels[rest])


def loss(params, apply, images, labels):
    """The mean cross-entropy."""
    logits = apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def fresh(model, keys, images):
    """A training state at its start for each key, in one tree with a leading axis."""
    init = flax_inits.jit_init(model.init)
    params = [init(key, images[:1])["params"] for key in keys]

    def start(params):
        state = TrainState.create(apply_fn=model.apply, params=params, tx=TX)
        return state.replace(step=jnp.asarray(0))

    return jax.vmap(start)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))


@functools.partial(jax.jit, static_argnums=4)
@functools.partial(jax.vmap, in_axes=(0, 0, None, None, None))
def train(state, key, data, unseen, steps):
    """Takes steps for each key; returns the state and the share of right answers before each."""
    images, labels = data

    def step(state, key):
        right = state.apply_fn({"params": state.params}, unseen[0]).argmax(-1) == unseen[1]
        batch = jax.random.choice(key, len(images), (BATCH,))
        grads = jax.grad(loss)(state.params, state.apply_fn, images[batch], labels[batch])
        return state.apply_gradients(grads=grads), right.mean()

    return jax.lax.scan(step, state, jax.random.split(key, steps))


def moved(state, old, way):
    """The new model's state, with what is taken from the old one."""
    if way == "all anew":
        return state
    if way == "new head and optimizer":
        rules = {
            "pixels/kernel": RULES["pixels/kernel"],
            flax_inits.all_but("head"): "**",
        }
        params = flax_inits.graft(state.params, old.params, rules, drop="head")
        return state.replace(params=params)
    grafted = flax_inits.graft_optimizer(
        TX, state.opt_state, state.params, old.opt_state, old.params, RULES
    )
    return state.replace(
        params=flax_inits.graft(state.params, old.params, RULES), opt_state=grafted
    )


def picture(curves, file):
    """The share of right answers by step: the median run, and the range of the runs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.9), dpi=100, layout="constrained")
    for way, color in WAYS.items():
        runs = curves[way]
        axes.fill_between(range(STEPS), runs.min(0), runs.max(0), color=color, alpha=0.12, lw=0)
        axes.plot(np.median(runs, axis=0), color=color, linewidth=2.2, label=way)
    axes.set(xlabel="steps on ten digits of 8 x 8 pixels", ylabel="right on unseen images")
    axes.set(xlim=(0, STEPS - 1), ylim=(0, 0.9))
    axes.set_title("What was learned on six digits of 4 x 4 pixels moves along", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    pyplot.close(figure)


def main():
    """Trains in three ways, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="finetune.png", help="where to save the picture")
    parser.add_argument("--runs", type=int, default=8, help="runs from different seeds")
    options = parser.parse_args()

    console = Console()
    data, keys = digits(), jax.random.split(jax.random.key(0), (4, options.runs))
    small, large = (
        jax.eval_shape(lambda m=model, x=x: m.init(jax.random.key(0), x))["params"]
        for model, x in ((SMALL, data[0][0]), (LARGE, data[1][0]))
    )
    print(flax_inits.graft_plan(large, small, RULES))
    curves = {}
    with Progress(console=console) as progress:
        task = progress.add_task("Pretraining", total=1 + len(WAYS))
        small = data[0]
        few = tuple(part[:1] for part in small)  # its answers do not matter
        old, _ = train(fresh(SMALL, keys[0], small[0]), keys[1], small, few, BEFORE)
        state = fresh(LARGE, keys[2], data[1][0])
        for way in WAYS:
            progress.update(task, advance=1, description=f"Fine-tuning: {way}")
            start = jax.jit(jax.vmap(functools.partial(moved, way=way)))(state, old)
            curves[way] = np.asarray(train(start, keys[3], *data[1:], STEPS)[1])
        progress.update(task, advance=1, description="Fine-tuning")
    picture(curves, options.picture)

    table = Table(title=f"Right on unseen images, median of {options.runs} runs")
    for column in ("", "at the start", "after 20 steps", f"after {STEPS}"):
        table.add_column(column, justify="right" if column else "left")
    for way, runs in curves.items():
        table.add_row(way, *(f"{np.median(runs[:, i]):.0%}" for i in (0, 20, -1)))
    console.print(table)
    console.print(f"The picture is in {options.picture}")
    anew, _, grown = (np.median(curves[way][:, 0]) for way in WAYS)
    assert grown > anew + 0.2, "what was learned must be there from the first step"


if __name__ == "__main__":
    main()
